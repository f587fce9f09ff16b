//! Gathers and scatters.

use crate::gpu::{input, output, run};
use crate::need_device;
use crate::values::{decode, encode};
use bytemuck::bytes_of;
use rivulet_kernels::params::{PointwiseParams, Scalar, StridedParams, scalars};
use rivulet_kernels::{DType, Gather, Kernel, Layout, Scatter, ScatterOp};

/// Places `[rows, columns]`; strides of output, index and source, columns first.
fn params(rows: u32, columns: u32, strides: [[i32; 4]; 2], offset: u32) -> StridedParams {
    let offsets = [offset, 0, 0, 0];
    StridedParams {
        dense: PointwiseParams { offsets, count: rows * columns, rank: 2, ..Default::default() },
        shape: [columns, rows, 1, 1],
        strides: [strides[0], strides[1], [0; 4], [0; 4]],
    }
}

#[test]
fn rows_are_selected_by_index_and_negative_ones_count_from_the_end() {
    need_device!();
    let (rows, columns) = (6, 5);
    for dtype in DType::ALL {
        for index_type in [DType::I64, DType::I32] {
            for (layout, offset) in [(Layout::Linear, 0), (Layout::LinearRagged, 3), (Layout::Strided, 1)] {
                let table: Vec<f64> = (0..20).map(|k| f64::from(k * 3 % 11)).collect();
                let table = decode(dtype, &encode(dtype, &table));
                let index = [2.0, 0.0, -1.0, 3.0, 4.0, 1.0];
                let before = decode(dtype, &encode(dtype, &[1.0; 40]));
                let mut want = before.clone();
                for row in 0..rows {
                    for column in 0..columns {
                        let i = if index[row] < 0.0 { index[row] + 4.0 } else { index[row] };
                        // Index 4 is outside.
                        want[offset + row * columns + column] =
                            if i < 4.0 { table[i as usize * columns + column] } else { 0.0 };
                    }
                }
                let key = Gather::new(dtype, index_type, layout);
                let p = params(
                    rows as u32,
                    columns as u32,
                    [[1, 0, 1, 0], [columns as i32, 1, 0, 0]],
                    offset as u32,
                );
                let p = p.indexed(4, columns as i32);
                let (mut out, mut index, mut table) =
                    (encode(dtype, &before), encode(index_type, &index), encode(dtype, &table));
                run(
                    Kernel::Gather(key),
                    bytes_of(&p),
                    key.groups(offset as u32, (rows * columns) as u32),
                    &mut [output(&mut out), input(&mut index), input(&mut table)],
                );
                // Whole words may run past the last element.
                let compared = if layout == Layout::Linear { rows * columns } else { want.len() };
                assert_eq!(
                    decode(dtype, &out)[..compared],
                    want[..compared],
                    "{dtype:?} {index_type:?} {layout:?}"
                );
            }
        }
    }
}

/// What the kernels that take a scalar assign and join.
fn two(dtype: DType) -> Scalar {
    match dtype {
        DType::I64 => Scalar::I64(2),
        _ if dtype.is_float() => Scalar::F32(2.0),
        _ => Scalar::I32(2),
    }
}

#[test]
fn scattered_elements_meet_as_told() {
    need_device!();
    for dtype in DType::ALL {
        for op in ScatterOp::ALL.into_iter().filter(|op| op.takes(dtype)) {
            for scalar in [false, true] {
                let (rows, columns) = (300, 3);
                let table = decode(dtype, &encode(dtype, &(0..15).map(f64::from).collect::<Vec<_>>()));
                let source = decode(
                    dtype,
                    &encode(dtype, &(0..rows * columns).map(|k| f64::from(k % 2 + 1)).collect::<Vec<_>>()),
                );
                // Assigned to each place once; else to a few places often. The last is outside.
                let assign = op == ScatterOp::Assign;
                let index: Vec<f64> =
                    (0..rows).map(|k| if assign && k >= 5 { 9.0 } else { f64::from(k % 6) }).collect();
                let mut want = table.clone();
                for (row, &i) in index.iter().enumerate() {
                    for column in 0..columns as usize {
                        if i < 5.0 {
                            let at = i as usize * 3 + column;
                            let x = if scalar { 2.0 } else { source[row * 3 + column] };
                            want[at] = match op {
                                ScatterOp::Assign => x,
                                ScatterOp::Add => want[at] + x,
                                ScatterOp::Mul => want[at] * if dtype.is_float() { 1.0 } else { x },
                                ScatterOp::Max => want[at].max(x),
                                ScatterOp::Min => want[at].min(x),
                            };
                            // Whole numbers below 2^8 are exact in every type; integers wrap, and bools are 0 or 1.
                            want[at] = decode(dtype, &encode(dtype, &[want[at]]))[0];
                        }
                    }
                }
                if dtype.is_float() && op == ScatterOp::Mul || dtype == DType::BF16 && op == ScatterOp::Add {
                    continue;
                }
                let key = Scatter { op, dtype, index: DType::I64, scalar };
                let mut p = params(rows as u32, columns as u32, [[1, 0, 1, 0], [0, 1, columns, 0]], 0)
                    .indexed(5, columns);
                p.dense.scalars = scalars(&[two(dtype)]);
                let (mut out, mut index, mut source) =
                    (encode(dtype, &table), encode(DType::I64, &index), encode(dtype, &source));
                let mut operands = vec![output(&mut out), input(&mut index)];
                if !scalar {
                    operands.push(input(&mut source));
                }
                let kernel = Kernel::Scatter(key);
                run(kernel, bytes_of(&p), key.groups((rows * columns) as u32), &mut operands);
                assert_eq!(decode(dtype, &out), want, "{}", kernel.label());
            }
        }
    }
}

#[test]
fn an_element_that_many_assign_is_what_one_of_them_said() {
    need_device!();
    let (rows, columns) = (256u32, 2u32);
    for dtype in DType::ALL {
        for scalar in [false, true] {
            let table = decode(dtype, &encode(dtype, &(0..10).map(f64::from).collect::<Vec<_>>()));
            // Neighbours mean the same place, so that they do at the same time.
            let place = |row: u32| row * 4 / rows;
            let index: Vec<f64> = (0..rows).map(|row| f64::from(place(row))).collect();
            // Of every place two values, each from many rows.
            let said = |row: u32, column: u32| f64::from((row % 2) * 16 + place(row) * 2 + column);
            let source: Vec<f64> = (0..rows * columns).map(|k| said(k / columns, k % columns)).collect();
            let source = decode(dtype, &encode(dtype, &source));
            let key = Scatter { op: ScatterOp::Assign, dtype, index: DType::I64, scalar };
            let mut p = params(rows, columns, [[1, 0, 1, 0], [0, 1, 2, 0]], 0).indexed(5, 2);
            p.dense.scalars = scalars(&[two(dtype)]);
            let (mut out, mut places, mut values) =
                (encode(dtype, &table), encode(DType::I64, &index), encode(dtype, &source));
            let mut operands = vec![output(&mut out), input(&mut places)];
            if !scalar {
                operands.push(input(&mut values));
            }
            let kernel = Kernel::Scatter(key);
            run(kernel, bytes_of(&p), key.groups(rows * columns), &mut operands);
            let two = decode(dtype, &encode(dtype, &[2.0]))[0];
            for (at, got) in decode(dtype, &out).into_iter().enumerate() {
                let allowed: Vec<f64> = match (at / 2, scalar) {
                    (4, _) => vec![table[at]],
                    (_, true) => vec![two],
                    (row, false) => [0, 1].map(|one| source[(row * 64 + one) * 2 + at % 2]).into(),
                };
                assert!(allowed.contains(&got), "{}, element {at}: {got}, not {allowed:?}", kernel.label());
            }
        }
    }
}

#[test]
fn wide_integers_carry_when_they_are_added() {
    need_device!();
    let key = Scatter { op: ScatterOp::Add, dtype: DType::I64, index: DType::I64, scalar: false };
    let source: Vec<i64> = vec![0xffff_ffff, 1, -1, i64::MIN, 0x1_0000_0001, -5];
    let want: i64 = source.iter().fold(7, |a: i64, b| a.wrapping_add(*b));
    let p = params(6, 1, [[1, 0, 1, 0], [0, 1, 1, 0]], 0).indexed(1, 1);
    let mut out = 7_i64.to_le_bytes().to_vec();
    let (mut index, mut source) = (vec![0; 48], bytemuck::cast_slice(&source).to_vec());
    run(
        Kernel::Scatter(key),
        bytes_of(&p),
        key.groups(6),
        &mut [output(&mut out), input(&mut index), input(&mut source)],
    );
    assert_eq!(out, want.to_le_bytes());
}
