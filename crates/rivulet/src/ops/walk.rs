//! How several operands of one shape are walked together.

use super::view::View;
use crate::ids::Access;
use rivulet_kernels::params::{MAX_RANK, POINTWISE_OPERANDS, StridedParams};
use smallvec::SmallVec;

/// Operands of a walk.
pub(super) const OPERANDS: usize = POINTWISE_OPERANDS;

/// Sizes and strides of all operands, dimensions that can be walked as one joined.
#[derive(Debug, PartialEq)]
pub(super) struct Walk {
    /// Outermost dimension first.
    pub(super) dims: SmallVec<[Dim; MAX_RANK]>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Dim {
    pub(super) size: u64,
    pub(super) strides: [i64; OPERANDS],
}

impl Walk {
    /// `operands`: all of the shape of the first.
    #[inline]
    pub(super) fn new(operands: &[(&View<'_>, Access)]) -> Self {
        let mut strides: [&[i64]; OPERANDS] = [&[]; OPERANDS];
        for (strides, (view, _)) in strides.iter_mut().zip(operands) {
            *strides = &view.strides;
        }
        Self::of(&operands[0].0.shape, |operand, dim| strides[operand].get(dim).copied().unwrap_or(0))
    }

    /// The dimensions of `shape` with the strides that `stride` gives for each operand and dimension.
    #[inline]
    pub(super) fn of(shape: &[u64], stride: impl Fn(usize, usize) -> i64) -> Self {
        let mut dims: SmallVec<[Dim; MAX_RANK]> = SmallVec::new();
        for (index, &size) in shape.iter().enumerate() {
            if size == 1 {
                continue;
            }
            let dim = Dim { size, strides: std::array::from_fn(|operand| stride(operand, index)) };
            match dims.last_mut() {
                Some(outer) if outer.holds(&dim) => {
                    *outer = Dim { size: outer.size * size, strides: dim.strides };
                }
                _ => dims.push(dim),
            }
        }
        Self { dims }
    }

    /// Whether operand `index` is walked one element after the other.
    pub(super) fn is_dense(&self, index: usize) -> bool {
        match self.dims.as_slice() {
            [] => true,
            [dim] => dim.strides[index] == 1,
            dims => {
                let mut expected = 1;
                dims.iter().rev().all(|dim| {
                    let dense = dim.strides[index] == expected;
                    expected *= dim.size as i64;
                    dense
                })
            }
        }
    }

    /// Whether all operands below `count` are walked one element after the other.
    pub(super) fn all_dense(&self, count: usize) -> bool {
        match self.dims.as_slice() {
            [] => true,
            [dim] => dim.strides[..count].iter().all(|&stride| stride == 1),
            _ => false,
        }
    }

    /// The dimensions that separate dispatches take, and those that one dispatch walks, up to `most`.
    pub(super) fn split(&self, most: usize) -> (&[Dim], &[Dim]) {
        self.dims.split_at(self.dims.len().saturating_sub(most))
    }
}

impl Dim {
    /// Whether this dimension goes on where `inner` ends, for every operand.
    fn holds(&self, inner: &Self) -> bool {
        let size = i64::try_from(inner.size).unwrap_or(i64::MAX);
        self.strides.iter().zip(&inner.strides).all(|(outer, inner)| inner.checked_mul(size) == Some(*outer))
    }
}

/// The dimensions that one dispatch walks. What a view reaches was seen to fit into 31 bits.
pub(super) fn describe(params: &mut StridedParams, dims: &[Dim]) {
    params.dense.count = dims.iter().map(|dim| dim.size as u32).product();
    params.dense.rank = dims.len().max(1) as u32;
    params.shape = [1; MAX_RANK];
    for (place, dim) in dims.iter().rev().enumerate() {
        params.shape[place] = dim.size as u32;
        params.strides[place] = dim.strides.map(|stride| stride as i32);
    }
}

/// Offsets of every operand for each place of the outer dimensions; one place where there are none.
pub(super) struct Places<'d> {
    dims: &'d [Dim],
    at: u64,
    count: u64,
}

impl<'d> Places<'d> {
    pub(super) fn new(dims: &'d [Dim]) -> Self {
        Self { dims, at: 0, count: dims.iter().map(|dim| dim.size).product() }
    }
}

impl Iterator for Places<'_> {
    type Item = [i64; OPERANDS];

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.count {
            return None;
        }
        let mut rest = self.at;
        self.at += 1;
        let mut offsets = [0; OPERANDS];
        for dim in self.dims.iter().rev() {
            let index = (rest % dim.size) as i64;
            rest /= dim.size;
            for (offset, stride) in offsets.iter_mut().zip(dim.strides) {
                *offset += index * stride;
            }
        }
        Some(offsets)
    }
}
