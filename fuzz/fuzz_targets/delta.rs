//! Descriptions of queries, whatever they say: each column is refused for a reason that holds, or changed rows of
//! each table are mapped to it by what is known and there.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use cache_refresher_core::delta::{
    Column, Condition, From, JoinKind, Map, Mapping, Occurrence, Partition, Query, Term,
    Unmappable, map,
};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let input = &mut Unstructured::new(data);
    if let Ok((query, unit)) = described(input) {
        match map(&query, &unit) {
            Ok(map) => is_sound(&query, &unit, &map),
            Err(reason) => holds(&query, &unit, reason),
        }
    }
});

const PARTITIONS: [Partition; 3] = [Partition::Group, Partition::DistinctOn, Partition::Window];

fn described(input: &mut Unstructured) -> Result<(Query, Term)> {
    let tables = (0..input.int_in_range(1..=7)?).collect::<Vec<_>>();
    let mut number = 0;
    let from = from(input, &tables, &mut number)?;
    let filter = conditions(input, &tables, &mut number)?;
    let unit = term(input, &tables)?;
    let mut partitions = Vec::new();
    for _ in 0..input.int_in_range(0..=2)? {
        let mut terms = BTreeSet::from([term(input, &tables)?]);
        if input.ratio(3, 4)? {
            terms.insert(unit.clone());
        }
        partitions.push((*input.choose(&PARTITIONS)?, terms));
    }
    let decides_matches = if input.ratio(1, 4)? { Some(*input.choose(&tables)?) } else { None };
    Ok((Query { from, filter, partitions, approximate: input.arbitrary()?, decides_matches }, unit))
}

fn column(input: &mut Unstructured, tables: &[Occurrence]) -> Result<Column> {
    Ok(Column { of: *input.choose(tables)?, number: input.int_in_range(1..=3)? })
}

fn term(input: &mut Unstructured, tables: &[Occurrence]) -> Result<Term> {
    if input.ratio(3, 4)? {
        return Ok(Term::Column(column(input, tables)?));
    }
    let reads =
        (0..input.int_in_range(0..=3)?).map(|_| column(input, tables)).collect::<Result<_>>()?;
    Ok(Term::Expression { reads, number: input.int_in_range(0..=1)? })
}

fn from(input: &mut Unstructured, tables: &[Occurrence], number: &mut usize) -> Result<From> {
    if let [one] = tables {
        return Ok(From::Table(*one));
    }
    let (one, other) = tables.split_at(input.int_in_range(0..=tables.len())?);
    if one.is_empty() || other.is_empty() {
        return Ok(From::Product(tables.iter().map(|table| From::Table(*table)).collect()));
    }
    let (left, right) = (from(input, one, number)?, from(input, other, number)?);
    let kind = *input.choose(&[
        JoinKind::Inner,
        JoinKind::Inner,
        JoinKind::Left,
        JoinKind::Left,
        JoinKind::Full,
    ])?;
    let kind = if kind == JoinKind::Full && input.ratio(3, 4)? { JoinKind::Left } else { kind };
    let on = conditions(input, tables, number)?;
    Ok(From::Join { kind, left: Box::new(left), right: Box::new(right), on })
}

fn conditions(
    input: &mut Unstructured,
    tables: &[Occurrence],
    number: &mut usize,
) -> Result<Vec<Condition>> {
    (0..input.int_in_range(0..=2)?).map(|_| condition(input, tables, number)).collect()
}

fn condition(
    input: &mut Unstructured,
    tables: &[Occurrence],
    number: &mut usize,
) -> Result<Condition> {
    let (one, other) = (column(input, tables)?, column(input, tables)?);
    let reads = BTreeSet::from([one.of, other.of]);
    let mut condition =
        Condition { number: *number, reads, unknown: input.ratio(1, 5)?, ..Condition::default() };
    *number += 1;
    match input.int_in_range(0..=3)? {
        0 => {}
        1 => condition.rejects_nulls_of = BTreeSet::from([one.of]),
        2 => condition.rejects_nulls_of = condition.reads.clone(),
        _ => {
            condition.rejects_nulls_of = condition.reads.clone();
            condition.equal = vec![(one, other)];
        }
    }
    Ok(condition)
}

fn joins<'a>(from: &'a From, all: &mut Vec<(JoinKind, &'a [Condition])>) {
    match from {
        From::Table(_) => {}
        From::Product(parts) => parts.iter().for_each(|part| joins(part, all)),
        From::Join { kind, left, right, on } => {
            joins(left, all);
            joins(right, all);
            all.push((*kind, on));
        }
    }
}

fn is_divided(query: &Query, unit: &Term, kind: Partition) -> bool {
    query.partitions.iter().any(|(partition, terms)| *partition == kind && !terms.contains(unit))
}

fn holds(query: &Query, unit: &Term, reason: Unmappable) {
    let mut all = Vec::new();
    joins(&query.from, &mut all);
    let has = |kind| all.iter().any(|(join, _)| *join == kind);
    match reason {
        Unmappable::FullJoin => assert!(has(JoinKind::Full)),
        Unmappable::NullableUnit => {
            assert!(matches!(unit, Term::Expression { .. }) && has(JoinKind::Left))
        }
        Unmappable::LooseCondition => assert!(has(JoinKind::Left)),
        Unmappable::ComputedCondition => {
            assert!(all.iter().any(|(_, on)| !on.is_empty() && on.iter().all(|part| part.unknown)));
        }
        Unmappable::Divided(kind) => assert!(is_divided(query, unit, kind)),
    }
}

fn is_sound(query: &Query, unit: &Term, map: &Map) {
    let mut all = Vec::new();
    joins(&query.from, &mut all);
    assert!(all.iter().all(|(kind, _)| *kind != JoinKind::Full));
    assert!(!PARTITIONS.iter().any(|kind| is_divided(query, unit, *kind)));

    let conditions: BTreeMap<usize, &Condition> = query
        .filter
        .iter()
        .chain(all.iter().flat_map(|(_, on)| *on))
        .map(|condition| (condition.number, condition))
        .collect();
    let tables = query.from.tables();
    let mapped: Vec<Occurrence> = map.mappings.iter().map(|(occurrence, _)| *occurrence).collect();
    assert!(mapped.iter().eq(&tables), "each table has one mapping");
    for (occurrence, mapping) in &map.mappings {
        match (mapping, unit) {
            (Mapping::Direct { column, with_null }, Term::Column(unit)) => {
                let read_off = Column { of: *occurrence, number: *column };
                let equates = |condition: &&Condition| {
                    condition.equal.contains(&(*unit, read_off))
                        || condition.equal.contains(&(read_off, *unit))
                };
                assert_eq!(*with_null, unit.of == *occurrence);
                assert!(read_off == *unit || conditions.values().any(equates));
            }
            (Mapping::Direct { .. }, Term::Expression { .. }) => {
                panic!("an expression is no column")
            }
            (Mapping::Join { tables: way, conditions: kept }, _) => {
                assert!(way.is_subset(&tables) && way.contains(occurrence));
                assert!(unit.reads().iter().all(|column| way.contains(&column.of)));
                for number in kept {
                    let condition = conditions[number];
                    assert!(!condition.unknown && condition.reads.is_subset(way));
                }
            }
        }
    }
    if let Some((places, exact)) = &map.exact {
        assert!(places.is_subset(&tables) && !query.approximate && query.decides_matches.is_none());
        assert!(conditions.values().all(|condition| !condition.unknown));
        let conditions = conditions.keys().copied().collect();
        assert_eq!(*exact, Mapping::Join { tables: tables.clone(), conditions });
    }
    for changed in
        [BTreeSet::new(), tables.clone()].into_iter().chain(mapped.iter().map(|one| [*one].into()))
    {
        let (steps, with_null) = map.steps(&changed);
        assert!(steps.iter().map(|(occurrence, _)| occurrence).eq(&changed));
        assert!(!with_null || !changed.is_empty());
    }
}
