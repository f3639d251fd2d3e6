-- Streams or videos (:table), and a cache of them with the names of their users
-- (:cache), which come from auth_db. The cache is left empty on purpose.

CREATE TABLE :"table" (
    id         int PRIMARY KEY,
    user_id    int NOT NULL,
    title      text NOT NULL,
    status     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO :"table" (id, user_id, title, status)
SELECT i, i, 'title ' || i, CASE WHEN i % 10 = 0 THEN 'live' ELSE 'ended' END
  FROM generate_series(1, 10000) AS i;
ANALYZE :"table";

CREATE EXTENSION postgres_fdw;
CREATE SERVER auth_server FOREIGN DATA WRAPPER postgres_fdw
    OPTIONS (host '127.0.0.1', port :'port', dbname 'auth_db', connect_timeout '5');
CREATE USER MAPPING FOR CURRENT_USER SERVER auth_server
    OPTIONS (user 'cache_reader', password :'password');
CREATE FOREIGN TABLE users_foreign (id int, username text) SERVER auth_server
    OPTIONS (table_name 'users');

CREATE MATERIALIZED VIEW :"cache" AS
SELECT t.*, u.username FROM :"table" t LEFT JOIN users_foreign u ON t.user_id = u.id
  WITH NO DATA;
CREATE UNIQUE INDEX ON :"cache" (id);
