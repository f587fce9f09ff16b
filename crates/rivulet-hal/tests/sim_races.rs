//! What the sim calls a race: each missing ordering is found, each sufficient one is accepted, whatever the timing.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]

mod common;

use common::{
    Q0, Q1, add_assign, at, bytes, commands, memory, part, pipeline, read, set_bytes, submit, whole, write,
};
use rivulet_hal::sim::{Delay, SimConfig, SimControl, open};
use rivulet_hal::{
    ByteRange, Device, HalError, Memory, QueueIndex, Recorder, Submission, SubmitFailure, Timeline,
};
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);

struct Rig {
    device: Arc<dyn Device>,
    control: SimControl,
    memory: Arc<dyn Memory>,
    lines: [Arc<dyn Timeline>; 2],
}

impl Rig {
    /// Two held queues: nothing runs, so whatever is found was not found by luck.
    fn held() -> Self {
        Self::new(SimConfig { manual: true, delay: Delay::None, ..SimConfig::default() })
    }

    fn new(config: SimConfig) -> Self {
        let (device, control) = open(config);
        let memory = memory(&device, 256);
        let lines = [device.timeline().unwrap(), device.timeline().unwrap()];
        Self { device, control, memory, lines }
    }

    fn fill(&self, recorder: &mut dyn Recorder) {
        recorder.fill(&whole(&self.memory), 1).unwrap();
    }

    /// Reads the first half into a memory of its own.
    fn read(&self, recorder: &mut dyn Recorder) {
        recorder.copy(&part(&self.memory, 0, 128), &whole(&memory(&self.device, 128))).unwrap();
    }

    fn no_faults(&self) {
        assert_eq!(self.control.faults(), [""; 0]);
    }
}

fn race(outcome: Result<(), SubmitFailure>, words: &[&str]) {
    let failure = outcome.unwrap_err();
    assert!(matches!(failure.error, HalError::Race(_)), "{failure}");
    let text = failure.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn commands_of_one_buffer_need_a_barrier() {
    let rig = Rig::held();
    let outcome = submit(&rig.device, Q0, "step", &[], at(&rig.lines[0], 1), |recorder| {
        rig.fill(recorder);
        rig.read(recorder);
    });
    race(outcome, &["`copy`", "`fill`", "submission `step` on queue 0", "bytes 0..128", "nothing orders"]);
    assert_eq!(rig.control.take_faults().len(), 1);
    assert_eq!(rig.control.unfinished(Q0), 0);

    let rig = Rig::held();
    submit(&rig.device, Q0, "step", &[], at(&rig.lines[0], 1), |recorder| {
        rig.fill(recorder);
        recorder.barrier().unwrap();
        rig.read(recorder);
        rig.read(recorder);
    })
    .unwrap();
    rig.no_faults();
}

#[test]
fn submission_order_alone_orders_nothing() {
    let rig = Rig::held();
    submit(&rig.device, Q0, "first", &[], at(&rig.lines[0], 1), |recorder| rig.fill(recorder)).unwrap();
    let outcome = submit(&rig.device, Q0, "second", &[], at(&rig.lines[0], 2), |recorder| rig.fill(recorder));
    race(outcome, &["`second`", "`first`"]);
}

#[test]
fn a_barrier_in_a_later_buffer_orders_all_of_its_queue() {
    let rig = Rig::held();
    submit(&rig.device, Q0, "first", &[], at(&rig.lines[0], 1), |recorder| rig.fill(recorder)).unwrap();
    submit(&rig.device, Q0, "only a barrier", &[], at(&rig.lines[0], 2), |recorder| {
        recorder.barrier().unwrap()
    })
    .unwrap();
    submit(&rig.device, Q0, "third", &[], at(&rig.lines[0], 3), |recorder| rig.fill(recorder)).unwrap();
    rig.no_faults();
    // It says nothing about the other queue.
    let outcome = submit(&rig.device, Q1, "elsewhere", &[], at(&rig.lines[1], 1), |recorder| {
        recorder.barrier().unwrap();
        rig.read(recorder);
    });
    race(outcome, &["`elsewhere`", "`third`"]);
}

#[test]
fn a_timeline_wait_orders_its_own_queue_too() {
    let rig = Rig::held();
    submit(&rig.device, Q0, "first", &[], at(&rig.lines[0], 1), |recorder| rig.fill(recorder)).unwrap();
    let waits = [at(&rig.lines[0], 1)];
    submit(&rig.device, Q0, "second", &waits, at(&rig.lines[0], 2), |recorder| rig.fill(recorder)).unwrap();
    rig.no_faults();
}

#[test]
fn queues_need_a_wait_for_the_right_value() {
    let rig = Rig::held();
    submit(&rig.device, Q0, "earlier", &[], at(&rig.lines[0], 1), |_| {}).unwrap();
    submit(&rig.device, Q0, "write", &[], at(&rig.lines[0], 2), |recorder| rig.fill(recorder)).unwrap();
    let too_early = [at(&rig.lines[0], 1)];
    let outcome =
        submit(&rig.device, Q1, "read", &too_early, at(&rig.lines[1], 1), |recorder| rig.read(recorder));
    race(outcome, &["`read` on queue 1 reads", "`write` on queue 0 writes"]);
    rig.control.take_faults();
    let waits = [at(&rig.lines[0], 2)];
    submit(&rig.device, Q1, "read", &waits, at(&rig.lines[1], 2), |recorder| rig.read(recorder)).unwrap();
    // The wait covers what the queue gets later, too; and the signal of a read protects it from a later write.
    submit(&rig.device, Q1, "read again", &[], at(&rig.lines[1], 3), |recorder| rig.read(recorder)).unwrap();
    let barrier_and_fill = |recorder: &mut dyn Recorder| {
        recorder.barrier().unwrap();
        rig.fill(recorder);
    };
    let outcome = submit(&rig.device, Q0, "overwrite", &[], at(&rig.lines[0], 3), barrier_and_fill);
    race(outcome, &["writes", "reads"]);
    rig.control.take_faults();
    let waits = [at(&rig.lines[1], 3)];
    submit(&rig.device, Q0, "overwrite", &waits, at(&rig.lines[0], 4), |recorder| rig.fill(recorder))
        .unwrap();
    rig.no_faults();
}

#[test]
fn a_refused_submission_leaves_no_trace() {
    let rig = Rig::held();
    submit(&rig.device, Q0, "write", &[], at(&rig.lines[0], 1), |recorder| rig.fill(recorder)).unwrap();
    let outcome = submit(&rig.device, Q1, "read", &[], at(&rig.lines[1], 1), |recorder| {
        recorder.fill(&part(&memory(&rig.device, 64), 0, 64), 0).unwrap();
        rig.read(recorder);
    });
    race(outcome, &["`read`"]);
    rig.control.take_faults();
    // No signal: who waits for it goes into the order only after the second attempt, and so after its read.
    let waits = [at(&rig.lines[1], 1)];
    submit(&rig.device, Q0, "overwrite", &waits, at(&rig.lines[0], 2), |recorder| rig.fill(recorder))
        .unwrap();
    let waits = [at(&rig.lines[0], 1)];
    submit(&rig.device, Q1, "read", &waits, at(&rig.lines[1], 1), |recorder| rig.read(recorder)).unwrap();
    rig.no_faults();
}

#[test]
fn order_passes_through_a_third_party() {
    let config = SimConfig { queues: 3, manual: true, ..SimConfig::default() };
    let rig = Rig::new(config);
    let last = rig.device.timeline().unwrap();
    submit(&rig.device, Q0, "write", &[], at(&rig.lines[0], 1), |recorder| rig.fill(recorder)).unwrap();
    submit(&rig.device, Q1, "relay", &[at(&rig.lines[0], 1)], at(&rig.lines[1], 1), |_| {}).unwrap();
    let waits = [at(&rig.lines[1], 1)];
    submit(&rig.device, QueueIndex(2), "read", &waits, at(&last, 1), |recorder| rig.read(recorder)).unwrap();
    rig.no_faults();
}

#[test]
fn disjoint_bytes_and_pure_reads_are_free() {
    let rig = Rig::held();
    for (queue, line, start) in [(Q0, 0, 0), (Q1, 1, 128)] {
        submit(&rig.device, queue, "half", &[], at(&rig.lines[line], 1), |recorder| {
            recorder.fill(&part(&rig.memory, start, start + 128), 3).unwrap();
        })
        .unwrap();
    }
    let other = memory(&rig.device, 256);
    for (queue, line) in [(Q0, 0), (Q1, 1)] {
        submit(&rig.device, queue, "reads", &[], at(&rig.lines[line], 2), |recorder| {
            recorder.copy(&whole(&other), &whole(&memory(&rig.device, 256))).unwrap();
        })
        .unwrap();
    }
    rig.no_faults();
}

#[test]
fn a_kernel_may_update_in_place() {
    let rig = Rig::held();
    let add = pipeline(&rig.device, "add_assign", 2, add_assign);
    submit(&rig.device, Q0, "double", &[], at(&rig.lines[0], 1), |recorder| {
        let operands = [read(whole(&rig.memory)), write(whole(&rig.memory))];
        recorder.dispatch(&add, &operands, &[], [1; 3]).unwrap();
    })
    .unwrap();
    rig.no_faults();
}

#[test]
fn the_host_knows_only_what_it_looked_at() {
    let rig = Rig::new(SimConfig { delay: Delay::None, ..SimConfig::default() });
    let all = ByteRange { start: 0, end: 256 };
    submit(&rig.device, Q0, "write", &[], at(&rig.lines[0], 1), |recorder| rig.fill(recorder)).unwrap();
    // Complete, but the host has not seen it.
    assert!(rig.control.wait_idle(LONG));
    let text = rig.memory.begin_host_access(all, false).unwrap_err().to_string();
    assert!(text.contains("the host reads") && text.contains("`write` on queue 0"), "{text}");
    rig.control.take_faults();
    assert_eq!(rig.lines[0].completed().unwrap(), 1);
    assert_eq!(bytes(&rig.memory, 0, 1), [1]);

    // Reads are no conflict for a read, but they are for a write.
    submit(&rig.device, Q0, "read", &[], at(&rig.lines[0], 2), |recorder| rig.read(recorder)).unwrap();
    assert_eq!(bytes(&rig.memory, 0, 1), [1]);
    assert!(rig.memory.begin_host_access(ByteRange { start: 0, end: 1 }, true).is_err());
    assert!(rig.memory.begin_host_access(ByteRange { start: 128, end: 256 }, true).is_ok());
    rig.memory.end_host_access(ByteRange { start: 128, end: 256 }, true).unwrap();
    rig.control.take_faults();
    assert!(rig.lines[0].wait(2, LONG).unwrap());
    set_bytes(&rig.memory, 0, &[9; 256]);
    rig.no_faults();
}

#[test]
fn a_wait_that_timed_out_teaches_nothing() {
    let rig = Rig::held();
    submit(&rig.device, Q0, "write", &[], at(&rig.lines[0], 1), |recorder| rig.fill(recorder)).unwrap();
    assert!(!rig.lines[0].wait(1, Duration::from_millis(5)).unwrap());
    assert!(rig.memory.begin_host_access(ByteRange { start: 0, end: 256 }, false).is_err());
}

#[test]
fn submissions_come_after_what_the_host_did_and_knew() {
    let rig = Rig::new(SimConfig { delay: Delay::None, ..SimConfig::default() });
    set_bytes(&rig.memory, 0, &[5; 256]);
    submit(&rig.device, Q0, "use", &[], at(&rig.lines[0], 1), |recorder| rig.fill(recorder)).unwrap();
    assert!(rig.lines[0].wait(1, LONG).unwrap());
    // Another queue, no wait attached: the host saw the first complete before it handed this one over.
    submit(&rig.device, Q1, "use", &[], at(&rig.lines[1], 1), |recorder| rig.fill(recorder)).unwrap();
    rig.no_faults();
}

#[test]
fn an_open_host_access_keeps_submissions_and_other_threads_away() {
    let rig = Rig::held();
    let (all, first) = (ByteRange { start: 0, end: 256 }, ByteRange { start: 0, end: 64 });
    rig.memory.begin_host_access(all, true).unwrap();
    // Nested on the same thread: the outer access covers it.
    rig.memory.begin_host_access(first, true).unwrap();
    rig.memory.end_host_access(first, true).unwrap();
    let outcome = submit(&rig.device, Q0, "early", &[], at(&rig.lines[0], 1), |recorder| rig.read(recorder));
    race(outcome, &["`early`", "while the host writes them", "0..128"]);
    let other = std::thread::scope(|scope| {
        scope.spawn(|| rig.memory.begin_host_access(first, false)).join().unwrap()
    });
    assert!(other.unwrap_err().to_string().contains("while another writes"));
    rig.memory.end_host_access(all, true).unwrap();
    rig.control.take_faults();
    submit(&rig.device, Q0, "late", &[], at(&rig.lines[0], 2), |recorder| rig.read(recorder)).unwrap();
    rig.no_faults();
}

#[test]
fn what_waits_for_the_cpu_comes_after_its_signal() {
    let rig = Rig::held();
    let gate = rig.device.timeline().unwrap();
    // In the queue since before the write, but held back by the wait.
    let waits = [at(&gate, 1)];
    submit(&rig.device, Q0, "promised", &waits, at(&rig.lines[0], 1), |recorder| rig.read(recorder)).unwrap();
    set_bytes(&rig.memory, 0, &[1; 256]);
    gate.signal(1).unwrap();
    rig.no_faults();
    // From now on it reads.
    assert!(rig.memory.begin_host_access(ByteRange { start: 0, end: 4 }, true).is_err());
}

#[test]
fn a_conflict_found_late_fails_the_timeline_and_does_not_run() {
    let rig = Rig::held();
    let gate = rig.device.timeline().unwrap();
    let waits = [at(&gate, 1)];
    submit(&rig.device, Q0, "first", &waits, at(&rig.lines[0], 1), |_| {}).unwrap();
    submit(&rig.device, Q0, "deferred", &[], at(&rig.lines[0], 2), |recorder| rig.fill(recorder)).unwrap();
    submit(&rig.device, Q1, "other", &[], at(&rig.lines[1], 1), |recorder| {
        recorder.fill(&whole(&rig.memory), 0x0202_0202).unwrap();
    })
    .unwrap();
    rig.no_faults();
    gate.signal(1).unwrap();
    let faults = rig.control.take_faults();
    assert!(
        faults.len() == 1 && faults[0].contains("`deferred`") && faults[0].contains("`other`"),
        "{faults:?}"
    );
    rig.control.release(Q1);
    assert!(rig.lines[1].wait(1, LONG).unwrap());
    rig.control.release(Q0);
    assert!(rig.lines[0].wait(1, LONG).unwrap());
    assert!(matches!(rig.lines[0].wait(2, LONG), Err(HalError::Race(_))));
    assert!(rig.control.wait_idle(LONG));
    assert!(matches!(rig.lines[0].completed(), Err(HalError::Race(_))));
    // The skipped fill left the bytes alone (read past the announcement, which would rightly fail).
    let base = rig.memory.host_ptr().unwrap();
    // SAFETY: both queues are idle, and the memory has 256 bytes.
    assert_eq!(unsafe { base.as_ptr().read() }, 2);
}

#[test]
fn freeing_memory_in_use_is_a_fault() {
    let Rig { device, control, memory, lines } = Rig::held();
    submit(&device, Q0, "user", &[], at(&lines[0], 1), |recorder| {
        recorder.fill(&whole(&memory), 0).unwrap();
    })
    .unwrap();
    drop(memory);
    let faults = control.take_faults();
    assert!(
        faults.len() == 1 && faults[0].contains("was freed") && faults[0].contains("`user`"),
        "{faults:?}"
    );

    let gate = device.timeline().unwrap();
    let memory = common::memory(&device, 64);
    submit(&device, Q0, "pending", &[at(&gate, 1)], at(&lines[0], 2), |recorder| {
        recorder.fill(&whole(&memory), 0).unwrap();
    })
    .unwrap();
    drop(memory);
    assert!(control.take_faults()[0].contains("`pending`"));
    gate.signal(1).unwrap();
    control.release(Q0);
    assert!(lines[0].wait(2, LONG).unwrap());

    let memory = common::memory(&device, 64);
    submit(&device, Q0, "seen", &[], at(&lines[0], 3), |recorder| recorder.fill(&whole(&memory), 0).unwrap())
        .unwrap();
    assert!(lines[0].wait(3, LONG).unwrap());
    drop(memory);
    assert_eq!(control.faults(), [""; 0]);
}

#[test]
fn the_verdict_does_not_depend_on_timing() {
    // The same unsynchronised pair, and the same synchronised one, under many delays: always found, never found.
    for seed in 0..40 {
        let delay = Delay::Random { min: Duration::ZERO, max: Duration::from_micros(seed * 20) };
        for waits in [false, true] {
            let rig = Rig::new(SimConfig { seed, delay, ..SimConfig::default() });
            submit(&rig.device, Q0, "write", &[], at(&rig.lines[0], 1), |recorder| rig.fill(recorder))
                .unwrap();
            if seed % 2 == 0 {
                assert!(rig.control.wait_idle(LONG));
            }
            let waits: Vec<_> = waits.then(|| at(&rig.lines[0], 1)).into_iter().collect();
            let outcome =
                submit(&rig.device, Q1, "read", &waits, at(&rig.lines[1], 1), |recorder| rig.read(recorder));
            assert_eq!(outcome.is_ok(), !waits.is_empty());
            assert_eq!(rig.control.take_faults().len(), usize::from(waits.is_empty()));
            assert!(rig.lines[0].wait(1, LONG).unwrap());
        }
    }
}

#[test]
fn a_synchronised_crowd_computes_the_right_sum_without_faults() {
    // Eight threads add to one memory, each through a queue and a timeline of its own, one after the other by waits;
    // a missing wait would lose an addition or be a fault.
    const ROUNDS: u64 = 50;
    let (device, control) = open(SimConfig { queues: 8, seed: 5, ..SimConfig::default() });
    let (total, one) = (memory(&device, 64), memory(&device, 64));
    set_bytes(&one, 0, &[1; 64]);
    let add = pipeline(&device, "add_assign", 2, add_assign);
    let lines: Vec<_> = (0..8).map(|_| device.timeline().unwrap()).collect();
    // Who added last: the only thing the threads share, as a hazard stamp would be.
    let last = std::sync::Arc::new(rivulet_hal::sync::Mutex::new(rivulet_hal::sync::Rank::COMBINER, None));
    std::thread::scope(|scope| {
        for (index, line) in lines.iter().enumerate() {
            let (device, add, total, one, last) = (&device, &add, &total, &one, &last);
            scope.spawn(move || {
                let queue = QueueIndex(index);
                for value in 1..=ROUNDS {
                    let buffer = commands(device, queue, |recorder| {
                        recorder
                            .dispatch(add, &[read(whole(one)), write(whole(total))], &[], [1; 3])
                            .unwrap();
                    });
                    let mut last = last.lock();
                    let signal = at(line, value);
                    let waits = last.replace(signal.clone()).into_iter().collect();
                    let work = Submission { commands: vec![buffer], waits, signal, label: "add".into() };
                    device.submit(queue, vec![work]).unwrap();
                }
            });
        }
    });
    for line in &lines {
        assert!(line.wait(ROUNDS, LONG).unwrap());
    }
    assert_eq!(bytes(&total, 0, 64), [(8 * ROUNDS % 256) as u8; 64]);
    assert_eq!(control.faults(), [""; 0]);
}
