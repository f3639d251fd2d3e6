//! Who may do what: every role against every function, view and table.

use cluster_tests::{Installation, Server, Session, state_of};

const ROLES: [&str; 9] =
    ["postgres", "dbo", "alice", "member", "reader", "monitor", "nobody", "maintainer", "grantee"];

/// Who is let in; all others get 42501, or see nothing.
const OWNER: &[&str] = &["postgres", "alice", "member"];
const REFRESHER: &[&str] = &["postgres", "alice", "member", "maintainer", "grantee"];
const READER: &[&str] = &["postgres", "alice", "member", "reader", "monitor"];
/// The owner of the database dumps the configuration, so that he can name what is beside it.
const DUMPER: &[&str] = &["postgres", "dbo"];

/// Calls, and who may make them.
const CALLS: [(&str, &[&str]); 24] = [
    ("SELECT cache_refresher.register('x.u', '1 year')", OWNER),
    ("SELECT cache_refresher.alter('x.v', refresh_interval => '2 hours')", OWNER),
    ("SELECT cache_refresher.alter('x.v', summary_query => 'SELECT 1 AS x')", OWNER),
    ("SELECT cache_refresher.pause('x.v')", OWNER),
    ("SELECT cache_refresher.resume('x.v')", OWNER),
    ("SELECT cache_refresher.unregister('x.v')", OWNER),
    ("SELECT cache_refresher.grant_refresh('x.v', 'nobody')", OWNER),
    ("SELECT cache_refresher.revoke_refresh('x.v', 'grantee')", OWNER),
    ("SELECT cache_refresher.refresh('x.u')", OWNER),
    ("SELECT cache_refresher.refresh('x.v')", REFRESHER),
    ("SELECT cache_refresher.refresh('x.v', 'full')", REFRESHER),
    ("SELECT cache_refresher.refresh_together('{x.v}')", REFRESHER),
    ("SELECT cache_refresher.cancel('x.v')", REFRESHER),
    ("SELECT cache_refresher.invalidate('x.v')", REFRESHER),
    ("SELECT cache_refresher.invalidate('x.v', ARRAY[1])", REFRESHER),
    ("SELECT cache_refresher.explain('x.v')", READER),
    ("SELECT cache_refresher.freshness('x.v')", READER),
    ("SELECT cache_refresher.age('x.v')", READER),
    ("SELECT cache_refresher.is_stale('x.v', '1 day')", READER),
    ("SELECT cache_refresher.assert_fresh('x.v', '1 day')", READER),
    ("SELECT cache_refresher.stale_since('x.v')", READER),
    ("SELECT _cache_refresher.running_views()", DUMPER),
    ("SELECT FROM _cache_refresher.registry", DUMPER),
    ("SELECT FROM _cache_refresher.refresh_grant", DUMPER),
];

/// Rows about `x.v`, and who sees them.
const ROWS: [(&str, &[&str]); 9] = [
    ("SELECT count(*) > 0 FROM cache_refresher.status WHERE view_name = 'v'", READER),
    ("SELECT count(*) > 0 FROM cache_refresher.registrations WHERE view_name = 'v'", READER),
    (
        "SELECT count(summary_query) > 0 FROM cache_refresher.registrations WHERE view_name = 'v'",
        OWNER,
    ),
    ("SELECT count(*) > 0 FROM cache_refresher.refresh_log WHERE view_name = 'v'", READER),
    ("SELECT count(message) > 0 FROM cache_refresher.refresh_log WHERE view_name = 'v'", OWNER),
    (
        "SELECT count(*) > 0 FROM cache_refresher.materialized_view_refresh_log WHERE view_name = 'v'",
        READER,
    ),
    (
        "SELECT count(summary) > 0 FROM cache_refresher.materialized_view_refresh_log WHERE view_name = 'v'",
        &["postgres", "alice", "member", "reader"],
    ),
    ("SELECT count(*) > 0 FROM cache_refresher.metrics() WHERE labels ->> 'view' = 'v'", READER),
    ("SELECT count(*) > 0 FROM cache_refresher.dependencies WHERE view = 'x.v'::regclass", READER),
];

fn start() -> Server {
    let server = Server::builder().setting("cache_refresher.max_retries", "0").start();
    let mut admin = server.create_database("app");
    admin.run(
        "CREATE ROLE dbo LOGIN; CREATE ROLE alice LOGIN; CREATE ROLE member LOGIN IN ROLE alice; CREATE ROLE reader LOGIN;
         CREATE ROLE monitor LOGIN IN ROLE pg_monitor; CREATE ROLE nobody LOGIN; CREATE ROLE maintainer LOGIN; CREATE ROLE grantee LOGIN;
         ALTER DATABASE app OWNER TO dbo; CREATE SCHEMA x AUTHORIZATION alice; GRANT USAGE ON SCHEMA x TO PUBLIC",
    );
    let mut alice = server.connect_as("app", "alice");
    alice.run(
        "CREATE TABLE x.t (id int PRIMARY KEY, broken bool); INSERT INTO x.t VALUES (1, true);
         CREATE MATERIALIZED VIEW x.v AS SELECT id, 1 / CASE WHEN broken THEN 0 ELSE 1 END AS y FROM x.t WITH NO DATA; CREATE UNIQUE INDEX ON x.v (id);
         CREATE MATERIALIZED VIEW x.u AS SELECT id FROM x.t; CREATE UNIQUE INDEX ON x.u (id);
         CREATE MATERIALIZED VIEW x.miss AS SELECT 1 AS k;
         SELECT cache_refresher.register('x.v', refresh_interval => '1 year'), cache_refresher.register('x.miss', '1 year');
         DROP MATERIALIZED VIEW x.miss;
         GRANT SELECT ON x.v TO reader; SELECT cache_refresher.grant_refresh('x.v', 'grantee')",
    );
    // One failure with a message, then content with a summary.
    alice.wait(
        "it has failed",
        "SELECT count(message) > 0 FROM cache_refresher.refresh_log WHERE view_name = 'v'",
    );
    alice.run("UPDATE x.t SET broken = false; SELECT cache_refresher.refresh('x.v');
               SELECT cache_refresher.alter('x.v', summary_query => 'SELECT count(*) AS n FROM x.v'); SELECT cache_refresher.refresh('x.v')");
    if Installation::get().major() >= 17 {
        alice.run("GRANT MAINTAIN ON x.v TO maintainer");
    }
    server
}

/// Makes a call, takes back what it did, and says how it ended.
fn outcome(session: &mut Session, call: &str) -> String {
    session.run("BEGIN");
    let done = session.batch_execute(call);
    session.run("ROLLBACK");
    match done {
        Ok(()) => "ok".to_owned(),
        Err(error) => state_of(&error).to_owned(),
    }
}

#[test]
fn every_role_may_do_what_it_may_and_nothing_else() {
    let server = start();
    let mut wrong = Vec::new();
    for role in ROLES {
        if role == "maintainer" && Installation::get().major() < 17 {
            continue;
        }
        let mut session = server.connect_as("app", role);
        let mut expect = |what: &str, expected: &str, found: &str| {
            if expected != found {
                wrong.push(format!("{role}: {what}: {found} instead of {expected}"));
            }
        };
        for (call, allowed) in CALLS {
            let expected = if allowed.contains(&role) { "ok" } else { "42501" };
            expect(call, expected, &outcome(&mut session, call));
        }
        let registered_again = if OWNER.contains(&role) { "42710" } else { "42501" };
        let call = "SELECT cache_refresher.register('x.v', '1 year')";
        expect(call, registered_again, &outcome(&mut session, call));
        let missing = if OWNER.contains(&role) { "ok" } else { "42704" };
        let call = "SELECT cache_refresher.unregister('x.miss')";
        expect(call, missing, &outcome(&mut session, call));
        let call = "SELECT cache_refresher.unregister('x.bogus')";
        expect(call, "42704", &outcome(&mut session, call));
        for (question, allowed) in ROWS {
            let expected = allowed.contains(&role);
            let found: bool = session.get(question);
            expect(question, &expected.to_string(), &found.to_string());
        }
        for table in [
            "registry",
            "refresh_grant",
            "binding",
            "content",
            "capture",
            "invalidation",
            "attempts",
            "history",
        ] {
            let expected = if role == "postgres" { "ok" } else { "42501" };
            let dumped = ["registry", "refresh_grant"].contains(&table);
            for (verb, asked) in [("SELECT", !dumped), ("DELETE", true)] {
                let call = format!("{verb} FROM _cache_refresher.{table}");
                if asked {
                    expect(&call, expected, &outcome(&mut session, &call));
                }
            }
        }
        expect(
            "healthy",
            "true",
            &session.get::<bool>("SELECT cache_refresher.healthy()").to_string(),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
