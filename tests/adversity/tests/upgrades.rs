//! pg_upgrade to the server under test, through the older ones that `CACHE_REFRESHER_OLDER` names by their pg_config,
//! oldest first. A library that is not of the version of what is in the database.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cluster_tests::{A_SECOND, Installation, PATIENCE, SCHEDULER, Server, free_port, output};

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
    let named = std::env::var("CACHE_REFRESHER_OLDER").unwrap_or_default();
    let older: Vec<Installation> =
        named.split_whitespace().map(|from| Installation::of(Path::new(from))).collect();
    let Some(oldest) = older.first() else {
        eprintln!("skipped: CACHE_REFRESHER_OLDER names no older server");
        return;
    };
    for link in [false, true] {
        let folder = tempfile::Builder::new().prefix("cr.").tempdir_in("/tmp").unwrap();
        oldest.give(folder.path());
        let cluster = |programs| {
            let cluster = Cluster {
                programs,
                folder: folder.path().join(programs.major().to_string()),
                port: free_port(),
            };
            cluster.init();
            cluster
        };
        let mut old = cluster(oldest);
        old.control("start");
        fill(&old);
        for programs in older.iter().skip(1).chain([Installation::get()]) {
            old.run("UPDATE s SET x = x || ' not shown yet' WHERE id < 10; SELECT cache_refresher.invalidate('w')");
            let configuration = old.run(CONFIGURATION);
            old.control("stop");
            let new = cluster(programs);
            upgrade(&old, &new, link);
            new.control("start");
            assert_eq!(new.run(CONFIGURATION), configuration);
            goes_on(&new);
            println!(
                "{} to {}, {}",
                old.programs.major(),
                new.programs.major(),
                if link { "linked" } else { "copied" }
            );
            old = new;
        }
        old.run("DROP EXTENSION cache_refresher");
        assert_eq!(
            old.run("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'cache_refresher%'"),
            "0"
        );
        old.control("stop");
    }
}

/// Two views, one that reads a table and one that reads the other, with all there is to keep about them.
fn fill(cluster: &Cluster) {
    let mut create = cluster.programs.command("createdb");
    create.args(["--username=postgres", "--host"]).arg(&cluster.folder);
    output(create.args(["--port", &cluster.port.to_string(), "app"]));
    cluster.run(
        "CREATE EXTENSION cache_refresher; CREATE ROLE fan;
         CREATE TABLE s (id int PRIMARY KEY, x text); INSERT INTO s SELECT i, 'x' || i FROM generate_series(1, 1000) i;
         CREATE MATERIALIZED VIEW v AS SELECT id, x FROM s; CREATE UNIQUE INDEX ON v (id);
         CREATE MATERIALIZED VIEW w AS SELECT id FROM v; CREATE UNIQUE INDEX ON w (id);
         SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true, debounce => '0');
         SELECT cache_refresher.register('w', refresh_interval => '1 year');
         SELECT cache_refresher.grant_refresh('v', 'fan')",
    );
    cluster.run("SELECT cache_refresher.refresh('v')");
    cluster.run("SELECT cache_refresher.refresh('v')");
    assert_eq!(
        cluster.run("SELECT staleness FROM cache_refresher.status WHERE view_name = 'v'"),
        "fresh"
    );
}

fn upgrade(old: &Cluster, new: &Cluster, link: bool) {
    let mut upgrade = new.programs.command("pg_upgrade");
    upgrade.current_dir(&new.folder).args(["--username=postgres", "--no-sync"]);
    upgrade.arg("--socketdir").arg(&new.folder);
    upgrade.arg("--old-bindir").arg(old.programs.bin_dir()).arg("--old-datadir").arg(old.data());
    upgrade.arg("--new-bindir").arg(new.programs.bin_dir()).arg("--new-datadir").arg(new.data());
    if link {
        upgrade.arg("--link");
    }
    output(&mut upgrade);
}

/// Nobody claims what nobody knows; once scheduling is on, what was not shown is, and what is changed then.
fn goes_on(cluster: &Cluster) {
    assert_eq!(cluster.run("SELECT cache_refresher.freshness('v') ->> 'staleness'"), "stale");
    assert_ne!(cluster.run("SELECT cache_refresher.freshness('w') ->> 'staleness'"), "fresh");
    cluster.run("ALTER SYSTEM SET cache_refresher.enabled = on");
    cluster.run("SELECT pg_reload_conf()");
    for change in ["SELECT", "UPDATE s SET x = x || ' after' WHERE id = 20"] {
        cluster.run(change);
        cluster.wait("SELECT cache_refresher.freshness('v') ->> 'staleness' = 'fresh'");
        assert_eq!(cluster.run(WRONG), "t");
    }
    cluster.run("ALTER SYSTEM RESET cache_refresher.enabled");
    cluster.run("SELECT pg_reload_conf()");
    cluster.wait("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type ~ '^cache_refresher (scheduler|worker)'");
}

/// What a server of ours finds instead of the extension's files: those of an earlier version and a later one, too,
/// which differ in nothing but the number.
fn publish_versions(server: &Server) {
    let programs = Installation::get();
    let installed =
        PathBuf::from(output(programs.command("pg_config").arg("--sharedir"))).join("extension");
    let control = std::fs::read_to_string(installed.join("cache_refresher.control")).unwrap();
    let version = control.split("default_version = '").nth(1).unwrap().split('\'').next().unwrap();
    let share = server.new_folder("share");
    let folder = share.join("extension");
    std::fs::create_dir(&folder).unwrap();
    let publish = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let script =
        std::fs::read_to_string(installed.join(format!("cache_refresher--{version}.sql"))).unwrap();
    publish("cache_refresher.control", &control);
    publish("cache_refresher--0.0.1.sql", &script);
    for (from, to) in [("0.0.1", version), (version, "99.0.0")] {
        publish(&format!("cache_refresher--{from}--{to}.sql"), "SELECT 1;");
    }
    programs.give(&share);
    server.set("extension_control_path", &format!("{}:$system", share.display()));
}

#[test]
fn what_is_of_another_version_than_the_library_rests_until_it_is_updated() {
    if Installation::get().major() < 18 {
        eprintln!("skipped: before PostgreSQL 18 extensions are found in one folder only");
        return;
    }
    let server = Server::builder().setting("cache_refresher.worker_linger", "1s").prepare();
    publish_versions(&server);
    server.start();
    server.create_plain_database("app");
    let mut db = server.connect("app");
    db.run("CREATE EXTENSION cache_refresher VERSION '0.0.1'");
    db.create_view("v", 5);
    db.register("v", "300 ms");
    let rests = |server: &Server, hint: &str| {
        server.wait_until("the log tells why", PATIENCE, || server.log_lines(&["HINT", hint]) > 0);
        server.wait_until("nobody is there", PATIENCE, || server.processes_in("app") == 0);
        let mut db = server.connect("app");
        assert!(!db.get::<bool>("SELECT cache_refresher.healthy()"));
        let told: String =
            db.get("SELECT hint FROM cache_refresher.health() WHERE \"check\" = 'version'");
        assert!(told.contains(hint), "{told}");
        db.stays_unrefreshed("v", A_SECOND);
    };
    rests(&server, "ALTER EXTENSION cache_refresher UPDATE");
    assert_eq!(db.refresh("v"), "refreshed", "by hand");

    db.run("ALTER EXTENSION cache_refresher UPDATE");
    db.wait_for_refreshes("v", 2);
    assert!(db.get::<bool>("SELECT cache_refresher.healthy()"));
    assert_eq!(server.pids_of(SCHEDULER).len(), 1);

    db.run("ALTER EXTENSION cache_refresher UPDATE TO '99.0.0'");
    rests(&server, "restart the server");
    assert_eq!(server.fatal_lines(), [""; 0]);
}
