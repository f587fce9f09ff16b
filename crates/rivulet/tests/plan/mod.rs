//! Set-up that the tests of programs share: dense tensors that live as long as they are used, models made of them, and
//! programs of those models.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use super::gpu;
use gpu::{adapter, encode};
use rivulet::memory::Block;
use rivulet::ops::{
    DType, Op, Scalar, View, attention, copy, index_select, layer_norm, matmul, pointwise, softmax,
};
use rivulet::plan::{Fusion, Noting, OutputPlace, Program, Span};
use rivulet::rng::Generator;
use rivulet::{Access, Device, DeviceOptions, Result};
use rivulet_hal::sync::Arc;
use rivulet_hal::vulkan::{self, Options};
use std::rc::Rc;

/// The adapter of all tests. Without the validation layer: version 1.3.239 loses count of a timeline that is waited for
/// and read by turns, and then waits 10 s by itself.
pub fn device() -> Option<Device> {
    let hal = vulkan::open(adapter::find()?, Options::default()).unwrap();
    Some(Device::with(hal, DeviceOptions::default()).unwrap())
}

/// The same with memory that the CPU does not see.
pub fn mirrored_device() -> Option<Device> {
    let hal = vulkan::open(adapter::find()?, Options { mirror: true, ..Options::default() }).unwrap();
    Some(Device::with(hal, DeviceOptions::default()).unwrap())
}

macro_rules! device_or_skip {
    () => {
        match plan::device() {
            Some(device) => device,
            None => return,
        }
    };
}
pub(crate) use device_or_skip;

/// Memory that goes back when it is dropped.
#[derive(Debug)]
struct Storage {
    device: Device,
    block: Arc<Block>,
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.device.free(Arc::clone(&self.block));
    }
}

/// Elements of a storage, as PyTorch's tensors are.
#[derive(Clone, Debug)]
pub struct Tensor {
    storage: Rc<Storage>,
    pub dtype: DType,
    pub offset: u64,
    pub shape: Vec<u64>,
    pub strides: Vec<i64>,
}

fn row_major(shape: &[u64]) -> Vec<i64> {
    gpu::dense(shape).strides
}

impl Tensor {
    pub fn empty(device: &Device, dtype: DType, shape: &[u64]) -> Result<Self> {
        let bytes = shape.iter().product::<u64>() * u64::from(dtype.size());
        let block = device.allocate(bytes.max(4))?;
        Ok(Self::over(device, block, dtype, shape))
    }

    /// Takes a block over.
    pub fn over(device: &Device, block: Arc<Block>, dtype: DType, shape: &[u64]) -> Self {
        let storage = Rc::new(Storage { device: device.clone(), block });
        Self { storage, dtype, offset: 0, shape: shape.to_vec(), strides: row_major(shape) }
    }

    pub fn of(device: &Device, dtype: DType, shape: &[u64], values: &[f64]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|&value| encode(dtype, value)).collect();
        assert_eq!(bytes.len() as u64, shape.iter().product::<u64>() * u64::from(dtype.size()));
        let made = Self::empty(device, dtype, shape).unwrap();
        made.write(&bytes);
        made
    }

    /// Numbers in (-1, 1) that a seed makes.
    pub fn random(device: &Device, dtype: DType, shape: &[u64], seed: u64) -> Self {
        let count = shape.iter().product::<u64>() as usize;
        let values: Vec<f64> = gpu::numbers(dtype, count, seed).iter().map(|x| x / 2.0).collect();
        Self::of(device, dtype, shape, &values)
    }

    pub fn block(&self) -> &Arc<Block> {
        &self.storage.block
    }

    pub fn device(&self) -> &Device {
        &self.storage.device
    }

    pub fn write(&self, bytes: &[u8]) {
        let first = self.offset * u64::from(self.dtype.size());
        self.device().write("write", self.block(), first, bytes).unwrap();
    }

    pub fn view(&self) -> View<'_> {
        View {
            block: self.block(),
            dtype: self.dtype,
            offset: self.offset,
            shape: self.shape.iter().copied().collect(),
            strides: self.strides.iter().copied().collect(),
        }
    }

    pub fn count(&self) -> u64 {
        self.shape.iter().product()
    }

    /// The bytes that a dense tensor covers.
    pub fn span(&self) -> Span<'_> {
        let size = u64::from(self.dtype.size());
        Span { block: self.block(), offset: self.offset * size, bytes: self.count() * size }
    }

    pub fn bytes(&self) -> Vec<u8> {
        read(self.device(), &self.span())
    }

    pub fn floats(&self) -> Vec<f64> {
        let size = self.dtype.size() as usize;
        self.bytes().chunks_exact(size).map(|bytes| gpu::decode(self.dtype, bytes)).collect()
    }

    pub fn with(&self, shape: &[u64], strides: &[i64]) -> Self {
        Self { shape: shape.to_vec(), strides: strides.to_vec(), ..self.clone() }
    }

    /// The same sizes and strides from another element on.
    pub fn starting_at(&self, offset: u64) -> Self {
        Self { offset, ..self.clone() }
    }

    /// Other sizes of a dense tensor.
    pub fn reshape(&self, shape: &[u64]) -> Self {
        assert_eq!(self.strides, row_major(&self.shape), "only of dense tensors");
        self.with(shape, &row_major(shape))
    }

    pub fn permute(&self, order: &[usize]) -> Self {
        let shape: Vec<u64> = order.iter().map(|&dim| self.shape[dim]).collect();
        let strides: Vec<i64> = order.iter().map(|&dim| self.strides[dim]).collect();
        self.with(&shape, &strides)
    }

    pub fn expand(&self, shape: &[u64]) -> Self {
        let missing = shape.len() - self.shape.len();
        let stride = |dim: usize| {
            let own = dim.checked_sub(missing).filter(|&own| self.shape[own] == shape[dim]);
            own.map_or(0, |own| self.strides[own])
        };
        self.with(shape, &(0..shape.len()).map(stride).collect::<Vec<_>>())
    }
}

pub fn read(device: &Device, span: &Span<'_>) -> Vec<u8> {
    let mut bytes = vec![0; span.bytes as usize];
    device.read("read", span.block, span.offset, &mut bytes).unwrap();
    bytes
}

// --- ops that allocate their results ---------------------------------------------------------------------

pub fn unary(op: Op, x: &Tensor) -> Result<Tensor> {
    let out = Tensor::empty(x.device(), x.dtype, &x.shape)?;
    pointwise(x.device(), op, x.dtype, &out.view(), &[x.view()], None, &[])?;
    Ok(out)
}

pub fn binary(op: Op, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let out = Tensor::empty(a.device(), a.dtype, &a.shape)?;
    let b = b.expand(&a.shape);
    pointwise(a.device(), op, a.dtype, &out.view(), &[a.view(), b.view()], None, &[])?;
    Ok(out)
}

pub fn scaled(op: Op, x: &Tensor, factor: f32) -> Result<Tensor> {
    let out = Tensor::empty(x.device(), x.dtype, &x.shape)?;
    pointwise(x.device(), op, x.dtype, &out.view(), &[x.view()], Some(1), &[Scalar::F32(factor)])?;
    Ok(out)
}

pub fn in_place(op: Op, x: &Tensor) -> Result<()> {
    pointwise(x.device(), op, x.dtype, &x.view(), &[x.view()], None, &[])
}

/// `x @ wᵀ + bias`, the weight as PyTorch's Linear keeps it.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (rows, columns) = (x.shape[..x.shape.len() - 1].iter().product::<u64>(), weight.shape[0]);
    let flat = x.reshape(&[rows, weight.shape[1]]);
    let out = Tensor::empty(x.device(), x.dtype, &[rows, columns])?;
    let bias = bias.map(|bias| bias.expand(&[rows, columns]));
    let bias = bias.as_ref().map(Tensor::view);
    matmul(
        x.device(),
        &out.view(),
        &flat.view(),
        &weight.permute(&[1, 0]).view(),
        bias.as_ref(),
        1.0,
        1.0,
        None,
    )?;
    let mut shape = x.shape.clone();
    shape.pop();
    shape.push(columns);
    Ok(out.reshape(&shape))
}

pub fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let mut shape = a.shape.clone();
    shape.pop();
    shape.extend(b.shape.last());
    let out = Tensor::empty(a.device(), a.dtype, &shape)?;
    matmul(a.device(), &out.view(), &a.view(), &b.view(), None, 1.0, 0.0, None)?;
    Ok(out)
}

pub fn contiguous(x: &Tensor) -> Result<Tensor> {
    let out = Tensor::empty(x.device(), x.dtype, &x.shape)?;
    copy(x.device(), &out.view(), &x.view())?;
    Ok(out)
}

pub fn norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let out = Tensor::empty(x.device(), x.dtype, &x.shape)?;
    let (weight, bias) = (weight.view(), bias.view());
    layer_norm(x.device(), &out.view(), None, None, &x.view(), Some(&weight), Some(&bias), 1e-5)?;
    Ok(out)
}

pub fn soft(x: &Tensor) -> Result<Tensor> {
    let out = Tensor::empty(x.device(), x.dtype, &x.shape)?;
    softmax(x.device(), false, &out.view(), &x.view(), x.shape.len() - 1)?;
    Ok(out)
}

pub fn embed(table: &Tensor, index: &Tensor) -> Result<Tensor> {
    let mut shape = index.shape.clone();
    shape.push(table.shape[1]);
    let out = Tensor::empty(table.device(), table.dtype, &shape)?;
    let flat = index.reshape(&[index.count()]);
    let rows = out.reshape(&[index.count(), table.shape[1]]);
    index_select(table.device(), &rows.view(), &table.view(), 0, &flat.view())?;
    Ok(out)
}

/// `[batch, length, width]` with that many heads.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, heads: u64) -> Result<Tensor> {
    let (batch, length, width) = (q.shape[0], q.shape[1], q.shape[2]);
    let split = |x: &Tensor| x.reshape(&[batch, length, heads, width / heads]).permute(&[0, 2, 1, 3]);
    let out = Tensor::empty(q.device(), q.dtype, &[batch, length, heads, width / heads])?;
    let scale = 1.0 / ((width / heads) as f32).sqrt();
    let (q, k, v) = (split(q), split(k), split(v));
    attention(
        q.device(),
        &out.permute(&[0, 2, 1, 3]).view(),
        None,
        &q.view(),
        &k.view(),
        &v.view(),
        None,
        false,
        scale,
    )?;
    Ok(out.reshape(&[batch, length, width]))
}

// --- programs ----------------------------------------------------------------------------------------------

/// Notes a model's run; its program, and what the run gave.
pub fn capture(
    device: &Device,
    inputs: &[&Tensor],
    model: impl FnOnce(&[&Tensor]) -> Result<Vec<Tensor>>,
) -> Result<(Program, Vec<Tensor>)> {
    capture_with(device, inputs, Fusion::On, model)
}

pub fn capture_with(
    device: &Device,
    inputs: &[&Tensor],
    fusion: Fusion,
    model: impl FnOnce(&[&Tensor]) -> Result<Vec<Tensor>>,
) -> Result<(Program, Vec<Tensor>)> {
    let spans: Vec<_> = inputs.iter().map(|input| input.span()).collect();
    let noting = Noting::begin(device, &spans)?;
    let outputs = model(inputs)?;
    let spans: Vec<_> = outputs.iter().map(Tensor::span).collect();
    Ok((noting.end_with(&spans, fusion)?, outputs))
}

/// The bytes of all outputs of one run.
pub fn run(program: &Program, inputs: &[&Tensor], like: &[Tensor], rng: Option<&Generator>) -> Vec<Vec<u8>> {
    let device = program.device();
    let spans: Vec<_> = inputs.iter().map(|input| input.span()).collect();
    let fresh = program.run(&spans, rng).unwrap();
    device.current_stream().unwrap().synchronize().unwrap();
    let bytes = like.iter().enumerate().map(|(index, like)| {
        let bytes = like.span().bytes;
        let span = match program.output(index).unwrap() {
            OutputPlace::Fresh { index, offset } => Span { block: &fresh[index], offset, bytes },
            OutputPlace::Input { index, offset } => {
                Span { block: inputs[index].block(), offset: spans[index].offset + offset, bytes }
            }
            OutputPlace::Shared { block, offset } => Span { block, offset, bytes },
        };
        read(device, &span)
    });
    let bytes = bytes.collect();
    fresh.into_iter().for_each(|block| device.free(block));
    bytes
}

/// A model's program against the model itself, on the inputs of the noting and on others: without fusion bit by bit, with
/// fusion within `tolerance` roundings of the type, 0 for bit by bit. The fused program.
#[track_caller]
pub fn equals_eager(
    device: &Device,
    tolerance: f64,
    inputs: impl Fn(u64) -> Vec<Tensor>,
    model: impl Fn(&[&Tensor]) -> Result<Vec<Tensor>>,
) -> Program {
    let mut programs = [Fusion::Off, Fusion::On].into_iter().map(|fusion| {
        let example = inputs(0);
        let refs: Vec<&Tensor> = example.iter().collect();
        let (program, noted) = capture_with(device, &refs, fusion, &model).unwrap();
        let report = program.report();
        let (arena, peak) = (report.arena_bytes, report.eager_peak_bytes);
        assert!(arena * 10 <= peak * 11, "{arena} bytes of arena; the eager run needed {peak}");
        for seed in 0..3 {
            let given = inputs(seed);
            let refs: Vec<&Tensor> = given.iter().collect();
            let got = run(&program, &refs, &noted, None);
            let fresh = inputs(seed);
            let refs: Vec<&Tensor> = fresh.iter().collect();
            let want = model(&refs).unwrap();
            for (at, (got, want)) in got.iter().zip(&want).enumerate() {
                let what = format!("seed {seed}, output {at}, {fusion:?}: {report:#?}");
                let exact = want.bytes();
                assert!(exact.iter().any(|&byte| byte != 0), "only zeros tell nothing");
                if fusion == Fusion::Off || tolerance == 0.0 || !want.dtype.is_float() {
                    assert!(*got == exact, "{what}");
                    continue;
                }
                let got: Vec<f64> = got
                    .chunks_exact(want.dtype.size() as usize)
                    .map(|x| gpu::decode(want.dtype, x))
                    .collect();
                gpu::assert_close(&got, &want.floats(), tolerance * gpu::unit(want.dtype), 1.0, &what);
            }
        }
        program
    });
    programs.next();
    programs.next().unwrap()
}

/// Takes an access and gives it back, so that a noting sees one.
pub fn touch(device: &Device, op: &'static str, block: &Block, access: Access) {
    drop(device.host_access(op, &[(block, access)]).unwrap());
}
