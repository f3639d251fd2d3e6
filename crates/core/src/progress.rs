//! How far a running refresh has come.

/// What a refresh is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    /// It waits for locks on the view and on what it reads.
    #[default]
    Locking,
    /// The server computes the new content; how far it is, it does not say.
    Querying,
    /// The rows of the query are compared with those of the view.
    Comparing,
    /// The rows that differ are written.
    Writing,
    /// Summary, log and notification.
    Finishing,
}

impl Phase {
    /// The words that `cache_refresher.progress` shows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Locking => "waiting for locks",
            Self::Querying => "running the query",
            Self::Comparing => "comparing",
            Self::Writing => "writing",
            Self::Finishing => "finishing",
        }
    }
}

/// A phase, and how much of it is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The phase.
    pub phase: Phase,
    /// Rows that this phase is through with.
    pub rows_done: u64,
    /// Rows that it has to go through, as far as that is known.
    pub rows_expected: Option<u64>,
}

impl Progress {
    /// The beginning of a phase.
    pub const fn begin(phase: Phase, rows_expected: Option<u64>) -> Self {
        Self { phase, rows_done: 0, rows_expected }
    }
}
