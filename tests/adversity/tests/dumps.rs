//! Dump and restore, in every way that people do it: registrations, grants and content survive, and no view says
//! more than is so.

use std::path::{Path, PathBuf};
use std::process::Command;

use adversity_tests::{assert_honest, capture, number, settle};
use cluster_tests::{Server, Session};

const VIEWS: [(&str, &str); 7] = [
    ("v1", "SELECT id, x FROM s"),
    ("v2", "SELECT id, x FROM s"),
    ("v3", "SELECT id, x FROM s WHERE id % 2 = 0"),
    ("v4", "SELECT id, x FROM s"),
    ("\"Größe \"\"4\"\"\"", "SELECT s.id, p.x FROM s JOIN p ON p.id = s.id"),
    ("v6", "SELECT id, x FROM p"),
    ("v7", "SELECT id, x FROM v1"),
];

fn start() -> Server {
    let server = Server::builder().start();
    let mut db = server.create_database("app");
    db.run(
        "CREATE ROLE fan;
         CREATE TABLE s (id int PRIMARY KEY, x text); INSERT INTO s SELECT i, 'x' || i FROM generate_series(1, 2000) i;
         CREATE TABLE p (id int, x text) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000); CREATE TABLE p2 PARTITION OF p DEFAULT;
         INSERT INTO p SELECT i, 'p' || i FROM generate_series(1, 1500) i",
    );
    for (view, query) in VIEWS {
        capture(&mut db, view, "id", query);
        db.run(&format!(
            "SELECT cache_refresher.grant_refresh('{}', 'fan')",
            view.replace('\'', "''")
        ));
    }
    server
}

/// What the registry says, and who may refresh.
const CONFIGURATION: &str = "SELECT string_agg(r::text, E'\n' ORDER BY view_name) || (SELECT string_agg(g::text, E'\n' ORDER BY g::text) FROM _cache_refresher.refresh_grant g)
    FROM _cache_refresher.registry r";

/// Runs a client program; what it complained about.
fn run(server: &Server, program: &str, arguments: &[&str], file: &Path) -> String {
    let mut command: Command = server.client(program);
    command.args(arguments).arg(file);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() || program == "pg_restore", "{program}: {text}");
    text
}

/// Everything that was there is there, and goes on: changes are shown, and nothing is claimed that is not so.
fn check(server: &Server, database: &str, configuration: &str) {
    let mut db: Session = server.connect(database);
    for (view, query) in VIEWS {
        settle(&mut db, view, query);
    }
    assert_eq!(db.get::<String>(CONFIGURATION), configuration, "{database}");
    for round in 0..2 {
        db.run(&format!("UPDATE s SET x = 'round {round}' WHERE id < 20; UPDATE p SET x = 'round {round}' WHERE id < 20 OR id > 1400"));
        for (view, query) in VIEWS {
            assert_honest(&mut db, view, query);
        }
        for (view, query) in VIEWS {
            settle(&mut db, view, query);
        }
        assert_eq!(
            db.get::<i64>(&format!("SELECT count(*) FROM v7 WHERE x = 'round {round}'")),
            19
        );
    }
}

#[test]
fn dumps_are_restored_in_every_way_without_an_error() {
    let server = start();
    let configuration: String = server.connect("app").get(CONFIGURATION);
    let folder: PathBuf = server.new_folder("dumps");
    let (plain, custom) = (folder.join("plain"), folder.join("custom"));
    run(&server, "pg_dump", &["--dbname=app", "--file"], &plain);
    run(&server, "pg_dump", &["--dbname=app", "--format=custom", "--file"], &custom);

    for round in 0..number("CACHE_REFRESHER_DUMPS", 2) {
        let ways: [(&str, &str, &[&str]); 5] = [
            (
                "psql",
                "by_psql",
                &["--no-psqlrc", "--quiet", "--output=/dev/null", "--set=ON_ERROR_STOP=1"],
            ),
            ("pg_restore", "serially", &[]),
            ("pg_restore", "parallel", &["--jobs=4"]),
            ("pg_restore", "no_owner", &["--no-owner", "--single-transaction"]),
            ("pg_restore", "no_triggers", &["--disable-triggers"]),
        ];
        for (program, name, arguments) in ways {
            let database = format!("{name}_{round}");
            server.create_plain_database(&database);
            let mut arguments = arguments.to_vec();
            let into = format!("--dbname={database}");
            arguments.push(&into);
            if program == "psql" {
                arguments.push("--file");
            }
            let dump = if program == "psql" { &plain } else { &custom };
            let complaints = run(&server, program, &arguments, dump);
            assert_eq!(complaints, "", "{database}");
            check(&server, &database, &configuration);
            server.connect("postgres").run(&format!("DROP DATABASE {database}"));
        }
    }

    // First what there is, then what is in it.
    server.create_plain_database("in_parts");
    for part in ["--schema-only", "--data-only"] {
        let complaints = run(&server, "pg_restore", &[part, "--dbname=in_parts"], &custom);
        assert_eq!(complaints, "", "{part}");
    }
    let mut db = server.connect("in_parts");
    for (view, _) in VIEWS {
        db.run(&format!("REFRESH MATERIALIZED VIEW {view}"));
    }
    check(&server, "in_parts", &configuration);
}

#[test]
fn a_copy_by_template_is_a_database_of_its_own() {
    let server = start();
    let configuration: String = server.connect("app").get(CONFIGURATION);
    server.connect("app").run("UPDATE s SET x = 'before' WHERE id = 3");
    server.connect("postgres").run("CREATE DATABASE copy TEMPLATE app");
    check(&server, "copy", &configuration);
    check(&server, "app", &configuration);
}

#[test]
fn an_owner_of_the_database_who_is_no_superuser_can_dump_it() {
    let server = Server::builder().start();
    let mut postgres = server.connect("postgres");
    postgres.run("CREATE ROLE keeper LOGIN");
    postgres.run("CREATE DATABASE kept OWNER keeper");
    server.connect("kept").run("CREATE EXTENSION cache_refresher");
    let mut keeper = server.connect_as("kept", "keeper");
    keeper.create_view("v", 10);
    keeper.register("v", "1 year");
    let file = server.folder().join("kept.sql");
    run(&server, "pg_dump", &["--username=keeper", "--dbname=kept", "--file"], &file);
    assert!(std::fs::read_to_string(&file).unwrap().contains("COPY _cache_refresher.registry"));
    // Of the rest he sees no more than others.
    for internal in
        ["SELECT FROM _cache_refresher.content", "DELETE FROM _cache_refresher.registry"]
    {
        assert_eq!(keeper.error_of(internal).code().code(), "42501");
    }
}
