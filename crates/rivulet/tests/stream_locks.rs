//! In the steady state an op takes no lock that other streams take.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![cfg(not(loom))]

mod common;

use common::{fill, host, sim};
use rivulet::Access;
use rivulet_hal::sync::{Rank, lock_counts};

/// Locks of a kind that exists once for all streams of a device, or of the process.
const COMMON: [Rank; 6] =
    [Rank::POOL, Rank::ALLOCATOR, Rank::SEGMENT_TABLE, Rank::COMBINER, Rank::REGISTRY, Rank::PARKING];

fn counts() -> Vec<u64> {
    COMMON.iter().map(|&rank| lock_counts::of_this_thread(rank)).collect()
}

#[test]
fn recording_takes_the_streams_own_lock_only() {
    let (device, _) = sim(1);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let block = device.allocate(64).unwrap();
                let stream = device.current_stream().unwrap();
                fill(&stream, &block, 0).unwrap();
                let (before, own) = (counts(), lock_counts::of_this_thread(Rank::RECORDER));
                for word in 0..100 {
                    fill(&stream, &block, word).unwrap();
                }
                assert_eq!(counts(), before, "{COMMON:?}");
                // That the counters count at all.
                assert_eq!(lock_counts::of_this_thread(Rank::RECORDER) - own, 100);
                stream.synchronize().unwrap();
            });
        }
    });
}

#[test]
fn a_cpu_access_takes_no_lock() {
    let (device, _) = host(&[]);
    let shared = device.allocate(64).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let own = device.allocate(64).unwrap();
                let operands = [(&*shared, Access::Read), (&*own, Access::Write)];
                // The first ones give the shared block its cells and the thread its slot.
                (0..20).for_each(|_| drop(device.host_access("warm up", &operands).unwrap()));
                let before: Vec<u64> =
                    Rank::ALL.iter().map(|&rank| lock_counts::of_this_thread(rank)).collect();
                for _ in 0..100 {
                    drop(device.host_access("op", &operands).unwrap());
                }
                let after: Vec<u64> =
                    Rank::ALL.iter().map(|&rank| lock_counts::of_this_thread(rank)).collect();
                assert_eq!(after, before, "{:?}", Rank::ALL);
            });
        }
    });
}
