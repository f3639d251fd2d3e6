//! In which order views that read each other are refreshed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use petgraph::Direction::{Incoming, Outgoing};
use petgraph::graphmap::DiGraphMap;
use petgraph::visit::Bfs;

/// Sorts views so that each comes after those that it reads, and in the order given where that
/// leaves a choice (Kahn's algorithm with a heap). `reads` holds pairs of a view and one that it
/// reads; it may name others than `ids`, which count as links between those given.
///
/// The server lets no views read each other in a circle, but the pairs may have been read while
/// somebody changed them: then what is in the circle or behind it comes last, in the order given.
pub fn refresh_order(ids: &[u32], reads: &[(u32, u32)]) -> Vec<u32> {
    // Places in the order given, one higher, so that 0 is for views that only link others: these
    // must not hold anybody up.
    let mut places = HashMap::new();
    for (place, id) in (1_usize..).zip(ids) {
        places.entry(*id).or_insert(place);
    }
    let place = |id: u32| places.get(&id).copied().unwrap_or(0);

    let mut graph: DiGraphMap<u32, ()> = DiGraphMap::new();
    for id in ids {
        graph.add_node(*id);
    }
    for &(view, read) in reads.iter().filter(|(view, read)| view != read) {
        graph.add_edge(read, view, ());
    }

    let mut waits_for: HashMap<u32, usize> =
        graph.nodes().map(|id| (id, graph.neighbors_directed(id, Incoming).count())).collect();
    let mut ready: BinaryHeap<Reverse<(usize, u32)>> = waits_for
        .iter()
        .filter(|(_, count)| **count == 0)
        .map(|(id, _)| Reverse((place(*id), *id)))
        .collect();

    let mut order = Vec::with_capacity(ids.len());
    while let Some(Reverse((position, id))) = ready.pop() {
        // Who has had its turn is struck from the list; who never has is in or behind a circle.
        waits_for.remove(&id);
        if position > 0 {
            order.push(id);
        }
        for reader in graph.neighbors_directed(id, Outgoing) {
            if let Some(count) = waits_for.get_mut(&reader) {
                *count -= 1;
                if *count == 0 {
                    ready.push(Reverse((place(reader), reader)));
                }
            }
        }
    }

    let mut rest: Vec<u32> = waits_for.into_keys().filter(|id| places.contains_key(id)).collect();
    rest.sort_unstable_by_key(|id| place(*id));
    order.extend(rest);
    order
}

/// The views that read `view`, directly or through each other, in no particular order.
pub fn readers(view: u32, reads: &[(u32, u32)]) -> Vec<u32> {
    let mut graph: DiGraphMap<u32, ()> = DiGraphMap::new();
    graph.add_node(view);
    for &(reader, read) in reads {
        graph.add_edge(read, reader, ());
    }
    let mut found = Vec::new();
    let mut walk = Bfs::new(&graph, view);
    while let Some(reader) = walk.next(&graph) {
        found.push(reader);
    }
    found.retain(|reader| *reader != view);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn independent_views_keep_their_order() {
        assert_eq!(refresh_order(&[3, 1, 2], &[]), [3, 1, 2]);
    }

    #[test]
    fn a_view_comes_after_what_it_reads_and_no_later_than_needed() {
        assert_eq!(refresh_order(&[1, 2, 3], &[(1, 3)]), [2, 3, 1]);
        assert_eq!(refresh_order(&[1, 2, 3], &[(1, 2), (2, 3)]), [3, 2, 1]);
    }

    #[test]
    fn the_bottom_of_a_diamond_comes_once_and_last() {
        let reads = [(40, 20), (40, 30), (20, 10), (30, 10)];
        assert_eq!(refresh_order(&[40, 30, 20, 10], &reads), [10, 30, 20, 40]);
    }

    #[test]
    fn a_view_between_that_is_not_asked_for_still_links_the_others() {
        assert_eq!(refresh_order(&[1, 3], &[(1, 2), (2, 3)]), [3, 1]);
    }

    #[test]
    fn a_circle_and_what_is_behind_it_come_last() {
        let reads = [(1, 2), (2, 1), (3, 1), (5, 5)];
        assert_eq!(refresh_order(&[3, 2, 1, 4, 5], &reads), [4, 5, 3, 2, 1]);
    }

    #[test]
    fn readers_are_found_through_others() {
        let mut found = readers(10, &[(40, 20), (40, 30), (20, 10), (30, 10), (5, 6)]);
        found.sort_unstable();
        assert_eq!(found, [20, 30, 40]);
        assert!(readers(40, &[(40, 20)]).is_empty());
    }

    #[test]
    fn a_view_given_twice_comes_once() {
        assert_eq!(refresh_order(&[1, 2, 1], &[(1, 2), (1, 2)]), [2, 1]);
    }
}
