//! Set-up that the tests of native ops share: a device, tensors of any type and layout, and comparisons.
//!
//! The device is [the adapter of all tests](adapter). The validation layer looks on where it is installed.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    unused_macros,
    reason = "each test file uses its own part"
)]

#[path = "../../../rivulet-hal/tests/common/adapter.rs"]
pub mod adapter;
#[path = "../common/mod.rs"]
pub mod common;

use half::{bf16, f16};
use rivulet::memory::Block;
use rivulet::ops::{DType, View};
use rivulet::{Access, Device, DeviceOptions, Error};
use rivulet_hal::sync::Arc;
use rivulet_hal::vulkan::{self, Options};

pub fn device() -> Option<Device> {
    let hal = adapter::open(&Options::default())?;
    Some(Device::with(hal, DeviceOptions::default()).unwrap())
}

macro_rules! device_or_skip {
    () => {
        match gpu::device() {
            Some(device) => device,
            None => return,
        }
    };
}
pub(crate) use device_or_skip;

/// Nothing came from the validation layer.
#[track_caller]
pub fn clean() {
    assert_eq!(vulkan::validation_messages(), [""; 0]);
}

/// What bytes hold that belong to no element.
const BESIDE: u8 = 0x5a;

/// Sizes, strides and first element.
#[derive(Clone, Debug)]
pub struct Shape {
    pub sizes: Vec<u64>,
    pub strides: Vec<i64>,
    pub offset: u64,
}

/// Dense, row-major, from the start.
pub fn dense(sizes: &[u64]) -> Shape {
    let mut strides = vec![1; sizes.len()];
    for dim in (1..sizes.len()).rev() {
        strides[dim - 1] = strides[dim] * sizes[dim].max(1) as i64;
    }
    Shape { sizes: sizes.to_vec(), strides, offset: 0 }
}

/// The layouts in which every op has to work: dense, dense inside a larger storage, columns first, with gaps, and turned
/// round.
pub fn layouts(sizes: &[u64]) -> Vec<Shape> {
    let plain = dense(sizes);
    let inside = Shape { offset: 3, ..plain.clone() };
    let reversed: Vec<u64> = sizes.iter().rev().copied().collect();
    let columns = Shape { strides: dense(&reversed).strides.into_iter().rev().collect(), ..plain.clone() };
    let gaps = Shape {
        strides: plain.strides.iter().map(|stride| stride * 3).collect(),
        offset: 5,
        ..plain.clone()
    };
    let mut round = plain.clone();
    if let (Some(stride), Some(&size)) = (round.strides.first_mut(), sizes.first()) {
        round.offset = size.saturating_sub(1) * *stride as u64;
        *stride = -*stride;
    }
    vec![plain, inside, columns, gaps, round]
}

impl Shape {
    pub fn count(&self) -> usize {
        self.sizes.iter().product::<u64>() as usize
    }

    /// The elements' places in memory, in row-major order.
    pub fn places(&self) -> Vec<usize> {
        (0..self.count())
            .map(|index| {
                let at = place(&self.sizes, index);
                let moved: i64 = at.iter().zip(&self.strides).map(|(&at, stride)| at as i64 * stride).sum();
                usize::try_from(self.offset as i64 + moved).unwrap()
            })
            .collect()
    }
}

/// Coordinates of element `index` in row-major order.
pub fn place(sizes: &[u64], index: usize) -> Vec<usize> {
    let (mut rest, mut at) = (index, vec![0; sizes.len()]);
    for dim in (0..sizes.len()).rev() {
        at[dim] = rest % sizes[dim] as usize;
        rest /= sizes[dim] as usize;
    }
    at
}

/// The reverse of [`place`].
pub fn index(sizes: &[u64], at: &[usize]) -> usize {
    sizes.iter().zip(at).fold(0, |index, (&size, &at)| index * size as usize + at)
}

/// A tensor of its own memory.
pub struct Tensor {
    device: Device,
    block: Arc<Block>,
    dtype: DType,
    pub shape: Shape,
    bytes: usize,
}

impl Drop for Tensor {
    fn drop(&mut self) {
        self.device.free(Arc::clone(&self.block));
    }
}

/// A tensor with the given elements, in row-major order.
pub fn tensor(device: &Device, dtype: DType, shape: &Shape, values: &[f64]) -> Tensor {
    assert_eq!(values.len(), shape.count());
    let size = dtype.size() as usize;
    let places = shape.places();
    // Storages that end with the last element, and such that do not.
    let beyond = if shape.offset == 0 { 1 } else { 5 };
    let mut bytes = vec![BESIDE; places.iter().map(|place| (place + beyond) * size).max().unwrap_or(4)];
    for (place, value) in places.iter().zip(values) {
        bytes[place * size..(place + 1) * size].copy_from_slice(&encode(dtype, *value));
    }
    let block = device.allocate(bytes.len() as u64).unwrap();
    let access = device.host_access("write", &[(&block, Access::Write)]).unwrap();
    common::store(&block, &bytes);
    access.finish().unwrap();
    Tensor { device: device.clone(), block, dtype, shape: shape.clone(), bytes: bytes.len() }
}

/// A tensor for results: zeros.
pub fn zeros(device: &Device, dtype: DType, shape: &Shape) -> Tensor {
    tensor(device, dtype, shape, &vec![0.0; shape.count()])
}

impl Tensor {
    pub fn view(&self) -> View<'_> {
        self.as_view(&self.shape)
    }

    /// Other elements of the same memory.
    pub fn as_view(&self, shape: &Shape) -> View<'_> {
        View {
            block: &self.block,
            dtype: self.dtype,
            offset: shape.offset,
            shape: shape.sizes.iter().copied().collect(),
            strides: shape.strides.iter().copied().collect(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        // Of a wait for a value between two that are signalled the validation layer 1.3.239 loses sight: it waits 10 s
        // for itself and calls that "most likely a validation bug". So the stream's last value is waited for first.
        self.device.synchronize().unwrap();
        let access = self.device.host_access("read", &[(&self.block, Access::Read)]).unwrap();
        let bytes = common::load(&self.block, 0, self.bytes);
        access.finish().unwrap();
        bytes
    }

    /// The elements' bytes in row-major order.
    pub fn raw(&self) -> Vec<Vec<u8>> {
        let (bytes, size) = (self.bytes(), self.dtype.size() as usize);
        self.shape.places().into_iter().map(|at| bytes[at * size..(at + 1) * size].to_vec()).collect()
    }

    /// The elements in row-major order. What lies beside them must be as it was.
    #[track_caller]
    pub fn values(&self) -> Vec<f64> {
        let (mut bytes, size) = (self.bytes(), self.dtype.size() as usize);
        let places = self.shape.places();
        let values = places.iter().map(|at| decode(self.dtype, &bytes[at * size..(at + 1) * size])).collect();
        for at in &places {
            bytes[at * size..(at + 1) * size].fill(BESIDE);
        }
        let changed = bytes.iter().position(|&byte| byte != BESIDE);
        assert_eq!(changed, None, "wrote beside the view {:?}", self.shape);
        values
    }
}

/// One element's bytes, rounded to `dtype`.
pub fn encode(dtype: DType, x: f64) -> Vec<u8> {
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

pub fn decode(dtype: DType, b: &[u8]) -> f64 {
    match dtype {
        DType::F32 => f64::from(f32::from_le_bytes(b.try_into().unwrap())),
        DType::F16 => f64::from(f16::from_le_bytes(b.try_into().unwrap())),
        DType::BF16 => f64::from(bf16::from_le_bytes(b.try_into().unwrap())),
        DType::I64 => i64::from_le_bytes(b.try_into().unwrap()) as f64,
        DType::I32 => f64::from(i32::from_le_bytes(b.try_into().unwrap())),
        DType::I16 => f64::from(i16::from_le_bytes(b.try_into().unwrap())),
        DType::I8 => f64::from(b[0] as i8),
        DType::U8 => f64::from(b[0]),
        DType::Bool => f64::from(u8::from(b[0] != 0)),
    }
}

/// A value as `dtype` holds it.
pub fn rounded(dtype: DType, x: f64) -> f64 {
    decode(dtype, &encode(dtype, x))
}

/// Uneven numbers that `dtype` holds: floats in (-2, 2), small integers.
pub fn numbers(dtype: DType, count: usize, seed: u64) -> Vec<f64> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut next = || match dtype {
        DType::U8 => f64::from(random.u8(0..20)),
        DType::Bool => f64::from(u8::from(random.bool())),
        float if float.is_float() => rounded(float, random.f64() * 4.0 - 2.0),
        _ => f64::from(random.i32(-20..20)),
    };
    (0..count).map(|_| next()).collect()
}

/// A unit in the last place, relative.
pub fn unit(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 1.0 / 1024.0,
        DType::BF16 => 1.0 / 128.0,
        DType::F32 => 1.2e-7,
        _ => 0.0,
    }
}

/// Each number within `tolerance` of what is wanted, relative to `scale` or to the number itself.
#[track_caller]
pub fn assert_close(got: &[f64], want: &[f64], tolerance: f64, scale: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let wrong: Vec<_> = got
        .iter()
        .zip(want)
        .enumerate()
        .filter(|(_, (got, want))| {
            let near = (*got - *want).abs() <= tolerance * want.abs().max(scale);
            !(near || got == want || (got.is_nan() && want.is_nan()))
        })
        .collect();
    let first: Vec<_> = wrong
        .iter()
        .take(8)
        .map(|(index, (got, want))| format!("element {index}: {got} for {want}"))
        .collect();
    assert!(wrong.is_empty(), "{what}, {} of {} wrong: {}", wrong.len(), got.len(), first.join(", "));
}

/// The text of an error that says that there is no kernel.
#[track_caller]
pub fn no_kernel(result: rivulet::Result<()>) -> String {
    match result {
        Err(error @ Error::NoKernel { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// The text of an error that says that operands do not fit.
#[track_caller]
pub fn bad_operand(result: rivulet::Result<()>) -> String {
    match result {
        Err(error @ Error::BadOperand { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}
