//! What is refreshed: the source tables, what changes in them, and the views on them.

use cluster_tests::Session;

/// What a view computes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Each stream with its user: as many rows as streams.
    Join,
    /// A row for each user: a tenth of that.
    Aggregate,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Join, Self::Aggregate];

    /// For a title.
    pub fn name(self) -> &'static str {
        match self {
            Self::Join => "A join",
            Self::Aggregate => "An aggregate",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Join => "id",
            Self::Aggregate => "user_id",
        }
    }

    fn query(self) -> &'static str {
        match self {
            Self::Join => {
                "SELECT s.id, s.title, s.user_id, s.updated_at, s.views, u.name AS user_name, u.email
                 FROM streams s LEFT JOIN users u ON u.id = s.user_id"
            }
            Self::Aggregate => {
                "SELECT user_id, count(*) AS streams, sum(views) AS views, max(updated_at) AS latest
                 FROM streams GROUP BY user_id"
            }
        }
    }
}

/// Tables and these views anew: what one block has left dead in them would slow the next one down.
pub fn set_up(db: &mut Session, kind: Kind, rows: u32, views: &[&str]) {
    let users = rows / 10;
    // A hash spreads the streams of a user: those that change together belong to many users.
    db.run(&format!(
        "DROP TABLE IF EXISTS streams, users CASCADE;
         CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL, email text NOT NULL)
             WITH (autovacuum_enabled = off);
         INSERT INTO users SELECT i, 'User ' || i, 'user' || i || '@example.com'
             FROM generate_series(1, {users}) i;
         CREATE TABLE streams (
             id int PRIMARY KEY, title text NOT NULL, user_id int NOT NULL,
             updated_at timestamptz NOT NULL, views bigint NOT NULL
         ) WITH (autovacuum_enabled = off);
         INSERT INTO streams
             SELECT i, 'The title of stream ' || i, 1 + (hashint4(i) & 2147483647) % {users},
                    now() - i * interval '1 second', i % 1000
             FROM generate_series(1, {rows}) i"
    ));
    db.run("VACUUM (ANALYZE) streams, users");
    for view in views {
        db.run(&format!(
            "CREATE MATERIALIZED VIEW {view} WITH (autovacuum_enabled = off) AS {};
             CREATE UNIQUE INDEX ON {view} ({})",
            kind.query(),
            kind.key()
        ));
        db.run(&format!("VACUUM (ANALYZE) {view}"));
    }
}

/// Changes so many per cent of the source's rows, evenly spread and others each round; how many.
pub fn change(db: &mut Session, share: f64, round: usize) -> u64 {
    if share == 0.0 {
        return 0;
    }
    let every = (100.0 / share).round() as usize;
    let update = format!(
        "UPDATE streams SET views = views + 1, updated_at = now() WHERE id % {every} = {}",
        round % every
    );
    let changed = db.execute(&update, &[]).unwrap();
    // Whoever reads first after a change sets hint bits and prunes: none of those compared should.
    db.run("SELECT sum(views) FROM streams");
    changed
}
