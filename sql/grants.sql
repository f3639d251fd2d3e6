-- Everybody may call and look; each function and view decides for itself what it does and shows.

GRANT SELECT ON cache_refresher.status, cache_refresher.registrations, cache_refresher.progress, cache_refresher.dependencies,
    cache_refresher.refresh_log, cache_refresher.materialized_view_refresh_log TO PUBLIC;

-- Configuration is dumped, also by an owner of the database who is no superuser.
GRANT USAGE ON SCHEMA _cache_refresher TO pg_database_owner;
GRANT SELECT ON _cache_refresher.registry, _cache_refresher.refresh_grant TO pg_database_owner;
-- So he can name what is in there: triggers of ours are made by us.
REVOKE EXECUTE ON FUNCTION _cache_refresher.capture_change(), _cache_refresher.content_replaced(),
    _cache_refresher.registry_changed(), _cache_refresher.ignore_replicated() FROM PUBLIC;
