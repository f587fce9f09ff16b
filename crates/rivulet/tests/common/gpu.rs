//! Shared by the tests of native ops: the device under test, and tensors on it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

#[path = "../../../rivulet-hal/tests/common/adapter.rs"]
mod adapter;

use super::common::{load, store};
use rivulet::memory::Block;
use rivulet::{Access, Device, DeviceOptions};
use rivulet_hal::sync::Arc;
use rivulet_hal::vulkan::{self, Options};

/// The adapter of all tests. Without the validation layer: version 1.3.239 loses count of a timeline that is waited for
/// and read by turns, and then waits 10 s by itself. The kernels' own tests run under it.
pub fn device() -> Option<Device> {
    let hal = vulkan::open(adapter::find()?, Options::default()).unwrap();
    Some(Device::with(hal, DeviceOptions::default()).unwrap())
}

pub fn upload(device: &Device, bytes: &[u8]) -> Arc<Block> {
    let block = device.allocate(bytes.len().max(4) as u64).unwrap();
    let access = device.host_access("write", &[(&block, Access::Write)]).unwrap();
    store(&block, bytes);
    access.finish().unwrap();
    block
}

pub fn download(device: &Device, block: &Block, bytes: usize) -> Vec<u8> {
    let access = device.host_access("read", &[(block, Access::Read)]).unwrap();
    let copy = load(block, 0, bytes);
    access.finish().unwrap();
    copy
}

pub fn floats(device: &Device, values: &[f32]) -> Arc<Block> {
    upload(device, &values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<_>>())
}

pub fn longs(device: &Device, values: &[i64]) -> Arc<Block> {
    upload(device, &values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<_>>())
}

pub fn read_floats(device: &Device, block: &Block, count: usize) -> Vec<f32> {
    let bytes = download(device, block, 4 * count);
    bytes.chunks_exact(4).map(|word| f32::from_ne_bytes(word.try_into().unwrap())).collect()
}

pub fn read_longs(device: &Device, block: &Block, count: usize) -> Vec<i64> {
    let bytes = download(device, block, 8 * count);
    bytes.chunks_exact(8).map(|word| i64::from_ne_bytes(word.try_into().unwrap())).collect()
}

/// Uneven numbers in [-3, 3).
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| rng.f32() * 6.0 - 3.0).collect()
}

#[track_caller]
pub fn assert_close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (index, (&got, &want)) in got.iter().zip(want).enumerate() {
        let close = (f64::from(got) - want).abs() <= tolerance * want.abs().max(1.0);
        assert!(close, "element {index}: {got} for {want}");
    }
}
