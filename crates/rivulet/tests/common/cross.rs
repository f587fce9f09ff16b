//! What threads do to tensors that they share, for the tests of every driver that finds missing order.
#![allow(unreachable_pub, reason = "one binary of several files")]

use crate::common::{add, add_kernel, fill, load_word, read, store_word, write};
use rivulet::{Access, Device, Stream};
use std::sync::Barrier;

/// Two streams. Consecutive ones lie on different queues where there are several.
pub fn streams(device: &Device) -> [Stream; 2] {
    [device.new_stream(0).unwrap(), device.new_stream(0).unwrap()]
}

/// Two threads, two tensors, opposite order; sums grow like Fibonacci numbers, so each op counts.
pub fn crossed(device: &Device, rounds: usize) -> (u32, u32) {
    let kernel = add_kernel(device);
    let (x, y) = (device.allocate(256).unwrap(), device.allocate(256).unwrap());
    let [a, b] = streams(device);
    write(&a, &x, 1).unwrap();
    write(&a, &y, 1).unwrap();
    let together = Barrier::new(2);
    std::thread::scope(|scope| {
        for (stream, from, to) in [(&a, &x, &y), (&b, &y, &x)] {
            let (kernel, together) = (&kernel, &together);
            scope.spawn(move || {
                together.wait();
                for round in 0..rounds {
                    add(stream, kernel, from, to).unwrap();
                    if round % 7 == 6 {
                        stream.flush().unwrap();
                    }
                }
            });
        }
    });
    (read(&a, &x).unwrap(), read(&b, &y).unwrap())
}

/// True where some interleaving of `rounds` times `y += x` and `rounds` times `x += y` on (1, 1) gives the pair.
/// Undoing is unique: the larger was written last. Small counts only, before anything wraps.
pub fn reachable(mut x: u32, mut y: u32, rounds: usize) -> bool {
    let (mut into_x, mut into_y) = (0, 0);
    while (x, y) != (1, 1) {
        if x > y {
            x -= y;
            into_x += 1;
        } else if y > x {
            y -= x;
            into_y += 1;
        } else {
            return false;
        }
    }
    (into_x, into_y) == (rounds, rounds)
}

/// What many threads do to a few tensors that they share: device ops, CPU accesses and new memory at random.
/// Each thread adds a known sum to each tensor; answers what is missing.
pub fn storm(device: &Device, threads: usize, rounds: usize, seed: u64) -> rivulet::Result<Vec<i64>> {
    const SHARED: usize = 4;
    let kernel = add_kernel(device);
    let home = device.new_stream(0)?;
    let shared: Vec<_> = (0..SHARED).map(|_| device.allocate(256)).collect::<Result<_, _>>()?;
    for block in &shared {
        write(&home, block, 0)?;
    }
    let totals: Vec<Vec<u32>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (kernel, shared) = (&kernel, &shared);
                scope.spawn(move || -> rivulet::Result<Vec<u32>> {
                    let mut random = fastrand::Rng::with_seed(seed + thread as u64);
                    let stream = device.current_stream()?;
                    let mut added = vec![0_u32; SHARED];
                    for _ in 0..rounds {
                        let target = random.usize(..SHARED);
                        let value = random.u32(1..100);
                        match random.u32(..3) {
                            // A CPU op on a tensor that others write.
                            0 => {
                                let access =
                                    stream.host_access("cpu add", &[(&shared[target], Access::Write)])?;
                                store_word(&shared[target], load_word(&shared[target]).wrapping_add(value));
                                drop(access);
                            }
                            // A temporary that is freed while the device reads it.
                            1 => {
                                let term = device.allocate(256)?;
                                fill(&stream, &term, value)?;
                                add(&stream, kernel, &term, &shared[target])?;
                                device.free(term);
                            }
                            // The CPU makes what the device reads.
                            _ => {
                                let term = device.allocate(256)?;
                                write(&stream, &term, value)?;
                                add(&stream, kernel, &term, &shared[target])?;
                                device.free(term);
                            }
                        }
                        added[target] = added[target].wrapping_add(value);
                    }
                    stream.synchronize()?;
                    Ok(added)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect::<rivulet::Result<_>>()
    })?;
    (0..SHARED)
        .map(|target| {
            let expected = totals.iter().fold(0_u32, |sum, added| sum.wrapping_add(added[target]));
            Ok(i64::from(expected) - i64::from(read(&home, &shared[target])?))
        })
        .collect()
}
