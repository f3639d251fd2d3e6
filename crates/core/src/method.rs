//! How a refresh is done: what was asked for, what is possible, and why one was chosen.

use std::str::FromStr;

/// The method that a registration or a caller asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Requested {
    /// The least disturbing one that is possible.
    #[default]
    Auto,
    /// Compute everything and swap it in; readers wait.
    Full,
    /// The server's own REFRESH … CONCURRENTLY.
    Concurrent,
    /// Compute everything, write the difference.
    Diff,
    /// Compute and write only what the changes of the sources concern.
    Delta,
}

/// A text that names no method.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown refresh method \"{value}\"")]
pub struct UnknownMethod {
    /// What was given.
    pub value: String,
}

impl FromStr for Requested {
    type Err = UnknownMethod;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "full" => Ok(Self::Full),
            "concurrent" => Ok(Self::Concurrent),
            "diff" => Ok(Self::Diff),
            "delta" => Ok(Self::Delta),
            other => Err(UnknownMethod { value: other.to_owned() }),
        }
    }
}

impl Requested {
    /// The word that [`FromStr`] reads.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Full => "full",
            Self::Concurrent => "concurrent",
            Self::Diff => "diff",
            Self::Delta => "delta",
        }
    }
}

/// The method that one refresh uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Nothing has changed: nothing is done.
    Skip,
    /// REFRESH MATERIALIZED VIEW.
    Full,
    /// REFRESH MATERIALIZED VIEW CONCURRENTLY.
    Concurrent,
    /// Only the rows that differ are written.
    Diff,
    /// Only the rows that changes of the sources can concern are computed and compared.
    Delta,
}

impl Method {
    /// The word for logs and results.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Full => "full",
            Self::Concurrent => "concurrent",
            Self::Diff => "diff",
            Self::Delta => "delta",
        }
    }
}

/// What the choice depends on; looked up under the refresh's lock. Whether nothing has changed, or
/// little enough for `delta`, is known only after the snapshot is taken: see [`Choice::open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The view has content.
    pub populated: bool,
    /// It has an index that the server takes for CONCURRENTLY: unique, valid, immediate, a btree on
    /// columns alone, without WHERE.
    pub unique_key: bool,
    /// Its table is an ordinary heap, whose rows diff knows how to write.
    pub heap: bool,
    /// Readers may be shut out for a refresh that is much cheaper that way.
    pub auto_full: bool,
    /// The last refresh that counted has changed most rows.
    pub mostly_changed: bool,
    /// Its table is several times larger than its rows need.
    pub bloated: bool,
}

/// A method, and why it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The method.
    pub method: Method,
    /// Why this one, as a clause for log and result.
    pub reason: &'static str,
    /// Whether a cheaper method may take its place where changes are captured: whoever asks for
    /// another method by name gets it.
    pub open: bool,
}

/// Why no method can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A usable unique index is needed, and there is none.
    NoUniqueIndex,
    /// The method needs a view with content.
    NotPopulated,
    /// The rows of such a table cannot be written one by one.
    NotHeap,
}

/// Chooses the method of one refresh. `auto` never falls back to a method that shuts readers out,
/// except for a view that cannot be read anyway, and where a setting allows it.
pub fn choose(requested: Requested, facts: Facts) -> Result<Choice, Refusal> {
    let take = |method, reason| Ok(Choice { method, reason, open: false });
    let open = |method, reason| Ok(Choice { method, reason, open: true });
    match requested {
        Requested::Auto if !facts.populated => take(Method::Full, "first population"),
        Requested::Auto if facts.auto_full && facts.mostly_changed => {
            open(Method::Full, "most rows change, and auto_full is on")
        }
        // Whatever has changed, it gets smaller only this way.
        Requested::Auto if facts.auto_full && facts.bloated => {
            take(Method::Full, "the view is bloated, and auto_full is on")
        }
        Requested::Auto if facts.heap => open(Method::Diff, "writes only what differs"),
        Requested::Auto if facts.unique_key => {
            open(Method::Concurrent, "the access method is not heap")
        }
        Requested::Auto => Err(Refusal::NotHeap),
        Requested::Full => take(Method::Full, "asked for"),
        Requested::Concurrent if !facts.populated => Err(Refusal::NotPopulated),
        Requested::Concurrent if !facts.unique_key => Err(Refusal::NoUniqueIndex),
        Requested::Concurrent => take(Method::Concurrent, "asked for"),
        Requested::Diff if !facts.populated => Err(Refusal::NotPopulated),
        Requested::Diff if !facts.heap => Err(Refusal::NotHeap),
        Requested::Diff => take(Method::Diff, "asked for"),
        Requested::Delta if !facts.populated => take(Method::Full, "first population"),
        Requested::Delta if !facts.heap => Err(Refusal::NotHeap),
        Requested::Delta => open(Method::Diff, "writes only what differs"),
    }
}

/// What can be said of one method for one view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MethodOption {
    /// The method.
    pub method: Requested,
    /// Whether it is the one that the next refresh takes.
    pub chosen: bool,
    /// What it means for this view, or why it cannot be taken.
    pub verdict: Result<&'static str, Refusal>,
}

/// Each method that does not need captured changes, for a view that is registered with `requested`.
pub fn explain(requested: Requested, facts: Facts) -> Vec<MethodOption> {
    let next = choose(requested, facts).ok();
    [Requested::Full, Requested::Concurrent, Requested::Diff]
        .into_iter()
        .map(|method| {
            let choice = choose(method, facts);
            let taken = choice.ok().map(|choice| choice.method);
            let chosen = taken.is_some() && taken == next.map(|choice| choice.method);
            let verdict = choice.map(|choice| match (next, choice.method) {
                (Some(next), _)
                    if chosen && matches!(requested, Requested::Auto | Requested::Delta) =>
                {
                    next.reason
                }
                (_, Method::Full) => "shuts readers out while it runs",
                (_, Method::Concurrent) => "keeps VACUUM out while it runs",
                (_, Method::Diff) if facts.unique_key => "tells rows apart by their key",
                (_, Method::Diff | Method::Delta | Method::Skip) => "tells rows apart as a whole",
            });
            MethodOption { method, chosen, verdict }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: Facts = Facts {
        populated: true,
        unique_key: true,
        heap: true,
        auto_full: false,
        mostly_changed: false,
        bloated: false,
    };
    const NO_INDEX: Facts = Facts { unique_key: false, ..READY };
    const OTHER_TABLE: Facts = Facts { heap: false, ..READY };
    const OTHER_WITHOUT_INDEX: Facts = Facts { heap: false, ..NO_INDEX };
    const EMPTY: Facts = Facts { populated: false, ..READY };
    const NEITHER: Facts = Facts { populated: false, ..NO_INDEX };

    #[test]
    fn the_choice_follows_the_request_and_the_facts() {
        let full = |reason| Ok((Method::Full, reason));
        let concurrent = |reason| Ok((Method::Concurrent, reason));
        let diff = |reason| Ok((Method::Diff, reason));
        for (requested, facts, expected) in [
            (Requested::Auto, READY, diff("writes only what differs")),
            (Requested::Auto, NO_INDEX, diff("writes only what differs")),
            (Requested::Auto, OTHER_TABLE, concurrent("the access method is not heap")),
            (Requested::Auto, OTHER_WITHOUT_INDEX, Err(Refusal::NotHeap)),
            (Requested::Auto, EMPTY, full("first population")),
            (Requested::Auto, NEITHER, full("first population")),
            (Requested::Full, READY, full("asked for")),
            (Requested::Full, NEITHER, full("asked for")),
            (Requested::Concurrent, READY, concurrent("asked for")),
            (Requested::Concurrent, NO_INDEX, Err(Refusal::NoUniqueIndex)),
            (Requested::Concurrent, EMPTY, Err(Refusal::NotPopulated)),
            (Requested::Diff, READY, diff("asked for")),
            (Requested::Diff, NO_INDEX, diff("asked for")),
            (Requested::Diff, EMPTY, Err(Refusal::NotPopulated)),
            (Requested::Diff, OTHER_TABLE, Err(Refusal::NotHeap)),
            (Requested::Delta, EMPTY, full("first population")),
            (Requested::Delta, READY, diff("writes only what differs")),
            (Requested::Delta, OTHER_TABLE, Err(Refusal::NotHeap)),
        ] {
            let chosen = choose(requested, facts).map(|choice| (choice.method, choice.reason));
            assert_eq!(chosen, expected, "{requested:?} {facts:?}");
        }
    }

    #[test]
    fn readers_are_shut_out_only_with_leave() {
        for (auto_full, mostly_changed, bloated, expected) in [
            (false, true, true, Method::Diff),
            (true, false, false, Method::Diff),
            (true, true, false, Method::Full),
            (true, false, true, Method::Full),
        ] {
            let facts = Facts { auto_full, mostly_changed, bloated, ..READY };
            assert_eq!(choose(Requested::Auto, facts).map(|choice| choice.method), Ok(expected));
            assert_eq!(
                choose(Requested::Diff, facts).map(|choice| choice.method),
                Ok(Method::Diff)
            );
        }
    }

    #[test]
    fn a_method_asked_for_by_name_is_not_replaced() {
        let open = |requested, facts| choose(requested, facts).map(|choice| choice.open);
        for (requested, expected) in [
            (Requested::Auto, true),
            (Requested::Delta, true),
            (Requested::Diff, false),
            (Requested::Concurrent, false),
            (Requested::Full, false),
        ] {
            assert_eq!(open(requested, READY), Ok(expected));
        }
        assert_eq!(open(Requested::Auto, EMPTY), Ok(false));
        let dear = Facts { auto_full: true, mostly_changed: true, ..READY };
        assert_eq!(open(Requested::Auto, dear), Ok(true), "perhaps less changes this time");
        let bloated = Facts { auto_full: true, bloated: true, ..READY };
        assert_eq!(open(Requested::Auto, bloated), Ok(false), "it has to become smaller");
    }

    #[test]
    fn every_option_is_explained_and_at_most_one_is_chosen() {
        let chosen = |requested, facts| {
            let options = explain(requested, facts);
            assert_eq!(options.len(), 3);
            options.into_iter().filter(|option| option.chosen).map(|option| option.method).next()
        };
        assert_eq!(chosen(Requested::Auto, READY), Some(Requested::Diff));
        assert_eq!(chosen(Requested::Auto, EMPTY), Some(Requested::Full));
        assert_eq!(chosen(Requested::Concurrent, READY), Some(Requested::Concurrent));
        assert_eq!(chosen(Requested::Auto, OTHER_WITHOUT_INDEX), None);
    }

    #[test]
    fn every_word_reads_back_and_others_are_refused() {
        use Requested::*;
        for requested in [Auto, Full, Concurrent, Diff, Delta] {
            assert_eq!(requested.as_str().parse(), Ok(requested));
        }
        assert_eq!(
            "FULL".parse::<Requested>().unwrap_err().to_string(),
            "unknown refresh method \"FULL\""
        );
    }
}
