//! A throw-away server: start, settings, connections, signals, stop.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use postgres::{Config, Error, NoTls};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::installation::output;
use crate::template::SETTINGS_FILE;
use crate::{Builder, Installation, Session, poll, seconds};

/// A server of its own, stopped and removed when it is dropped.
pub struct Server {
    pub(crate) installation: &'static Installation,
    pub(crate) folder: TempDir,
    pub(crate) port: u16,
    pub(crate) settings: Mutex<BTreeMap<String, String>>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) postmaster: Mutex<Option<Child>>,
}

/// How a server is shut down.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    /// Waits for sessions to end.
    Smart,
    /// Ends sessions.
    Fast,
    /// Ends everything without a checkpoint.
    Immediate,
}

/// A process of the extension, as `pg_stat_activity` shows it.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its process id.
    pub pid: i32,
    /// Its backend type.
    pub kind: String,
    /// Its database, if it is connected to one.
    pub database: Option<String>,
    /// What it waits for.
    pub wait_event: Option<String>,
}

impl Server {
    /// A server with the extension preloaded, small, and careless about crashes of the machine.
    pub fn builder<'a>() -> Builder<'a> {
        Builder::new()
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connects as superuser.
    pub fn connect(&self, database: &str) -> Session {
        self.connect_as(database, "postgres")
    }

    /// Connects as that role.
    pub fn connect_as(&self, database: &str, role: &str) -> Session {
        self.try_connect(database, role)
            .unwrap_or_else(|error| panic!("connecting to {database} as {role}: {error}"))
    }

    /// Connects as that role, if the server lets it.
    pub fn try_connect(&self, database: &str, role: &str) -> Result<Session, Error> {
        let client = Config::new()
            .host_path(self.folder.path())
            .port(self.port)
            .user(role)
            .dbname(database)
            // A statement that hangs fails its test rather than hanging the run.
            .options("-c statement_timeout=60s")
            .connect(NoTls)?;
        Ok(Session::new(client, self.log_path()))
    }

    /// Makes a database with the extension in it, and connects to it.
    pub fn create_database(&self, name: &str) -> Session {
        self.create_plain_database(name);
        let mut session = self.connect(name);
        session.run("CREATE EXTENSION cache_refresher");
        session
    }

    /// Makes a database without the extension.
    pub fn create_plain_database(&self, name: &str) {
        self.connect("postgres").run(&format!("CREATE DATABASE {name}"));
    }

    /// Runs a statement in a session and thread of its own.
    pub fn background(&self, database: &str, sql: &str) -> JoinHandle<Result<(), Error>> {
        let mut session = self.connect(database);
        let sql = sql.to_owned();
        std::thread::spawn(move || session.batch_execute(&sql))
    }

    /// Writes a setting to the configuration; `reload` or `restart` makes it hold.
    pub fn set(&self, name: &str, value: &str) {
        lock(&self.settings).insert(name.into(), value.into());
        self.write_settings();
    }

    /// Takes a setting out of the configuration.
    pub fn reset(&self, name: &str) {
        lock(&self.settings).remove(name);
        self.write_settings();
    }

    /// Makes the server read its configuration again.
    pub fn reload(&self) {
        self.signal_postmaster(Signal::HUP);
    }

    /// Starts it after `stop`.
    pub fn start(&self) {
        if let Err(log) = self.try_start() {
            panic!("the server did not start:\n{log}");
        }
    }

    /// Shuts it down; how long that took.
    pub fn stop(&self, mode: Mode) -> Duration {
        let start = Instant::now();
        self.signal_postmaster(match mode {
            Mode::Smart => Signal::TERM,
            Mode::Fast => Signal::INT,
            Mode::Immediate => Signal::QUIT,
        });
        let mut postmaster = lock(&self.postmaster);
        let child = postmaster.as_mut().unwrap();
        let stopped = poll(seconds(60), || child.try_wait().unwrap().is_some());
        assert!(stopped, "no {mode:?} shutdown in a minute\n{}", self.log_tail());
        *postmaster = None;
        start.elapsed()
    }

    /// Fast shutdown and start.
    pub fn restart(&self) {
        self.stop(Mode::Fast);
        self.start();
    }

    /// Sends a signal to one of its processes.
    pub fn kill(&self, pid: i32, signal: Signal) {
        assert!(self.try_kill(pid, signal), "no process {pid}");
    }

    /// The same, if the process is still there.
    pub fn try_kill(&self, pid: i32, signal: Signal) -> bool {
        kill_process(Pid::from_raw(pid).unwrap(), signal).is_ok()
    }

    /// Lets the server own a file or folder.
    pub fn give(&self, path: &Path) {
        self.installation.give(path);
    }

    /// The processes of the extension.
    pub fn processes(&self) -> Vec<Process> {
        self.connect("postgres")
            .query(
                "SELECT pid, backend_type, datname::text, wait_event FROM pg_stat_activity
                 WHERE backend_type LIKE 'cache_refresher %' ORDER BY pid",
                &[],
            )
            .unwrap()
            .iter()
            .map(|row| Process {
                pid: row.get(0),
                kind: row.get(1),
                database: row.get(2),
                wait_event: row.get(3),
            })
            .collect()
    }

    /// The process ids of one kind.
    pub fn pids_of(&self, kind: &str) -> Vec<i32> {
        self.processes()
            .into_iter()
            .filter(|process| process.kind == kind)
            .map(|process| process.pid)
            .collect()
    }

    /// How many workers are in the middle of a transaction. The pool counts those: one that leaves has
    /// given its place back a moment before its process is gone.
    pub fn refreshes_at_work(&self) -> usize {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = $1 AND xact_start IS NOT NULL";
        let row = self.connect("postgres").query_one(sql, &[&crate::WORKER]).unwrap();
        usize::try_from(row.get::<_, i64>(0)).unwrap()
    }

    /// How many processes of the extension are connected to a database.
    pub fn processes_in(&self, database: &str) -> usize {
        self.processes()
            .iter()
            .filter(|process| process.database.as_deref() == Some(database))
            .count()
    }

    /// Waits for something; panics with the server's log if it does not happen in time.
    pub fn wait_until(&self, what: &str, patience: Duration, happened: impl FnMut() -> bool) {
        if !poll(patience, happened) {
            panic!("not within {patience:?}: {what}\n{:#?}\n{}", self.processes(), self.log_tail());
        }
    }

    /// Everything it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// How many lines of the log hold all of these words.
    pub fn log_lines(&self, words: &[&str]) -> usize {
        self.log().lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    /// The lines that tell of a process which gave up or of a crash. Our own attempts to connect
    /// while the server starts are not among them.
    pub fn fatal_lines(&self) -> Vec<String> {
        self.log()
            .lines()
            .filter(|line| line.contains("FATAL:") || line.contains("PANIC:"))
            .filter(|line| !line.contains("the database system is"))
            // A session of the test's that a stop has caught before it was gone.
            .filter(|line| !line.contains("client backend FATAL:  terminating connection"))
            .map(str::to_owned)
            .collect()
    }

    /// An empty folder that the server may write to.
    pub fn new_folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        self.installation.give(&path);
        path
    }

    /// One of PostgreSQL's client programs, told how to reach this server as superuser.
    pub fn client(&self, program: &str) -> Command {
        let mut command = self.installation.command(program);
        command
            .env("PGHOST", self.folder.path())
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres");
        command
    }

    /// The folder of its socket and its log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn log_tail(&self) -> String {
        crate::session::tail(&self.log_path())
    }

    pub(crate) fn base_backup(&self, data: &Path) {
        output(
            self.client("pg_basebackup")
                .args(["--write-recovery-conf", "--wal-method=stream"])
                .args(["--checkpoint=fast", "--no-sync", "--pgdata"])
                .arg(data),
        );
    }

    /// Writes its settings; `set` does, too. Something may have replaced its data folder.
    pub fn write_settings(&self) {
        let lines: String = lock(&self.settings)
            .iter()
            .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
            .collect();
        std::fs::write(self.data().join(SETTINGS_FILE), lines).unwrap();
    }

    /// Starts the postmaster as our own child and waits until it lets somebody in.
    pub(crate) fn try_start(&self) -> Result<(), String> {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let mut child = self
            .installation
            .command("postgres")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .arg("-D")
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut ended = false;
        let answered = poll(seconds(60), || {
            ended = child.try_wait().unwrap().is_some();
            ended || self.try_connect("postgres", "postgres").is_ok()
        });
        if ended {
            return Err(self.log_tail());
        }
        *lock(&self.postmaster) = Some(child);
        if answered {
            Ok(())
        } else {
            Err(format!("no connection in a minute\n{}", self.log_tail()))
        }
    }

    fn signal_postmaster(&self, signal: Signal) {
        let postmaster = lock(&self.postmaster);
        let child = postmaster.as_ref().expect("the server is not running");
        kill_process(Pid::from_child(child), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        if let Some(mut child) = lock(&self.postmaster).take() {
            // Neither may panic here; a process that is gone already is fine.
            let _ = kill_process(Pid::from_child(&child), Signal::QUIT);
            if !poll(seconds(10), || !matches!(child.try_wait(), Ok(None))) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
