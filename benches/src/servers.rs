//! The servers that are measured, and the views on them.

use std::time::{SystemTime, UNIX_EPOCH};

use cluster_tests::{Server, Session};

/// How many views there are, where there are many.
pub const VIEWS: usize = 1000;

/// PostgreSQL's own defaults, where the harness has smaller or more careless ones.
const SETTINGS: [(&str, &str); 8] = [
    ("autovacuum_naptime", "1min"),
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("jit", "on"),
    ("log_checkpoints", "on"),
    ("max_connections", "100"),
    ("max_worker_processes", "8"),
    ("shared_buffers", "128MB"),
];

/// Starts a server with these settings beside PostgreSQL's defaults.
pub fn start(settings: &[(&str, &str)]) -> Server {
    let all = SETTINGS.iter().chain(settings);
    all.fold(Server::builder(), |builder, (name, value)| builder.setting(name, value)).start()
}

/// What `start` sets, in words.
pub fn describe() -> &'static str {
    "PostgreSQL's and cache_refresher's defaults (fsync on, 128 MB, 2 workers)"
}

/// The process id of the postmaster.
pub fn postmaster(db: &mut Session) -> i32 {
    let data: String = db.get("SHOW data_directory");
    let file = std::fs::read_to_string(format!("{data}/postmaster.pid")).unwrap();
    file.lines().next().unwrap().parse().unwrap()
}

/// The process of a backend type; 0 if there is none.
pub fn process(db: &mut Session, backend_type: &str) -> i32 {
    db.get(&format!(
        "SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE backend_type = '{backend_type}'"
    ))
}

/// Makes views v0001, v0002, … of ten rows each, with a unique index.
pub fn create_views(db: &mut Session, populated: bool) {
    db.run(
        "CREATE TABLE source (id int PRIMARY KEY, value int NOT NULL);
         INSERT INTO source SELECT i, i FROM generate_series(1, 10) i",
    );
    let data = if populated { "" } else { "WITH NO DATA" };
    // Not all in one transaction: each takes several locks.
    for first in (1..=VIEWS).step_by(100) {
        db.run(&format!(
            "DO $$
             DECLARE name text;
             BEGIN
                 FOR i IN {first}..{} LOOP
                     name := 'v' || to_char(i, 'FM0000');
                     EXECUTE format('CREATE MATERIALIZED VIEW %I AS TABLE source {data}', name);
                     EXECUTE format('CREATE UNIQUE INDEX ON %I (id)', name);
                 END LOOP;
             END $$",
            (first + 99).min(VIEWS)
        ));
    }
}

/// Registers them all.
pub fn register_views(db: &mut Session, interval: &str) {
    db.run(&format!(
        "SELECT cache_refresher.register(oid, refresh_interval => '{interval}')
           FROM pg_class WHERE relkind = 'm'"
    ));
}

/// Seconds since 1970, as `extract(epoch …)` has them.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}
