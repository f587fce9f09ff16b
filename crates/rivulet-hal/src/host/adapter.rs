use super::device::HostDevice;
use crate::cpu::{memory_limit, physical_memory};
use crate::sync::Arc;
use crate::{AdapterClass, AdapterInfo, Backend, Device, ShaderFeatures};

/// The adapter of the machine's CPU. Opens nothing.
pub fn info() -> AdapterInfo {
    let memory = match physical_memory() {
        0 => memory_limit(),
        bytes => bytes,
    };
    AdapterInfo {
        name: "Host CPU".to_owned(),
        backend: Backend::Host,
        class: AdapterClass::Cpu,
        driver: format!("rivulet host {}", env!("CARGO_PKG_VERSION")),
        // One a core: work runs on the submitting thread, so fewer would only make threads meet.
        queues: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(32)),
        unified_memory: true,
        inline_completion: true,
        memory_bytes: memory,
        max_allocation: memory,
        max_binding: memory,
        float64: true,
        shader: ShaderFeatures::default(),
    }
}

/// Opens the CPU as a device. Starts no thread and cannot fail.
pub fn open() -> Arc<dyn Device> {
    Arc::new(HostDevice::new())
}
