//! The setting `cache_refresher.intervals`: refresh intervals for views by name.

use std::collections::HashSet;
use std::str::FromStr;
use std::time::Duration;

use crate::duration::{self, DurationError};
use crate::identifiers::{self, IdentifierError};
use crate::interval::{self, IntervalError};

/// Intervals by view name, such as `name=5m, schema.name=1h30m, "Odd Name"=10s`.
/// Empty by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IntervalList {
    /// Short as such lists are, searching one by one is quick enough.
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// None: in whatever schema.
    schema: Option<String>,
    name: String,
    interval: Duration,
}

/// Why a text is not a list of intervals.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IntervalListError {
    /// One entry is wrong.
    #[error("bad entry \"{entry}\": {problem}")]
    Entry {
        /// The entry as it was given.
        entry: String,
        /// What is wrong with it.
        problem: EntryError,
    },
    /// Two entries for one name.
    #[error("view {name} is listed twice")]
    Duplicate {
        /// The name, with quotes where it needs them.
        name: String,
    },
}

/// What can be wrong with one entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Its name.
    #[error(transparent)]
    Name(#[from] IdentifierError),
    /// No `=` and interval after the name.
    #[error("\"=\" and an interval must follow the name")]
    NoInterval,
    /// Its interval cannot be read.
    #[error(transparent)]
    Duration(#[from] DurationError),
    /// Its interval is out of range.
    #[error(transparent)]
    Interval(#[from] IntervalError),
}

impl FromStr for IntervalList {
    type Err = IntervalListError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut list = Self::default();
        let mut names = HashSet::new();
        for text in identifiers::entries(text) {
            let entry = parse_entry(text)
                .map_err(|problem| IntervalListError::Entry { entry: text.to_owned(), problem })?;
            if !names.insert((entry.schema.clone(), entry.name.clone())) {
                return Err(IntervalListError::Duplicate { name: entry.display_name() });
            }
            list.entries.push(entry);
        }
        Ok(list)
    }
}

impl IntervalList {
    /// The interval listed for a view; an entry with the schema beats one without.
    pub fn get(&self, schema: &str, name: &str) -> Option<Duration> {
        let find = |wanted: Option<&str>| {
            let matches = |entry: &&Entry| entry.name == name && entry.schema.as_deref() == wanted;
            self.entries.iter().find(matches).map(|entry| entry.interval)
        };
        find(Some(schema)).or_else(|| find(None))
    }
}

impl Entry {
    fn display_name(&self) -> String {
        let name = identifiers::quote(&self.name);
        match &self.schema {
            Some(schema) => format!("{}.{name}", identifiers::quote(schema)),
            None => name,
        }
    }
}

fn parse_entry(text: &str) -> Result<Entry, EntryError> {
    let (first, rest) = identifiers::leading(text)?;
    let (schema, name, rest) = match rest.strip_prefix('.') {
        Some(rest) => {
            let (name, rest) = identifiers::leading(rest)?;
            (Some(first), name, rest)
        }
        None => (None, first, rest),
    };
    let Some(interval) = rest.strip_prefix('=') else {
        return Err(match rest {
            "" => EntryError::NoInterval,
            rest => IdentifierError::Unexpected { rest: rest.to_owned() }.into(),
        });
    };
    let interval = interval::check(duration::parse(interval)?)?;
    Ok(Entry { schema, name, interval })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn names_with_and_without_schema_and_quotes_are_found() {
        let list: IntervalList =
            "Name=5m, Schema.name = 1h30m , \"Odd Name\"=10s, \"my.schema\".\"v,w\"=1d"
                .parse()
                .unwrap();
        assert_eq!(list.get("public", "name"), Some(SECOND * 300));
        assert_eq!(list.get("schema", "name"), Some(SECOND * 5400));
        assert_eq!(list.get("any", "Odd Name"), Some(SECOND * 10));
        assert_eq!(list.get("my.schema", "v,w"), Some(SECOND * 86_400));
        assert_eq!(list.get("other", "v,w"), None);
        assert_eq!(list.get("public", "Name"), None);
    }

    #[test]
    fn an_empty_text_is_an_empty_list() {
        assert_eq!("".parse(), Ok(IntervalList::default()));
        assert_eq!(IntervalList::default().get("public", "v"), None);
    }

    #[test]
    fn the_error_names_the_bad_entry() {
        for (text, message) in [
            ("a=5m, b", "bad entry \"b\": \"=\" and an interval must follow the name"),
            ("a=5m, b=soon", "bad entry \"b=soon\": \"soon\" is not a duration"),
            ("a=5", "bad entry \"a=5\": duration \"5\" has no unit"),
            ("a=", "bad entry \"a=\": the duration is empty"),
            ("a=1ms", "bad entry \"a=1ms\": interval 1ms is shorter than 100ms"),
            ("=5m", "bad entry \"=5m\": a name is missing"),
            ("s.=5m", "bad entry \"s.=5m\": a name is missing"),
            ("a=5m,", "bad entry \"\": a name is missing"),
            ("\"a=5m", "bad entry \"\"a=5m\": a double quote is not closed"),
            ("a=5m, A = 6m", "view a is listed twice"),
            ("\"S\".a=5m, \"S\".a=6m", "view \"S\".a is listed twice"),
        ] {
            let error = text.parse::<IntervalList>().map_err(|error| error.to_string());
            assert_eq!(error, Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn one_name_in_several_schemas_is_not_a_duplicate() {
        assert!("a=1s, x.a=2s, y.a=3s".parse::<IntervalList>().is_ok());
    }
}
