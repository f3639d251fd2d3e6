//! Which PostgreSQL the tests run, and as whom.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The programs of one PostgreSQL, and the user who runs them.
pub struct Installation {
    bin_dir: PathBuf,
    /// Set when the tests run as root, which PostgreSQL refuses to be.
    user: Option<User>,
    version: String,
}

struct User {
    uid: u32,
    gid: u32,
}

impl Installation {
    /// The installation that `PG_CONFIG` or `PG_MAJOR` names, by default that of PostgreSQL 15.
    pub fn get() -> &'static Self {
        static FOUND: LazyLock<Installation> = LazyLock::new(Installation::find);
        &FOUND
    }

    fn find() -> Self {
        let pg_config = std::env::var("PG_CONFIG").unwrap_or_else(|_| {
            let major = std::env::var("PG_MAJOR").unwrap_or_else(|_| "15".into());
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/pg-config.sh");
            output(Command::new(script).arg(major))
        });
        Self::of(Path::new(&pg_config))
    }

    /// The installation that a pg_config belongs to.
    pub fn of(pg_config: &Path) -> Self {
        let is_root = rustix::process::getuid().is_root();
        Self {
            bin_dir: output(Command::new(pg_config).arg("--bindir")).into(),
            user: is_root.then(|| User { uid: id("-u"), gid: id("-g") }),
            version: output(Command::new(pg_config).arg("--version")),
        }
    }

    /// What `pg_config --version` says, and where the programs are: tells installations apart.
    pub fn identity(&self) -> String {
        format!("{} in {}", self.version, self.bin_dir.display())
    }

    /// Where its programs are.
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// The major version.
    pub fn major(&self) -> u32 {
        let digits: String = self
            .version
            .chars()
            .skip_while(|c| !c.is_ascii_digit())
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse().unwrap()
    }

    /// One of the programs, run as the server's user, without the caller's own PostgreSQL settings.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin_dir.join(program));
        // A backtrace in every error's detail would only be in the way.
        command.current_dir("/tmp").env("LC_ALL", "C").env_remove("RUST_BACKTRACE");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PG")) {
            command.env_remove(name);
        }
        if let Some(user) = &self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    /// Gives a file or folder to the server's user.
    pub fn give(&self, path: &Path) {
        if let Some(user) = &self.user {
            chown(path, Some(user.uid), Some(user.gid)).unwrap();
        }
    }
}

fn id(option: &str) -> u32 {
    output(Command::new("id").args([option, "postgres"])).parse().unwrap()
}

/// What a command printed; panics with what it complained about if it failed.
pub fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
