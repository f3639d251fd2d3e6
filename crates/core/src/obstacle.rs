//! Why a view cannot be refreshed by the changes of its sources, in words that tell what to change.
//!
//! `docs/incremental.md` lists them all, which a test compares.

use crate::delta::{Partition, Unmappable};

/// What stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Nobody asked for it.
    NotCaptured,
    /// The query calls a function that may return another value although nothing has changed.
    Restless(String),
    /// The query takes a sample.
    Sample,
    /// The query reads system columns.
    SystemColumn,
    /// The query reads tables of the server itself.
    Catalog,
    /// The query reads something that is neither a table nor a view, such as a sequence.
    NoTable(String),
    /// A source is on another server.
    Foreign(String),
    /// A source is emptied by a crash, unseen.
    Unlogged(String),
    /// A source shows different rows to different roles, by rules that may read anything.
    RowSecurity(String),
    /// Nobody would notice a REFRESH by hand.
    Unnoticed,
    /// A source has no trigger of ours, or not one that sees enough.
    Uncaptured {
        /// The source.
        name: String,
        /// Whether the view's owner may have a trigger there.
        allowed: bool,
    },
    /// The query has something that is not understood.
    Unsupported(Unsupported),
    /// No column can be the unit.
    Mapping(Unmappable),
    /// The column that would do is of a type by whose values rows are not looked up.
    KeyType(String),
    /// A column would do, but no index leads to it.
    NoIndex,
    /// Indexed columns are nothing but what aggregates, windows or subqueries compute.
    Computed,
}

/// What a query has that the mapping does not understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsupported {
    /// UNION and its kin within a query that UNION or its kin combines with others.
    SetOperation,
    /// A WITH clause that is recursive, or refers to what is around it.
    With,
    /// A set-returning function in SELECT.
    SetReturning,
    /// GROUPING SETS and its kin.
    GroupingSets,
    /// LIMIT or OFFSET.
    Limit,
    /// A subquery or function in FROM whose rows an outer join preserves.
    Subquery,
    /// A plain view with security_barrier or security_invoker.
    View,
    /// GROUP BY, DISTINCT or PARTITION BY by another equality than that of the type.
    Equality,
    /// Subqueries and parts of UNION ALL make more combinations than are looked at.
    Size,
    /// Anything else in FROM that is no table.
    Other,
}

impl Unsupported {
    const ALL: [Self; 10] = [
        Self::SetOperation,
        Self::With,
        Self::SetReturning,
        Self::GroupingSets,
        Self::Limit,
        Self::Subquery,
        Self::View,
        Self::Equality,
        Self::Size,
        Self::Other,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::SetOperation => {
                "combines queries (UNION and its kin) within one that is combined"
            }
            Self::With => "has a recursive WITH clause, or one that refers to what is around it",
            Self::SetReturning => "calls a set-returning function in SELECT",
            Self::GroupingSets => "has GROUPING SETS, CUBE or ROLLUP",
            Self::Limit => "has a LIMIT",
            Self::Subquery => {
                "has a subquery or function in FROM on the side of an outer join that is preserved"
            }
            Self::View => "reads a plain view with security_barrier or security_invoker",
            Self::Equality => "groups or makes distinct by an equality that is not the type's own",
            Self::Size => "has too many combinations of subqueries and parts of UNION ALL",
            Self::Other => "has an unusual FROM clause",
        }
    }
}

impl Obstacle {
    /// One of each kind, as the documentation lists them.
    pub fn examples() -> Vec<Self> {
        let name = || "name".to_owned();
        let mut all = vec![
            Self::NotCaptured,
            Self::Restless("function".to_owned()),
            Self::Sample,
            Self::SystemColumn,
            Self::Catalog,
            Self::NoTable(name()),
            Self::Foreign(name()),
            Self::Unlogged(name()),
            Self::RowSecurity(name()),
            Self::Unnoticed,
            Self::Uncaptured { name: name(), allowed: true },
            Self::Uncaptured { name: name(), allowed: false },
        ];
        all.extend(Unsupported::ALL.map(Self::Unsupported));
        all.extend(
            [
                Unmappable::FullJoin,
                Unmappable::NullableUnit,
                Unmappable::LooseCondition,
                Unmappable::ComputedCondition,
                Unmappable::Divided(Partition::Group),
                Unmappable::Divided(Partition::DistinctOn),
                Unmappable::Divided(Partition::Window),
            ]
            .map(Self::Mapping),
        );
        all.extend([Self::KeyType("type".to_owned()), Self::NoIndex, Self::Computed]);
        all
    }

    /// Why, as a clause.
    pub fn reason(&self) -> String {
        match self {
            Self::NotCaptured => "changes of what it reads are not captured".to_owned(),
            Self::Restless(name) => format!("its result can change by itself: it calls {name}"),
            Self::Sample => "it takes a sample of a table".to_owned(),
            Self::SystemColumn => "it reads system columns".to_owned(),
            Self::Catalog => "it reads system catalogs".to_owned(),
            Self::NoTable(name) => format!("{name} is neither a table nor a view"),
            Self::Foreign(name) => format!("{name} is a foreign table"),
            Self::Unlogged(name) => format!("{name} is unlogged: a crash empties it unseen"),
            Self::RowSecurity(name) => {
                format!("row security of {name} applies to an owner, and its policies may read anything")
            }
            Self::Unnoticed => {
                "a REFRESH by hand would not be noticed: our event trigger does not fire always"
                    .to_owned()
            }
            Self::Uncaptured { name, .. } => format!("changes of {name} are not captured"),
            Self::Unsupported(what) => format!("its query {}", what.as_str()),
            Self::Mapping(reason) => match reason {
                Unmappable::FullJoin => "its query has a FULL JOIN",
                Unmappable::NullableUnit => {
                    "the indexed column is computed from a table that an outer join extends by NULLs"
                }
                Unmappable::LooseCondition => {
                    "a join condition accepts NULLs of an outer-joined table"
                }
                Unmappable::ComputedCondition => {
                    "a join condition compares only what a subquery computes"
                }
                Unmappable::Divided(Partition::Group) => "GROUP BY does not contain the indexed column",
                Unmappable::Divided(Partition::DistinctOn) => {
                    "DISTINCT ON does not contain the indexed column"
                }
                Unmappable::Divided(Partition::Window) => {
                    "a window's PARTITION BY does not contain the indexed column"
                }
            }
            .to_owned(),
            Self::KeyType(name) => format!("no delta goes by an indexed column of type {name}"),
            Self::NoIndex => {
                "no index of the view begins with a column that its rows can be replaced by"
                    .to_owned()
            }
            Self::Computed => {
                "what its indexed columns show is computed from several rows".to_owned()
            }
        }
    }

    /// What to do about it, as a sentence.
    pub fn remedy(&self) -> String {
        match self {
            Self::NotCaptured => "Register it with on_change => true.".to_owned(),
            Self::Restless(_)
            | Self::Sample
            | Self::SystemColumn
            | Self::Catalog
            | Self::NoTable(_) => {
                "Leave that out of the view's query, or let the interval do its work.".to_owned()
            }
            Self::RowSecurity(_) => {
                "Let a role own the view that it does not apply to, or call cache_refresher.invalidate."
                    .to_owned()
            }
            Self::Foreign(_) => {
                "Call cache_refresher.invalidate when it has changed; the interval sees to the rest."
                    .to_owned()
            }
            Self::Unlogged(name) => {
                format!("ALTER TABLE {name} SET LOGGED, or call cache_refresher.invalidate.")
            }
            Self::Unnoticed => {
                "ALTER EVENT TRIGGER cache_refresher_content_replaced ENABLE ALWAYS.".to_owned()
            }
            Self::Uncaptured { allowed: true, .. } => {
                "The next refresh by a worker sets it up.".to_owned()
            }
            Self::Uncaptured { name, allowed: false } => {
                format!("GRANT TRIGGER ON {name} to the owner of the view.")
            }
            Self::Unsupported(_) => "Leave that out, or let diff do the work.".to_owned(),
            Self::Mapping(reason) => match reason {
                Unmappable::FullJoin => "Use LEFT JOIN where that is possible.",
                Unmappable::NullableUnit => "Index a column of the table on the left of the join.",
                Unmappable::ComputedCondition => "Join the subquery by a column that it groups by.",
                Unmappable::LooseCondition => {
                    "Compare its columns with = in the join condition, without COALESCE or IS NULL."
                }
                Unmappable::Divided(Partition::Group) => "Index a column that the query groups by.",
                Unmappable::Divided(Partition::DistinctOn) => "Index a column of DISTINCT ON.",
                Unmappable::Divided(Partition::Window) => {
                    "Index a column that all windows are partitioned by."
                }
            }
            .to_owned(),
            Self::KeyType(_) => {
                "Index another column that identifies its rows, or let diff do the work.".to_owned()
            }
            Self::NoIndex => "Create an index on the column that identifies its rows.".to_owned(),
            Self::Computed => {
                "Select the key of the leading table, and create an index on it.".to_owned()
            }
        }
    }
}

/// Why a view is not refreshed by delta this time.
#[derive(Debug, Clone, PartialEq)]
pub enum NotNow {
    /// It is not possible at all.
    Never(Obstacle),
    /// What happened since the last refresh is not known, or the last refresh is not.
    First,
    /// What the query returns rests on something else than it did.
    Redefined,
    /// Somebody has said that anything may have changed.
    Invalidated,
    /// Of this table it is known that something has changed, and not what.
    UnknownRows(String),
    /// Any change of a table can concern any row.
    AnyRow(String),
    /// More rows have changed than are put into one query.
    ManyRows,
    /// Each of several tables that changed doubles the queries that find the rows concerned.
    ManyTables,
    /// To find the rows concerned costs more than a diff.
    Search,
    /// To compute them costs more than a diff, by the planner's estimates.
    Cost {
        /// Of a diff.
        limit: f64,
        /// Of a delta, at least.
        cost: f64,
    },
    /// What is computed anew is more than may be held.
    Memory,
    /// An error that the whole query need not meet, by its SQLSTATE: its message can hold data.
    Failed(String),
}

impl From<Obstacle> for NotNow {
    fn from(obstacle: Obstacle) -> Self {
        Self::Never(obstacle)
    }
}

impl NotNow {
    /// One of each kind, as the documentation lists them.
    pub fn examples() -> Vec<Self> {
        vec![
            Self::First,
            Self::Redefined,
            Self::Invalidated,
            Self::UnknownRows("name".to_owned()),
            Self::AnyRow("name".to_owned()),
            Self::ManyRows,
            Self::ManyTables,
            Self::Search,
            Self::Cost { limit: 1000.0, cost: 2000.0 },
            Self::Memory,
            Self::Failed("22012".to_owned()),
        ]
    }

    /// Why, as a clause.
    pub fn reason(&self) -> String {
        match self {
            Self::Never(obstacle) => return obstacle.reason(),
            Self::UnknownRows(name) => {
                return format!("which rows of {name} have changed is not known");
            }
            Self::Failed(sqlstate) => {
                return format!("to compute the rows concerned alone failed with SQLSTATE {sqlstate}");
            }
            Self::AnyRow(name) => {
                return format!("a change of {name} can concern any row: no column joins it to the key");
            }
            Self::Cost { limit, cost } => {
                return format!(
                    "to compute all is estimated to cost less, {limit:.0} instead of at least {cost:.0}"
                );
            }
            Self::First => {
                "it is the first refresh since its changes are captured, or since one by hand"
            }
            Self::Redefined => {
                "what it reads was redefined or truncated, or it is refreshed under other settings"
            }
            Self::Invalidated => "it was invalidated, its capture has begun anew, or more has changed than is kept",
            Self::ManyRows => "very many rows have changed",
            Self::ManyTables => "too many of the joined tables have changed at once",
            Self::Search => {
                "to find the rows concerned costs too much: a joined column has no index, or much \
                 has changed"
            }
            Self::Memory => "the rows concerned do not fit into work_mem",
        }
        .to_owned()
    }

    /// The reason for the method that is taken instead, and why it is not delta.
    pub fn beside(&self, reason: &str) -> String {
        format!("{reason}; not delta: {}", self.reason())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_each() {
        let page = include_str!("../../../docs/incremental.md");
        for obstacle in Obstacle::examples() {
            let row = format!("| {} | {} |", obstacle.reason(), obstacle.remedy());
            assert!(page.contains(&row), "docs/incremental.md lacks\n{row}");
        }
        for why in NotNow::examples() {
            let row = format!("| {} |", why.reason());
            assert!(page.contains(&row), "docs/incremental.md lacks\n{row}");
        }
    }
}
