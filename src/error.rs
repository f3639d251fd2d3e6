//! Every error that we raise ourselves, and the one place that gives it SQLSTATE, detail and hint.

use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::spi;

use cache_refresher_core::duration;
use cache_refresher_core::interval::IntervalError;
use cache_refresher_core::method::{Refusal, Requested, UnknownMethod};
use cache_refresher_core::schedule::CronError;

use crate::pg::report::Caught;
use crate::pg::view_name::ViewName;

/// A result with one of our errors.
pub type Result<T> = std::result::Result<T, Error>;

/// What can be wrong. Errors of the server itself pass through as they are.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{argument} must not be null")]
    NullArgument { argument: &'static str },
    #[error("\"{name}\" is not a materialized view")]
    NotMaterializedView { name: ViewName },
    #[error("relation with OID {oid} does not exist")]
    NoSuchRelation { oid: u32 },
    #[error("materialized view \"{name}\" does not exist")]
    NoSuchView { name: String },
    #[error("must be owner of materialized view {name}")]
    NotOwner { name: String },
    #[error("permission denied to refresh materialized view {name}")]
    MayNotRefresh { name: String, role: String },
    #[error("permission denied for materialized view {name}")]
    MayNotSee { name: String },
    #[error("materialized view {name} is already registered")]
    AlreadyRegistered { name: String },
    #[error("materialized view {name} is not registered")]
    NotRegistered { name: String },
    #[error("role with OID {role} does not exist")]
    NoSuchRole { role: u32 },
    #[error("materialized view {name} is being refreshed by this session already")]
    UnderWay { name: String },
    #[error("the summary of {name} is too large: {bytes} bytes")]
    SummarySize { name: String, bytes: usize, most: usize },
    #[error("role \"{role}\" has no grant to refresh {name}")]
    NotGranted { name: String, role: String },
    #[error("{name} must not be negative")]
    NegativeInterval { name: &'static str },
    #[error(transparent)]
    Interval(#[from] IntervalError),
    #[error(transparent)]
    Cron(#[from] CronError),
    #[error(transparent)]
    Method(#[from] UnknownMethod),
    #[error("refresh_interval and schedule exclude each other")]
    IntervalAndSchedule,
    #[error("time_zone needs a schedule")]
    TimeZoneWithoutSchedule,
    #[error("debounce and max_staleness need on_change")]
    ReactionWithoutChange,
    #[error("method delta needs on_change")]
    DeltaWithoutChange,
    #[error("max_staleness must not be shorter than debounce")]
    ImpatientReaction,
    #[error("permission denied to capture changes of {name}")]
    MayNotCapture { name: String },
    #[error("min_interval and max_interval go together")]
    HalfOfLimits,
    #[error("max_interval must not be shorter than min_interval")]
    LimitsReversed,
    #[error("a schedule and min_interval or max_interval exclude each other")]
    LimitsAndSchedule,
    #[error("{name} cannot be both set and reset")]
    SetAndReset { name: String },
    #[error("\"{name}\" cannot be reset")]
    NotResettable { name: String },
    #[error("cannot refresh materialized view {name} with {method}: {refusal}")]
    Refused { name: String, method: &'static str, refusal: RefusalText },
    #[error("new data for materialized view {name} has duplicate keys: {}", caught.message)]
    DuplicateKey { name: String, caught: Caught },
    #[error("materialized view {name} has no key")]
    NoKey { name: String },
    #[error("keys of materialized view {name} are of type {expected}, not {given}")]
    KeyType { name: String, expected: String, given: String },
    #[error("a refresh needs the isolation level READ COMMITTED")]
    IsolationLevel,
    #[error("cannot {what} in a read-only transaction")]
    ReadOnly { what: &'static str },
    #[error("cannot {what} during recovery")]
    Recovery { what: &'static str },
    #[error("\"{text}\" is not the name of a view")]
    BadName { text: String },
    #[error("more than one missing view named {name} is registered")]
    AmbiguousName { name: String },
    #[error("{name} is too large")]
    HugeInterval { name: &'static str },
    #[error("canceling refresh of {name} due to timeout after {limit}")]
    Timeout { name: String, limit: String },
    #[error("could not obtain lock on {name} within {limit}")]
    Locked { name: String, limit: String, by: Option<String> },
    #[error("summary_query must be one SELECT statement")]
    SummaryNotSelect,
    #[error("summary_query of {name} fails: {}", caught.message)]
    SummaryFails { name: String, caught: Caught },
    #[error("summary_query of {name} must return one row, but returned {returned}")]
    SummaryRows { name: String, returned: &'static str },
    #[error("the freshness of {name} is not known")]
    FreshnessUnknown { name: String },
    #[error("materialized view {name} is stale")]
    Stale { name: String, detail: String },
    #[error("catalog of cache_refresher: {0}")]
    Catalog(#[from] pgrx::spi::Error),
    #[error("{0}")]
    Corrupt(String),
}

/// A refusal of the method choice, as a clause of a message.
#[derive(Debug)]
pub struct RefusalText(pub Refusal);

impl std::fmt::Display for RefusalText {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self.0 {
            Refusal::NoUniqueIndex => "it has no usable unique index",
            Refusal::NotPopulated => "it has never been populated",
            Refusal::NotHeap => "its access method is not heap",
        })
    }
}

impl RefusalText {
    /// What to do about it, as a sentence.
    pub fn remedy(&self, view: &str) -> String {
        match self.0 {
            Refusal::NoUniqueIndex => {
                format!("Create one with CREATE UNIQUE INDEX ON {view} (...), or use method auto.")
            }
            Refusal::NotPopulated => "Use method auto or full for the first time.".to_owned(),
            Refusal::NotHeap => format!(
                "Use method concurrent or full, or ALTER MATERIALIZED VIEW {view} SET ACCESS METHOD \
                 heap."
            ),
        }
    }
}

const ACCEPTED_METHODS: &str = "Use auto, full, concurrent, diff or delta.";

impl Error {
    fn code(&self) -> Code {
        match self {
            Self::NullArgument { .. } => Code::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            Self::NotMaterializedView { .. } => Code::ERRCODE_WRONG_OBJECT_TYPE,
            Self::NoSuchRelation { .. } | Self::NoSuchView { .. } => Code::ERRCODE_UNDEFINED_TABLE,
            Self::NotOwner { .. }
            | Self::MayNotRefresh { .. }
            | Self::MayNotSee { .. }
            | Self::MayNotCapture { .. } => Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
            Self::AmbiguousName { .. } => Code::ERRCODE_AMBIGUOUS_ALIAS,
            Self::AlreadyRegistered { .. } => Code::ERRCODE_DUPLICATE_OBJECT,
            Self::NotRegistered { .. } | Self::NotGranted { .. } | Self::NoSuchRole { .. } => {
                Code::ERRCODE_UNDEFINED_OBJECT
            }
            Self::UnderWay { .. } => Code::ERRCODE_OBJECT_IN_USE,
            Self::SummarySize { .. } => Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Self::NegativeInterval { .. }
            | Self::HugeInterval { .. }
            | Self::BadName { .. }
            | Self::Interval(_)
            | Self::Cron(_)
            | Self::Method(_)
            | Self::IntervalAndSchedule
            | Self::TimeZoneWithoutSchedule
            | Self::ReactionWithoutChange
            | Self::DeltaWithoutChange
            | Self::ImpatientReaction
            | Self::HalfOfLimits
            | Self::LimitsReversed
            | Self::LimitsAndSchedule
            | Self::SetAndReset { .. }
            | Self::NotResettable { .. }
            | Self::SummaryNotSelect => Code::ERRCODE_INVALID_PARAMETER_VALUE,
            Self::SummaryFails { caught, .. } => caught.code,
            Self::SummaryRows { .. } => Code::ERRCODE_CARDINALITY_VIOLATION,
            Self::Refused { .. } | Self::FreshnessUnknown { .. } | Self::Stale { .. } => {
                Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            Self::NoKey { .. } => Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Self::KeyType { .. } => Code::ERRCODE_DATATYPE_MISMATCH,
            Self::DuplicateKey { .. } => Code::ERRCODE_UNIQUE_VIOLATION,
            Self::IsolationLevel => Code::ERRCODE_ACTIVE_SQL_TRANSACTION,
            Self::ReadOnly { .. } | Self::Recovery { .. } => {
                Code::ERRCODE_READ_ONLY_SQL_TRANSACTION
            }
            Self::Timeout { .. } => Code::ERRCODE_QUERY_CANCELED,
            Self::Locked { .. } => Code::ERRCODE_LOCK_NOT_AVAILABLE,
            Self::Catalog(_) | Self::Corrupt(_) => Code::ERRCODE_INTERNAL_ERROR,
        }
    }

    /// Whether it is arguments that are wrong, and not the view.
    pub const fn is_of_the_call(&self) -> bool {
        matches!(self, Self::KeyType { .. } | Self::NoKey { .. })
    }

    fn detail(&self) -> Option<String> {
        match self {
            Self::Stale { detail, .. } => Some(detail.clone()),
            Self::DuplicateKey { caught, .. } => caught.detail.clone(),
            Self::Locked { by, .. } => by.as_ref().map(|by| format!("It is locked by {by}.")),
            Self::Refused { refusal: RefusalText(Refusal::NoUniqueIndex), .. } => Some(
                "A usable index is a valid btree on columns, without WHERE clause and not deferrable."
                    .to_owned(),
            ),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NullArgument { argument } => format!("Give a value for {argument}."),
            Self::NotMaterializedView { .. } => {
                "Only materialized views can be refreshed; make one with CREATE MATERIALIZED VIEW."
                    .to_owned()
            }
            Self::NoSuchRelation { .. } => {
                "It may have been dropped meanwhile; see cache_refresher.status.".to_owned()
            }
            Self::NoSuchView { name } => format!(
                "Create it with CREATE MATERIALIZED VIEW {name} AS ..., or put its schema into \
                 search_path."
            ),
            Self::NotOwner { .. } => {
                "Ask the owner of the view, or become a member of the owning role.".to_owned()
            }
            Self::MayNotRefresh { name, role } => format!(
                "If it is registered, its owner can allow it: \
                 SELECT cache_refresher.grant_refresh({}, {});",
                spi::quote_literal(name),
                spi::quote_literal(spi::quote_identifier(role)),
            ),
            Self::MayNotSee { .. } => "You need the SELECT privilege on it.".to_owned(),
            Self::AlreadyRegistered { .. } => {
                "Change it with cache_refresher.alter, or call cache_refresher.unregister first."
                    .to_owned()
            }
            Self::NotRegistered { .. } => {
                "Register it with cache_refresher.register; cache_refresher.status shows those that are."
                    .to_owned()
            }
            Self::NotGranted { .. } => {
                "See granted_to in cache_refresher.registrations.".to_owned()
            }
            Self::NoSuchRole { .. } => "See pg_roles for those that exist.".to_owned(),
            Self::UnderWay { .. } => {
                "A view cannot be refreshed by its own query, nor by a function or index of its own.".to_owned()
            }
            Self::SummarySize { most, .. } => format!(
                "A summary has at most {most} bytes: keep figures in it rather than rows."
            ),
            Self::NegativeInterval { .. } => "Give an interval that is not negative.".to_owned(),
            Self::Interval(_) => {
                format!("Give an interval from 100 ms to 10 years. {}", duration::FORMS)
            }
            Self::Cron(CronError::TimeZone { .. }) => {
                "Use a name of the IANA database, such as Europe/Berlin; see pg_timezone_names."
                    .to_owned()
            }
            Self::Cron(_) => {
                "Write minute, hour, day of month, month and day of week, such as '*/15 * * * *'; \
                 a sixth field in front stands for seconds. Or @hourly, @daily, @weekly, @monthly, @yearly."
                    .to_owned()
            }
            Self::Method(_) => ACCEPTED_METHODS.to_owned(),
            Self::IntervalAndSchedule => {
                "Give one of them; with alter, put the other one into reset.".to_owned()
            }
            Self::TimeZoneWithoutSchedule => {
                "An interval is the same in every time zone; give a schedule, or leave time_zone \
                 out."
                    .to_owned()
            }
            Self::HalfOfLimits => {
                "Give both, and the interval adapts between them; or neither.".to_owned()
            }
            Self::LimitsReversed => "Give a longer max_interval, or a shorter min_interval.".to_owned(),
            Self::LimitsAndSchedule => {
                "Give one of them; with alter, put schedule or min_interval into reset.".to_owned()
            }
            Self::ReactionWithoutChange => {
                "Give on_change => true as well, or leave them out; with alter, put on_change into \
                 reset, which resets them, too."
                    .to_owned()
            }
            Self::DeltaWithoutChange => {
                "Leave on_change out, or give another method: auto takes delta where that is cheaper."
                    .to_owned()
            }
            Self::ImpatientReaction => "Give a longer max_staleness, or a shorter debounce.".to_owned(),
            Self::MayNotCapture { name } => {
                format!("GRANT TRIGGER ON {name} to the owner of the view.")
            }
            Self::SetAndReset { .. } => "Do one of them.".to_owned(),
            Self::NotResettable { .. } => {
                "Names are refresh_interval, schedule, time_zone, min_interval, max_interval, method, \
                 on_change, debounce, max_staleness, timeout and summary_query."
                    .to_owned()
            }
            Self::Refused { name, refusal, .. } => refusal.remedy(name),
            Self::DuplicateKey { .. } => {
                "The view's query must return one row for each key of a unique index: mend the query, \
                 or drop the index."
                    .to_owned()
            }
            Self::NoKey { name } => format!(
                "Create a unique index on {name}, or an index on the column that its rows are found by."
            ),
            Self::KeyType { expected, .. } => {
                format!("Give an array of that type, such as ARRAY[...]::{}[].", first_word(expected))
            }
            Self::IsolationLevel => {
                "BEGIN ISOLATION LEVEL READ COMMITTED; outside a transaction block, SET \
                 default_transaction_isolation = 'read committed'."
                    .to_owned()
            }
            Self::ReadOnly { .. } => {
                "Call it outside the transaction block, or SET TRANSACTION READ WRITE first."
                    .to_owned()
            }
            Self::BadName { .. } => {
                "Write name or schema.name, with double quotes where SQL needs them.".to_owned()
            }
            Self::AmbiguousName { .. } => "Write schema.name.".to_owned(),
            Self::HugeInterval { .. } => "Give a shorter interval.".to_owned(),
            Self::Recovery { .. } => "Connect to the primary server.".to_owned(),
            Self::Locked { .. } => {
                "See pg_locks and pg_stat_activity. Where it happens always, raise \
                 cache_refresher.lock_timeout."
                    .to_owned()
            }
            Self::Timeout { .. } => {
                "Raise cache_refresher.timeout, or the view's timeout with cache_refresher.alter."
                    .to_owned()
            }
            Self::SummaryFails { caught, .. } => caught.hint.clone().unwrap_or_else(|| {
                "It must be one SELECT that returns one row and does not write; it is run as the \
                 owner of the view."
                    .to_owned()
            }),
            Self::SummaryNotSelect => {
                "It is run after each refresh, read only, and its one row is kept.".to_owned()
            }
            Self::SummaryRows { .. } => {
                "Aggregate without GROUP BY returns one row, such as SELECT count(*) AS total."
                    .to_owned()
            }
            Self::FreshnessUnknown { .. } => {
                "Give max_age, or register the view with on_change => true; cache_refresher.explain \
                 says what else is in the way."
                    .to_owned()
            }
            Self::Stale { .. } => {
                "Call cache_refresher.refresh, or see cache_refresher.status for why it is not \
                 refreshed."
                    .to_owned()
            }
            Self::Catalog(_) | Self::Corrupt(_) => return None,
        };
        Some(hint)
    }
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> Self {
        let mut report = Self::new(error.code(), error.to_string(), "cache_refresher");
        if let Some(detail) = error.detail() {
            report = report.set_detail(detail);
        }
        if let Some(hint) = error.hint() {
            report = report.set_hint(hint);
        }
        report
    }
}

impl Error {
    /// Raises the error in the server, where unwinding is the only way out (inside a transaction of
    /// ours that must abort).
    pub fn raise(self) -> ! {
        ErrorReport::from(self).report(pgrx::PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }
}

/// Of `integer, or a row (integer, text)` the first type.
fn first_word(types: &str) -> &str {
    types.split(", or").next().unwrap_or(types)
}

/// The refusal of a method for a view.
pub fn refused(name: &str, requested: Requested, refusal: Refusal) -> Error {
    Error::Refused {
        name: name.to_owned(),
        method: requested.as_str(),
        refusal: RefusalText(refusal),
    }
}
