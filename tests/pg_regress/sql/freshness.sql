-- freshness, age, stale_since, is_stale, assert_fresh.
CREATE EXTENSION cache_refresher;
CREATE SCHEMA app;
CREATE MATERIALIZED VIEW v AS SELECT 1 AS id;
CREATE UNIQUE INDEX ON v (id);
CREATE MATERIALIZED VIEW app."Odd view" AS SELECT 1 AS id;
CREATE TABLE t (id int);

-- Runs a statement and tells how it fails, with ages left out.
CREATE FUNCTION failure(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n', SQLSTATE || ': ' || SQLERRM, nullif(regexp_replace(detail, 'is [0-9a-z]+ old', 'is … old'), ''), nullif(hint, ''));
END $$;

-- Never refreshed by us: nothing is claimed.
SELECT jsonb_pretty(cache_refresher.freshness('v'));
SELECT cache_refresher.freshness('app."Odd view"') ->> 'view' AS view;
SELECT cache_refresher.age('v'), cache_refresher.stale_since('v'), cache_refresher.is_stale('v') AS is_stale, cache_refresher.is_stale('v', max_age => '1 year') AS older_than_a_year;
SELECT cache_refresher.assert_fresh('v');
SELECT cache_refresher.assert_fresh('v', max_age => '1 hour');

-- Refreshed.
SELECT outcome FROM cache_refresher.refresh('v');
SELECT key, jsonb_typeof(value) AS type FROM jsonb_each(cache_refresher.freshness('v')) ORDER BY key;
SELECT f ->> 'view' AS view, f ->> 'data_source' AS data_source, f ->> 'staleness' AS staleness,
       f ->> 'cache_refreshed_at' ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$' AS refreshed_at_form,
       f ->> 'data_as_of' ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$' AS data_as_of_form,
       f ->> 'cache_refresh_duration_ms' ~ '^\d+$' AS whole_milliseconds,
       (f ->> 'age_seconds')::float8 BETWEEN 0 AND 600 AS age_in_seconds
  FROM cache_refresher.freshness('v') f;
-- Whatever the session's time zone, times are in UTC and agree with status.
CREATE MATERIALIZED VIEW moment AS SELECT 1 AS id;
CREATE UNIQUE INDEX ON moment (id);
SELECT cache_refresher.register('moment');
SELECT outcome FROM cache_refresher.refresh('moment');
SET TimeZone = 'Asia/Tokyo';
SELECT (cache_refresher.freshness('moment') ->> 'data_as_of')::timestamptz = date_trunc('milliseconds', data_as_of) AS data_as_of,
       (cache_refresher.freshness('moment') ->> 'cache_refreshed_at')::timestamptz = date_trunc('milliseconds', last_refreshed_at) AS refreshed_at
  FROM cache_refresher.status WHERE view = 'moment'::regclass;
RESET TimeZone;
SELECT cache_refresher.age('v') BETWEEN interval '0' AND interval '10 minutes' AS age, cache_refresher.stale_since('v') AS stale_since, pg_typeof(cache_refresher.stale_since('v')) AS type;
SELECT cache_refresher.is_stale('v') AS without_age, cache_refresher.is_stale('v', '1 hour') AS of_an_hour, cache_refresher.is_stale('v', '0') AS of_now;
SELECT cache_refresher.assert_fresh('v', '1 hour');
SELECT failure($$SELECT cache_refresher.assert_fresh('v', '0')$$);
SELECT failure($$SELECT cache_refresher.assert_fresh('v', max_age => '1 microsecond')$$);
SELECT failure($$SELECT cache_refresher.assert_fresh('v')$$);
-- Age is now less data_as_of: here known beforehand.
UPDATE _cache_refresher.content SET data_as_of = clock_timestamp() - interval '2 days 30 minutes' WHERE view = 'v'::regclass;
SELECT date_trunc('minute', justify_hours(cache_refresher.age('v'))) AS age, round((cache_refresher.freshness('v') ->> 'age_seconds')::numeric / 60) AS minutes,
       cache_refresher.is_stale('v', '2 days') AS of_two_days, cache_refresher.is_stale('v', '3 days') AS of_three_days;
-- A refresh that the transaction has not committed counts for itself.
BEGIN;
SELECT outcome FROM cache_refresher.refresh('v');
SELECT cache_refresher.is_stale('v', '1 hour') AS of_an_hour;
ROLLBACK;
SELECT cache_refresher.is_stale('v', '1 hour') AS of_an_hour;
-- What was emptied behind our back has no age.
REFRESH MATERIALIZED VIEW v WITH NO DATA;
SELECT cache_refresher.freshness('v') -> 'data_as_of' AS data_as_of, cache_refresher.age('v') AS age, cache_refresher.is_stale('v', '1 year') AS older_than_a_year;
-- They only read: a read-only transaction will do.
BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
SELECT cache_refresher.freshness('moment') ->> 'data_source' AS data_source, cache_refresher.is_stale('moment', '1 hour') AS is_stale;
COMMIT;

-- Refused.
SELECT cache_refresher.freshness(NULL);
SELECT cache_refresher.age('t');
SELECT cache_refresher.stale_since('t');
SELECT cache_refresher.is_stale('v', '-1 second');
SELECT cache_refresher.assert_fresh(NULL, '1 hour');
SELECT cache_refresher.assert_fresh('t');
CREATE ROLE regress_cr_app;
SET ROLE regress_cr_app;
SELECT cache_refresher.freshness('v');
SELECT cache_refresher.age('v');
SELECT cache_refresher.stale_since('v');
SELECT cache_refresher.is_stale('v', '1 hour');
SELECT cache_refresher.assert_fresh('v', '1 hour');
RESET ROLE;

DROP FUNCTION failure;
DROP EXTENSION cache_refresher;
DROP MATERIALIZED VIEW v, moment, app."Odd view";
DROP TABLE t;
DROP SCHEMA app;
DROP ROLE regress_cr_app;
