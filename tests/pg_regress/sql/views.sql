-- status, refresh_log and materialized_view_refresh_log: their columns, and what stands in them.
CREATE EXTENSION cache_refresher;

SELECT a.attrelid::regclass AS view, a.attname AS "column", format_type(a.atttypid, a.atttypmod) AS type, col_description(a.attrelid, a.attnum) AS comment
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
 WHERE c.relnamespace = 'cache_refresher'::regnamespace AND c.relkind = 'v' AND a.attnum > 0
 ORDER BY c.relname COLLATE "C", a.attnum;
-- Functions in a query on them see no row that they should not.
SELECT relname, reloptions FROM pg_class WHERE relnamespace = 'cache_refresher'::regnamespace AND relkind = 'v' ORDER BY relname COLLATE "C";
-- They can be read only.
DELETE FROM cache_refresher.materialized_view_refresh_log;

CREATE SCHEMA app;
CREATE TABLE t (id int PRIMARY KEY);
INSERT INTO t VALUES (1), (2), (3);
CREATE MATERIALIZED VIEW v AS SELECT * FROM t;
CREATE UNIQUE INDEX ON v (id);
CREATE MATERIALIZED VIEW app.v AS SELECT * FROM t;
CREATE UNIQUE INDEX ON app.v (id);
CREATE MATERIALIZED VIEW app.other AS SELECT * FROM t WHERE id = 1;
CREATE UNIQUE INDEX ON app.other (id);
CREATE MATERIALIZED VIEW late AS SELECT * FROM t WITH NO DATA;
SELECT cache_refresher.register('v', refresh_interval => '1 hour');
SELECT cache_refresher.register('app.v', refresh_interval => '1 hour');
SELECT cache_refresher.register('late', schedule => '0 3 * * *');

\x on
-- A view that was never refreshed by us.
SELECT view, view_schema, view_name, state, method, refresh_interval, schedule, time_zone, interval_source,
       next_refresh_at > now() AS due_later, last_refreshed_at, data_as_of, age, staleness, stale_since, rows, last_duration_ms,
       last_error_sqlstate, last_error, consecutive_failures, refreshes, failures, cancellations
  FROM cache_refresher.status WHERE view = 'v'::regclass;
-- A view that was.
SELECT outcome FROM cache_refresher.refresh('v');
SELECT outcome FROM cache_refresher.refresh('v');
SELECT state, next_refresh_at > last_refreshed_at AS due_later, next_refresh_at <= last_refreshed_at + interval '1 hour' AS in_time,
       data_as_of <= last_refreshed_at AS shown_before_end, age > interval '0' AS aged, age < interval '1 hour' AS not_much, staleness, stale_since,
       rows, last_duration_ms > 0 AS timed, refreshes, failures, cancellations
  FROM cache_refresher.status WHERE view = 'v'::regclass;
SELECT l.view_schema, l.view_name, l.outcome, l.started_at <= l.data_as_of AS started_first, l.duration_ms > 0 AS timed, l.trigger, l.method, l.reason,
       l.rows_total, l.rows_inserted, l.rows_updated, l.rows_deleted, l.summary, l.attempt, l.role_name = current_user AS by_me, l.sqlstate, l.message
  FROM cache_refresher.refresh_log l ORDER BY id LIMIT 1;
\x off
-- Their times agree.
SELECT s.data_as_of = l.data_as_of AS same_content, s.last_refreshed_at = m.last_refreshed_at AS same_end,
       m.refresh_duration_ms = round(s.last_duration_ms)::int AS same_duration, l.duration_ms = s.last_duration_ms AS same_duration_in_log, m.total_rows = s.rows AS same_rows
  FROM cache_refresher.status s
  JOIN cache_refresher.materialized_view_refresh_log m ON m.view_name = s.view_name
 CROSS JOIN LATERAL (SELECT * FROM cache_refresher.refresh_log l WHERE l.view_name = s.view_name ORDER BY id DESC LIMIT 1) l
 WHERE s.view = 'v'::regclass;

-- One row per view that has content of ours; bare names as long as they are not ambiguous.
SELECT view_name, total_rows, summary FROM cache_refresher.materialized_view_refresh_log ORDER BY view_name COLLATE "C";
SELECT outcome FROM cache_refresher.refresh('app.v');
SELECT outcome FROM cache_refresher.refresh('app.other');
SELECT view_name, total_rows FROM cache_refresher.materialized_view_refresh_log ORDER BY view_name COLLATE "C";
ALTER MATERIALIZED VIEW app.other RENAME TO "Other";
SELECT view_name FROM cache_refresher.materialized_view_refresh_log ORDER BY view_name COLLATE "C";
DROP MATERIALIZED VIEW app.v;
SELECT view_name FROM cache_refresher.materialized_view_refresh_log ORDER BY view_name COLLATE "C";

-- States.
SELECT cache_refresher.pause('v');
SELECT view, view_schema, view_name, state, next_refresh_at IS NULL AS not_planned FROM cache_refresher.status ORDER BY view_schema, view_name;
SELECT cache_refresher.resume('v');
UPDATE _cache_refresher.attempts SET suspended = true, consecutive_failures = 18, error_sqlstate = '08006', error_message = 'could not connect' WHERE view = 'v'::regclass;
SELECT state, next_refresh_at, consecutive_failures, last_error_sqlstate, last_error FROM cache_refresher.status WHERE view = 'v'::regclass;
UPDATE _cache_refresher.attempts SET suspended = false, attempt = 1, consecutive_failures = 1, retry_at = clock_timestamp() WHERE view = 'v'::regclass;
SELECT s.state, s.next_refresh_at = a.retry_at AS at_retry FROM cache_refresher.status s JOIN _cache_refresher.attempts a ON a.view = s.view WHERE s.view = 'v'::regclass;
-- A row that somebody has spoilt does not spoil the others.
BEGIN;
ALTER TABLE _cache_refresher.registry DROP CONSTRAINT registry_method_known;
UPDATE _cache_refresher.registry SET method = 'guess' WHERE (view_schema, view_name) = ('public', 'v');
SELECT view, state, method, refresh_interval, interval_source, next_refresh_at IS NULL AS not_planned, refreshes > 0 AS refreshed
  FROM cache_refresher.status ORDER BY view_schema, view_name;
ROLLBACK;
BEGIN;
UPDATE _cache_refresher.registry SET refresh_interval = NULL, schedule = 'whenever' WHERE (view_schema, view_name) = ('public', 'v');
SELECT view, state, schedule, refresh_interval, interval_source, next_refresh_at IS NULL AS not_planned
  FROM cache_refresher.status ORDER BY view_schema, view_name;
ROLLBACK;
-- A success by hand ends all of that.
SELECT outcome FROM cache_refresher.refresh('v');
SELECT state, consecutive_failures, last_error_sqlstate, last_error FROM cache_refresher.status WHERE view = 'v'::regclass;
-- A view is running in the eyes of its own transaction only while its refresh runs.
BEGIN;
SELECT outcome FROM cache_refresher.refresh('v');
SELECT state FROM cache_refresher.status WHERE view = 'v'::regclass;
COMMIT;

-- A view made anew under a registered name: nothing is known of its content.
DROP MATERIALIZED VIEW v;
CREATE MATERIALIZED VIEW v AS SELECT * FROM t;
CREATE UNIQUE INDEX ON v (id);
SELECT outcome FROM cache_refresher.refresh('v');
SELECT view, state, refreshes, interval_source FROM cache_refresher.status WHERE view_name = 'v' AND view_schema = 'public';

-- A rename and a move are followed, grants come along.
CREATE ROLE regress_cr_app;
SELECT cache_refresher.grant_refresh('v', 'regress_cr_app');
ALTER MATERIALIZED VIEW v RENAME TO renamed;
ALTER MATERIALIZED VIEW renamed SET SCHEMA app;
SELECT cache_refresher.alter('app.renamed', timeout => '1 min');
SELECT view, view_schema, view_name, refresh_interval FROM cache_refresher.status WHERE view_name LIKE 'renamed';
TABLE _cache_refresher.refresh_grant;

DROP EXTENSION cache_refresher;
DROP MATERIALIZED VIEW app.renamed, app."Other", late;
DROP TABLE t;
DROP SCHEMA app;
DROP ROLE regress_cr_app;
