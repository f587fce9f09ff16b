use super::launch::{Operands, launch_once, word};
use super::view::View;
use super::{DType, refuse};
use crate::Device;
use crate::error::Result;
use crate::ids::Access::{Read, Write};
use rivulet_kernels::params::SearchParams;
use rivulet_kernels::{Kernel, Search};

/// Where values belong in sorted rows: out (int64 or int32) has the shape of `values`, `rows` is one row for all or has
/// the dimensions of `values` but for the last. With `right` the place is behind equal elements, else before them; a
/// NaN belongs behind everything. `order`, int64 and of the rows' shape, sorts rows that are not. All are dense.
///
/// Any thread.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where shapes or types do not fit or something is not dense;
/// [`Error::NoKernel`](crate::Error::NoKernel) where the device has no such kernel; what [`Device::record`] says.
pub fn search(
    device: &Device,
    out: &View<'_>,
    rows: &View<'_>,
    values: &View<'_>,
    order: Option<&View<'_>>,
    right: bool,
) -> Result<()> {
    let op = "search";
    out.check_dense(op, "the output")?;
    rows.check_dense(op, "the rows")?;
    values.check_dense(op, "the values")?;
    out.check_shape(op, "the output", &values.shape)?;
    values.check_dtype(op, "the values", rows.dtype)?;
    if !matches!(out.dtype, DType::I64 | DType::I32) {
        return refuse(op, format!("the output is {}; it must be i64 or i32", out.dtype.name()));
    }
    let Some((&size, outer)) = rows.shape.split_last() else {
        return refuse(op, "the rows have no dimension; they must have at least one".to_owned());
    };
    let each = match values.shape.split_last() {
        _ if outer.is_empty() => 0,
        Some((&last, others)) if others == outer => last,
        _ => {
            return refuse(
                op,
                format!("values of shape {:?} for rows of shape {:?}", values.shape, rows.shape),
            );
        }
    };
    if let Some(order) = order {
        order.check_dense(op, "the order")?;
        order.check_shape(op, "the order", &rows.shape)?;
        order.check_dtype(op, "the order", DType::I64)?;
    }
    if out.count() == 0 {
        return Ok(());
    }
    // Without elements there may be no memory either.
    let beside = rows.with_block_of(values);
    let rows = if rows.count() == 0 { &beside } else { rows };
    let empty_order = order.filter(|_| size == 0).map(|order| order.with_block_of(values));
    let order = empty_order.as_ref().or(order);
    let key = Search { dtype: rows.dtype, output: out.dtype, right, order: order.is_some() };
    let params = SearchParams {
        offsets: [out.first(), rows.first(), values.first(), order.map_or(0, View::first)],
        count: word(out.count()),
        size: word(size),
        values: word(each),
        ..SearchParams::default()
    };
    let mut bound = Operands::new();
    bound.extend([(out, Write), (rows, Read), (values, Read)]);
    bound.extend(order.map(|order| (order, Read)));
    let groups = key.groups(params.count);
    launch_once(device, op, &Kernel::Search(key), &bound, bytemuck::bytes_of(&params), groups)
}
