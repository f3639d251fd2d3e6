-- The users, in a database of their own. What the caches may read of it, they
-- read as the role cache_reader.

CREATE TABLE users (
    id       int PRIMARY KEY,
    username text NOT NULL
);
INSERT INTO users SELECT i, 'user_' || i FROM generate_series(1, 10000) AS i;
ANALYZE users;

CREATE ROLE cache_reader LOGIN PASSWORD :'password';
GRANT SELECT ON users TO cache_reader;
