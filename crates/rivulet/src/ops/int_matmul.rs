use super::copy::fill;
use super::launch::{launch_once, word};
use super::view::View;
use super::{DType, Scalar, no_kernel, refuse};
use crate::Device;
use crate::error::Result;
use crate::ids::Access::{Read, Write};
use rivulet_kernels::params::IntMatmulParams;
use rivulet_kernels::{IntMatmul, Kernel};

/// The product of matrices of integers, wrapped to their type: out is dense `[batch, m, n]`, a `[batch, m, k]` and b
/// `[batch, k, n]` with any strides that are not negative; all of one type, not bool.
///
/// Any thread.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where shapes or types do not fit or the output is not dense;
/// [`Error::NoKernel`](crate::Error::NoKernel) where the device has no such kernel; what [`Device::record`] says.
pub fn int_matmul(device: &Device, out: &View<'_>, a: &View<'_>, b: &View<'_>) -> Result<()> {
    let op = "int_matmul";
    out.check_dense(op, "the output")?;
    a.check(op, "a")?;
    b.check(op, "b")?;
    let (&[batch, m, k], &[_, _, n]) = (a.shape.as_slice(), b.shape.as_slice()) else {
        return refuse(
            op,
            format!("a has shape {:?}, b {:?}; each must have 3 dimensions", a.shape, b.shape),
        );
    };
    b.check_shape(op, "b", &[batch, k, n])?;
    out.check_shape(op, "the output", &[batch, m, n])?;
    a.check_dtype(op, "a", out.dtype)?;
    b.check_dtype(op, "b", out.dtype)?;
    if out.dtype.is_float() || out.dtype == DType::Bool {
        return refuse(op, format!("not defined for {}", out.dtype.name()));
    }
    if out.count() == 0 {
        return Ok(());
    }
    if k == 0 {
        return fill(device, out, Scalar::I32(0));
    }
    if a.strides.iter().chain(&b.strides).any(|&stride| stride < 0) {
        return no_kernel(op, "a negative stride".to_owned());
    }
    let stride = |view: &View<'_>, dim: usize| word(view.strides[dim].unsigned_abs());
    let params = IntMatmulParams {
        offsets: [out.first(), a.first(), b.first(), 0],
        batch_strides: [word(m * n), stride(a, 0), stride(b, 0), 0],
        strides: [stride(a, 1), stride(a, 2), stride(b, 1), stride(b, 2)],
        m: word(m),
        n: word(n),
        k: word(k),
        batch: word(batch),
    };
    let key = IntMatmul { dtype: out.dtype };
    let Some(groups) = key.groups(&params) else {
        return no_kernel(op, format!("{batch} products of {m} by {n}"));
    };
    let operands = [(out, Write), (a, Read), (b, Read)];
    launch_once(device, op, &Kernel::IntMatmul(key), &operands, bytemuck::bytes_of(&params), groups)
}
