-- refresh_streams_cache() and refresh_videos_cache(): the names that existing callers use.
\set SHOW_CONTEXT never
CREATE EXTENSION cache_refresher;

-- No such view on the search_path.
SELECT refresh_streams_cache();
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM refresh_videos_cache();
\echo :LAST_ERROR_SQLSTATE

CREATE SCHEMA one;
CREATE SCHEMA two;
CREATE MATERIALIZED VIEW one.streams_with_users_cache AS SELECT 1 AS id;
CREATE UNIQUE INDEX ON one.streams_with_users_cache (id);
CREATE MATERIALIZED VIEW two.streams_with_users_cache AS SELECT id FROM generate_series(1, 2) id;
CREATE UNIQUE INDEX ON two.streams_with_users_cache (id);
CREATE MATERIALIZED VIEW two.videos_with_users_cache AS SELECT id FROM generate_series(1, 3) id WITH NO DATA;

-- Elsewhere does not count.
SELECT refresh_streams_cache();

-- The caller's search_path says which.
SET search_path = one, public;
SELECT view, outcome, method, rows_total FROM refresh_streams_cache();
SELECT view FROM refresh_videos_cache();
SET search_path = two, one, public;
SELECT view, outcome, method, rows_total FROM refresh_streams_cache();
SELECT view, outcome, method, rows_total FROM refresh_videos_cache();
SET search_path = one, two;
SELECT r.view, r.outcome, r.rows_total FROM public.refresh_streams_cache() r;
RESET search_path;

-- Registered or not, all the columns of refresh come back.
SELECT cache_refresher.register('two.streams_with_users_cache');
SET search_path = two, public;
SELECT pg_typeof(refresh_streams_cache()) = 'cache_refresher.refresh_result'::regtype AS as_refresh;
SELECT reason, duration_ms > 0 AS timed, rows_inserted, rows_updated, rows_deleted, data_as_of >= statement_timestamp() AS current FROM refresh_streams_cache();
SELECT trigger, outcome FROM cache_refresher.refresh_log WHERE view_schema = 'two' AND view_name LIKE 'streams%';
RESET search_path;

-- Something of that name that is no materialized view.
CREATE TABLE streams_with_users_cache (id int);
SELECT refresh_streams_cache();
\echo :LAST_ERROR_SQLSTATE
DROP TABLE streams_with_users_cache;

-- Whoever may not refresh the view may not do it by this name either.
CREATE ROLE regress_cr_app;
GRANT USAGE ON SCHEMA one, two TO regress_cr_app;
SELECT cache_refresher.grant_refresh('two.streams_with_users_cache', 'regress_cr_app');
SET ROLE regress_cr_app;
SET search_path = one, public;
SELECT refresh_streams_cache();
\echo :LAST_ERROR_SQLSTATE
SET search_path = two, public;
SELECT outcome, rows_total FROM refresh_streams_cache();
RESET search_path;
RESET ROLE;

-- Their intervals come from settings of their own.
SELECT cache_refresher.register('two.videos_with_users_cache', method => 'full');
SELECT view_name, refresh_interval, interval_source FROM cache_refresher.status ORDER BY view_name;

DROP EXTENSION cache_refresher;
DROP MATERIALIZED VIEW one.streams_with_users_cache, two.streams_with_users_cache, two.videos_with_users_cache;
DROP SCHEMA one, two;
DROP ROLE regress_cr_app;
