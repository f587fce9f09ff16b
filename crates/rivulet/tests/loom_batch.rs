//! The passing of the runner's role in every interleaving:
//! `RUSTFLAGS="--cfg loom" cargo test -p rivulet --release --test loom_batch`.
//!
//! Each model has a bug that can be planted in the code for it to find; that is a test too.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![cfg(loom)]

use rivulet::batch::{Options, Queue, Refused, Turn, WhenFull};
use rivulet::hazard::seeded;
use rivulet_hal::sync::atomic::{AtomicU32, Ordering};
use rivulet_hal::sync::{Arc, thread};
use std::time::{Duration, Instant};

fn model(bug: Option<&'static str>, preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    seeded::plant(bug);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

fn options() -> Options {
    Options { regroup: false, spin: Duration::ZERO, ..Options::default() }
}

/// What a request brings along: whether it has been run, and how often.
#[derive(Clone)]
struct Mark(Arc<AtomicU32>);

impl Mark {
    fn new() -> Self {
        Self(Arc::new(AtomicU32::new(0)))
    }

    fn count(&self) -> u32 {
        // Relaxed: the queue has to order it.
        self.0.load(Ordering::Relaxed)
    }
}

/// A queue, and how many are running.
struct Shared {
    queue: Queue<Mark>,
    inside: AtomicU32,
}

impl Shared {
    fn new(options: Options) -> Arc<Self> {
        Arc::new(Self { queue: Queue::new(options).unwrap(), inside: AtomicU32::new(0) })
    }

    fn run(&self, run: rivulet::batch::Run<Mark>) {
        assert_eq!(self.inside.fetch_add(1, Ordering::Relaxed), 0, "two run at a time");
        for member in run.members() {
            let mark = &member.work().0;
            mark.store(mark.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        self.inside.fetch_sub(1, Ordering::Relaxed);
        run.finish();
    }

    /// One call; panics where it ended without having been run once.
    fn call(&self, key: u64) {
        let mark = Mark::new();
        if let Turn::Run(run) = self.queue.call(key, 1, mark.clone(), WhenFull::Wait, None).unwrap() {
            self.run(run);
        }
        assert_eq!(mark.count(), 1, "a caller went home without its result");
    }

    /// A call that may run out of time.
    fn call_late(&self, key: u64) {
        let mark = Mark::new();
        let deadline = Instant::now() + Duration::from_secs(3600);
        match self.queue.call(key, 1, mark.clone(), WhenFull::Wait, Some(deadline)) {
            Ok(Turn::Run(run)) => self.run(run),
            Ok(Turn::Done(_)) => {}
            Err(refused) => return assert_eq!(refused, Refused::TimedOut),
        }
        assert_eq!(mark.count(), 1, "a caller went home without its result");
    }

    fn assert_untouched(&self) {
        let stats = self.queue.stats();
        assert_eq!((stats.queued, stats.running), (0, 0), "the role was lost");
    }
}

fn spawn(shared: &Arc<Shared>, body: impl FnOnce(&Shared) + Send + 'static) -> thread::JoinHandle<()> {
    let shared = Arc::clone(shared);
    thread::spawn(move || body(&shared))
}

fn every_caller(bug: Option<&'static str>, options: Options, keys: [u64; 3], preemptions: usize) {
    model(bug, preemptions, move || {
        let shared = Shared::new(options);
        let threads: Vec<_> =
            keys[1..].iter().map(|&key| spawn(&shared, move |shared| shared.call(key))).collect();
        shared.call(keys[0]);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        shared.assert_untouched();
    });
}

fn a_leaver(bug: Option<&'static str>) {
    model(bug, 3, || {
        let shared = Shared::new(options());
        let Turn::Run(run) = shared.queue.call(0, 1, Mark::new(), WhenFull::Wait, None).unwrap() else {
            panic!("not alone")
        };
        // The oldest request, which is about to get the role, is taken back; the one behind it must get it.
        let ticket = shared.queue.submit(0, 1, Mark::new(), WhenFull::Wait, false, None).unwrap();
        let caller = spawn(&shared, |shared| shared.call(1));
        let leaver = thread::spawn(move || assert!(ticket.cancel()));
        shared.run(run);
        leaver.join().unwrap();
        caller.join().unwrap();
        shared.assert_untouched();
    });
}

fn a_runner_that_gives_up() {
    model(None, 3, || {
        let shared = Shared::new(options());
        let caller = spawn(&shared, |shared| shared.call(0));
        if let Turn::Run(run) = shared.queue.call(0, 1, Mark::new(), WhenFull::Wait, None).unwrap() {
            drop(run);
        }
        caller.join().unwrap();
        shared.assert_untouched();
    });
}

fn a_server(bug: Option<&'static str>) {
    model(bug, 3, || {
        let shared = Shared::new(options());
        let server = spawn(&shared, |shared| {
            while let Some(run) = shared.queue.serve().unwrap() {
                shared.run(run);
            }
        });
        let mark = Mark::new();
        shared.queue.submit(0, 1, mark.clone(), WhenFull::Wait, true, None).unwrap();
        shared.call(0);
        shared.queue.close();
        server.join().unwrap();
        assert_eq!(mark.count(), 1, "a submitted request was not run");
        shared.assert_untouched();
    });
}

/// Two that sleep while a third runs and says that the end is near, and sleep again.
fn an_announced_end(bug: Option<&'static str>, in_turn: bool) {
    model(bug, 3, move || {
        let shared = Shared::new(options());
        let Turn::Run(first) = shared.queue.call(0, 1, Mark::new(), WhenFull::Wait, None).unwrap() else {
            panic!("not alone")
        };
        let call = move |shared: &Shared| {
            let mark = Mark::new();
            if let Turn::Run(run) = shared.queue.call(0, 1, mark.clone(), WhenFull::Wait, None).unwrap() {
                run.announce();
                run.members().iter().for_each(|member| member.work().0.store(1, Ordering::Relaxed));
                if in_turn { run.finish_in_turn(|_| ()) } else { run.finish() }
            }
            assert_eq!(mark.count(), 1, "a caller went home without its result");
        };
        let threads = [spawn(&shared, call), spawn(&shared, call)];
        first.finish();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        shared.assert_untouched();
    });
}

/// Four that sleep while a fifth runs; the first of them runs what they are joined to, and wakes the three others. Where
/// `late`, the one in the middle may leave at any time.
fn a_crowd(bug: Option<&'static str>, late: bool) {
    model(bug, 2, move || {
        let shared = Shared::new(options());
        let Turn::Run(run) = shared.queue.call(0, 1, Mark::new(), WhenFull::Wait, None).unwrap() else {
            panic!("not alone")
        };
        let threads: Vec<_> = (0..4)
            .map(|index| {
                spawn(
                    &shared,
                    move |shared| if late && index == 2 { shared.call_late(0) } else { shared.call(0) },
                )
            })
            .collect();
        shared.run(run);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        shared.assert_untouched();
    });
}

#[test]
fn every_caller_gets_its_result_from_one_runner_at_a_time() {
    every_caller(None, options(), [0, 0, 0], 3);
}

#[test]
fn groups_and_small_batches_pass_the_role_on_too() {
    every_caller(None, Options { max_batch: 1, max_queue: 1, ..options() }, [0, 1, 0], 2);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_role_that_is_passed_to_nobody_is_found() {
    every_caller(Some("batch: the role is passed to nobody"), options(), [0, 1, 2], 3);
}

#[test]
#[should_panic(expected = "deadlock")]
fn members_that_are_not_woken_are_found() {
    every_caller(Some("batch: members are not woken"), options(), [0, 0, 0], 3);
}

#[test]
fn who_leaves_beside_a_runner_that_ends_passes_the_role_on() {
    a_leaver(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_leaver_that_keeps_the_role_is_found() {
    a_leaver(Some("batch: a leaver keeps the role"));
}

#[test]
fn the_members_of_a_run_that_was_given_up_are_run_by_another() {
    a_runner_that_gives_up();
}

#[test]
fn a_server_runs_what_is_submitted_and_ends_with_the_queue() {
    a_server(None);
}

#[test]
fn a_crowd_that_wakes_one_another_leaves_nobody_asleep() {
    a_crowd(None, false);
}

#[test]
fn who_was_woken_too_early_sleeps_again_and_is_woken() {
    an_announced_end(None, false);
    an_announced_end(None, true);
}

#[test]
#[should_panic(expected = "deadlock")]
fn who_sleeps_again_and_is_taken_for_awake_is_found() {
    an_announced_end(Some("batch: who sleeps again is taken for awake"), false);
}

#[test]
fn who_leaves_a_crowd_leaves_nobody_asleep() {
    a_crowd(None, true);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_leaver_that_was_to_wake_others_is_found() {
    a_crowd(Some("batch: a leaver stays on the list"), true);
}
