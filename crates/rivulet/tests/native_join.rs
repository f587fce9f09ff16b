//! Tensors one after another, of one memory and of many.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod gpu;

use rivulet::memory::Block;
use rivulet::ops::{DType, View, join};
use rivulet::{Device, DeviceOptions};
use rivulet_hal::sync::{Arc, thread};
use rivulet_hal::vulkan::{self, Options};
use std::sync::Barrier;

/// A vector in its own block, inside which it begins at `offset`.
struct Part {
    block: Arc<Block>,
    offset: u64,
    values: Vec<f32>,
}

impl Part {
    fn view(&self) -> View<'_> {
        View { offset: self.offset, ..View::dense(&self.block, DType::F32, &[self.values.len() as u64]) }
    }
}

/// Vectors of `(count, offset)`, each of a thread of its own: small blocks of a stream lie in its own memory.
fn parts(device: &Device, sizes: &[(usize, u64)]) -> Vec<Part> {
    let together = Barrier::new(sizes.len());
    let part = |index: usize, count: usize, offset: u64| {
        let values: Vec<f32> = (0..count).map(|e| (index * 1000 + e) as f32).collect();
        let block = device.allocate(4 * (offset + count as u64).max(1)).unwrap();
        device.write("part", &block, 4 * offset, bytemuck::cast_slice(&values)).unwrap();
        // Or another thread would get this one's stream.
        together.wait();
        Part { block, offset, values }
    };
    thread::scope(|scope| {
        let threads = sizes.iter().enumerate().map(|(index, &(count, offset))| {
            let part = &part;
            scope.spawn(move || part(index, count, offset))
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Memories in which the parts lie.
fn memories(parts: &[Part]) -> usize {
    let mut found: Vec<_> = parts.iter().map(|part| part.block.buffer().unwrap().memory).collect();
    found.sort_by_key(|memory| Arc::as_ptr(memory).addr());
    found.dedup_by(|a, b| Arc::ptr_eq(a, b));
    found.len()
}

#[track_caller]
fn check(device: &Device, parts: &[Part]) {
    const LEAD: u64 = 5;
    let wanted: Vec<f32> = parts.iter().flat_map(|part| part.values.iter().copied()).collect();
    let out = device.allocate(4 * (wanted.len() as u64 + 2 * LEAD)).unwrap();
    let beside = vec![-1.0f32; wanted.len() + 2 * LEAD as usize];
    device.write("out", &out, 0, bytemuck::cast_slice(&beside)).unwrap();
    let to = View { offset: LEAD, ..View::dense(&out, DType::F32, &[wanted.len() as u64]) };
    let views: Vec<_> = parts.iter().map(Part::view).collect();
    join(device, &to, &views).unwrap();
    let mut got = beside.clone();
    device.read("out", &out, 0, bytemuck::cast_slice_mut(&mut got)).unwrap();
    let (lead, tail) = (LEAD as usize, LEAD as usize + wanted.len());
    assert_eq!(&got[lead..tail], wanted, "{} parts", parts.len());
    assert_eq!((&got[..lead], &got[tail..]), (&beside[..lead], &beside[tail..]), "beside the output");
    device.free(out);
}

/// One device as the tests have it, and one whose kernels nobody watches: with a layer that looks on, inputs are copied.
fn each_device(body: impl Fn(&Device)) {
    if let Some(device) = gpu::device() {
        body(&device);
        gpu::clean();
    }
    if let Some(index) = gpu::adapter::find() {
        let hal = vulkan::open(index, Options { validation: false, ..Options::default() }).unwrap();
        body(&Device::with(hal, DeviceOptions::default()).unwrap());
    }
}

#[test]
fn parts_of_many_memories_come_one_after_another() {
    each_device(|device| {
        for count in [1, 2, 3, 8, 9, 20, 30] {
            let sizes: Vec<_> = (0..count).map(|index| (33, index as u64 % 3)).collect();
            let parts = parts(device, &sizes);
            assert_eq!(memories(&parts), count);
            check(device, &parts);
        }
    });
}

#[test]
fn parts_of_different_sizes_do_too() {
    each_device(|device| {
        let sizes = [300, 0, 60, 900, 12, 0, 24].map(|count| (count, 1));
        check(device, &parts(device, &sizes));
    });
}

#[test]
fn parts_of_one_memory_and_of_others_in_turn_do_too() {
    each_device(|device| {
        let parts = parts(device, &[(256, 0); 12]);
        let order = (0..40).map(|place| if place % 2 == 0 { &parts[0] } else { &parts[place * 7 % 12] });
        let again = |part: &Part| Part {
            block: Arc::clone(&part.block),
            offset: part.offset,
            values: part.values.clone(),
        };
        let mixed: Vec<_> = order.map(again).collect();
        check(device, &mixed);
        let one: Vec<_> = (0..40).map(|_| again(&parts[3])).collect();
        check(device, &one);
        let quarter = |at: usize| {
            let values = parts[3].values[at..at + 64].to_vec();
            Part { block: Arc::clone(&parts[3].block), offset: at as u64, values }
        };
        let backwards = [192, 128, 64, 0].map(quarter);
        check(device, &backwards);
    });
}
