//! The CPU's own memory as a device.

use crate::{AdapterInfo, Backend};

/// The adapter of the machine's CPU.
pub fn info() -> AdapterInfo {
    let memory = physical_memory();
    AdapterInfo {
        name: "Host CPU".to_owned(),
        backend: Backend::Host,
        driver: format!("rivulet host {}", env!("CARGO_PKG_VERSION")),
        queues: 1,
        unified_memory: true,
        inline_completion: true,
        memory_bytes: memory,
        max_allocation: memory,
        max_binding: memory,
        float64: true,
    }
}

fn physical_memory() -> u64 {
    let table = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = table.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    total
        .and_then(|text| text.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}
