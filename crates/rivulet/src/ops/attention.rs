//! Scaled dot-product attention.

use super::launch::{launch, processors, require, word};
use super::temporary::{Input, Output};
use super::view::{Strides, View};
use super::{DType, Scalar, fill, no_kernel, refuse};
use crate::Device;
use crate::error::Result;
use crate::ids::Access;
use rivulet_kernels::params::AttentionParams;
use rivulet_kernels::{
    Attention, AttentionSimd, AttentionTile, Features, HeadSize, Kernel, MAX_GROUPS, Mask,
};
use smallvec::SmallVec;

const OP: &str = "attention";

/// `out = softmax(scale q kᵀ + mask) v`, for `[batch, heads, length, size]` tensors of one floating-point type and any
/// strides. The heads of `q` are a multiple of those of `k` and `v`, which groups of them share; all have one head size,
/// up to 256. The mask is broadcast to `[batch, heads, queries, keys]`: bools are true where a key is seen, numbers are
/// added to the scores. `causal` lets query `i` see keys up to `i`. A query that sees no key gives 0. `logsumexp`, float32
/// `[batch, heads, queries]`, gets the logarithm of each query's sum of exponentials, -inf where it sees no key.
///
/// Any thread.
///
/// # Errors
/// [`Error::BadOperand`](crate::Error::BadOperand) where shapes do not fit;
/// [`Error::NoKernel`](crate::Error::NoKernel) for other types, larger heads, and values of another head size than keys;
/// what [`Device::record`] says.
#[allow(
    clippy::too_many_arguments,
    reason = "the arguments of scaled_dot_product_attention, with its outputs"
)]
pub fn attention(
    device: &Device,
    out: &View<'_>,
    logsumexp: Option<&View<'_>>,
    q: &View<'_>,
    k: &View<'_>,
    v: &View<'_>,
    mask: Option<&View<'_>>,
    causal: bool,
    scale: f32,
) -> Result<()> {
    let head = check(out, logsumexp, q, k, v, mask)?;
    let (batch, heads, queries, dim) = (out.shape[0], out.shape[1], out.shape[2], out.shape[3]);
    let keys = k.shape[2];
    if keys == 0 || out.count() == 0 {
        // No key is seen, or no result has an element.
        if let Some(kept) = logsumexp {
            fill(device, kept, Scalar::F32(f32::NEG_INFINITY))?;
        }
        return fill(device, out, Scalar::F32(0.0));
    }
    require(device, OP, Features::of(q.dtype))?;
    let mask = match mask {
        Some(mask) => Some(broadcast(mask, [batch, heads, queries, keys])?),
        None => None,
    };
    let kind = match &mask {
        None => Mask::None,
        Some(mask) if mask.dtype == DType::Bool => Mask::Bool,
        Some(mask) => Mask::Additive(mask.dtype),
    };
    // Elements of a head have to be neighbours.
    let fit = |view: &View<'_>| view.strides[3] == 1 || view.shape[3] == 1;
    let (q, k, v) = (
        Input::new(device, q, q.dtype, fit(q))?,
        Input::new(device, k, k.dtype, fit(k))?,
        Input::new(device, v, v.dtype, fit(v))?,
    );
    let target = Output::new(device, out, out.dtype, fit(out))?;
    {
        let (written, q, k, v) = (target.view(), q.view(), k.view(), v.view());
        let even = |view: &View<'_>| {
            view.offset.is_multiple_of(2) && view.strides[..3].iter().all(|stride| stride % 2 == 0)
        };
        let fourth = |view: &View<'_>| {
            view.offset.is_multiple_of(4) && view.strides[..3].iter().all(|stride| stride % 4 == 0)
        };
        let key = Attention {
            dtype: q.dtype,
            mask: kind,
            causal,
            head,
            pairs: !out.dtype.is_wide() && dim.is_multiple_of(2) && even(&written),
            logsumexp: logsumexp.is_some(),
            quads: dim.is_multiple_of(4) && fourth(&q) && fourth(&k) && fourth(&v),
            tile: AttentionTile::choose(
                head,
                word(queries),
                word(keys),
                word(batch * heads),
                processors(device),
            ),
            written_out: false,
        };
        let views = [&*written, &*q, &*k, &*v];
        let stride = |dim: usize| views.map(|view| view.strides[dim] as u32);
        let mut params = AttentionParams {
            batch_strides: stride(0),
            head_strides: stride(1),
            row_strides: stride(2),
            queries: queries as u32,
            keys: keys as u32,
            dim: dim as u32,
            group: (heads / k.shape[1]) as u32,
            scale,
            ..AttentionParams::default()
        };
        let mut operands: SmallVec<[(&View<'_>, Access); 6]> = SmallVec::new();
        operands.push((&written, Access::Write));
        operands.extend([&q, &k, &v].map(|view| (&**view, Access::Read)));
        if let Some(mask) = &mask {
            operands.push((mask, Access::Read));
            params.mask_strides = std::array::from_fn(|dim| mask.strides[dim] as u32);
        }
        if let Some(kept) = logsumexp {
            operands.push((kept, Access::Write));
            let strides = |dim: usize| kept.strides.get(dim).map_or(0, |&stride| stride as u32);
            params.logsumexp_strides = std::array::from_fn(strides);
        }
        let simd = AttentionSimd::of(key, params.dim)
            .filter(|simd| device.info().shader.simd_matrix && simd.suits(params.queries, params.keys));
        let kernel = simd.map_or(Kernel::Attention(key), Kernel::AttentionSimd);
        launch(device, OP, &kernel, &operands, |dispatcher| {
            for first in (0..batch).step_by(MAX_GROUPS as usize) {
                let moved = |view: &View<'_>| (view.offset as i64 + first as i64 * view.strides[0]) as u32;
                params.offsets = views.map(moved);
                params.mask_offset = mask.as_ref().map_or(0, moved);
                params.logsumexp_offset = logsumexp.map_or(0, moved);
                let batches = (batch - first).min(u64::from(MAX_GROUPS)) as u32;
                let groups = match &simd {
                    Some(simd) => simd.groups(params.queries, heads as u32, batches),
                    None => key.groups(params.queries, heads as u32, batches),
                };
                dispatcher.run(bytemuck::bytes_of(&params), groups)?;
            }
            Ok(())
        })?;
    }
    target.finish()
}

fn check(
    out: &View<'_>,
    logsumexp: Option<&View<'_>>,
    q: &View<'_>,
    k: &View<'_>,
    v: &View<'_>,
    mask: Option<&View<'_>>,
) -> Result<HeadSize> {
    for (view, name) in [(out, "the output"), (q, "q"), (k, "k"), (v, "v")] {
        view.check(OP, name)?;
        if view.rank() != 4 {
            return refuse(OP, format!("{name} has {} dimensions; 4 are allowed", view.rank()));
        }
        if view.dtype != q.dtype || !view.dtype.is_float() {
            let (given, all) = (view.dtype.name(), q.dtype.name());
            return no_kernel(
                OP,
                format!("{name} of type {given} beside q of {all}; one floating-point type is allowed"),
            );
        }
    }
    let ([batch, heads, queries, dim], [_, kv_heads, keys, _]) =
        ([q.shape[0], q.shape[1], q.shape[2], q.shape[3]], [k.shape[0], k.shape[1], k.shape[2], k.shape[3]]);
    if k.shape[..3] != v.shape[..3]
        || k.shape[0] != batch
        || k.shape[3] != dim
        || out.shape[..3] != q.shape[..3]
        || out.shape[3] != v.shape[3]
    {
        let (q, k, v, out) = (&q.shape, &k.shape, &v.shape, &out.shape);
        return refuse(OP, format!("q {q:?}, k {k:?} and v {v:?} do not give {out:?}"));
    }
    if kv_heads == 0 && heads > 0 || kv_heads > 0 && !heads.is_multiple_of(kv_heads) {
        return refuse(OP, format!("{heads} heads of q on {kv_heads} of k and v; a multiple is allowed"));
    }
    if v.shape[3] != dim {
        return no_kernel(OP, format!("values of head size {} and keys of {dim}", v.shape[3]));
    }
    let most = u64::from(MAX_GROUPS);
    if heads > most || queries.div_ceil(8) > most {
        return no_kernel(
            OP,
            format!("{queries} queries of {heads} heads; {} and {most} are allowed", 8 * most),
        );
    }
    if let Some(kept) = logsumexp {
        kept.check(OP, "logsumexp")?;
        if *kept.shape != [batch, heads, queries] {
            let wanted = [batch, heads, queries];
            return refuse(OP, format!("logsumexp has shape {:?}; {wanted:?} is allowed", kept.shape));
        }
        if kept.dtype != DType::F32 {
            return no_kernel(OP, format!("logsumexp of type {}; float32 is allowed", kept.dtype.name()));
        }
    }
    if let Some(mask) = mask {
        mask.check(OP, "the mask")?;
        if mask.dtype != DType::Bool && !mask.dtype.is_float() {
            return no_kernel(
                OP,
                format!("a mask of type {}; bools and floats are allowed", mask.dtype.name()),
            );
        }
        broadcast(mask, [batch, heads, queries, keys])?;
    }
    match u32::try_from(dim).ok().and_then(HeadSize::choose) {
        Some(head) => Ok(head),
        None => no_kernel(OP, format!("a head size of {dim}; 256 is the largest allowed")),
    }
}

/// The mask with the sizes of the scores, by strides of 0.
fn broadcast<'b>(mask: &View<'b>, scores: [u64; 4]) -> Result<View<'b>> {
    let missing = 4_usize.saturating_sub(mask.rank());
    let mut strides = Strides::from_elem(0, 4);
    for (dim, &size) in mask.shape.iter().enumerate() {
        match scores.get(missing + dim) {
            Some(&wanted) if mask.rank() <= 4 && (size == wanted || size == 1) => {
                strides[missing + dim] = if size == 1 { 0 } else { mask.strides[dim] };
            }
            _ => return refuse(OP, format!("a mask of shape {:?} for scores of {scores:?}", mask.shape)),
        }
    }
    Ok(mask.with(&scores, &strides))
}
