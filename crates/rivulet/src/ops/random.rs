//! Random numbers.

use super::pointwise::{Call, cast_scalar, run};
use super::view::View;
use super::{Op, Scalar, no_kernel, refuse};
use crate::Device;
use crate::error::Result;
use rivulet_kernels::Native;

/// Fills `out` with random numbers. Element `k`, counted row-major, is made from word `k % 4` of block `k / 4` of Philox
/// 4x32-10 (J. K. Salmon et al., Parallel random numbers: as easy as 1, 2, 3; SC 2011) under the key `seed` (low word
/// first), so that it depends on the seed and its place alone, not on strides or the device.
///
/// | op | `values` | numbers |
/// | --- | --- | --- |
/// | [`Op::Uniform`] | low, high | low + (high - low) u, u in `[0, 1)` with as many bits as the type holds |
/// | [`Op::Normal`] | mean, standard deviation | by the method of G. E. P. Box and M. E. Muller (1958) |
/// | [`Op::Bernoulli`] | probability | 1 with that probability, else 0; any type |
/// | [`Op::Exponential`] | rate | -ln(u) / rate, u in `(0, 1)` |
/// | [`Op::Randint`] | low, high | integers from low to high - 1; any type |
///
/// Any thread.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) for another op, another number of values or an empty range;
/// [`Error::NoKernel`](crate::Error::NoKernel) for types that the op has none for, and integers that begin outside 32
/// bits or have more than 2³² values; what [`Device::record`] says.
pub fn random(device: &Device, op: Op, out: &View<'_>, values: &[Scalar], seed: u64) -> Result<()> {
    let name = op.label();
    let wanted = match op {
        Op::Uniform | Op::Normal | Op::Randint => 2,
        Op::Bernoulli | Op::Exponential => 1,
        _ => return refuse(name, "not a random op".to_owned()),
    };
    if values.len() != wanted {
        return refuse(name, format!("{} values; it takes {wanted}", values.len()));
    }
    let float = |index: usize| match values.get(index).map(|&value| cast_scalar(value, Native::F32)) {
        Some(Scalar::F32(x)) => x,
        _ => 0.0,
    };
    let whole = |index: usize| match values.get(index).map(|&value| cast_scalar(value, Native::I64)) {
        Some(Scalar::I64(x)) => x,
        _ => 0,
    };
    let extra = match op {
        Op::Uniform => [float(0).to_bits(), (float(1) - float(0)).to_bits()],
        Op::Randint => {
            let (low, high) = (whole(0), whole(1));
            let count = i128::from(high) - i128::from(low);
            if count <= 0 {
                return refuse(name, format!("no integer is from {low} to below {high}"));
            }
            match (i32::try_from(low), count <= 1 << 32) {
                // 0 stands for 2^32.
                (Ok(low), true) => [low.cast_unsigned(), count as u32],
                _ => return no_kernel(name, format!("integers from {low} to below {high}")),
            }
        }
        _ => [float(0).to_bits(), float(1).to_bits()],
    };
    let words = [seed as u32, (seed >> 32) as u32, 0, 0];
    run(device, &Call { words, extra, ..Call::new(op, out.dtype) }, out, &[])
}
