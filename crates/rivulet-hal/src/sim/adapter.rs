use super::control::SimControl;
use super::device::SimDevice;
use super::state::Shared;
use crate::{AdapterClass, AdapterInfo, Backend, Device, ShaderFeatures};
use std::sync::Arc;
use std::time::Duration;

/// How long a queue sits on a submission that could run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// As soon as the queue's thread gets to it.
    None,
    /// Always this long.
    Fixed(Duration),
    /// Evenly distributed between the two, from the seed and the queue's number.
    Random {
        /// Shortest delay.
        min: Duration,
        /// Longest delay.
        max: Duration,
    },
}

/// What to simulate.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Hardware queues; 0 counts as 1. Default 2.
    pub queues: usize,
    /// Seed of the random delays. Default 0.
    pub seed: u64,
    /// Delay before each submission. Default: random up to 200 µs.
    pub delay: Delay,
    /// Whether the CPU sees [`MemoryUsage::Device`](crate::MemoryUsage::Device) memory. Default true.
    pub unified_memory: bool,
    /// Bytes that can be allocated in total. Default 1 GiB.
    pub memory_bytes: u64,
    /// Starts with every queue held, see [`SimControl::hold`]. Default false.
    pub manual: bool,
    /// How long a queue may wait for a value that nobody has submitted before that is a fault. Default 10 s.
    pub deadlock_after: Duration,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            queues: 2,
            seed: 0,
            delay: Delay::Random { min: Duration::ZERO, max: Duration::from_micros(200) },
            unified_memory: true,
            memory_bytes: 1 << 30,
            manual: false,
            deadlock_after: Duration::from_secs(10),
        }
    }
}

/// Opens a simulated device: one thread a queue, which end when the device is dropped.
pub fn open(config: SimConfig) -> (Arc<dyn Device>, SimControl) {
    let queues = config.queues.max(1);
    let info = AdapterInfo {
        name: "Simulated GPU".to_owned(),
        backend: Backend::Sim,
        class: AdapterClass::Cpu,
        driver: format!("rivulet sim {}", env!("CARGO_PKG_VERSION")),
        queues,
        unified_memory: config.unified_memory,
        inline_completion: false,
        memory_bytes: config.memory_bytes,
        max_allocation: config.memory_bytes,
        max_binding: config.memory_bytes,
        float64: true,
        shader: ShaderFeatures::default(),
    };
    let shared = Arc::new(Shared::new(info, &config));
    let control = SimControl::new(Arc::clone(&shared));
    (Arc::new(SimDevice::new(shared)), control)
}
