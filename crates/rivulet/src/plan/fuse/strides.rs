//! Strides of tensors whose dimensions were put together or taken apart.

use rivulet_kernels::params::StridedParams;

/// The dimensions of a strided command, innermost first: size, and strides of the output and the first inputs.
pub(super) fn dims_of(params: &StridedParams) -> impl Iterator<Item = (u32, [i32; 4])> + Clone + '_ {
    let rank = params.dense.rank as usize;
    params.shape.iter().zip(&params.strides).take(rank).map(|(&size, &strides)| (size, strides))
}

/// The strides of rows one after the other; 0 where there is one of something.
pub(super) fn dense_steps(sizes: [u32; 4]) -> [i32; 4] {
    let mut next = 1_u32;
    sizes.map(|size| {
        let step = if size == 1 { 0 } else { next.cast_signed() };
        next = next.wrapping_mul(size);
        step
    })
}

/// The strides along dimensions of the given sizes, innermost first, of what is given by size and stride of dimensions that
/// were put together or taken apart; 0 where a size is 1. `None` where they do not meet.
pub(super) fn steps_along(dims: impl Iterator<Item = (u32, i32)>, sizes: [u32; 4]) -> Option<[i32; 4]> {
    let mut dims = dims.filter(|&(size, _)| size != 1);
    let mut left = (1_u32, 0_i32);
    let mut steps = [0; 4];
    for (step, size) in steps.iter_mut().zip(sizes).filter(|(_, size)| *size != 1) {
        if left.0 == 1 {
            left = dims.next()?;
        }
        *step = left.1;
        let mut covered = 1_u32;
        // Several dimensions that follow one another as one.
        while !left.0.is_multiple_of(size / covered) {
            if !(size / covered).is_multiple_of(left.0) {
                return None;
            }
            covered *= left.0;
            left = dims.next()?;
            if left.1 != step.wrapping_mul(covered.cast_signed()) {
                return None;
            }
        }
        let rest = size / covered;
        left = (left.0 / rest, left.1.wrapping_mul(rest.cast_signed()));
    }
    (left.0 == 1 && dims.next().is_none()).then_some(steps)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn dimensions_are_taken_apart_and_put_together() {
        let steps = |dims: &[(u32, i32)], sizes| steps_along(dims.iter().copied(), sizes);
        assert_eq!(steps(&[(4, 1), (30, 0)], [4, 5, 3, 2]), Some([1, 0, 0, 0]), "a row for all");
        assert_eq!(steps(&[(20, 1), (6, 0)], [4, 5, 3, 2]), Some([1, 4, 0, 0]), "a matrix for all");
        assert_eq!(steps(&[(4, 1), (15, 0), (2, 4)], [4, 5, 3, 2]), Some([1, 0, 0, 4]), "a row a batch");
        assert_eq!(steps(&[(120, 1)], [4, 5, 3, 2]), Some([1, 4, 20, 60]), "dense");
        assert_eq!(steps(&[(2, 1), (2, 2), (30, 7)], [4, 5, 3, 2]), Some([1, 7, 35, 105]), "finer");
        assert_eq!(steps(&[(4, 1)], [4, 1, 1, 1]), Some([1, 0, 0, 0]));
        assert_eq!(steps(&[(2, 1), (2, 3), (30, 7)], [4, 5, 3, 2]), None, "a gap in a row");
        assert_eq!(steps(&[(6, 1), (20, 6)], [4, 5, 3, 2]), None, "another cut");
        assert_eq!(steps(&[(4, 1), (5, 4)], [4, 5, 3, 2]), None, "too few");
        assert_eq!(steps(&[(4, 1), (60, 4)], [4, 5, 3, 2]), None, "too many");
    }
}
