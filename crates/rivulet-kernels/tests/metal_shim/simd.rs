//! Products on simdgroup matrices, which no other device of the tests has.

use crate::gpu::{Operand, input, output, run};
use crate::values::{decode, encode};
use bytemuck::bytes_of;
use rivulet_kernels::params::MatmulParams;
use rivulet_kernels::{DType, Kernel, MatmulSimd, Op};

/// `alpha a b + beta bias` of `m` x `k` and `k` x `n`, twice in a batch, against float64.
fn compare(key: MatmulSimd, m: u32, n: u32, k: u32) {
    let mut random = fastrand::Rng::with_seed(7);
    let mut values = |count: u32| -> Vec<f64> {
        let exact = |x: f64| decode(key.input, &encode(key.input, &[x]))[0];
        (0..count).map(|_| exact(random.f64() * 2.0 - 1.0)).collect()
    };
    let batches = 2;
    let (a, b, bias) = (values(batches * m * k), values(batches * k * n), values(n));
    // Strides of a row and of a step along k; along which of the two elements are neighbours is the key's.
    let (a_row, a_k) = if key.a_along_k { (k, 1) } else { (1, m) };
    let (b_k, b_column) = if key.b_along_k { (1, k) } else { (n, 1) };
    let params = MatmulParams {
        batch_strides: [m * n, m * k, k * n, 0],
        strides: [a_row, a_k, b_k, b_column],
        edges: [n, 0, 1, 0],
        m,
        n,
        k,
        batch: batches,
        alpha: 0.5,
        beta: 2.0,
        ..Default::default()
    };
    let count = (batches * m * n) as usize;
    let mut out = vec![0xff; (count * key.output.size() as usize).next_multiple_of(4)];
    let (mut a_bytes, mut b_bytes) = (encode(key.input, &a), encode(key.input, &b));
    let mut bias_bytes = encode(key.output, &bias);
    let mut operands: Vec<Operand<'_>> = vec![output(&mut out), input(&mut a_bytes), input(&mut b_bytes)];
    if key.bias {
        operands.push(input(&mut bias_bytes));
    }
    run(Kernel::MatmulSimd(key), bytes_of(&params), key.groups(m, n, batches), &mut operands);
    let got = decode(key.output, &out[..count * key.output.size() as usize]);
    let tolerance = if key.output == DType::F16 { 4e-3 } else { 2e-5 };
    for (at, got) in (0..).zip(got) {
        let (z, row, column) = (at / (m * n), at / n % m, at % n);
        let term = |step: u32| {
            a[(z * m * k + row * a_row + step * a_k) as usize]
                * b[(z * k * n + step * b_k + column * b_column) as usize]
        };
        let mut expected = 0.5 * (0..k).map(term).sum::<f64>();
        if key.bias {
            expected += 2.0 * decode(key.output, &encode(key.output, &[bias[column as usize]]))[0];
        }
        if key.activation == Some(Op::Relu) {
            expected = expected.max(0.0);
        }
        assert!(
            (got - expected).abs() <= tolerance * expected.abs().max(1.0),
            "{key:?} at {at}: {got} not {expected}"
        );
    }
}

#[test]
fn products_on_simdgroup_matrices_of_every_order() {
    for bits in 0..4 {
        let (a_along_k, b_along_k) = (bits & 1 != 0, bits & 2 != 0);
        for (input, output) in [(DType::F32, DType::F32), (DType::F16, DType::F16), (DType::F16, DType::F32)]
        {
            let bias = bits == 3;
            let activation = bias.then_some(Op::Relu);
            let key = MatmulSimd { input, output, a_along_k, b_along_k, bias, activation };
            // Whole tiles, and edges in every direction.
            for (m, n, k) in [(64, 64, 32), (70, 37, 19), (1, 130, 8), (3, 2, 1)] {
                compare(key, m, n, k);
            }
        }
    }
}
