//! How much memory the machine has.

/// Bytes of memory that this process can hold in RAM: the machine's, or its container's where that is less. 0
/// where the system does not tell.
pub(crate) fn physical_memory() -> u64 {
    static MEMORY: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *MEMORY.get_or_init(|| container_limit().map_or(machine(), |limit| limit.min(machine())))
}

/// Bytes that may be handed out in total: RAM and swap, which is where the kernel's own overcommit ends. `u64::MAX`
/// where the system does not tell.
pub(crate) fn memory_limit() -> u64 {
    static LIMIT: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *LIMIT.get_or_init(|| match physical_memory() {
        0 => u64::MAX,
        memory => memory.saturating_add(swap()),
    })
}

#[cfg(target_os = "linux")]
fn machine() -> u64 {
    meminfo("MemTotal:").unwrap_or(0)
}

#[cfg(target_os = "linux")]
fn swap() -> u64 {
    meminfo("SwapTotal:").unwrap_or(0)
}

#[cfg(target_os = "linux")]
fn meminfo(key: &str) -> Option<u64> {
    parse_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?, key)
}

#[cfg(target_os = "linux")]
fn parse_meminfo(table: &str, key: &str) -> Option<u64> {
    let value = table.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Version 2 of control groups, then version 1; "max" and an absurdly high number mean no limit.
#[cfg(target_os = "linux")]
fn container_limit() -> Option<u64> {
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok())
}

#[cfg(target_vendor = "apple")]
fn machine() -> u64 {
    let mut bytes = 0_u64;
    let mut length = size_of::<u64>();
    // SAFETY: the name is a C string, `bytes` has room for `length` bytes, and nothing is set (null, 0).
    let failed = unsafe {
        libc::sysctlbyname(
            c"hw.memsize".as_ptr(),
            (&raw mut bytes).cast(),
            &raw mut length,
            std::ptr::null_mut(),
            0,
        )
    };
    if failed == 0 { bytes } else { 0 }
}

// Apple's swap grows with demand and compresses before it does; as much again is what it sustains.
#[cfg(target_vendor = "apple")]
fn swap() -> u64 {
    machine()
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn machine() -> u64 {
    0
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn swap() -> u64 {
    0
}

#[cfg(not(target_os = "linux"))]
fn container_limit() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_machine_has_some_memory() {
        let memory = super::physical_memory();
        assert!(memory > 64 << 20, "{memory}");
        assert!(super::memory_limit() >= memory);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn meminfo_is_in_kibibytes() {
        let table = "MemTotal:       24682416 kB\nSwapTotal:             8 kB\n";
        assert_eq!(super::parse_meminfo(table, "MemTotal:"), Some(24_682_416 * 1024));
        assert_eq!(super::parse_meminfo(table, "SwapTotal:"), Some(8192));
        assert_eq!(super::parse_meminfo(table, "Missing:"), None);
    }
}
