use super::launch::{launch_once, word};
use super::temporary::Temporary;
use super::view::View;
use super::{DType, refuse};
use crate::Device;
use crate::error::Result;
use crate::ids::Access::{Read, Write};
use rivulet_kernels::params::SortParams;
use rivulet_kernels::{Kernel, Sort, SortStep};

/// Sorts x along dimension `dim`, or takes the first of the sorted elements (topk): values and indices have x's shape
/// but for `dim`, where they may be shorter. Values are of x's type, indices int64; everything is dense. Stable; NaN
/// counts as the largest, zeros are equal whatever their signs.
///
/// Any thread. Rows of more than 1024 elements need 16 bytes of scratch memory an element (24 for int64).
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where shapes or types do not fit, something is not dense, or the
/// device has no such kernel; what [`Device::record`] and [`Device::allocate`] say.
pub fn sort(
    device: &Device,
    values: &View<'_>,
    indices: &View<'_>,
    x: &View<'_>,
    dim: usize,
    descending: bool,
) -> Result<()> {
    let op = "sort";
    let Some(&size) = x.shape.get(dim) else {
        return refuse(op, format!("dimension {dim} of {}", x.shape.len()));
    };
    x.check_dense(op, "x")?;
    values.check_dense(op, "the values")?;
    values.check_dtype(op, "the values", x.dtype)?;
    indices.check_dense(op, "the indices")?;
    indices.check_dtype(op, "the indices", DType::I64)?;
    indices.check_shape(op, "the indices", &values.shape)?;
    let keep = values.shape.get(dim).copied().unwrap_or_default();
    let mut fits = x.shape.clone();
    fits[dim] = keep.min(size);
    values.check_shape(op, "the values", &fits)?;
    if values.count() == 0 {
        return Ok(());
    }
    let inner: u64 = x.shape[dim + 1..].iter().product();
    let (rows, size, keep) = (word(x.count() / size), word(size), word(keep));
    let (width, runs) = Sort::runs(size);
    let mut params = SortParams {
        offsets: [values.first(), indices.first(), x.first(), 0],
        rows,
        size,
        inner: word(inner),
        keep,
        width,
        runs,
        ..SortParams::default()
    };
    let step = |step| {
        let key = Sort::new(step, x.dtype, descending);
        (Kernel::Sort(key), key.groups(rows, size, keep))
    };
    if runs == 1 {
        let (kernel, groups) = step(SortStep::Rows);
        let bound = [(values, Write), (indices, Write), (x, Read)];
        return launch_once(device, op, &kernel, &bound, bytemuck::bytes_of(&params), groups);
    }
    let key = Sort::key(x.dtype);
    let shape = [u64::from(rows), u64::from(size)];
    let scratch = |dtype| Temporary::new(device, dtype, x.count());
    let keys = [scratch(key)?, scratch(key)?];
    let places = [scratch(DType::I32)?, scratch(DType::I32)?];
    let keys = [keys[0].view(key, &shape), keys[1].view(key, &shape)];
    let places = [places[0].view(DType::I32, &shape), places[1].view(DType::I32, &shape)];
    let (kernel, groups) = step(SortStep::Runs);
    let bound = [(&keys[0], Write), (&places[0], Write), (x, Read)];
    launch_once(device, op, &kernel, &bound, bytemuck::bytes_of(&params), groups)?;
    let mut from = 0;
    let (kernel, groups) = step(SortStep::Merge);
    while params.width < size {
        let to = 1 - from;
        let bound = [(&keys[to], Write), (&places[to], Write), (&keys[from], Read), (&places[from], Read)];
        launch_once(device, op, &kernel, &bound, bytemuck::bytes_of(&params), groups)?;
        from = to;
        params.width *= 2;
    }
    let (kernel, groups) = step(SortStep::Finish);
    let bound = [(values, Write), (indices, Write), (&places[from], Read), (x, Read)];
    launch_once(device, op, &kernel, &bound, bytemuck::bytes_of(&params), groups)
}
