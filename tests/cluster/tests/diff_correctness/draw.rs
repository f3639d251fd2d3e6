//! Random choices.

use fastrand::Rng;

/// One of them.
pub fn one<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.usize(..from.len())]
}

/// So many of them, in any order.
pub fn some<'a, T>(rng: &mut Rng, from: &'a [T], count: usize) -> Vec<&'a T> {
    let mut all: Vec<&T> = from.iter().collect();
    rng.shuffle(&mut all);
    all.truncate(count);
    all
}

/// True once in so many times.
pub fn once_in(rng: &mut Rng, times: u32) -> bool {
    rng.u32(..times) == 0
}
