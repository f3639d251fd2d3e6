-- Refreshing the rows of some keys only, where the application knows what has changed.
CREATE EXTENSION cache_refresher;
CREATE TABLE prices (shop int, item text, price numeric);
INSERT INTO prices SELECT s, i, s * 10 FROM generate_series(1, 3) s, unnest('{apple,pear,plum}'::text[]) i;
CREATE MATERIALIZED VIEW shown AS SELECT shop, item, price FROM prices;
CREATE UNIQUE INDEX ON shown (shop, item);
SELECT cache_refresher.register('shown');
SELECT outcome FROM cache_refresher.refresh('shown');

CREATE FUNCTION differs() RETURNS TABLE (shop int, item text, price numeric) LANGUAGE sql AS
    'TABLE prices EXCEPT TABLE shown ORDER BY 1, 2';

-- Rows come, change and go; only those of shop 1 are seen to.
UPDATE prices SET price = price + 1;
DELETE FROM prices WHERE item = 'plum';
INSERT INTO prices VALUES (1, 'fig', 7), (2, 'fig', 8);
SELECT outcome, method, reason, rows_total, rows_inserted, rows_updated, rows_deleted
  FROM cache_refresher.invalidate('shown', ARRAY[1]);
SELECT * FROM differs();

-- What is said of the view as a whole stays as it was.
SELECT count(DISTINCT l.data_as_of) AS times, bool_and(l.data_as_of = s.data_as_of) AS "as before"
  FROM cache_refresher.refresh_log l, cache_refresher.status s;

-- Rows of the key's columns, NULL, and keys that nobody has.
SELECT reason, rows_total, rows_inserted, rows_updated, rows_deleted
  FROM cache_refresher.invalidate('shown', ARRAY[(2, 'fig'), (2, 'plum'), (9, NULL)]);
SELECT * FROM differs();
SELECT reason, rows_updated FROM cache_refresher.invalidate('shown', ARRAY[]::int[]);
SELECT reason, rows_updated FROM cache_refresher.invalidate('shown', ARRAY[2, 3, 3]::smallint[]);
SELECT reason, rows_updated FROM cache_refresher.invalidate('shown', ARRAY[2, 3]::bigint[]);
SELECT reason, rows_updated FROM cache_refresher.invalidate('shown', ARRAY['2', '3']);
SELECT * FROM differs();

-- The same is found by its log.
SELECT method, reason, trigger, rows_total FROM cache_refresher.refresh_log ORDER BY id;

-- Refused with a reason.
SELECT cache_refresher.invalidate('shown', NULL::int[]);
SELECT cache_refresher.invalidate('shown', ARRAY['one']);
SELECT cache_refresher.invalidate('shown', ARRAY[10000000000]);
SELECT cache_refresher.invalidate('shown', ARRAY[1.5]);
SELECT cache_refresher.invalidate('shown', ARRAY[(1, 2)]);
SELECT cache_refresher.invalidate('shown', ARRAY[(1, 'fig', 3)]);
SELECT cache_refresher.invalidate('shown', ARRAY[('one', 'fig')]);
SELECT cache_refresher.invalidate('prices', ARRAY[1]);
CREATE MATERIALIZED VIEW found AS SELECT shop FROM prices WITH NO DATA;
SELECT cache_refresher.invalidate('found', ARRAY[1]);
REFRESH MATERIALIZED VIEW found;
SELECT cache_refresher.invalidate('found', ARRAY[1]);

-- An index that is not unique says what the rows are found by; and how many there are is counted.
CREATE INDEX ON found (shop);
DELETE FROM prices WHERE shop = 3;
SELECT reason, rows_total, rows_deleted FROM cache_refresher.invalidate('found', ARRAY[3]);

-- Whoever may not refresh may not do this.
CREATE ROLE key_nobody;
SET ROLE key_nobody;
SELECT cache_refresher.invalidate('public.shown', ARRAY[1]);
RESET ROLE;
DROP ROLE key_nobody;

DROP EXTENSION cache_refresher;
DROP TABLE prices CASCADE;
