//! Small stable hashing. The standard library's hashers may change between releases; what is
//! computed here places views on the clock and must not move with an upgrade.

/// The finalizer of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
/// generators): every bit of the result depends on every bit of the input.
pub(crate) fn splitmix64(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a over the parts, each closed by a byte that is in no UTF-8 text, so that ("a", "bc") and
/// ("ab", "c") differ.
pub(crate) fn fnv1a(parts: &[&[u8]]) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    parts
        .iter()
        .flat_map(|part| part.iter().copied().chain([0xff]))
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// Scales a uniform 64-bit number to a uniform one in `[0, bound)`; zero for an empty range.
pub(crate) fn scale(random: u64, bound: u64) -> u64 {
    let product = u128::from(random) * u128::from(bound);
    // The upper half of a 128-bit product fits into 64 bits.
    (product >> 64) as u64
}
