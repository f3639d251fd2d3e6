//! A database on a server that the tests of one process share.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::{Server, Session};

/// A database with the extension, dropped at the end of its test.
pub struct Scratch {
    session: Option<Session>,
    name: &'static str,
    server: Arc<Server>,
}

impl Scratch {
    /// Makes the database. The server has four workers and quick retries (two, of 100 to 300 ms).
    pub fn new(name: &'static str) -> Self {
        let server = shared();
        Self { session: Some(server.create_database(name)), name, server }
    }

    /// The server, which is not to be broken.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The same, to be kept beside a borrowed session.
    pub const fn shared_server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Another session in the database.
    pub fn connect(&self) -> Session {
        self.server.connect(self.name)
    }

    /// Another session, of that role.
    pub fn connect_as(&self, role: &str) -> Session {
        self.server.connect_as(self.name, role)
    }

    /// The name of the database.
    pub fn name(&self) -> &str {
        self.name
    }
}

impl Deref for Scratch {
    type Target = Session;
    fn deref(&self) -> &Session {
        self.session.as_ref().unwrap()
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut Session {
        self.session.as_mut().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.session = None;
        // Its views would go on being refreshed beside the next tests. No panic in a drop.
        if let Ok(mut admin) = self.server.try_connect("postgres", "postgres") {
            let _ = admin.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
        }
    }
}

/// Held weakly: statics are never dropped, and the last test must stop the server.
fn shared() -> Arc<Server> {
    static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Server::builder()
            .setting("cache_refresher.max_workers", "4")
            .setting("cache_refresher.max_retries", "2")
            .setting("cache_refresher.retry_base_delay", "100ms")
            .setting("cache_refresher.retry_max_delay", "300ms")
            .start();
        let server = Arc::new(server);
        *shared = Arc::downgrade(&server);
        server
    })
}
