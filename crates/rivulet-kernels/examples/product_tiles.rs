//! What a product takes on each tile: `cargo run --release -p rivulet-kernels --example product_tiles -- adapter shapes tiles`.
//!
//! Shapes are `m x k x n` and tiles names or `rows x columns x depth _ own rows x own columns x slices`, each with the number of
//! parts along k after a slash where there are several; without them, a list of both. The right factor runs along k, as a
//! linear layer's weight does, or across it where a fourth argument follows, and a bias is added. Prints the time of a product that waits for the one before, in
//! microseconds, as the difference between many in one submission and fewer, the best of five, and the largest error at 200
//! places over the sum of the terms' magnitudes.
#![allow(clippy::print_stdout, reason = "it is what an example is for")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "it ends where something fails"
)]

use bytemuck::bytes_of;
use rivulet_hal::vulkan::{self, Options};
use rivulet_hal::{
    Binding, BufferRange, ByteRange, Device, Memory, MemoryUsage, Pipeline, PipelineDesc, PipelineSource,
    QueueIndex, Submission, TimelinePoint,
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

fn range(memory: &Arc<dyn Memory>, bytes: u64) -> BufferRange {
    BufferRange { memory: Arc::clone(memory), range: ByteRange { start: 0, end: bytes } }
}

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

struct Step {
    pipeline: Arc<dyn Pipeline>,
    bindings: Vec<Binding>,
    params: Vec<u8>,
    groups: [u32; 3],
}

impl Bench {
    fn pipeline(&mut self, kernel: Kernel) -> Option<Arc<dyn Pipeline>> {
        let device = &self.device;
        self.pipelines.entry(kernel).or_insert_with(|| compile(device, &kernel)).clone()
    }

    /// Seconds of `times` runs of the steps in one submission, each behind the one before; `before` and `after` copy.
    fn submit(
        &self,
        copies: &[(BufferRange, BufferRange)],
        steps: &[Step],
        times: u32,
        after: &[(BufferRange, BufferRange)],
    ) -> f64 {
        let mut recorder = self.device.recorder(QueueIndex(0)).unwrap();
        for (from, to) in copies {
            recorder.copy(from, to).unwrap();
        }
        recorder.barrier().unwrap();
        for _ in 0..times {
            for step in steps {
                recorder.dispatch(&step.pipeline, &step.bindings, &step.params, step.groups).unwrap();
                recorder.barrier().unwrap();
            }
        }
        for (from, to) in after {
            recorder.copy(from, to).unwrap();
        }
        let commands = vec![recorder.finish().unwrap()];
        let timeline = self.device.timeline().unwrap();
        let signal = TimelinePoint { timeline: Arc::clone(&timeline), value: 1 };
        let start = Instant::now();
        let submission = Submission { commands, waits: vec![], signal, label: "products".to_owned() };
        self.device.submit(QueueIndex(0), vec![submission]).unwrap();
        assert!(timeline.wait(1, Duration::from_secs(60)).unwrap());
        start.elapsed().as_secs_f64()
    }

    fn time(&self, steps: &[Step]) -> f64 {
        let cpu = self.device.info().class == rivulet_hal::AdapterClass::Cpu;
        let (few, many, rounds) = if cpu { (1, 2, 1) } else { (50, 250, 6) };
        let (mut short, mut long) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..rounds {
            short = short.min(self.submit(&[], steps, few, &[]));
            long = long.min(self.submit(&[], steps, many, &[]));
        }
        (long - short) / f64::from(many - few)
    }

    fn attention(&mut self, [batch, heads, length, dim]: [u32; 4]) {
        let device = Arc::clone(&self.device);
        let size = (batch * heads * length * dim) as usize;
        let mut rng = fastrand::Rng::with_seed(7);
        let numbers: Vec<f32> = (0..3 * size).map(|_| rng.f32() * 2.0 - 1.0).collect();
        let bytes: &[u8] = bytemuck::cast_slice(&numbers);
        let whole = ByteRange { start: 0, end: bytes.len() as u64 };
        let from = device.allocate(whole.end, MemoryUsage::Upload).unwrap();
        let to = device.allocate(whole.end, MemoryUsage::Device).unwrap();
        let out_bytes = size as u64 * 4;
        let out = device.allocate(out_bytes, MemoryUsage::Device).unwrap();
        from.begin_host_access(whole, true).unwrap();
        // SAFETY: the range was accepted as lying inside the memory, and the access is announced.
        unsafe { std::ptr::copy(bytes.as_ptr(), from.host_ptr().unwrap().as_ptr(), bytes.len()) };
        from.end_host_access(whole, true).unwrap();
        let width = heads * dim;
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
        for (queries, slices) in [(0, 1), (64, 1), (32, 1), (16, 1), (64, 2), (32, 2), (16, 2), (16, 3)] {
            let per_slice =
                (dim.next_power_of_two().max(32) * 9 + 32 * (queries / 4 + 1) + 2 * queries) * slices;
            if (per_slice + dim.next_power_of_two() * (queries / 4 + 1)) * 16 > 47 << 10
                || dim > 32 && queries > 32
            {
                continue;
            }
            let tile = (queries > 0).then_some(AttentionTile { queries, slices });
            let key = Attention {
                dtype: DType::F32,
                mask: Mask::None,
                causal: false,
                head,
                pairs: false,
                logsumexp: false,
                quads: true,
                tile,
            };
            let Some(pipeline) = self.pipeline(Kernel::Attention(key)) else { continue };
            let bound =
                |memory: &Arc<dyn Memory>, bytes, write| Binding { buffer: range(memory, bytes), write };
            let bindings = vec![
                bound(&out, out_bytes, true),
                bound(&to, whole.end, false),
                bound(&to, whole.end, false),
                bound(&to, whole.end, false),
            ];
            let groups = key.groups(length, heads, batch);
            let steps = [Step { pipeline, bindings, params: bytes_of(&params).to_vec(), groups }];
            self.submit(&[(range(&from, whole.end), range(&to, whole.end))], &steps, 1, &[]);
            println!(
                "attention {batch} x {heads} x {length} x {dim} {tile:?} {:8.2} us",
                self.time(&steps) * 1e6
            );
        }
    }

    fn shape(&mut self, [m, k, n]: [u32; 3], tiles: &[(Tile, u32)], along_k: bool) {
        let (m_, k_, n_) = (m as usize, k as usize, n as usize);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut numbers = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.f32() * 2.0 - 1.0).collect() };
        let (a, b, bias) = (numbers(m_ * k_), numbers(n_ * k_), numbers(n_));
        let device = Arc::clone(&self.device);
        let allocate =
            |bytes: usize, usage| device.allocate(bytes.next_multiple_of(16) as u64, usage).unwrap();
        let mut copies = Vec::new();
        let mut buffers = Vec::new();
        for values in [&a, &b, &bias] {
            let bytes: &[u8] = bytemuck::cast_slice(values);
            let (from, to) =
                (allocate(bytes.len(), MemoryUsage::Upload), allocate(bytes.len(), MemoryUsage::Device));
            let whole = ByteRange { start: 0, end: bytes.len() as u64 };
            from.begin_host_access(whole, true).unwrap();
            // SAFETY: the range was accepted as lying inside the memory, and the access is announced.
            unsafe { std::ptr::copy(bytes.as_ptr(), from.host_ptr().unwrap().as_ptr(), bytes.len()) };
            from.end_host_access(whole, true).unwrap();
            copies.push((range(&from, whole.end), range(&to, whole.end)));
            buffers.push(range(&to, whole.end));
        }
        let out_bytes = (m_ * n_ * 4) as u64;
        let (out, back) =
            (allocate(m_ * n_ * 4, MemoryUsage::Device), allocate(m_ * n_ * 4, MemoryUsage::Readback));
        for &(tile, parts) in tiles {
            let skinny = matches!(tile, Tile::Skinny1 | Tile::Skinny4 | Tile::Skinny8);
            let store = if skinny { ProductStore::One } else { ProductStore::Fours };
            let key = Matmul {
                input: DType::F32,
                output: DType::F32,
                tile,
                a_along_k: true,
                b_along_k: along_k,
                bias: parts == 1,
                activation: None,
                store,
                quads: true,
                residual: false,
                split: parts > 1,
            };
            let params = MatmulParams {
                strides: if along_k { [k, 1, 1, k] } else { [k, 1, n, 1] },
                edges: [n, 0, 1, if parts > 1 { m * n } else { 0 }],
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
            let bound = |buffer: &BufferRange, write| Binding { buffer: buffer.clone(), write };
            let Some(pipeline) = self.pipeline(Kernel::Matmul(key)) else { continue };
            let mut steps = Vec::new();
            if parts > 1 {
                let bytes = m_ * n_ * 4 * parts as usize;
                let sums = range(&allocate(bytes, MemoryUsage::Device), bytes as u64);
                let bindings = vec![bound(&sums, true), bound(&buffers[0], false), bound(&buffers[1], false)];
                let groups = key.groups(m, n, parts);
                steps.push(Step { pipeline, bindings, params: bytes_of(&params).to_vec(), groups });
                let join = MatmulJoin { output: DType::F32, bias: true, activation: None, store };
                let Some(pipeline) = self.pipeline(Kernel::MatmulJoin(join)) else { continue };
                let bindings = vec![
                    bound(&range(&out, out_bytes), true),
                    bound(&sums, false),
                    bound(&buffers[2], false),
                ];
                let params = MatmulParams { strides: [n, 0, 0, 0], ..params };
                steps.push(Step {
                    pipeline,
                    bindings,
                    params: bytes_of(&params).to_vec(),
                    groups: join.groups(m, n, 1),
                });
            } else {
                let out = range(&out, out_bytes);
                let bindings = vec![
                    bound(&out, true),
                    bound(&buffers[0], false),
                    bound(&buffers[1], false),
                    bound(&buffers[2], false),
                ];
                steps.push(Step {
                    pipeline,
                    bindings,
                    params: bytes_of(&params).to_vec(),
                    groups: key.groups(m, n, 1),
                });
            }
            self.submit(&copies, &steps, 1, &[(range(&out, out_bytes), range(&back, out_bytes))]);
            let whole = ByteRange { start: 0, end: out_bytes };
            back.begin_host_access(whole, false).unwrap();
            // SAFETY: as above.
            let got = unsafe { std::slice::from_raw_parts(back.host_ptr().unwrap().as_ptr(), m_ * n_ * 4) }
                .to_vec();
            back.end_host_access(whole, false).unwrap();
            let word = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            let got: Vec<f32> = got.chunks_exact(4).map(word).collect();
            let mut error = 0.0_f64;
            for _ in 0..200 {
                let (row, column) = (fastrand::usize(..m_), fastrand::usize(..n_));
                let terms = (0..k_).map(|i| {
                    f64::from(a[row * k_ + i])
                        * f64::from(b[if along_k { column * k_ + i } else { i * n_ + column }])
                });
                let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
                let off = f64::from(got[row * n_ + column]) - sum - f64::from(bias[column]);
                error = error.max(if off.is_nan() { f64::INFINITY } else { off.abs() / (size + 1.0) });
            }
            let seconds = self.time(&steps);
            let flops = 2.0 * f64::from(m) * f64::from(n) * f64::from(k);
            let groups = steps[0].groups.iter().product::<u32>();
            println!(
                "{m:5}x{k:4}x{n:4} {:28} {:8.2} us {:7.2} TFLOP/s {groups:5} groups error {error:.1e}{}",
                format!("{}/{parts}", name(tile)),
                seconds * 1e6,
                flops / seconds / 1e12,
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
        "Small" => Tile::Blocks(Blocks::SMALL),
        "Medium" => Tile::Blocks(Blocks::MEDIUM),
        "Large" => Tile::Blocks(Blocks::LARGE),
        "Sliced" => Tile::Blocks(Blocks::SLICED),
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
    let tiles: Vec<_> = arguments
        .get(3)
        .map_or("Small Medium Large Sliced", String::as_str)
        .split_whitespace()
        .map(tile)
        .collect();
    if shapes == "attention" {
        for shape in [
            [8, 8, 64, 32],
            [1, 12, 32, 32],
            [4, 8, 32, 32],
            [8, 12, 128, 64],
            [1, 12, 128, 64],
            [1, 16, 1024, 64],
        ] {
            bench.attention(shape);
        }
        return;
    }
    let along_k = arguments.get(4).is_none();
    for shape in shapes.split_whitespace() {
        let numbers: Vec<u32> = shape.split('x').map(|number| number.parse().unwrap()).collect();
        bench.shape([numbers[0], numbers[1], numbers[2]], &tiles, along_k);
    }
}
