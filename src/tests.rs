//! Tests that have to run inside a backend: what a refresh leaves in the transaction and in the
//! session that it ran in, and conversions that need the server's types.
//!
//! Each runs in a transaction of its own, which is rolled back. What shows from outside is tested by
//! `tests/pg_regress`, `tests/isolation` and `tests/cluster`.

// pgrx calls the tests in a schema `tests`, and takes its name from an inline module.
#[allow(clippy::module_inception)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#[allow(clippy::disallowed_methods, reason = "tests are callers: they send SQL as any client does")]
#[pgrx::pg_schema]
mod tests {
    use std::time::Duration;

    use cache_refresher_core::time::Timestamp;
    use pgrx::datum::{Interval, TimestampWithTimeZone};
    use pgrx::prelude::*;
    use pgrx::{FromDatum, IntoDatum};

    use crate::pg::clock;

    fn run(sql: &str) {
        Spi::run(sql).unwrap();
    }

    #[track_caller]
    fn get<T: FromDatum + IntoDatum>(sql: &str) -> T {
        Spi::get_one(sql).unwrap().unwrap()
    }

    /// A view `v` of one row, which shows the number in table `t`, and a function `caught`, which
    /// runs a statement in a subtransaction and returns the SQLSTATE that it fails with.
    fn set_up() {
        run("CREATE TABLE t (n int);
             INSERT INTO t VALUES (1);
             CREATE MATERIALIZED VIEW v AS SELECT 1 AS id, 10 / n AS quotient, n FROM t;
             CREATE UNIQUE INDEX ON v (id);
             CREATE FUNCTION caught(statement text) RETURNS text LANGUAGE plpgsql AS $$
             BEGIN
                 EXECUTE statement;
                 RETURN '00000';
             EXCEPTION WHEN query_canceled OR OTHERS THEN
                 RETURN SQLSTATE;
             END $$");
    }

    fn caught(statement: &str) -> String {
        Spi::get_one_with_args("SELECT caught($1)", &[statement.into()]).unwrap().unwrap()
    }

    fn shown() -> i32 {
        get("SELECT n FROM v")
    }

    fn logged() -> i64 {
        get("SELECT count(*) FROM cache_refresher.refresh_log")
    }

    /// How many refresh locks this session holds, and how many refreshes of it are marked as running.
    fn held() -> (i64, i64) {
        let locks = get("SELECT count(*) FROM pg_locks
                          WHERE locktype = 'object' AND pid = pg_backend_pid()
                            AND classid = '_cache_refresher.registry'::regclass");
        let marks = get(
            "SELECT count(*) FROM _cache_refresher.running_views() WHERE pid = pg_backend_pid()",
        );
        (locks, marks)
    }

    /// Everything of the session that a refresh changes while it runs, and must put back.
    fn session() -> String {
        get("SELECT concat_ws(' ', current_user, session_user,
                    (SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings
                      WHERE name IN ('search_path', 'TimeZone', 'DateStyle', 'IntervalStyle',
                                     'extra_float_digits', 'bytea_output', 'row_security',
                                     'lock_timeout', 'statement_timeout', 'transaction_read_only',
                                     'role')))")
    }

    /// Settings unlike those that a refresh pins, and a caller who does not own the view.
    fn become_somebody_else() {
        run("CREATE ROLE some_owner;
             CREATE ROLE some_caller;
             GRANT ALL ON SCHEMA public TO some_owner, some_caller;
             GRANT ALL ON t TO some_owner, some_caller;
             ALTER MATERIALIZED VIEW v OWNER TO some_owner;
             GRANT SELECT ON v TO some_caller;
             SELECT cache_refresher.register('v');
             SELECT cache_refresher.grant_refresh('v', 'some_caller');
             SET LOCAL TimeZone = 'Asia/Kathmandu';
             SET LOCAL DateStyle = 'German';
             SET LOCAL IntervalStyle = 'iso_8601';
             SET LOCAL extra_float_digits = -3;
             SET LOCAL bytea_output = 'escape';
             SET LOCAL row_security = off;
             SET LOCAL lock_timeout = '54321ms';
             SET LOCAL search_path = public, pg_temp;
             SET LOCAL ROLE some_caller");
    }

    /// A security context that was not put back refuses both.
    fn is_unrestricted() -> bool {
        let made = caught("CREATE TEMPORARY TABLE unrestricted () ON COMMIT DROP");
        let changed = caught("SET LOCAL ROLE some_caller");
        (made.as_str(), changed.as_str()) == ("00000", "00000")
    }

    #[pg_test]
    fn a_subtransaction_that_is_rolled_back_takes_its_refresh_along() {
        set_up();
        run("UPDATE t SET n = 2");
        run("DO $$ BEGIN
                 PERFORM cache_refresher.refresh('v');
                 ASSERT (SELECT n FROM v) = 2, 'it shows the new row before';
                 RAISE EXCEPTION 'the application changes its mind';
             EXCEPTION WHEN raise_exception THEN NULL;
             END $$");
        assert_eq!(shown(), 1);
        assert_eq!(logged(), 0);
        assert!(get::<bool>("SELECT cache_refresher.age('v') IS NULL"));
        assert_eq!(held(), (0, 0));
        assert_eq!(get::<String>("SELECT outcome FROM cache_refresher.refresh('v')"), "refreshed");
        assert_eq!((shown(), logged()), (2, 1));
    }

    #[pg_test]
    fn a_subtransaction_that_ends_well_leaves_its_refresh() {
        set_up();
        run("UPDATE t SET n = 2");
        assert_eq!(caught("SELECT cache_refresher.refresh('v')"), "00000");
        assert_eq!((shown(), logged()), (2, 1));
        assert_eq!(
            held(),
            (1, 0),
            "the lock is kept to the end of the transaction, the mark is not"
        );
    }

    #[pg_test]
    fn a_refresh_that_fails_leaves_nothing_and_the_transaction_goes_on() {
        set_up();
        run("UPDATE t SET n = 0");
        assert_eq!(caught("SELECT cache_refresher.refresh('v')"), "22012");
        assert_eq!((shown(), logged()), (1, 0));
        assert_eq!(held(), (0, 0));
        run("UPDATE t SET n = 5");
        assert_eq!(caught("SELECT cache_refresher.refresh('v')"), "00000");
        assert_eq!((shown(), logged()), (5, 1));
    }

    #[pg_extern]
    fn panicking(n: i32) -> i32 {
        assert!(n < 2, "a Rust function that a view calls");
        n
    }

    #[pg_test]
    fn a_rust_panic_within_a_refresh_is_an_error_like_others() {
        set_up();
        run("CREATE MATERIALIZED VIEW w AS SELECT tests.panicking(n) AS n FROM t");
        let before = session();
        run("UPDATE t SET n = 2");
        for method in ["full", "diff"] {
            let state = caught(&format!("SELECT cache_refresher.refresh('w', '{method}')"));
            assert_eq!(state, "XX000", "{method}");
            assert_eq!((held(), session()), ((0, 0), before.clone()), "{method}");
        }
        run("UPDATE t SET n = 0");
        assert_eq!(caught("SELECT cache_refresher.refresh('w')"), "00000");
        assert_eq!(get::<i32>("SELECT n FROM w"), 0);
    }

    #[pg_test]
    fn identity_and_settings_are_put_back_after_a_refresh() {
        set_up();
        become_somebody_else();
        let before = session();
        for method in ["concurrent", "diff", "full"] {
            assert_eq!(
                caught(&format!("SELECT cache_refresher.refresh('v', '{method}')")),
                "00000"
            );
            assert_eq!(session(), before, "{method}");
        }
        assert!(is_unrestricted());
    }

    #[pg_test]
    fn identity_and_settings_are_put_back_after_a_refresh_that_fails() {
        set_up();
        become_somebody_else();
        run("UPDATE t SET n = 0");
        let before = session();
        for method in ["concurrent", "diff", "full"] {
            let state = caught(&format!("SELECT cache_refresher.refresh('v', '{method}')"));
            assert_eq!(state, "22012", "{method}");
            assert_eq!(session(), before, "{method}");
        }
        assert!(is_unrestricted());
    }

    #[pg_test]
    fn identity_and_settings_are_put_back_after_a_summary_that_fails() {
        set_up();
        run("UPDATE t SET n = 2");
        become_somebody_else();
        run("SET LOCAL ROLE some_owner;
             SELECT cache_refresher.alter('v', summary_query => 'SELECT 1 / (2 - n) AS x FROM v');
             SET LOCAL ROLE some_caller");
        let before = session();
        assert_eq!(caught("SELECT cache_refresher.refresh('v')"), "22012");
        assert_eq!(session(), before);
        assert!(is_unrestricted());
        assert_eq!(shown(), 1, "the refresh went with its summary");
    }

    #[pg_test]
    fn the_content_does_not_depend_on_the_callers_settings() {
        set_up();
        run("CREATE MATERIALIZED VIEW told AS
                 SELECT 1 AS id, concat_ws(' ', current_setting('TimeZone'), current_setting('DateStyle'),
                        current_setting('IntervalStyle'), current_setting('extra_float_digits'),
                        current_setting('bytea_output'), current_setting('search_path')) AS settings,
                        current_user::text AS who;
             CREATE UNIQUE INDEX ON told (id);
             SELECT cache_refresher.refresh('told')");
        let told = || get::<String>("SELECT settings || ' ' || who FROM told");
        let plain = told();
        run("ALTER MATERIALIZED VIEW told OWNER TO CURRENT_USER;
             SELECT cache_refresher.register('told')");
        become_somebody_else();
        run("RESET ROLE;
             SELECT cache_refresher.grant_refresh('told', 'some_caller');
             GRANT SELECT ON told TO some_caller;
             SET LOCAL ROLE some_caller;
             SELECT cache_refresher.refresh('told')");
        assert_eq!(told(), plain);
    }

    #[pg_test]
    fn a_summary_query_cannot_write_and_writing_goes_on_after_it() {
        set_up();
        run("CREATE FUNCTION writes() RETURNS int LANGUAGE sql AS 'DELETE FROM public.t RETURNING n';
             CREATE FUNCTION sets() RETURNS text LANGUAGE sql AS
                 $$SELECT set_config('transaction_read_only', 'off', true)$$;
             SELECT cache_refresher.register('v')");
        for query in ["SELECT writes() AS n", "SELECT sets() AS off, writes() AS n"] {
            let statement =
                format!("SELECT cache_refresher.alter('v', summary_query => '{query}')");
            assert_ne!(caught(&statement), "00000", "{query}");
            assert_eq!(get::<i64>("SELECT count(*) FROM t"), 1, "{query}");
        }
        run("SELECT cache_refresher.alter('v', summary_query => 'SELECT n FROM v');
             UPDATE t SET n = 3;
             SELECT cache_refresher.refresh('v');
             UPDATE t SET n = 4");
        assert_eq!(
            get::<String>("SELECT summary::text FROM cache_refresher.refresh_log"),
            "{\"n\": 3}"
        );
        assert_eq!(get::<String>("SHOW transaction_read_only"), "off");
    }

    #[pg_test]
    fn a_timeout_fails_its_refresh_and_nothing_after_it() {
        set_up();
        run("CREATE MATERIALIZED VIEW slow AS SELECT 1 AS id, pg_sleep(5)::text AS slept WITH NO DATA;
             SET LOCAL cache_refresher.timeout = '100ms'");
        assert_eq!(caught("SELECT cache_refresher.refresh('slow')"), "57014");
        assert_eq!(held(), (0, 0));
        // Quick enough: and the limit is lifted with the end of the refresh.
        assert_eq!(caught("SELECT cache_refresher.refresh('v')"), "00000");
        run("SELECT pg_sleep(0.3)");
    }

    #[pg_test]
    fn a_refresh_within_another_leaves_the_time_limit_of_that_one() {
        set_up();
        run("CREATE FUNCTION refreshes_another() RETURNS int LANGUAGE plpgsql AS $$
             BEGIN
                 PERFORM cache_refresher.refresh('public.v');
                 PERFORM pg_sleep(5);
                 RETURN 1;
             END $$;
             CREATE MATERIALIZED VIEW around AS SELECT public.refreshes_another() AS id WITH NO DATA;
             SELECT cache_refresher.register('around', timeout => '200 ms');
             SELECT cache_refresher.register('v', timeout => '1 h')");
        assert_eq!(caught("SELECT cache_refresher.refresh('around')"), "57014");
        // That the refresh within takes too long is said of itself only.
        run("CREATE FUNCTION slow() RETURNS int LANGUAGE sql AS 'SELECT 1 FROM pg_sleep(5)';
             CREATE MATERIALIZED VIEW slow AS SELECT slow() AS id WITH NO DATA;
             SELECT cache_refresher.register('slow', timeout => '100 ms');
             SELECT cache_refresher.alter('around', timeout => '1 h');
             CREATE OR REPLACE FUNCTION refreshes_another() RETURNS int LANGUAGE sql AS
                 $$SELECT 1 FROM cache_refresher.refresh('public.slow')$$");
        assert_eq!(caught("SELECT cache_refresher.refresh('around')"), "57014");
        assert_eq!(held(), (0, 0));
        assert_eq!(caught("SELECT cache_refresher.refresh('v')"), "00000");
        run("SELECT pg_sleep(0.3)");
    }

    #[pg_test]
    fn a_refresh_in_use_by_this_session_is_refused_and_leaves_nothing() {
        set_up();
        run("DO $$
             DECLARE
                 row record;
                 state text;
             BEGIN
                 FOR row IN SELECT * FROM v LOOP
                     state := caught($q$SELECT cache_refresher.refresh('v', method => 'concurrent')$q$);
                     ASSERT state = '55006', state;
                 END LOOP;
             END $$");
        assert_eq!(held(), (0, 0));
        assert_eq!(caught("SELECT cache_refresher.refresh('v')"), "00000");
    }

    #[pg_test]
    fn cancel_is_false_when_nothing_runs() {
        set_up();
        assert!(!get::<bool>("SELECT cache_refresher.cancel('v')"));
        run("SELECT cache_refresher.refresh('v')");
        // Done, though its transaction still holds the lock.
        assert!(!get::<bool>("SELECT cache_refresher.cancel('v')"));
        run("UPDATE t SET n = 0");
        caught("SELECT cache_refresher.refresh('v')");
        assert!(!get::<bool>("SELECT cache_refresher.cancel('v')"));
    }

    #[pg_test]
    fn an_interval_is_a_duration_with_days_of_24_hours_and_months_of_30_days() {
        const HOUR: u64 = 3600;
        for (interval, seconds) in [
            ("0", 0),
            ("90 seconds", 90),
            ("1 day", 24 * HOUR),
            ("1 day -1 hour", 23 * HOUR),
            ("1 month", 30 * 24 * HOUR),
            ("1 year 2 days 3 hours", (362 * 24 + 3) * HOUR),
        ] {
            let value: Interval = get(&format!("SELECT interval '{interval}'"));
            let duration = clock::from_interval("x", &value).unwrap();
            assert_eq!(duration, Duration::from_secs(seconds), "{interval}");
        }
        let value: Interval = get("SELECT interval '1.000001 seconds'");
        assert_eq!(clock::from_interval("x", &value).unwrap(), Duration::from_micros(1_000_001));
    }

    #[pg_test]
    fn a_negative_interval_is_refused_by_the_name_of_its_argument() {
        for interval in ["-1 microsecond", "1 day -25 hours", "1 month -31 days"] {
            let value: Interval = get(&format!("SELECT interval '{interval}'"));
            let refusal = clock::from_interval("max_age", &value).unwrap_err();
            assert_eq!(refusal.to_string(), "max_age must not be negative", "{interval}");
        }
    }

    #[pg_test]
    fn a_duration_comes_back_from_sql_as_it_went() {
        for duration in [
            Duration::ZERO,
            Duration::from_micros(1),
            Duration::from_millis(100),
            Duration::from_secs(86_400 * 3660),
        ] {
            let there = clock::to_interval(duration);
            let back: Interval =
                Spi::get_one_with_args("SELECT $1::interval", &[there.into()]).unwrap().unwrap();
            assert_eq!(clock::from_interval("x", &back).unwrap(), duration);
        }
    }

    #[pg_test]
    fn a_timestamp_is_the_same_moment_in_sql() {
        let moment: TimestampWithTimeZone =
            get("SELECT timestamptz '2024-02-29 12:34:56.789012+05:45'");
        let moment = clock::from_sql(moment);
        assert_eq!(moment.to_rfc3339_millis(), "2024-02-29T06:49:56.789Z");
        let back: String = Spi::get_one_with_args(
            "SELECT ($1::timestamptz AT TIME ZONE 'UTC')::text",
            &[clock::to_sql(moment).into()],
        )
        .unwrap()
        .unwrap();
        assert_eq!(back, "2024-02-29 06:49:56.789012");
        let epoch: TimestampWithTimeZone = get("SELECT timestamptz '2000-01-01 00:00:00+00'");
        assert_eq!(clock::from_sql(epoch), Timestamp::from_pg(0));
    }
}
