//! How the rounds were refreshed: where little is refreshed by changes, it proves little that nothing is wrong.

use std::collections::BTreeMap;

/// Counts of cases and of their rounds.
#[derive(Default)]
pub struct Tally {
    cases: u32,
    /// Those with a view that delta is possible for.
    mappable: u32,
    /// Rounds by method and reason.
    rounds: BTreeMap<(String, String), u32>,
    /// Rounds with changes, each of a row that is known, of a view that delta is possible for and was asked for.
    could_be: u32,
    /// Those among them that were delta.
    were: u32,
}

impl Tally {
    pub fn add_case(&mut self, mappable: bool) {
        self.cases += 1;
        self.mappable += u32::from(mappable);
    }

    pub fn add_round(&mut self, method: &str, reason: &str, could_be_delta: bool) {
        let reason: String = reason.chars().filter(|letter| !letter.is_ascii_digit()).collect();
        *self.rounds.entry((method.to_owned(), reason)).or_default() += 1;
        self.could_be += u32::from(could_be_delta);
        self.were += u32::from(could_be_delta && method == "delta");
    }

    pub fn print(&self) {
        for ((method, reason), count) in &self.rounds {
            println!("{count:6} {method}: {reason}");
        }
        let by = |method: &str| -> u32 {
            let by_it = self.rounds.iter().filter(|((other, _), _)| other == method);
            by_it.map(|(_, count)| count).sum()
        };
        println!(
            "{} rounds were delta, {} diff, {} skip; delta was possible for {} of {} views, and of {} rounds \
             that could be delta {} were",
            by("delta"),
            by("diff"),
            by("skip"),
            self.mappable,
            self.cases,
            self.could_be,
            self.were
        );
    }

    /// Most views have something that is not mapped, the first refresh of each is a diff, and so is one after a
    /// TRUNCATE: of all rounds no more than a third are delta. Of those that could be, what is left are
    /// tables of which no column leads anywhere, so that nothing is kept of their rows, and more changed
    /// tables in one join than are combined. Of a few cases nothing can be said.
    pub fn assert_that_much_was_delta(&self) {
        if self.cases < 100 {
            return;
        }
        // Two fifths are expected.
        assert!(self.mappable * 5 > self.cases, "delta is hardly possible for any view");
        assert!(self.were * 4 > self.could_be * 3, "delta was possible, and not done");
    }
}
