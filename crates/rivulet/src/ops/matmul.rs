//! Matrix products.

use super::launch::{Dispatcher, launch, launch_once, pipeline, processors};
use super::temporary::{Input, Output, Temporary};
use super::view::View;
use super::walk::{Places, Walk};
use super::{DType, Op, no_kernel, refuse};
use crate::Device;
use crate::error::Result;
use crate::ids::Access;
use rivulet_hal::{AdapterClass, HalError};
use rivulet_kernels::params::MatmulParams;
use rivulet_kernels::{Extent, Kernel, MAX_GROUPS, Matmul, MatmulJoin, MatmulSimd, ProductStore, Tile};
use smallvec::SmallVec;

const OP: &str = "matmul";

/// A product of matrices, in the order out, a, b, bias.
struct Product<'v, 'b> {
    out: &'v View<'b>,
    a: &'v View<'b>,
    b: &'v View<'b>,
    bias: Option<&'v View<'b>>,
}

/// `out = activation(alpha a b + beta bias)`. `a` is `[batch…, m, k]`, `b` `[batch…, k, n]`, `out` and the bias
/// `[batch…, m, n]`; the batch dimensions are the same in all, and repeated by strides of 0. Any strides; the factors
/// have one floating-point type. Sums are in float32; with `beta` 0 the bias is not read. `activation` is a unary float
/// op without scalars. The bias may be `out`.
///
/// Any thread.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where shapes do not fit, [`Error::NoKernel`](crate::Error::NoKernel)
/// for types that are not floating-point or differ; what [`Device::record`] says.
#[allow(clippy::too_many_arguments, reason = "the arguments of BLAS's gemm")]
pub fn matmul(
    device: &Device,
    out: &View<'_>,
    a: &View<'_>,
    b: &View<'_>,
    bias: Option<&View<'_>>,
    alpha: f32,
    beta: f32,
    activation: Option<Op>,
) -> Result<()> {
    let bias = bias.filter(|_| beta != 0.0);
    check(out, a, b, bias)?;
    if !a.dtype.is_float() || a.dtype != b.dtype || !out.dtype.is_float() {
        let (a, b, out) = (a.dtype.name(), b.dtype.name(), out.dtype.name());
        return no_kernel(
            OP,
            format!("{a} times {b} into {out}; factors of one floating-point type are allowed"),
        );
    }
    if let Some(op) = activation.filter(|op| op.arity() != 1 || op.is_indexed() || !op.computes(DType::F32)) {
        return no_kernel(OP, format!("{} is not a unary float op", op.label()));
    }
    if out.count() == 0 {
        return Ok(());
    }
    let rank = out.rank();
    let runs_along = |view: &View<'_>, dim: usize| view.shape[dim] == 1 || view.strides[dim] == 1;
    let fit = runs_along(out, rank - 1) || runs_along(out, rank - 2);
    let target = Output::new(device, out, out.dtype, fit)?;
    let bias = match bias {
        Some(bias) => Some(Input::new(device, bias, out.dtype, true)?),
        None => None,
    };
    {
        let (written, bias) = (target.view(), bias.as_ref().map(Input::view));
        let product = Product { out: &written, a, b, bias: bias.as_deref() };
        // Columns of the output have to be neighbours: where its rows are, the transposed product is made, and also
        // where only so the product has few rows, each of which reads the other factor once.
        let (m, n) = (out.shape[rank - 2], out.shape[rank - 1]);
        let (along_rows, along_columns) = (runs_along(&written, rank - 1), runs_along(&written, rank - 2));
        if !along_rows || (along_columns && n <= 16 && m > n) {
            let [out, a, b] = [&written, a, b].map(|view| transposed(view));
            let bias = product.bias.map(transposed);
            dispatch(
                device,
                &Product { out: &out, a: &b, b: &a, bias: bias.as_ref() },
                alpha,
                beta,
                activation,
            )?;
        } else {
            dispatch(device, &product, alpha, beta, activation)?;
        }
    }
    target.finish()
}

fn check(out: &View<'_>, a: &View<'_>, b: &View<'_>, bias: Option<&View<'_>>) -> Result<()> {
    for (view, name) in [(out, "the output"), (a, "the left factor"), (b, "the right factor")] {
        view.check(OP, name)?;
        if view.rank() < 2 || view.rank() != out.rank() {
            let (rank, all) = (view.rank(), out.rank());
            return refuse(
                OP,
                format!(
                    "{name} has {rank} dimensions and the output {all}; both must have the same, at least 2"
                ),
            );
        }
    }
    let batch = out.rank() - 2;
    let (m, n, k) = (out.shape[batch], out.shape[batch + 1], a.shape[batch + 1]);
    let fits = |view: &View<'_>, rows, columns| {
        view.shape[..batch] == out.shape[..batch] && view.shape[batch..] == [rows, columns]
    };
    if !fits(a, m, k) || !fits(b, k, n) {
        return refuse(OP, format!("{:?} times {:?} is not {:?}", a.shape, b.shape, out.shape));
    }
    if let Some(bias) = bias {
        bias.check(OP, "the bias")?;
        if bias.shape != out.shape {
            return refuse(OP, format!("the bias has shape {:?}, the output {:?}", bias.shape, out.shape));
        }
    }
    Ok(())
}

/// With the last two dimensions exchanged.
fn transposed<'b>(view: &View<'b>) -> View<'b> {
    let mut view = view.clone();
    let rank = view.rank();
    view.shape.swap(rank - 2, rank - 1);
    view.strides.swap(rank - 2, rank - 1);
    view
}

/// Strides as kernels add them: modulo 2^32.
fn word(stride: i64) -> u32 {
    stride as u32
}

/// Records the product; columns of the output are neighbours.
fn dispatch(
    device: &Device,
    product: &Product<'_, '_>,
    alpha: f32,
    beta: f32,
    activation: Option<Op>,
) -> Result<()> {
    let Product { out, a, b, bias } = *product;
    let batch = out.rank() - 2;
    let (m, n, k) = (out.shape[batch] as u32, out.shape[batch + 1] as u32, a.shape[batch + 1] as u32);
    // Without terms the factors are not read, and may have no memory.
    let (a, b) = if k == 0 { (&a.with_block_of(out), &b.with_block_of(out)) } else { (a, b) };
    let mut views: SmallVec<[&View<'_>; 4]> = SmallVec::from_slice(&[out, a, b]);
    views.extend(bias);
    let walk =
        Walk::of(&out.shape[..batch], |operand, dim| views.get(operand).map_or(0, |view| view.strides[dim]));
    let (outer, inner) = walk.split(2);
    let stride = |operand: usize, dim: usize| views.get(operand).map_or(0, |view| view.strides[batch + dim]);
    let zero = ([0; 4], 1_u64);
    let (outer_strides, outer_count) = match inner {
        [dim, _] => (dim.strides, dim.size),
        _ => zero,
    };
    let (batch_strides, batch_count) = inner.last().map_or(zero, |dim| (dim.strides, dim.size));
    let batches = u32::try_from(outer_count * batch_count).unwrap_or(u32::MAX);

    let store = {
        let multiple = |of: u32| {
            let fits = |stride: i64| stride % i64::from(of) == 0;
            n.is_multiple_of(of)
                && out.offset.is_multiple_of(u64::from(of))
                && (m == 1 || fits(stride(0, 0)))
                && walk.dims.iter().all(|dim| fits(dim.strides[0]))
        };
        match () {
            () if multiple(4) => ProductStore::Fours,
            () if multiple(2) && !out.dtype.is_wide() => ProductStore::Pairs,
            () => ProductStore::One,
        }
    };
    let a_along_k = stride(1, 1) == 1 || (k == 1 && stride(1, 0) != 1);
    let b_along_k = stride(2, 0) == 1 && stride(2, 1) != 1;
    // A factor as rows of neighbours: how many there are in each, and the stride from one to another.
    let run = |of: u32, operand: usize, near: (usize, u32), far: usize| {
        let fits = |stride: i64| stride % i64::from(of) == 0;
        stride(operand, near.0) == 1
            && near.1.is_multiple_of(of)
            && fits(stride(operand, far))
            && views.get(operand).is_some_and(|view| view.offset.is_multiple_of(u64::from(of)))
            && walk.dims.iter().all(|dim| fits(dim.strides[operand]))
    };
    let runs = |of: u32| {
        (if a_along_k { run(of, 1, (1, k), 0) } else { run(of, 1, (0, m), 1) })
            && if b_along_k { run(of, 2, (0, k), 1) } else { run(of, 2, (1, n), 0) }
    };
    // The kernels that read vectors are written out along k, which takes a CPU's driver seconds to compile.
    let written_out = device.info().class != AdapterClass::Cpu;
    let quads = runs(4);
    let shader = &device.info().shader;
    let extent = Extent {
        m,
        n,
        k,
        batches,
        processors: processors(device),
        quads: quads && written_out,
        along_k: a_along_k && b_along_k,
        cooperative: false,
        parts: outer.is_empty(),
    };
    let key = |(tile, _): (Tile, u32)| {
        let skinny = matches!(tile, Tile::Skinny1 | Tile::Skinny4 | Tile::Skinny8);
        Matmul {
            input: a.dtype,
            output: out.dtype,
            tile,
            a_along_k,
            b_along_k,
            bias: bias.is_some(),
            activation,
            store: if skinny { ProductStore::One } else { store },
            quads: skinny && quads && extent.along_k,
            residual: false,
            split: false,
        }
    };
    let offered = match a.dtype {
        DType::F16 => shader.cooperative_f16,
        DType::BF16 => shader.cooperative_bf16,
        _ => false,
    };
    let cooperative = offered && runs(8) && store == ProductStore::Fours;
    let mut plan = Tile::plan(&Extent { cooperative, ..extent });
    // Not every driver that offers cooperative matrices compiles every such kernel.
    if plan.0.is_cooperative() && pipeline(device, OP, &Kernel::Matmul(key(plan))).is_err() {
        plan = Tile::plan(&extent);
    }
    let (key, parts) = (key(plan), plan.1);
    let mut params = MatmulParams {
        outer_strides: outer_strides.map(word),
        batch_strides: batch_strides.map(word),
        strides: [word(stride(1, 0)), word(stride(1, 1)), word(stride(2, 0)), word(stride(2, 1))],
        edges: [word(stride(0, 0)), word(stride(3, 0)), word(stride(3, 1)), 0],
        m,
        n,
        k,
        batch: batch_count as u32,
        alpha,
        beta,
        ..MatmulParams::default()
    };
    if parts > 1 && batches.saturating_mul(parts) <= MAX_GROUPS {
        return along_k(device, &key, &params, &views, batches, parts);
    }
    let operands: SmallVec<[(&View<'_>, Access); 4]> = views
        .iter()
        .enumerate()
        .map(|(index, &view)| (view, if index == 0 { Access::Write } else { Access::Read }))
        .collect();
    let simd =
        MatmulSimd { input: key.input, output: key.output, a_along_k, b_along_k, bias: key.bias, activation };
    let simd = (shader.simd_matrix && simd.suits(m, n, k)).then_some(simd);
    let kernel = simd.map_or(Kernel::Matmul(key), Kernel::MatmulSimd);
    let groups = |m, n, batches| match &simd {
        Some(simd) => simd.groups(m, n, batches),
        None => key.groups(m, n, batches),
    };
    launch(device, OP, &kernel, &operands, |dispatcher| {
        for place in Places::new(outer) {
            let mut at = [0_i64; 4];
            for (at, (view, place)) in at.iter_mut().zip(views.iter().zip(place)) {
                *at = view.offset as i64 + place;
            }
            in_parts(dispatcher, &groups, &mut params, at, outer_count as u32)?;
        }
        Ok(())
    })
}

/// Records the product as sums over parts of `k`, and what puts them together. The views are out, a, b, bias.
fn along_k(
    device: &Device,
    key: &Matmul,
    params: &MatmulParams,
    views: &[&View<'_>],
    batches: u32,
    parts: u32,
) -> Result<()> {
    let (m, n) = (params.m, params.n);
    // No step of a kernel, of 16 or of vectors of eight, may reach from one part into the next.
    let chunk = params.k.div_ceil(parts).next_multiple_of(64);
    let parts = params.k.div_ceil(chunk);
    let matrix = m.saturating_mul(n);
    let whole = matrix.saturating_mul(batches);
    let count = u64::from(whole) * u64::from(parts);
    let made = Temporary::new(device, DType::F32, count)?;
    let sums = made.view(DType::F32, &[count]);
    let at = |operand: usize| views.get(operand).map_or(0, |view| word(view.offset as i64));
    let inner = matrix.saturating_mul(params.batch);
    // The sums are dense.
    let store = if n.is_multiple_of(4) { ProductStore::Fours } else { ProductStore::One };
    let product = Matmul { output: DType::F32, bias: false, activation: None, split: true, store, ..*key };
    let mut first =
        MatmulParams { offsets: [0, at(1), at(2), 0], edges: [n, 0, 0, whole], parts, chunk, ..*params };
    (first.outer_strides[0], first.batch_strides[0]) = (inner, matrix);
    let operands = [(&sums, Access::Write), (views[1], Access::Read), (views[2], Access::Read)];
    let groups = product.groups(m, n, batches * parts);
    launch_once(device, OP, &Kernel::Matmul(product), &operands, bytemuck::bytes_of(&first), groups)?;
    let join = MatmulJoin {
        output: key.output,
        bias: key.bias,
        activation: key.activation,
        residual: false,
        store: key.store,
    };
    let mut second = MatmulParams { offsets: [at(0), 0, 0, at(3)], strides: [n, 0, 0, 0], parts, ..*params };
    (second.outer_strides[1], second.batch_strides[1], second.edges[3]) = (inner, matrix, whole);
    let mut operands: SmallVec<[(&View<'_>, Access); 4]> =
        SmallVec::from_slice(&[(views[0], Access::Write), (&sums, Access::Read)]);
    operands.extend(views.get(3).map(|&bias| (bias, Access::Read)));
    let groups = join.groups(m, n, batches);
    launch_once(device, OP, &Kernel::MatmulJoin(join), &operands, bytemuck::bytes_of(&second), groups)
}

/// Dispatches of as many rows, columns and batches as a dispatch may have.
fn in_parts(
    dispatcher: &mut Dispatcher<'_>,
    groups: &impl Fn(u32, u32, u32) -> [u32; 3],
    params: &mut MatmulParams,
    at: [i64; 4],
    outer: u32,
) -> std::result::Result<(), HalError> {
    let (m, n, inner) = (params.m, params.n, params.batch);
    let [columns, rows, _] = groups(m, n, 1);
    // Rows and columns of a group that has 65535 x 65535 of them.
    let most =
        |size: u32, groups: u32| if groups <= MAX_GROUPS { size } else { size.div_ceil(groups) * MAX_GROUPS };
    let (row_step, column_step) = (most(m, rows), most(n, columns));
    let inner_step = inner.min(MAX_GROUPS);
    let outer_step = if inner_step < inner { 1 } else { (MAX_GROUPS / inner).max(1).min(outer) };
    let signed = |word: u32| i64::from(word.cast_signed());
    for first_outer in (0..outer).step_by(outer_step as usize) {
        for first_inner in (0..inner).step_by(inner_step as usize) {
            for row in (0..m).step_by(row_step as usize) {
                for column in (0..n).step_by(column_step as usize) {
                    let (row_at, column_at) = (i64::from(row), i64::from(column));
                    let moved = [
                        row_at * signed(params.edges[0]) + column_at,
                        row_at * signed(params.strides[0]),
                        column_at * signed(params.strides[3]),
                        row_at * signed(params.edges[1]) + column_at * signed(params.edges[2]),
                    ];
                    for operand in 0..4 {
                        let batch = i64::from(first_outer) * signed(params.outer_strides[operand])
                            + i64::from(first_inner) * signed(params.batch_strides[operand]);
                        params.offsets[operand] = word(at[operand] + batch + moved[operand]);
                    }
                    (params.m, params.n) = (row_step.min(m - row), column_step.min(n - column));
                    params.batch = inner_step.min(inner - first_inner);
                    let batches = params.batch * outer_step.min(outer - first_outer);
                    dispatcher.run(bytemuck::bytes_of(params), groups(params.m, params.n, batches))?;
                }
            }
        }
    }
    (params.m, params.n, params.batch) = (m, n, inner);
    Ok(())
}
