//! Materialized views with a purpose, and questions about them.

use std::time::Duration;

use crate::{PATIENCE, Session};

impl Session {
    /// View `name(id, value)` with a unique index, on table `{name}_source` with that many rows.
    pub fn create_view(&mut self, name: &str, rows: u32) {
        self.run(&format!(
            "CREATE TABLE {name}_source (id int PRIMARY KEY, value int NOT NULL);
             INSERT INTO {name}_source SELECT i, 0 FROM generate_series(1, {rows}) i;
             CREATE MATERIALIZED VIEW {name} AS SELECT id, value FROM {name}_source;
             CREATE UNIQUE INDEX ON {name} (id)"
        ));
    }

    /// View `name(id, slept)` whose refresh takes as long as `set_pace` says, at first no time.
    pub fn create_paced_view(&mut self, name: &str) {
        self.run(&format!(
            "CREATE TABLE {name}_pace (seconds float8 NOT NULL);
             INSERT INTO {name}_pace VALUES (0);
             CREATE MATERIALIZED VIEW {name} AS
                 SELECT 1 AS id, pg_sleep(seconds) IS NULL AS slept FROM {name}_pace;
             CREATE UNIQUE INDEX ON {name} (id)"
        ));
    }

    /// From now on a refresh of that paced view takes so long.
    pub fn set_pace(&mut self, name: &str, seconds: f64) {
        self.run(&format!("UPDATE {name}_pace SET seconds = {seconds}"));
    }

    /// Waits until a refresh of a paced view in this database is in the middle of its query, so
    /// that a new pace is for the next one.
    pub fn wait_until_pacing(&mut self) {
        self.wait(
            "a refresh is in the middle of its query",
            "SELECT count(*) > 0 FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event = 'PgSleep'",
        );
    }

    /// View `name(id, quotient)` that fails with division by zero (22012) after `break_view`.
    pub fn create_fragile_view(&mut self, name: &str) {
        self.run(&format!(
            "CREATE TABLE {name}_divisor (divisor int NOT NULL);
             INSERT INTO {name}_divisor VALUES (1);
             CREATE MATERIALIZED VIEW {name} AS
                 SELECT 1 AS id, 100 / divisor AS quotient FROM {name}_divisor;
             CREATE UNIQUE INDEX ON {name} (id)"
        ));
    }

    /// From now on refreshes of that fragile view fail.
    pub fn break_view(&mut self, name: &str) {
        self.run(&format!("UPDATE {name}_divisor SET divisor = 0"));
    }

    /// From now on refreshes of that fragile view succeed and show 50.
    pub fn mend_view(&mut self, name: &str) {
        self.run(&format!("UPDATE {name}_divisor SET divisor = 2"));
    }

    /// A view as of [`Self::create_view`] that is refreshed by its interval hardly ever, and is proved to be fresh;
    /// `reaction` is given to `register` besides.
    pub fn create_reacting_view(&mut self, name: &str, reaction: &str) {
        self.create_view(name, 10);
        self.run(&format!(
            "SELECT cache_refresher.register('{name}', refresh_interval => '1 year', on_change => true, {reaction})"
        ));
        // The first refresh need not be waited for as changes are.
        self.refresh(name);
        self.wait_until_fresh(name);
    }

    /// Waits until a view is proved to be fresh.
    pub fn wait_until_fresh(&mut self, name: &str) {
        self.wait(
            &format!("{name} is fresh"),
            &format!(
                "SELECT staleness = 'fresh' FROM cache_refresher.status WHERE view_name = '{name}'"
            ),
        );
    }

    /// How often a view has been refreshed because of a change.
    pub fn refreshes_by_change(&mut self, name: &str) -> i64 {
        self.get(&format!(
            "SELECT count(*) FROM cache_refresher.refresh_log
             WHERE view_name = '{name}' AND trigger = 'change' AND outcome = 'refreshed'"
        ))
    }

    /// Registers a view with an interval: a year where the schedule is to stay out of it, for a slot that comes
    /// every hour falls into some test.
    pub fn register(&mut self, name: &str, interval: &str) {
        self.run(&format!(
            "SELECT cache_refresher.register('{name}', refresh_interval => '{interval}')"
        ));
    }

    /// Refreshes in this session; the outcome.
    pub fn refresh(&mut self, name: &str) -> String {
        self.get(&format!("SELECT outcome FROM cache_refresher.refresh('{name}')"))
    }

    /// How many rows the log has about a view with that outcome.
    pub fn logged(&mut self, name: &str, outcome: &str) -> i64 {
        self.get(&format!(
            "SELECT count(*) FROM cache_refresher.refresh_log
             WHERE view_name = '{name}' AND outcome = '{outcome}'"
        ))
    }

    /// How many refreshes of a view succeeded.
    pub fn refreshes(&mut self, name: &str) -> i64 {
        self.logged(name, "refreshed")
    }

    /// Waits for that many more successful refreshes.
    pub fn wait_for_refreshes(&mut self, name: &str, more: i64) {
        self.wait_for_refreshes_within(PATIENCE, name, more);
    }

    /// The same with another limit.
    pub fn wait_for_refreshes_within(&mut self, patience: Duration, name: &str, more: i64) {
        let enough = self.refreshes(name) + more;
        self.wait_for(
            &format!("{more} more refreshes of {name}"),
            patience,
            &format!(
                "SELECT count(*) >= {enough} FROM cache_refresher.refresh_log
                 WHERE view_name = '{name}' AND outcome = 'refreshed'"
            ),
        );
    }

    /// Waits until `status` shows a view in that state.
    pub fn wait_for_state(&mut self, name: &str, state: &str) {
        self.wait(
            &format!("{name} is {state}"),
            &format!(
                "SELECT state = '{state}' FROM cache_refresher.status WHERE view_name = '{name}'"
            ),
        );
    }

    /// Asserts that a view is not refreshed by anybody for a while. A refresh that was under way
    /// at the time of the call does not count.
    pub fn stays_unrefreshed(&mut self, name: &str, time: Duration) {
        std::thread::sleep(Duration::from_millis(300));
        let count = self.refreshes(name);
        self.holds_for(
            &format!("{name} is left alone"),
            time,
            &format!(
                "SELECT count(*) = {count} FROM cache_refresher.refresh_log
                 WHERE view_name = '{name}' AND outcome = 'refreshed'"
            ),
        );
    }

    /// What the view shows in `value` of row 1.
    pub fn shown(&mut self, name: &str) -> i32 {
        self.get(&format!("SELECT value FROM {name} WHERE id = 1"))
    }

    /// Writes a value to row 1 of the view's source.
    pub fn write(&mut self, name: &str, value: i32) {
        self.run(&format!("UPDATE {name}_source SET value = {value} WHERE id = 1"));
    }

    /// Waits until the view shows that value in row 1.
    pub fn wait_until_shown(&mut self, name: &str, value: i32) {
        self.wait(
            &format!("{name} shows {value}"),
            &format!("SELECT value = {value} FROM {name} WHERE id = 1"),
        );
    }
}
