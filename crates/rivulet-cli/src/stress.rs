//! Threads that add to shared tensors, each on its own stream, without synchronising; every sum is checked.

use crate::args::{Adapter, Stress};
use rivulet::memory::Block;
use rivulet::rng::philox4x32;
use rivulet::{Access, Device, DeviceOp, DeviceOptions, Event};
use rivulet_hal::sim::{self, SimConfig, SimControl};
use rivulet_hal::sync::Arc;
use rivulet_hal::sync::atomic::{AtomicU32, Ordering};
use rivulet_hal::{Binding, Pipeline, PipelineDesc, PipelineSource};
use std::time::Instant;

const TENSORS: usize = 8;
const BYTES: u64 = 4096;

/// Where the kernel that reads a tensor leaves its first word.
static SEEN: [AtomicU32; TENSORS] = [const { AtomicU32::new(0) }; TENSORS];

fn first_word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |word| u32::from_le_bytes(*word))
}

/// Adds the parameter to every word.
fn add(operands: &mut [&mut [u8]], params: &[u8], _: [u32; 3]) {
    let term = first_word(params);
    for operand in operands {
        for word in operand.chunks_exact_mut(4) {
            let sum = first_word(word).wrapping_add(term);
            word.copy_from_slice(&sum.to_le_bytes());
        }
    }
}

/// Shows the first word of the tensor whose number is the parameter, or a wrong one where the words differ.
fn show(operands: &mut [&mut [u8]], params: &[u8], _: [u32; 3]) {
    let number = usize::try_from(first_word(params)).unwrap_or(usize::MAX);
    if let (Some(tensor), Some(place)) = (operands.first(), SEEN.get(number)) {
        let first = first_word(tensor);
        let torn = tensor.chunks_exact(4).any(|word| first_word(word) != first);
        place.store(if torn { first ^ u32::MAX } else { first }, Ordering::Release);
    }
}

struct Kernels {
    add: Arc<dyn Pipeline>,
    show: Arc<dyn Pipeline>,
}

fn kernel(device: &Device, label: &str, code: rivulet_hal::HostKernel) -> Result<Arc<dyn Pipeline>, String> {
    let desc = PipelineDesc {
        label: label.to_owned(),
        source: PipelineSource::Host(code),
        bindings: 1,
        param_bytes: 4,
        workgroup: [1, 1, 1],
    };
    device.hal().pipeline(&desc).map_err(|error| error.to_string())
}

fn launch(
    device: &Device,
    kernel: &Arc<dyn Pipeline>,
    block: &Block,
    write: bool,
    param: u32,
) -> rivulet::Result<()> {
    let Some(buffer) = block.buffer() else { return Ok(()) };
    let operands = [(block, if write { Access::Write } else { Access::Read })];
    let bindings = [Binding { buffer, write }];
    device.record(&DeviceOp::new("stress", &operands), |recorder| {
        recorder.dispatch(kernel, &bindings, &param.to_le_bytes(), [1, 1, 1])
    })?;
    Ok(())
}

/// One thread: device ops on tensors that others use too, CPU accesses between them, an event now and then.
fn worker(
    device: &Device,
    kernels: &Kernels,
    tensors: &[Arc<Block>],
    options: &Stress,
    thread: u32,
) -> rivulet::Result<[u32; TENSORS]> {
    let mut added = [0_u32; TENSORS];
    let event = Event::new(false);
    let key = [options.seed as u32, (options.seed >> 32) as u32];
    for round in 0..options.rounds {
        let [choice, target, term, _] = philox4x32([round as u32, thread, 0, 0], key);
        let target = target as usize % TENSORS;
        let tensor = &tensors[target];
        match choice % 8 {
            0 => drop(device.host_access("read", &[(tensor, Access::Read)])?),
            1 => {
                // A temporary that is freed while the device may still use it.
                let block = device.allocate(BYTES)?;
                launch(device, &kernels.add, &block, true, term)?;
                device.free(block);
            }
            _ => {
                launch(device, &kernels.add, tensor, true, term)?;
                added[target] = added[target].wrapping_add(term);
            }
        }
        if choice % 97 == 0 {
            event.record(&device.current_stream()?)?;
            event.synchronize()?;
        }
    }
    Ok(added)
}

fn open(options: &Stress) -> rivulet::Result<(Device, Option<SimControl>)> {
    match options.adapter {
        Adapter::Host => Ok((Device::with(rivulet_hal::host::open(), DeviceOptions::default())?, None)),
        Adapter::Sim => {
            let config = SimConfig { queues: options.queues, seed: options.seed, ..SimConfig::default() };
            let (hal, control) = sim::open(config);
            Ok((Device::with(hal, DeviceOptions::default())?, Some(control)))
        }
    }
}

fn zeroed(device: &Device) -> rivulet::Result<Arc<Block>> {
    let block = device.allocate(BYTES)?;
    if let Some(target) = block.buffer() {
        let operands = [(&*block, Access::Write)];
        device.record(&DeviceOp::new("zero", &operands), |recorder| recorder.fill(&target, 0))?;
    }
    Ok(block)
}

/// # Errors
/// The first wrong sum, fault or failure, in words.
pub(crate) fn run(options: &Stress) -> Result<(), String> {
    let text = |error: rivulet::Error| error.to_string();
    let (device, control) = open(options).map_err(text)?;
    let kernels = Kernels { add: kernel(&device, "add", add)?, show: kernel(&device, "show", show)? };
    let tensors: Vec<_> = (0..TENSORS).map(|_| zeroed(&device)).collect::<Result<_, _>>().map_err(text)?;

    let start = Instant::now();
    let sums: Vec<rivulet::Result<[u32; TENSORS]>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0_u32..)
            .take(options.threads)
            .map(|thread| {
                let (device, kernels, tensors) = (&device, &kernels, &tensors);
                scope.spawn(move || worker(device, kernels, tensors, options, thread))
            })
            .collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).collect()
    });
    device.synchronize().map_err(text)?;
    let elapsed = start.elapsed();

    if sums.len() < options.threads {
        return Err(format!("{} threads panicked", options.threads - sums.len()));
    }
    let sums = sums.into_iter().collect::<Result<Vec<_>, _>>().map_err(text)?;
    for (number, tensor) in (0_u32..).zip(&tensors) {
        launch(&device, &kernels.show, tensor, false, number).map_err(text)?;
    }
    device.synchronize().map_err(text)?;
    for (target, seen) in SEEN.iter().enumerate() {
        let expected = sums.iter().fold(0_u32, |sum, added| sum.wrapping_add(added[target]));
        let found = seen.load(Ordering::Acquire);
        if found != expected {
            return Err(format!(
                "tensor {target} holds {found}, expected {expected}: an op was lost or ran twice"
            ));
        }
    }
    if let Some(fault) = control.as_ref().and_then(|control| control.faults().into_iter().next()) {
        return Err(fault);
    }
    let ops = options.threads * options.rounds;
    println!(
        "{} on {} threads: {ops} ops in {:.2} s, {:.0} a second; all {TENSORS} sums right{}",
        device.info().name,
        options.threads,
        elapsed.as_secs_f64(),
        ops as f64 / elapsed.as_secs_f64(),
        if control.is_some() { ", no fault" } else { "" }
    );
    Ok(())
}
