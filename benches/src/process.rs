//! What Linux says about a process: CPU time and memory.

use std::fs;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// Ticks of a second in /proc/PID/stat: the same on every Linux that PostgreSQL is packaged for.
const TICKS: u64 = 100;
/// How often memory is looked at.
const GLANCE: Duration = Duration::from_millis(2);

/// CPU time that a process has used, in user and kernel mode.
pub fn cpu(pid: i32) -> Duration {
    Duration::from_nanos(schedstat(pid, 0))
}

/// How often a process was put on a CPU: a wake-up, unless it was pushed off in between.
pub fn wake_ups(pid: i32) -> u64 {
    schedstat(pid, 2)
}

fn schedstat(pid: i32, field: usize) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    text.split_whitespace().nth(field).unwrap().parse().unwrap()
}

/// Memory of a process in kB: its share of what it has mapped, and what nobody else has.
pub struct Memory {
    /// Shared pages count in proportion.
    pub proportional: u64,
    /// Pages of its own.
    pub private: u64,
}

/// The memory of a process.
pub fn memory(pid: i32) -> Memory {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let field = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    Memory {
        proportional: field("Pss:"),
        private: field("Private_Clean:") + field("Private_Dirty:"),
    }
}

/// Memory of a process that is no file's and not shared, in kB: its heap and stack.
pub fn anonymous(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The most of that memory which a process is seen to have while `body` runs here.
pub fn peak_anonymous(pid: i32, body: impl FnOnce()) -> u64 {
    // Dropped at the end, also by a panic: the thread would never stop otherwise.
    let (running, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let watcher = scope.spawn(move || {
            let mut peak = anonymous(pid);
            while ended.recv_timeout(GLANCE) == Err(RecvTimeoutError::Timeout) {
                peak = peak.max(anonymous(pid));
            }
            peak
        });
        body();
        drop(running);
        watcher.join().unwrap()
    })
}

/// CPU time of a whole server: the postmaster, its children, and those that have ended.
pub fn server_cpu(postmaster: i32) -> Duration {
    let ended: u64 = stat(postmaster).unwrap()[13..15].iter().sum();
    let living = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|&pid| {
            pid == postmaster || stat(pid).is_some_and(|fields| fields[1] == postmaster as u64)
        })
        .map(cpu)
        .sum::<Duration>();
    living + Duration::from_millis(ended * 1000 / TICKS)
}

/// The fields of /proc/PID/stat after the name, as far as they are natural numbers.
fn stat(pid: i32) -> Option<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
}
