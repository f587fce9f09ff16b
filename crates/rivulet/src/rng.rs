//! Random numbers: Philox4x32-10, a generator whose whole state is a key and a counter.
//!
//! [`Generator`] is the state behind a device's random ops. Each op reserves a range of the counter in one step,
//! so ops of several threads never use the same part of the sequence, whatever order they run in.
//!
//! ```
//! use rivulet::rng::Generator;
//!
//! let generator = Generator::new(7);
//! let first = generator.draw();
//! let state = generator.state();
//! let second = generator.draw();
//! assert_ne!(first, second);
//! generator.set_state(state);
//! assert_eq!(generator.draw(), second);
//! ```

use rivulet_hal::sync::{Mutex, Rank};

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// One block of Philox4x32-10: four random words for a counter and a key (Salmon et al., "Parallel random
/// numbers: as easy as 1, 2, 3", 2011).
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..ROUNDS {
        let (high0, low0) = multiply(MULTIPLIERS[0], c0);
        let (high1, low1) = multiply(MULTIPLIERS[1], c2);
        (c0, c1, c2, c3) = (high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0);
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3]
}

#[allow(clippy::cast_possible_truncation, reason = "the two halves of a 64-bit product")]
const fn multiply(a: u32, b: u32) -> (u32, u32) {
    let product = a as u64 * b as u64;
    ((product >> 32) as u32, product as u32)
}

#[allow(clippy::cast_possible_truncation, reason = "the two halves of a 64-bit word")]
const fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

/// State of a [`Generator`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The key; what the user seeds with.
    pub seed: u64,
    /// Blocks of the counter that were used.
    pub offset: u64,
}

/// A random stream that any number of threads may draw from.
#[derive(Debug)]
pub struct Generator {
    // A lock, not two atomics: a draw beside `set_state` must see either the old pair or the new one, or it
    // could hand out a part of the sequence that a later draw gets again.
    state: Mutex<State>,
}

impl Generator {
    /// A generator at the start of the sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: Mutex::new(Rank::REGISTRY, State { seed, offset: 0 }) }
    }

    /// Goes to the start of the sequence of `seed`.
    pub fn seed(&self, seed: u64) {
        *self.state.lock() = State { seed, offset: 0 };
    }

    /// The state now.
    pub fn state(&self) -> State {
        *self.state.lock()
    }

    /// Goes to a state that [`Generator::state`] gave.
    pub fn set_state(&self, state: State) {
        *self.state.lock() = state;
    }

    /// Reserves `blocks` of the counter; the state before. Block `i` of the answer is
    /// `philox4x32(offset + i, seed)`, and no other reservation under this seed covers it (the counter wraps
    /// after 2^64 blocks).
    pub fn reserve(&self, blocks: u64) -> State {
        let mut state = self.state.lock();
        let before = *state;
        state.offset = before.offset.wrapping_add(blocks);
        before
    }

    /// Reserves one block and makes a 64-bit seed of it. Two draws under one seed differ, always: the value is a
    /// permutation of the offset.
    pub fn draw(&self) -> u64 {
        permute(self.reserve(1))
    }
}

/// A Feistel network with Philox as its round function: one-to-one in the offset, which four words cut down to
/// 64 bits would not be.
fn permute(state: State) -> u64 {
    const FEISTEL_ROUNDS: u32 = 4;
    let key = halves(state.seed);
    let [mut right, mut left] = halves(state.offset);
    for round in 0..FEISTEL_ROUNDS {
        let mask = philox4x32([right, round, 0, 0], key)[0];
        (left, right) = (right, left ^ mask);
    }
    u64::from(left) << 32 | u64::from(right)
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// From `kat_vectors` of the Random123 distribution.
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn concurrent_draws_never_repeat() {
        let generator = Generator::new(3);
        let draws: Vec<u64> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..2000).map(|_| generator.draw()).collect::<Vec<_>>()))
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        assert_eq!(draws.iter().collect::<HashSet<_>>().len(), 16_000);
        // The same values come out of one thread, in another order.
        generator.seed(3);
        let alone: HashSet<u64> = (0..16_000).map(|_| generator.draw()).collect();
        assert_eq!(draws.into_iter().collect::<HashSet<_>>(), alone);
    }

    #[test]
    fn bits_are_balanced() {
        let generator = Generator::new(0);
        let mut ones = [0_u32; 64];
        for _ in 0..4096 {
            let draw = generator.draw();
            for (bit, count) in ones.iter_mut().enumerate() {
                *count += u32::from(draw >> bit & 1 == 1);
            }
        }
        // Standard deviation is 32; six of them.
        assert!(ones.iter().all(|count| count.abs_diff(2048) < 192), "{ones:?}");
    }

    #[test]
    fn state_round_trips_and_reservations_do_not_overlap() {
        let generator = Generator::new(9);
        assert_eq!(generator.reserve(5), State { seed: 9, offset: 0 });
        assert_eq!(generator.reserve(2), State { seed: 9, offset: 5 });
        let state = generator.state();
        let draws = [generator.draw(), generator.draw()];
        generator.set_state(state);
        assert_eq!([generator.draw(), generator.draw()], draws);
    }
}
