//! Captures of the Metal driver, on the model of Metal's rules. Nothing here has run on a Mac.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod common;

use common::{Q0, at, memory, submit, whole};
use rivulet_hal::metal::model::{self, ModelConfig, ModelControl};
use rivulet_hal::sync::{Mutex, Rank};
use rivulet_hal::{CaptureError, Device, Timeline, host};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);

/// Removed at the end of the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        // A test's thread has its name.
        let thread = std::thread::current();
        let name = format!("rivulet-{}-{}", std::process::id(), thread.name().unwrap_or("captures"));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn open(captures: bool) -> (Arc<dyn Device>, ModelControl) {
    model::open(&ModelConfig { captures, ..ModelConfig::default() }).unwrap()
}

fn no_faults(control: &ModelControl) {
    assert!(control.wait_idle(LONG));
    assert_eq!(control.faults(), [""; 0]);
}

/// Each thread submits `rounds` times to the one queue.
fn threads_submit(device: &Arc<dyn Device>, threads: u32, rounds: u64) {
    let queue = Mutex::new(Rank::COMBINER, ());
    std::thread::scope(|scope| {
        for index in 0..threads {
            let queue = &queue;
            scope.spawn(move || {
                let (timeline, target) = (device.timeline().unwrap(), memory(device, 64));
                for round in 1..=rounds {
                    let held = queue.lock();
                    submit(device, Q0, &format!("thread {index}"), &[], at(&timeline, round), |recorder| {
                        recorder.fill(&whole(&target), index).unwrap();
                    })
                    .unwrap();
                    drop(held);
                    assert!(timeline.wait(round, LONG).unwrap());
                }
            });
        }
    });
}

/// A device in a process with `MTL_CAPTURE_ENABLED=1`, and a folder for documents.
fn capturing() -> (Arc<dyn Device>, ModelControl, Folder) {
    let (device, control) = open(true);
    (device, control, Folder::new())
}

fn fill_once(device: &Arc<dyn Device>, label: &str, timeline: &Arc<dyn Timeline>, value: u64) {
    let target = memory(device, 64);
    submit(device, Q0, label, &[], at(timeline, value), |recorder| {
        recorder.fill(&whole(&target), 1).unwrap();
    })
    .unwrap();
    assert!(timeline.wait(value, LONG).unwrap());
}

#[test]
fn a_capture_holds_what_was_submitted_between_its_begin_and_its_end() {
    let (device, control, folder) = capturing();
    let timeline = device.timeline().unwrap();
    let capture = device.capture().unwrap();
    assert!(capture.is_enabled() && !capture.is_capturing());
    fill_once(&device, "before", &timeline, 1);
    let document = folder.0.join("one.gputrace");
    capture.start(&document).unwrap();
    assert!(capture.is_capturing());
    fill_once(&device, "first", &timeline, 2);
    fill_once(&device, "second", &timeline, 3);
    assert_eq!(capture.stop(), Some(document.clone()));
    assert!(!capture.is_capturing());
    fill_once(&device, "after", &timeline, 4);
    assert_eq!(capture.stop(), None, "there is nothing to end");
    let documents = control.captures();
    assert_eq!(documents.len(), 1);
    assert_eq!(
        (&documents[0].path, documents[0].commands.as_slice()),
        (&document, &["first".to_owned(), "second".to_owned()][..])
    );
    assert_eq!(std::fs::read_to_string(document.join("index")).unwrap(), "first\nsecond");
    no_faults(&control);
}

#[test]
fn a_capture_that_cannot_begin_says_why_and_leaves_things_as_they_were() {
    let (device, control, folder) = capturing();
    let capture = device.capture().unwrap();
    let [first, second] = ["first.gputrace", "second.gputrace"].map(|name| folder.0.join(name));
    std::fs::write(&second, "").unwrap();
    let exists = CaptureError::Exists { document: second.clone() };
    assert_eq!(capture.start(&second), Err(exists.clone()));
    assert!(exists.to_string().contains("second.gputrace: it exists already"), "{exists}");
    let nowhere = folder.0.join("missing/third.gputrace");
    let refused = capture.start(&nowhere).unwrap_err();
    assert!(matches!(refused, CaptureError::Refused { .. }), "{refused}");
    assert!(!capture.is_capturing());
    capture.start(&first).unwrap();
    let running = capture.start(&second).unwrap_err();
    assert_eq!(running, CaptureError::Running { document: second, running: Some(first.clone()) });
    assert!(running.to_string().contains("first.gputrace"), "{running}");
    assert_eq!(capture.stop(), Some(first));
    // Xcode records one.
    control.capture_by_another(Some(folder.0.join("other.gputrace")));
    assert!(capture.is_capturing());
    let third = folder.0.join("third.gputrace");
    let running = capture.start(&third).unwrap_err();
    assert_eq!(running, CaptureError::Running { document: third.clone(), running: None });
    assert_eq!(capture.stop(), None, "nor is it ended by this device");
    assert!(capture.is_capturing());
    // And its user ends ours.
    control.capture_by_another(None);
    capture.start(&third).unwrap();
    control.capture_by_another(None);
    assert_eq!(capture.stop(), Some(third));
    no_faults(&control);
}

#[test]
fn without_the_variable_there_are_no_captures() {
    let (device, control) = open(false);
    let capture = device.capture().unwrap();
    assert!(!capture.is_enabled());
    let error = capture.start(std::path::Path::new("/one.gputrace")).unwrap_err();
    assert_eq!(error, CaptureError::NotEnabled);
    assert!(error.to_string().contains("MTL_CAPTURE_ENABLED=1"), "{error}");
    assert!(host::open().capture().is_none());
    no_faults(&control);
}

#[test]
fn captures_begin_and_end_while_threads_submit() {
    let (device, control, folder) = capturing();
    std::thread::scope(|scope| {
        let work = scope.spawn(|| threads_submit(&device, 6, 60));
        let capture = device.capture().unwrap();
        let mut round = 0;
        while round < 5 || !work.is_finished() {
            capture.start(&folder.0.join(format!("{round}.gputrace"))).unwrap();
            std::thread::yield_now();
            assert!(capture.stop().is_some());
            round += 1;
        }
    });
    assert!(control.captures().iter().any(|document| !document.commands.is_empty()));
    no_faults(&control);
}

#[test]
fn a_device_that_is_closed_writes_the_document() {
    let (device, control, folder) = capturing();
    let document = folder.0.join("last.gputrace");
    device.capture().unwrap().start(&document).unwrap();
    drop(device);
    assert!(document.join("index").exists());
    assert_eq!(control.captures().len(), 1);
}
