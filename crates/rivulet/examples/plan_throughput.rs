//! Runs a second of a program, from 1 to 31 Rust threads: the MLP 512-1024-1024-512 of `throughput`, recorded once, with
//! one row. The threads share the program and its weights.
//!
//! ```text
//! cargo run --release -p rivulet --example plan_throughput -- nvidia
//! LP_NUM_THREADS=0 cargo run --release -p rivulet --example plan_throughput -- llvmpipe --seconds 0.1 --threads 1,2
//! valgrind --tool=callgrind target/release/examples/plan_throughput llvmpipe --runs 2000 --small
//! ```
//!
//! The first argument is a part of the adapter's name, or its number. `--seconds S` for each figure (0.4), `--threads
//! 1,8`, `--batch N` rows. `--small`: an MLP 8-8-8-8, where the device does next to nothing. `--runs N`: that many runs on
//! one thread with a wait for each 16 and no figures, to be counted by callgrind. `--eager`: the ops one by one instead of
//! the program.
#![allow(clippy::print_stdout, reason = "it is what an example is for")]

use rivulet::memory::Block;
use rivulet::ops::{DType, Op, View, matmul, pointwise};
use rivulet::plan::{Noting, Program, Span};
use rivulet::{Device, DeviceOptions, config};
use rivulet_hal::sync::Arc;
use rivulet_hal::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Barrier;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The settings of the process, but for the adapter.
struct Adapter(String);

impl config::EnvSource for Adapter {
    fn get(&self, name: &str) -> Option<String> {
        if name == config::ADAPTER { Some(self.0.clone()) } else { config::env().get(name) }
    }
}

/// A matrix of floats.
struct Matrix {
    block: Arc<Block>,
    shape: [u64; 2],
}

impl Matrix {
    /// Numbers in (-1/16, 1/16), the same in every run.
    fn new(device: &Device, shape: [u64; 2], seed: u64) -> Outcome<Self> {
        let mut random = fastrand::Rng::with_seed(seed);
        let count = shape[0] * shape[1];
        let bytes: Vec<u8> = (0..count).flat_map(|_| ((random.f32() - 0.5) / 8.0).to_ne_bytes()).collect();
        let block = device.allocate(4 * count)?;
        device.write("weights", &block, 0, &bytes)?;
        Ok(Self { block, shape })
    }

    fn view(&self) -> View<'_> {
        View::dense(&self.block, DType::F32, &self.shape)
    }

    fn span(&self) -> Span<'_> {
        Span::new(&self.block, 4 * self.shape[0] * self.shape[1])
    }
}

struct Mlp {
    /// Weight as `[out, in]`, bias as `[1, out]`.
    layers: Vec<(Matrix, Matrix)>,
}

impl Mlp {
    fn new(device: &Device, sizes: &[u64]) -> Outcome<Self> {
        let layer = |(index, pair): (usize, &[u64])| {
            let seed = index as u64;
            Ok((
                Matrix::new(device, [pair[1], pair[0]], seed)?,
                Matrix::new(device, [1, pair[1]], 10 + seed)?,
            ))
        };
        Ok(Self { layers: sizes.windows(2).enumerate().map(layer).collect::<Outcome<_>>()? })
    }

    /// As PyTorch runs it: a product with its bias, then the activation. The result's block is the caller's.
    fn forward(&self, device: &Device, x: &Matrix) -> rivulet::Result<Arc<Block>> {
        let rows = x.shape[0];
        let (mut now, mut columns) = (Arc::clone(&x.block), x.shape[1]);
        for (index, (weight, bias)) in self.layers.iter().enumerate() {
            let out = device.allocate(4 * rows * weight.shape[0])?;
            let to = View::dense(&out, DType::F32, &[rows, weight.shape[0]]);
            let a = View::dense(&now, DType::F32, &[rows, columns]);
            let (mut b, mut bias) = (weight.view(), bias.view());
            b.shape.reverse();
            b.strides.reverse();
            (bias.shape[0], bias.strides[0]) = (rows, 0);
            matmul(device, &to, &a, &b, Some(&bias), 1.0, 1.0, None)?;
            if index + 1 < self.layers.len() {
                pointwise(device, Op::Relu, DType::F32, &to, std::slice::from_ref(&to), None, &[])?;
            }
            columns = weight.shape[0];
            let before = std::mem::replace(&mut now, out);
            if index > 0 {
                device.free(before);
            }
        }
        Ok(now)
    }

    fn program(&self, device: &Device, x: &Matrix) -> rivulet::Result<Program> {
        let noting = Noting::begin(device, &[x.span()])?;
        let out = self.forward(device, x)?;
        let bytes = 4 * x.shape[0] * self.layers.last().map_or(1, |(weight, _)| weight.shape[0]);
        let program = noting.end(&[Span::new(&out, bytes)]);
        device.free(out);
        program
    }
}

/// One call; its result is given back.
type Call<'c> = dyn Fn(&Matrix) -> rivulet::Result<()> + Sync + 'c;

/// Calls a second of all threads together, each with an input of its own.
fn rate(
    device: &Device,
    inputs: &[Matrix],
    call: &Call<'_>,
    threads: usize,
    every: u64,
    length: Duration,
) -> Outcome<f64> {
    let (start, over, calls) = (Barrier::new(threads + 1), AtomicBool::new(false), AtomicU64::new(0));
    let run = |input: &Matrix, times: u64| -> rivulet::Result<()> {
        (0..times).try_for_each(|_| call(input))?;
        device.current_stream()?.synchronize()
    };
    let body = |input: &Matrix| -> rivulet::Result<()> {
        let ready = run(input, 3);
        start.wait();
        ready?;
        let mut done = 0;
        while !over.load(Ordering::Relaxed) {
            run(input, every)?;
            done += every;
        }
        calls.fetch_add(done, Ordering::Relaxed);
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || body(&inputs[thread % inputs.len()]))).collect();
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
    adapter: String,
    seconds: f64,
    threads: Vec<usize>,
    batch: u64,
    small: bool,
    eager: bool,
    runs: Option<u64>,
}

fn options() -> Outcome<Options> {
    let mut options = Options {
        adapter: "auto".to_owned(),
        seconds: 0.4,
        threads: vec![1, 2, 4, 8, 16, 31],
        batch: 1,
        small: false,
        eager: false,
        runs: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--seconds" => options.seconds = value()?.parse()?,
            "--threads" => options.threads = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--batch" => options.batch = value()?.parse()?,
            "--runs" => options.runs = Some(value()?.parse()?),
            "--small" => options.small = true,
            "--eager" => options.eager = true,
            other if other.starts_with('-') => return Err(format!("unknown option {other}").into()),
            _ => options.adapter = name,
        }
    }
    Ok(options)
}

fn main() -> Outcome<()> {
    let options = options()?;
    let env = Arc::new(Adapter(options.adapter.clone()));
    let device = Device::open(DeviceOptions { env, ..DeviceOptions::default() })?;
    let info = device.info();
    println!("{}, {}, {} queues", info.name, info.driver, device.queues());
    let sizes: &[u64] = if options.small { &[8, 8, 8, 8] } else { &[512, 1024, 1024, 512] };
    let mlp = Mlp::new(&device, sizes)?;
    let most = options.threads.iter().copied().max().unwrap_or(1);
    let input = |seed| Matrix::new(&device, [options.batch, sizes[0]], 99 + seed);
    let inputs: Vec<Matrix> = (0..most as u64).map(input).collect::<Outcome<_>>()?;
    let program = mlp.program(&device, &inputs[0])?;
    let report = program.report();
    println!(
        "{} commands of {} noted, {} barriers, {} bytes of arena: {}",
        report.commands.len(),
        report.noted,
        report.barriers,
        report.arena_bytes,
        report.commands.iter().map(|command| command.kernel.as_str()).collect::<Vec<_>>().join(", ")
    );
    let give_back = |blocks: rivulet::plan::Fresh| blocks.into_iter().for_each(|block| device.free(block));
    let call = |input: &Matrix| -> rivulet::Result<()> {
        if options.eager {
            device.free(mlp.forward(&device, input)?);
        } else {
            give_back(program.run(&[input.span()], None)?);
        }
        Ok(())
    };
    if let Some(runs) = options.runs {
        for run in 0..runs {
            call(&inputs[0])?;
            if run % 16 == 15 {
                device.current_stream()?.synchronize()?;
            }
        }
        return Ok(());
    }
    for every in [1, 16] {
        for &threads in &options.threads {
            let length = Duration::from_secs_f64(options.seconds);
            let rate = rate(&device, &inputs, &call, threads, every, length)?;
            println!("    sync every {every:<4}{threads:>3} threads   {rate:>10.0}/s");
        }
    }
    Ok(())
}
