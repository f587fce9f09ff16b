//! Tensors of the tests: values of any element type as bytes, and back.

use half::{bf16, f16};
use rivulet_kernels::DType;

/// The bytes of `values`, each rounded to `dtype` (integers wrap).
pub fn encode(dtype: DType, values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|&x| encode_one(dtype, x)).collect()
}

fn encode_one(dtype: DType, x: f64) -> Vec<u8> {
    match dtype {
        DType::F32 => (x as f32).to_le_bytes().to_vec(),
        DType::F16 => f16::from_f32(x as f32).to_le_bytes().to_vec(),
        DType::BF16 => bf16::from_f32(x as f32).to_le_bytes().to_vec(),
        DType::I64 => (x as i64).to_le_bytes().to_vec(),
        DType::I32 => (x as i64 as i32).to_le_bytes().to_vec(),
        DType::I16 => (x as i64 as i16).to_le_bytes().to_vec(),
        DType::I8 | DType::U8 => vec![x as i64 as u8],
        DType::Bool => vec![u8::from(x != 0.0)],
    }
}

/// The values of `bytes`. Integers beyond 2^53 lose bits; compare bytes where that matters.
pub fn decode(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    bytes.chunks_exact(dtype.size() as usize).map(|b| decode_one(dtype, b)).collect()
}

fn decode_one(dtype: DType, b: &[u8]) -> f64 {
    match dtype {
        DType::F32 => f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        DType::F16 => f64::from(f16::from_le_bytes([b[0], b[1]])),
        DType::BF16 => f64::from(bf16::from_le_bytes([b[0], b[1]])),
        DType::I64 => i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f64,
        DType::I32 => f64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        DType::I16 => f64::from(i16::from_le_bytes([b[0], b[1]])),
        DType::I8 => f64::from(b[0] as i8),
        DType::U8 => f64::from(b[0]),
        DType::Bool => f64::from(u8::from(b[0] != 0)),
    }
}

/// Bytes of float32 values.
pub fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Float32 values of bytes.
pub fn as_f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}
