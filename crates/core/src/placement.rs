//! Where new versions of rows go: beside the old ones, or with others into pages of their own.
//!
//! A version that finds room on the page of the old one needs no entries in indexes, as long as no
//! indexed value has changed. That is by far the cheapest, but where most rows of a page change, it
//! soon is full; then writing many rows at once is cheaper than looking for room for each. Which of
//! the two it is can be seen only by trying: the last rows tell for those that come next.

/// How many rows are tried in a row.
const TRIED: u32 = 64;
/// How many are written with others before that is tried again.
const WITH_OTHERS: u32 = 15 * TRIED;

/// What was learnt from the rows so far.
#[derive(Debug, Default)]
pub struct Placement {
    tried: u32,
    stayed: u32,
    with_others: u32,
}

impl Placement {
    /// Whether the next row is to be tried beside its old version. Whoever does so says what came of
    /// it, by [`tried`](Self::tried).
    pub const fn is_to_try(&mut self) -> bool {
        if self.with_others == 0 {
            return true;
        }
        self.with_others -= 1;
        false
    }

    /// The new version has stayed on the page of the old one, without a new entry in an index; or not.
    pub fn tried(&mut self, stayed: bool) {
        self.tried += 1;
        self.stayed += u32::from(stayed);
        if self.tried == TRIED {
            let mostly = self.stayed >= TRIED / 2;
            *self = Self { with_others: if mostly { 0 } else { WITH_OTHERS }, ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many rows are tried, if each `room`-th of them stays.
    fn tried(rows: u32, room: Option<u32>) -> u32 {
        let mut placement = Placement::default();
        let mut tried = 0;
        for row in 0..rows {
            if placement.is_to_try() {
                tried += 1;
                placement.tried(room.is_some_and(|every| row.is_multiple_of(every)));
            }
        }
        tried
    }

    #[test]
    fn few_rows_are_all_tried() {
        assert_eq!(tried(TRIED, None), TRIED);
    }

    #[test]
    fn as_long_as_half_of_them_stay_all_are_tried() {
        assert_eq!(tried(100_000, Some(1)), 100_000);
        assert_eq!(tried(100_000, Some(2)), 100_000);
    }

    #[test]
    fn where_there_is_no_room_few_are_tried() {
        assert_eq!(tried(16 * TRIED * 100, None), TRIED * 100);
        assert_eq!(tried(16 * TRIED * 100, Some(3)), TRIED * 100);
    }

    #[test]
    fn room_is_noticed_again() {
        let mut placement = Placement::default();
        let row = |placement: &mut Placement, stays| {
            let tries = placement.is_to_try();
            if tries {
                placement.tried(stays);
            }
            tries
        };
        for _ in 0..10_000 {
            row(&mut placement, false);
        }
        let before = (0..WITH_OTHERS + TRIED).filter(|_| row(&mut placement, true)).count();
        assert!(before >= TRIED as usize);
        assert!((0..10_000).all(|_| row(&mut placement, true)));
    }
}
