//! What views read, and views themselves, change under us: nothing is claimed that is not so.

use adversity_tests::{assert_honest, capture, settle, state, stays_honest};
use cluster_tests::{Scratch, Session, seconds};

const S: &str = "SELECT id, x FROM s";

/// Table `s`, and `seen`, a view of it that has made trigger and log already.
fn start(name: &'static str) -> Scratch {
    let mut db = Scratch::new(name);
    db.run("CREATE TABLE s (id int PRIMARY KEY, x text); INSERT INTO s SELECT i, 'x' || i FROM generate_series(1, 100) i");
    capture(&mut db, "seen", "id", "SELECT id, x FROM s");
    db
}

fn change(db: &mut Session, table: &str) {
    db.run(&format!("UPDATE {table} SET x = x || '.' WHERE id = (SELECT min(id) FROM {table})"));
}

#[test]
fn a_view_made_anew_is_told_of_changes_though_another_has_made_the_log() {
    let mut db = start("made_anew");
    capture(&mut db, "v", "id", S);
    for _ in 0..5 {
        db.run(&format!("BEGIN; DROP MATERIALIZED VIEW v; CREATE MATERIALIZED VIEW v AS {S}; CREATE UNIQUE INDEX ON v (id); COMMIT"));
        settle(&mut db, "v", S);
        change(&mut db, "s");
        settle(&mut db, "v", S);
        assert_eq!(state(&mut db, "v", S), (true, 0));
    }
}

#[test]
fn a_view_that_reads_more_than_before_is_told_of_that_too() {
    let mut db = start("reads_more");
    db.run(
        "CREATE TABLE s2 (id int PRIMARY KEY, x text); INSERT INTO s2 SELECT i, 'y' || i FROM generate_series(101, 200) i;
         CREATE VIEW beneath AS SELECT id, x FROM s;
         CREATE TABLE p (id int, x text) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100); INSERT INTO p SELECT i, 'p' || i FROM generate_series(1, 50) i;
         CREATE TABLE p2 (id int PRIMARY KEY, x text); INSERT INTO p2 SELECT i, 'q' || i FROM generate_series(100, 150) i;
         CREATE TABLE parent (id int, x text); INSERT INTO parent VALUES (1, 'one');
         CREATE TABLE child (id int PRIMARY KEY, x text); INSERT INTO child VALUES (2, 'two')",
    );
    capture(&mut db, "seen_2", "id", "SELECT id, x FROM s2");
    capture(&mut db, "seen_3", "id", "SELECT id, x FROM p2");
    capture(&mut db, "seen_4", "id", "SELECT id, x FROM child");
    for (view, query, more, table) in [
        (
            "v",
            "SELECT id, x FROM beneath",
            "CREATE OR REPLACE VIEW beneath AS SELECT id, x FROM s UNION ALL SELECT id, x FROM s2",
            "s2",
        ),
        (
            "w",
            "SELECT id, x FROM p",
            "ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (100) TO (200)",
            "p2",
        ),
        ("u", "SELECT id, x FROM parent", "ALTER TABLE child INHERIT parent", "child"),
    ] {
        capture(&mut db, view, "id", query);
        db.run(more);
        settle(&mut db, view, query);
        change(&mut db, table);
        settle(&mut db, view, query);
    }
}

#[test]
fn what_is_no_table_is_never_proved() {
    let mut db = start("no_table");
    db.run("CREATE SEQUENCE counter");
    for (view, query) in [
        ("v", "SELECT id, (SELECT last_value FROM counter) AS last FROM s"),
        ("w", "SELECT s.id, xmlelement(name q, s.x)::text AS x FROM s"),
        (
            "u",
            "SELECT 1 AS id, id AS number FROM xmltable('/r/i' PASSING ('<r><i>1</i></r>'::xml) COLUMNS id int PATH '.')",
        ),
    ] {
        db.run(&format!(
            "CREATE MATERIALIZED VIEW {view} AS {query}; CREATE UNIQUE INDEX ON {view} (id);
             SELECT cache_refresher.register('{view}', refresh_interval => '1 year', on_change => true, debounce => '0')"
        ));
        db.refresh(view);
        db.refresh(view);
        db.run("SELECT nextval('counter')");
        stays_honest(&mut db, view, query);
        let reason: String = db.get(&format!(
            "SELECT reason FROM cache_refresher.explain('{view}') WHERE method = 'skip'"
        ));
        assert!(
            reason.contains("neither a table nor a view") || reason.contains("XML"),
            "{reason}"
        );
    }
}

#[test]
fn a_partition_that_is_being_detached_is_noticed() {
    let mut db = Scratch::new("detached");
    db.run(
        "CREATE TABLE p (id int, k int, x text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
         CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);
         INSERT INTO p SELECT i, 1 + i % 2, 'x' || i FROM generate_series(1, 100) i",
    );
    let query = "SELECT id, k, x FROM p";
    capture(&mut db, "v", "id, k", query);
    // A reader keeps the statement from ending, and it gives up half way.
    let mut reader = db.connect();
    reader.run("BEGIN; SELECT count(*) FROM p");
    db.run("SET statement_timeout = '500ms'");
    db.error_of("ALTER TABLE p DETACH PARTITION p2 CONCURRENTLY");
    db.run("SET statement_timeout = '60s'");
    reader.run("COMMIT");
    settle(&mut db, "v", query);
    db.run("UPDATE p SET x = 'changed' WHERE id = 2; UPDATE p SET x = 'changed' WHERE id = 3");
    settle(&mut db, "v", query);
    db.run("ALTER TABLE p DETACH PARTITION p2 FINALIZE");
    settle(&mut db, "v", query);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM v"), 50);
}

#[test]
fn functions_that_are_called_by_others_are_noticed_when_they_are_replaced() {
    let mut db = start("functions");
    db.run(
        "CREATE FUNCTION by_operator(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * $2';
         CREATE OPERATOR ### (LEFTARG = int, RIGHTARG = int, FUNCTION = by_operator);
         CREATE FUNCTION inside(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 1';
         CREATE FUNCTION outside(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN public.inside($1) * 10; END';
         CREATE TEXT SEARCH CONFIGURATION words (COPY = english)",
    );
    for (view, query, replaced) in [
        (
            "v",
            "SELECT id, id ### 2 AS y FROM s",
            "CREATE OR REPLACE FUNCTION by_operator(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * $2 + 1'",
        ),
        (
            "w",
            "SELECT id, outside(id) AS y FROM s",
            "CREATE OR REPLACE FUNCTION inside(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 2'",
        ),
        (
            "u",
            "SELECT id, to_tsvector('words', 'running ' || x) AS y FROM s",
            "ALTER TEXT SEARCH CONFIGURATION words ALTER MAPPING FOR asciiword WITH simple",
        ),
    ] {
        capture(&mut db, view, "id", query);
        // A plan with the old function in it may be kept by a session for a while, which is the server's way.
        db.run(replaced);
        db.run("DISCARD PLANS");
        stays_honest(&mut db, view, query);
    }
}

#[test]
fn what_is_changed_and_changed_back_in_one_transaction_is_noticed() {
    let mut db = start("back_again");
    db.run("CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'");
    let query = "SELECT id, f(id) AS y FROM s";
    capture(&mut db, "v", "id", query);
    db.run(
        "BEGIN; CREATE OR REPLACE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 3';
         SELECT cache_refresher.refresh('v');
         CREATE OR REPLACE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 4'; COMMIT",
    );
    stays_honest(&mut db, "v", query);
    db.run(
        "BEGIN; ALTER TABLE s DISABLE TRIGGER cache_refresher_capture; ALTER TABLE s ENABLE ALWAYS TRIGGER cache_refresher_capture;
         SELECT cache_refresher.refresh('seen');
         ALTER TABLE s DISABLE TRIGGER cache_refresher_capture; INSERT INTO s VALUES (5001, 'unseen');
         ALTER TABLE s ENABLE ALWAYS TRIGGER cache_refresher_capture; COMMIT",
    );
    stays_honest(&mut db, "seen", S);
}

#[test]
fn settings_of_whoever_refreshes_change_nothing() {
    let mut db = start("own_settings");
    db.run("CREATE TABLE g (id int PRIMARY KEY, a int[]); INSERT INTO g SELECT i, ARRAY[1, 2, i] FROM generate_series(1, 20000) i;
            CREATE INDEX ON g USING gin (a); ANALYZE g");
    for (view, query) in [
        ("v", "SELECT id, quote_ident(x) AS y, to_char(id, '9G999D9') AS z FROM s"),
        ("w", "SELECT id, timestamp '2020-01-01' AT TIME ZONE 'EST' AS at FROM s"),
        ("x", "SELECT id FROM g WHERE a @> ARRAY[1]"),
    ] {
        capture(&mut db, view, "id", query);
        db.run(&format!(
            "SET quote_all_identifiers = on; SET xmlbinary = hex; SET timezone_abbreviations = 'Australia';
             SET gin_fuzzy_search_limit = 100; SET enable_seqscan = off;
             SELECT cache_refresher.refresh('{view}', 'diff'); RESET ALL"
        ));
        assert_honest(&mut db, view, query);
    }
}

#[test]
fn a_registered_method_is_for_views_that_have_content() {
    let mut db = start("unpopulated");
    for method in ["diff", "concurrent"] {
        db.run(&format!(
            "CREATE MATERIALIZED VIEW of_{method} AS {S} WITH NO DATA; CREATE UNIQUE INDEX ON of_{method} (id);
             SELECT cache_refresher.register('of_{method}', refresh_interval => '500 ms', method => '{method}')"
        ));
        db.wait_for_refreshes(&format!("of_{method}"), 2);
        assert_eq!(db.logged(&format!("of_{method}"), "failed"), 0);
        let refusal = db.error_of(&format!(
            "REFRESH MATERIALIZED VIEW of_{method} WITH NO DATA; SELECT cache_refresher.pause('of_{method}');
             SELECT cache_refresher.refresh('of_{method}', '{method}')"
        ));
        assert_eq!(refusal.code().code(), "55000", "who asks for it by name gets it or an error");
    }
}

#[test]
fn capture_that_is_broken_is_mended_before_the_interval() {
    let mut db = start("mended");
    for breaking in [
        "DROP TRIGGER cache_refresher_capture ON s",
        "ALTER TABLE s DISABLE TRIGGER ALL",
        "DO $$ BEGIN EXECUTE format('ALTER EXTENSION cache_refresher DROP TABLE _cache_refresher.changes_%s; DROP TABLE _cache_refresher.changes_%1$s', 's'::regclass::oid); END $$",
    ] {
        db.run(breaking);
        change(&mut db, "s");
        // Whoever refreshes by hand meanwhile does not make it worse.
        db.refresh("seen");
        assert_honest(&mut db, "seen", S);
        db.wait_for(
            "it is mended",
            seconds(15),
            "SELECT cache_refresher.freshness('seen') ->> 'staleness' = 'fresh'",
        );
        change(&mut db, "s");
        settle(&mut db, "seen", S);
    }
}

#[test]
fn what_composite_types_are_made_of_is_noticed() {
    let mut db = Scratch::new("composite_types");
    db.run(
        "CREATE TYPE place AS (street text, city text); CREATE DOMAIN home AS place;
         CREATE TYPE person AS (name text, lives home[]);
         CREATE TABLE t (id int PRIMARY KEY, at place, who person);
         INSERT INTO t SELECT i, ROW('s', 'c')::place, ROW('n', ARRAY[ROW('s', 'c')::place::home])::person FROM generate_series(1, 3) i;
         CREATE MATERIALIZED VIEW v AS SELECT id, at IS NOT NULL AS complete, (who).lives[1]::place IS NOT NULL AS lives FROM t;
         CREATE UNIQUE INDEX ON v (id);
         SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true,
                                         debounce => '1 hour', max_staleness => '1 hour')",
    );
    db.refresh("v");
    let query =
        "SELECT id, at IS NOT NULL AS complete, (who).lives[1]::place IS NOT NULL AS lives FROM t";
    for change in ["ALTER TYPE place ADD ATTRIBUTE zip text", "ALTER TYPE place DROP ATTRIBUTE zip"]
    {
        let staleness = "SELECT staleness FROM cache_refresher.status";
        assert_eq!(db.get::<String>(staleness), "fresh");
        db.run(change);
        assert_eq!(db.get::<String>(staleness), "unknown");
        assert_eq!(db.refresh("v"), "refreshed");
        assert_eq!(db.difference("v", &format!("({query})")), None);
    }
}

#[test]
fn what_functions_find_by_name_or_type_is_noticed() {
    let mut db = Scratch::new("found_by_name");
    db.run(
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2);
         CREATE SCHEMA s1; CREATE SCHEMA s2;
         CREATE FUNCTION s1.ins(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 1';
         CREATE FUNCTION s2.ins(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 2';
         CREATE FUNCTION by_schema(int) RETURNS int IMMUTABLE LANGUAGE plpgsql SET search_path = s1, s2 AS 'BEGIN RETURN ins($1); END';
         CREATE OPERATOR ### (leftarg = int, rightarg = int, function = int4pl);
         CREATE FUNCTION by_operator(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 OPERATOR(public.###) 3; END';
         CREATE FUNCTION icmp(int, int) RETURNS int IMMUTABLE STRICT LANGUAGE sql AS
             'SELECT CASE WHEN $1 < $2 THEN -1 WHEN $1 > $2 THEN 1 ELSE 0 END';
         CREATE OPERATOR CLASS by_icmp FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =,
             OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 icmp(int, int);
         CREATE TYPE ours AS RANGE (subtype = int, subtype_opclass = by_icmp);
         CREATE TABLE r (id int PRIMARY KEY, r ours); INSERT INTO r VALUES (1, '[1,5)');
         CREATE TYPE pair AS (x int, y int); CREATE TYPE mood AS ENUM ('sad', 'ok');
         CREATE TABLE c (id int PRIMARY KEY, p pair, m mood); INSERT INTO c VALUES (1, (1, 2), 'sad');
         CREATE FUNCTION label(mood) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1::text; END';
         CREATE FUNCTION as_json(pair) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN to_jsonb($1)::text; END';
         CREATE FUNCTION as_text(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN enum_range(NULL::public.mood)::text; END';
         CREATE DOMAIN eur AS numeric(10, 2);
         CREATE TYPE named AS (y int, z int);
         CREATE FUNCTION as_named(int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN to_jsonb(ROW($1, 2)::public.named)::text; END';
         CREATE DOMAIN tags AS numeric(10, 2)[];
         CREATE FUNCTION as_tags(int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN ARRAY[$1 / 8.0]::public.tags::text; END';
         CREATE DOMAIN small AS int;
         CREATE FUNCTION is_small(int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
             'BEGIN RETURN $1::public.small::text; EXCEPTION WHEN check_violation THEN RETURN ''no''; END';
         CREATE FUNCTION as_eur(int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN ($1 / 8.0)::public.eur::text; END';
         CREATE COLLATION cc FROM \"C\";
         CREATE FUNCTION lower_first(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 < ''B'' COLLATE public.cc; END';
         CREATE FUNCTION jcmp(json, json) RETURNS int IMMUTABLE STRICT LANGUAGE sql AS 'SELECT length($1::text) - length($2::text)';
         CREATE FUNCTION jeq(json, json) RETURNS boolean IMMUTABLE STRICT LANGUAGE sql AS 'SELECT public.jcmp($1, $2) = 0';
         CREATE OPERATOR === (leftarg = json, rightarg = json, function = jeq);
         CREATE OPERATOR CLASS by_jcmp DEFAULT FOR TYPE json USING btree AS OPERATOR 3 ===, FUNCTION 1 jcmp(json, json);
         CREATE TABLE j (id int PRIMARY KEY, a json[], b json[]); INSERT INTO j VALUES (1, ARRAY['1'::json], ARRAY['2'::json])",
    );
    for (query, change) in [
        ("SELECT id, by_schema(id) AS x FROM t", "ALTER SCHEMA s1 RENAME TO s3"),
        (
            "SELECT id, by_operator(id) AS x FROM t",
            "DROP OPERATOR ### (int, int); CREATE OPERATOR ### (leftarg = int, rightarg = int, function = int4mi)",
        ),
        (
            "SELECT id, r @> 4 AS x FROM r",
            "CREATE OR REPLACE FUNCTION icmp(int, int) RETURNS int IMMUTABLE STRICT LANGUAGE sql AS
             'SELECT CASE WHEN $1 / 4 < $2 / 4 THEN -1 WHEN $1 / 4 > $2 / 4 THEN 1 ELSE 0 END'",
        ),
        ("SELECT id, as_json(p) AS x FROM c", "ALTER TYPE pair RENAME ATTRIBUTE x TO z"),
        ("SELECT id, label(m) AS x FROM c", "ALTER TYPE mood RENAME VALUE 'sad' TO 'gloomy'"),
        ("SELECT id, as_text('x') AS x FROM t", "ALTER TYPE mood RENAME VALUE 'gloomy' TO 'sad'"),
        (
            "SELECT id, as_eur(id) AS x FROM t",
            "DROP DOMAIN eur; CREATE DOMAIN eur AS numeric(10, 3)",
        ),
        ("SELECT id, as_named(id) AS x FROM t", "ALTER TYPE named RENAME ATTRIBUTE z TO q"),
        (
            "SELECT id, as_tags(id) AS x FROM t",
            "DROP DOMAIN tags; CREATE DOMAIN tags AS numeric(10, 3)[]",
        ),
        ("SELECT id, is_small(id) AS x FROM t", "ALTER DOMAIN small ADD CHECK (VALUE > 5)"),
        (
            "SELECT id, lower_first('a') AS x FROM t",
            "DROP COLLATION cc; CREATE COLLATION cc (provider = icu, locale = 'und')",
        ),
        (
            "SELECT id, a = b AS x FROM j",
            "CREATE OR REPLACE FUNCTION jcmp(json, json) RETURNS int IMMUTABLE STRICT LANGUAGE sql AS 'SELECT 1'",
        ),
    ] {
        db.run(&format!(
            "CREATE MATERIALIZED VIEW v AS {query}; CREATE UNIQUE INDEX ON v (id);
             SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true,
                                             debounce => '1 hour', max_staleness => '1 hour')"
        ));
        // Not at once if roles are made meanwhile, as other tests do.
        db.wait(
            "it is fresh",
            "SELECT count(r) = 1 AND (SELECT staleness = 'fresh' FROM cache_refresher.status) FROM cache_refresher.refresh('v') r",
        );
        db.run(change);
        assert_eq!(
            db.get::<String>("SELECT staleness FROM cache_refresher.status"),
            "unknown",
            "what this session remembers: {change}"
        );
        // What a session has compiled it goes by.
        let mut db = db.connect();
        assert_eq!(
            db.get::<String>("SELECT staleness FROM cache_refresher.status"),
            "unknown",
            "{change}"
        );
        db.refresh("v");
        assert_eq!(db.difference("v", &format!("({query})")), None, "{change}");
        db.run("SELECT cache_refresher.unregister('v'); DROP MATERIALIZED VIEW v");
    }
}

#[test]
fn all_views_of_a_table_can_be_refreshed_in_one_statement() {
    let mut db = Scratch::new("one_statement");
    db.run("CREATE TABLE t (id int PRIMARY KEY, x text); INSERT INTO t SELECT i, 'x' FROM generate_series(1, 10) i");
    for view in ["v", "w", "u"] {
        db.run(&format!(
            "CREATE MATERIALIZED VIEW {view} AS SELECT id, x FROM t; CREATE UNIQUE INDEX ON {view} (id);
             SELECT cache_refresher.register('{view}', refresh_interval => '1 year', on_change => true, debounce => '1 hour', max_staleness => '1 day')"
        ));
    }
    for together in [
        "SELECT count(*) FROM cache_refresher.refresh_all() WHERE outcome = 'refreshed'",
        "SELECT count(*) FROM cache_refresher.refresh_together('{v,w,u}') WHERE outcome = 'refreshed'",
    ] {
        // Nothing is known of them then.
        db.run(
            "REFRESH MATERIALIZED VIEW v; REFRESH MATERIALIZED VIEW w; REFRESH MATERIALIZED VIEW u",
        );
        change(&mut db, "t");
        assert_eq!(db.get::<i64>(together), 3, "{together}");
    }
}

#[test]
fn row_security_is_seen_however_far_above_a_partition_it_is() {
    let mut db = start("row_security");
    db.run(
        "CREATE TABLE p (id int, tenant int) PARTITION BY LIST (tenant);
         CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1, 2) PARTITION BY LIST (id);
         CREATE TABLE p11 PARTITION OF p1 DEFAULT;
         CREATE TABLE allowed (tenant int); INSERT INTO allowed VALUES (1);
         INSERT INTO p VALUES (1, 1), (2, 2);
         ALTER TABLE p ENABLE ROW LEVEL SECURITY;
         CREATE POLICY allowed ON p USING (tenant IN (SELECT tenant FROM allowed));
         CREATE ROLE guard_far; GRANT SELECT, TRIGGER ON p, p1, p11, allowed TO guard_far; GRANT CREATE ON SCHEMA public TO guard_far;
         CREATE MATERIALIZED VIEW v AS SELECT id, tenant FROM p;
         ALTER MATERIALIZED VIEW v OWNER TO guard_far",
    );
    db.run("SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true)");
    db.refresh("v");
    db.refresh("v");
    assert_eq!(db.get::<i64>("SELECT count(*) FROM v"), 1);
    assert_eq!(
        db.get::<String>("SELECT cache_refresher.freshness('v') ->> 'staleness'"),
        "unknown"
    );
}

/// Whether `guarded_view` is called fresh, and how many of the two rows of `guarded` it shows.
fn guarded(db: &mut Session) -> (bool, i64) {
    (
        db.get("SELECT cache_refresher.freshness('guarded_view') ->> 'staleness' = 'fresh'"),
        db.get("SELECT count(*) FROM guarded_view"),
    )
}

/// Table `guarded`, whose row security lets one of its two rows through, and `guarded_view` of it, which a role
/// owns that is not the table's owner.
fn start_guarded(name: &'static str, keeper: &str, query: &str, first: &str) -> Scratch {
    let mut db = start(name);
    db.run(&format!(
        "CREATE TABLE guarded (id int PRIMARY KEY); INSERT INTO guarded VALUES (1), (2);
         ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
         CREATE POLICY first ON guarded USING (id = 1);
         GRANT SELECT, TRIGGER ON guarded TO PUBLIC; GRANT CREATE ON SCHEMA public TO {keeper};
         CREATE VIEW guarded_plain AS SELECT id FROM guarded; GRANT SELECT ON guarded_plain TO PUBLIC;
         CREATE MATERIALIZED VIEW guarded_view AS {query} WITH NO DATA;
         CREATE UNIQUE INDEX ON guarded_view (id);
         ALTER MATERIALIZED VIEW guarded_view OWNER TO {keeper};
         {first};
         SELECT cache_refresher.register('guarded_view', refresh_interval => '1 year', on_change => true, debounce => '1 hour',
                                         max_staleness => '1 day')"
    ));
    db.refresh("guarded_view");
    db.refresh("guarded_view");
    db
}

#[test]
fn row_security_counts_where_it_applies_to_the_owner_of_the_view() {
    let mut roles = Scratch::new("row_security_roles");
    roles.run(
        "CREATE ROLE guard_bypasses BYPASSRLS; CREATE ROLE guard_member; CREATE ROLE guard_owner",
    );
    let of_table = "SELECT id FROM guarded";
    for (keeper, applies, applies_not) in [
        (
            "guard_bypasses",
            "ALTER ROLE guard_bypasses NOBYPASSRLS",
            "ALTER ROLE guard_bypasses BYPASSRLS",
        ),
        (
            "guard_member",
            "REVOKE guard_owner FROM guard_member",
            "GRANT guard_owner TO guard_member",
        ),
        (
            "guard_owner",
            "ALTER TABLE guarded FORCE ROW LEVEL SECURITY",
            "ALTER TABLE guarded NO FORCE ROW LEVEL SECURITY",
        ),
    ] {
        let first = format!("ALTER TABLE guarded OWNER TO guard_owner; {applies_not}");
        let mut db = start_guarded("row_security_applies", keeper, of_table, &first);
        assert_eq!(guarded(&mut db), (true, 2), "{keeper}: {applies_not}");
        db.run("UPDATE guarded SET id = 3 WHERE id = 2");
        assert_eq!(
            db.get::<String>("SELECT method FROM cache_refresher.refresh('guarded_view')"),
            "delta"
        );
        db.run(applies);
        assert_eq!(guarded(&mut db), (false, 2), "{applies}");
        db.refresh("guarded_view");
        assert_eq!(guarded(&mut db), (false, 1), "{applies}");
        db.run(applies_not);
        assert_eq!(guarded(&mut db), (false, 1), "{applies_not}");
        db.refresh("guarded_view");
        db.refresh("guarded_view");
        assert_eq!(guarded(&mut db), (true, 2), "{applies_not}");
        assert_eq!(
            db.get::<String>("SELECT method FROM cache_refresher.refresh('guarded_view')"),
            "skip"
        );
    }
}

#[test]
fn row_security_counts_where_it_applies_to_the_owner_of_a_plain_view() {
    let mut roles = Scratch::new("row_security_views");
    roles.run("CREATE ROLE guard_over BYPASSRLS; CREATE ROLE guard_beneath");
    let mut db =
        start_guarded("row_security_beneath", "guard_over", "SELECT id FROM guarded_plain", "");
    assert_eq!(guarded(&mut db), (true, 2));
    db.run("ALTER VIEW guarded_plain OWNER TO guard_beneath");
    assert_eq!(guarded(&mut db), (false, 2));
    db.refresh("guarded_view");
    assert_eq!(guarded(&mut db), (false, 1));
    // It is asked for on behalf of whoever reads it then.
    if cluster_tests::Installation::get().major() >= 15 {
        db.run("ALTER VIEW guarded_plain SET (security_invoker = on)");
        db.refresh("guarded_view");
        assert_eq!(guarded(&mut db).1, 2);
    }
}

#[test]
fn text_search_that_rows_name_is_noticed_when_it_is_changed() {
    let mut db = start("text_search");
    db.run(
        "CREATE TEXT SEARCH CONFIGURATION my (COPY = english);
         CREATE TABLE docs (id int PRIMARY KEY, cfg regconfig, body text); INSERT INTO docs VALUES (1, 'my', 'running dogs')",
    );
    let query = "SELECT id, to_tsvector(cfg, body)::text AS v FROM docs";
    capture(&mut db, "v", "id", query);
    db.run("ALTER TEXT SEARCH CONFIGURATION my ALTER MAPPING FOR asciiword WITH simple");
    assert_honest(&mut db, "v", query);
    db.refresh("v");
    settle(&mut db, "v", query);
}

#[test]
fn a_view_of_a_view_is_not_proved_where_a_refresh_by_hand_goes_unseen() {
    let mut db = start("unseen");
    capture(&mut db, "child", "id", "SELECT id, x FROM seen");
    db.run("SELECT cache_refresher.pause('seen'), cache_refresher.pause('child')");
    change(&mut db, "s");
    db.run(
        "ALTER EVENT TRIGGER cache_refresher_content_replaced DISABLE;
         REFRESH MATERIALIZED VIEW CONCURRENTLY seen;
         ALTER EVENT TRIGGER cache_refresher_content_replaced ENABLE ALWAYS;
         SELECT cache_refresher.refresh('seen')",
    );
    assert_honest(&mut db, "child", "SELECT id, x FROM seen");
    db.refresh("child");
    assert_eq!(state(&mut db, "child", "SELECT id, x FROM seen").1, 0);
}

#[test]
fn rows_are_counted_anew_after_a_refresh_by_hand() {
    let mut db = start("counted");
    db.run("CREATE MATERIALIZED VIEW v AS TABLE s; CREATE UNIQUE INDEX ON v (id)");
    db.run("SELECT cache_refresher.register('v', refresh_interval => '1 year'); DELETE FROM s; SELECT cache_refresher.refresh('v')");
    db.run("INSERT INTO s SELECT i, 'x' FROM generate_series(1, 10) i; REFRESH MATERIALIZED VIEW v; DELETE FROM s WHERE id < 4");
    let rows: i64 =
        db.get("SELECT rows_total FROM cache_refresher.invalidate('v', ARRAY[1, 2, 3])");
    assert_eq!(rows, 7);
}

#[test]
fn a_view_that_was_refreshed_with_full_is_proved_like_others() {
    let mut db = start("with_full");
    db.run("SELECT cache_refresher.pause('seen')");
    change(&mut db, "s");
    assert_eq!(
        db.get::<String>("SELECT method FROM cache_refresher.refresh('seen', 'full')"),
        "full"
    );
    assert_eq!(state(&mut db, "seen", S), (true, 0));
    assert_eq!(db.refresh("seen"), "skipped");
}

#[test]
fn views_go_on_under_owners_that_change() {
    let mut db = start("owners");
    db.run(
        "CREATE ROLE first_owner LOGIN; CREATE ROLE second_owner;
         GRANT ALL ON SCHEMA public TO first_owner, second_owner; GRANT SELECT, TRIGGER ON s TO first_owner, second_owner;
         SET ROLE first_owner; CREATE MATERIALIZED VIEW v AS SELECT id, x FROM s; CREATE UNIQUE INDEX ON v (id);
         SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true, debounce => '0'); RESET ROLE",
    );
    for change_of_owner in [
        "SELECT",
        "ALTER ROLE first_owner NOLOGIN; ALTER ROLE first_owner SET search_path = nowhere; ALTER ROLE first_owner SET statement_timeout = '1ms'",
        "REASSIGN OWNED BY first_owner TO second_owner",
        "DROP OWNED BY first_owner; DROP ROLE first_owner",
        "ALTER ROLE second_owner RENAME TO third_owner",
    ] {
        db.run(change_of_owner);
        change(&mut db, "s");
        settle(&mut db, "v", S);
    }
    db.run("DROP OWNED BY third_owner CASCADE; DROP ROLE third_owner");
    change(&mut db, "s");
    settle(&mut db, "seen", S);
}
