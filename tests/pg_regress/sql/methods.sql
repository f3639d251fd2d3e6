-- Which method is taken, why, and what each leaves behind.
CREATE EXTENSION cache_refresher;
CREATE TABLE t (id int PRIMARY KEY, value int);
INSERT INTO t SELECT id, 0 FROM generate_series(1, 10) id;
CREATE MATERIALIZED VIEW v AS SELECT id, value FROM t;
CREATE UNIQUE INDEX ON v (id);
CREATE MATERIALIZED VIEW bare AS SELECT value FROM t;
CREATE MATERIALIZED VIEW empty AS SELECT id FROM t WITH NO DATA;
CREATE ACCESS METHOD regress_heap TYPE TABLE HANDLER heap_tableam_handler;
CREATE MATERIALIZED VIEW other USING regress_heap AS SELECT id FROM t;

-- What can be done with each, and what auto takes.
SELECT * FROM cache_refresher.explain('v');
SELECT * FROM cache_refresher.explain('bare');
SELECT * FROM cache_refresher.explain('empty');
SELECT * FROM cache_refresher.explain('other');
SELECT outcome, method, reason FROM cache_refresher.refresh('other', 'diff');
CREATE UNIQUE INDEX ON other (id);
SELECT outcome, method, reason FROM cache_refresher.refresh('other');
-- What it is registered with.
SELECT cache_refresher.register('v', method => 'concurrent');
SELECT method, chosen, reason FROM cache_refresher.explain('v');
SELECT cache_refresher.alter('v', method => 'diff');
SELECT method, chosen, reason FROM cache_refresher.explain('v');
-- What is written though nothing has changed.
CREATE MATERIALIZED VIEW sums AS SELECT value, sum(id::float8) AS total, max(id::float8) AS last FROM t GROUP BY value;
CREATE MATERIALIZED VIEW lists AS SELECT value, array_agg(id) AS ids, array_agg(DISTINCT id) AS distinct_ids FROM t GROUP BY value;
CREATE MATERIALIZED VIEW ordered AS SELECT value, sum(id) AS total, array_agg(id ORDER BY id) AS ids, array_agg(DISTINCT id) AS distinct_ids FROM t GROUP BY value;
SELECT v, e.reason, e.remedy
  FROM unnest('{sums,lists,ordered}'::regclass[]) v, cache_refresher.explain(v) e WHERE e.method = 'diff';
DROP MATERIALIZED VIEW sums, lists, ordered;
SELECT cache_refresher.explain(NULL);
SELECT cache_refresher.explain('t');
CREATE ROLE regress_cr_app;
SET ROLE regress_cr_app;
SELECT * FROM cache_refresher.explain('v');
RESET ROLE;
DROP ROLE regress_cr_app;

-- Only what differs is written, and counted.
CREATE FUNCTION answer(r cache_refresher.refresh_result) RETURNS text LANGUAGE sql
RETURN format('%s: %s rows, %s inserted, %s updated, %s deleted', r.method, r.rows_total, r.rows_inserted, r.rows_updated, r.rows_deleted);
SELECT answer(r) FROM cache_refresher.refresh('v') r;
UPDATE t SET value = 1 WHERE id <= 3;
DELETE FROM t WHERE id = 10;
INSERT INTO t VALUES (11, 0), (12, 0);
SELECT answer(r) FROM cache_refresher.refresh('v') r;
SELECT answer(r) FROM cache_refresher.refresh('v') r;
SELECT count(*) FROM (TABLE v EXCEPT ALL TABLE t) x;
-- Without a key, as bags.
SELECT answer(r) FROM cache_refresher.refresh('bare') r;
SELECT value, count(*) FROM bare GROUP BY value ORDER BY value;
SELECT rows_total, rows_inserted, rows_updated, rows_deleted FROM cache_refresher.refresh_log ORDER BY id DESC LIMIT 1;
-- The other methods don't tell.
SELECT answer(r) FROM cache_refresher.refresh('v', 'full') r;
SELECT answer(r) FROM cache_refresher.refresh('v', 'concurrent') r;

-- With leave, auto shuts readers out where most rows change, and tries diff again now and then.
CREATE TABLE seen (id int PRIMARY KEY, value int);
INSERT INTO seen SELECT id, 0 FROM generate_series(1, 5000) id;
ANALYZE seen;
CREATE MATERIALIZED VIEW seen_view AS SELECT id, value FROM seen;
CREATE UNIQUE INDEX ON seen_view (id);
UPDATE seen SET value = value + 1;
SELECT answer(r) FROM cache_refresher.refresh('seen_view') r;
SELECT method, reason FROM cache_refresher.refresh('seen_view');
UPDATE seen SET value = value + 1;
SELECT answer(r) FROM cache_refresher.refresh('seen_view') r;
SET cache_refresher.auto_full = on;
SELECT method, reason FROM cache_refresher.explain('seen_view') WHERE chosen;
SELECT method, reason FROM cache_refresher.refresh('seen_view');
RESET cache_refresher.auto_full;
SELECT method, reason FROM cache_refresher.refresh('seen_view');

-- But not where there are too few for that to save anything.
SET cache_refresher.auto_full = on;
UPDATE t SET value = value + 1;
SELECT answer(r) FROM cache_refresher.refresh('v') r;
UPDATE t SET value = value + 1;
SELECT answer(r) FROM cache_refresher.refresh('v') r;
RESET cache_refresher.auto_full;
SELECT cache_refresher.unregister('v');

-- Also where the view is bloated, of which health() warns.
CREATE TABLE large (id int, filler text) WITH (autovacuum_enabled = off);
INSERT INTO large SELECT id, repeat('x', 100) FROM generate_series(1, 20000) id;
CREATE MATERIALIZED VIEW shrunk WITH (autovacuum_enabled = off) AS SELECT * FROM large;
SELECT cache_refresher.register('shrunk');
DELETE FROM large WHERE id <= 19900;
SELECT answer(r) FROM cache_refresher.refresh('shrunk') r;
SELECT answer(r) FROM cache_refresher.refresh('shrunk') r;
VACUUM ANALYZE shrunk;
SELECT status, detail FROM cache_refresher.health() WHERE "check" = 'view public.shrunk bloat';
SET cache_refresher.auto_full = on;
SELECT method, reason FROM cache_refresher.refresh('shrunk');
RESET cache_refresher.auto_full;
ANALYZE shrunk;
SELECT status, detail FROM cache_refresher.health() WHERE "check" = 'view public.shrunk bloat';

-- Where changes are captured, only when most rows have changed this time as well.
SELECT cache_refresher.register('seen_view', refresh_interval => '1 year', on_change => true,
                                debounce => '1 year', max_staleness => '1 year');
SELECT method FROM cache_refresher.refresh('seen_view');
UPDATE seen SET value = value + 1;
SELECT method, rows_updated FROM cache_refresher.refresh('seen_view');
SET cache_refresher.auto_full = on;
SELECT method FROM cache_refresher.refresh('seen_view');
UPDATE seen SET value = value + 1 WHERE id = 1;
SELECT method, rows_updated FROM cache_refresher.refresh('seen_view');
UPDATE seen SET value = value + 1;
SELECT method, split_part(reason, ';', 1) FROM cache_refresher.refresh('seen_view');
SELECT method FROM cache_refresher.refresh('seen_view');
RESET cache_refresher.auto_full;
SELECT cache_refresher.unregister('seen_view');

-- A key that comes twice: nothing is changed.
CREATE TABLE doubled (id int);
INSERT INTO doubled VALUES (1), (2);
CREATE MATERIALIZED VIEW d AS SELECT id FROM doubled;
CREATE UNIQUE INDEX ON d (id);
INSERT INTO doubled VALUES (2), (3);
SELECT cache_refresher.refresh('d');
\echo :LAST_ERROR_SQLSTATE
TABLE d;

DROP EXTENSION cache_refresher CASCADE;
DROP MATERIALIZED VIEW v, bare, empty, other, d, shrunk;
DROP ACCESS METHOD regress_heap;
DROP TABLE t, doubled, large;
