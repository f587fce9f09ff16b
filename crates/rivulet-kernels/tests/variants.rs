//! Every variant of every family is WGSL that naga accepts and can write for both targets.

mod metal_text;

use rivulet_kernels::*;
use std::collections::HashMap;

fn pointwise() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    for &op in Op::ALL {
        for dtype in DType::ALL {
            if !op.computes(dtype) {
                continue;
            }
            for layout in Layout::ALL {
                kernels.push(Pointwise::new(op, dtype, layout));
            }
            for index in 0..op.arity() as u8 {
                kernels.push(Pointwise::new(op, dtype, Layout::Linear).with_scalar(index));
            }
        }
    }
    for from in DType::ALL {
        for to in DType::ALL {
            for layout in Layout::ALL {
                kernels.push(Pointwise::cast(from, to, layout));
            }
        }
    }
    let fours: Vec<_> = kernels.iter().filter_map(|key| key.in_fours()).collect();
    let mut seen = std::collections::HashSet::new();
    kernels.into_iter().chain(fours).filter(|key| seen.insert(*key)).map(Kernel::Pointwise).collect()
}

/// What the capabilities of a module ask for.
fn declared(words: &[u32]) -> Features {
    let mut features = Features::NONE;
    let mut rest = &words[5..];
    while let Some(&first) = rest.first() {
        if first & 0xffff == 17 {
            features = features
                | match rest[1] {
                    1 => Features::NONE,
                    11 => Features::INT64,
                    9 | 22 => Features::HALF,
                    5345 | 6022 => Features::COOPERATIVE,
                    5116 | 5118 => Features::COOPERATIVE_BF16,
                    other => panic!("capability {other} is in no feature"),
                };
        }
        rest = &rest[(first >> 16) as usize..];
    }
    features
}

fn check(kernels: &[Kernel]) {
    let mut failures = Vec::new();
    let mut texts = metal_text::Texts::default();
    let mut labels = std::collections::HashSet::new();
    for kernel in kernels {
        assert!(labels.insert(kernel.label()), "two kernels are called {}", kernel.label());
        for target in [Target::SpirV(FloatControls::default()), Target::Msl] {
            // For Metal alone.
            if target != Target::Msl && kernel.requires().contains(Features::SIMD_MATRIX) {
                continue;
            }
            match translate(kernel, target) {
                Ok(Translated::SpirV(words)) => {
                    assert_eq!(declared(&words), kernel.requires(), "{} requires otherwise", kernel.label());
                }
                Ok(Translated::Msl { text, entry, threadgroup }) => {
                    assert!(text.contains(&format!("kernel void {entry}(")));
                    failures.extend(metal_text::lint(kernel, &text, &threadgroup));
                    texts.add(kernel, text);
                }
                // Metal has no matrices of 16 x 16.
                Err(TranslateError::Write { .. })
                    if target == Target::Msl && kernel.requires().contains(Features::COOPERATIVE) => {}
                Err(error) => failures.push(error.to_string()),
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        kernels.len(),
        failures[..failures.len().min(5)].join("\n")
    );
    texts.compare();
}

#[test]
fn pointwise_kernels_translate() {
    check(&pointwise());
}

fn rows() -> Vec<Kernel> {
    let mut ops = vec![RowOp::Softmax, RowOp::LogSoftmax, RowOp::SoftmaxBackward, RowOp::LogSoftmaxBackward];
    for bits in 0..8 {
        let stats = (bits & 4 != 0).then_some(DType::F32);
        let norm = Norm { weight: bits & 1 != 0, bias: bits & 2 != 0, stats };
        ops.push(RowOp::LayerNorm(norm));
        ops.push(RowOp::GroupNorm(norm));
        if !norm.bias {
            ops.push(RowOp::RmsNorm(norm));
        }
    }
    for weight in [false, true] {
        for stats in [DType::F32, DType::F16] {
            ops.push(RowOp::LayerNormBackward(NormBackward { weight, stats }));
            ops.push(RowOp::RmsNormBackward(NormBackward { weight, stats }));
        }
    }
    ops.push(RowOp::LayerNorm(Norm { weight: true, bias: true, stats: Some(DType::BF16) }));
    let mut kernels = Vec::new();
    for op in ops {
        for (input, output) in [
            (DType::F32, DType::F32),
            (DType::F16, DType::F16),
            (DType::BF16, DType::BF16),
            (DType::F16, DType::F32),
        ] {
            for size in [128, 256, 512, 1024, 2048, 4096, 8192] {
                let Some(key) = HeldRow::choose(op, input, output, size, &[0, 4]) else { continue };
                kernels.push(Kernel::HeldRow(key));
                let sums = [RowSum::Added, RowSum::Kept].into_iter().filter_map(|sum| key.of_sum(sum));
                kernels.extend(sums.map(Kernel::HeldRow));
            }
            for store in [RowStore::Whole, RowStore::Ragged, RowStore::Scattered] {
                for threads in [RowThreads::Few, RowThreads::Many] {
                    kernels.push(Kernel::Row(Row { op, input, output, store, threads }));
                }
            }
        }
    }
    kernels
}

#[test]
fn row_kernels_translate() {
    check(&rows());
}

/// Chains of a row's results, with a dense tensor, a row for all and a scalar, between types.
fn tails(made: DType) -> Vec<Fused> {
    let step = |op, common, output, sources| FusedStep { op, common, output, sources };
    let [row, dense, repeated] = [FusedSource::Input(0), FusedSource::Input(1), FusedSource::Input(2)];
    let input = |dtype, repeated| FusedInput { dtype, repeated };
    let inputs = [input(made, false), input(DType::F32, false), input(made, true)];
    let mut chains = Vec::new();
    for output in [made, DType::F32, DType::F16] {
        let steps = [
            step(Op::Mul, DType::F32, made, [row, dense, row]),
            step(Op::Add, DType::F32, made, [FusedSource::Step(0), FusedSource::Scalar(1), row]),
            step(Op::Gt, made, DType::Bool, [row, repeated, row]),
            step(Op::Where, made, output, [FusedSource::Step(2), FusedSource::Step(1), row]),
        ];
        chains.extend(Fused::new(&[step(Op::Gelu, made, output, [row; 3])], &inputs[..1]));
        chains.extend(Fused::new(&steps, &inputs));
    }
    chains.dedup();
    chains
}

#[test]
fn row_kernels_with_chains_translate() {
    let mut kernels = Vec::new();
    let norm = Norm { weight: true, bias: true, stats: None };
    let kept = Norm { stats: Some(DType::F32), ..norm };
    let ops = [
        RowOp::Softmax,
        RowOp::LogSoftmax,
        RowOp::LayerNorm(norm),
        RowOp::RmsNorm(Norm { bias: false, ..kept }),
    ];
    for op in ops {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for size in [128, 4096] {
                let Some(key) = HeldRow::choose(op, dtype, dtype, size, &[0, 4]) else { continue };
                let sum = key.of_sum(RowSum::Kept);
                for key in [Some(key), sum].into_iter().flatten() {
                    kernels.extend(
                        tails(dtype).into_iter().filter_map(|tail| key.then(tail)).map(Kernel::HeldRow),
                    );
                }
            }
        }
    }
    assert!(kernels.len() >= 150, "{}", kernels.len());
    let mut seen = std::collections::HashSet::new();
    kernels.retain(|kernel| seen.insert(*kernel));
    check(&kernels);
}

#[test]
fn chains_that_no_row_kernel_can_do_have_no_key() {
    let key = HeldRow::choose(RowOp::Softmax, DType::F32, DType::F32, 128, &[0]).unwrap();
    let chain = |op, output, inputs: &[(DType, bool)]| {
        let sources =
            [FusedSource::Input(0), FusedSource::Input(inputs.len() as u8 - 1), FusedSource::Input(0)];
        let inputs: Vec<_> = inputs.iter().map(|&(dtype, repeated)| FusedInput { dtype, repeated }).collect();
        Fused::new(&[FusedStep { op, common: DType::F32, output, sources }], &inputs).unwrap()
    };
    let (plain, row) = ((DType::F32, false), (DType::F32, true));
    let good = chain(Op::Mul, DType::F32, &[plain, row]);
    assert!(key.then(good).is_some());
    assert_eq!(key.then(good).unwrap().then(good), None, "two chains");
    assert_eq!(key.then(chain(Op::Relu, DType::F32, &[row])), None, "the row itself repeats nothing");
    assert_eq!(key.then(chain(Op::Relu, DType::F32, &[(DType::F16, false)])), None, "made in another type");
    assert_eq!(key.then(chain(Op::Mul, DType::F32, &[plain, (DType::I64, false)])), None, "an integer");
    assert_eq!(key.then(chain(Op::Gt, DType::Bool, &[plain, plain])), None, "stored in fours");
    assert_eq!(key.then(chain(Op::Mul, DType::F32, &[plain; 5])), None, "four further ones");
}

#[test]
fn sums_over_rows_translate() {
    let mut kernels = Vec::new();
    for bits in 1..8 {
        let (weight, bias, centered) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
        for input in [DType::F32, DType::F16, DType::BF16] {
            for (stats, output) in [(DType::F32, DType::F32), (input, input)] {
                let key = NormColumns { weight, bias, centered, input, stats, output };
                if (weight || bias) && kernels.last() != Some(&Kernel::NormColumns(key)) {
                    kernels.push(Kernel::NormColumns(key));
                }
            }
        }
    }
    check(&kernels);
}

#[test]
fn normalisations_of_channels_translate() {
    let mut kernels = Vec::new();
    for (dtype, stats, affine) in [
        (DType::F32, DType::F32, DType::F32),
        (DType::F16, DType::F16, DType::F16),
        (DType::BF16, DType::F32, DType::BF16),
        (DType::F16, DType::F32, DType::F32),
    ] {
        for store in [RowStore::Whole, RowStore::Ragged] {
            for bits in 0..8 {
                let (variance, weight, bias) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
                let key = ChannelNorm { dtype, stats, affine, variance, weight, bias, store };
                kernels.push(Kernel::ChannelNorm(key));
            }
        }
    }
    check(&kernels);
}

#[test]
fn sorts_translate() {
    let mut seen = std::collections::HashSet::new();
    let mut kernels = Vec::new();
    for step in [SortStep::Rows, SortStep::Runs, SortStep::Merge, SortStep::Finish] {
        for dtype in DType::ALL {
            for descending in [false, true] {
                let key = Sort::new(step, dtype, descending);
                if seen.insert(key) {
                    kernels.push(Kernel::Sort(key));
                }
            }
        }
    }
    check(&kernels);
}

#[test]
fn convolutions_translate() {
    let mut kernels = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for tile in [Tile::Small, Tile::Medium, Tile::Large] {
            for kind in [ConvKind::Forward, ConvKind::Transposed, ConvKind::WeightGradient] {
                for bias in [false, true] {
                    kernels.push(Kernel::Conv(Conv { dtype, kind, bias, tile }));
                }
            }
        }
    }
    check(&kernels);
}

#[test]
fn losses_and_gradients_of_embeddings_translate() {
    let mut kernels = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for index in [DType::I64, DType::I32, DType::U8] {
            let passes =
                [NllPass::Forward, NllPass::Backward(RowStore::Whole), NllPass::Backward(RowStore::Ragged)];
            for pass in passes {
                for reduction in [LossReduction::None, LossReduction::Mean, LossReduction::Sum] {
                    for weight in [false, true] {
                        kernels.push(Kernel::Nll(Nll { pass, reduction, dtype, target: index, weight }));
                    }
                }
            }
            for by_frequency in [false, true] {
                kernels.push(Kernel::EmbeddingGradient(EmbeddingGradient { dtype, index, by_frequency }));
            }
        }
    }
    check(&kernels);
}

const STORES: [ProductStore; 3] = [ProductStore::One, ProductStore::Pairs, ProductStore::Fours];

fn products() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    let mut tiles = vec![Tile::Small, Tile::Medium, Tile::Large, Tile::Skinny1, Tile::Skinny4, Tile::Skinny8];
    tiles.extend(Blocks::ALL.map(Tile::Blocks));
    for tile in tiles {
        for bits in 0..16 {
            let (a_along_k, b_along_k, bias, quads) =
                (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0, bits & 8 != 0);
            let split = false;
            let skinny = matches!(tile, Tile::Skinny1 | Tile::Skinny4 | Tile::Skinny8);
            let along_k = a_along_k && b_along_k;
            if quads != matches!(tile, Tile::Blocks(_)) && !(skinny && along_k) {
                continue;
            }
            for (input, output) in [
                (DType::F32, DType::F32),
                (DType::F16, DType::F16),
                (DType::BF16, DType::BF16),
                (DType::BF16, DType::F32),
            ] {
                // Between tiles that differ in sizes alone, narrow types differ in nothing.
                let few = [Blocks::SMALL, Blocks::MEDIUM, Blocks::NARROW].map(Tile::Blocks);
                if matches!(tile, Tile::Blocks(_)) && output != DType::F32 && !few.contains(&tile) {
                    continue;
                }
                for store in STORES {
                    if store != ProductStore::One && skinny
                        || store == ProductStore::Pairs && output == DType::F32
                    {
                        continue;
                    }
                    let activation = bias.then_some(Op::Gelu);
                    let key = Matmul {
                        input,
                        output,
                        tile,
                        a_along_k,
                        b_along_k,
                        bias,
                        activation,
                        store,
                        quads,
                        residual: false,
                        split,
                    };
                    kernels.push(Kernel::Matmul(key));
                    if bias && a_along_k && b_along_k && input == output {
                        kernels.push(Kernel::Matmul(Matmul { residual: true, activation: None, ..key }));
                    }
                    if tile == Tile::Small && bits & 0b1011 == 0 && input == output {
                        let join = MatmulJoin { output, bias, activation, residual: false, store };
                        kernels.push(Kernel::MatmulJoin(join));
                        kernels.push(Kernel::MatmulJoin(MatmulJoin { residual: true, ..join }));
                    }
                    if !skinny && !bias && output == DType::F32 {
                        kernels.push(Kernel::Matmul(Matmul { split: true, ..key }));
                    }
                }
            }
        }
    }
    kernels
}

#[test]
fn products_on_cooperative_matrices_translate() {
    let mut kernels = Vec::new();
    for tile in [Tile::Cooperative, Tile::SmallCooperative] {
        for input in [DType::F16, DType::BF16] {
            for bits in 0..16 {
                let (a_along_k, b_along_k, bias) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
                let output = if bits & 8 != 0 { DType::F32 } else { input };
                let (store, quads, split) = (ProductStore::Fours, true, false);
                let activation = bias.then_some(Op::Gelu);
                let key = Matmul {
                    input,
                    output,
                    tile,
                    a_along_k,
                    b_along_k,
                    bias,
                    activation,
                    store,
                    quads,
                    residual: false,
                    split,
                };
                kernels.push(Kernel::Matmul(key));
                if bias && a_along_k && b_along_k && input == output {
                    kernels.push(Kernel::Matmul(Matmul { residual: true, ..key }));
                }
                if !bias && output == DType::F32 {
                    kernels.push(Kernel::Matmul(Matmul { split: true, ..key }));
                }
            }
        }
    }
    check(&kernels);
    for kernel in kernels {
        let Kernel::Matmul(key) = kernel else { continue };
        let encoding: &[u32] = if key.input == DType::BF16 { &[16, 0] } else { &[16] };
        let mut components = components(&kernel);
        components.sort();
        assert_eq!(components, [(0, encoding.to_vec()), (1, encoding.to_vec()), (2, vec![32])], "{key:?}");
    }
}

/// Use and component type, by what its OpTypeFloat says, of every type of cooperative matrices in a kernel.
fn components(kernel: &Kernel) -> Vec<(u32, Vec<u32>)> {
    let Ok(Translated::SpirV(words)) = translate(kernel, Target::SpirV(FloatControls::default())) else {
        panic!("no SPIR-V")
    };
    let (mut floats, mut constants) = (HashMap::new(), HashMap::new());
    let mut found = Vec::new();
    let mut rest = &words[5..];
    while let Some(&first) = rest.first() {
        let (instruction, tail) = rest.split_at((first >> 16) as usize);
        match first & 0xffff {
            22 => drop(floats.insert(instruction[1], instruction[2..].to_vec())),
            43 => drop(constants.insert(instruction[2], instruction[3])),
            4456 => {
                let component = floats.get(&instruction[2]).cloned().unwrap_or_default();
                found.push((constants[&instruction[6]], component));
            }
            _ => {}
        }
        rest = tail;
    }
    found
}

#[test]
fn products_on_simdgroup_matrices_translate() {
    let mut kernels = Vec::new();
    for bits in 0..8 {
        let (a_along_k, b_along_k, bias) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
        for (input, output) in [(DType::F32, DType::F32), (DType::F16, DType::F16), (DType::F16, DType::F32)]
        {
            let activation = bias.then_some(Op::Gelu);
            let key = MatmulSimd { input, output, a_along_k, b_along_k, bias, activation };
            kernels.push(Kernel::MatmulSimd(key));
        }
    }
    check(&kernels);
}

#[test]
fn matrix_products_translate() {
    check(&products());
}

fn reductions() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    for op in ReduceOp::ALL {
        for input in DType::ALL.into_iter().filter(|dtype| dtype.is_float() || !op.is_float_only()) {
            for threads in [ReduceThreads::One, ReduceThreads::Group] {
                kernels.push(Kernel::Reduce(Reduce::new(op, input, ReduceOutput::Values, threads)));
                if op.is_arg() {
                    for stores in [ReduceOutput::Indices, ReduceOutput::Both] {
                        kernels.push(Kernel::Reduce(Reduce::new(op, input, stores, threads)));
                    }
                    if input == input.native().dtype() {
                        for stores in [ReduceOutput::Values, ReduceOutput::Indices, ReduceOutput::Both] {
                            let key = Reduce::new(op, input, stores, threads);
                            kernels.push(Kernel::Reduce(Reduce { stage: ReduceStage::Merge, ..key }));
                        }
                    }
                }
                if matches!(op, ReduceOp::Var | ReduceOp::Std) {
                    let key = Reduce::new(op, input, ReduceOutput::Values, threads);
                    kernels.push(Kernel::Reduce(Reduce {
                        stage: ReduceStage::Merge,
                        input: DType::F32,
                        output: input,
                        ..key
                    }));
                    let (stage, output) = (ReduceStage::Part, DType::F32);
                    kernels.push(Kernel::Reduce(Reduce { stage, output, ..key }));
                }
                if op == ReduceOp::Sum && input != DType::F32 {
                    let key = Reduce::new(op, input, ReduceOutput::Values, threads);
                    kernels.push(Kernel::Reduce(Reduce { output: DType::F32, ..key }));
                }
            }
        }
    }
    kernels
}

#[test]
fn reductions_translate() {
    check(&reductions());
}

#[test]
fn gathers_scatters_and_scans_translate() {
    let mut kernels = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for dtype in DType::ALL {
        for index in [DType::I64, DType::I32] {
            for layout in Layout::ALL {
                let key = Gather::new(dtype, index, layout);
                if seen.insert(key) {
                    kernels.push(Kernel::Gather(key));
                }
            }
            for op in ScatterOp::ALL.into_iter().filter(|op| op.takes(dtype)) {
                for scalar in [false, true] {
                    kernels.push(Kernel::Scatter(Scatter { op, dtype, index, scalar }));
                }
            }
        }
        for op in [ScanOp::Sum, ScanOp::Prod, ScanOp::Max, ScanOp::Min] {
            for output in [dtype, DType::I64] {
                let key = Scan { op, input: dtype, output, indices: false };
                if dtype != output || kernels.last() != Some(&Kernel::Scan(key)) {
                    kernels.push(Kernel::Scan(key));
                }
            }
        }
    }
    for dtype in DType::ALL {
        for op in [ScanOp::Max, ScanOp::Min] {
            kernels.push(Kernel::Scan(Scan { op, input: dtype, output: dtype, indices: true }));
        }
        if dtype.is_float() {
            let op = ScanOp::LogSumExp;
            kernels.push(Kernel::Scan(Scan { op, input: dtype, output: dtype, indices: false }));
        }
    }
    check(&kernels);
}

#[test]
fn paddings_translate() {
    let mut kernels = Vec::new();
    for mode in [PadMode::Reflect, PadMode::Replicate] {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::I64, DType::I16, DType::U8] {
            for backward in [false, true] {
                for offset in [0, 1] {
                    let kernel = Kernel::Pad(Pad::new(mode, backward, dtype, offset, 8));
                    if (!backward || dtype.is_float()) && !kernels.contains(&kernel) {
                        kernels.push(kernel);
                    }
                }
            }
        }
    }
    check(&kernels);
}

#[test]
fn pools_resamplings_and_columns_translate() {
    let mut kernels = Vec::new();
    let mut add = |kernel| {
        if !kernels.contains(&kernel) {
            kernels.push(kernel);
        }
    };
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::I64, DType::I16, DType::U8] {
        for offset in [0, 1] {
            for adaptive in [false, true] {
                for op in [PoolOp::MaxPlace, PoolOp::Average, PoolOp::AverageBackward] {
                    if dtype.is_float() || op != PoolOp::AverageBackward {
                        add(Kernel::Pool(Pool::new(op, adaptive, dtype, offset, 8)));
                    }
                }
            }
            for backward in [false, true] {
                for mode in [
                    ResampleMode::Nearest,
                    ResampleMode::NearestExact,
                    ResampleMode::Linear,
                    ResampleMode::LinearAligned,
                ] {
                    let copies =
                        !backward && matches!(mode, ResampleMode::Nearest | ResampleMode::NearestExact);
                    if dtype.is_float() || copies {
                        add(Kernel::Resample(Resample::new(mode, backward, dtype, offset, 8)));
                    }
                }
            }
            for fold in [false, true] {
                add(Kernel::Unfold(Unfold::new(fold, dtype, offset, 8)));
            }
        }
    }
    check(&kernels);
}

#[test]
fn searches_and_products_of_integers_translate() {
    let mut kernels: Vec<_> = [false, true].map(|several| Kernel::JoinRows(JoinRows { several })).into();
    for dtype in DType::ALL {
        for (right, order) in [(false, false), (true, false), (false, true), (true, true)] {
            for output in [DType::I64, DType::I32] {
                kernels.push(Kernel::Search(Search { dtype, output, right, order }));
            }
        }
        if !dtype.is_float() && dtype != DType::Bool {
            kernels.push(Kernel::IntMatmul(IntMatmul { dtype }));
        }
    }
    check(&kernels);
}

#[test]
fn attention_translates() {
    let mut kernels = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for mask in
            [Mask::None, Mask::Bool, Mask::Filled, Mask::Additive(DType::F32), Mask::Additive(DType::F16)]
        {
            for head in HeadSize::ALL {
                for bits in 0..32 {
                    let (causal, pairs, logsumexp) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
                    let quads = bits & 8 != 0;
                    let tiles: &[(u32, u32)] = match head {
                        _ if bits & 16 == 0 => &[(0, 0)],
                        HeadSize::Upto32 => &[(64, 1), (32, 2), (16, 2)],
                        HeadSize::Upto64 => &[(32, 1), (16, 2)],
                        _ => &[],
                    };
                    for &(queries, slices) in tiles {
                        let tile = (slices > 0).then_some(AttentionTile { queries, slices });
                        let written_out = false;
                        let key = Attention {
                            dtype,
                            mask,
                            causal,
                            head,
                            pairs,
                            logsumexp,
                            quads,
                            tile,
                            written_out,
                        };
                        kernels.push(Kernel::Attention(key));
                        if !causal && !logsumexp {
                            kernels.push(Kernel::Attention(Attention { written_out: true, ..key }));
                        }
                    }
                }
            }
        }
    }
    check(&kernels);
}

#[test]
fn attention_on_simdgroup_matrices_translates() {
    let mut kernels = Vec::new();
    for dim in (8..=128).step_by(8) {
        // Head sizes differ by numbers alone: all there is of three, and every size.
        let all = matches!(dim, 8 | 64 | 128);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for mask in [Mask::None, Mask::Bool, Mask::Additive(DType::F32), Mask::Additive(DType::F16)] {
                for bits in 0..16 {
                    let (causal, pairs, logsumexp) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
                    let quads = bits & 8 != 0;
                    if all || (mask == Mask::None && pairs && quads && !logsumexp) {
                        let (head, tile) = (HeadSize::Upto32, None);
                        let key = Attention {
                            dtype,
                            mask,
                            causal,
                            head,
                            pairs,
                            logsumexp,
                            quads,
                            tile,
                            written_out: false,
                        };
                        kernels.push(Kernel::AttentionSimd(AttentionSimd::of(key, dim).unwrap()));
                    }
                }
            }
        }
    }
    check(&kernels);
}

#[test]
fn chains_translate() {
    let input = |dtype, repeated| FusedInput { dtype, repeated };
    let mut kernels = Vec::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let step = |op, output, sources| FusedStep { op, common: dtype, output, sources };
        let [x, y, mask] = [FusedSource::Input(0), FusedSource::Input(1), FusedSource::Input(2)];
        let (scalar, before) = (FusedSource::Scalar(1), |at| FusedSource::Step(at));
        let inputs = [input(dtype, false), input(DType::F32, true), input(DType::Bool, false)];
        let steps = [
            step(Op::Add, dtype, [x, y, x]),
            step(Op::Gt, DType::Bool, [before(0), scalar, x]),
            step(Op::Where, dtype, [before(1), before(0), y]),
            step(Op::Mul, dtype, [before(2), mask, x]),
            step(Op::Gelu, dtype, [before(3), x, x]),
        ];
        for count in 1..=steps.len() {
            kernels.push(Kernel::Fused(Fused::new(&steps[..count], &inputs).unwrap()));
        }
        // Every op that a chain may hold.
        for &op in Op::ALL {
            let sources = [x, y, x];
            let output = if op.is_predicate() { DType::Bool } else { dtype };
            let steps = [step(op, output, sources), step(Op::Copy, dtype, [before(0), x, x])];
            kernels.extend(Fused::new(&steps, &inputs[..2]).map(Kernel::Fused));
        }
    }
    assert!(kernels.len() > 200, "{}", kernels.len());
    check(&kernels);
}

#[test]
fn chains_that_no_kernel_can_do_have_no_key() {
    let x = FusedSource::Input(0);
    let input = FusedInput { dtype: DType::F32, repeated: false };
    let step = |op, common, source| FusedStep { op, common, output: common, sources: [source; 3] };
    let key = |step: FusedStep| Fused::new(&[step], &[input]);
    assert!(key(step(Op::Relu, DType::F32, x)).is_some());
    for op in [Op::Uniform, Op::Tril, Op::Clamp, Op::Softplus, Op::BitwiseNot] {
        assert_eq!(key(step(op, DType::F32, x)), None, "{op:?}");
    }
    assert_eq!(key(step(Op::Relu, DType::I32, x)), None);
    assert_eq!(key(step(Op::Relu, DType::F32, FusedSource::Input(1))), None);
    assert_eq!(key(step(Op::Relu, DType::F32, FusedSource::Step(0))), None);
    assert_eq!(Fused::new(&[step(Op::Relu, DType::F32, x); 9], &[input]), None);
}
