//! What a throw-away server is to be like, and the making of it.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Mutex;

use crate::{Installation, Server, template};

/// What a server is to be like.
pub struct Builder<'a> {
    preload: bool,
    settings: BTreeMap<String, String>,
    environment: Vec<(String, String)>,
    primary: Option<&'a Server>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new() -> Self {
        Self { preload: true, settings: BTreeMap::new(), environment: Vec::new(), primary: None }
    }

    /// Whether `shared_preload_libraries` names the extension; it does by default.
    pub fn preload(mut self, preload: bool) -> Self {
        self.preload = preload;
        self
    }

    /// A line of postgresql.conf.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.into(), value.into());
        self
    }

    /// A variable in the environment of its processes.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// A copy of that server which follows it.
    pub fn standby_of(mut self, primary: &'a Server) -> Self {
        self.primary = Some(primary);
        self
    }

    /// Starts it.
    pub fn start(self) -> Server {
        // A port that was free a moment ago can be taken by now: then another one.
        for _ in 0..5 {
            let server = self.prepare();
            match server.try_start() {
                Ok(()) => return server,
                Err(log) if log.contains("Address already in use") => {}
                Err(log) => panic!("the server did not start:\n{log}"),
            }
        }
        panic!("no free port found");
    }

    /// Makes it, and does not start it yet.
    pub fn prepare(&self) -> Server {
        let installation = Installation::get();
        // In /tmp: a socket's path must be short, and the server's user must get there.
        let folder = tempfile::Builder::new().prefix("cr.").tempdir_in("/tmp").unwrap();
        installation.give(folder.path());
        let port = free_port();
        let mut settings: BTreeMap<String, String> = [
            ("autovacuum_naptime", "10min"),
            ("fsync", "off"),
            ("full_page_writes", "off"),
            ("jit", "off"),
            ("listen_addresses", "127.0.0.1"),
            ("log_checkpoints", "off"),
            ("log_line_prefix", "%m [%p] %b "),
            ("max_connections", "40"),
            ("max_worker_processes", "24"),
            ("shared_buffers", "16MB"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        settings.insert("port".into(), port.to_string());
        settings.insert("unix_socket_directories".into(), folder.path().display().to_string());
        if self.preload {
            settings.insert("shared_preload_libraries".into(), "cache_refresher".into());
        }
        settings.extend(self.settings.clone());
        let server = Server {
            installation,
            folder,
            port,
            settings: Mutex::new(settings),
            environment: self.environment.clone(),
            postmaster: Mutex::new(None),
        };
        match self.primary {
            Some(primary) => primary.base_backup(&server.data()),
            None => template::copy_to(installation, &server.data()),
        }
        server.write_settings();
        server
    }
}

/// A TCP port that nobody listens on just now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
