//! Places for memory of known lifetimes in one allocation.

use std::ops::RangeInclusive;

/// Memory that is needed during some levels.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Need {
    pub(super) bytes: u64,
    /// First and last level that touch it.
    pub(super) levels: RangeInclusive<u32>,
}

impl Need {
    fn overlaps(&self, other: &Self) -> bool {
        self.levels.start() <= other.levels.end() && other.levels.start() <= self.levels.end()
    }
}

/// First bytes of each need, and bytes of them all. Largest first, each into the smallest gap that holds it among those
/// needed at the same time (Pisarchyk and Lee, Efficient memory management for deep neural net inference, 2020). Sizes
/// keep the alignment: places are sums of them.
pub(super) fn pack(needs: &[Need]) -> (Vec<u64>, u64) {
    let mut order: Vec<usize> = (0..needs.len()).collect();
    order.sort_by_key(|&need| (std::cmp::Reverse(needs[need].bytes), *needs[need].levels.start()));
    let mut places = vec![0; needs.len()];
    let mut total = 0;
    // Placed ones, by place.
    let mut placed: Vec<usize> = Vec::with_capacity(needs.len());
    for need in order {
        let wanted = needs[need].bytes;
        let (mut end, mut best) = (0, None);
        for &other in placed.iter().filter(|&&other| needs[other].overlaps(&needs[need])) {
            let start: u64 = places[other];
            if start >= end + wanted && best.is_none_or(|(gap, _)| start - end < gap) {
                best = Some((start - end, end));
            }
            end = end.max(start + needs[other].bytes);
        }
        let place = best.map_or(end, |(_, place)| place);
        places[need] = place;
        total = total.max(place + wanted);
        let at = placed.partition_point(|&other| places[other] <= place);
        placed.insert(at, need);
    }
    (places, total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(bytes: u64, levels: RangeInclusive<u32>) -> Need {
        Need { bytes, levels }
    }

    #[test]
    fn needs_of_one_time_never_overlap_and_those_of_different_times_share() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..200 {
            let needs: Vec<Need> = (0..40)
                .map(|_| {
                    let first = random.u32(0..30);
                    need(256 * random.u64(1..20), first..=first + random.u32(0..5))
                })
                .collect();
            let (places, total) = pack(&needs);
            for (a, own) in needs.iter().enumerate() {
                assert!(places[a].is_multiple_of(256) && places[a] + own.bytes <= total);
                for (b, other) in needs.iter().enumerate().skip(a + 1) {
                    let apart = places[a] + own.bytes <= places[b] || places[b] + other.bytes <= places[a];
                    assert!(
                        apart || !own.overlaps(other),
                        "{own:?} at {}, {other:?} at {}",
                        places[a],
                        places[b]
                    );
                }
            }
            let peak = (0..35)
                .map(|level| {
                    needs.iter().filter(|need| need.levels.contains(&level)).map(|n| n.bytes).sum::<u64>()
                })
                .max();
            assert!(total >= peak.unwrap() && total * 10 <= peak.unwrap() * 13, "{total} for {peak:?}");
        }
    }

    #[test]
    fn a_chain_needs_two_at_a_time() {
        let needs: Vec<Need> = (0..10).map(|level| need(1024, level..=level + 1)).collect();
        assert_eq!(pack(&needs).1, 2048);
    }

    #[test]
    fn the_smallest_gap_that_fits_is_taken() {
        // Two gaps are left beside what lives throughout: of 1024 and of 512 bytes.
        let needs = [need(4096, 0..=9), need(2048, 0..=0), need(1024, 1..=9), need(512, 1..=9)];
        let (places, total) = pack(&needs);
        assert_eq!((places, total), (vec![0, 4096, 4096, 5120], 6144));
    }
}
