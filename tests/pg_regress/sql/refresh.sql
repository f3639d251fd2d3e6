-- refresh: the row that it returns, methods, max_age, and refresh within transactions.
CREATE EXTENSION cache_refresher;
CREATE TABLE t (id int PRIMARY KEY, value int NOT NULL);
INSERT INTO t SELECT i, 1 FROM generate_series(1, 10) i;
CREATE MATERIALIZED VIEW v AS SELECT * FROM t WITH NO DATA;
CREATE MATERIALIZED VIEW bare AS SELECT id FROM t;

-- The columns of the result.
SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS type
  FROM pg_attribute a WHERE a.attrelid = 'cache_refresher.refresh_result'::regclass AND a.attnum > 0 ORDER BY a.attnum;

-- What does not vary from run to run.
CREATE FUNCTION answer(r cache_refresher.refresh_result) RETURNS text LANGUAGE sql
RETURN format('%s %s', r.view, r.outcome) || coalesce(' ' || r.method, '') || ': ' || r.reason || coalesce(', ' || r.rows_total || ' rows', '');

-- Registered or not. A view never populated is populated with full, readers or not.
SELECT answer(r) FROM cache_refresher.refresh('v') r;
CREATE UNIQUE INDEX ON v (id);
SELECT answer(r) FROM cache_refresher.refresh('v') r;
SELECT view, outcome, method, reason, duration_ms > 0 AS timed, rows_total, rows_inserted, rows_updated, rows_deleted,
       data_as_of BETWEEN statement_timestamp() AND clock_timestamp() AS after_call
  FROM cache_refresher.refresh(view => 'v', method => NULL, max_age => NULL);

-- Methods.
SELECT answer(r) FROM cache_refresher.refresh('v', 'full') r;
SELECT answer(r) FROM cache_refresher.refresh('v', method => 'concurrent') r;
SELECT answer(r) FROM cache_refresher.refresh('v', method => 'auto') r;
-- Never a blocking refresh behind one's back.
SELECT answer(r) FROM cache_refresher.refresh('bare') r;
SELECT answer(r) FROM cache_refresher.refresh('bare', 'concurrent') r;
SELECT answer(r) FROM cache_refresher.refresh('bare', 'full') r;
SELECT cache_refresher.register('bare', method => 'full');
SELECT answer(r) FROM cache_refresher.refresh('bare') r;
-- What is asked for in the call goes before what the view is registered with.
CREATE UNIQUE INDEX ON bare (id);
SELECT answer(r) FROM cache_refresher.refresh('bare', 'concurrent') r;
SELECT answer(r) FROM cache_refresher.refresh('bare', 'auto') r;
REFRESH MATERIALIZED VIEW bare WITH NO DATA;
SELECT answer(r) FROM cache_refresher.refresh('bare', 'concurrent') r;
SELECT answer(r) FROM cache_refresher.refresh('bare', 'auto') r;

-- Indexes that do not identify every row, or not yet.
DROP INDEX bare_id_idx;
CREATE INDEX bare_plain ON bare (id);
CREATE UNIQUE INDEX bare_partial ON bare (id) WHERE id > 0;
CREATE UNIQUE INDEX bare_expression ON bare ((id + 0));
SELECT answer(r) FROM cache_refresher.refresh('bare', 'concurrent') r;
-- Columns beside the key do no harm.
CREATE UNIQUE INDEX bare_covering ON bare (id) INCLUDE (id);
SELECT answer(r) FROM cache_refresher.refresh('bare', 'concurrent') r;

-- max_age.
UPDATE t SET value = 2;
SELECT answer(r) FROM cache_refresher.refresh('v', max_age => '1 hour') r;
SELECT outcome, method, reason, duration_ms, rows_total, data_as_of < statement_timestamp() AS of_before FROM cache_refresher.refresh('v', max_age => '1 hour');
SELECT DISTINCT value FROM v;
SELECT answer(r) FROM cache_refresher.refresh('v', max_age => '0') r;
SELECT DISTINCT value FROM v;
-- Nothing is known of a view that was emptied since.
REFRESH MATERIALIZED VIEW v WITH NO DATA;
SELECT answer(r) FROM cache_refresher.refresh('v', max_age => '1 hour') r;

-- Refused.
SELECT cache_refresher.refresh(NULL);
SELECT cache_refresher.refresh('t');
SELECT cache_refresher.refresh('nowhere');
SELECT cache_refresher.refresh(1::oid);
SELECT cache_refresher.refresh('v', method => 'magic');
SELECT answer(r) FROM cache_refresher.refresh('v', method => 'diff') r;
SELECT cache_refresher.refresh('v', max_age => '-1 second');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cache_refresher.refresh('v');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT cache_refresher.refresh('v');
ROLLBACK;
BEGIN READ ONLY;
SELECT cache_refresher.refresh('v');
ROLLBACK;
-- The server's own methods don't, while this very session reads it; diff is to it like any UPDATE.
BEGIN;
DECLARE reading CURSOR FOR SELECT * FROM v;
FETCH 1 FROM reading;
SELECT answer(r) FROM cache_refresher.refresh('v') r;
FETCH 1 FROM reading;
SELECT cache_refresher.refresh('v', method => 'concurrent');
ROLLBACK;
SELECT answer(r) FROM cache_refresher.refresh('v') r;

-- Errors of the view's own query come as they are.
CREATE MATERIALIZED VIEW broken AS SELECT id, 10 / value AS quotient FROM t;
CREATE UNIQUE INDEX ON broken (id);
UPDATE t SET value = 0 WHERE id = 3;
SELECT cache_refresher.refresh('broken');
\echo :LAST_ERROR_SQLSTATE
SELECT id, quotient FROM broken WHERE id = 3;
-- Two rows with one key: core says so, and the view keeps what it had.
CREATE TABLE twice (id int);
INSERT INTO twice VALUES (1);
CREATE MATERIALIZED VIEW doubled AS SELECT * FROM twice;
CREATE UNIQUE INDEX ON doubled (id);
INSERT INTO twice VALUES (1);
SELECT cache_refresher.refresh('doubled');
\echo :LAST_ERROR_SQLSTATE
SELECT cache_refresher.refresh('doubled', method => 'full');
\echo :LAST_ERROR_SQLSTATE
TABLE doubled;

-- In a transaction: it shows what the transaction has written, and goes with it.
BEGIN;
UPDATE t SET value = 7;
SELECT answer(r) FROM cache_refresher.refresh('v') r;
SELECT DISTINCT value FROM v;
UPDATE t SET value = 8;
SELECT answer(r) FROM cache_refresher.refresh('v') r;
SELECT DISTINCT value FROM v;
SAVEPOINT before;
UPDATE t SET value = 9;
SELECT answer(r) FROM cache_refresher.refresh('v', 'full') r;
SELECT DISTINCT value FROM v;
ROLLBACK TO before;
SELECT DISTINCT value FROM v;
COMMIT;
SELECT DISTINCT value FROM v;
-- Two calls in one statement are two refreshes.
SELECT answer(r) FROM (VALUES ('v'), ('bare')) AS n (name), cache_refresher.refresh(n.name::regclass) r;

-- In a function, in DO, and beside its own log row.
CREATE FUNCTION refreshed() RETURNS text LANGUAGE plpgsql AS $$
DECLARE result cache_refresher.refresh_result;
BEGIN
    SELECT * INTO result FROM cache_refresher.refresh('v');
    RETURN result.outcome;
END $$;
SELECT refreshed();
DO $$ BEGIN PERFORM cache_refresher.refresh('v'); END $$;
SELECT outcome, trigger, method, reason, rows_total, attempt, sqlstate, message, role_name = current_user AS by_me
  FROM cache_refresher.refresh_log WHERE view_name = 'v' ORDER BY id DESC LIMIT 2;

-- Nobody is refreshing.
SELECT cache_refresher.cancel('v');
SELECT cache_refresher.cancel(NULL);
SELECT cache_refresher.cancel('t');

DROP FUNCTION refreshed, answer;
DROP EXTENSION cache_refresher;
DROP MATERIALIZED VIEW v, bare, broken, doubled;
DROP TABLE t, twice;
