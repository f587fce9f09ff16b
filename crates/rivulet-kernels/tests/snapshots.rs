//! What naga makes of a few kernels, so that a new naga, or a change of the shared WGSL, shows what it changes.
//!
//! `RIVULET_UPDATE_SNAPSHOTS=1` writes them anew.
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

use rivulet_kernels::*;
use std::fmt::Write;
use std::path::Path;

fn kernels() -> Vec<Kernel> {
    let matmul = |tile, input| {
        Kernel::Matmul(Matmul {
            input,
            output: input,
            tile,
            a_along_k: true,
            b_along_k: true,
            bias: true,
            activation: Some(Op::Gelu),
            store: ProductStore::Pairs,
            quads: false,
            residual: false,
            split: false,
        })
    };
    vec![
        Kernel::Pointwise(Pointwise::new(Op::Add, DType::F32, Layout::Linear)),
        Kernel::Pointwise(Pointwise::new(Op::Mul, DType::BF16, Layout::GatheredRagged)),
        Kernel::Pointwise(Pointwise::new(Op::Exp, DType::F16, Layout::Linear)),
        Kernel::Pointwise(Pointwise::new(Op::Eq, DType::I64, Layout::Strided)),
        Kernel::Row(Row::new(RowOp::Softmax, DType::F32, DType::F32, 0, 1024, 1)),
        Kernel::Reduce(Reduce::new(ReduceOp::Sum, DType::F16, ReduceOutput::Values, ReduceThreads::Group)),
        matmul(Tile::Small, DType::F32),
        matmul(Tile::Skinny4, DType::BF16),
        Kernel::Scatter(Scatter { op: ScatterOp::Add, dtype: DType::F32, index: DType::I64, scalar: false }),
        Kernel::Attention(Attention {
            dtype: DType::F16,
            mask: Mask::Bool,
            causal: true,
            head: HeadSize::Upto64,
            pairs: true,
            logsumexp: false,
            quads: false,
            tile: None,
            written_out: false,
        }),
    ]
}

/// FNV-1a over the words.
fn hash(words: &[u32]) -> u64 {
    words
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &word| (hash ^ u64::from(word)).wrapping_mul(0x100_0000_01b3))
}

fn compare(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name);
    #[allow(clippy::disallowed_methods, reason = "a switch of this test alone")]
    if std::env::var("RIVULET_UPDATE_SNAPSHOTS").is_ok_and(|value| value == "1") {
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "{name} differs; RIVULET_UPDATE_SNAPSHOTS=1 writes it anew, then read the difference"
    );
}

#[test]
fn spirv_and_msl_are_as_kept() {
    let mut spirv = String::new();
    for kernel in kernels() {
        let controls =
            FloatControls { preserve_nan_f32: true, preserve_subnormals_f32: true, round_even_f16: true };
        match translate(&kernel, Target::SpirV(controls)) {
            Ok(Translated::SpirV(words)) => {
                writeln!(spirv, "{} {} words {:016x}", kernel.label(), words.len(), hash(&words)).unwrap();
            }
            other => panic!("{other:?}"),
        }
        match translate(&kernel, Target::Msl) {
            Ok(Translated::Msl { text, .. }) => compare(&format!("{}.metal", kernel.label()), &text),
            other => panic!("{other:?}"),
        }
    }
    compare("spirv.txt", &spirv);
}

#[test]
fn float_operations_are_not_contracted_and_modes_are_declared() {
    let kernel = Kernel::Pointwise(Pointwise::new(Op::Log, DType::F16, Layout::Linear));
    let count = |controls: FloatControls, find: fn(&[u32]) -> bool| {
        let Ok(Translated::SpirV(words)) = translate(&kernel, Target::SpirV(controls)) else {
            panic!("no SPIR-V")
        };
        let mut rest = &words[5..];
        let mut found = 0;
        while let Some(&first) = rest.first() {
            let (instruction, tail) = rest.split_at((first >> 16) as usize);
            found += usize::from(find(instruction));
            rest = tail;
        }
        found
    };
    let none = FloatControls::default();
    let all = FloatControls { preserve_nan_f32: true, preserve_subnormals_f32: true, round_even_f16: true };
    let arithmetic = |i: &[u32]| matches!(i[0] & 0xffff, 127 | 129 | 131 | 133 | 136);
    let decorated = |i: &[u32]| i[0] & 0xffff == 71 && i[2] == 42;
    assert!(count(none, arithmetic) > 10);
    assert_eq!(count(none, arithmetic), count(none, decorated));
    // LocalSize, and with them the three modes.
    let mode = |i: &[u32]| i[0] & 0xffff == 16;
    assert_eq!((count(none, mode), count(all, mode)), (1, 4));
}
