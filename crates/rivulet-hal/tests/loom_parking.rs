//! Parking loses no wake-up, in any interleaving. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p rivulet-hal --test loom_parking`.
//!
//! With `--cfg seeded_bug="parking_no_fence"` or `--cfg seeded_bug="parking_validate_unlocked"` as well, the
//! model must find the bug: then the same tests expect a panic.
#![cfg(loom)]

use rivulet_hal::sync::atomic::{AtomicUsize, Ordering};
use rivulet_hal::sync::parking::{park, unpark_all};
use rivulet_hal::sync::{Arc, thread};

/// Loom's atomics are a few words long, so any constant does for the address.
const ADDRESS: usize = 0x40;

#[test]
#[cfg_attr(
    any(seeded_bug = "parking_no_fence", seeded_bug = "parking_validate_unlocked"),
    should_panic(expected = "deadlock")
)]
fn a_waiter_always_sees_the_change_or_the_wake_up() {
    loom::model(|| {
        let state = Arc::new(AtomicUsize::new(0));
        let other = Arc::clone(&state);
        let waiter = thread::spawn(move || {
            while other.load(Ordering::Relaxed) == 0 {
                park(ADDRESS, || other.load(Ordering::Relaxed) == 0, None);
            }
        });
        state.store(1, Ordering::Relaxed);
        unpark_all(ADDRESS);
        waiter.join().unwrap();
    });
}

#[cfg(not(any(seeded_bug = "parking_no_fence", seeded_bug = "parking_validate_unlocked")))]
mod without_bugs {
    use super::*;
    use rivulet_hal::sync::parking::{ParkResult, unpark_one};
    use std::time::Duration;

    #[test]
    fn two_waiters_two_single_wake_ups() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let permits = Arc::new(AtomicUsize::new(0));
            let waiters: Vec<_> = (0..2)
                .map(|_| {
                    let permits = Arc::clone(&permits);
                    thread::spawn(move || {
                        loop {
                            let seen = permits.load(Ordering::Relaxed);
                            if seen == 0 {
                                park(ADDRESS, || permits.load(Ordering::Relaxed) == 0, None);
                            } else if permits
                                .compare_exchange(seen, seen - 1, Ordering::Relaxed, Ordering::Relaxed)
                                .is_ok()
                            {
                                break;
                            }
                        }
                    })
                })
                .collect();
            for _ in 0..2 {
                permits.fetch_add(1, Ordering::Relaxed);
                unpark_one(ADDRESS);
            }
            for waiter in waiters {
                waiter.join().unwrap();
            }
        });
    }

    #[test]
    fn a_timed_out_waiter_takes_no_wake_up_with_it() {
        loom::model(|| {
            let state = Arc::new(AtomicUsize::new(0));
            let other = Arc::clone(&state);
            let impatient = thread::spawn(move || {
                let validate = || other.load(Ordering::Relaxed) == 0;
                park(ADDRESS, validate, Some(Duration::from_millis(1)))
            });
            state.store(1, Ordering::Relaxed);
            let picked = unpark_one(ADDRESS);
            let result = impatient.join().unwrap();
            assert_eq!(picked, result == ParkResult::Unparked);
            assert!(!unpark_one(ADDRESS));
        });
    }
}
