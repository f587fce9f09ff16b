//! Forwards a second of a small MLP, a row each, from many Rust threads: joined by a [`Batcher`], and each for itself.
//!
//! ```text
//! RIVULET_ADAPTER=nvidia cargo run --release -p rivulet --example batch_throughput -- --out result.json
//! RIVULET_ADAPTER=llvmpipe LP_NUM_THREADS=0 cargo run --release -p rivulet --example batch_throughput -- --seconds 0.2 --threads 1,4
//! ```
//!
//! `--seconds S` for each figure (1), `--threads 1,8,31`, `--rows 1` that a call brings (8: a thread that serves eight users), `--in-flight 1,2` batches at a time, `--max-batch 64`, `--spin 50`
//! µs before a waiting thread sleeps, `--no-regroup`, `--gather host` (rows lie in the CPU's memory, and one copy takes them
//! over) or `device` (rows lie on the device, where one kernel gathers them). A call ends when its result is complete on
//! the device; results are views of the batch's. `with nothing to run` is the same queue with batches that take 50 µs and need no
//! device: what waking the callers allows. Before anything is timed, rows are compared with a sum in float64.
#![allow(clippy::print_stdout, reason = "it is what an example is for")]

use rivulet::batch::{Batcher, Options, Stats, Work};
use rivulet::memory::Block;
use rivulet::ops::{DType, Op, View, join, matmul};
use rivulet::{Device, DeviceOptions};
use rivulet_hal::sync::Arc;
use rivulet_hal::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Barrier;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const SIZES: [u64; 4] = [512, 1024, 1024, 512];
const ROWS: u64 = 256;

/// Numbers in (-1/2, 1/2), the same in every run.
fn numbers(count: u64, seed: u64) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| random.f32() - 0.5).collect()
}

struct Matrix {
    block: Arc<Block>,
    shape: [u64; 2],
    values: Vec<f32>,
}

impl Matrix {
    fn new(device: &Device, shape: [u64; 2], seed: u64) -> Outcome<Self> {
        let values = numbers(shape[0] * shape[1], seed);
        let block = device.allocate(4 * shape[0] * shape[1])?;
        device.write("weights", &block, 0, bytemuck::cast_slice(&values))?;
        Ok(Self { block, shape, values })
    }

    fn view(&self) -> View<'_> {
        View::dense(&self.block, DType::F32, &self.shape)
    }
}

/// Three layers with a bias each, two with relu; weights are `[out, in]`.
struct Mlp {
    device: Device,
    layers: Vec<(Matrix, Matrix)>,
    /// The rows that calls name by their number, in the CPU's memory and on the device.
    rows: Matrix,
    on_device: bool,
}

/// Memory of a batch's results, given back with the last of them.
struct Shared {
    device: Device,
    block: Option<Arc<Block>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.device.free(block);
        }
    }
}

/// A call's rows of a batch's results.
struct Rows {
    batch: Arc<Shared>,
    first: usize,
}

impl Rows {
    fn read_first(&self) -> Outcome<Vec<f32>> {
        let mut values = vec![0.0; SIZES[3] as usize];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
        if let Some(block) = &self.batch.block {
            self.batch.device.read("result", block, (self.first * bytes.len()) as u64, bytes)?;
        }
        Ok(values)
    }
}

impl Mlp {
    fn new(device: &Device, on_device: bool) -> Outcome<Self> {
        let layers = SIZES
            .windows(2)
            .zip(1..)
            .map(|(pair, seed)| {
                let weight = Matrix::new(device, [pair[1], pair[0]], seed)?;
                Ok((weight, Matrix::new(device, [1, pair[1]], 10 + seed)?))
            })
            .collect::<Outcome<_>>()?;
        let rows = Matrix::new(device, [ROWS, SIZES[0]], 99)?;
        Ok(Self { device: device.clone(), layers, rows, on_device })
    }

    fn host_rows(&self, rows: &Range<usize>) -> &[f32] {
        let width = SIZES[0] as usize;
        &self.rows.values[rows.start * width..rows.end * width]
    }

    /// The rows of a batch in one block.
    fn gather(&self, inputs: &[Range<usize>]) -> rivulet::Result<Arc<Block>> {
        let width = SIZES[0];
        let count: usize = inputs.iter().map(ExactSizeIterator::len).sum();
        let block = self.device.allocate(4 * width * count as u64)?;
        if self.on_device {
            let view = |rows: &Range<usize>| {
                let mut view = View::dense(&self.rows.block, DType::F32, &[rows.len() as u64, width]);
                view.offset = rows.start as u64 * width;
                view
            };
            let views: Vec<_> = inputs.iter().map(view).collect();
            join(&self.device, &View::dense(&block, DType::F32, &[count as u64, width]), &views)?;
        } else {
            let mut bytes = Vec::with_capacity(count * 4 * width as usize);
            for rows in inputs {
                bytes.extend_from_slice(bytemuck::cast_slice(self.host_rows(rows)));
            }
            self.device.write("rows", &block, 0, &bytes)?;
        }
        Ok(block)
    }

    /// One row of the result, in float64.
    fn reference(&self, row: usize) -> Vec<f64> {
        let mut now: Vec<f64> = self.host_rows(&(row..row + 1)).iter().copied().map(f64::from).collect();
        for (index, (weight, bias)) in self.layers.iter().enumerate() {
            let next = weight.values.chunks_exact(now.len()).zip(&bias.values).map(|(weights, &bias)| {
                let sum: f64 = now.iter().zip(weights).map(|(x, &weight)| x * f64::from(weight)).sum();
                let sum = sum + f64::from(bias);
                if index + 1 < self.layers.len() { sum.max(0.0) } else { sum }
            });
            now = next.collect();
        }
        now
    }
}

impl Work for Mlp {
    type Input = Range<usize>;
    type Output = Rows;
    type Error = rivulet::Error;

    fn key(&self, _: &Range<usize>) -> u64 {
        0
    }

    fn rows(&self, rows: &Range<usize>) -> usize {
        rows.len()
    }

    fn run(&self, inputs: &[Range<usize>]) -> rivulet::Result<Vec<Rows>> {
        let rows = inputs.iter().map(|rows| rows.len() as u64).sum();
        let mut result = self.gather(inputs)?;
        for (index, (weight, bias)) in self.layers.iter().enumerate() {
            let mut transposed = weight.view();
            transposed.shape.reverse();
            transposed.strides.reverse();
            let [inner, outer] = [transposed.shape[0], transposed.shape[1]];
            let out = self.device.allocate(4 * rows * outer)?;
            let a = View::dense(&result, DType::F32, &[rows, inner]);
            let to = View::dense(&out, DType::F32, &[rows, outer]);
            let mut bias = bias.view();
            (bias.shape[0], bias.strides[0]) = (rows, 0);
            let activation = (index + 1 < self.layers.len()).then_some(Op::Relu);
            matmul(&self.device, &to, &a, &transposed, Some(&bias), 1.0, 1.0, activation)?;
            self.device.free(std::mem::replace(&mut result, out));
        }
        self.device.current_stream()?.synchronize()?;
        let batch = Arc::new(Shared { device: self.device.clone(), block: Some(result) });
        let mut place = 0;
        let mut take = |rows: &Range<usize>| {
            place += rows.len();
            Rows { batch: Arc::clone(&batch), first: place - rows.len() }
        };
        Ok(inputs.iter().map(&mut take).collect())
    }
}

/// Gives its inputs back after a while: what handing batches over to threads and waking them allows, whatever the device
/// does.
struct Nothing;

/// What a small batch takes on a fast card.
const WHILE: Duration = Duration::from_micros(50);

impl Work for Nothing {
    type Input = Range<usize>;
    type Output = Range<usize>;
    type Error = rivulet::Error;

    fn key(&self, _: &Range<usize>) -> u64 {
        0
    }

    fn rows(&self, rows: &Range<usize>) -> usize {
        rows.len()
    }

    fn run(&self, inputs: &[Range<usize>]) -> rivulet::Result<Vec<Range<usize>>> {
        let begun = Instant::now();
        while begun.elapsed() < WHILE {
            std::hint::spin_loop();
        }
        Ok(inputs.to_vec())
    }
}

/// Rows a second of all threads together.
fn rate<T>(
    threads: usize,
    rows: usize,
    length: Duration,
    call: impl Fn(Range<usize>) -> Outcome<T> + Sync,
) -> Outcome<f64> {
    let call = |at: usize| {
        let first = at % (ROWS as usize - rows + 1);
        call(first..first + rows)
    };
    let (start, over, calls) = (Barrier::new(threads + 1), AtomicBool::new(false), AtomicU64::new(0));
    let body = |me: usize| -> Outcome<()> {
        let ready = (0..20).try_for_each(|_| call(me).map(drop));
        start.wait();
        ready?;
        let mut done = 0;
        while !over.load(Ordering::Relaxed) {
            call(me * 37 + done as usize)?;
            done += 1;
        }
        calls.fetch_add(done * rows as u64, Ordering::Relaxed);
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|me| scope.spawn(move || body(me))).collect();
        start.wait();
        let began = Instant::now();
        std::thread::sleep(length);
        over.store(true, Ordering::Relaxed);
        let outcomes: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        let seconds = began.elapsed().as_secs_f64();
        for outcome in outcomes {
            outcome.map_err(|_| "a thread panicked")??;
        }
        Ok(calls.load(Ordering::Relaxed) as f64 / seconds)
    })
}

/// Relative L2 error of rows that were run in batches of several sizes.
fn error(mlp: &Mlp) -> Outcome<f64> {
    let (mut off, mut norm) = (0.0, 0.0);
    for size in [1, 2, 7, 31, 64] {
        let input = |index| {
            let first = (index * 5 + size) % (ROWS as usize - 2);
            first..first + 1 + index % 2
        };
        let inputs: Vec<Range<usize>> = (0..size).map(input).collect();
        let rows = mlp.run(&inputs)?;
        for place in [0, size / 2, size - 1] {
            let reference = mlp.reference(inputs[place].start);
            for (got, want) in rows[place].read_first()?.into_iter().zip(reference) {
                off += (f64::from(got) - want).powi(2);
                norm += want * want;
            }
        }
    }
    Ok((off / norm).sqrt())
}

struct Arguments {
    seconds: f64,
    threads: Vec<usize>,
    in_flight: Vec<usize>,
    rows: usize,
    options: Options,
    on_device: bool,
    out: Option<String>,
}

fn arguments() -> Outcome<Arguments> {
    let mut found = Arguments {
        seconds: 1.0,
        threads: vec![1, 2, 4, 8, 16, 31],
        in_flight: vec![1, 2],
        rows: 1,
        options: Options::default(),
        on_device: false,
        out: None,
    };
    let list = |text: String| text.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>();
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let mut value = || given.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--seconds" => found.seconds = value()?.parse()?,
            "--threads" => found.threads = list(value()?)?,
            "--in-flight" => found.in_flight = list(value()?)?,
            "--rows" => found.rows = value()?.parse::<usize>()?.clamp(1, ROWS as usize),
            "--max-batch" => found.options.max_batch = value()?.parse()?,
            "--spin" => found.options.spin = Duration::from_micros(value()?.parse()?),
            "--no-regroup" => found.options.regroup = false,
            "--gather" => found.on_device = value()? == "device",
            "--out" => found.out = Some(value()?),
            _ => return Err(format!("unknown argument {name}").into()),
        }
    }
    Ok(found)
}

fn show(stats: &Stats) -> String {
    let sizes: Vec<String> = stats.sizes.iter().map(|(size, count)| format!("{size}:{count}")).collect();
    let latency = stats.latency;
    format!(
        "p50 {:?} p99 {:?} max {:?}, regrouped {} of {}, sizes {}",
        latency.p50,
        latency.p99,
        latency.max,
        stats.regrouped[1],
        stats.regrouped[0],
        sizes.join(" ")
    )
}

fn main() -> Outcome<()> {
    let given = arguments()?;
    let device = Device::open(DeviceOptions::default())?;
    let info = device.info();
    println!("{}, {}, {} queues", info.name, info.driver, device.queues());
    let mlp = Mlp::new(&device, given.on_device)?;
    println!("relative error {:.1e}", error(&mlp)?);
    let length = Duration::from_secs_f64(given.seconds);
    let mut rows = String::new();
    let mut note = |way: &str, threads: usize, in_flight: usize, rate: f64, stats: &Stats| -> Outcome<()> {
        let comma = if rows.is_empty() { "" } else { ",\n" };
        let mean = stats.requests as f64 / stats.batches.max(1) as f64;
        let [p50, p99] = [stats.latency.p50, stats.latency.p99].map(|time| time.as_secs_f64() * 1e6);
        write!(
            rows,
            "{comma}  {{\"way\": \"{way}\", \"threads\": {threads}, \"in_flight\": {in_flight}, \"rate\": {rate}, \
             \"mean_batch\": {mean}, \"p50_us\": {p50}, \"p99_us\": {p99}}}"
        )?;
        Ok(())
    };
    for &threads in &given.threads {
        let alone = rate(threads, given.rows, length, |rows| Ok(mlp.run(&[rows])?.remove(0)))?;
        println!("{threads:>3} threads   each for itself {alone:>10.0}/s");
        note("alone", threads, 0, alone, &Stats::default())?;
        for &in_flight in &given.in_flight {
            let options = Options { max_in_flight: in_flight, ..given.options };
            let batcher = Batcher::new(Mlp::new(&device, given.on_device)?, options)?;
            let joined = rate(threads, given.rows, length, |rows| Ok(batcher.call(rows)?))?;
            let stats = batcher.stats();
            let times = joined / alone;
            println!(
                "{:>12} in flight {in_flight}: {joined:>10.0}/s ({times:.2} times), {}",
                "joined",
                show(&stats)
            );
            note("joined", threads, in_flight, joined, &stats)?;
            let nothing = Batcher::new(Nothing, options)?;
            let empty = rate(threads, given.rows, length, |rows| Ok(nothing.call(rows)?))?;
            println!("{:>24}: {empty:>10.0}/s", "with nothing to run");
            note("empty", threads, in_flight, empty, &nothing.stats())?;
        }
    }
    if let Some(path) = &given.out {
        let machine = format!("\"adapter\": \"{}\", \"driver\": \"{}\"", info.name, info.driver);
        std::fs::write(
            path,
            format!("{{{machine}, \"seconds\": {}, \"rows\": [\n{rows}\n]}}\n", given.seconds),
        )?;
    }
    Ok(())
}
