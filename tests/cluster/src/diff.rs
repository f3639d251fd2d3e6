//! Method diff: what a refresh reports, and whether the view is what it ought to be afterwards.

use crate::Session;

/// The rows that a diff reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// In the view afterwards.
    pub total: i64,
    /// New in the view.
    pub inserted: i64,
    /// Changed under their key.
    pub updated: i64,
    /// No longer in the view.
    pub deleted: i64,
}

impl Counts {
    /// Nothing was written.
    pub const fn unchanged(total: i64) -> Self {
        Self { total, inserted: 0, updated: 0, deleted: 0 }
    }

    /// The three numbers of rows written.
    pub const fn written(&self) -> (i64, i64, i64) {
        (self.inserted, self.updated, self.deleted)
    }
}

/// The statement that `Session::diff` runs.
pub fn diff_statement(view: &str) -> String {
    format!(
        "SELECT outcome, method, rows_total, rows_inserted, rows_updated, rows_deleted
         FROM cache_refresher.refresh('{view}', method => 'diff')"
    )
}

impl Session {
    /// Refreshes a view with method diff.
    pub fn diff(&mut self, view: &str) -> Counts {
        let row = self.row(&diff_statement(view));
        let done: (String, String) = (row.get(0), row.get(1));
        assert_eq!(done, ("refreshed".to_owned(), "diff".to_owned()), "the refresh of {view}");
        Counts { total: row.get(2), inserted: row.get(3), updated: row.get(4), deleted: row.get(5) }
    }

    /// Asserts that a view holds what its query returns now, to the byte.
    pub fn assert_shows_its_query(&mut self, view: &str) {
        let query: String = self.get(&format!("SELECT pg_get_viewdef('{view}'::regclass)"));
        let query = format!("({})", query.trim_end_matches(';'));
        if let Some(difference) = self.difference(view, &query) {
            panic!("{view} (-) is not what its query returns (+):\n{difference}");
        }
    }

    /// Some rows that are in one of two relations only (`-` the first, `+` the second), if there are
    /// any. Rows are told apart by what their types send to a binary client: `=` takes 1.0 for 1.00,
    /// and some types have none.
    pub fn difference(&mut self, first: &str, second: &str) -> Option<String> {
        let images = |relation: &str| {
            format!(
                "SELECT md5(record_send(whole_row)) AS image, left(whole_row::text, 300) AS shown
                 FROM {relation} whole_row"
            )
        };
        self.get(&format!(
            "WITH a AS ({}), b AS ({})
             SELECT string_agg(side || shown, E'\\n') FROM (
                 (SELECT '- ' AS side, shown FROM (TABLE a EXCEPT ALL TABLE b) only_a LIMIT 5)
                 UNION ALL
                 (SELECT '+ ', shown FROM (TABLE b EXCEPT ALL TABLE a) only_b LIMIT 5)) both_sides",
            images(first),
            images(second)
        ))
    }

    /// Asserts with amcheck that a view's rows, toasted values and btree indexes are sound, and that
    /// each row is in each index.
    pub fn assert_sound(&mut self, view: &str) {
        self.run("CREATE EXTENSION IF NOT EXISTS amcheck SCHEMA public");
        // From 17 on the check can also look for equal keys in a unique index.
        let checks_unique: bool =
            self.get("SELECT max(pronargs) = 3 FROM pg_proc WHERE proname = 'bt_index_check'");
        let unique = if checks_unique { ", true" } else { "" };
        self.run(&format!(
            "SELECT public.bt_index_check(i.indexrelid::regclass, true{unique})
             FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
             WHERE i.indrelid = '{view}'::regclass AND i.indisvalid
                 AND c.relam = (SELECT oid FROM pg_am WHERE amname = 'btree')"
        ));
        let corruption: Option<String> = self.get(&format!(
            "SELECT string_agg(found::text, E'\\n')
             FROM public.verify_heapam('{view}', check_toast => true) found"
        ));
        assert_eq!(corruption, None, "the rows of {view}");
    }
}
