//! Who may do and see what.

use cluster_tests::{Scratch, Session};

/// A database in which `{prefix}_owner` owns the registered view `v`; roles are the whole server's,
/// so each test has its own. `{prefix}_other` owns nothing.
fn start(name: &'static str) -> (Scratch, Session, Session) {
    let mut db = Scratch::new(name);
    db.run(&format!(
        "CREATE ROLE {name}_owner LOGIN;
         CREATE ROLE {name}_other LOGIN;
         GRANT ALL ON SCHEMA public TO {name}_owner"
    ));
    let mut owner = db.connect_as(&format!("{name}_owner"));
    let other = db.connect_as(&format!("{name}_other"));
    owner.create_fragile_view("v");
    owner.register("v", "1 year");
    (db, owner, other)
}

#[track_caller]
fn forbidden(session: &mut Session, sql: &str) {
    let refusal = session.error_of(sql);
    assert_eq!(refusal.code().code(), "42501", "{sql}: {refusal:?}");
}

#[test]
fn only_the_owner_registers_alters_and_pauses() {
    let (mut db, mut owner, mut other) = start("priv_owner");
    owner.create_view("w", 3);
    // Reading is not enough, nor is everything else that can be granted.
    owner.run("GRANT ALL ON v, w TO priv_owner_other");
    for call in [
        "register('w')",
        "alter('v', refresh_interval => '1 minute')",
        "alter('v', summary_query => 'SELECT 1 AS x')",
        "pause('v')",
        "resume('v')",
        "unregister('v')",
        "grant_refresh('v', 'priv_owner_other')",
        "revoke_refresh('v', 'priv_owner_other')",
    ] {
        let refusal = other.error_of(&format!("SELECT cache_refresher.{call}"));
        assert_eq!(refusal.code().code(), "42501", "{call}: {refusal:?}");
        assert!(refusal.hint().is_some(), "{call}: {refusal:?}");
    }
    assert!(db.get::<bool>(
        "SELECT count(*) = 1 AND bool_and(refresh_interval = '1 year' AND state = 'scheduled')
         FROM cache_refresher.status"
    ));
    // A member of the owning role is the owner; a superuser may do everything.
    db.run("GRANT priv_owner_owner TO priv_owner_other");
    other.run("SELECT cache_refresher.pause('v')");
    db.run("SELECT cache_refresher.resume('v')");
}

#[test]
fn refreshing_and_cancelling_takes_the_owner_or_a_grant() {
    let (mut db, mut owner, mut other) = start("priv_refresh");
    owner.run("GRANT SELECT ON v TO priv_refresh_other");
    forbidden(&mut other, "SELECT cache_refresher.refresh('v')");
    forbidden(&mut other, "SELECT cache_refresher.cancel('v')");
    assert_eq!(
        other.get::<i64>("SELECT count(*) FROM cache_refresher.refresh_all()"),
        0,
        "leaves out what one may not refresh"
    );

    owner.run("SELECT cache_refresher.grant_refresh('v', 'priv_refresh_other')");
    assert_eq!(other.refresh("v"), "refreshed");
    assert!(!other.get::<bool>("SELECT cache_refresher.cancel('v')"));
    assert_eq!(other.get::<i64>("SELECT count(*) FROM cache_refresher.refresh_all()"), 1);
    forbidden(&mut other, "SELECT cache_refresher.pause('v')");
    assert_eq!(
        db.get::<String>("SELECT DISTINCT role_name FROM cache_refresher.refresh_log"),
        "priv_refresh_other"
    );

    owner.run("SELECT cache_refresher.revoke_refresh('v', 'priv_refresh_other')");
    forbidden(&mut other, "SELECT cache_refresher.refresh('v')");
    forbidden(&mut other, "SELECT cache_refresher.cancel('v')");
}

#[test]
fn the_grantee_cancels_a_running_refresh() {
    let (mut db, mut owner, mut other) = start("priv_cancel");
    owner.create_paced_view("slow");
    owner.set_pace("slow", 600.0);
    owner.register("slow", "300 ms");
    owner.run("SELECT cache_refresher.grant_refresh('slow', 'priv_cancel_other')");
    db.wait_for_state("slow", "running");
    assert!(other.get::<bool>("SELECT cache_refresher.cancel('slow')"));
    db.wait(
        "it is cancelled",
        "SELECT count(*) > 0 FROM cache_refresher.refresh_log WHERE outcome = 'cancelled'",
    );
}

#[test]
fn a_grant_for_a_view_ends_with_its_registration() {
    let (_db, mut owner, mut other) = start("priv_ends");
    owner.run("SELECT cache_refresher.grant_refresh('v', 'priv_ends_other')");
    owner.run("SELECT cache_refresher.unregister('v')");
    forbidden(&mut other, "SELECT cache_refresher.refresh('v')");
    owner.register("v", "1 year");
    forbidden(&mut other, "SELECT cache_refresher.refresh('v')");
}

#[test]
fn maintain_is_enough_where_the_server_has_it() {
    let (_db, mut owner, mut other) = start("priv_maintain");
    forbidden(&mut other, "SELECT cache_refresher.refresh('v')");
    if owner.get::<bool>("SELECT current_setting('server_version_num')::int >= 170000") {
        owner.run("GRANT MAINTAIN ON v TO priv_maintain_other");
        assert_eq!(other.refresh("v"), "refreshed");
        assert!(!other.get::<bool>("SELECT cache_refresher.cancel('v')"));
        forbidden(&mut other, "SELECT cache_refresher.pause('v')");
    }
}

#[test]
fn status_and_log_show_views_that_one_may_read_and_all_to_pg_monitor() {
    let (mut db, mut owner, mut other) = start("priv_status");
    owner.create_view("open", 3);
    owner.register("open", "1 year");
    owner.run("GRANT SELECT ON open TO priv_status_other");
    owner.refresh("v");
    owner.refresh("open");
    let views = |session: &mut Session, place: &str| -> Vec<String> {
        session.get(&format!(
            "SELECT coalesce(array_agg(view_name ORDER BY view_name), '{{}}') FROM cache_refresher.{place}"
        ))
    };
    let places = ["status", "refresh_log", "materialized_view_refresh_log"];
    for place in places {
        assert_eq!(views(&mut owner, place), ["open", "v"], "{place}");
        assert_eq!(views(&mut other, place), ["open"], "{place}");
    }
    forbidden(&mut other, "SELECT cache_refresher.freshness('v')");
    other.run("SELECT cache_refresher.freshness('open')");

    db.run("GRANT pg_monitor TO priv_status_other");
    for place in places {
        assert_eq!(views(&mut other, place), ["open", "v"], "{place}");
    }
    // Nor is it enough to be a member that does not inherit.
    db.run("REVOKE pg_monitor FROM priv_status_other; ALTER ROLE priv_status_other NOINHERIT; GRANT pg_monitor TO priv_status_other");
    for place in places {
        assert_eq!(views(&mut other, place), ["open"], "{place}");
    }
    db.run("REVOKE pg_monitor FROM priv_status_other; ALTER ROLE priv_status_other INHERIT");
}

#[test]
fn error_texts_are_hidden_from_others() {
    let (mut db, mut owner, mut other) = start("priv_errors");
    owner.run(
        "CREATE FUNCTION tell() RETURNS int LANGUAGE plpgsql AS
             'BEGIN RAISE EXCEPTION ''the secret is 42'' USING ERRCODE = ''P0042''; END';
         CREATE MATERIALIZED VIEW talkative AS SELECT public.tell() AS id WITH NO DATA;
         GRANT SELECT ON talkative TO priv_errors_other",
    );
    owner.register("talkative", "1 year");
    let seen = "SELECT coalesce((SELECT last_error FROM cache_refresher.status WHERE view_name = 'talkative'), '')
        || coalesce((SELECT string_agg(message, ' ') FROM cache_refresher.refresh_log), '')
        || coalesce((SELECT string_agg(detail, ' ') FROM cache_refresher.health()), '')";
    db.wait(
        "the failure is known",
        "SELECT last_error_sqlstate = 'P0042' FROM cache_refresher.status WHERE view_name = 'talkative'",
    );
    for session in [&mut *db, &mut owner] {
        let texts: String = session.get(seen);
        assert!(texts.matches("the secret is 42").count() >= 3, "{texts}");
    }
    db.run("GRANT pg_monitor TO priv_errors_other");
    assert!(!other.get::<String>(seen).contains("secret"));
    assert!(other.get::<bool>(
        "SELECT last_error_sqlstate = 'P0042' FROM cache_refresher.status WHERE view_name = 'talkative'"
    ));
}

#[test]
fn a_refresh_runs_as_the_owner_of_the_view() {
    let (mut db, mut owner, _other) = start("priv_runs_as");
    owner.run(
        "CREATE MATERIALIZED VIEW who AS SELECT 1 AS id, current_user::text AS name WITH NO DATA;
         CREATE UNIQUE INDEX ON who (id)",
    );
    owner.run(
        "SELECT cache_refresher.register('who', refresh_interval => '300 ms',
             summary_query => 'SELECT current_user::text AS name')",
    );
    db.wait_for_refreshes("who", 2);
    let name = "priv_runs_as_owner";
    assert_eq!(db.get::<String>("SELECT name FROM who"), name, "by a worker");
    db.refresh("who");
    assert_eq!(db.get::<String>("SELECT name FROM who"), name, "by a superuser");
    assert_eq!(
        db.get::<String>(
            "SELECT summary ->> 'name' FROM cache_refresher.refresh_log ORDER BY id DESC LIMIT 1"
        ),
        name
    );
}

#[test]
fn a_view_cannot_use_the_rights_of_whoever_refreshes_it() {
    let (mut db, mut owner, _other) = start("priv_escalate");
    owner.run(
        "CREATE FUNCTION grab() RETURNS int LANGUAGE plpgsql AS
             'BEGIN EXECUTE ''ALTER ROLE priv_escalate_owner SUPERUSER''; RETURN 1; END';
         CREATE FUNCTION leave() RETURNS int LANGUAGE plpgsql AS
             'BEGIN RESET SESSION AUTHORIZATION; RETURN 1; END';
         CREATE FUNCTION switch() RETURNS int LANGUAGE plpgsql AS
             'BEGIN SET ROLE postgres; RETURN 1; END'",
    );
    for function in ["grab", "leave", "switch"] {
        owner.run(&format!(
            "CREATE MATERIALIZED VIEW {function}_view AS SELECT public.{function}() AS id WITH NO DATA"
        ));
        let refusal = db.error_of(&format!("SELECT cache_refresher.refresh('{function}_view')"));
        assert_eq!(refusal.code().code(), "42501", "{function}: {refusal:?}");
    }
    for function in ["grab", "leave", "switch"] {
        let refusal = owner.error_of(&format!(
            "SELECT cache_refresher.alter('v', summary_query => 'SELECT public.{function}() AS x')"
        ));
        assert!(matches!(refusal.code().code(), "42501" | "25006"), "{function}: {refusal:?}");
    }
    assert!(!db.get::<bool>("SELECT rolsuper FROM pg_roles WHERE rolname = 'priv_escalate_owner'"));
}

#[test]
fn a_summary_is_suspended_when_the_view_changes_hands() {
    let (mut db, mut owner, _other) = start("priv_summary");
    owner.run("SELECT cache_refresher.alter('v', summary_query => 'SELECT 7 AS x')");
    db.refresh("v");
    let latest = "SELECT summary IS NULL FROM cache_refresher.refresh_log ORDER BY id DESC LIMIT 1";
    assert!(!db.get::<bool>(latest));
    db.run("ALTER MATERIALIZED VIEW v OWNER TO postgres");
    db.refresh("v");
    assert!(db.get::<bool>(latest), "the new owner did not ask for it");
    db.run("SELECT cache_refresher.alter('v', summary_query => 'SELECT 8 AS x')");
    db.refresh("v");
    assert!(!db.get::<bool>(latest));
}

#[test]
fn the_tables_behind_it_are_out_of_reach() {
    let (mut db, _owner, mut other) = start("priv_tables");
    let tables: Vec<String> = db.get(
        "SELECT array_agg(relname::text) FROM pg_class
         WHERE relnamespace = '_cache_refresher'::regnamespace AND relkind IN ('r', 'v', 'S')",
    );
    assert!(tables.len() >= 5);
    for table in tables {
        forbidden(&mut other, &format!("SELECT * FROM _cache_refresher.{table}"));
    }
}
