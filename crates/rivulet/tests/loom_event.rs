//! Events and CPU accesses of an inline device in every interleaving:
//! `RUSTFLAGS="--cfg loom" cargo test -p rivulet --release --test loom_event`.
//!
//! Each model has a bug that can be planted in the code for it to find; that is a test too.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![cfg(loom)]

use rivulet::hazard::seeded;
use rivulet::{Device, Event};
use rivulet_hal::sync::atomic::{AtomicU32, Ordering};
use rivulet_hal::sync::{Arc, thread};

fn model(bug: Option<&'static str>, preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    seeded::plant(bug);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

fn wake(bug: Option<&'static str>) {
    model(bug, 2, || {
        let device = Device::host();
        let stream = device.new_stream(0).unwrap();
        let written = Arc::new(AtomicU32::new(0));
        let event = Arc::new(Event::new(false));
        let access = stream.host_access("write", &[]).unwrap();
        let waiter = {
            let (event, stream, written) = (Arc::clone(&event), stream.clone(), Arc::clone(&written));
            thread::spawn(move || {
                // Recorded by another thread than the one whose access is still running.
                event.record(&stream).unwrap();
                event.synchronize().unwrap();
                // Relaxed: only the event can have ordered the two.
                assert_eq!(written.load(Ordering::Relaxed), 1);
                assert!(event.query().unwrap());
            })
        };
        written.store(1, Ordering::Relaxed);
        drop(access);
        waiter.join().unwrap();
    });
}

fn point(bug: Option<&'static str>) {
    model(bug, 2, || {
        let device = Device::host();
        let stream = device.new_stream(0).unwrap();
        let event = Arc::new(Event::new(false));
        drop(stream.host_access("before", &[]).unwrap());
        event.record(&stream).unwrap();
        let later = stream.host_access("later", &[]).unwrap();
        let waiter = {
            let event = Arc::clone(&event);
            thread::spawn(move || event.synchronize().unwrap())
        };
        // The later access ends only when the waiter is through.
        waiter.join().unwrap();
        drop(later);
    });
}

#[test]
fn recording_again_beside_a_wait_gives_one_of_the_two_points() {
    model(None, 2, || {
        let device = Device::host();
        let (first, second) = (device.new_stream(0).unwrap(), device.new_stream(0).unwrap());
        let written = [Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0))];
        let event = Arc::new(Event::new(false));
        let access = first.host_access("first", &[]).unwrap();
        written[0].store(1, Ordering::Relaxed);
        drop(access);
        event.record(&first).unwrap();
        let again = {
            let (event, second, written) = (Arc::clone(&event), second.clone(), Arc::clone(&written[1]));
            thread::spawn(move || {
                let access = second.host_access("second", &[]).unwrap();
                written.store(1, Ordering::Relaxed);
                drop(access);
                event.record(&second).unwrap();
            })
        };
        event.synchronize().unwrap();
        assert_eq!(written[0].load(Ordering::Relaxed), 1);
        again.join().unwrap();
        event.synchronize().unwrap();
        assert_eq!(written[1].load(Ordering::Relaxed), 1);
    });
}

fn turns(bug: Option<&'static str>) {
    model(bug, 2, || {
        let device = Device::host();
        let stream = device.new_stream(0).unwrap();
        let inside = Arc::new(AtomicU32::new(0));
        let other = {
            let (stream, inside) = (stream.clone(), Arc::clone(&inside));
            thread::spawn(move || {
                let _access = stream.host_access("other", &[]).unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
                inside.fetch_sub(1, Ordering::Relaxed);
            })
        };
        let access = stream.host_access("one", &[]).unwrap();
        assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
        inside.fetch_sub(1, Ordering::Relaxed);
        drop(access);
        other.join().unwrap();
    });
}

#[test]
fn who_waits_for_an_event_sees_the_access_and_always_wakes() {
    wake(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_missing_fence_is_found() {
    wake(Some("counter: no fence"));
}

#[test]
fn an_event_waits_for_its_point_and_not_for_later_accesses() {
    point(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn an_event_that_waits_for_the_latest_is_found() {
    point(Some("event: waits for the latest"));
}

#[test]
fn turns_on_a_stream_come_one_at_a_time() {
    turns(None);
}

#[test]
#[should_panic(expected = "assertion")]
fn a_turn_that_nobody_waits_for_is_found() {
    turns(Some("tickets: no turns"));
}
