//! The parameter structs lie in Rust as naga lays them out in WGSL.

use rivulet_kernels::params::*;
use rivulet_kernels::*;
use std::mem::offset_of;

macro_rules! fields {
    ($params:ty: $($field:ident)*) => {
        (size_of::<$params>(), vec![$((stringify!($field), offset_of!($params, $field)),)*])
    };
}

#[test]
fn params_lie_in_rust_as_in_wgsl() {
    let pointwise = |layout| Kernel::Pointwise(Pointwise::new(Op::Add, DType::F32, layout));
    let dense = fields!(PointwiseParams: offsets scalars extra count rank);
    let mut strided = fields!(StridedParams: shape strides);
    strided.1.extend(&dense.1);
    let matmul = Matmul {
        input: DType::F32,
        output: DType::F32,
        tile: Tile::Small,
        a_along_k: true,
        b_along_k: true,
        bias: true,
        activation: None,
        store: ProductStore::One,
        quads: false,
        residual: false,
        split: false,
    };
    let reduce = Reduce::new(ReduceOp::Sum, DType::F32, ReduceOutput::Values, ReduceThreads::One);
    let attention = Attention {
        dtype: DType::F32,
        mask: Mask::Bool,
        causal: true,
        head: HeadSize::Upto32,
        pairs: false,
        logsumexp: true,
        quads: false,
        tile: None,
        written_out: false,
    };
    let step = FusedStep {
        op: Op::Relu,
        common: DType::F32,
        output: DType::F32,
        sources: [FusedSource::Input(0); 3],
    };
    let fused = Fused::new(&[step], &[FusedInput { dtype: DType::F32, repeated: false }]).unwrap();
    let row = fields!(RowParams: offsets rows size inner eps stats groups places);
    let mut tailed = fields!(TailedRowParams: tail_offsets tail_periods scalars zero);
    tailed.1.extend(&row.1);
    let held =
        HeldRow::choose(RowOp::Softmax, DType::F32, DType::F32, 8, &[0]).and_then(|key| key.then(fused));
    let cases = [
        (Kernel::HeldRow(held.unwrap()), tailed),
        (Kernel::Fused(fused), fields!(FusedParams: offsets periods scalars count zero unused)),
        (pointwise(Layout::Linear), dense),
        (pointwise(Layout::Strided), strided),
        (Kernel::Row(Row::new(RowOp::Softmax, DType::F32, DType::F32, 0, 9, 1)), row),
        (
            Kernel::Matmul(matmul),
            fields!(MatmulParams: offsets outer_strides batch_strides strides edges m n k batch alpha beta parts chunk),
        ),
        (
            Kernel::Reduce(reduce),
            fields!(ReduceParams: kept_shape kept_strides shape strides offsets kept count chunk chunks kept_rank
                rank scale power),
        ),
        (
            Kernel::NormColumns(NormColumns {
                weight: true,
                bias: true,
                centered: true,
                input: DType::F32,
                stats: DType::F32,
                output: DType::F32,
            }),
            fields!(NormColumnsParams: offsets stats rows size chunk),
        ),
        (
            Kernel::ChannelNorm(ChannelNorm {
                dtype: DType::F32,
                stats: DType::F32,
                affine: DType::F32,
                variance: true,
                weight: true,
                bias: true,
                store: RowStore::Whole,
            }),
            fields!(ChannelNormParams: offsets stats count channels places eps),
        ),
        (
            Kernel::Sort(Sort::new(SortStep::Rows, DType::F32, false)),
            fields!(SortParams: offsets rows size inner keep width runs),
        ),
        (
            Kernel::Conv(Conv { dtype: DType::F32, kind: ConvKind::Forward, bias: true, tile: Tile::Small }),
            fields!(ConvParams: out_strides x_strides weight_strides offsets x_size out_size kernel stride padding
                dilation batch in_channels out_channels),
        ),
        (
            Kernel::Nll(Nll {
                pass: NllPass::Forward,
                reduction: LossReduction::Mean,
                dtype: DType::F32,
                target: DType::I64,
                weight: true,
            }),
            fields!(NllParams: offsets total rows classes inner ignored),
        ),
        (
            Kernel::EmbeddingGradient(EmbeddingGradient {
                dtype: DType::F32,
                index: DType::I64,
                by_frequency: false,
            }),
            fields!(EmbeddingGradientParams: offsets count size padding),
        ),
        (
            Kernel::Pad(Pad::new(PadMode::Reflect, false, DType::F32, 0, 1)),
            fields!(PadParams: offsets size padded before count),
        ),
        (
            Kernel::Pool(Pool::new(PoolOp::Average, false, DType::F32, 0, 1)),
            fields!(PoolParams: offsets size pooled kernel stride padding dilation count divisor include_padding),
        ),
        (
            Kernel::Resample(Resample::new(ResampleMode::Linear, false, DType::F32, 0, 1)),
            fields!(ResampleParams: offsets size resampled scale count),
        ),
        (
            Kernel::Unfold(Unfold::new(false, DType::F32, 0, 1)),
            fields!(UnfoldParams: offsets size blocks kernel stride padding dilation count channels),
        ),
        (
            Kernel::Search(Search { dtype: DType::F32, output: DType::I64, right: false, order: false }),
            fields!(SearchParams: offsets count size values),
        ),
        (Kernel::JoinRows(JoinRows { several: true }), fields!(JoinRowsParams: out words rows unused first)),
        (
            Kernel::IntMatmul(IntMatmul { dtype: DType::I64 }),
            fields!(IntMatmulParams: offsets batch_strides strides m n k batch),
        ),
        (
            Kernel::Attention(attention),
            fields!(AttentionParams: offsets batch_strides head_strides row_strides mask_strides mask_offset
                queries keys dim group diagonal scale logsumexp_offset logsumexp_strides),
        ),
        (
            Kernel::AttentionSimd(AttentionSimd::of(attention, 32).unwrap()),
            fields!(AttentionParams: offsets batch_strides head_strides row_strides mask_strides mask_offset
                queries keys dim group diagonal scale logsumexp_offset logsumexp_strides),
        ),
    ];
    for (kernel, (size, mut fields)) in cases {
        let module = naga::front::wgsl::parse_str(&kernel.wgsl()).unwrap();
        let mut found = false;
        for (_, ty) in module.types.iter() {
            let (Some("Params"), naga::TypeInner::Struct { members, span }) = (ty.name.as_deref(), &ty.inner)
            else {
                continue;
            };
            let mut wgsl: Vec<_> =
                members.iter().map(|m| (m.name.as_deref().unwrap_or_default(), m.offset as usize)).collect();
            wgsl.sort_unstable();
            fields.sort_unstable();
            assert_eq!(fields, wgsl, "{}", kernel.label());
            assert_eq!(size, *span as usize, "{}", kernel.label());
            found = true;
        }
        assert!(found, "{} has no Params", kernel.label());
        assert_eq!(size, kernel.param_bytes() as usize, "{}", kernel.label());
        assert!(size <= MAX_PARAM_BYTES && size.is_multiple_of(4), "{}", kernel.label());
    }
}
