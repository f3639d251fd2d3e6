//! What happens around a diff: sources that change under it, row security, tablespaces, transactions.

use cluster_tests::{Scratch, Server, Session};

use crate::counts;

/// Locks `v_source`, calls a diff that has to wait for it, and makes the change before letting go.
fn change_before_the_lock(db: &mut Scratch, change: &str) {
    // Waiting is what this is about.
    let patient = format!("ALTER DATABASE {} SET cache_refresher.lock_timeout = '20s'", db.name());
    db.run(&patient);
    let mut holder = db.connect();
    holder.run("BEGIN; LOCK TABLE v_source IN ACCESS EXCLUSIVE MODE");
    let statement = "SELECT cache_refresher.refresh('v', method => 'diff')";
    let diff = db.server().background(db.name(), statement);
    db.wait(
        "the diff waits for the table",
        "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'v_source'::regclass AND NOT granted",
    );
    holder.run(change);
    holder.run("COMMIT");
    diff.join().unwrap().unwrap();
    db.assert_shows_its_query("v");
    db.assert_sound("v");
}

#[test]
fn a_source_that_is_truncated_between_call_and_lock_is_shown_as_it_is_then() {
    let mut db = Scratch::new("diff_truncated");
    db.create_view("v", 10);
    let refill = "TRUNCATE v_source; INSERT INTO v_source SELECT i, 3 FROM generate_series(1, 5) i";
    change_before_the_lock(&mut db, refill);
    assert_eq!(db.get::<i64>("SELECT sum(value) FROM v"), 15);
}

#[test]
fn a_source_that_is_rewritten_between_call_and_lock_is_shown_as_it_is_then() {
    let mut db = Scratch::new("diff_rewritten");
    db.create_view("v", 10);
    let rewrite = "ALTER TABLE v_source ADD COLUMN extra float8 DEFAULT random();
                   UPDATE v_source SET value = 4 WHERE id = 1";
    change_before_the_lock(&mut db, rewrite);
    assert_eq!(db.get::<i64>("SELECT sum(value) FROM v"), 4);
}

#[test]
fn a_source_that_loses_a_column_is_shown_all_the_same() {
    let mut db = Scratch::new("diff_lost_column");
    db.run(
        "CREATE TABLE t (gone text, id int PRIMARY KEY, gone_too numeric, value text);
         INSERT INTO t SELECT 'x', i, i, 'value ' || i FROM generate_series(1, 100) i;
         CREATE MATERIALIZED VIEW v AS SELECT id, value FROM t;
         CREATE UNIQUE INDEX ON v (id)",
    );
    db.run("ALTER TABLE t DROP COLUMN gone, DROP COLUMN gone_too");
    db.run("UPDATE t SET value = 'new' WHERE id <= 10; INSERT INTO t VALUES (0, 'zero')");
    assert_eq!(db.diff("v"), counts(101, 1, 10, 0));
    db.assert_shows_its_query("v");
}

#[test]
fn a_transaction_that_keeps_one_snapshot_is_refused() {
    let mut db = Scratch::new("diff_isolation");
    db.create_view("v", 10);
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        db.run(&format!("BEGIN ISOLATION LEVEL {level}"));
        let refusal = db.error_of("SELECT cache_refresher.refresh('v', method => 'diff')");
        assert_eq!(refusal.code().code(), "25001", "{level}: {refusal}");
        assert!(refusal.hint().is_some_and(|hint| hint.contains("READ COMMITTED")));
        db.run("ROLLBACK");
    }
}

#[test]
fn a_read_only_transaction_is_refused() {
    let mut db = Scratch::new("diff_read_only");
    db.create_view("v", 10);
    db.run("BEGIN READ ONLY");
    let refusal = db.error_of("SELECT cache_refresher.refresh('v', method => 'diff')");
    assert_eq!(refusal.code().code(), "25006", "{refusal}");
    db.run("ROLLBACK");
}

/// The tenants that a view of `visible_rows` shows.
fn tenants(db: &mut Session, view: &str) -> String {
    db.get(&format!("SELECT coalesce(string_agg(DISTINCT tenant, ','), '') FROM {view}"))
}

#[test]
fn row_security_that_applies_to_the_owner_decides_what_a_diff_shows() {
    let mut db = Scratch::new("diff_policies");
    db.run(
        "CREATE ROLE diff_owner LOGIN;
         GRANT ALL ON SCHEMA public TO diff_owner;
         CREATE TABLE entries (id int PRIMARY KEY, tenant text);
         INSERT INTO entries SELECT i, chr(97 + i % 3) FROM generate_series(1, 30) i;
         CREATE TABLE chosen (tenant text);
         INSERT INTO chosen VALUES ('a');
         ALTER TABLE entries ENABLE ROW LEVEL SECURITY;
         CREATE POLICY only_chosen ON entries TO diff_owner
             USING (tenant IN (SELECT c.tenant FROM public.chosen c));
         GRANT SELECT ON entries, chosen TO diff_owner",
    );
    let mut owner = db.connect_as("diff_owner");
    owner.run(
        "CREATE MATERIALIZED VIEW v AS SELECT id, tenant FROM entries;
         CREATE UNIQUE INDEX ON v (id);
         CREATE MATERIALIZED VIEW twin AS SELECT id, tenant FROM entries",
    );
    assert_eq!(tenants(&mut owner, "v"), "a");
    db.run("UPDATE chosen SET tenant = 'b'");
    // The superuser, to whom no policy applies, refreshes as the owner.
    assert_eq!(db.diff("v"), counts(10, 10, 0, 10));
    assert_eq!(tenants(&mut db, "v"), "b");
    db.run("INSERT INTO chosen VALUES ('c')");
    assert_eq!(owner.diff("v"), counts(20, 10, 0, 0));
    db.run("REFRESH MATERIALIZED VIEW twin");
    assert_eq!(db.difference("v", "twin"), None);
    db.run("ALTER TABLE entries DISABLE ROW LEVEL SECURITY");
    assert_eq!(db.diff("v"), counts(30, 10, 0, 0));
    drop(owner);
    db.run("DROP OWNED BY diff_owner CASCADE; DROP ROLE diff_owner");
}

#[test]
fn a_view_stays_in_its_tablespace() {
    let server = Server::builder().start();
    let folder = server.new_folder("elsewhere");
    let mut db = server.create_database("app");
    db.run(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", folder.display()));
    db.run(
        "CREATE TABLE t (id int PRIMARY KEY, note text);
         INSERT INTO t SELECT i, i FROM generate_series(1, 100) i;
         CREATE MATERIALIZED VIEW v TABLESPACE elsewhere AS SELECT * FROM t;
         CREATE UNIQUE INDEX ON v (id) TABLESPACE elsewhere",
    );
    let files = "SELECT string_agg(pg_relation_filepath(oid), ' ' ORDER BY oid) FROM pg_class
                 WHERE relname LIKE 'v%' AND relnamespace = 'public'::regnamespace";
    let before: String = db.get(files);
    assert_eq!(before.matches("pg_tblspc/").count(), 2, "{before}");
    // Long values go to the view's TOAST table, which lies there too.
    db.run(
        "UPDATE t SET note = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 300) i)
             WHERE id <= 10;
         DELETE FROM t WHERE id > 90; INSERT INTO t VALUES (0, 'zero')",
    );
    assert_eq!(db.diff("v"), counts(91, 1, 10, 10));
    assert_eq!(db.get::<String>(files), before);
    db.assert_shows_its_query("v");
    db.assert_sound("v");
}
