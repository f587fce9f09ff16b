//! Whether drivers stay where they are. Alone in its process: whoever opens a connection loads drivers and lets those go
//! that have no device.
#![cfg(all(target_os = "linux", not(loom)))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

#[path = "common/adapter.rs"]
mod adapter;

use rivulet_hal::vulkan::Options;
use std::collections::BTreeSet;

fn libraries() -> BTreeSet<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter_map(|line| Some(line[line.find('/')?..].to_owned())).collect()
}

/// A driver's thread-local data has destructors in its library: a thread that ends after the last device is gone calls
/// them.
#[test]
fn a_driver_stays_loaded_after_its_last_device() {
    let open = std::thread::spawn(|| adapter::open(&Options::default()).map(|_device| libraries()));
    let Some(opened) = open.join().unwrap() else { return };
    let left = libraries();
    let gone: Vec<_> = opened.iter().filter(|path| path.contains(".so") && !left.contains(*path)).collect();
    assert!(opened.iter().any(|path| path.contains("libvulkan")), "{opened:?}");
    assert!(gone.is_empty(), "unloaded: {gone:?}");
}
