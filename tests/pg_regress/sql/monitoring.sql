-- health, healthy, metrics and metrics_text.
CREATE EXTENSION cache_refresher;
CREATE MATERIALIZED VIEW v AS SELECT id FROM generate_series(1, 4) id;
CREATE UNIQUE INDEX ON v (id);
CREATE SCHEMA "odd ""schema""";
CREATE MATERIALIZED VIEW "odd ""schema"""."back\slash" AS SELECT 1 AS id;

-- The server's part; scheduling is switched off for these tests.
SELECT "check", status, regexp_replace(detail, '\d+', 'N', 'g') AS detail, hint
  FROM cache_refresher.health() WHERE "check" IN ('preload', 'launcher', 'scheduling', 'worker slots', 'workers');
SELECT status, count(*) > 0 AS some FROM cache_refresher.health() GROUP BY status ORDER BY status;
-- A warning does not make it ill.
SELECT cache_refresher.healthy();

-- Without views there is one figure.
SELECT name, kind, labels, value FROM cache_refresher.metrics();

SELECT cache_refresher.register('v');
SELECT cache_refresher.register('"odd ""schema"""."back\slash"');
SELECT outcome, rows_total FROM cache_refresher.refresh('v');
SELECT outcome FROM cache_refresher.refresh('v');

-- Figures of a view that was refreshed, and of one that was not.
SELECT name, kind, labels ->> 'view' AS view, CASE WHEN name ~ 'timestamp|duration|age' THEN value > 0 END AS positive,
       CASE WHEN name !~ 'timestamp|duration|age' THEN value END AS value
  FROM cache_refresher.metrics();
SELECT DISTINCT name, help FROM cache_refresher.metrics() ORDER BY name;
SELECT abs(value - extract(epoch FROM clock_timestamp())) < 600 AS unix_time FROM cache_refresher.metrics() WHERE name = 'cache_refresher_last_refresh_timestamp_seconds';

-- The same as text: numbers that vary are left out.
SELECT regexp_replace(cache_refresher.metrics_text(), '((?:age_seconds|duration_seconds|timestamp_seconds)\{[^}]*\}) [0-9.e+-]+', '\1 …', 'g');
SELECT cache_refresher.metrics_text() ~ E'\n$' AS ends_with_newline;
-- One line for each figure.
SELECT count(*) = (SELECT count(*) FROM cache_refresher.metrics()) AS complete
  FROM regexp_split_to_table(cache_refresher.metrics_text(), '\n') AS line WHERE line !~ '^#' AND line <> '';

-- Views that need somebody.
UPDATE _cache_refresher.attempts SET suspended = true, consecutive_failures = 18, error_sqlstate = '08006', error_message = 'could not connect' WHERE view = 'v'::regclass;
DROP MATERIALIZED VIEW "odd ""schema"""."back\slash";
SELECT * FROM cache_refresher.health() WHERE "check" LIKE 'view %' ORDER BY "check" COLLATE "C";
SELECT name, labels ->> 'view' AS view, value FROM cache_refresher.metrics() WHERE name ~ '_(suspended|missing|paused|consecutive_failures)$';
UPDATE _cache_refresher.attempts SET suspended = false, consecutive_failures = 2 WHERE view = 'v'::regclass;
SELECT * FROM cache_refresher.health() WHERE "check" = 'view public.v';
SELECT cache_refresher.pause('v');
SELECT hint FROM cache_refresher.health() WHERE "check" = 'view public.v';
SELECT name, labels ->> 'view' AS view, value FROM cache_refresher.metrics() WHERE name ~ '_(suspended|missing|paused)$';
UPDATE _cache_refresher.registry SET paused = false WHERE view_name = 'v';
-- They are somebody's own trouble, not the server's.
SELECT cache_refresher.healthy();

-- Who may not see a view learns nothing of it.
CREATE ROLE regress_cr_app;
SET ROLE regress_cr_app;
SELECT count(*) AS view_checks FROM cache_refresher.health() WHERE "check" LIKE 'view %';
SELECT name, value FROM cache_refresher.metrics();
SELECT cache_refresher.healthy();
RESET ROLE;

DROP EXTENSION cache_refresher;
DROP MATERIALIZED VIEW v;
DROP SCHEMA "odd ""schema""";
DROP ROLE regress_cr_app;
