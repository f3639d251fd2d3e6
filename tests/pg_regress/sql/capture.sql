-- What is captured of the sources, what is proved by it, and what is left of it.
CREATE EXTENSION cache_refresher;
CREATE TABLE customer (id int PRIMARY KEY, name text, note text);
CREATE TABLE orders (id int, customer_id int REFERENCES customer ON DELETE CASCADE, amount int) PARTITION BY RANGE (id);
CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (1000);
CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (1000) TO (2000);
INSERT INTO customer SELECT i, 'name ' || i FROM generate_series(1, 500) i;
INSERT INTO orders SELECT i, i % 500 + 1, i FROM generate_series(0, 1999) i;
CREATE INDEX ON orders (customer_id);
CREATE MATERIALIZED VIEW totals AS
    SELECT c.id, c.name, count(o.id) AS orders, sum(o.amount) AS amount
      FROM customer c LEFT JOIN orders o ON o.customer_id = c.id GROUP BY c.id;
CREATE UNIQUE INDEX ON totals (id);
CREATE MATERIALIZED VIEW names AS SELECT id, name FROM customer;
CREATE UNIQUE INDEX ON names (id);
ANALYZE;

-- Nobody pays who does not use it.
SELECT cache_refresher.register('names');
SELECT count(*) AS triggers FROM pg_trigger WHERE tgname LIKE 'cache_refresher%';
SELECT staleness, stale_since FROM cache_refresher.status;
SELECT cache_refresher.is_stale('names'), cache_refresher.stale_since('names');

-- A delta needs it.
SELECT cache_refresher.alter('names', method => 'delta');
SELECT cache_refresher.alter('names', on_change => false);
SELECT cache_refresher.alter('names', reset => '{on_change}');
SELECT cache_refresher.alter('names', reset => '{on_change,method}');

-- A trigger and a log at each table that has rows.
SELECT cache_refresher.register('totals', on_change => true);
SELECT cache_refresher.alter('names', on_change => true, debounce => '0', max_staleness => '1 minute');
SELECT tgrelid::regclass AS source, tgname, tgenabled FROM pg_trigger WHERE tgname LIKE 'cache_refresher%' ORDER BY 1, 2;
SELECT view::regclass, source::regclass FROM _cache_refresher.capture ORDER BY 1, 2;
CREATE FUNCTION logged(source regclass) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE rows bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM _cache_refresher.changes_%s', source::oid) INTO rows;
    RETURN rows;
END $$;

CREATE FUNCTION look(OUT view text, OUT method text, OUT reason text, OUT written text) RETURNS SETOF record LANGUAGE sql AS $$
    SELECT r.view::text, r.method, r.reason, format('%s+ %s~ %s-', r.rows_inserted, r.rows_updated, r.rows_deleted)
      FROM cache_refresher.refresh_all() r ORDER BY 1
$$;

-- The first refresh makes the ground for a proof, the second has it.
SELECT view, staleness FROM cache_refresher.status ORDER BY 1;
SELECT * FROM look();
SELECT view, staleness, age < '10 seconds' AS young FROM cache_refresher.status ORDER BY 1;
SELECT * FROM look();
SELECT cache_refresher.is_stale('totals'), cache_refresher.stale_since('totals');
SELECT cache_refresher.assert_fresh('totals');
SELECT count(*) AS in_log FROM cache_refresher.refresh_log;
SELECT view, skips FROM cache_refresher.status ORDER BY 1;

-- What a view does not use leaves no trace.
UPDATE customer SET note = 'nobody looks';
UPDATE customer SET name = name;
SELECT logged('customer'), logged('orders_1');
SELECT * FROM look();

-- Nor is the trigger called for it, if nothing can come of that.
CREATE FUNCTION calls(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || statement LOOP
        IF line LIKE 'Trigger %' THEN RETURN NEXT line; END IF;
    END LOOP;
END $$;
CREATE TABLE item (unused text, id int PRIMARY KEY, size int, area int GENERATED ALWAYS AS (size * size) STORED, weight int);
INSERT INTO item (unused, id, size, weight) SELECT 'unused', i, i, i FROM generate_series(1, 20) i;
CREATE TABLE item_of_kind (kind text, unused text, id int PRIMARY KEY, weight int, size int, area int GENERATED ALWAYS AS (size * size) STORED);
ALTER TABLE item_of_kind INHERIT item;
INSERT INTO item_of_kind (kind, unused, id, weight, size) SELECT 'kind', 'unused', i, i, i FROM generate_series(21, 30) i;
CREATE MATERIALIZED VIEW areas AS SELECT id, area, weight FROM item;
CREATE UNIQUE INDEX ON areas (id);
SELECT cache_refresher.register('areas', on_change => true);
SELECT method FROM cache_refresher.refresh('areas');
SELECT * FROM calls('UPDATE item SET unused = NULL');
SELECT * FROM calls('UPDATE item SET weight = weight');
SELECT logged('item'), logged('item_of_kind');
-- By a generated column, by a child's own order of columns, by a view.
SELECT * FROM calls('UPDATE item SET size = size + 1 WHERE id IN (1, 21)');
CREATE VIEW weights AS SELECT id AS key, weight AS grams, unused AS note FROM item;
SELECT * FROM calls('UPDATE weights SET grams = grams + 1 WHERE key IN (2, 22)');
SELECT * FROM calls('UPDATE weights SET note = 1 WHERE key IN (2, 22)');
SELECT logged('item'), logged('item_of_kind');
-- Triggers of others go on, whatever they are called.
CREATE FUNCTION notice() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', TG_NAME; RETURN NULL; END $$;
CREATE TRIGGER a_notice AFTER UPDATE ON item FOR EACH ROW EXECUTE FUNCTION notice();
CREATE TRIGGER z_notice AFTER UPDATE OF unused ON item FOR EACH ROW EXECUTE FUNCTION notice();
UPDATE item SET unused = 'again' WHERE id = 3;
DROP TRIGGER a_notice ON item;
DROP TRIGGER z_notice ON item;
-- A trigger may change what the statement does not name, once there is one.
CREATE FUNCTION heavier() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.weight := NEW.weight + 100; RETURN NEW; END $$;
PREPARE unused(int) AS UPDATE item SET unused = $1 WHERE id = $1;
EXECUTE unused(4);
SELECT logged('item');
CREATE TRIGGER heavier BEFORE UPDATE ON item FOR EACH ROW EXECUTE FUNCTION heavier();
EXECUTE unused(5);
SELECT logged('item');
DROP TRIGGER heavier ON item;
-- Several statements in one.
WITH first AS (UPDATE item SET weight = 0 WHERE id = 6 RETURNING id) UPDATE item SET unused = first.id FROM first WHERE item.id = 7;
SELECT logged('item');
SELECT method, rows_updated FROM cache_refresher.refresh('areas');
SELECT count(*) FROM (SELECT * FROM areas EXCEPT SELECT id, area, weight FROM item) d;
SELECT cache_refresher.unregister('areas');
DROP TABLE item, item_of_kind CASCADE;
SELECT * FROM look();

-- One key.
UPDATE customer SET name = 'new name' WHERE id = 7;
SELECT view, staleness, stale_since IS NOT NULL AS since FROM cache_refresher.status ORDER BY 1;
SELECT cache_refresher.is_stale('totals');
SELECT * FROM look();
SELECT * FROM totals WHERE id = 7;
-- In the other table, by way of the join; NULLs, and a row that moves to another partition.
UPDATE orders SET amount = amount + 1 WHERE id = 8;
UPDATE orders SET customer_id = NULL WHERE id = 9;
UPDATE orders SET id = 1999 WHERE id = 10;
SELECT * FROM look();
-- By cascade.
DELETE FROM customer WHERE id = 20;
SELECT * FROM look();
-- COPY, ON CONFLICT, MERGE.
COPY customer (id, name) FROM STDIN;
1001	copied
\.
INSERT INTO customer (id, name) VALUES (1001, 'x'), (1002, 'y') ON CONFLICT (id) DO UPDATE SET name = 'conflict';
MERGE INTO customer c USING (VALUES (1002, 'merged')) AS m (id, name) ON m.id = c.id WHEN MATCHED THEN UPDATE SET name = m.name;
SELECT * FROM look();
-- What is rolled back leaves nothing, in a part of a transaction too.
BEGIN; UPDATE customer SET name = 'gone' WHERE id = 1; ROLLBACK;
SELECT * FROM look();
BEGIN;
SAVEPOINT s; UPDATE customer SET name = 'gone' WHERE id = 1; ROLLBACK TO s;
UPDATE customer SET name = 'stays' WHERE id = 2;
COMMIT;
SELECT * FROM look();
-- Logical replication's apply, and whoever sets this.
SET session_replication_role = replica;
UPDATE customer SET name = 'applied' WHERE id = 3;
RESET session_replication_role;
SELECT * FROM look();
-- A refresh within the transaction that writes, and writes again.
BEGIN;
UPDATE customer SET name = 'before' WHERE id = 4;
SELECT view, method FROM look();
UPDATE customer SET name = 'after' WHERE id = 5;
COMMIT;
SELECT * FROM look();
SELECT name FROM names WHERE id IN (4, 5) ORDER BY id;
-- Prepared transactions.
BEGIN;
UPDATE customer SET name = 'prepared' WHERE id = 6;
PREPARE TRANSACTION 'regress_capture';
SELECT view, method FROM look();
COMMIT PREPARED 'regress_capture';
SELECT * FROM look();
-- Everything is shown, and nothing is kept any longer.
SELECT logged('customer'), logged('orders_1'), logged('orders_2');
-- Figures say what is known, and nothing else.
UPDATE customer SET name = name || '?' WHERE id = 1;
SELECT name, labels ->> 'view' AS view, value > 0 AS stale
  FROM cache_refresher.metrics() WHERE name LIKE '%\_stale%' ORDER BY 1, 2;
SELECT * FROM look();
SELECT name, labels ->> 'view' AS view, value > 0 AS stale
  FROM cache_refresher.metrics() WHERE name LIKE '%\_stale%' ORDER BY 1, 2;

-- Much, by whatever costs less, and everything: the whole query.
UPDATE customer SET name = name || '!';
SELECT view, written FROM look();
TRUNCATE orders_2;
SELECT staleness FROM cache_refresher.status WHERE view_name = 'totals';
SELECT * FROM look();

-- What somebody does to the ground of the proof is noticed.
ALTER TABLE customer DISABLE TRIGGER cache_refresher_capture;
UPDATE customer SET name = 'unseen' WHERE id = 9;
ALTER TABLE customer ENABLE ALWAYS TRIGGER cache_refresher_capture;
SELECT view, staleness FROM cache_refresher.status ORDER BY 1;
SELECT * FROM look();
ALTER TABLE orders ADD COLUMN more int;
SELECT view, staleness FROM cache_refresher.status ORDER BY 1;
REFRESH MATERIALIZED VIEW CONCURRENTLY names;
SELECT view, staleness FROM cache_refresher.status ORDER BY 1;
SELECT view, method FROM look();
SELECT view, staleness FROM cache_refresher.status ORDER BY 1;
CREATE TABLE orders_3 PARTITION OF orders FOR VALUES FROM (2000) TO (3000);
SELECT view, staleness FROM cache_refresher.status ORDER BY 1;
SELECT view, method FROM look();
SELECT method, possible, chosen, reason, remedy FROM cache_refresher.explain('totals');

-- Somebody says so.
SELECT cache_refresher.invalidate('names');
SELECT staleness, stale_since IS NOT NULL AS since FROM cache_refresher.status WHERE view_name = 'names';
SELECT view, method, reason FROM look();
SELECT staleness FROM cache_refresher.status WHERE view_name = 'names';
CREATE ROLE regress_capture;
SET ROLE regress_capture;
SELECT cache_refresher.invalidate('names');
RESET ROLE;
SELECT cache_refresher.invalidate(NULL);

-- A method asked for by name is not replaced.
SELECT method, reason FROM cache_refresher.refresh('names', 'diff');
SELECT method, reason FROM cache_refresher.refresh('names', 'concurrent');
SELECT method, reason FROM cache_refresher.refresh('names', 'delta');

-- Nothing is left behind.
SELECT cache_refresher.unregister('totals');
SELECT tgrelid::regclass AS source, tgname FROM pg_trigger WHERE tgname LIKE 'cache_refresher%' ORDER BY 1, 2;
SELECT cache_refresher.alter('names', reset => '{on_change}');
SELECT count(*) AS triggers FROM pg_trigger WHERE tgname LIKE 'cache_refresher%';
SELECT count(*) AS logs FROM pg_class WHERE relname LIKE 'changes\_%';
SELECT count(*) AS uses FROM _cache_refresher.capture;

-- What cannot be captured is said.
CREATE UNLOGGED TABLE scratch (id int);
CREATE TABLE guarded (id int);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE MATERIALIZED VIEW on_names AS SELECT id FROM names;
CREATE MATERIALIZED VIEW on_scratch AS SELECT id FROM scratch;
CREATE MATERIALIZED VIEW on_guarded AS SELECT id FROM guarded;
GRANT SELECT ON guarded TO regress_capture;
GRANT CREATE ON SCHEMA public TO regress_capture;
ALTER MATERIALIZED VIEW on_guarded OWNER TO regress_capture;
CREATE MATERIALIZED VIEW on_catalog AS SELECT oid FROM pg_class;
CREATE MATERIALIZED VIEW on_time AS SELECT id, now() AS at FROM customer;
CREATE MATERIALIZED VIEW on_chance AS SELECT id FROM customer TABLESAMPLE SYSTEM (50);
CREATE MATERIALIZED VIEW on_place AS SELECT ctid AS place FROM customer;
CREATE MATERIALIZED VIEW on_text AS SELECT id, concat(id, name) AS text, to_char(id, '000') AS digits FROM customer;
CREATE INDEX ON on_text (id);
CREATE MATERIALIZED VIEW on_union AS SELECT id FROM customer UNION SELECT id FROM orders;
CREATE MATERIALIZED VIEW on_top AS SELECT id FROM customer ORDER BY id LIMIT 3;
CREATE MATERIALIZED VIEW unindexed AS SELECT id FROM customer;
CREATE MATERIALIZED VIEW by_name AS SELECT c.id, max(o.amount) AS most FROM orders o LEFT JOIN customer c ON c.id = o.customer_id GROUP BY c.id;
CREATE INDEX ON by_name (id);
SELECT cache_refresher.register(v::regclass, on_change => true)
  FROM unnest('{on_names, on_scratch, on_guarded, on_catalog, on_time, on_chance, on_place, on_text, on_union, on_top, unindexed, by_name}'::text[]) v;
SELECT v, e.method, e.possible, e.reason, e.remedy
  FROM unnest('{on_names, on_scratch, on_guarded, on_catalog, on_time, on_chance, on_place, on_text, on_union, on_top, unindexed, by_name}'::text[]) v,
       cache_refresher.explain(v::regclass) e
 WHERE e.method IN ('delta', 'skip') AND (e.possible OR e.method = 'delta') ORDER BY v COLLATE "C", e.method;
-- Another's table needs his leave.
GRANT SELECT ON customer TO regress_capture;
SET ROLE regress_capture;
CREATE MATERIALIZED VIEW foreign_eyes AS SELECT id FROM customer;
SELECT cache_refresher.register('foreign_eyes', on_change => true);
RESET ROLE;
GRANT TRIGGER ON customer TO regress_capture;
SET ROLE regress_capture;
SELECT cache_refresher.register('foreign_eyes', on_change => true);
INSERT INTO customer (id) VALUES (1);
RESET ROLE;

-- Everything goes with the extension, and writes go on.
DROP EXTENSION cache_refresher;
SELECT count(*) AS triggers FROM pg_trigger WHERE tgname LIKE 'cache_refresher%';
INSERT INTO customer (id) VALUES (5000);
DROP MATERIALIZED VIEW foreign_eyes;
DROP OWNED BY regress_capture;
DROP ROLE regress_capture;
