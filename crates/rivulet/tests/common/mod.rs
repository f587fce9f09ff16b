//! Shared by the tests: settings that change, simulated devices, and a few kernels.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use rivulet::config::EnvSource;
use rivulet::hazard::Tracking;
use rivulet::memory::Block;
use rivulet::stream::FlushPolicy;
use rivulet::{Access, Device, DeviceOp, DeviceOptions, Stream};
use rivulet_hal::sim::{self, SimConfig, SimControl};
use rivulet_hal::sync::{Arc, Mutex, Rank};
use rivulet_hal::{Binding, BufferRange, Pipeline, PipelineDesc, PipelineSource};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// An environment that a test changes while threads read it.
pub struct TestEnv(Mutex<HashMap<String, String>>);

impl TestEnv {
    pub fn new(pairs: &[(&str, &str)]) -> Arc<Self> {
        let env = Arc::new(Self(Mutex::new(Rank::DRIVER, HashMap::new())));
        pairs.iter().for_each(|(name, value)| env.set(name, value));
        env
    }

    pub fn set(&self, name: &str, value: &str) {
        self.0.lock().insert(name.to_owned(), value.to_owned());
    }

    pub fn unset(&self, name: &str) {
        self.0.lock().remove(name);
    }
}

impl EnvSource for TestEnv {
    fn get(&self, name: &str) -> Option<String> {
        self.0.lock().get(name).cloned()
    }
}

pub fn options(env: &Arc<TestEnv>) -> DeviceOptions {
    DeviceOptions { env: Arc::clone(env) as Arc<dyn EnvSource>, ..DeviceOptions::default() }
}

/// A host device with its own settings.
pub fn host(pairs: &[(&str, &str)]) -> (Device, Arc<TestEnv>) {
    let env = TestEnv::new(pairs);
    (Device::with(rivulet_hal::host::open(), options(&env)).unwrap(), env)
}

/// A simulated device; nothing is submitted before it is asked for, so that a test decides what is.
pub fn sim_with(config: SimConfig, tracking: Tracking) -> (Device, SimControl) {
    let (hal, control) = sim::open(config);
    let never = FlushPolicy {
        commands: usize::MAX,
        age: Duration::MAX,
        cost: Duration::MAX,
        idle: Duration::MAX,
        prompt: 0,
        ahead: Duration::MAX,
        unfinished: usize::MAX,
    };
    let options = DeviceOptions { tracking, flush: never, ..options(&TestEnv::new(&[])) };
    (Device::with(hal, options).unwrap(), control)
}

pub fn sim(queues: usize) -> (Device, SimControl) {
    sim_with(SimConfig { queues, ..SimConfig::default() }, Tracking::On)
}

/// Waits until `condition` holds; panics after 10 s.
#[track_caller]
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "never happened: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Runs `body` on a thread of its own; panics where that takes longer than `limit`.
#[track_caller]
pub fn within<R: Send + 'static>(limit: Duration, body: impl FnOnce() -> R + Send + 'static) -> R {
    let thread = std::thread::spawn(body);
    let start = Instant::now();
    while !thread.is_finished() {
        assert!(start.elapsed() < limit, "not done within {limit:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    thread.join().unwrap()
}

pub fn buffer(block: &Block) -> BufferRange {
    block.buffer().expect("the tests' blocks are the allocator's own")
}

pub fn fill(stream: &Stream, block: &Block, word: u32) -> rivulet::Result<u64> {
    let target = buffer(block);
    let op = [(block, Access::Write)];
    stream
        .record(&DeviceOp::new("fill", &op), |recorder| recorder.fill(&target, word))
        .map(|point| point.value)
}

pub fn copy(stream: &Stream, from: &Block, to: &Block) -> rivulet::Result<u64> {
    let (source, target) = (buffer(from), buffer(to));
    let op = [(from, Access::Read), (to, Access::Write)];
    stream
        .record(&DeviceOp::new("copy", &op), |recorder| recorder.copy(&source, &target))
        .map(|point| point.value)
}

/// `y += x`, elementwise on u32, wrapping.
fn add_in_place(operands: &mut [&mut [u8]], _: &[u8], _: [u32; 3]) {
    let [x, y] = operands else { panic!("two operands") };
    for (x, y) in x.chunks_exact(4).zip(y.chunks_exact_mut(4)) {
        let sum = word(x).wrapping_add(word(y));
        y.copy_from_slice(&sum.to_le_bytes());
    }
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().unwrap())
}

pub fn add_kernel(device: &Device) -> Arc<dyn Pipeline> {
    let desc = PipelineDesc {
        label: "add".to_owned(),
        source: PipelineSource::Host(add_in_place),
        bindings: 2,
        param_bytes: 0,
        workgroup: [1, 1, 1],
    };
    device.hal().pipeline(&desc).unwrap()
}

/// `y += x` on the device.
pub fn add(stream: &Stream, kernel: &Arc<dyn Pipeline>, x: &Block, y: &Block) -> rivulet::Result<u64> {
    let bindings = [Binding { buffer: buffer(x), write: false }, Binding { buffer: buffer(y), write: true }];
    let op = [(x, Access::Read), (y, Access::Write)];
    let recorded = stream
        .record(&DeviceOp::new("add", &op), |recorder| recorder.dispatch(kernel, &bindings, &[], [1, 1, 1]));
    recorded.map(|point| point.value)
}

/// The block's first word, read by the CPU.
pub fn read(stream: &Stream, block: &Block) -> rivulet::Result<u32> {
    let access = stream.host_access("read", &[(block, Access::Read)])?;
    let value = load_word(block);
    access.finish()?;
    Ok(value)
}

/// Writes the block's first word in a CPU access.
pub fn write(stream: &Stream, block: &Block, value: u32) -> rivulet::Result<()> {
    let access = stream.host_access("write", &[(block, Access::Write)])?;
    store_word(block, value);
    access.finish()
}

fn pointer(block: &Block) -> std::ptr::NonNull<u8> {
    let memory = block.memory().expect("the allocator's own");
    let base = memory.host_ptr().or_else(|| memory.mirror()).expect("memory that the CPU has a view of");
    // SAFETY: the block lies inside its memory.
    unsafe { base.add(usize::try_from(block.offset()).unwrap()) }
}

/// Only inside a CPU access that covers the block.
pub fn load_word(block: &Block) -> u32 {
    // SAFETY: the memory is mapped for as long as the block lives, and is at least 4 bytes long and aligned.
    unsafe { pointer(block).cast::<u32>().read_volatile() }
}

/// Only inside a CPU access that covers the block for writing.
pub fn store_word(block: &Block, value: u32) {
    // SAFETY: as in `load_word`.
    unsafe { pointer(block).cast::<u32>().write_volatile(value) }
}

/// Bytes of a block from `start`. The caller holds an access to it.
pub fn load(block: &Block, start: usize, bytes: usize) -> Vec<u8> {
    assert!((start + bytes) as u64 <= block.size());
    // SAFETY: inside the block, and the access keeps others from writing.
    unsafe { std::slice::from_raw_parts(pointer(block).as_ptr().add(start), bytes) }.to_vec()
}

/// Writes bytes to the start of a block. The caller holds an access to it.
pub fn store(block: &Block, bytes: &[u8]) {
    assert!(bytes.len() as u64 <= block.size());
    // SAFETY: inside the block, and the access keeps others away; the source is the caller's.
    unsafe { std::ptr::copy(bytes.as_ptr(), pointer(block).as_ptr(), bytes.len()) };
}
