-- Everybody may call and look; each function and view decides for itself what it does and shows.

GRANT SELECT ON cache_refresher.status, cache_refresher.progress, cache_refresher.dependencies,
    cache_refresher.refresh_log, cache_refresher.materialized_view_refresh_log TO PUBLIC;
