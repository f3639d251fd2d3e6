//! Whether refreshing works: what the server's part of `health` says.

use std::time::Duration;

use cache_refresher_core::time::Timestamp;
use cache_refresher_core::version::Fit;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::catalog::version;
use crate::error::Result;
use crate::guc;
use crate::pg::process::latch;
use crate::pg::shared::{self, Knowledge, Scheduler, Worker};
use crate::pg::{clock, identity, snapshot};

/// A row of health: check, status, detail, hint.
type Check = (&'static str, &'static str, String, Option<String>);

#[pg_extern(sql = false)]
fn server_checks() -> TableIterator<
    'static,
    (
        name!(check, &'static str),
        name!(status, &'static str),
        name!(detail, String),
        name!(hint, Option<String>),
    ),
> {
    TableIterator::new(checks(clock::now()).unwrap_or_else(|error| error.raise()))
}

#[pg_extern(sql = false)]
fn healthy() -> std::result::Result<bool, ErrorReport> {
    Ok(is_healthy()?)
}

/// Whether refreshing works at all.
pub(super) fn is_healthy() -> Result<bool> {
    Ok(checks(clock::now())?.iter().all(|(_, status, ..)| *status != "critical"))
}

fn checks(now: Timestamp) -> Result<Vec<Check>> {
    let mut checks = vec![library(), versions()?];
    if shared::is_available() {
        checks.extend([launcher(), scheduling(), scheduler(now), slots(now), workers(now)]);
    }
    Ok(checks)
}

fn ok(check: &'static str, detail: impl Into<String>) -> Check {
    (check, "ok", detail.into(), None)
}

fn library() -> Check {
    if shared::is_available() {
        ok("preload", "the library is preloaded")
    } else {
        ("preload", "critical", "nothing is scheduled".to_owned(), Some(PRELOAD.to_owned()))
    }
}

fn versions() -> Result<Check> {
    let (objects, fit) = version::installed()?.unwrap_or_else(|| (String::new(), Fit::Behind));
    Ok(match fit.remedy() {
        None => ok("version", objects),
        Some(hint) => (
            "version",
            "critical",
            format!("of the extension: {objects}, of the library: {}", version::LIBRARY),
            Some(hint.to_owned()),
        ),
    })
}

fn launcher() -> Check {
    let pid = shared::launcher();
    if pid != 0 && latch::is_alive(pid) {
        ok("launcher", format!("running, pid {pid}"))
    } else if snapshot::is_in_recovery() {
        ok("launcher", "not needed: this server is a standby, and shows what its primary refreshes")
    } else {
        let hint = "The postmaster starts it again within a second; see the server log.";
        ("launcher", "critical", "not running".to_owned(), Some(hint.to_owned()))
    }
}

fn scheduling() -> Check {
    let name = identity::current_database_name();
    if !guc::enabled() {
        let hint = "Set cache_refresher.enabled = on in postgresql.conf and reload.";
        let detail = "scheduled refreshes are switched off".to_owned();
        ("scheduling", "warning", detail, Some(hint.to_owned()))
    } else if guc::databases().contains(&name) {
        ok("scheduling", "enabled in this database")
    } else {
        let hint = "Add this database to cache_refresher.databases in postgresql.conf and reload.";
        let detail = "this database is not in cache_refresher.databases".to_owned();
        ("scheduling", "warning", detail, Some(hint.to_owned()))
    }
}

/// What to do where the library is not preloaded.
pub const PRELOAD: &str = "Add cache_refresher to shared_preload_libraries in postgresql.conf and restart the server. \
                       Until then, refresh works by hand only.";

fn scheduler(now: Timestamp) -> Check {
    let here = identity::current_database();
    let known = shared::databases().into_iter().find(|(database, _)| database.oid == here);
    let detail = match known {
        None => "the launcher has not looked at this database yet".to_owned(),
        Some((_, true)) => "kept out by a statement that needs the database to itself".to_owned(),
        Some((database, _)) => match (database.scheduler, database.deadline) {
            (Scheduler::Running(pid), _) => format!("running, pid {pid}"),
            (Scheduler::Starting(_), _) => "starting".to_owned(),
            (Scheduler::None, _) if database.failures > 0 => {
                let hint = "See the server log for the cause.";
                let detail = format!("ended badly {} times in a row", database.failures);
                return ("scheduler", "warning", detail, Some(hint.to_owned()));
            }
            (Scheduler::None, _) if database.knowledge != Knowledge::Present => {
                "the launcher is about to look at this database".to_owned()
            }
            (Scheduler::None, Some(at)) => {
                format!("not needed for {} s", at.since(now).as_secs())
            }
            (Scheduler::None, None) => "not needed".to_owned(),
        },
    };
    ok("scheduler", detail)
}

fn slots(now: Timestamp) -> Check {
    match shared::starved_since() {
        None => ok("worker slots", "the server has free background workers"),
        Some(since) => (
            "worker slots",
            if since.plus(LONG_STARVED) < now { "critical" } else { "warning" },
            format!(
                "for {} s the server has had no free background worker",
                now.since(since).as_secs()
            ),
            Some(
                "Raise max_worker_processes: it has to cover the launcher, a scheduler for each \
                 busy database and cache_refresher.max_workers, beside parallel queries and other \
                 extensions."
                    .to_owned(),
            ),
        ),
    }
}

/// A server that has had no free background worker for so long refreshes nothing.
const LONG_STARVED: Duration = Duration::from_secs(300);

/// A refresh that has waited for a worker for so long is worth a look.
const LONG_WAIT: Duration = Duration::from_secs(60);

fn workers(now: Timestamp) -> Check {
    let pool = shared::workers();
    let taken = pool.iter().filter(|slot| !matches!(slot.worker, Worker::Free)).count();
    let busy = pool.iter().filter(|slot| matches!(slot.worker, Worker::Busy(_))).count();
    let detail = format!("{busy} of {taken} busy, at most {}", guc::max_workers());
    let waiting =
        shared::databases().into_iter().filter_map(|(database, _)| database.waiting_since);
    match waiting.min() {
        Some(since) if since.plus(LONG_WAIT) < now => {
            let hint = "See cache_refresher.progress. Cancel what does not end, set \
                        cache_refresher.timeout, or raise cache_refresher.max_workers.";
            let seconds = now.since(since).as_secs();
            let detail = format!("{detail}; a refresh has waited for one for {seconds} s");
            ("workers", "warning", detail, Some(hint.to_owned()))
        }
        _ => ok("workers", detail),
    }
}
