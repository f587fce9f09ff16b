//! Matrix products against sums in float64.

use crate::gpu::{Operand, input, output, run};
use crate::need_device;
use crate::values::{decode, encode};
use bytemuck::bytes_of;
use rivulet_kernels::params::MatmulParams;
use rivulet_kernels::{Blocks, DType, Kernel, Matmul, MatmulJoin, Op, ProductStore, Tile};

fn numbers(dtype: DType, count: usize, seed: u64) -> Vec<f64> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let values: Vec<f64> = (0..count).map(|_| rng.f64() * 2.0 - 1.0).collect();
    decode(dtype, &encode(dtype, &values))
}

struct Problem {
    m: usize,
    n: usize,
    k: usize,
    outer: usize,
    batch: usize,
}

/// One product with bias along columns; `b` is the same for all outer batches.
fn check(key: Matmul, problem: &Problem) {
    let Problem { m, n, k, outer, batch } = *problem;
    let (a, b) = (numbers(key.input, outer * batch * m * k, 1), numbers(key.input, batch * k * n, 2));
    let bias = numbers(key.output, n, 3);
    let (alpha, beta) = (0.5, 2.0);
    let (a_row, a_k) = if key.a_along_k { (k, 1) } else { (1, m) };
    let (b_k, b_column) = if key.b_along_k { (1, k) } else { (n, 1) };
    // A row more than needed: what is beside the output stays.
    let beside = if key.store == ProductStore::Fours { 4 } else { 2 };
    let pitch = n.next_multiple_of(beside) + beside;
    let (offset, size) = (beside, outer * batch * m * pitch);
    let before = numbers(key.output, (size + offset + 3).next_multiple_of(beside), 4);
    // It lies as the output does, but begins elsewhere.
    let residual = numbers(key.output, before.len() + 4, 5);
    let (mut want, mut scale) = (before.clone(), vec![0.0; before.len()]);
    for z in 0..outer * batch {
        for row in 0..m {
            for column in 0..n {
                let terms = (0..k).map(|i| {
                    a[z * m * k + row * a_row + i * a_k] * b[z % batch * k * n + i * b_k + column * b_column]
                });
                let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
                let value = alpha * sum + if key.bias { beta * bias[column] } else { 0.0 };
                let at = offset + z * m * pitch + row * pitch + column;
                want[at] = if key.activation.is_some() { value.max(0.0) } else { value };
                want[at] += if key.residual { residual[at + 4] } else { 0.0 };
                scale[at] = size + 1.0;
            }
        }
    }
    let params = MatmulParams {
        offsets: [offset as u32, 0, 0, 0],
        outer_strides: [(batch * m * pitch) as u32, (batch * m * k) as u32, 0, 0],
        batch_strides: [(m * pitch) as u32, (m * k) as u32, (k * n) as u32, 0],
        strides: [a_row as u32, a_k as u32, b_k as u32, b_column as u32],
        edges: [pitch as u32, 0, 1, if key.residual { offset as u32 + 4 } else { 0 }],
        m: m as u32,
        n: n as u32,
        k: k as u32,
        batch: batch as u32,
        alpha: alpha as f32,
        beta: beta as f32,
        ..Default::default()
    };
    let mut out = encode(key.output, &before);
    let (mut a, mut b, mut bias) = (encode(key.input, &a), encode(key.input, &b), encode(key.output, &bias));
    let mut residual = encode(key.output, &residual);
    let batches = (outer * batch) as u32;
    let (m_groups, n_groups) = (m as u32, n as u32);
    let mut kernel = Kernel::Matmul(key);
    if key.split {
        // More parts than there are terms for, too.
        let (parts, count) = (3, outer * batch * m * n);
        let mut sums = encode(DType::F32, &vec![f64::NAN; parts * count]);
        let dense = ((batch * m * n) as u32, (m * n) as u32);
        let first = MatmulParams {
            offsets: [0; 4],
            outer_strides: [dense.0, params.outer_strides[1], 0, 0],
            batch_strides: [dense.1, params.batch_strides[1], params.batch_strides[2], 0],
            edges: [n as u32, 0, 0, count as u32],
            parts: parts as u32,
            chunk: k.div_ceil(parts).next_multiple_of(16) as u32,
            ..params
        };
        let store = if n.is_multiple_of(4) { ProductStore::Fours } else { ProductStore::One };
        let alone = Matmul { bias: false, activation: None, residual: false, ..key };
        let product = Matmul { output: DType::F32, store, ..alone };
        let mut operands: Vec<Operand<'_>> = vec![output(&mut sums), input(&mut a), input(&mut b)];
        let groups = key.groups(m_groups, n_groups, batches * parts as u32);
        run(Kernel::Matmul(product), bytes_of(&first), groups, &mut operands);
        let join = MatmulJoin {
            output: key.output,
            bias: key.bias,
            activation: key.activation,
            residual: key.residual,
            store: key.store,
        };
        let second = MatmulParams {
            offsets: [params.offsets[0], 0, offset as u32 + 4, 0],
            outer_strides: [params.outer_strides[0], dense.0, params.outer_strides[0], 0],
            batch_strides: [params.batch_strides[0], dense.1, params.batch_strides[0], 0],
            strides: [n as u32, 0, 0, 0],
            edges: [params.edges[0], 0, 1, count as u32],
            parts: parts as u32,
            ..params
        };
        let mut operands: Vec<Operand<'_>> = vec![output(&mut out), input(&mut sums)];
        if key.bias {
            operands.push(input(&mut bias));
        }
        if key.residual {
            operands.push(input(&mut residual));
        }
        kernel = Kernel::MatmulJoin(join);
        run(kernel, bytes_of(&second), join.groups(m_groups, n_groups, batches), &mut operands);
    } else {
        let mut operands: Vec<Operand<'_>> = vec![output(&mut out), input(&mut a), input(&mut b)];
        if key.bias {
            operands.push(input(&mut bias));
        }
        if key.residual {
            operands.push(input(&mut residual));
        }
        run(kernel, bytes_of(&params), key.groups(m_groups, n_groups, batches), &mut operands);
    }
    let unit = match key.output {
        DType::F16 => 6e-4,
        DType::BF16 => 5e-3,
        _ => 0.0,
    };
    // Matrix units cut terms off where they bring them to one exponent (M. Fasi et al., Numerical behavior of NVIDIA tensor
    // cores, 2021): an H100 is off by 2e-7 of the terms' sum of magnitudes with a hundred of them.
    let rounding = if key.tile.is_cooperative() { 1e-6 } else { 2e-7 };
    for (at, (got, want)) in decode(key.output, &out).iter().zip(&want).enumerate() {
        let bound = rounding * scale[at] + if scale[at] > 0.0 { unit * want.abs() } else { 0.0 };
        assert!(
            (got - want).abs() <= bound,
            "{} {m}x{n}x{k}, element {at}: {got} for {want}",
            kernel.label()
        );
    }
}

#[test]
fn products_of_every_tile_and_order() {
    need_device!();
    let sizes = [
        Problem { m: 1, n: 1, k: 1, outer: 1, batch: 1 },
        Problem { m: 5, n: 70, k: 33, outer: 1, batch: 1 },
        Problem { m: 37, n: 66, k: 40, outer: 2, batch: 3 },
        Problem { m: 130, n: 129, k: 17, outer: 1, batch: 1 },
    ];
    for tile in [Tile::Small, Tile::Medium, Tile::Large, Tile::Skinny1, Tile::Skinny4, Tile::Skinny8] {
        for bits in 0..4 {
            for problem in &sizes {
                let (a_along_k, b_along_k) = (bits & 1 != 0, bits & 2 != 0);
                let key = Matmul {
                    input: DType::F32,
                    output: DType::F32,
                    tile,
                    a_along_k,
                    b_along_k,
                    bias: bits != 0,
                    activation: (bits == 3).then_some(Op::Relu),
                    store: ProductStore::One,
                    quads: false,
                    residual: bits == 3,
                    split: false,
                };
                check(key, problem);
            }
        }
    }
}

#[test]
fn products_of_halves_are_summed_in_float32() {
    need_device!();
    for (input, output) in [(DType::F16, DType::F16), (DType::BF16, DType::BF16), (DType::BF16, DType::F32)] {
        for tile in [Tile::Small, Tile::Large, Tile::Skinny4] {
            for store in [ProductStore::One, ProductStore::Pairs] {
                let key = Matmul {
                    input,
                    output,
                    tile,
                    a_along_k: true,
                    b_along_k: true,
                    bias: true,
                    activation: None,
                    store,
                    quads: false,
                    residual: input == output,
                    split: false,
                };
                check(key, &Problem { m: 35, n: 34, k: 300, outer: 1, batch: 2 });
                if store == ProductStore::One {
                    check(key, &Problem { m: 3, n: 33, k: 65, outer: 1, batch: 1 });
                }
            }
        }
    }
}

#[test]
fn products_of_factors_read_four_at_a_time() {
    need_device!();
    let sizes = [
        Problem { m: 4, n: 4, k: 4, outer: 1, batch: 1 },
        Problem { m: 36, n: 68, k: 40, outer: 2, batch: 3 },
        Problem { m: 132, n: 136, k: 20, outer: 1, batch: 1 },
        Problem { m: 20, n: 12, k: 600, outer: 1, batch: 1 },
    ];
    let mut tiles = vec![Tile::Skinny1, Tile::Skinny4, Tile::Skinny8];
    tiles.extend(Blocks::ALL.map(Tile::Blocks));
    for tile in tiles {
        for bits in 0..4 {
            for (input, output) in
                [(DType::F32, DType::F32), (DType::F16, DType::F16), (DType::BF16, DType::F32)]
            {
                // What is written out along k takes a CPU's driver seconds to compile: each order of each factor once for
                // the larger tiles, and narrow types with the smaller.
                let tried = match tile {
                    Tile::Blocks(Blocks::SMALL | Blocks::SLICED | Blocks::NARROW | Blocks::FLAT) => {
                        bits == 3 || input == DType::F32
                    }
                    Tile::Blocks(Blocks::LARGE) => input == DType::F32 && matches!(bits, 0 | 3),
                    Tile::Blocks(_) => input == DType::F32 && matches!(bits, 1 | 2),
                    _ => bits == 3,
                };
                for problem in sizes.iter().filter(|_| tried) {
                    let key = Matmul {
                        input,
                        output,
                        tile,
                        a_along_k: bits & 1 != 0,
                        b_along_k: bits & 2 != 0,
                        bias: bits != 0,
                        activation: (bits & 2 != 0).then_some(Op::Relu),
                        store: if bits & 1 == 0 { ProductStore::Pairs } else { ProductStore::Fours },
                        quads: true,
                        residual: bits & 2 != 0,
                        split: false,
                    };
                    check(key, problem);
                }
            }
        }
    }
}

#[test]
fn products_in_parts_along_k() {
    need_device!();
    let sizes = [
        Problem { m: 36, n: 68, k: 40, outer: 2, batch: 3 },
        Problem { m: 132, n: 136, k: 200, outer: 1, batch: 1 },
        Problem { m: 40, n: 4, k: 4, outer: 1, batch: 2 },
    ];
    let tiles = [Tile::Small, Tile::Medium, Tile::Large].into_iter().chain(Blocks::ALL.map(Tile::Blocks));
    for tile in tiles {
        let quads = matches!(tile, Tile::Blocks(_));
        for bits in 0..4 {
            for (input, output) in [(DType::F32, DType::F32), (DType::F16, DType::F16)] {
                for problem in &sizes {
                    let odd = Problem { m: problem.m, n: problem.n + 1, k: problem.k - 1, ..*problem };
                    // Written out along k: see above.
                    let large = tile == Tile::Blocks(Blocks::LARGE);
                    if quads && (input == DType::F16 || large || bits != 3) {
                        continue;
                    }
                    let key = Matmul {
                        input,
                        output,
                        tile,
                        a_along_k: bits & 1 != 0,
                        b_along_k: bits & 2 != 0,
                        bias: bits != 0,
                        activation: (bits & 1 != 0).then_some(Op::Relu),
                        store: if quads { ProductStore::Fours } else { ProductStore::One },
                        quads,
                        residual: bits & 2 != 0,
                        split: true,
                    };
                    check(key, if quads { problem } else { &odd });
                }
            }
        }
    }
}

#[test]
fn products_on_cooperative_matrices() {
    need_device!();
    if !crate::gpu::device().is_some_and(|device| device.info().shader.cooperative_f16) {
        eprintln!("skipped: the device has no cooperative matrices");
        return;
    }
    let sizes = [
        Problem { m: 8, n: 8, k: 8, outer: 1, batch: 1 },
        Problem { m: 136, n: 136, k: 104, outer: 2, batch: 3 },
        Problem { m: 256, n: 128, k: 64, outer: 1, batch: 1 },
    ];
    let brain = crate::gpu::device().is_some_and(|device| device.info().shader.cooperative_bf16);
    for input in [DType::F16, DType::BF16].into_iter().filter(|&dtype| brain || dtype == DType::F16) {
        for (tile, split) in [
            (Tile::Cooperative, false),
            (Tile::Cooperative, true),
            (Tile::SmallCooperative, false),
            (Tile::SmallCooperative, true),
        ] {
            for bits in 0..4 {
                for output in [input, DType::F32] {
                    for problem in &sizes {
                        let key = Matmul {
                            input,
                            output,
                            tile,
                            a_along_k: bits & 1 != 0,
                            b_along_k: bits & 2 != 0,
                            bias: bits != 0,
                            activation: (bits == 3).then_some(Op::Relu),
                            store: ProductStore::Fours,
                            quads: true,
                            residual: false,
                            split,
                        };
                        check(key, problem);
                    }
                }
            }
        }
    }
}
