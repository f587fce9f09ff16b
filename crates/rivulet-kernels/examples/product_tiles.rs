//! What products take on each tile: `cargo run --release -p rivulet-kernels --example product_tiles -- adapter [shapes [tiles
//! [across]]]`, or what attention takes on each: `… -- adapter attention`. What the choice of tiles rests on
//! (`kernel/matmul_plan.rs`, `kernel/attention.rs`) is measured with it.
//!
//! Shapes are `m x k x n`; tiles are `rows x columns x depth _ own rows x own columns x slices` or `Skinny1`, `Skinny4`,
//! `Skinny8`, followed by a slash and the number of parts along k where there are several; all without blanks, separated by
//! them. The right factor runs along k, as a linear layer's weight does, or across it where a fourth argument follows; a bias is
//! added. Prints the time of a kernel that waits for the one before: the difference between 250 in one submission and 50,
//! the best of six each, and of products the largest error at 200 places over the sum of the terms' magnitudes.
#![allow(clippy::print_stdout, reason = "it is what an example is for")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "it ends where something fails"
)]

#[path = "../tests/gpu/memory.rs"]
#[allow(unreachable_pub, reason = "tests have it too")]
mod memory;

use bytemuck::bytes_of;
use rivulet_hal::vulkan::{self, Options};
use rivulet_hal::{
    AdapterClass, Binding, BufferRange, ByteRange, Device, MemoryUsage, Pipeline, PipelineDesc,
    PipelineSource, QueueIndex, Submission, TimelinePoint,
};
use rivulet_kernels::params::{AttentionParams, MatmulParams};
use rivulet_kernels::{
    Attention, AttentionTile, Blocks, DType, FloatControls, HeadSize, Kernel, Mask, Matmul, MatmulJoin,
    ProductStore, Target, Tile, Translated, translate,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SHAPES: &str = "512x256x768 512x256x256 512x256x2048 512x2048x256 32x384x1152 32x384x384 32x384x1536 32x1536x384 \
    32x512x1024 32x1024x1024 32x1024x512 32x256x128 1024x1024x1024";

/// Batches, heads, queries and keys, and the heads' size.
const ATTENTION: [[u32; 4]; 6] =
    [[8, 8, 64, 32], [1, 12, 32, 32], [4, 8, 32, 32], [8, 12, 128, 64], [1, 12, 128, 64], [1, 16, 1024, 64]];

fn compile(device: &Arc<dyn Device>, kernel: &Kernel) -> Option<Arc<dyn Pipeline>> {
    let shader = device.info().shader;
    let controls = FloatControls {
        preserve_nan_f32: shader.preserve_nan_f32,
        preserve_subnormals_f32: shader.preserve_subnormals_f32,
        round_even_f16: shader.round_even_f16,
    };
    let words = match translate(kernel, Target::SpirV(controls)) {
        Ok(Translated::SpirV(words)) => words,
        other => {
            println!("{other:?}");
            return None;
        }
    };
    let desc = PipelineDesc {
        label: kernel.label(),
        source: PipelineSource::SpirV(words),
        bindings: kernel.bindings(),
        param_bytes: kernel.param_bytes(),
        workgroup: kernel.workgroup(),
    };
    match device.pipeline(&desc) {
        Ok(pipeline) => Some(pipeline),
        Err(error) => {
            println!("{}: {error}", kernel.label());
            None
        }
    }
}

struct Bench {
    device: Arc<dyn Device>,
    pipelines: HashMap<Kernel, Option<Arc<dyn Pipeline>>>,
}

type Copies<'a> = &'a [(BufferRange, BufferRange)];

struct Step {
    pipeline: Arc<dyn Pipeline>,
    bindings: Vec<Binding>,
    params: Vec<u8>,
    groups: [u32; 3],
}

impl Bench {
    /// A dispatch; the first of the operands is written. None where the kernel does not compile.
    fn step(
        &mut self,
        kernel: Kernel,
        operands: &[&BufferRange],
        params: &[u8],
        groups: [u32; 3],
    ) -> Option<Step> {
        let device = &self.device;
        let pipeline = self.pipelines.entry(kernel).or_insert_with(|| compile(device, &kernel)).clone()?;
        let bound =
            |(at, buffer): (usize, &&BufferRange)| Binding { buffer: (*buffer).clone(), write: at == 0 };
        let bindings = operands.iter().enumerate().map(bound).collect();
        Some(Step { pipeline, bindings, params: params.to_vec(), groups })
    }

    fn memory(&self, elements: u32, usage: MemoryUsage) -> BufferRange {
        let end = u64::from(elements) * 4;
        let memory = self.device.allocate(end.next_multiple_of(16), usage).unwrap();
        BufferRange { memory, range: ByteRange { start: 0, end } }
    }

    /// Random numbers, and the copy that brings them to the device.
    fn numbers(&self, count: u32, seed: u64) -> (Vec<f32>, (BufferRange, BufferRange)) {
        let mut random = fastrand::Rng::with_seed(seed);
        let values: Vec<f32> = (0..count).map(|_| random.f32() * 2.0 - 1.0).collect();
        let from = self.memory(count, MemoryUsage::Upload);
        memory::set_bytes(&from.memory, bytemuck::cast_slice(&values));
        (values, (from, self.memory(count, MemoryUsage::Device)))
    }

    /// Seconds of `times` runs of the steps in one submission, each behind the one before, with copies before and after.
    fn submit(&self, before: Copies<'_>, steps: &[Step], times: u32, after: Copies<'_>) -> f64 {
        let mut recorder = self.device.recorder(QueueIndex(0)).unwrap();
        for (from, to) in before {
            recorder.copy(from, to).unwrap();
        }
        recorder.barrier().unwrap();
        for step in (0..times).flat_map(|_| steps) {
            recorder.dispatch(&step.pipeline, &step.bindings, &step.params, step.groups).unwrap();
            recorder.barrier().unwrap();
        }
        for (from, to) in after {
            recorder.copy(from, to).unwrap();
        }
        let commands = vec![recorder.finish().unwrap()];
        let timeline = self.device.timeline().unwrap();
        let signal = TimelinePoint { timeline: Arc::clone(&timeline), value: 1 };
        let start = Instant::now();
        let submission = Submission { commands, waits: vec![], signal, label: "kernels".to_owned() };
        self.device.submit(QueueIndex(0), vec![submission]).unwrap();
        assert!(timeline.wait(1, Duration::from_secs(60)).unwrap());
        start.elapsed().as_secs_f64()
    }

    fn time(&self, steps: &[Step]) -> f64 {
        // A device that is a CPU would take minutes.
        let cpu = self.device.info().class == AdapterClass::Cpu;
        let (few, many, rounds) = if cpu { (1, 2, 1) } else { (50, 250, 6) };
        let (mut short, mut long) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..rounds {
            short = short.min(self.submit(&[], steps, few, &[]));
            long = long.min(self.submit(&[], steps, many, &[]));
        }
        (long - short) / f64::from(many - few)
    }

    /// Attention on q, k and v that lie beside each other, as one product makes them.
    fn attention(&mut self, [batch, heads, length, dim]: [u32; 4]) {
        let width = heads * dim;
        let (_, qkv) = self.numbers(3 * batch * length * width, 7);
        let out = self.memory(batch * length * width, MemoryUsage::Device);
        let params = AttentionParams {
            offsets: [0, 0, width, 2 * width],
            batch_strides: [length * width, 3 * length * width, 3 * length * width, 3 * length * width],
            head_strides: [dim; 4],
            row_strides: [width, 3 * width, 3 * width, 3 * width],
            queries: length,
            keys: length,
            dim,
            group: 1,
            scale: 1.0 / (dim as f32).sqrt(),
            ..Default::default()
        };
        let head = HeadSize::choose(dim).unwrap();
        let tiles: &[(u32, u32)] = match head {
            HeadSize::Upto32 => &[(64, 1), (32, 1), (16, 1), (32, 2), (16, 2)],
            HeadSize::Upto64 => &[(32, 1), (16, 1), (16, 2)],
            _ => &[],
        };
        let tiles = tiles.iter().map(|&(queries, slices)| Some(AttentionTile { queries, slices }));
        for tile in tiles.chain([None]) {
            let key = Attention {
                dtype: DType::F32,
                mask: Mask::None,
                causal: false,
                head,
                pairs: false,
                logsumexp: false,
                quads: true,
                tile,
                written_out: false,
            };
            let (operands, groups) = ([&out, &qkv.1, &qkv.1, &qkv.1], key.groups(length, heads, batch));
            let step = self.step(Kernel::Attention(key), &operands, bytes_of(&params), groups);
            let Some(step) = step else { continue };
            self.submit(std::slice::from_ref(&qkv), std::slice::from_ref(&step), 1, &[]);
            let tile = tile.map_or("none".to_owned(), |tile| format!("{}x{}", tile.queries, tile.slices));
            let time = self.time(&[step]) * 1e6;
            println!("attention {batch:3} x {heads:2} x {length:4} x {dim:3} tile {tile:5} {time:8.2} us");
        }
    }

    fn product(&mut self, [m, k, n]: [u32; 3], tiles: &[(Tile, u32)], along_k: bool) {
        let [(a, a_copy), (b, b_copy), (bias, bias_copy)] =
            [(m * k, 1), (n * k, 2), (n, 3)].map(|(count, seed)| self.numbers(count, seed));
        let out = self.memory(m * n, MemoryUsage::Device);
        let back = self.memory(m * n, MemoryUsage::Readback);
        for &(tile, parts) in tiles {
            let skinny = matches!(tile, Tile::Skinny1 | Tile::Skinny4 | Tile::Skinny8);
            let store = if skinny { ProductStore::One } else { ProductStore::Fours };
            let split = parts > 1;
            let key = Matmul {
                input: DType::F32,
                output: DType::F32,
                tile,
                a_along_k: true,
                b_along_k: along_k,
                bias: !split,
                activation: None,
                store,
                quads: true,
                residual: false,
                split,
            };
            let params = MatmulParams {
                strides: if along_k { [k, 1, 1, k] } else { [k, 1, n, 1] },
                edges: [n, 0, 1, if split { m * n } else { 0 }],
                m,
                n,
                k,
                batch: 1,
                alpha: 1.0,
                beta: 1.0,
                parts,
                chunk: k.div_ceil(parts).next_multiple_of(64),
                ..Default::default()
            };
            let (kernel, groups) = (Kernel::Matmul(key), key.groups(m, n, parts));
            let (a_on, b_on, bias_on) = (&a_copy.1, &b_copy.1, &bias_copy.1);
            let steps = if split {
                let sums = self.memory(m * n * parts, MemoryUsage::Device);
                let join =
                    MatmulJoin { output: DType::F32, bias: true, activation: None, residual: false, store };
                let of_join = MatmulParams { strides: [n, 0, 0, 0], ..params };
                let groups_of_join = join.groups(m, n, 1);
                [
                    self.step(kernel, &[&sums, a_on, b_on], bytes_of(&params), groups),
                    self.step(
                        Kernel::MatmulJoin(join),
                        &[&out, &sums, bias_on],
                        bytes_of(&of_join),
                        groups_of_join,
                    ),
                ]
                .into_iter()
                .collect::<Option<Vec<_>>>()
            } else {
                self.step(kernel, &[&out, a_on, b_on, bias_on], bytes_of(&params), groups)
                    .map(|step| vec![step])
            };
            let Some(steps) = steps else { continue };
            let copies = [a_copy.clone(), b_copy.clone(), bias_copy.clone()];
            self.submit(&copies, &steps, 1, &[(out.clone(), back.clone())]);
            let got = memory::bytes(&back.memory, back.range.end as usize);
            let mut error = 0.0_f64;
            for _ in 0..200 {
                let (row, column) = (fastrand::u32(..m), fastrand::u32(..n));
                let terms = (0..k).map(|i| {
                    let place = if along_k { column * k + i } else { i * n + column };
                    f64::from(a[(row * k + i) as usize]) * f64::from(b[place as usize])
                });
                let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
                let at = (row * n + column) as usize * 4;
                let got = f64::from(f32::from_le_bytes([got[at], got[at + 1], got[at + 2], got[at + 3]]));
                let off = (got - sum - f64::from(bias[column as usize])).abs() / (size + 1.0);
                error = error.max(if off.is_nan() { f64::INFINITY } else { off });
            }
            let seconds = self.time(&steps);
            println!(
                "{m:5}x{k:4}x{n:4} {:24} {:9.2} us {:6.2} TFLOP/s {:5} groups error {error:.1e}{}",
                format!("{}/{parts}", name(tile)),
                seconds * 1e6,
                2.0 * f64::from(m) * f64::from(n) * f64::from(k) / seconds / 1e12,
                groups.iter().product::<u32>(),
                if error < 2e-7 { "" } else { " WRONG" }
            );
        }
    }
}

fn name(tile: Tile) -> String {
    match tile {
        Tile::Blocks(Blocks { rows, columns, depth, own_rows, own_columns, slices }) => {
            format!("{rows}x{columns}x{depth}_{own_rows}x{own_columns}x{slices}")
        }
        other => format!("{other:?}"),
    }
}

fn tile(text: &str) -> (Tile, u32) {
    let (text, parts) = text.split_once('/').unwrap_or((text, "1"));
    let tile = match text {
        "Skinny1" => Tile::Skinny1,
        "Skinny4" => Tile::Skinny4,
        "Skinny8" => Tile::Skinny8,
        _ => {
            let numbers: Vec<u32> = text.split(['x', '_']).map(|number| number.parse().unwrap()).collect();
            let [rows, columns, depth, own_rows, own_columns, slices] = numbers[..] else { panic!("{text}") };
            Tile::Blocks(Blocks { rows, columns, depth, own_rows, own_columns, slices })
        }
    };
    (tile, parts.parse().unwrap())
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let wanted = arguments[1].to_lowercase();
    let index =
        vulkan::adapters().iter().position(|adapter| adapter.name.to_lowercase().contains(&wanted)).unwrap();
    let device = vulkan::open(index, Options::default()).unwrap();
    println!("{}", device.info().name);
    let mut bench = Bench { device, pipelines: HashMap::new() };
    let shapes = arguments.get(2).map_or(SHAPES, String::as_str);
    if shapes == "attention" {
        return ATTENTION.into_iter().for_each(|shape| bench.attention(shape));
    }
    let tiles = match arguments.get(3) {
        Some(tiles) => tiles.split_whitespace().map(tile).collect(),
        None => Blocks::ALL.map(|blocks| (Tile::Blocks(blocks), 1)).to_vec(),
    };
    for shape in shapes.split_whitespace() {
        let sizes: Vec<u32> = shape.split('x').map(|number| number.parse().unwrap()).collect();
        let [m, k, n] = sizes[..] else { panic!("{shape}") };
        bench.product([m, k, n], &tiles, arguments.get(4).is_none());
    }
}
