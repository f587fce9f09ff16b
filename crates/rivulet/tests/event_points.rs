//! Events on both kinds of device: what a point covers, and what it does not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![cfg(not(loom))]

mod common;

use common::{copy, fill, host, read, sim, sim_with, until, within, write};
use rivulet::hazard::Tracking;
use rivulet::{Access, Device, Error, Event};
use rivulet_hal::QueueIndex;
use rivulet_hal::sim::SimConfig;
use rivulet_hal::sync::Arc;
use std::time::{Duration, Instant};

fn manual(queues: usize) -> (Device, rivulet_hal::sim::SimControl) {
    sim_with(SimConfig { queues, manual: true, ..SimConfig::default() }, Tracking::On)
}

#[test]
fn a_per_stream_wait_does_not_wait_for_another_stream() {
    let (device, control) = manual(2);
    let (a, b) = (device.new_stream(0).unwrap(), device.new_stream(0).unwrap());
    let (x, y) = (device.allocate(64).unwrap(), device.allocate(64).unwrap());
    fill(&a, &x, 1).unwrap();
    fill(&b, &y, 2).unwrap();
    let (of_a, of_b) = (Event::new(false), Event::new(false));
    of_a.record(&a).unwrap();
    of_b.record(&b).unwrap();
    let queue_of = |stream: &rivulet::Stream| QueueIndex(stream.id().index() % 2);
    let (held, free) = (queue_of(&a), queue_of(&b));
    assert_ne!(held, free);
    control.release(free);
    within(Duration::from_secs(5), move || {
        of_b.synchronize().unwrap();
        b.synchronize().unwrap();
        assert!(of_b.query().unwrap() && b.query().unwrap());
        assert!(!of_a.query().unwrap());
        assert!(!a.query().unwrap());
    });
    control.release(held);
    device.synchronize().unwrap();
    assert_eq!(control.faults(), Vec::<String>::new());
}

#[test]
fn record_submits_and_fixes_the_point() {
    let (device, control) = manual(1);
    let a = device.new_stream(0).unwrap();
    let x = device.allocate(64).unwrap();
    fill(&a, &x, 1).unwrap();
    assert_eq!(control.unfinished(QueueIndex(0)), 0);
    let event = Event::new(false);
    event.record(&a).unwrap();
    assert_eq!(control.unfinished(QueueIndex(0)), 1);
    // Later work of the same stream is not part of it.
    fill(&a, &x, 2).unwrap();
    a.flush().unwrap();
    assert!(control.step(QueueIndex(0)));
    event.synchronize().unwrap();
    assert!(event.query().unwrap());
    assert!(!a.query().unwrap());
    control.release(QueueIndex(0));
    a.synchronize().unwrap();
}

#[test]
fn synchronize_covers_what_was_recorded_before_it_and_nothing_later() {
    let (device, control) = manual(1);
    let (a, b) = (device.new_stream(0).unwrap(), device.new_stream(0).unwrap());
    let (x, y) = (device.allocate(64).unwrap(), device.allocate(64).unwrap());
    fill(&a, &x, 1).unwrap();
    fill(&b, &y, 1).unwrap();
    let waiter = {
        let device = device.clone();
        std::thread::spawn(move || device.synchronize().unwrap())
    };
    until("both streams are submitted", || control.unfinished(QueueIndex(0)) == 2);
    std::thread::sleep(Duration::from_millis(10));
    for (stream, block) in [(&a, &x), (&b, &y)] {
        fill(stream, block, 2).unwrap();
        stream.flush().unwrap();
    }
    assert!(control.step(QueueIndex(0)));
    std::thread::sleep(Duration::from_millis(10));
    assert!(!waiter.is_finished());
    assert!(control.step(QueueIndex(0)));
    within(Duration::from_secs(5), move || waiter.join().unwrap());
    assert!(!a.query().unwrap() && !b.query().unwrap());
    control.release(QueueIndex(0));
}

#[test]
fn an_event_recorded_on_one_thread_holds_back_another_threads_stream() {
    for queues in [1, 2] {
        // Tracking off: only the event can order the two.
        let (device, control) = sim_with(SimConfig { queues, ..SimConfig::default() }, Tracking::Off);
        let (a, b) = (device.new_stream(0).unwrap(), device.new_stream(0).unwrap());
        let (x, y) = (device.allocate(64).unwrap(), device.allocate(64).unwrap());
        let event = Arc::new(Event::new(false));
        let done = Arc::new(Event::new(false));
        {
            let (event, x) = (Arc::clone(&event), Arc::clone(&x));
            std::thread::spawn(move || {
                fill(&a, &x, 5).unwrap();
                event.record(&a).unwrap();
            })
            .join()
            .unwrap();
        }
        {
            let (event, done, y) = (Arc::clone(&event), Arc::clone(&done), Arc::clone(&y));
            std::thread::spawn(move || {
                event.wait(&b).unwrap();
                copy(&b, &x, &y).unwrap();
                done.record(&b).unwrap();
            })
            .join()
            .unwrap();
        }
        done.synchronize().unwrap();
        assert_eq!(common::load_word(&y), 5);
        assert_eq!(control.faults(), Vec::<String>::new());
    }
}

#[test]
fn an_event_after_a_wait_is_after_what_was_waited_for() {
    let (device, control) = manual(2);
    let (a, b) = (device.new_stream(0).unwrap(), device.new_stream(0).unwrap());
    let x = device.allocate(64).unwrap();
    fill(&a, &x, 1).unwrap();
    let (first, second) = (Event::new(false), Event::new(false));
    first.record(&a).unwrap();
    first.wait(&b).unwrap();
    second.record(&b).unwrap();
    control.release(QueueIndex(b.id().index() % 2));
    std::thread::sleep(Duration::from_millis(20));
    assert!(!second.query().unwrap());
    // A CPU access on the stream that waits is behind it too, whatever its operands.
    let access = std::thread::spawn({
        let b = b.clone();
        move || drop(b.host_access("nothing", &[]).unwrap())
    });
    std::thread::sleep(Duration::from_millis(20));
    assert!(!access.is_finished());
    control.release(QueueIndex(a.id().index() % 2));
    second.synchronize().unwrap();
    access.join().unwrap();
    assert!(first.query().unwrap());
}

#[test]
fn an_event_never_recorded_holds_nobody_up() {
    let (device, _) = host(&[]);
    let event = Event::new(true);
    let stream = device.current_stream().unwrap();
    event.wait(&stream).unwrap();
    event.synchronize().unwrap();
    assert!(!event.recorded() && event.query().unwrap());
    let recorded = Event::new(true);
    recorded.record(&stream).unwrap();
    let text = event.elapsed_time(&recorded).unwrap_err().to_string();
    assert_eq!(text, "Start event must be recorded before calculating elapsed time.");
    let text = recorded.elapsed_time(&event).unwrap_err().to_string();
    assert_eq!(text, "End event must be recorded before calculating elapsed time.");
}

#[test]
fn timing_has_to_be_asked_for() {
    let (device, _) = host(&[]);
    let (timed, plain) = (Event::new(true), Event::new(false));
    let stream = device.current_stream().unwrap();
    timed.record(&stream).unwrap();
    plain.record(&stream).unwrap();
    for (start, end, which) in [(&timed, &plain, "end"), (&plain, &timed, "start"), (&plain, &plain, "both")]
    {
        let error = start.elapsed_time(end).unwrap_err();
        assert!(matches!(error, Error::TimingDisabled { which: found } if found == which));
        assert!(error.to_string().contains("Events were not created with argument 'enable_timing=True'"));
    }
}

#[test]
fn elapsed_time_on_an_inline_device_is_the_time_between_the_ops() {
    let (device, _) = host(&[]);
    let (start, end) = (Event::new(true), Event::new(true));
    let stream = device.current_stream().unwrap();
    start.record(&stream).unwrap();
    {
        let _access = device.host_access("slow", &[]).unwrap();
        std::thread::sleep(Duration::from_millis(30));
    }
    end.record(&stream).unwrap();
    let elapsed = start.elapsed_time(&end).unwrap();
    assert!((30.0..500.0).contains(&elapsed), "{elapsed}");
    assert!((-500.0..=-30.0).contains(&end.elapsed_time(&start).unwrap()));
}

#[test]
fn elapsed_time_notes_the_end_of_an_access_that_runs_while_the_event_is_recorded() {
    let (device, _) = host(&[]);
    let (start, end) = (Event::new(true), Event::new(true));
    let stream = device.new_stream(0).unwrap();
    start.record(&stream).unwrap();
    let access = stream.host_access("slow", &[]).unwrap();
    let recorder = {
        let stream = stream.clone();
        std::thread::spawn(move || {
            end.record(&stream).unwrap();
            assert!(!end.query().unwrap());
            end
        })
    };
    let end = recorder.join().unwrap();
    std::thread::sleep(Duration::from_millis(40));
    drop(access);
    std::thread::sleep(Duration::from_millis(200));
    let elapsed = start.elapsed_time(&end).unwrap();
    assert!((40.0..200.0).contains(&elapsed), "the time of the end, not of the question: {elapsed}");
}

#[test]
fn elapsed_time_of_device_work_is_the_devices() {
    let (device, control) = manual(1);
    let stream = device.new_stream(0).unwrap();
    let x = device.allocate(64).unwrap();
    let (start, end) = (Event::new(true), Event::new(true));
    start.record(&stream).unwrap();
    fill(&stream, &x, 1).unwrap();
    end.record(&stream).unwrap();
    assert!(control.step(QueueIndex(0)));
    std::thread::sleep(Duration::from_millis(30));
    assert!(control.step(QueueIndex(0)));
    std::thread::sleep(Duration::from_millis(150));
    let elapsed = start.elapsed_time(&end).unwrap();
    assert!((25.0..150.0).contains(&elapsed), "{elapsed}");
}

#[test]
fn recording_again_replaces_the_point() {
    let (device, control) = manual(1);
    let a = device.new_stream(0).unwrap();
    let x = device.allocate(64).unwrap();
    let event = Arc::new(Event::new(true));
    fill(&a, &x, 1).unwrap();
    event.record(&a).unwrap();
    let old = {
        let event = Arc::clone(&event);
        std::thread::spawn(move || event.synchronize().unwrap())
    };
    std::thread::sleep(Duration::from_millis(20));
    fill(&a, &x, 2).unwrap();
    event.record(&a).unwrap();
    assert!(control.step(QueueIndex(0)));
    // Who waited for the old point is done; the event itself is not.
    within(Duration::from_secs(5), move || old.join().unwrap());
    assert!(!event.query().unwrap());
    control.release(QueueIndex(0));
    event.synchronize().unwrap();
}

#[test]
fn waits_while_others_record_stay_within_their_point() {
    let (device, _) = sim(2);
    let block = device.allocate(64).unwrap();
    let event = Event::new(false);
    std::thread::scope(|scope| {
        for worker in 0..3_u32 {
            let (device, event, block) = (&device, &event, &block);
            scope.spawn(move || {
                let stream = device.current_stream().unwrap();
                for round in 0..60 {
                    write(&stream, block, worker * 100 + round).unwrap();
                    fill(&stream, block, worker * 100 + round).unwrap();
                    event.record(&stream).unwrap();
                    event.wait(&stream).unwrap();
                    event.synchronize().unwrap();
                }
            });
        }
    });
    let stream = device.new_stream(0).unwrap();
    assert!(read(&stream, &block).unwrap() % 100 == 59);
}

#[test]
fn waiting_takes_no_longer_than_the_work() {
    let (device, _) = host(&[]);
    let event = Event::new(false);
    let stream = device.current_stream().unwrap();
    let start = Instant::now();
    for _ in 0..1000 {
        drop(device.host_access("op", &[] as &[(&rivulet::memory::Block, Access)]).unwrap());
        event.record(&stream).unwrap();
        event.synchronize().unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(1));
}
