//! Views of every kind of refresh, and sessions that write to their sources.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cluster_tests::{Server, Session, describe, millis};
use fastrand::Rng;

use crate::honesty::wrong;

/// Each view, with its query and how it is refreshed.
const VIEWS: [(&str, &str, &str); 6] = [
    ("plain", "SELECT id, value, note FROM item", "refresh_interval => '400 ms', method => 'full'"),
    (
        "ticking",
        "SELECT id, value, note FROM item WHERE value % 2 = 0",
        "refresh_interval => '300 ms'",
    ),
    (
        "concurrent",
        "SELECT id, name FROM parent",
        "refresh_interval => '700 ms', method => 'concurrent'",
    ),
    (
        "joined",
        "SELECT i.id, i.value, p.name FROM item i LEFT JOIN parent p ON p.id = i.parent_id",
        "refresh_interval => '1 year', on_change => true, debounce => '0'",
    ),
    (
        "grouped",
        "SELECT p.id, p.name, count(i.id) AS items, sum(i.value) AS value
           FROM parent p JOIN item i ON i.parent_id = p.id GROUP BY p.id, p.name",
        "refresh_interval => '1 year', on_change => true, debounce => '100 ms'",
    ),
    (
        "of_view",
        "SELECT g.id, g.items FROM grouped g WHERE g.items > 2",
        "refresh_interval => '1 year', on_change => true, debounce => '0'",
    ),
];

/// Makes two tables and the views on them.
pub fn create_views(db: &mut Session) {
    db.run(
        "CREATE TABLE parent (id int PRIMARY KEY, name text);
         CREATE TABLE item (id int PRIMARY KEY, parent_id int REFERENCES parent ON DELETE CASCADE, value int, note text);
         CREATE INDEX ON item (parent_id);
         INSERT INTO parent SELECT i, 'parent ' || i FROM generate_series(1, 100) i;
         INSERT INTO item SELECT i, i % 100 + 1, i, 'item ' || i FROM generate_series(1, 1000) i",
    );
    for (name, query, _) in VIEWS {
        db.run(&format!(
            "CREATE MATERIALIZED VIEW {name} AS {query}; CREATE UNIQUE INDEX ON {name} (id)"
        ));
    }
    for (name, _, how) in VIEWS {
        db.run(&format!("SELECT cache_refresher.register('{name}', {how})"));
    }
}

/// Looks at all views in one snapshot: whoever is called fresh has to be right. Returns how many were fresh; an
/// error is that of a connection that was lost.
pub fn check(db: &mut Session) -> Result<u32, postgres::Error> {
    db.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ")?;
    let mut fresh = 0;
    for (name, query, _) in VIEWS {
        let staleness: Option<String> = db
            .query_one(
                "SELECT staleness FROM cache_refresher.status WHERE view_name = $1",
                &[&name],
            )?
            .get(0);
        if staleness.as_deref() == Some("fresh") {
            fresh += 1;
            let wrong = wrong(db, name, query)?;
            assert_eq!(wrong, 0, "{name} is called fresh, and {wrong} rows differ");
        }
    }
    db.batch_execute("COMMIT")?;
    Ok(fresh)
}

/// Waits until the workers have brought all views up to date with what was written last.
pub fn wait_until_right(db: &mut Session, patience: Duration) {
    let start = Instant::now();
    loop {
        let wrong: Vec<(&str, i64)> = VIEWS
            .iter()
            .map(|(name, query, _)| (*name, wrong(db, name, query).unwrap()))
            .filter(|(_, wrong)| *wrong > 0)
            .collect();
        if wrong.is_empty() {
            return;
        }
        if start.elapsed() > patience {
            // Fails, with what the extension says about itself.
            db.wait_for(&format!("all views are right: {wrong:?}"), millis(1), "SELECT false");
        }
        std::thread::sleep(millis(50));
    }
}

/// What writers have done.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// Transactions that were committed.
    pub committed: u64,
    /// How often a view that was called fresh was compared with its query.
    pub compared: u64,
}

/// Sessions that write, and one that looks at the views, until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    compared: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// So many writers.
    pub fn start(server: &Arc<Server>, database: &'static str, writers: u32, seed: u64) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            committed: Arc::default(),
            compared: Arc::default(),
            threads: Vec::new(),
        };
        for number in 0..writers {
            let mut rng = Rng::with_seed(seed.wrapping_add(u64::from(number)));
            load.spawn(server, database, load.committed.clone(), move |session| {
                let statements = transaction(&mut rng);
                if let Err(error) = session.batch_execute(&statements) {
                    let Some(refusal) = error.as_db_error() else { return Err(error) };
                    // Keys that are there already, deadlocks, and whatever the fault is.
                    let state = refusal.code().code();
                    let expected = ["23", "40", "53", "57", "55", "25"];
                    assert!(
                        expected.iter().any(|class| state.starts_with(class)),
                        "{statements}\n{}",
                        describe(&error)
                    );
                    session.batch_execute("ROLLBACK")?;
                    return Ok(0);
                }
                // Now and then there is quiet, in which views can become fresh.
                std::thread::sleep(millis(if rng.u32(0..12) == 0 { 500 } else { rng.u64(0..20) }));
                Ok(1)
            });
        }
        load.spawn(server, database, load.compared.clone(), |session| {
            std::thread::sleep(millis(20));
            check(session).map(u64::from)
        });
        load
    }

    /// Has a thread do something over and over again, in a new session whenever one was lost.
    fn spawn(
        &mut self,
        server: &Arc<Server>,
        database: &'static str,
        done: Arc<AtomicU64>,
        mut body: impl FnMut(&mut Session) -> Result<u64, postgres::Error> + Send + 'static,
    ) {
        let (server, stop) = (server.clone(), self.stop.clone());
        self.threads.push(std::thread::spawn(move || {
            let mut session = None;
            while !stop.load(Ordering::Relaxed) {
                let Some(open) = &mut session else {
                    session = server.try_connect(database, "postgres").ok();
                    std::thread::sleep(millis(20));
                    continue;
                };
                match body(open) {
                    Ok(count) => drop(done.fetch_add(count, Ordering::Relaxed)),
                    Err(_) => session = None,
                }
            }
        }));
    }

    /// Ends it; panics if one of the threads has met something that must not be.
    pub fn stop(mut self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        Written {
            committed: self.committed.load(Ordering::Relaxed),
            compared: self.compared.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Of a test that has failed: its threads keep the server.
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn statement(rng: &mut Rng) -> String {
    let item = rng.u32(1..1200);
    let parent = rng.u32(1..120);
    match rng.u32(0..12) {
        0 => format!("UPDATE parent SET name = 'p' || {} WHERE id = {parent}", rng.u32(0..1000)),
        1 => format!("INSERT INTO parent VALUES ({parent}, 'new') ON CONFLICT (id) DO UPDATE SET name = 'again'"),
        2 => format!("DELETE FROM parent WHERE id = {parent}"),
        3 => format!("DELETE FROM item WHERE id = {item}"),
        4 | 5 => format!(
            "INSERT INTO item SELECT {item}, (SELECT id FROM parent WHERE id >= {parent} ORDER BY id LIMIT 1), {item}, 'new'
             ON CONFLICT (id) DO UPDATE SET value = -1"
        ),
        6 => format!("UPDATE item SET parent_id = (SELECT max(id) FROM parent WHERE id <= {parent}) WHERE id = {item}"),
        7 => format!("UPDATE item SET value = value + 1 WHERE id BETWEEN {item} AND {}", item + 50),
        8 => format!("UPDATE item SET note = 'n' WHERE id BETWEEN {item} AND {}", item + 20),
        _ => format!("UPDATE item SET value = {} WHERE id = {item}", rng.u32(0..1000)),
    }
}

fn transaction(rng: &mut Rng) -> String {
    let mut text = "BEGIN".to_owned();
    for _ in 0..rng.u32(1..4) {
        text += ";\n";
        text += &statement(rng);
        if rng.u32(0..5) == 0 {
            text += &format!(";\nSAVEPOINT s;\n{}", statement(rng));
            text += if rng.bool() { ";\nROLLBACK TO s" } else { ";\nRELEASE s" };
        }
    }
    text + if rng.u32(0..10) == 0 { ";\nROLLBACK" } else { ";\nCOMMIT" }
}
