//! Rounding of requested bytes.
//!
//! Small requests go to classes: multiples of 256 bytes up to 2 KiB, from there eight a doubling, so that less than
//! an eighth of a block is waste. Large ones are rounded to a sixteenth of their size, at least 64 KiB and at most
//! 2 MiB.

/// Alignment of every block, and the smallest one.
pub(super) const GRAIN: u64 = 256;
/// Largest request that is small.
pub(super) const SMALL_MAX: u64 = 1 << 20;
/// Smallest step between large blocks.
pub(super) const LARGE_GRAIN: u64 = 64 << 10;
const LARGE_STEP_MAX: u64 = 2 << 20;
/// Steps a doubling, as a power of two.
const STEPS_LOG2: u32 = 3;
/// Classes with sizes that are multiples of [`GRAIN`].
const LINEAR: usize = 1 << STEPS_LOG2;
/// Number of small classes.
pub(super) const CLASSES: usize = LINEAR + 9 * LINEAR;

/// Where a request goes, and the size of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SizeClass {
    Small { class: usize, size: u64 },
    Large { size: u64 },
}

impl SizeClass {
    /// `None` where the rounded size does not fit into 64 bits. `bytes` is above 0.
    #[inline]
    pub(super) fn of(bytes: u64) -> Option<Self> {
        if bytes > SMALL_MAX {
            let step = (1 << (bytes.ilog2() - 4)).clamp(LARGE_GRAIN, LARGE_STEP_MAX);
            return Some(Self::Large { size: bytes.checked_next_multiple_of(step)? });
        }
        let class = class_of(bytes);
        Some(Self::Small { class, size: class_size(class) })
    }
}

/// Class of a small request.
#[inline]
pub(super) fn class_of(bytes: u64) -> usize {
    let grains = bytes.saturating_sub(1) / GRAIN;
    if grains < LINEAR as u64 {
        return grains as usize;
    }
    let doubling = grains.ilog2() - STEPS_LOG2;
    // The top bit of `grains >> doubling` is LINEAR itself, which counts one doubling.
    (doubling as usize) * LINEAR + (grains >> doubling) as usize
}

/// Size of the blocks of a small class.
#[inline]
pub(super) fn class_size(class: usize) -> u64 {
    if class < LINEAR {
        return (class as u64 + 1) * GRAIN;
    }
    let doubling = class / LINEAR - 1;
    ((class % LINEAR + LINEAR + 1) as u64 * GRAIN) << doubling
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_rise_and_cover_every_small_size() {
        assert_eq!((class_size(0), class_size(CLASSES - 1)), (GRAIN, SMALL_MAX));
        for class in 1..CLASSES {
            assert!(class_size(class) > class_size(class - 1), "class {class}");
            assert_eq!(class_of(class_size(class)), class);
            assert_eq!(class_of(class_size(class - 1) + 1), class);
        }
    }

    #[test]
    fn waste_is_below_an_eighth() {
        for bytes in (2048..SMALL_MAX).step_by(37).chain((SMALL_MAX..SMALL_MAX * 64).step_by(10_007)) {
            let (SizeClass::Small { size, .. } | SizeClass::Large { size }) = SizeClass::of(bytes).unwrap();
            assert!(size >= bytes && size % GRAIN == 0 && (size - bytes) * 8 <= bytes, "{bytes} got {size}");
        }
    }

    #[test]
    fn sizes_near_the_end_of_64_bits_are_refused() {
        assert_eq!(SizeClass::of(u64::MAX), None);
        assert!(SizeClass::of(1 << 63).is_some());
    }
}
