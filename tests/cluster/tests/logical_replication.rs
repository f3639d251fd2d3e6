//! Views on tables that logical replication writes to: its workers run no statements, have
//! `session_replication_role` set to `replica`, and act as the table's owner since PostgreSQL 16.

use cluster_tests::{Installation, Scratch, Server, Session};

const FRESH: &str = "SELECT cache_refresher.freshness('names') ->> 'staleness' = 'fresh'";
/// How many transactions have been sent before they had committed.
const STREAMED: &str = "SELECT sum(stream_txns)::int8 FROM pg_stat_replication_slots";

/// Table `item` on two servers; on the second one the view `names`, refreshed by changes only. Whoever owns
/// both there is neither a superuser nor the subscription's owner.
struct Pair {
    publisher: Session,
    subscriber: Session,
    _subscribing: Server,
    publishing: Server,
}

impl Pair {
    fn start() -> Self {
        let publishing = Server::builder()
            .preload(false)
            .setting("wal_level", "logical")
            .setting("logical_decoding_work_mem", "64kB")
            .setting("wal_writer_delay", "10ms") // only what is on disk is sent
            .start();
        let subscribing = Server::builder().setting("wal_retrieve_retry_interval", "100ms").start();
        let mut publisher = publishing.connect("postgres");
        publisher.run(
            "CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL, note text);
             INSERT INTO item SELECT i, 'item ' || i, 'a note' FROM generate_series(1, 5000) i;
             CREATE PUBLICATION items FOR TABLE item",
        );
        let mut subscriber = subscribing.create_database("app");
        subscriber.run(
            "CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL, note text);
             CREATE MATERIALIZED VIEW names AS SELECT id, name FROM item; CREATE UNIQUE INDEX ON names (id);
             CREATE ROLE app; ALTER TABLE item OWNER TO app; ALTER MATERIALIZED VIEW names OWNER TO app;
             SELECT cache_refresher.register('names', refresh_interval => '1 year', on_change => true, debounce => '0')",
        );
        subscriber.wait("the empty view is fresh", FRESH);
        let (host, port) = (publishing.folder().display(), publishing.port());
        subscriber.run(&format!(
            "CREATE SUBSCRIPTION items CONNECTION 'host={host} port={port} user=postgres dbname=postgres' PUBLICATION items"
        ));
        let mut pair = Self { publisher, subscriber, _subscribing: subscribing, publishing };
        pair.follow();
        pair.subscriber.run("ANALYZE item");
        pair
    }

    /// Waits until the table is here as it is there, and the view is fresh by itself.
    fn follow(&mut self) {
        let table = "SELECT md5(coalesce(string_agg(i::text, ',' ORDER BY i.id), '')) FROM item i";
        let there: String = self.publisher.get(table);
        self.subscriber.wait("the changes are here", &format!("SELECT ({table}) = '{there}'"));
        self.subscriber.wait("the view is fresh", FRESH);
        self.subscriber.assert_shows_its_query("names");
    }

    /// Changes something there and waits for it here; what the log says of the refreshes that this took.
    fn change(&mut self, sql: &str, column: &str) -> String {
        let last: i64 = self.subscriber.get("SELECT max(id) FROM cache_refresher.refresh_log");
        self.publisher.run(sql);
        self.follow();
        self.subscriber.get(&format!(
            "SELECT coalesce(string_agg(DISTINCT {column}, ' '), 'none') FROM cache_refresher.refresh_log WHERE id > {last}"
        ))
    }
}

impl Drop for Pair {
    /// Neither server is to wait for the other when it stops. No panic in a drop.
    fn drop(&mut self) {
        for what in ["ALTER {} DISABLE", "ALTER {} SET (slot_name = NONE)", "DROP {}"] {
            let _ = self.subscriber.batch_execute(&what.replace("{}", "SUBSCRIPTION items"));
        }
    }
}

#[test]
fn what_table_synchronisation_copies_is_shown() {
    let log = "SELECT string_agg(DISTINCT trigger, ' ') FROM cache_refresher.refresh_log WHERE rows_total = 5000";
    assert_eq!(Pair::start().subscriber.get::<Option<String>>(log).as_deref(), Some("change"));
}

#[test]
fn small_changes_of_the_publisher_are_shown_with_delta() {
    let mut pair = Pair::start();
    for change in [
        "INSERT INTO item VALUES (6000, 'new', NULL)",
        "UPDATE item SET name = 'changed' WHERE id = 17",
        "UPDATE item SET id = -id, name = 'moved' WHERE id BETWEEN 18 AND 20",
        "DELETE FROM item WHERE id BETWEEN 21 AND 24",
        "BEGIN; INSERT INTO item VALUES (7000, 'brief'); UPDATE item SET id = 7001 WHERE id = 7000;
         DELETE FROM item WHERE id = 7001; UPDATE item SET name = 'last' WHERE id = 30; COMMIT",
    ] {
        assert_eq!(pair.change(change, "method"), "delta", "after: {change}");
    }
}

#[test]
fn an_update_of_columns_that_the_view_does_not_use_leads_to_no_refresh() {
    let mut pair = Pair::start();
    let refreshes = pair.subscriber.refreshes("names");
    assert_eq!(pair.change("UPDATE item SET note = 'seen by nobody'", "method"), "none");
    // Had it been noted, it would be refreshed with this one at the latest.
    let reason = pair.change("UPDATE item SET name = 'seen' WHERE id = 5", "reason");
    assert_eq!(reason, "the changes concern one key");
    assert_eq!(pair.subscriber.refreshes("names"), refreshes + 1);
}

#[test]
fn a_truncation_on_the_publisher_is_shown() {
    let mut pair = Pair::start();
    assert_eq!(pair.change("TRUNCATE item", "method"), "diff");
    let again = "BEGIN; INSERT INTO item VALUES (1, 'x'); TRUNCATE item; INSERT INTO item VALUES (2, 'y'); COMMIT";
    assert_eq!(pair.change(again, "method"), "diff");
}

#[test]
fn a_large_transaction_is_shown_as_a_whole_streamed_or_not() {
    let mut pair = Pair::start();
    let mut writer = pair.publishing.connect("postgres");
    let mut whole = vec![0_i64, 5000];
    let parallel = (Installation::get().major() >= 16).then_some("parallel");
    for streaming in ["off", "on"].into_iter().chain(parallel) {
        pair.subscriber.run(&format!("ALTER SUBSCRIPTION items SET (streaming = {streaming})"));
        // It holds from the next transaction on; one that is under way by then might not be streamed.
        pair.change("UPDATE item SET name = name || '?' WHERE id = 1", "method");
        // The sender of PostgreSQL 18 with assertions ends if it finds that what it would write to disk has been rolled
        // back meanwhile, and it does not stream.
        let aborts = streaming != "off" || Installation::get().major() < 18;
        let (ends, nested) = if aborts {
            (
                &["ROLLBACK", "COMMIT"][..],
                "SAVEPOINT nested; DELETE FROM item WHERE id % 3 = 0; ROLLBACK TO nested;",
            )
        } else {
            (&["COMMIT"][..], "")
        };
        for end in ends {
            let streamed: i64 = pair.publisher.get(STREAMED);
            writer.run(&format!(
                "BEGIN; INSERT INTO item SELECT (SELECT max(id) FROM item) + i, 'new' FROM generate_series(1, 2000) i;
                 UPDATE item SET name = name || '!' WHERE id % 2 = 0; {nested} DELETE FROM item WHERE id % 7 = 0"
            ));
            if streaming != "off" {
                pair.publisher.wait("it is sent", &format!("SELECT ({STREAMED}) > {streamed}"));
                assert!(pair.subscriber.get::<bool>(FRESH), "nothing has been committed");
            }
            writer.run(end);
            pair.follow();
        }
        whole.push(pair.publisher.get("SELECT count(*) FROM item"));
    }
    let log = "SELECT count(*) FROM cache_refresher.refresh_log WHERE rows_total";
    assert_eq!(pair.subscriber.get::<i64>(&format!("{log} <> ALL (ARRAY{whole:?})")), 0);
}

#[test]
fn a_database_that_publishes_all_its_tables_is_refreshed_and_warned() {
    let mut db = Scratch::new("all_published");
    db.run(
        "CREATE TABLE source (id int PRIMARY KEY);
         CREATE MATERIALIZED VIEW v AS SELECT id FROM source;
         CREATE UNIQUE INDEX ON v (id);
         CREATE PUBLICATION everything FOR ALL TABLES",
    );
    db.run("SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true, debounce => '0')");
    db.refresh("v");
    db.run("INSERT INTO source VALUES (1)");
    db.wait("the change is shown", "SELECT count(*) = 1 FROM v");
    db.run("SELECT cache_refresher.invalidate('v')");
    db.refresh("v");
    db.run("SELECT cache_refresher.unregister('v')");
    let warned =
        "SELECT status FROM cache_refresher.health() WHERE \"check\" = 'publication everything'";
    assert_eq!(db.get::<String>(warned), "warning");
}

#[test]
fn what_is_noted_of_views_elsewhere_is_not_taken_over() {
    let publishing = Server::builder().setting("wal_level", "logical").start();
    let subscribing = Server::builder().setting("wal_retrieve_retry_interval", "100ms").start();
    let source = "CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL);
                  CREATE MATERIALIZED VIEW names AS SELECT id, name FROM item; CREATE UNIQUE INDEX ON names (id)";
    let register = |view: &str| {
        format!(
            "SELECT cache_refresher.register('{view}', refresh_interval => '1 year', on_change => true, debounce => '0')"
        )
    };
    let mut there = publishing.create_database("app");
    there.run(source);
    there.run("CREATE PUBLICATION everything FOR ALL TABLES");
    let mut here = subscribing.create_database("app");
    here.run(source);
    here.run("CREATE MATERIALIZED VIEW others AS SELECT 1 AS id");
    here.run(&register("names"));
    there.run("CREATE MATERIALIZED VIEW others AS SELECT 1 AS id");
    there.run(&register("others"));
    let (host, port) = (publishing.folder().display(), publishing.port());
    here.run(&format!(
        "CREATE SUBSCRIPTION everything CONNECTION 'host={host} port={port} user=postgres dbname=app' PUBLICATION everything"
    ));
    there.run(&register("names"));
    for id in 1..=5 {
        there.run(&format!("INSERT INTO item VALUES ({id}, 'item {id}')"));
        there.wait("it is shown there", &format!("SELECT count(*) = {id} FROM names"));
        here.wait("it is shown here", &format!("SELECT count(*) = {id} FROM names"));
    }
    here.wait("the view is fresh", FRESH);
    here.assert_shows_its_query("names");
    let registered: Vec<String> =
        here.get("SELECT array_agg(view_name) FROM cache_refresher.status");
    assert_eq!(registered, ["names"]);
    let views: i64 =
        here.get("SELECT count(*) FROM _cache_refresher.content WHERE view <> 'names'::regclass");
    assert_eq!(views, 0);
}
