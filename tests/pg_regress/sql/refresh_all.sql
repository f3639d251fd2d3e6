-- refresh_all: parents before children, whatever the order of registration; one that fails does not
-- keep the others from being refreshed.
CREATE EXTENSION cache_refresher;
CREATE TABLE t (id int PRIMARY KEY, value int);
INSERT INTO t VALUES (1, 1);

-- A diamond: bottom reads left and right, which read top; left does so through two plain views, right
-- in a subquery.
CREATE MATERIALIZED VIEW top AS SELECT * FROM t;
CREATE VIEW glass AS SELECT id, value FROM top;
CREATE VIEW pane AS SELECT g.id, g.value FROM glass g;
CREATE MATERIALIZED VIEW "left" AS SELECT * FROM pane;
CREATE MATERIALIZED VIEW "right" AS SELECT id, (SELECT max(value) FROM top) AS value FROM t;
CREATE MATERIALIZED VIEW bottom AS SELECT l.id, l.value AS l, r.value AS r FROM "left" l JOIN "right" r USING (id);
CREATE MATERIALIZED VIEW alone AS SELECT id FROM t;
CREATE UNIQUE INDEX ON top (id);
CREATE UNIQUE INDEX ON "left" (id);
CREATE UNIQUE INDEX ON "right" (id);
CREATE UNIQUE INDEX ON bottom (id);
CREATE UNIQUE INDEX ON alone (id);

-- Nothing registered: nothing to do.
SELECT * FROM cache_refresher.refresh_all();

SELECT cache_refresher.register('bottom');
SELECT cache_refresher.register('"right"');
SELECT cache_refresher.register('"left"');
SELECT cache_refresher.register('alone');
SELECT cache_refresher.register('top');

CREATE FUNCTION position_of(name text, VARIADIC views text[]) RETURNS int LANGUAGE sql RETURN array_position(views, name);
UPDATE t SET value = 2;
-- Each comes once, after all that it reads.
SELECT count(*) AS views, count(DISTINCT view) AS distinct_views,
       position_of('top', VARIADIC o) < position_of('"left"', VARIADIC o) AS left_after_top,
       position_of('top', VARIADIC o) < position_of('"right"', VARIADIC o) AS right_after_top,
       position_of('"left"', VARIADIC o) < position_of('bottom', VARIADIC o) AS bottom_after_left,
       position_of('"right"', VARIADIC o) < position_of('bottom', VARIADIC o) AS bottom_after_right
  FROM (SELECT view, array_agg(view::text) OVER (ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS o
          FROM cache_refresher.refresh_all() WITH ORDINALITY AS r (view, outcome, method, reason, duration_ms, rows_total, i, u, d, data_as_of, n)) r
 GROUP BY o;
-- So one call is enough for the change to come through to the bottom.
TABLE bottom;
SELECT view_name, outcome, trigger, method FROM cache_refresher.refresh_log ORDER BY view_name;

-- A method and an age for all of them.
SELECT view, outcome, method, reason FROM cache_refresher.refresh_all(method => 'full') ORDER BY view::text;
SELECT view, outcome, method, reason FROM cache_refresher.refresh_all(max_age => '1 hour') ORDER BY view::text;
SELECT * FROM cache_refresher.refresh_all(method => 'magic');
SELECT * FROM cache_refresher.refresh_all(max_age => '-1 hour');

-- A view that fails is reported, with its remedy, and the others go on.
DROP INDEX left_id_idx;
SELECT cache_refresher.alter('"left"', method => 'concurrent');
UPDATE t SET value = 3;
SELECT view, outcome, method, reason, rows_total, data_as_of IS NULL AS no_time FROM cache_refresher.refresh_all() ORDER BY view::text;
TABLE bottom;
-- What failed left nothing behind in the transaction.
BEGIN;
SELECT view, outcome FROM cache_refresher.refresh_all() ORDER BY view::text;
SELECT outcome FROM cache_refresher.refresh('"left"', 'full');
SELECT outcome FROM cache_refresher.refresh('bottom');
COMMIT;
TABLE bottom;

-- Paused is a word to the scheduler, not to those who ask by hand; views that are gone are left out.
SELECT cache_refresher.pause('alone');
DROP MATERIALIZED VIEW bottom;
CREATE UNIQUE INDEX ON "left" (id);
SELECT view, outcome FROM cache_refresher.refresh_all() ORDER BY view::text;

-- Only those that the caller may refresh.
CREATE ROLE regress_cr_app;
SELECT cache_refresher.grant_refresh('top', 'regress_cr_app');
SET ROLE regress_cr_app;
SELECT view, outcome FROM cache_refresher.refresh_all();
RESET ROLE;

-- Not where a single refresh would be refused either: nothing is tried.
BEGIN READ ONLY;
SELECT * FROM cache_refresher.refresh_all();
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM cache_refresher.refresh_all();
ROLLBACK;

DROP FUNCTION position_of;
DROP EXTENSION cache_refresher;
DROP MATERIALIZED VIEW alone, "left", "right", top CASCADE;
DROP TABLE t;
DROP ROLE regress_cr_app;
