//! A data folder that initdb made once, beside the test binaries, and that every server copies.
//!
//! initdb takes seconds on a server with assertions. Tests may run in one process or in many
//! (cargo-nextest): whoever comes first makes the folder; a rename decides a race.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::Installation;
use crate::installation::output;

/// The name of the file, in the data folder, that holds a server's own settings.
pub const SETTINGS_FILE: &str = "test.conf";

/// Makes `data` a fresh data folder.
pub fn copy_to(installation: &Installation, data: &Path) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let template = path(installation);
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if !template.exists() {
        make(installation, &template);
    }
    drop(guard);
    copy(&template, data);
}

fn path(installation: &Installation) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    installation.identity().hash(&mut hasher);
    let executable = std::env::current_exe().unwrap();
    let build = executable.parent().and_then(Path::parent).unwrap();
    build.join(format!("cluster-template-{:x}", hasher.finish()))
}

fn make(installation: &Installation, template: &Path) {
    let folder = tempfile::Builder::new().prefix("cr-initdb.").tempdir_in("/tmp").unwrap();
    installation.give(folder.path());
    let data = folder.path().join("data");
    output(
        installation
            .command("initdb")
            .args(["--no-sync", "--auth=trust", "--username=postgres"])
            .args(["--encoding=UTF8", "--locale=C", "--pgdata"])
            .arg(&data),
    );
    let conf = data.join("postgresql.conf");
    let standard = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, format!("{standard}\ninclude '{SETTINGS_FILE}'\n")).unwrap();

    let mine = template.with_extension(std::process::id().to_string());
    copy(&data, &mine);
    if std::fs::rename(&mine, template).is_err() {
        // Another process was first.
        std::fs::remove_dir_all(&mine).unwrap();
    }
}

/// Keeps owner and mode: PostgreSQL insists on both.
fn copy(from: &Path, to: &Path) {
    output(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to));
}
