-- register, alter, unregister, pause, resume and grants: what they accept, what they refuse, and how
-- they say so.
CREATE EXTENSION cache_refresher;
CREATE ROLE regress_cr_owner;
CREATE ROLE regress_cr_app;
CREATE SCHEMA app;
CREATE TABLE t (id int PRIMARY KEY);
INSERT INTO t VALUES (1), (2);
CREATE VIEW plain AS SELECT * FROM t;
CREATE MATERIALIZED VIEW v AS SELECT * FROM t;
CREATE UNIQUE INDEX v_id ON v (id);
CREATE MATERIALIZED VIEW w AS SELECT * FROM t;
CREATE MATERIALIZED VIEW app.v AS SELECT * FROM t;
CREATE MATERIALIZED VIEW app.unpopulated AS SELECT * FROM t WITH NO DATA;
CREATE MATERIALIZED VIEW app."Odd ""view""" AS SELECT * FROM t;

-- What is registered, without times.
CREATE VIEW registered AS
SELECT s.view, s.state, s.method, s.refresh_interval AS "interval", s.schedule, s.time_zone, s.interval_source AS source, r.timeout, r.summary_query AS summary
  FROM cache_refresher.status s JOIN _cache_refresher.registry r USING (view_schema, view_name)
 ORDER BY s.view_schema, s.view_name;

--
-- register
--

-- Everything is inherited unless it is given.
SELECT cache_refresher.register('v');
SELECT cache_refresher.register(view => 'w', refresh_interval => '90 seconds', method => 'full', timeout => '10 minutes', on_change => false, summary_query => 'SELECT count(*) AS rows FROM w');
SELECT cache_refresher.register('app.v', schedule => '*/15 8-18 * * mon-fri', time_zone => 'Europe/Berlin', method => 'concurrent');
SELECT cache_refresher.register('app.unpopulated', schedule => '30 0 3 * * *');
SELECT cache_refresher.register('app."Odd ""view"""', method => 'auto', refresh_interval => '1 day 12:00:00.5');
TABLE registered;
SELECT bool_and(registered_at <= clock_timestamp() AND next_refresh_at >= registered_at) AS has_times FROM cache_refresher.status;

-- Limits of an interval, both included; a month has 30 days.
BEGIN;
SELECT cache_refresher.alter('v', refresh_interval => '100 ms');
SELECT cache_refresher.alter('w', refresh_interval => '10 years');
SELECT view, justify_hours("interval") AS "interval" FROM registered WHERE view IN ('v'::regclass, 'w'::regclass);
ROLLBACK;

-- A registration that is rolled back is none.
BEGIN;
SELECT cache_refresher.unregister('v');
SELECT cache_refresher.register('v', refresh_interval => '1 hour');
ROLLBACK;
SELECT view, "interval", source FROM registered WHERE view = 'v'::regclass;
SELECT cache_refresher.unregister('w');

-- Refused, with the remedy.
SELECT cache_refresher.register('v');
SELECT cache_refresher.register(NULL);
SELECT cache_refresher.register('t');
SELECT cache_refresher.register('plain');
SELECT cache_refresher.register('v_id');
SELECT cache_refresher.register('nowhere');
SELECT cache_refresher.register(1::oid);
SELECT cache_refresher.register('w', refresh_interval => '0');
SELECT cache_refresher.register('w', refresh_interval => '99 ms');
SELECT cache_refresher.register('w', refresh_interval => '-5 minutes');
SELECT cache_refresher.register('w', refresh_interval => '10 years 100 days');
SELECT cache_refresher.register('w', timeout => '-1 second');
SELECT cache_refresher.register('w', schedule => 'every day');
SELECT cache_refresher.register('w', schedule => '61 * * * *');
SELECT cache_refresher.register('w', schedule => '0 0 30 2 *');
SELECT cache_refresher.register('w', schedule => '');
SELECT cache_refresher.register('w', schedule => '0 3 * * *', time_zone => 'Mars/Olympus');
SELECT cache_refresher.register('w', time_zone => 'Europe/Berlin');
SELECT cache_refresher.register('w', refresh_interval => '1 hour', schedule => '0 3 * * *');
SELECT cache_refresher.register('w', method => 'magic');
SELECT cache_refresher.register('w', method => 'FULL');
SELECT cache_refresher.register('w', method => 'skip');
SELECT cache_refresher.register('w', method => '');
-- Limits that make no sense.
SELECT cache_refresher.register('w', max_interval => '1 hour');
SELECT cache_refresher.register('w', min_interval => '1 hour', max_interval => '1 minute');
SELECT cache_refresher.register('w', min_interval => '10 ms', max_interval => '1 minute');
SELECT cache_refresher.register('w', min_interval => '1 minute', max_interval => '1 hour', schedule => '0 3 * * *');
-- How to react to changes, without reacting.
SELECT cache_refresher.register('w', debounce => '1 second');
SELECT cache_refresher.register('w', max_staleness => '1 minute');
SELECT cache_refresher.register('w', on_change => false, method => 'delta');
SELECT cache_refresher.register('w', on_change => true, debounce => '-1 second');
SELECT cache_refresher.register('w', on_change => true, debounce => '2 minutes', max_staleness => '1 minute');
SET ROLE regress_cr_app;
SELECT cache_refresher.register('public.w');
RESET ROLE;
SELECT count(*) AS registered_all_the_same FROM registered WHERE view = 'w'::regclass;

--
-- alter
--

-- NULL leaves a value as it is.
SELECT cache_refresher.alter('v');
SELECT cache_refresher.alter('v', refresh_interval => '1 hour', timeout => '30 s');
SELECT cache_refresher.alter('v', method => 'full', refresh_interval => NULL);
SELECT cache_refresher.alter('v', summary_query => 'SELECT max(id) AS last FROM v');
SELECT * FROM registered WHERE view = 'v'::regclass;
-- From an interval to a schedule and back takes a reset.
SELECT cache_refresher.alter('v', schedule => '0 3 * * *');
SELECT cache_refresher.alter('v', schedule => '0 3 * * *', reset => '{refresh_interval}');
SELECT cache_refresher.alter('v', time_zone => 'Asia/Tokyo');
SELECT * FROM registered WHERE view = 'v'::regclass;
SELECT cache_refresher.alter('v', schedule => '0 4 * * *', reset => '{time_zone}');
SELECT view, schedule, time_zone FROM registered WHERE view = 'v'::regclass;
SELECT cache_refresher.alter('v', refresh_interval => '2 hours');
SELECT cache_refresher.alter('v', time_zone => 'Asia/Tokyo');
-- A time zone without its schedule means nothing: it goes with it.
SELECT cache_refresher.alter('v', refresh_interval => '2 hours', reset => ARRAY['schedule']);
SELECT * FROM registered WHERE view = 'v'::regclass;
-- All of it back to inherited; an empty list and a value that is not set are no errors.
SELECT cache_refresher.alter('v', reset => '{refresh_interval,schedule,time_zone,method,timeout,summary_query}');
SELECT cache_refresher.alter('v', reset => '{}');
SELECT cache_refresher.alter('v', reset => '{method}');
SELECT * FROM registered WHERE view = 'v'::regclass;

-- Refused, and nothing is changed.
SELECT cache_refresher.alter(NULL);
SELECT cache_refresher.alter('w', method => 'full');
SELECT cache_refresher.alter('t', method => 'full');
SELECT cache_refresher.alter('v', method => 'full', reset => '{colour}');
SELECT cache_refresher.alter('v', method => 'full', reset => '{method}');
SELECT cache_refresher.alter('v', method => 'full', reset => '{NULL}');
SELECT cache_refresher.alter('v', method => 'full', refresh_interval => '0');
SELECT cache_refresher.alter('v', method => 'full', schedule => 'never');
SELECT cache_refresher.alter('v', method => 'full', time_zone => 'UTC');
SELECT cache_refresher.alter('v', method => 'full', debounce => '1 s');
SELECT cache_refresher.alter('v', method => 'full', timeout => '-1 s');
SELECT cache_refresher.alter('v', method => 'full', summary_query => 'SELECT nothing');
SELECT * FROM registered WHERE view = 'v'::regclass;

--
-- pause and resume
--
SELECT cache_refresher.pause('v');
SELECT cache_refresher.pause('v');
SELECT view, state, next_refresh_at FROM cache_refresher.status WHERE view = 'v'::regclass;
-- By hand it can be refreshed all the same.
SELECT outcome FROM cache_refresher.refresh('v');
SELECT state FROM cache_refresher.status WHERE view = 'v'::regclass;
SELECT cache_refresher.resume('v');
SELECT cache_refresher.resume('v');
SELECT view, state, next_refresh_at IS NOT NULL AS planned FROM cache_refresher.status WHERE view = 'v'::regclass;
SELECT cache_refresher.pause('w');
SELECT cache_refresher.resume('w');
SELECT cache_refresher.pause(NULL);
SELECT cache_refresher.resume('t');

--
-- grants
--
SELECT cache_refresher.grant_refresh('v', 'regress_cr_app');
SELECT cache_refresher.grant_refresh('v', 'regress_cr_app');
SELECT cache_refresher.grant_refresh(role => 'regress_cr_owner', view => 'v');
TABLE _cache_refresher.refresh_grant;
SELECT cache_refresher.revoke_refresh('v', 'regress_cr_owner');
SELECT cache_refresher.revoke_refresh('v', 'regress_cr_owner');
SELECT cache_refresher.grant_refresh('w', 'regress_cr_app');
SELECT cache_refresher.grant_refresh('v', NULL);
SELECT cache_refresher.grant_refresh(NULL, 'regress_cr_app');
SELECT cache_refresher.revoke_refresh('v', NULL);
SELECT cache_refresher.grant_refresh('v', 'regress_cr_nobody');
-- A grant allows refresh and cancel, no more.
SET ROLE regress_cr_app;
SELECT view, outcome, rows_total FROM cache_refresher.refresh('v');
SELECT cache_refresher.cancel('v');
SELECT cache_refresher.alter('v', method => 'full');
SELECT cache_refresher.unregister('v');
SELECT cache_refresher.pause('v');
SELECT cache_refresher.resume('v');
SELECT cache_refresher.grant_refresh('v', 'regress_cr_owner');
SELECT cache_refresher.refresh('w');
SELECT cache_refresher.cancel('w');
RESET ROLE;

--
-- unregister, by name
--
SELECT cache_refresher.unregister('app.v');
SELECT cache_refresher.unregister('app."Odd ""view"""');
SELECT cache_refresher.unregister('V');
SELECT cache_refresher.unregister('app.v');
SELECT cache_refresher.unregister('v');
SELECT cache_refresher.unregister('t');
SELECT cache_refresher.unregister('nowhere');
SELECT cache_refresher.unregister('app.nowhere');
SELECT cache_refresher.unregister(NULL);
-- Grants and bindings end with the registration; what is known of the content does not.
TABLE _cache_refresher.refresh_grant;
SELECT view::regclass FROM _cache_refresher.binding ORDER BY 1::text;
SELECT cache_refresher.age('v') > interval '0' AS still_known;
-- A view that is gone: by its full name, and by its bare one where that says which.
DROP MATERIALIZED VIEW app.unpopulated;
SELECT view, view_schema, view_name, state FROM cache_refresher.status;
SELECT cache_refresher.unregister('app.unpopulated');
CREATE MATERIALIZED VIEW gone AS SELECT 1 AS id;
CREATE MATERIALIZED VIEW app.gone AS SELECT 1 AS id;
SELECT cache_refresher.register('gone'), cache_refresher.register('app.gone');
DROP MATERIALIZED VIEW gone, app.gone;
SELECT cache_refresher.unregister('gone');
SELECT cache_refresher.unregister('app.gone');
SELECT cache_refresher.unregister('gone');
-- Something else may have its name by then.
CREATE MATERIALIZED VIEW gone AS SELECT 1 AS id;
SELECT cache_refresher.register('gone');
DROP MATERIALIZED VIEW gone;
CREATE TABLE gone (id int);
SELECT cache_refresher.unregister('gone');
SELECT cache_refresher.unregister('gone');
DROP TABLE gone;
-- Not one of another schema, though.
CREATE MATERIALIZED VIEW app.gone AS SELECT 1 AS id;
SELECT cache_refresher.register('app.gone');
DROP MATERIALIZED VIEW app.gone;
CREATE TABLE gone (id int);
SELECT cache_refresher.unregister('gone');
DROP TABLE gone;
SELECT cache_refresher.unregister('gone');
SELECT count(*) AS registrations FROM _cache_refresher.registry;

DROP VIEW registered;
DROP EXTENSION cache_refresher;
DROP MATERIALIZED VIEW v, w, app.v, app."Odd ""view""";
DROP VIEW plain;
DROP TABLE t;
DROP SCHEMA app;
DROP ROLE regress_cr_owner, regress_cr_app;
