//! The pool, as its users see it: who gets a slot, who waits, who fails, and with what words.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![cfg(not(loom))]

mod common;

use common::{host, until};
use rivulet::{Device, Error, Result, StreamId};
use rivulet_hal::sync::Arc;
use std::collections::BTreeSet;
use std::sync::{Barrier, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A thread that keeps its slot (with an explicit stream set, so that nobody may take it) until told to end.
struct Holder {
    stream: StreamId,
    end: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Holder {
    fn new(device: &Device) -> Self {
        Self::named(device, "holder")
    }

    fn named(device: &Device, name: &str) -> Self {
        let device = device.clone();
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let body = move || {
            let own = device.current_stream_id().unwrap();
            let explicit = device.new_stream(0).unwrap().id();
            device.exchange_stream(Some(explicit)).unwrap();
            tell.send(own).unwrap();
            let _ = ended.recv();
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body).unwrap();
        Self { stream: told.recv().unwrap(), end, thread }
    }

    fn end(self) {
        drop(self.end);
        self.thread.join().unwrap();
    }
}

fn hold_all(device: &Device, workers: usize) -> Vec<Holder> {
    (0..workers).map(|_| Holder::new(device)).collect()
}

fn on_new_thread<R: Send + 'static>(device: &Device, body: impl FnOnce(&Device) -> R + Send + 'static) -> R {
    let device = device.clone();
    std::thread::spawn(move || body(&device)).join().unwrap()
}

fn take(device: &Device) -> Result<StreamId> {
    on_new_thread(device, Device::current_stream_id)
}

#[test]
fn every_worker_has_its_own_stream_and_the_lowest_free_one() {
    for size in [2, 16, 32, 64, 256] {
        let (device, _) = host(&[("MPS_STREAM_POOL_SIZE", &size.to_string())]);
        let holders = hold_all(&device, size - 1);
        let streams: Vec<usize> = holders.iter().map(|holder| holder.stream.index()).collect();
        assert_eq!(streams, (1..size).collect::<Vec<_>>());
        assert!(matches!(take(&device), Err(Error::PoolExhausted { .. })), "size {size}");
        holders.into_iter().for_each(Holder::end);
        assert_eq!(take(&device).unwrap(), StreamId(1));
    }
}

#[test]
fn an_adopted_main_thread_runs_on_the_default_stream_beside_all_workers() {
    let (device, _) = host(&[]);
    let holders = hold_all(&device, 31);
    device.adopt_main_thread();
    assert_eq!(device.current_stream_id().unwrap(), StreamId::DEFAULT);
    holders.into_iter().for_each(Holder::end);
}

#[test]
fn the_error_names_the_pool_its_size_the_threads_and_the_ways_out() {
    let (device, _) = host(&[("MPS_STREAM_POOL_SIZE", "4")]);
    let holders: Vec<_> =
        ["first", "second", "third"].iter().map(|name| Holder::named(&device, name)).collect();
    let text = take(&device).unwrap_err().to_string();
    for part in
        ["mps stream pool exhausted", "MPS_STREAM_POOL_SIZE=4", "all 3 worker", "first", "second", "third"]
    {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
    let ways =
        ["MPS_POOL_SHARE=1", "MPS_POOL_BACKPRESSURE=1", "MPS_POOL_TIMEOUT_MS", "larger MPS_STREAM_POOL_SIZE"];
    let places: Vec<_> =
        ways.iter().map(|way| text.find(way).unwrap_or_else(|| panic!("{way}: {text}"))).collect();
    assert_eq!(places.iter().min(), Some(&places[0]), "{text}");
    holders.into_iter().for_each(Holder::end);
}

#[test]
fn backpressure_waits_until_a_thread_ends() {
    for (name, value) in [("MPS_POOL_BACKPRESSURE", "1"), ("MPS_STREAM_POOL_WAIT_TIMEOUT_MS", "-1")] {
        let (device, env) = host(&[("MPS_STREAM_POOL_SIZE", "4")]);
        let mut holders = hold_all(&device, 3);
        assert!(matches!(take(&device), Err(Error::PoolExhausted { .. })));
        // After the device was opened, as a Python program does it.
        env.set(name, value);
        let waiter = {
            let device = device.clone();
            std::thread::spawn(move || device.current_stream_id().unwrap())
        };
        until("the thread waits", || device.report().pool.unwrap().waiting == 1);
        std::thread::sleep(Duration::from_millis(120));
        assert!(!waiter.is_finished());
        let ended = holders.remove(1);
        let stream = ended.stream;
        ended.end();
        assert_eq!(waiter.join().unwrap(), stream);
        holders.into_iter().for_each(Holder::end);
    }
}

#[test]
fn the_finite_timeout_raises_in_time() {
    for (name, milliseconds) in
        [("MPS_POOL_TIMEOUT_MS", 60), ("MPS_POOL_TIMEOUT_MS", 250), ("MPS_STREAM_POOL_WAIT_TIMEOUT_MS", 90)]
    {
        let (device, _) = host(&[("MPS_STREAM_POOL_SIZE", "2"), (name, &milliseconds.to_string())]);
        let holder = Holder::new(&device);
        let (elapsed, error) = on_new_thread(&device, |device| {
            let start = Instant::now();
            let error = device.current_stream_id().unwrap_err();
            (start.elapsed(), error)
        });
        let limit = Duration::from_millis(milliseconds);
        assert!(elapsed >= limit && elapsed <= limit * 12 / 10 + Duration::from_millis(50), "{elapsed:?}");
        let text = error.to_string();
        let parts =
            ["pool", "exhausted", "stream", "timed out", "timeout", name, &format!("{milliseconds} ms")];
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        holder.end();
        take(&device).unwrap();
        assert_eq!(device.report().pool.unwrap().waiting, 0);
    }
}

#[test]
fn waiters_are_served_in_order_of_arrival() {
    let (device, _) = host(&[("MPS_STREAM_POOL_SIZE", "2"), ("MPS_POOL_BACKPRESSURE", "1")]);
    let holder = Holder::new(&device);
    let (tell, told) = mpsc::channel();
    let waiters: Vec<_> = (0..6_usize)
        .map(|place| {
            let (own, tell) = (device.clone(), tell.clone());
            let waiter = std::thread::spawn(move || {
                // Inside the op nobody takes the slot away, so the next one gets it after this one has told.
                let access = own.host_access("op", &[]).unwrap();
                tell.send(place).unwrap();
                drop(access);
            });
            until("it waits", || device.report().pool.unwrap().waiting == place + 1);
            waiter
        })
        .collect();
    holder.end();
    assert_eq!(told.iter().take(6).collect::<Vec<_>>(), (0..6).collect::<Vec<_>>());
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
}

#[test]
fn share_never_waits_and_never_fails() {
    let (device, _) = host(&[("MPS_POOL_SHARE", "1")]);
    let together = Arc::new(Barrier::new(200));
    let threads: Vec<_> = (0..200)
        .map(|_| {
            let (device, together) = (device.clone(), Arc::clone(&together));
            std::thread::spawn(move || {
                let stream = device.current_stream_id().unwrap();
                // Explicit, so that none of the first is idle when the others come.
                device.exchange_stream(Some(StreamId::DEFAULT)).unwrap();
                together.wait();
                device.exchange_stream(None).unwrap();
                for _ in 0..20 {
                    drop(device.host_access("share", &[]).unwrap());
                }
                stream
            })
        })
        .collect();
    let streams: Vec<StreamId> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(streams.iter().collect::<BTreeSet<_>>().len(), 31);
    assert!(streams.iter().all(|stream| (1..32).contains(&stream.0)));
    assert!(device.report().pool.unwrap().used.is_empty());
}

#[test]
fn an_idle_threads_slot_is_taken_and_it_gets_another() {
    for mode in ["MPS_POOL_BACKPRESSURE", "MPS_POOL_SHARE"] {
        let (device, env) = host(&[("MPS_STREAM_POOL_SIZE", "2")]);
        let (go, gone) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let idle = {
            let device = device.clone();
            std::thread::spawn(move || {
                tell.send(device.current_stream_id().unwrap()).unwrap();
                gone.recv().unwrap();
                let before = device.peek_stream();
                let access = device.host_access("later", &[]).unwrap();
                (before, access.stream())
            })
        };
        let first = told.recv().unwrap();
        assert!(
            matches!(take(&device), Err(Error::PoolExhausted { .. })),
            "{mode}: never without being asked"
        );
        env.set(mode, "1");
        assert_eq!(take(&device).unwrap(), first, "{mode}");
        go.send(()).unwrap();
        assert_eq!(idle.join().unwrap(), (None, first), "{mode}");
    }
}

#[test]
fn a_thread_in_an_op_keeps_its_slot() {
    let (device, _) = host(&[("MPS_STREAM_POOL_SIZE", "2"), ("MPS_POOL_TIMEOUT_MS", "50")]);
    let (end, ended) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let busy = {
        let device = device.clone();
        std::thread::spawn(move || {
            let access = device.host_access("long", &[]).unwrap();
            tell.send(access.stream()).unwrap();
            ended.recv().unwrap();
        })
    };
    let stream = told.recv().unwrap();
    assert!(matches!(take(&device), Err(Error::PoolTimeout { .. })));
    end.send(()).unwrap();
    busy.join().unwrap();
    assert_eq!(take(&device).unwrap(), stream);
}

#[test]
fn more_threads_than_slots_never_hang_in_a_waiting_mode() {
    let modes = [
        ("MPS_POOL_BACKPRESSURE", "1"),
        ("MPS_POOL_TIMEOUT_MS", "20000"),
        ("MPS_STREAM_POOL_WAIT_TIMEOUT_MS", "-1"),
    ];
    for (name, value) in modes {
        let (device, _) = host(&[("MPS_STREAM_POOL_SIZE", "8"), (name, value)]);
        let together = Arc::new(Barrier::new(20));
        let threads: Vec<_> = (0..20)
            .map(|_| {
                let (device, together) = (device.clone(), Arc::clone(&together));
                std::thread::spawn(move || {
                    for _ in 0..50 {
                        drop(device.host_access("op", &[]).unwrap());
                    }
                    // Every thread is still alive when the last one runs its ops.
                    together.wait();
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(device.report().pool.unwrap().used.is_empty());
    }
}

#[test]
fn busy_threads_take_turns() {
    // One slot and a thread that runs op after op, with gaps far too short for another to find it idle.
    let (device, _) = host(&[("MPS_STREAM_POOL_SIZE", "2"), ("MPS_POOL_BACKPRESSURE", "1")]);
    let stop = Arc::new(rivulet_hal::sync::atomic::AtomicBool::new(false));
    let order = rivulet_hal::sync::atomic::Ordering::Relaxed;
    let busy = {
        let (device, stop) = (device.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stop.load(order) {
                let _access = device.host_access("busy", &[]).unwrap();
                std::thread::sleep(Duration::from_millis(3));
            }
        })
    };
    until("it runs", || device.report().pool.is_some_and(|pool| !pool.used.is_empty()));
    let other = {
        let device = device.clone();
        std::thread::spawn(move || (0..10).for_each(|_| drop(device.host_access("other", &[]).unwrap())))
    };
    until("the other came through", || other.is_finished());
    stop.store(true, order);
    other.join().unwrap();
    busy.join().unwrap();
}

#[test]
fn the_size_is_fixed_at_the_first_slot() {
    let (device, env) = host(&[("MPS_STREAM_POOL_SIZE", "4")]);
    assert_eq!(take(&device).unwrap(), StreamId(1));
    env.set("MPS_STREAM_POOL_SIZE", "8");
    let text = take(&device).unwrap_err().to_string();
    assert!(text.contains("MPS_STREAM_POOL_SIZE is 8") && text.contains("4 slots"), "{text}");
    for value in ["4", ""] {
        env.set("MPS_STREAM_POOL_SIZE", value);
        assert_eq!(take(&device).unwrap(), StreamId(1));
    }
}

#[test]
fn bad_settings_fail_where_a_slot_is_wanted_and_nothing_is_lost() {
    let (device, env) = host(&[]);
    let variables = [
        "MPS_STREAM_POOL_SIZE",
        "MPS_POOL_SHARE",
        "MPS_POOL_TIMEOUT_MS",
        "MPS_POOL_BACKPRESSURE",
        "MPS_STREAM_POOL_WAIT_TIMEOUT_MS",
    ];
    for variable in variables {
        env.set(variable, "nonsense");
        let text = take(&device).unwrap_err().to_string();
        assert!(text.contains(variable) && text.contains("nonsense") && text.contains("allowed"), "{text}");
        env.unset(variable);
        take(&device).unwrap();
    }
}

#[test]
fn a_slot_comes_back_after_a_panic() {
    let (device, _) = host(&[("MPS_STREAM_POOL_SIZE", "2")]);
    for _ in 0..5 {
        let device = device.clone();
        let thread = std::thread::spawn(move || {
            let _access = device.host_access("panics", &[]).unwrap();
            std::panic::resume_unwind(Box::new("the test's own"));
        });
        assert!(thread.join().is_err());
    }
    assert_eq!(take(&device).unwrap(), StreamId(1));
}

#[test]
fn release_gives_the_slot_back_at_once_or_at_the_end_of_the_op() {
    let (device, _) = host(&[("MPS_STREAM_POOL_SIZE", "2")]);
    on_new_thread(&device, |device| {
        device.current_stream_id().unwrap();
        device.release_current_thread();
        assert_eq!(device.peek_stream(), None);
        assert_eq!(take(device).unwrap(), StreamId(1));
        let access = device.host_access("op", &[]).unwrap();
        device.release_current_thread();
        assert!(matches!(take(device), Err(Error::PoolExhausted { .. })), "the op still needs it");
        drop(access);
        assert_eq!(take(device).unwrap(), StreamId(1));
    });
}

#[test]
fn ten_thousand_short_threads_leak_nothing() {
    let (device, _) = host(&[]);
    for _ in 0..10_000 {
        assert_eq!(take(&device).unwrap(), StreamId(1));
    }
    let report = device.report();
    assert!(report.pool.unwrap().used.is_empty());
    assert_eq!(report.streams.len(), 2);
}

#[test]
fn full_generations_follow_each_other_without_a_spurious_error() {
    let (device, _) = host(&[]);
    let together = Arc::new(Barrier::new(31));
    for round in 0..300 {
        let threads: Vec<_> = (0..31)
            .map(|_| {
                let (device, together) = (device.clone(), Arc::clone(&together));
                std::thread::spawn(move || {
                    let stream = device.host_access("op", &[]).map(|access| access.stream());
                    together.wait();
                    stream
                })
            })
            .collect();
        let streams: BTreeSet<StreamId> =
            threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect();
        assert_eq!(streams.len(), 31, "round {round}");
    }
}

#[test]
fn looking_takes_no_slot() {
    let (device, _) = host(&[("MPS_STREAM_POOL_SIZE", "2")]);
    let holder = Holder::new(&device);
    on_new_thread(&device, |device| {
        device.synchronize().unwrap();
        device.empty_cache().unwrap();
        assert_eq!(device.peek_stream(), None);
        let _ = device.report();
        let stream = device.new_stream(-1).unwrap();
        stream.synchronize().unwrap();
        assert!(stream.query().unwrap());
        rivulet::Event::new(false).record(&stream).unwrap();
        assert_eq!(device.exchange_stream(Some(stream.id())).unwrap(), None);
        assert_eq!(device.host_access("explicit", &[]).unwrap().stream(), stream.id());
        assert_eq!(device.exchange_stream(None).unwrap(), Some(stream.id()));
        assert!(matches!(device.host_access("needs one", &[]), Err(Error::PoolExhausted { .. })));
    });
    holder.end();
}

#[test]
fn restoring_the_own_stream_leaves_the_slot_free_to_be_taken() {
    let (device, env) = host(&[("MPS_STREAM_POOL_SIZE", "2")]);
    on_new_thread(&device, move |device| {
        let own = device.current_stream_id().unwrap();
        let explicit = device.new_stream(0).unwrap().id();
        env.set("MPS_POOL_TIMEOUT_MS", "30");
        assert_eq!(device.exchange_stream(Some(explicit)).unwrap(), Some(own));
        assert!(matches!(take(device), Err(Error::PoolTimeout { .. })), "an explicit stream holds the slot");
        assert_eq!(device.exchange_stream(Some(own)).unwrap(), Some(explicit));
        assert_eq!(take(device).unwrap(), own);
    });
}

#[test]
fn unknown_streams_and_priorities_are_refused() {
    let (device, _) = host(&[]);
    let text = device.stream(StreamId(4711)).unwrap_err().to_string();
    assert!(text.contains("4711") && text.contains("96"), "{text}");
    assert!(matches!(device.exchange_stream(Some(StreamId(40))), Err(Error::NoSuchStream { id: 40, .. })));
    let text = device.new_stream(3).unwrap_err().to_string();
    assert!(text.contains("priority 3") && text.contains("0 and -1"), "{text}");
}

#[test]
fn explicit_streams_go_round_by_priority() {
    let (device, _) = host(&[]);
    for (priority, first) in [(0, 33), (-1, 65)] {
        let ids: Vec<u32> = (0..33).map(|_| device.new_stream(priority).unwrap().id().0).collect();
        assert_eq!(ids, (first..first + 32).chain([first]).collect::<Vec<_>>());
        assert_eq!(device.stream(StreamId(first)).unwrap().priority(), priority);
    }
}

#[test]
fn after_shut_down_calls_fail_with_words() {
    let (device, _) = host(&[]);
    let block = device.allocate(64).unwrap();
    device.shut_down();
    assert!(device.current_stream_id().unwrap_err().to_string().contains("shut down"));
    device.free(block);
    device.release_current_thread();
}
