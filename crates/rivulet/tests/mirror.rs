//! Devices whose memory the CPU cannot see: a Vulkan device with `RIVULET_MIRROR=1`, where an access outside a
//! `host_access` finds stale bytes. Mesa's llvmpipe, or the adapter whose name contains `RIVULET_TEST_ADAPTER`.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

#[path = "../../rivulet-hal/tests/common/adapter.rs"]
mod adapter;
mod common;

use common::{TestEnv, buffer, load, load_word, options, store, store_word};
use rivulet::memory::{Block, CHUNK, CHUNKS};
use rivulet::ops::{DType, Op, Scalar, View, pointwise};
use rivulet::{Access, Device, DeviceOp, Error};
use rivulet_hal::sync::Arc;
use rivulet_hal::vulkan;
use std::sync::Barrier;

fn device() -> Option<Device> {
    adapter::find()?;
    let device = adapter::validated(|validation| {
        let validation = if validation { "1" } else { "0" };
        let env = [
            ("RIVULET_ADAPTER", &*adapter::wanted()),
            ("RIVULET_MIRROR", "1"),
            ("RIVULET_VALIDATION", validation),
        ];
        Device::open(options(&TestEnv::new(&env)))
    });
    assert!(!device.info().unified_memory);
    Some(device)
}

macro_rules! device_or_skip {
    () => {
        match device() {
            Some(device) => device,
            None => return,
        }
    };
}

fn clean() {
    assert_eq!(vulkan::validation_messages(), [""; 0]);
}

/// Bytes moved to the device and to the CPU so far.
fn moved(device: &Device) -> (u64, u64) {
    let report = device.report();
    (report.bytes_to_device, report.bytes_to_host)
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

fn floats(device: &Device, values: &[f32]) -> Arc<Block> {
    let block = device.allocate(4 * values.len() as u64).unwrap();
    let access = device.host_access("write", &[(&block, Access::Write)]).unwrap();
    store(&block, &bytes_of(values));
    access.finish().unwrap();
    block
}

fn read(device: &Device, block: &Block, count: usize) -> Vec<f32> {
    let access = device.host_access("read", &[(block, Access::Read)]).unwrap();
    let bytes = load(block, 0, 4 * count);
    access.finish().unwrap();
    bytes.chunks_exact(4).map(|word| f32::from_ne_bytes(word.try_into().unwrap())).collect()
}

/// `out = a + b` on the device.
fn add(device: &Device, out: &Block, a: &Block, b: &Block, count: u64) {
    let view = |block| View::dense(block, DType::F32, &[count]);
    pointwise(device, Op::Add, DType::F32, &view(out), &[view(a), view(b)], None, &[Scalar::F32(1.0)])
        .unwrap();
}

fn fill(device: &Device, block: &Block, word: u32) {
    let target = buffer(block);
    let operands = [(block, Access::Write)];
    device.record(&DeviceOp::new("fill", &operands), |recorder| recorder.fill(&target, word)).unwrap();
}

#[test]
fn bytes_move_only_when_the_other_side_wrote_and_are_counted() {
    let device = device_or_skip!();
    let (a, b) = (floats(&device, &[1.0; 100]), floats(&device, &[2.0; 100]));
    let out = device.allocate(400).unwrap();
    assert_eq!(moved(&device), (0, 0), "nobody needed them on the device");
    add(&device, &out, &a, &b, 100);
    assert_eq!(moved(&device), (800, 0), "what was never written is not moved");
    add(&device, &out, &a, &out, 100);
    assert_eq!(moved(&device), (800, 0));
    assert_eq!(read(&device, &out, 100), [4.0; 100]);
    assert_eq!(read(&device, &out, 100), [4.0; 100]);
    assert_eq!(read(&device, &a, 100), [1.0; 100], "the CPU still has it");
    assert_eq!(moved(&device), (800, 400));
    // Written by the CPU in part: the rest is the device's.
    fill(&device, &out, 7.0_f32.to_bits());
    let access = device.host_access("write", &[(&out, Access::Write)]).unwrap();
    store_word(&out, 5.0_f32.to_bits());
    access.finish().unwrap();
    assert_eq!(moved(&device), (800, 800));
    add(&device, &out, &a, &out, 100);
    let mut wanted = [8.0; 100];
    wanted[0] = 6.0;
    assert_eq!(read(&device, &out, 100), wanted);
    assert_eq!(moved(&device), (1200, 1200));
    for block in [a, b, out] {
        device.free(block);
    }
    clean();
}

#[test]
fn outside_an_access_the_cpu_sees_an_old_copy() {
    let device = device_or_skip!();
    let block = floats(&device, &[1.0; 16]);
    fill(&device, &block, 9);
    device.synchronize().unwrap();
    assert_eq!(load_word(&block), 1.0_f32.to_bits());
    assert_eq!(read(&device, &block, 1)[0].to_bits(), 9);
    clean();
}

#[test]
fn sides_take_turns_writing() {
    let device = device_or_skip!();
    let one = floats(&device, &[1.0; 1000]);
    let block = floats(&device, &[0.0; 1000]);
    for round in 0..50_u32 {
        add(&device, &block, &block, &one, 1000);
        let access = device.host_access("double", &[(&block, Access::Write)]).unwrap();
        let value = f32::from_bits(load_word(&block));
        assert_eq!(value, (2_u32.pow(round % 20 + 1) - 1) as f32);
        let next = if round % 20 == 19 { 0.0 } else { 2.0 * value };
        store_word(&block, next.to_bits());
        access.finish().unwrap();
    }
    assert_eq!(moved(&device), (4000 + 50 * 4000, 50 * 4000));
    clean();
}

#[test]
fn a_weight_that_threads_share_moves_once() {
    let device = device_or_skip!();
    const THREADS: u64 = 8;
    for _ in 0..5 {
        let weight = floats(&device, &[0.5; 4096]);
        let before = moved(&device).0;
        let start = Barrier::new(THREADS as usize);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (device, weight, start) = (&device, &weight, &start);
                scope.spawn(move || {
                    let out = device.allocate(4 * 4096).unwrap();
                    start.wait();
                    for _ in 0..20 {
                        fill(device, &out, (thread as f32).to_bits());
                        add(device, &out, &out, weight, 4096);
                        assert_eq!(read(device, &out, 4096), [thread as f32 + 0.5; 4096]);
                    }
                    device.free(out);
                });
            }
        });
        assert_eq!(moved(&device).0 - before, 4 * 4096);
        device.free(weight);
    }
    clean();
}

#[test]
fn threads_that_write_a_shared_tensor_on_both_sides_never_mix_them() {
    let device = device_or_skip!();
    let shared = floats(&device, &[0.0; 2048]);
    let one = floats(&device, &[1.0; 2048]);
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (device, shared, one) = (&device, &shared, &one);
            scope.spawn(move || {
                for _ in 0..40 {
                    match thread % 3 {
                        0 => add(device, shared, shared, one, 2048),
                        1 => {
                            let access = device.host_access("add", &[(shared, Access::Write)]).unwrap();
                            let value = f32::from_bits(load_word(shared)) + 1.0;
                            store(shared, &bytes_of(&[value; 2048]));
                            access.finish().unwrap();
                        }
                        _ => {
                            let seen = read(device, shared, 2048);
                            assert!(seen.iter().all(|&value| value == seen[0]), "{seen:?}");
                        }
                    }
                }
            });
        }
    });
    assert_eq!(read(&device, &shared, 2048), [160.0; 2048]);
    clean();
}

#[test]
fn a_block_that_is_used_again_begins_without_bytes() {
    let device = device_or_skip!();
    let first = floats(&device, &[3.0; 64]);
    let address = first.address();
    device.free(first);
    let second = device.allocate(256).unwrap();
    assert_eq!(second.address(), address, "the same memory");
    fill(&device, &second, 1);
    assert_eq!(moved(&device), (0, 0), "the bytes of its earlier life are nobody's");
    assert_eq!(read(&device, &second, 1)[0].to_bits(), 1);
    device.free(second);
    let third = device.allocate_for_host(256).unwrap();
    store(&third, &[7; 256]);
    let copy = device.allocate(256).unwrap();
    let (from, to) = (buffer(&third), buffer(&copy));
    let operands = [(&*third, Access::Read), (&*copy, Access::Write)];
    device.record(&DeviceOp::new("copy", &operands), |recorder| recorder.copy(&from, &to)).unwrap();
    assert_eq!(moved(&device).0, 256);
    assert_eq!(read(&device, &copy, 64)[63].to_bits(), 0x0707_0707);
    clean();
}

#[test]
fn a_freed_block_may_be_written_by_the_cpu_while_the_device_still_uses_it() {
    let device = device_or_skip!();
    for round in 0..200_u32 {
        let block = device.allocate(1 << 16).unwrap();
        let access = device.host_access("write", &[(&block, Access::Write)]).unwrap();
        store(&block, &bytes_of(&[round as f32; 1 << 14]));
        access.finish().unwrap();
        let out = device.allocate(1 << 16).unwrap();
        add(&device, &out, &block, &block, 1 << 14);
        device.free(block);
        // The CPU's next round writes the mirror of the same block before this one's kernel has run.
        let next = device.allocate(1 << 16).unwrap();
        let access = device.host_access("write", &[(&next, Access::Write)]).unwrap();
        store(&next, &[0xff; 1 << 16]);
        access.finish().unwrap();
        fill(&device, &next, 0);
        device.free(next);
        assert_eq!(read(&device, &out, 1 << 14), [2.0 * round as f32; 1 << 14]);
        device.free(out);
    }
    clean();
}

#[test]
fn large_blocks_move_in_pieces_and_give_their_pages_back() {
    let device = device_or_skip!();
    // More than all chunks of a direction hold.
    let count = (CHUNK * (CHUNKS as u64 + 2) / 4 + 3) as usize;
    let values: Vec<f32> = (0..count).map(|index| index as f32).collect();
    let block = floats(&device, &values);
    let bytes = 4 * count as u64;
    assert_eq!(resident(block.address(), bytes), Some(bytes.div_ceil(4096)));
    let one = floats(&device, &[1.0]);
    let view = View::dense(&block, DType::F32, &[count as u64]);
    let mut repeated = View::dense(&one, DType::F32, &[count as u64]);
    repeated.strides[0] = 0;
    pointwise(&device, Op::Add, DType::F32, &view, &[view.clone(), repeated], None, &[Scalar::F32(1.0)])
        .unwrap();
    assert_eq!(moved(&device), (bytes + 4, 0));
    assert!(resident(block.address(), bytes).is_none_or(|pages| pages <= 1), "the CPU's copy is gone");
    let got = read(&device, &block, count);
    assert!(got.iter().zip(&values).all(|(got, value)| *got == value + 1.0));
    assert_eq!(moved(&device), (bytes + 4, bytes));
    let address = block.address();
    device.free(block);
    assert!(resident(address, bytes).is_none_or(|pages| pages <= 1));
    clean();
}

/// Pages of a range that take up memory.
fn resident(address: usize, bytes: u64) -> Option<u64> {
    use std::io::{Read, Seek, SeekFrom};
    let mut map = std::fs::File::open("/proc/self/pagemap").ok()?;
    map.seek(SeekFrom::Start(address as u64 / 4096 * 8)).ok()?;
    let mut entries = vec![0; bytes.div_ceil(4096) as usize * 8];
    map.read_exact(&mut entries).ok()?;
    // The highest bit of an entry: present.
    Some(entries.chunks_exact(8).filter(|entry| entry[7] & 0x80 != 0).count() as u64)
}

#[test]
fn bytes_are_read_and_written_without_a_copy_of_the_whole() {
    let device = device_or_skip!();
    let block = device.allocate(1 << 20).unwrap();
    fill(&device, &block, 0x0101_0101);
    let mut four = [0; 4];
    device.read("item", &block, 77, &mut four).unwrap();
    assert_eq!((four, moved(&device)), ([1; 4], (0, 4)));
    device.write("set", &block, 78, &[9; 2]).unwrap();
    device.read("item", &block, 77, &mut four).unwrap();
    assert_eq!((four, moved(&device)), ([1, 9, 9, 1], (2, 8)));
    // Where the CPU has the bytes, they stay there.
    let access = device.host_access("write", &[(&block, Access::Write)]).unwrap();
    store(&block, &[5; 8]);
    access.finish().unwrap();
    let before = moved(&device);
    device.write("set", &block, 2, &[6]).unwrap();
    device.read("item", &block, 1, &mut four).unwrap();
    assert_eq!((four, moved(&device)), ([5, 6, 5, 5], before));
    let whole = vec![8; 1 << 20];
    device.write("all", &block, 0, &whole).unwrap();
    let mut back = vec![0; 1 << 20];
    device.read("all", &block, 0, &mut back).unwrap();
    assert!(back == whole && moved(&device).0 == before.0 + (1 << 20));
    let error = device.read("item", &block, (1 << 20) - 3, &mut four).unwrap_err();
    assert!(matches!(&error, Error::Memory(text) if text.contains("1048573")), "{error}");
    clean();
}

#[test]
fn host_memory_is_not_adopted() {
    let device = device_or_skip!();
    let bytes = [0_u8; 64];
    let error = device.adopt(bytes.as_ptr().addr(), 64, Box::new(|| ())).unwrap_err();
    assert!(error.to_string().contains("only the host adapter can; copy it"), "{error}");
}

#[test]
fn an_op_inside_a_cpu_access_moves_what_that_holds_alone_and_nothing_else() {
    let device = device_or_skip!();
    let (block, out) = (floats(&device, &[1.0; 16]), device.allocate(64).unwrap());
    let outer = device.host_access("outer", &[(&block, Access::Write)]).unwrap();
    add(&device, &out, &block, &block, 16);
    store(&block, &bytes_of(&[3.0; 16]));
    outer.finish().unwrap();
    assert_eq!(read(&device, &out, 16), [2.0; 16]);
    add(&device, &out, &block, &block, 16);
    assert_eq!(read(&device, &out, 16), [6.0; 16], "what the outer access wrote after the op");
    let outer = device.host_access("outer", &[(&block, Access::Write)]).unwrap();
    outer.finish().unwrap();
    let outer = device.host_access("outer", &[(&block, Access::Read)]).unwrap();
    let target = buffer(&out);
    let operands = [(&*block, Access::Read), (&*out, Access::Write)];
    let refused =
        device.record(&DeviceOp::new("op", &operands), |recorder| recorder.fill(&target, 0)).unwrap_err();
    assert!(refused.to_string().contains("operation around this one"), "{refused}");
    outer.finish().unwrap();
    clean();
}
