//! Calls a second of models on a device, from 1 to 31 Rust threads that share the weights: the rows of
//! `benchmarks/h200.py` without Python. Each call allocates its results and gives them back, as PyTorch does.
//!
//! ```text
//! RIVULET_ADAPTER=nvidia cargo run --release -p rivulet --example throughput -- --out result.json
//! RIVULET_ADAPTER=llvmpipe LP_NUM_THREADS=0 cargo run --release -p rivulet --example throughput -- --quick
//! ```
//!
//! `--seconds S` for each figure (0.4), `--threads 1,8`, `--only PART` of the workloads' names, `--quick`: short, and without
//! the large products. Before a workload is timed, some rows of its result are compared with a sum in float64.
#![allow(clippy::print_stdout, reason = "it is what an example is for")]

use rivulet::memory::Block;
use rivulet::ops::{DType, Op, View, matmul};
use rivulet::{Device, DeviceOptions};
use rivulet_hal::sync::Arc;
use rivulet_hal::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::fmt::Write as _;
use std::sync::Barrier;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A matrix of floats, row-major.
struct Matrix {
    block: Arc<Block>,
    rows: u64,
    columns: u64,
    values: Vec<f32>,
}

impl Matrix {
    /// Numbers in (-1/2, 1/2), the same in every run.
    fn new(device: &Device, rows: u64, columns: u64, seed: u64) -> Outcome<Self> {
        let mut random = fastrand::Rng::with_seed(seed);
        let values: Vec<f32> = (0..rows * columns).map(|_| random.f32() - 0.5).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        let block = device.allocate(bytes.len() as u64)?;
        device.write("weights", &block, 0, &bytes)?;
        Ok(Self { block, rows, columns, values })
    }

    fn view(&self) -> View<'_> {
        View::dense(&self.block, DType::F32, &[self.rows, self.columns])
    }

    /// What PyTorch's Linear multiplies with: the weight is kept as `[out, in]`.
    fn transposed(&self) -> View<'_> {
        let mut view = self.view();
        view.shape.reverse();
        view.strides.reverse();
        view
    }
}

struct Layer {
    weight: Matrix,
    /// `[1, out]`.
    bias: Option<Matrix>,
    activation: Option<Op>,
}

/// Layers one after another. `x @ x` is one without a bias whose weight is used as it is.
struct Workload {
    name: String,
    x: Matrix,
    layers: Vec<Layer>,
    /// Calls between two waits.
    every: [u64; 2],
}

fn linear(device: &Device, sizes: &[u64], batch: u64, name: &str) -> Outcome<Workload> {
    let mut layers = Vec::new();
    for (index, pair) in sizes.windows(2).enumerate() {
        let last = index + 2 == sizes.len();
        layers.push(Layer {
            weight: Matrix::new(device, pair[1], pair[0], 1 + index as u64)?,
            bias: Some(Matrix::new(device, 1, pair[1], 11 + index as u64)?),
            activation: (!last).then_some(Op::Relu),
        });
    }
    let x = Matrix::new(device, batch, sizes[0], 99)?;
    Ok(Workload { name: name.to_owned(), x, layers, every: [1, 256] })
}

fn product(device: &Device, n: u64) -> Outcome<Workload> {
    let (x, weight) = (Matrix::new(device, n, n, 99)?, Matrix::new(device, n, n, 99)?);
    let every = [1, if n > 2048 { 16 } else { 256 }];
    let layers = vec![Layer { weight, bias: None, activation: None }];
    Ok(Workload { name: format!("mm {n}"), x, layers, every })
}

impl Workload {
    /// One call; its result.
    fn call(&self, device: &Device) -> rivulet::Result<Arc<Block>> {
        let rows = self.x.rows;
        let mut result = Arc::clone(&self.x.block);
        for (index, layer) in self.layers.iter().enumerate() {
            let weight = if layer.bias.is_some() { layer.weight.transposed() } else { layer.weight.view() };
            let out = device.allocate(4 * rows * weight.shape[1])?;
            let a = View::dense(&result, DType::F32, &[rows, weight.shape[0]]);
            let to = View::dense(&out, DType::F32, &[rows, weight.shape[1]]);
            let bias = layer.bias.as_ref().map(|bias| {
                let mut bias = bias.view();
                (bias.shape[0], bias.strides[0]) = (rows, 0);
                bias
            });
            matmul(device, &to, &a, &weight, bias.as_ref(), 1.0, 1.0, layer.activation)?;
            let before = std::mem::replace(&mut result, out);
            if index > 0 {
                device.free(before);
            }
        }
        Ok(result)
    }

    /// One row of the result, in float64.
    fn reference(&self, row: usize) -> Vec<f64> {
        let inner = self.x.columns as usize;
        let mut now: Vec<f64> =
            self.x.values[row * inner..(row + 1) * inner].iter().copied().map(f64::from).collect();
        for layer in &self.layers {
            let (weight, inner) = (&layer.weight.values, now.len());
            let bias = layer.bias.as_ref();
            let columns = bias.map_or(layer.weight.columns, |bias| bias.columns) as usize;
            let next = (0..columns).map(|column| {
                let at = |k| {
                    if bias.is_some() { weight[column * inner + k] } else { weight[k * columns + column] }
                };
                let sum: f64 = now.iter().enumerate().map(|(k, x)| x * f64::from(at(k))).sum();
                let sum = sum + bias.map_or(0.0, |bias| f64::from(bias.values[column]));
                if layer.activation.is_some() { sum.max(0.0) } else { sum }
            });
            now = next.collect();
        }
        now
    }

    /// Relative L2 error of the first, the middle and the last row.
    fn error(&self, device: &Device) -> Outcome<f64> {
        let result = self.call(device)?;
        let rows = self.x.rows as usize;
        let (mut off, mut norm) = (0.0, 0.0);
        for row in [0, rows / 2, rows - 1] {
            let want = self.reference(row);
            let mut bytes = vec![0; 4 * want.len()];
            device.read("result", &result, (row * bytes.len()) as u64, &mut bytes)?;
            let got =
                bytes.chunks_exact(4).map(|word| f32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
            for (got, want) in got.zip(want) {
                off += (f64::from(got) - want).powi(2);
                norm += want * want;
            }
        }
        device.free(result);
        Ok((off / norm).sqrt())
    }
}

/// Calls a second of all threads together.
fn rate(device: &Device, work: &Workload, threads: usize, every: u64, length: Duration) -> Outcome<f64> {
    let (start, over, calls) = (Barrier::new(threads + 1), AtomicBool::new(false), AtomicU64::new(0));
    let run = |times: u64| -> rivulet::Result<()> {
        for _ in 0..times {
            device.free(work.call(device)?);
        }
        device.current_stream()?.synchronize()
    };
    let body = || -> rivulet::Result<()> {
        let ready = run(3);
        start.wait();
        ready?;
        let mut done = 0;
        while !over.load(Ordering::Relaxed) {
            run(every)?;
            done += every;
        }
        calls.fetch_add(done, Ordering::Relaxed);
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(body)).collect();
        start.wait();
        let begun = Instant::now();
        std::thread::sleep(length);
        over.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().map_err(|_| "a thread panicked")??;
        }
        Ok(calls.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64())
    })
}

struct Options {
    quick: bool,
    seconds: f64,
    threads: Vec<usize>,
    only: String,
    out: Option<String>,
}

fn options() -> Outcome<Options> {
    let mut options = Options {
        quick: false,
        seconds: 0.4,
        threads: vec![1, 2, 4, 8, 16, 31],
        only: String::new(),
        out: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--quick" => (options.quick, options.seconds, options.threads) = (true, 0.05, vec![1, 4]),
            "--seconds" => options.seconds = value()?.parse()?,
            "--threads" => options.threads = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--only" => options.only = value()?,
            "--out" => options.out = Some(value()?),
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(options)
}

fn workloads(device: &Device, quick: bool) -> Outcome<Vec<Workload>> {
    let mlp = [512, 1024, 1024, 512];
    let mut table = vec![linear(device, &[256, 128], 32, "lin 256-128 b32")?];
    if quick {
        table.push(linear(device, &[64, 128, 128, 64], 1, "mlp 64-128-128-64 b1")?);
        table.push(product(device, 64)?);
        return Ok(table);
    }
    table.push(linear(device, &mlp, 1, "mlp b1")?);
    table.push(linear(device, &mlp, 32, "mlp b32")?);
    for n in [128, 512, 1024, 4096] {
        table.push(product(device, n)?);
    }
    Ok(table)
}

fn main() -> Outcome<()> {
    let options = options()?;
    let device = Device::open(DeviceOptions::default())?;
    let info = device.info();
    println!("{}, {}, {} queues", info.name, info.driver, device.queues());
    let mut rows = String::new();
    for mut work in workloads(&device, options.quick)? {
        if !work.name.contains(&options.only) {
            continue;
        }
        if options.quick {
            work.every[1] = 8;
        }
        println!("{:<38}rust  relative error {:.1e}", work.name, work.error(&device)?);
        for every in work.every {
            for &threads in &options.threads {
                let rate = rate(&device, &work, threads, every, Duration::from_secs_f64(options.seconds))?;
                println!("    sync every {every:<4}{threads:>3} threads   rust {rate:>10.0}/s");
                let comma = if rows.is_empty() { "" } else { ",\n" };
                write!(
                    rows,
                    "{comma}  {{\"workload\": \"{}\", \"every\": {every}, \"threads\": {threads}, \"rust\": {rate}}}",
                    work.name
                )?;
            }
        }
    }
    if let Some(path) = &options.out {
        let machine = format!("\"adapter\": \"{}\", \"driver\": \"{}\"", info.name, info.driver);
        std::fs::write(
            path,
            format!("{{{machine}, \"seconds\": {}, \"rows\": [\n{rows}\n]}}\n", options.seconds),
        )?;
    }
    Ok(())
}
