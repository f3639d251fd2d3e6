//! The rules of `delta` against queries of known meaning: whatever differs between a query's results before and
//! after a change lies in the units that the mapping names.
#![no_main]
#![allow(clippy::unwrap_used)] // a target stops at the first surprise

#[path = "../../crates/core/tests/mapping/model.rs"]
mod model;

use cache_refresher_core::delta::{Column, JoinKind, Occurrence};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

use self::model::{GROUPED, History, Part, Row, Test, Tree, Unit, View};

fuzz_target!(|data: &[u8]| {
    let input = &mut Unstructured::new(data);
    if let Ok((view, tables)) = drawn(input)
        && let Err(missed) = view.check(tables.clone())
    {
        panic!("{missed}\n{view:#?}\n{tables:?}");
    }
});

fn drawn(input: &mut Unstructured) -> Result<(View, Vec<History>)> {
    let count = input.int_in_range(1..=4)?;
    let tree = tree(input, &(0..count).collect::<Vec<_>>())?;
    let all = tree.visible();
    let mut filter = Vec::new();
    for _ in 0..input.int_in_range(0..=2)? {
        filter.push(condition(input, &all)?);
    }
    let unit = match input.ratio(1, 5)? {
        true => Unit::Sum(column(input, &all)?, column(input, &all)?),
        false => Unit::Column(column(input, &all)?),
    };
    let group = if input.arbitrary()? { Some(column(input, &all)?) } else { None };
    let view = View { tree, filter, unit, group, more_than_one: input.arbitrary()? }.numbered();
    let tables = (0..count).map(|_| history(input)).collect::<Result<_>>()?;
    Ok((view, tables))
}

fn column(input: &mut Unstructured, of: &[Occurrence]) -> Result<Column> {
    Ok(Column { of: *input.choose(of)?, number: input.int_in_range(1..=2)? })
}

fn tree(input: &mut Unstructured, tables: &[Occurrence]) -> Result<Tree> {
    let mut tree = match tables {
        [one] => Tree::Table(*one),
        _ => {
            let (left, right) = tables.split_at(input.int_in_range(1..=tables.len() - 1)?);
            let (left, right) = (tree(input, left)?, tree(input, right)?);
            let kind = *input.choose(&[JoinKind::Inner, JoinKind::Left])?;
            let on = on(input, &left.visible(), &right.visible())?;
            Tree::Join(kind, Box::new(left), Box::new(right), on)
        }
    };
    if input.ratio(1, 5)? {
        let part = condition(input, &tree.visible())?;
        tree = Tree::Where(Box::new(tree), part);
    }
    if input.ratio(1, 5)? {
        let visible = tree.visible();
        let by = column(input, &visible)?;
        // What a subquery computes cannot be grouped by in turn.
        if by.of < GROUPED || by.number == 1 {
            let place = GROUPED + visible[0] + if visible[0] < GROUPED { 0 } else { 100 };
            tree =
                Tree::Grouped { place, of: Box::new(tree), by, more_than_one: input.arbitrary()? };
        }
    }
    Ok(tree)
}

fn on(input: &mut Unstructured, left: &[Occurrence], right: &[Occurrence]) -> Result<Vec<Part>> {
    let equal = Test::Equal(column(input, left)?, column(input, right)?);
    let loose =
        Test::EqualOrElse(column(input, right)?, column(input, left)?, input.int_in_range(0..=2)?);
    let more = condition(input, &[left, right].concat())?;
    let tests = match input.int_in_range(0..=3)? {
        0 => vec![loose],
        1 => vec![equal, loose],
        2 => return Ok(vec![part(equal), more]),
        _ => vec![equal],
    };
    Ok(tests.into_iter().map(part).collect())
}

fn condition(input: &mut Unstructured, all: &[Occurrence]) -> Result<Part> {
    Ok(part(match input.int_in_range(0..=3)? {
        0 => Test::Greater(column(input, all)?, input.int_in_range(0..=1)?),
        1 => Test::IsNull(column(input, all)?),
        2 => Test::Equal(column(input, all)?, column(input, all)?),
        _ => {
            Test::EqualOrElse(column(input, all)?, column(input, all)?, input.int_in_range(0..=2)?)
        }
    }))
}

fn part(test: Test) -> Part {
    Part { number: 0, test }
}

fn row(input: &mut Unstructured) -> Result<Row> {
    let mut number = || Ok(Some(input.int_in_range(0..=4)?).filter(|number| *number < 4));
    Ok([number()?, number()?])
}

fn rows(input: &mut Unstructured, most: usize) -> Result<Vec<Row>> {
    (0..input.int_in_range(0..=most)?).map(|_| row(input)).collect()
}

fn history(input: &mut Unstructured) -> Result<History> {
    let mut before = Vec::new();
    for row in rows(input, 3)? {
        before.push((row, if input.arbitrary()? { Some(rows(input, 2)?) } else { None }));
    }
    Ok(History::of(before, rows(input, 1)?))
}
