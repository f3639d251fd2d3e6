//! The rules of `delta`, tried against queries and changes that are drawn, on tables in memory: whatever
//! differs between a query's results before and after lies in the units that the mapping names.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise

mod model;

use cache_refresher_core::delta::{Column, JoinKind, Occurrence};
use proptest::prelude::*;

use self::model::{GROUPED, History, Part, Row, Test, Tree, Unit, View};

fn column(occurrences: Vec<Occurrence>) -> impl Strategy<Value = Column> {
    (prop::sample::select(occurrences), 1..=2_i16).prop_map(|(of, number)| Column { of, number })
}

fn part(test: Test) -> Part {
    Part { number: 0, test }
}

fn on(left: Vec<Occurrence>, right: Vec<Occurrence>) -> impl Strategy<Value = Vec<Part>> {
    let all = [left.clone(), right.clone()].concat();
    let equal = (column(left.clone()), column(right.clone()))
        .prop_map(|(left, right)| part(Test::Equal(left, right)))
        .boxed();
    let loose = (column(right), column(left.clone()), 0..3_i8)
        .prop_map(|(one, other, or_else)| part(Test::EqualOrElse(one, other, or_else)))
        .boxed();
    let narrow =
        (column(all), 0..2_i8).prop_map(|(column, than)| part(Test::Greater(column, than)));
    // Besides, two columns of the same side.
    let odd =
        (column(left.clone()), column(left)).prop_map(|(one, other)| part(Test::Equal(one, other)));
    prop_oneof![
        6 => equal.clone().prop_map(|equal| vec![equal]),
        2 => loose.clone().prop_map(|loose| vec![loose]),
        2 => (equal.clone(), narrow).prop_map(|(equal, narrow)| vec![equal, narrow]),
        1 => (equal.clone(), odd).prop_map(|(equal, odd)| vec![equal, odd]),
        1 => (equal, loose).prop_map(|(equal, loose)| vec![equal, loose]),
    ]
}

fn tree(occurrences: Vec<Occurrence>) -> BoxedStrategy<Tree> {
    joins(occurrences)
        .prop_flat_map(|tree| {
            let condition = prop::option::weighted(0.2, filter(tree.visible()));
            let by = prop::option::weighted(0.2, column(tree.visible()));
            (Just(tree), condition, by, any::<bool>())
        })
        .prop_map(|(tree, condition, by, more_than_one)| {
            let tree = match condition {
                Some(condition) => Tree::Where(Box::new(tree), condition),
                None => tree,
            };
            let place =
                GROUPED + tree.visible()[0] + if tree.visible()[0] < GROUPED { 0 } else { 100 };
            match by {
                Some(by) if by.of < GROUPED || by.number == 1 => {
                    Tree::Grouped { place, of: Box::new(tree), by, more_than_one }
                }
                _ => tree,
            }
        })
        .boxed()
}

fn joins(occurrences: Vec<Occurrence>) -> BoxedStrategy<Tree> {
    if let [one] = occurrences[..] {
        return Just(Tree::Table(one)).boxed();
    }
    (1..occurrences.len())
        .prop_flat_map(move |split| {
            let (left, right) = occurrences.split_at(split);
            (tree(left.to_vec()), tree(right.to_vec()))
        })
        .prop_flat_map(|(left, right)| {
            let kind = prop_oneof![Just(JoinKind::Inner), Just(JoinKind::Left)];
            let on = on(left.visible(), right.visible());
            (kind, Just(left), Just(right), on)
        })
        .prop_map(|(kind, left, right, on)| Tree::Join(kind, Box::new(left), Box::new(right), on))
        .boxed()
}

fn filter(all: Vec<Occurrence>) -> impl Strategy<Value = Part> {
    prop_oneof![
        (column(all.clone()), 0..2_i8).prop_map(|(column, than)| Test::Greater(column, than)),
        column(all.clone()).prop_map(Test::IsNull),
        (column(all.clone()), column(all.clone())).prop_map(|(one, other)| Test::Equal(one, other)),
        (column(all.clone()), column(all), 0..3_i8)
            .prop_map(|(one, other, or_else)| Test::EqualOrElse(one, other, or_else)),
    ]
    .prop_map(part)
}

fn view(count: usize) -> impl Strategy<Value = View> {
    tree((0..count).collect())
        .prop_flat_map(|tree| {
            let all = tree.visible();
            let filters = prop::collection::vec(filter(all.clone()), 0..2);
            let group = prop::option::of(column(all.clone()));
            let unit = prop_oneof![
                4 => column(all.clone()).prop_map(Unit::Column),
                1 => (column(all.clone()), column(all)).prop_map(|(one, other)| Unit::Sum(one, other)),
            ];
            (Just(tree), filters, unit, group, any::<bool>())
        })
        .prop_map(|(tree, filter, unit, group, more_than_one)| {
            View { tree, filter, unit, group, more_than_one }.numbered()
        })
}

fn row() -> impl Strategy<Value = Row> {
    let number = || prop_oneof![1 => Just(None), 5 => (0..4_i8).prop_map(Some)];
    [number(), number()]
}

fn history() -> impl Strategy<Value = History> {
    let fate = prop_oneof![
        6 => Just(None),
        1 => Just(Some(Vec::new())),
        2 => prop::collection::vec(row(), 1..3).prop_map(Some)
    ];
    let rows = prop::collection::vec((row(), fate), 0..6);
    (rows, prop::collection::vec(row(), 0..2)).prop_map(|(rows, new)| History::of(rows, new))
}

/// More by hand: `MAPPING_CASES=2000000 cargo test --release --test mapping`.
fn cases() -> u32 {
    std::env::var("MAPPING_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(20_000)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        max_global_rejects: u32::MAX,
        ..Default::default()
    })]

    #[test]
    fn what_differs_is_mapped(
        (view, tables) in (1..=4_usize)
            .prop_flat_map(|count| (view(count), prop::collection::vec(history(), count)))
    ) {
        match view.check(tables) {
            Ok(is_mapped) => prop_assume!(is_mapped),
            Err(missed) => prop_assert!(false, "{}", missed),
        }
    }
}
