//! What a case ran so far, kept for whoever has to find out why it failed.

use std::path::Path;

use crate::{Counts, Session, diff_statement};

/// A session whose statements end up in a file, with the seed, when the test fails.
pub struct Script<'a> {
    /// The session itself, for what need not be kept.
    pub session: &'a mut Session,
    statements: Vec<String>,
    seed: u64,
}

impl<'a> Script<'a> {
    /// Of the case that is drawn from that seed.
    pub fn new(session: &'a mut Session, seed: u64) -> Self {
        Self { session, statements: Vec::new(), seed }
    }

    /// Runs a statement.
    pub fn run(&mut self, sql: &str) {
        self.statements.push(sql.to_owned());
        self.session.run(sql);
    }

    /// Refreshes view `v` with method diff.
    pub fn diff(&mut self) -> Counts {
        self.statements.push(diff_statement("v"));
        self.session.diff("v")
    }

    fn save(&self) -> std::io::Result<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tmp");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(format!("case-{}.sql", self.seed));
        std::fs::write(&path, self.statements.join(";\n\n") + ";\n")?;
        Ok(path.display().to_string())
    }
}

impl Drop for Script<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let saved = self.save().unwrap_or_else(|error| format!("not saved: {error}"));
            eprintln!(
                "This case again: CACHE_REFRESHER_SEED={}, with the name of this test.\n\
                 What it ran: {saved}",
                self.seed
            );
        }
    }
}
