//! What others see of a diff while it runs, and of what it leaves behind.

use cluster_tests::{Scratch, millis};

use crate::slow::{PHASES, Phase, ROWS, create_slow_view, start_diff};

#[test]
fn progress_shows_the_phase_and_how_far_it_is() {
    let mut db = Scratch::new("diff_progress");
    create_slow_view(&mut db);
    db.run("CREATE ROLE diff_progress_nobody");
    for phase in PHASES {
        let mut other = db.connect();
        let (pid, diff) = start_diff(db.server(), &mut other, "diff_progress", phase);
        let words = match phase {
            Phase::Reading => "comparing",
            Phase::Writing => "writing",
        };
        let shown = format!(
            "SELECT count(*) = 1 FROM cache_refresher.progress
              WHERE view = 'v'::regclass AND phase = '{words}' AND pid = {pid}
                AND rows_done BETWEEN 1 AND {ROWS} AND rows_expected >= {ROWS}
                AND elapsed > '300 ms' AND role_name = 'postgres'"
        );
        let is_shown = other.get::<bool>(&shown);
        let all = "SELECT string_agg(p::text, ' ') FROM cache_refresher.progress p";
        assert!(is_shown, "{:?}", other.get::<Option<String>>(all));
        other.run("SET ROLE diff_progress_nobody");
        assert_eq!(other.get::<i64>("SELECT count(*) FROM cache_refresher.progress"), 0);
        other.run("RESET ROLE");
        assert!(other.get::<bool>("SELECT cache_refresher.cancel('v')"));
        diff.join().unwrap().unwrap_err();
        other.wait("it is gone", "SELECT count(*) = 0 FROM cache_refresher.progress");
        other.run("UPDATE pace SET reading = 0, writing = 0");
        db.diff("v");
    }
    db.run("DROP ROLE diff_progress_nobody");
}

#[test]
fn health_warns_of_dead_rows_that_pile_up() {
    let mut db = Scratch::new("diff_dead_rows");
    db.run(
        "CREATE TABLE t AS SELECT i AS id, 0 AS value FROM generate_series(1, 6000) i;
         CREATE MATERIALIZED VIEW v WITH (autovacuum_enabled = false) AS SELECT * FROM t;
         CREATE UNIQUE INDEX ON v (id)",
    );
    db.run("SELECT cache_refresher.register('v', '1 year')");
    let warned = "SELECT count(*) = 1 FROM cache_refresher.health()
                   WHERE \"check\" = 'view public.v dead rows' AND status = 'warning'";
    assert!(!db.get::<bool>(warned));
    for _ in 0..2 {
        db.run("UPDATE t SET value = value + 1");
        db.diff("v");
    }
    // Sessions tell the statistics of what they did with some delay.
    std::thread::sleep(millis(1100));
    db.run("SELECT 1");
    db.wait("warned", warned);
    assert!(db.get::<bool>("SELECT dead_rows >= 10000 FROM cache_refresher.status"));
    db.run("VACUUM v");
    db.wait("over", &format!("SELECT NOT ({warned})"));
}
