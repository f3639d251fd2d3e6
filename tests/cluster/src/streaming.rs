//! The streaming service that the project comes from: users in one database, streams and videos
//! in two others, and each view joins its own rows with the users over postgres_fdw.

use crate::{Server, Session};

/// The role that the foreign servers connect as; it owns nothing.
const READER: &str = "fdw_reader";

/// `auth_db` with `users`. The extension is not in it.
pub fn create_auth_db(server: &Server, users: u32) -> Session {
    server.create_plain_database("auth_db");
    let mut auth_db = server.connect("auth_db");
    auth_db.run(&format!(
        "CREATE TABLE users (id int PRIMARY KEY, username text NOT NULL);
         INSERT INTO users SELECT i, 'user_' || i FROM generate_series(1, {users}) i;
         CREATE ROLE {READER} LOGIN;
         GRANT SELECT ON users TO {READER}"
    ));
    auth_db
}

/// `streams_db` with `streams`, `users_foreign` and `streams_with_users_cache`, and the extension.
pub fn create_streams_db(local: &Server, remote: &Server, rows: u32) -> Session {
    create(local, remote, "streams_db", "streams", rows)
}

/// `vod_db` with `videos`, `users_foreign` and `videos_with_users_cache`, and the extension.
pub fn create_vod_db(local: &Server, remote: &Server, rows: u32) -> Session {
    create(local, remote, "vod_db", "videos", rows)
}

fn create(local: &Server, remote: &Server, database: &str, table: &str, rows: u32) -> Session {
    let mut session = local.create_database(database);
    let port = remote.port();
    session.run(&format!(
        "CREATE TABLE {table} (id bigint PRIMARY KEY, user_id int, title text NOT NULL);
         INSERT INTO {table} SELECT i, 1 + i % 100, 'title ' || i FROM generate_series(1, {rows}) i;
         CREATE EXTENSION postgres_fdw;
         CREATE SERVER auth_server FOREIGN DATA WRAPPER postgres_fdw
             OPTIONS (host '127.0.0.1', port '{port}', dbname 'auth_db', connect_timeout '5');
         CREATE USER MAPPING FOR postgres SERVER auth_server
             OPTIONS (user '{READER}', password_required 'false');
         CREATE FOREIGN TABLE users_foreign (id int, username text) SERVER auth_server
             OPTIONS (table_name 'users');
         CREATE MATERIALIZED VIEW {table}_with_users_cache AS
             SELECT s.*, u.username FROM {table} s LEFT JOIN users_foreign u ON s.user_id = u.id
             WITH NO DATA;
         CREATE UNIQUE INDEX ON {table}_with_users_cache (id)"
    ));
    session
}
