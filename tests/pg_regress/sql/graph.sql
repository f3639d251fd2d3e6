-- Views that read views: what the catalog knows of them, and refreshing them with each other.
CREATE EXTENSION cache_refresher;
CREATE TABLE t (id int PRIMARY KEY, value int) PARTITION BY RANGE (id);
CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (100);
CREATE TABLE u (id int PRIMARY KEY);
INSERT INTO t VALUES (1, 1);
INSERT INTO u VALUES (1);
CREATE MATERIALIZED VIEW top AS SELECT * FROM t;
CREATE VIEW glass AS SELECT top.id, top.value FROM top JOIN u USING (id);
CREATE MATERIALIZED VIEW "Left" AS SELECT * FROM glass;
CREATE MATERIALIZED VIEW "right" AS SELECT id, value * 10 AS value FROM top;
CREATE MATERIALIZED VIEW bottom AS SELECT l.value AS l, r.value AS r FROM "Left" l JOIN "right" r USING (id);
SELECT cache_refresher.register('bottom');
SELECT cache_refresher.register('"Left"');
SELECT cache_refresher.register('top');

SELECT * FROM cache_refresher.dependencies ORDER BY view::text, reads::text;
CREATE ROLE regress_cr_app;
SET ROLE regress_cr_app;
SELECT * FROM cache_refresher.dependencies;
RESET ROLE;

-- Readers follow in order, if they are registered and the caller may refresh them.
UPDATE t SET value = 2;
SELECT view, outcome, rows_updated + rows_inserted AS written FROM cache_refresher.refresh('top', cascade => true);
TABLE bottom;
SELECT cache_refresher.register('"right"');
UPDATE t SET value = 3;
SELECT view, outcome, rows_updated + rows_inserted AS written FROM cache_refresher.refresh('top', cascade => true);
TABLE bottom;
SELECT view, outcome FROM cache_refresher.refresh('bottom', cascade => true);
SELECT cache_refresher.grant_refresh('top', 'regress_cr_app');
SELECT cache_refresher.grant_refresh('bottom', 'regress_cr_app');
SET ROLE regress_cr_app;
SELECT view, outcome FROM cache_refresher.refresh('top', cascade => true);
RESET ROLE;
-- One that fails is reported.
SELECT cache_refresher.alter('"Left"', method => 'concurrent');
SELECT view, outcome FROM cache_refresher.refresh('top', cascade => true);
SELECT cache_refresher.alter('"Left"', reset => '{method}');

-- All of one snapshot, whatever order they are given in.
UPDATE t SET value = 4;
SELECT view, outcome, method FROM cache_refresher.refresh_together('{bottom, right, "\"Left\"", top}');
TABLE bottom;
SELECT count(DISTINCT data_as_of) FROM cache_refresher.status;
SELECT view, method, reason FROM cache_refresher.refresh_together('{top}', method => 'full');
SELECT * FROM cache_refresher.refresh_together('{}');
-- All or none.
UPDATE t SET value = 5;
SELECT view FROM cache_refresher.refresh_together('{top, bottom}', method => 'concurrent');
TABLE top;
SELECT view FROM cache_refresher.refresh_together(NULL);
SELECT view FROM cache_refresher.refresh_together('{top, NULL}');
SELECT view FROM cache_refresher.refresh_together('{top, u}');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT view FROM cache_refresher.refresh_together('{top}');
ROLLBACK;
SET ROLE regress_cr_app;
SELECT view FROM cache_refresher.refresh_together('{top, right}');
RESET ROLE;

DROP EXTENSION cache_refresher;
DROP MATERIALIZED VIEW top CASCADE;
DROP TABLE t, u;
DROP ROLE regress_cr_app;
