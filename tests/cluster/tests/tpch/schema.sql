-- The tables of TPC-H, small, filled from a seed.
CREATE TABLE region (r_regionkey int PRIMARY KEY, r_name text NOT NULL);
CREATE TABLE nation (
    n_nationkey int PRIMARY KEY, n_name text NOT NULL, n_regionkey int NOT NULL REFERENCES region
);
CREATE TABLE supplier (
    s_suppkey int PRIMARY KEY, s_name text NOT NULL, s_address text NOT NULL,
    s_nationkey int NOT NULL REFERENCES nation, s_phone text NOT NULL,
    s_acctbal numeric(15, 2) NOT NULL, s_comment text NOT NULL
);
CREATE TABLE customer (
    c_custkey int PRIMARY KEY, c_name text NOT NULL, c_address text NOT NULL,
    c_nationkey int NOT NULL REFERENCES nation, c_phone text NOT NULL,
    c_acctbal numeric(15, 2) NOT NULL, c_mktsegment text NOT NULL, c_comment text NOT NULL
);
CREATE TABLE part (
    p_partkey int PRIMARY KEY, p_name text NOT NULL, p_mfgr text NOT NULL, p_brand text NOT NULL,
    p_type text NOT NULL, p_size int NOT NULL, p_container text NOT NULL
);
CREATE TABLE partsupp (
    ps_partkey int REFERENCES part, ps_suppkey int REFERENCES supplier,
    ps_availqty int NOT NULL, ps_supplycost numeric(15, 2) NOT NULL,
    PRIMARY KEY (ps_partkey, ps_suppkey)
);
CREATE TABLE orders (
    o_orderkey int PRIMARY KEY, o_custkey int NOT NULL REFERENCES customer,
    o_orderstatus "char" NOT NULL, o_totalprice numeric(15, 2) NOT NULL, o_orderdate date NOT NULL,
    o_orderpriority text NOT NULL, o_shippriority int NOT NULL, o_comment text NOT NULL
);
CREATE TABLE lineitem (
    l_orderkey int REFERENCES orders ON DELETE CASCADE, l_linenumber int,
    l_partkey int NOT NULL, l_suppkey int NOT NULL, l_quantity numeric(15, 2) NOT NULL,
    l_extendedprice numeric(15, 2) NOT NULL, l_discount numeric(15, 2) NOT NULL,
    l_tax numeric(15, 2) NOT NULL, l_returnflag "char" NOT NULL, l_linestatus "char" NOT NULL,
    l_shipdate date NOT NULL, l_commitdate date NOT NULL, l_receiptdate date NOT NULL,
    l_shipinstruct text NOT NULL, l_shipmode text NOT NULL,
    PRIMARY KEY (l_orderkey, l_linenumber),
    FOREIGN KEY (l_partkey, l_suppkey) REFERENCES partsupp
);
CREATE INDEX ON lineitem (l_partkey, l_suppkey);
CREATE INDEX ON lineitem (l_suppkey);
CREATE INDEX ON orders (o_custkey);
CREATE INDEX ON partsupp (ps_suppkey);
CREATE INDEX ON customer (c_nationkey);
CREATE INDEX ON supplier (s_nationkey);

-- A whole number from 0 on, below `many`.
CREATE FUNCTION draw(many int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT floor(random() * many)::int';
CREATE FUNCTION draw(VARIADIC names text[]) RETURNS text LANGUAGE sql VOLATILE AS
    'SELECT names[1 + floor(random() * cardinality(names))::int]';

-- New orders with their items; some nation, part and customer have a name that a query asks for.
CREATE PROCEDURE add_orders(first int, many int) LANGUAGE sql AS $$
    INSERT INTO orders
    SELECT o, 1 + draw(150), draw('O', 'F', 'P')::"char", 100 + draw(400000) / 10.0,
           date '1992-01-01' + draw(2400),
           draw('1-URGENT', '2-HIGH', '3-MEDIUM', '4-NOT SPECIFIED', '5-LOW'), 0,
           draw('quick', 'special packages requests', 'pending', 'final')
      FROM generate_series(first, first + many - 1) o;
    INSERT INTO lineitem
    SELECT o_orderkey, n, ps_partkey, ps_suppkey, 1 + draw(50), 900 + draw(90000) / 10.0, draw(11) / 100.0,
           draw(9) / 100.0, draw('R', 'A', 'N')::"char", draw('O', 'F')::"char", o_orderdate + 1 + draw(120),
           o_orderdate + 30 + draw(60), o_orderdate + 2 + draw(150),
           draw('DELIVER IN PERSON', 'COLLECT COD', 'NONE', 'TAKE BACK RETURN'),
           draw('AIR', 'AIR REG', 'RAIL', 'SHIP', 'TRUCK', 'MAIL', 'FOB')
      FROM orders, generate_series(1, 4) n,
           LATERAL (SELECT * FROM partsupp
                     WHERE (ps_partkey, ps_suppkey) > (o_orderkey * 7 % 199, n) ORDER BY 1, 2 LIMIT 1) s
     WHERE o_orderkey BETWEEN first AND first + many - 1 AND n <= 1 + o_orderkey % 4;
$$;

INSERT INTO region SELECT n, (ARRAY['AFRICA', 'AMERICA', 'ASIA', 'EUROPE', 'MIDDLE EAST'])[n + 1]
  FROM generate_series(0, 4) n;
INSERT INTO nation
SELECT n, (ARRAY['GERMANY', 'FRANCE', 'CANADA', 'BRAZIL', 'SAUDI ARABIA', 'INDIA', 'PERU', 'CHINA', 'KENYA',
                 'JAPAN'])[n + 1], (ARRAY[3, 3, 1, 1, 4, 2, 1, 2, 0, 2])[n + 1]
  FROM generate_series(0, 9) n;
INSERT INTO supplier
SELECT n, 'Supplier ' || n, 'street ' || n, n % 10, 10 + draw(25) || '-' || n, draw(10000) - 999,
       draw('fine', 'slow', 'Customer Complaints')
  FROM generate_series(1, 20) n;
INSERT INTO customer
SELECT n, 'Customer ' || n, 'street ' || n, n % 10, 10 + draw(25) || '-' || n, draw(10000) - 999,
       draw('BUILDING', 'AUTOMOBILE', 'MACHINERY', 'HOUSEHOLD', 'FURNITURE'), 'none'
  FROM generate_series(1, 150) n;
INSERT INTO part
SELECT n, draw('forest', 'green', 'red', 'blue') || ' ' || draw('lace', 'navy', 'plum'),
       'Manufacturer ' || 1 + n % 5, 'Brand#' || 1 + n % 5 || 1 + draw(5),
       draw('STANDARD', 'SMALL', 'MEDIUM', 'PROMO', 'ECONOMY') || ' '
           || draw('ANODIZED', 'POLISHED', 'PLATED') || ' ' || draw('TIN', 'STEEL', 'BRASS'),
       1 + draw(20), draw('SM', 'MED', 'LG') || ' ' || draw('CASE', 'BOX', 'PACK', 'PKG', 'BAG')
  FROM generate_series(1, 200) n;
INSERT INTO partsupp
SELECT p, 1 + (p + s * 5) % 20, 1 + draw(9999), 1 + draw(99900) / 100.0
  FROM generate_series(1, 200) p, generate_series(0, 3) s;
CALL add_orders(1, 1500);
ANALYZE;
