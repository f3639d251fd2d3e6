//! Whether the objects in a database and the library belong together: an update of the package changes the one, and
//! `ALTER EXTENSION … UPDATE` the other.

/// How the objects are, beside the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// Of the same version.
    Same,
    /// Of an earlier one.
    Behind,
    /// Of a later one.
    Ahead,
}

/// Compares versions such as 0.10.1 by their numbers. One that has none is taken for an earlier one.
pub fn fit(objects: &str, library: &str) -> Fit {
    let numbers = |version: &str| -> Option<Vec<u32>> {
        version.split('.').map(|number| number.parse().ok()).collect()
    };
    if objects == library {
        Fit::Same
    } else if numbers(objects) > numbers(library) {
        Fit::Ahead
    } else {
        Fit::Behind
    }
}

impl Fit {
    /// What to do about it, as a sentence; nothing where they belong together.
    pub const fn remedy(self) -> Option<&'static str> {
        match self {
            Self::Same => None,
            Self::Behind => Some("Run ALTER EXTENSION cache_refresher UPDATE in this database."),
            Self::Ahead => Some(
                "Install the package of that version, and restart the server: it loads the library when it starts.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert_eq!(fit("0.1.0", "0.1.0"), Fit::Same);
        assert_eq!(fit("0.9.0", "0.10.0"), Fit::Behind);
        assert_eq!(fit("0.10.0", "0.9.9"), Fit::Ahead);
        assert_eq!(fit("0.1", "0.1.0"), Fit::Behind);
        assert_eq!(fit("next", "0.1.0"), Fit::Behind);
    }
}
