-- summary_query: one row about the content, run read only as the view's owner, kept with the refresh.
CREATE EXTENSION cache_refresher;
CREATE SCHEMA app;
CREATE TABLE t (id int PRIMARY KEY, name text);
INSERT INTO t VALUES (1, 'one'), (2, NULL), (3, 'three');
CREATE TABLE trace (n int);
CREATE MATERIALIZED VIEW v AS SELECT * FROM t;
CREATE UNIQUE INDEX ON v (id);
CREATE FUNCTION writes() RETURNS int LANGUAGE sql AS 'INSERT INTO public.trace VALUES (1) RETURNING n';

-- It is kept with names qualified, as they were found when it was set.
SELECT cache_refresher.register('v', summary_query => 'SELECT count(*) AS total, count(name) AS named FROM v');
SELECT summary_query, summary_owner = current_user AS mine FROM _cache_refresher.registry;
-- Setting it ran it, but that was no refresh.
SELECT count(*) AS logged FROM cache_refresher.refresh_log;

SET search_path = app, public;
CREATE TABLE app.v (id int, name text);
SELECT outcome FROM cache_refresher.refresh('public.v');
SELECT summary FROM cache_refresher.refresh_log;
SELECT view_name, total_rows, summary FROM cache_refresher.materialized_view_refresh_log;
DROP TABLE app.v;
RESET search_path;

-- It sees the new content, in the same transaction.
BEGIN;
INSERT INTO t VALUES (4, 'four');
SELECT outcome FROM cache_refresher.refresh('v');
SELECT summary FROM cache_refresher.materialized_view_refresh_log;
ROLLBACK;
SELECT summary FROM cache_refresher.materialized_view_refresh_log;

-- Any one SELECT will do: other types, a CTE, VALUES, a comment at the end, a semicolon.
SELECT cache_refresher.alter('v', summary_query => $$WITH c AS (SELECT count(*) AS n FROM v) SELECT n, 1.50 AS dec, 'a"b' AS "Quoted name", ARRAY[1, NULL] AS list, NULL AS nothing, date '2025-01-02' AS day FROM c -- how it ended$$);
SELECT outcome FROM cache_refresher.refresh('v');
SELECT summary FROM cache_refresher.materialized_view_refresh_log;
SELECT cache_refresher.alter('v', summary_query => 'SELECT 1 AS one;');
SELECT outcome FROM cache_refresher.refresh('v');
SELECT summary FROM cache_refresher.materialized_view_refresh_log;

-- Refused when it is set; what was there stays.
SELECT cache_refresher.alter('v', summary_query => 'SELEC 1');
SELECT cache_refresher.alter('v', summary_query => '');
SELECT cache_refresher.alter('v', summary_query => 'SELECT * FROM nowhere');
SELECT cache_refresher.alter('v', summary_query => 'SELECT 1 / 0 AS x');
SELECT cache_refresher.alter('v', summary_query => 'SELECT id FROM v WHERE false');
SELECT cache_refresher.alter('v', summary_query => 'SELECT id FROM v');
SELECT cache_refresher.alter('v', summary_query => 'DELETE FROM t RETURNING id');
SELECT cache_refresher.alter('v', summary_query => 'WITH d AS (DELETE FROM t RETURNING id) SELECT count(*) FROM d');
SELECT cache_refresher.alter('v', summary_query => 'SELECT 1; SELECT 2');
SELECT cache_refresher.alter('v', summary_query => 'SELECT 1) AS x; DELETE FROM t; SELECT (1');
SELECT cache_refresher.alter('v', summary_query => 'SELECT writes() AS n');
SELECT cache_refresher.alter('v', summary_query => 'SELECT id INTO app.copied FROM v');
SELECT cache_refresher.alter('v', summary_query => 'SELECT max(id) FROM v FOR UPDATE');
SELECT cache_refresher.alter('v', summary_query => 'EXPLAIN SELECT 1');
SELECT cache_refresher.alter('v', summary_query => 'SELECT $1::int AS parameter');
SELECT summary_query FROM _cache_refresher.registry;
SELECT count(*) AS untouched FROM t;

-- One that fails at refresh time fails the refresh, and the view keeps its content.
CREATE TABLE divisor (n int);
INSERT INTO divisor VALUES (1);
SELECT cache_refresher.alter('v', summary_query => 'SELECT 10 / n AS quotient FROM divisor');
UPDATE divisor SET n = 0;
INSERT INTO t VALUES (5, 'five');
SELECT cache_refresher.refresh('v');
TRUNCATE divisor;
SELECT cache_refresher.refresh('v');
INSERT INTO divisor VALUES (1), (2);
SELECT cache_refresher.refresh('v');
SELECT count(*) AS still_three FROM v;
DROP TABLE divisor;
SELECT cache_refresher.refresh('v');
-- Without it the refresh goes through, and no summary is kept.
SELECT cache_refresher.alter('v', reset => '{summary_query}');
SELECT outcome, rows_total FROM cache_refresher.refresh('v');
SELECT total_rows, summary FROM cache_refresher.materialized_view_refresh_log;

-- A view that was never populated cannot be read yet: its summary is tried at the first refresh.
CREATE MATERIALIZED VIEW later AS SELECT * FROM t WITH NO DATA;
SELECT cache_refresher.register('later', summary_query => 'SELECT count(*) AS total FROM later');
SELECT outcome, method FROM cache_refresher.refresh('later');
SELECT summary FROM cache_refresher.materialized_view_refresh_log WHERE view_name = 'later';
-- But a mistake is found at once all the same.
SELECT cache_refresher.alter('later', summary_query => 'SELECT count(*) FROM later WHERE no_such_column');

-- As the view's owner, whoever refreshes.
CREATE ROLE regress_cr_owner;
CREATE ROLE regress_cr_app;
GRANT SELECT ON t TO regress_cr_owner;
ALTER MATERIALIZED VIEW later OWNER TO regress_cr_owner;
-- Set by the former owner: not run for the new one.
SELECT outcome FROM cache_refresher.refresh('later', 'full');
SELECT summary FROM cache_refresher.materialized_view_refresh_log WHERE view_name = 'later';
SELECT cache_refresher.grant_refresh('later', 'regress_cr_app');
SET ROLE regress_cr_owner;
SELECT cache_refresher.alter('later', summary_query => 'SELECT current_user AS who, count(*) AS total FROM public.later');
RESET ROLE;
SET ROLE regress_cr_app;
SELECT outcome FROM cache_refresher.refresh('later', 'full');
RESET ROLE;
SELECT summary FROM cache_refresher.materialized_view_refresh_log WHERE view_name = 'later';

-- What it says is read as it was written, whatever dates and texts look like to whoever refreshes.
CREATE MATERIALIZED VIEW day AS SELECT date '2024-02-01' AS d;
SET datestyle = 'SQL, DMY';
SELECT cache_refresher.register('day', summary_query => $$SELECT count(*) AS days, '\' AS a, ', ' AS b FROM day WHERE d = date '01/02/2024'$$);
SET standard_conforming_strings = off;
SELECT outcome FROM cache_refresher.refresh('day');
RESET standard_conforming_strings;
RESET datestyle;
SELECT summary FROM cache_refresher.materialized_view_refresh_log WHERE view_name = 'day';

DROP EXTENSION cache_refresher;
DROP MATERIALIZED VIEW v, later, day;
DROP TABLE t, trace;
DROP FUNCTION writes;
DROP SCHEMA app;
DROP ROLE regress_cr_owner, regress_cr_app;
