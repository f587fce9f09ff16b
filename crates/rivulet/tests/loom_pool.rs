//! The pool's slots in every interleaving:
//! `RUSTFLAGS="--cfg loom" cargo test -p rivulet --release --test loom_pool`.
//!
//! Each model has a bug that can be planted in the code for it to find; that is a test too.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![cfg(loom)]

use rivulet::hazard::seeded;
use rivulet::pool::model::{Held, Model};
use rivulet_hal::sync::atomic::{AtomicU32, Ordering};
use rivulet_hal::sync::{Arc, thread};

fn model(bug: Option<&'static str>, preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    seeded::plant(bug);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

/// A pool with one worker slot, and how many threads are using it.
struct Shared {
    pool: Model,
    inside: AtomicU32,
    /// Work that the slot's stream has not completed.
    pending: AtomicU32,
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self { pool: Model::new(2), inside: AtomicU32::new(0), pending: AtomicU32::new(0) })
    }

    fn use_slot(&self) {
        assert_eq!(self.inside.fetch_add(1, Ordering::Relaxed), 0, "two threads own the slot");
        self.inside.fetch_sub(1, Ordering::Relaxed);
    }

    fn acquire(&self) -> Held {
        if let Some(held) = self.pool.try_acquire() {
            return held;
        }
        let queued = self.pool.enqueue();
        loop {
            if let Some(held) = self.pool.poll(&queued) {
                return held;
            }
        }
    }
}

fn every_waiter(bug: Option<&'static str>) {
    model(bug, 3, || {
        let shared = Shared::new();
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let held = shared.acquire();
                    shared.use_slot();
                    shared.pool.exit(held);
                    assert!(shared.pool.release(held), "two threads own the slot");
                })
            })
            .collect();
        let held = shared.acquire();
        shared.use_slot();
        assert!(shared.pool.release(held), "two threads own the slot");
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(shared.pool.is_untouched());
    });
}

fn timeout(bug: Option<&'static str>) {
    model(bug, 4, || {
        let shared = Shared::new();
        let held = shared.acquire();
        let waiter = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                if let Some(held) = shared.pool.try_acquire() {
                    assert!(shared.pool.release(held), "two threads own the slot");
                    return;
                }
                // The time is up at once: whatever came until then is this thread's to give back.
                let queued = shared.pool.enqueue();
                if let Some(held) = shared.pool.cancel(&queued) {
                    shared.use_slot();
                    assert!(shared.pool.release(held), "two threads own the slot");
                }
            })
        };
        shared.use_slot();
        assert!(shared.pool.release(held), "two threads own the slot");
        waiter.join().unwrap();
        assert!(shared.pool.is_untouched(), "a slot was lost with the timeout");
    });
}

fn idle(bug: Option<&'static str>) {
    model(bug, 4, || {
        let shared = Shared::new();
        let held = shared.acquire();
        shared.pool.exit(held);
        let taker = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                if let Some(held) = shared.pool.try_take_idle(&|_| true) {
                    shared.use_slot();
                    assert!(shared.pool.release(held), "two threads own the slot");
                }
            })
        };
        if shared.pool.enter(held) {
            shared.use_slot();
            shared.pool.exit(held);
        }
        taker.join().unwrap();
    });
}

fn behind_the_look(bug: Option<&'static str>) {
    model(bug, 4, || {
        let shared = Shared::new();
        let held = shared.acquire();
        shared.pool.exit(held);
        let taker = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let complete = |_| shared.pending.load(Ordering::Relaxed) == 0;
                if shared.pool.try_take_idle(&complete).is_some() {
                    assert_eq!(shared.pending.load(Ordering::Relaxed), 0, "its work is not complete");
                }
            })
        };
        if shared.pool.enter(held) {
            shared.pending.store(1, Ordering::Relaxed);
            shared.pool.exit(held);
        }
        taker.join().unwrap();
    });
}

#[test]
fn every_waiter_gets_the_slot_and_one_at_a_time() {
    every_waiter(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_release_that_wakes_nobody_is_found() {
    every_waiter(Some("pool: a release wakes nobody"));
}

#[test]
fn a_timeout_beside_a_release_loses_no_slot() {
    timeout(None);
}

#[test]
#[should_panic(expected = "lost with the timeout")]
fn a_timeout_that_drops_its_grant_is_found() {
    timeout(Some("pool: a timeout drops its grant"));
}

#[test]
fn an_idle_slot_is_taken_or_entered_and_never_both() {
    idle(None);
}

#[test]
#[should_panic(expected = "two threads own the slot")]
fn taking_a_slot_without_an_exchange_is_found() {
    idle(Some("pool: taken without an exchange"));
}

#[test]
fn a_slot_is_not_taken_after_an_op_that_ran_behind_the_look() {
    behind_the_look(None);
}

#[test]
#[should_panic(expected = "its work is not complete")]
fn ops_that_are_not_counted_are_found() {
    behind_the_look(Some("pool: ops not counted"));
}
