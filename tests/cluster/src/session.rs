//! A session with the few calls that tests are made of.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::Duration;

use postgres::error::DbError;
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::FromSqlOwned;
use postgres::{Client, Error, Row};
use serde_json::Value;

use crate::{PATIENCE, poll};

/// A connection that panics, with the server's words, when a statement fails.
pub struct Session {
    client: Client,
    log: PathBuf,
}

impl Session {
    pub(crate) fn new(client: Client, log: PathBuf) -> Self {
        Self { client, log }
    }

    /// Runs statements and wants no result.
    pub fn run(&mut self, sql: &str) {
        if let Err(error) = self.client.batch_execute(sql) {
            panic!("{sql}\n{}\n{}", describe(&error), tail(&self.log));
        }
    }

    /// The one value that a query returns.
    pub fn get<T: FromSqlOwned>(&mut self, sql: &str) -> T {
        self.row(sql).get(0)
    }

    /// The one row that a query returns.
    pub fn row(&mut self, sql: &str) -> Row {
        match self.client.query_one(sql, &[]) {
            Ok(row) => row,
            Err(error) => panic!("{sql}\n{}\n{}", describe(&error), tail(&self.log)),
        }
    }

    /// The error with which the server refuses a statement.
    pub fn error_of(&mut self, sql: &str) -> DbError {
        match self.client.batch_execute(sql) {
            Ok(()) => panic!("this should have failed: {sql}"),
            Err(error) => match error.as_db_error() {
                Some(refusal) => refusal.clone(),
                None => panic!("{sql}: {error}"),
            },
        }
    }

    /// Waits until a query returns true.
    pub fn wait(&mut self, what: &str, sql: &str) {
        self.wait_for(what, PATIENCE, sql);
    }

    /// The same with another limit.
    pub fn wait_for(&mut self, what: &str, patience: Duration, sql: &str) {
        if !poll(patience, || self.get::<Option<bool>>(sql) == Some(true)) {
            panic!(
                "not within {patience:?}: {what}\n{sql}\n{}\n{}",
                self.report(),
                tail(&self.log)
            );
        }
    }

    /// Asserts that a query returns true the whole time.
    pub fn holds_for(&mut self, what: &str, time: Duration, sql: &str) {
        if poll(time, || self.get::<Option<bool>>(sql) != Some(true)) {
            panic!("not for {time:?}: {what}\n{sql}\n{}\n{}", self.report(), tail(&self.log));
        }
    }

    /// The JSON payloads that arrive until `count` are there or the time is over.
    pub fn payloads(&mut self, count: usize, patience: Duration) -> Vec<Value> {
        let mut notifications = self.client.notifications();
        let mut arriving = notifications.timeout_iter(patience);
        let mut payloads = Vec::new();
        while payloads.len() < count {
            match arriving.next().unwrap() {
                Some(notification) => {
                    payloads.push(serde_json::from_str(notification.payload()).unwrap());
                }
                None => break,
            }
        }
        payloads
    }

    /// What the extension says about itself in this database, for the message of a failed test.
    fn report(&mut self) -> String {
        let query = "SELECT coalesce((SELECT string_agg(s::text, E'\\n') FROM cache_refresher.status s), '')
                    || E'\\n' || coalesce((SELECT string_agg(l::text, E'\\n') FROM
                       (SELECT * FROM cache_refresher.refresh_log ORDER BY id DESC LIMIT 10) l), '')";
        match self.client.query_one(query, &[]) {
            Ok(row) => row.get(0),
            Err(error) => describe(&error),
        }
    }
}

impl Deref for Session {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// The SQLSTATE of an error that the server raised.
pub fn state_of(error: &Error) -> &str {
    match error.code() {
        Some(state) => state.code(),
        None => panic!("not the server's: {error}"),
    }
}

/// All that the server said about an error.
pub fn describe(error: &Error) -> String {
    match error.as_db_error() {
        Some(refusal) => format!(
            "{} {}\nDETAIL: {:?}\nHINT: {:?}\nCONTEXT: {:?}",
            refusal.code().code(),
            refusal.message(),
            refusal.detail(),
            refusal.hint(),
            refusal.where_()
        ),
        None => error.to_string(),
    }
}

/// The end of a server's log.
pub(crate) fn tail(log: &Path) -> String {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let end = &lines[lines.len().saturating_sub(150)..];
    format!("--- server log\n{}\n---", end.join("\n"))
}
