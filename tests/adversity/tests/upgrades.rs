//! pg_upgrade to the server under test from an older one, which `CACHE_REFRESHER_FROM` names by its pg_config.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cluster_tests::{Installation, free_port, output};

/// A data folder, and the programs that belong to it.
struct Cluster<'a> {
    programs: &'a Installation,
    folder: PathBuf,
    port: u16,
}

impl Cluster<'_> {
    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn init(&self) {
        std::fs::create_dir(&self.folder).unwrap();
        self.programs.give(&self.folder);
        let mut command = self.programs.command("initdb");
        command.args(["--auth=trust", "--no-sync", "--username=postgres"]);
        command.args(["--encoding=UTF8", "--locale=C"]);
        if self.programs.major() >= 18 {
            // They are on by default from 18 on, and both must agree.
            command.arg("--no-data-checksums");
        }
        output(command.arg("--pgdata").arg(self.data()));
        let settings = format!(
            "port = {}\nunix_socket_directories = '{}'\nlisten_addresses = ''\nfsync = off\n\
             shared_preload_libraries = 'cache_refresher'\ncache_refresher.enabled = off\n",
            self.port,
            self.folder.display()
        );
        let file = self.data().join("postgresql.conf");
        let text = std::fs::read_to_string(&file).unwrap() + &settings;
        std::fs::write(&file, text).unwrap();
    }

    fn control(&self, action: &str) {
        let mut command = self.programs.command("pg_ctl");
        command.arg(action).args(["--wait", "--mode=fast", "--log"]).arg(self.folder.join("log"));
        output(command.arg("--pgdata").arg(self.data()));
    }

    fn run(&self, sql: &str) -> String {
        output(
            self.programs
                .command("psql")
                .args([
                    "--no-psqlrc",
                    "--quiet",
                    "--tuples-only",
                    "--no-align",
                    "--set=ON_ERROR_STOP=1",
                ])
                .args(["--username=postgres", "--dbname=app", "--host"])
                .arg(&self.folder)
                .args(["--port", &self.port.to_string(), "--command", sql]),
        )
    }

    fn wait(&self, question: &str) {
        let start = Instant::now();
        while self.run(question) != "t" {
            assert!(start.elapsed() < Duration::from_secs(20), "{question}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Registrations and grants, in a form that does not depend on the server's version.
const CONFIGURATION: &str =
    "SELECT (SELECT string_agg(r::text, ' ' ORDER BY view_name) FROM _cache_refresher.registry r)
    || (SELECT string_agg(g::text, ' ') FROM _cache_refresher.refresh_grant g)";

const WRONG: &str = "SELECT count(*) = 0 FROM ((TABLE v EXCEPT ALL SELECT id, x FROM s) UNION ALL (SELECT id, x FROM s EXCEPT ALL TABLE v)) d";

#[test]
fn registrations_changes_and_content_survive_pg_upgrade() {
    let Ok(from) = std::env::var("CACHE_REFRESHER_FROM") else {
        eprintln!("skipped: CACHE_REFRESHER_FROM names no older server");
        return;
    };
    let (older, newer) = (Installation::of(Path::new(&from)), Installation::get());
    assert!(older.major() < newer.major());
    for link in [false, true] {
        let folder = tempfile::Builder::new().prefix("cr.").tempdir_in("/tmp").unwrap();
        newer.give(folder.path());
        let place = |name: &str| folder.path().join(name);
        let old = Cluster { programs: &older, folder: place("old"), port: free_port() };
        old.init();
        old.control("start");
        output(
            older
                .command("createdb")
                .args(["--username=postgres", "--host"])
                .arg(&old.folder)
                .args(["--port", &old.port.to_string(), "app"]),
        );
        old.run(
            "CREATE EXTENSION cache_refresher; CREATE ROLE fan;
             CREATE TABLE s (id int PRIMARY KEY, x text); INSERT INTO s SELECT i, 'x' || i FROM generate_series(1, 1000) i;
             CREATE MATERIALIZED VIEW v AS SELECT id, x FROM s; CREATE UNIQUE INDEX ON v (id);
             CREATE MATERIALIZED VIEW w AS SELECT id FROM v; CREATE UNIQUE INDEX ON w (id);
             SELECT cache_refresher.register('v', refresh_interval => '1 hour', on_change => true, debounce => '0');
             SELECT cache_refresher.register('w', refresh_interval => '1 hour');
             SELECT cache_refresher.grant_refresh('v', 'fan')",
        );
        old.run("SELECT cache_refresher.refresh('v')");
        old.run("SELECT cache_refresher.refresh('v')");
        assert_eq!(
            old.run("SELECT staleness FROM cache_refresher.status WHERE view_name = 'v'"),
            "fresh"
        );
        old.run("UPDATE s SET x = 'not shown yet' WHERE id < 10; SELECT cache_refresher.invalidate('w')");
        let configuration = old.run(CONFIGURATION);
        old.control("stop");

        let new = Cluster { programs: newer, folder: place("new"), port: free_port() };
        new.init();
        let mut upgrade = newer.command("pg_upgrade");
        upgrade.current_dir(&new.folder).args(["--username=postgres", "--no-sync"]);
        upgrade.arg("--socketdir").arg(&new.folder);
        upgrade.arg("--old-bindir").arg(older.bin_dir()).arg("--new-bindir").arg(newer.bin_dir());
        upgrade.arg("--old-datadir").arg(old.data()).arg("--new-datadir").arg(new.data());
        if link {
            upgrade.arg("--link");
        }
        output(&mut upgrade);
        new.control("start");
        assert_eq!(new.run(CONFIGURATION), configuration);
        // Nobody claims what nobody knows.
        assert_eq!(new.run("SELECT cache_refresher.freshness('v') ->> 'staleness'"), "stale");
        assert_ne!(new.run("SELECT cache_refresher.freshness('w') ->> 'staleness'"), "fresh");
        new.run("ALTER SYSTEM SET cache_refresher.enabled = on");
        new.run("SELECT pg_reload_conf()");
        new.wait("SELECT cache_refresher.freshness('v') ->> 'staleness' = 'fresh'");
        assert_eq!(new.run(WRONG), "t");
        new.run("UPDATE s SET x = 'after' WHERE id = 20");
        new.wait("SELECT count(*) = 1 FROM v WHERE x = 'after'");
        new.wait("SELECT cache_refresher.freshness('v') ->> 'staleness' = 'fresh'");
        assert_eq!(new.run(WRONG), "t");
        new.run("DROP EXTENSION cache_refresher");
        assert_eq!(
            new.run("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'cache_refresher%'"),
            "0"
        );
        new.control("stop");
    }
}
