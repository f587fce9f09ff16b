//! Joined calls on real threads: who runs what, in which order, and what the others notice of a failure.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use rivulet::batch::{BatchError, Batcher, Options, Queue, Refused, Run, Stats, Turn, WhenFull, Work};
use rivulet_hal::sync::atomic::{AtomicUsize, Ordering};
use rivulet_hal::sync::{Mutex, Rank, thread};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(20);

fn options() -> Options {
    Options { regroup: false, ..Options::default() }
}

/// Waits until so many requests of the queue wait.
fn until_queued(queued: impl Fn() -> usize, wanted: usize) {
    let start = Instant::now();
    while queued() < wanted {
        assert!(start.elapsed() < LONG, "{} of {wanted} requests wait", queued());
        thread::yield_now();
    }
}

/// Squares numbers; what it does in between is up to the test.
struct Squares<F> {
    around: F,
    seen: Mutex<Vec<Vec<u64>>>,
}

impl<F: Fn(&[u64]) -> Result<(), String> + Send + Sync> Squares<F> {
    fn batcher(options: Options, around: F) -> Batcher<Self> {
        let seen = Mutex::new(Rank::REGISTRY, Vec::new());
        Batcher::new(Self { around, seen }, options).unwrap()
    }
}

impl<F: Fn(&[u64]) -> Result<(), String> + Send + Sync> Work for Squares<F> {
    type Input = u64;
    type Output = u64;
    type Error = String;

    /// Numbers of a hundred are a group.
    fn key(&self, input: &u64) -> u64 {
        input / 100
    }

    fn rows(&self, _: &u64) -> usize {
        1
    }

    fn run(&self, inputs: &[u64]) -> Result<Vec<u64>, String> {
        self.seen.lock().push(inputs.to_vec());
        (self.around)(inputs)?;
        Ok(inputs.iter().map(|x| x * x).collect())
    }
}

/// What a run does before it squares.
type During<'a> = Box<dyn Fn(&[u64]) -> Result<(), String> + Send + Sync + 'a>;

/// A batcher whose first run, of the number 99, lasts until the gate is opened; what the others are is queued then, in
/// the order of the list; it is opened when so many of them have run out of time.
fn behind_a_gate<T: Send>(
    options: Options,
    queued: &[u64],
    leaving: usize,
    during: impl Fn(&[u64]) -> Result<(), String> + Send + Sync,
    call: impl Fn(&Batcher<Squares<During<'_>>>, u64) -> T + Sync,
) -> (Vec<Vec<u64>>, Vec<T>) {
    let (open, gate) = mpsc::channel::<()>();
    let late = |stats: Stats| stats.timed_out as usize;
    let gate = Mutex::new(Rank::POOL, gate);
    let during = &during;
    let around: During<'_> = Box::new(move |inputs| {
        if inputs == [99] {
            gate.lock().recv().unwrap();
        }
        during(inputs)
    });
    let batcher = Squares::batcher(options, around);
    let results = thread::scope(|scope| {
        // Goes with the scope where something fails in it, which ends the first run.
        let open = open;
        let first = scope.spawn(|| batcher.call(99));
        until_queued(|| batcher.stats().running, 1);
        let others: Vec<_> = queued
            .iter()
            .enumerate()
            .map(|(index, &number)| {
                let (batcher, call) = (&batcher, &call);
                let thread = scope.spawn(move || call(batcher, number));
                until_queued(|| batcher.stats().queued + late(batcher.stats()), index + 1);
                thread
            })
            .collect();
        until_queued(|| late(batcher.stats()), leaving);
        open.send(()).unwrap();
        assert_eq!(first.join().unwrap(), Ok(99 * 99));
        others.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut seen = batcher.work().seen.lock().clone();
    assert_eq!(seen.remove(0), [99]);
    (seen, results)
}

#[test]
fn a_lone_caller_runs_at_once_and_waits_for_nothing() {
    let batcher = Squares::batcher(Options::default(), |_: &[u64]| Ok(()));
    for number in 0..100 {
        assert_eq!(batcher.call(number), Ok(number * number));
    }
    let stats = batcher.stats();
    assert_eq!((stats.requests, stats.batches, stats.at_once), (100, 100, 100));
    assert_eq!((stats.regrouped, stats.queued, stats.running), ([0, 0], 0, 0));
    assert_eq!(stats.sizes.into_iter().collect::<Vec<_>>(), [(1, 100)]);
}

#[test]
fn calls_that_arrive_during_a_run_are_joined_in_order_and_get_their_own_results() {
    let (seen, results) = behind_a_gate(
        options(),
        &[1, 2, 3, 4, 5],
        0,
        |_| Ok(()),
        |batcher, number| batcher.call(number).unwrap(),
    );
    assert_eq!(seen, [[1, 2, 3, 4, 5]]);
    assert_eq!(results, [1, 4, 9, 16, 25]);
}

#[test]
fn a_batch_has_no_more_rows_than_allowed_and_the_rest_follows() {
    let (seen, _) = behind_a_gate(
        Options { max_batch: 2, ..options() },
        &[1, 2, 3, 4, 5],
        0,
        |_| Ok(()),
        |batcher, number| batcher.call(number).unwrap(),
    );
    assert_eq!(seen, [vec![1, 2], vec![3, 4], vec![5]]);
}

#[test]
fn the_group_of_the_oldest_request_runs_first() {
    let (seen, _) = behind_a_gate(
        options(),
        &[201, 1, 101, 202, 2, 102, 203],
        0,
        |_| Ok(()),
        |batcher, number| batcher.call(number).unwrap(),
    );
    assert_eq!(seen, [vec![201, 202, 203], vec![1, 2], vec![101, 102]]);
}

#[test]
fn an_error_reaches_its_cause_alone() {
    let fails = |inputs: &[u64]| {
        if inputs.contains(&3) { Err(format!("no three in {inputs:?}")) } else { Ok(()) }
    };
    let (seen, results) =
        behind_a_gate(options(), &[1, 2, 3, 4], 0, fails, |batcher, number| batcher.call(number));
    assert_eq!(seen, [vec![1, 2, 3, 4], vec![1], vec![2], vec![3], vec![4]]);
    let error = Err(BatchError::Failed("no three in [3]".to_owned()));
    assert_eq!(results, [Ok(1), Ok(4), error, Ok(16)]);
}

#[test]
fn a_panic_reaches_its_cause_alone() {
    let panics = |inputs: &[u64]| {
        assert!(!inputs.contains(&2), "two is too much");
        Ok(())
    };
    let (_, results) =
        behind_a_gate(options(), &[1, 2, 3], 0, panics, |batcher, number| batcher.call(number));
    let error = Err(BatchError::Panicked("two is too much".to_owned()));
    assert_eq!(results, [Ok(1), error, Ok(9)]);
    // The runner's own panic is its own.
    let batcher = Squares::batcher(options(), |_: &[u64]| -> Result<(), String> { panic!("mine") });
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| batcher.call(1)));
    assert_eq!(*caught.unwrap_err().downcast::<&str>().unwrap(), "mine");
    assert_eq!(batcher.stats().running, 0);
}

/// A queue of which one request runs and `others` sleep, in this order, for a batch of their own.
/// `run` runs it, and is told how many have gone home.
fn asleep(queue: &Queue<u64>, others: u64, run: impl Fn(Run<u64>, &AtomicUsize) + Sync) -> Vec<u64> {
    let Ok(Turn::Run(first)) = queue.call(0, 1, 0, WhenFull::Wait, None) else { panic!("not alone") };
    let (done, order) = mpsc::channel();
    let gone = AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 1..=others {
            let (done, run, gone) = (done.clone(), &run, &gone);
            scope.spawn(move || {
                match queue.call(0, 1, number, WhenFull::Wait, None).unwrap() {
                    Turn::Run(own) => run(own, gone),
                    Turn::Done(request) => assert_eq!(*request.work(), number),
                }
                done.send(number).unwrap();
                gone.fetch_add(1, Ordering::Relaxed);
            });
            until_queued(|| queue.stats().queued, number as usize);
        }
        // Till the last of them sleeps too.
        thread::sleep(SOON);
        first.finish();
        drop(done);
        order.iter().collect()
    })
}

#[test]
fn members_are_woken_one_by_one_as_admitted() {
    let one_by_one = || {
        let queue = Queue::new(Options { spin: Duration::ZERO, ..options() }).unwrap();
        let seen = Mutex::new(Rank::REGISTRY, Vec::new());
        let order = asleep(&queue, 4, |run, gone| {
            run.finish_in_turn(|told| {
                // The runner knows too, and is here.
                until_queued(|| gone.load(Ordering::Relaxed), told - 1);
                thread::sleep(SOON / 10);
                seen.lock().push((told, gone.load(Ordering::Relaxed)));
            });
        });
        assert_eq!(order.len(), 4);
        // The last one and the runner, 1, go at the same time.
        seen.into_inner() == [(1, 0), (2, 1), (3, 2)] && order[..2] == [2, 3]
    };
    // Whoever looks for signals just then comes home by itself: now and then, not every time.
    assert!((0..20).any(|_| one_by_one()), "members were woken that had not been admitted");
}

#[test]
fn an_end_that_was_announced_and_does_not_come_is_waited_for_asleep() {
    let queue = Queue::new(options()).unwrap();
    for number in 0..3 {
        let Ok(Turn::Run(run)) = queue.call(0, 1, number, WhenFull::Wait, None) else { panic!("not alone") };
        run.finish();
    }
    let order = asleep(&queue, 4, |run, _| {
        run.announce();
        thread::sleep(SOON);
        run.finish();
    });
    assert_eq!(order.len(), 4);
}

#[test]
fn who_runs_out_of_time_leaves_and_hurts_nobody() {
    // The first of the queue, who would be the next runner, and one in the middle.
    let (seen, results) = behind_a_gate(
        options(),
        &[1, 2, 3, 4],
        2,
        |_| Ok(()),
        |batcher, number| batcher.call_with(number, WhenFull::Wait, (number % 2 == 1).then_some(SOON)),
    );
    let late = || Err(BatchError::Refused(Refused::TimedOut));
    assert_eq!(seen, [[2, 4]]);
    assert_eq!(results, [late(), Ok(4), late(), Ok(16)]);
}

#[test]
fn a_full_queue_refuses_or_lets_in_by_arrival() {
    let limited = Options { max_queue: 2, max_batch: 1, ..options() };
    let (seen, results) = behind_a_gate(
        limited,
        &[1, 2, 3, 4, 5],
        0,
        |_| Ok(()),
        |batcher, number| {
            if number == 3 {
                let refused = batcher.call_with(77, WhenFull::Refuse, None);
                assert_eq!(refused, Err(BatchError::Refused(Refused::Full { max_queue: 2 })));
            }
            batcher.call(number).unwrap()
        },
    );
    assert_eq!(seen, [[1], [2], [3], [4], [5]]);
    assert_eq!(results, [1, 4, 9, 16, 25]);
}

#[test]
fn a_closed_queue_serves_who_waits_and_refuses_who_comes() {
    let queue = Queue::<u64>::new(options()).unwrap();
    let Turn::Run(run) = queue.call(0, 1, 0, WhenFull::Wait, None).unwrap() else { panic!("not alone") };
    thread::scope(|scope| {
        let waits = scope.spawn(|| match queue.call(0, 1, 1, WhenFull::Wait, None).unwrap() {
            Turn::Run(run) => run.finish(),
            Turn::Done(_) => panic!("nobody else could run it"),
        });
        until_queued(|| queue.stats().queued, 1);
        queue.close();
        assert_eq!(queue.call(0, 1, 2, WhenFull::Wait, None).map(drop).unwrap_err(), Refused::Closed);
        run.finish();
        waits.join().unwrap();
    });
    assert!(queue.serve().unwrap().is_none());
    assert_eq!(queue.stats().requests, 2);
}

#[test]
fn a_run_that_is_dropped_goes_back_and_another_member_runs_it() {
    let queue = Queue::<u64>::new(options()).unwrap();
    let order = Mutex::new(Rank::REGISTRY, Vec::new());
    thread::scope(|scope| {
        let Turn::Run(first) = queue.call(0, 1, 0, WhenFull::Wait, None).unwrap() else {
            panic!("not alone")
        };
        let threads: Vec<_> = (1..=3_u64)
            .map(|number| {
                let (queue, order) = (&queue, &order);
                let thread =
                    scope.spawn(move || match queue.call(0, 1, number, WhenFull::Wait, None).unwrap() {
                        Turn::Run(run) => {
                            let members: Vec<u64> =
                                run.members().iter().map(|member| *member.work()).collect();
                            order.lock().push(members);
                            if number < 3 { drop(run) } else { run.finish() }
                        }
                        Turn::Done(_) => panic!("{number} was served by a runner that gave up"),
                    });
                until_queued(|| queue.stats().queued, number as usize);
                thread
            })
            .collect();
        first.finish();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(*order.lock(), [vec![1, 2, 3], vec![2, 3], vec![3]]);
    let stats = queue.stats();
    assert_eq!((stats.requeued, stats.running, stats.queued, stats.requests), (3, 0, 0, 2));
}

#[test]
fn servers_run_what_is_submitted_and_end_when_a_closed_queue_is_empty() {
    let queue = Queue::<u64>::new(Options { max_batch: 4, ..options() }).unwrap();
    let sum = AtomicUsize::new(0);
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            while let Some(run) = queue.serve().unwrap() {
                let add: u64 = run.members().iter().map(|member| *member.work()).sum();
                sum.fetch_add(add as usize, Ordering::Relaxed);
                run.finish();
            }
        });
        for number in 1..=100 {
            queue.submit(number % 3, 1, number, WhenFull::Wait, true, None).unwrap();
        }
        queue.close();
        server.join().unwrap();
    });
    assert_eq!(sum.into_inner(), 5050);
    assert!(matches!(queue.submit(0, 1, 0, WhenFull::Wait, true, None).map(drop), Err(Refused::Closed)));
}

#[test]
fn a_submitted_request_can_be_taken_back_until_it_runs() {
    let queue = Queue::<u64>::new(options()).unwrap();
    let Turn::Run(run) = queue.call(0, 1, 0, WhenFull::Wait, None).unwrap() else { panic!("not alone") };
    let tickets: Vec<_> =
        (1..=3).map(|number| queue.submit(0, 1, number, WhenFull::Wait, true, None).unwrap()).collect();
    assert!(tickets[0].cancel());
    assert!(!tickets[0].cancel());
    run.finish();
    // The role is with the second now, whom no server has fetched yet.
    assert!(tickets[1].cancel());
    let run = queue.serve().unwrap().unwrap();
    assert_eq!(run.members().iter().map(|member| *member.work()).collect::<Vec<_>>(), [3]);
    assert!(!tickets[2].cancel());
    run.finish();
    assert_eq!((queue.stats().running, queue.stats().queued), (0, 0));
}

#[test]
fn several_runs_go_on_at_a_time_where_allowed() {
    let queue = Queue::<u64>::new(Options { max_in_flight: 2, ..options() }).unwrap();
    let Turn::Run(first) = queue.call(0, 1, 0, WhenFull::Wait, None).unwrap() else { panic!("not free") };
    let Turn::Run(second) = queue.call(0, 1, 1, WhenFull::Wait, None).unwrap() else { panic!("not free") };
    assert_eq!(
        queue.call(0, 1, 2, WhenFull::Wait, Some(Instant::now() + SOON)).map(drop).unwrap_err(),
        Refused::TimedOut
    );
    first.finish();
    let Turn::Run(third) = queue.call(0, 1, 3, WhenFull::Wait, None).unwrap() else { panic!("not free") };
    second.finish();
    third.finish();
    assert_eq!(queue.stats().timed_out, 1);
}

#[test]
fn a_runner_waits_for_a_full_batch_as_long_as_it_was_told() {
    let queue = Queue::<u64>::new(Options { max_wait: LONG, max_batch: 3, ..options() }).unwrap();
    thread::scope(|scope| {
        let runner = scope.spawn(|| match queue.call(0, 1, 1, WhenFull::Wait, None).unwrap() {
            Turn::Run(run) => {
                let members = run.members().len();
                run.finish();
                members
            }
            Turn::Done(_) => panic!("nobody else can run"),
        });
        until_queued(|| queue.stats().running, 1);
        // Two rows fill it; another group's do not.
        queue.submit(7, 9, 0, WhenFull::Wait, true, None).unwrap();
        queue.submit(0, 2, 2, WhenFull::Wait, true, None).unwrap();
        assert_eq!(runner.join().unwrap(), 2);
    });
    let queue = Queue::<u64>::new(Options { max_wait: SOON, ..options() }).unwrap();
    let start = Instant::now();
    let Turn::Run(run) = queue.call(0, 1, 1, WhenFull::Wait, None).unwrap() else { panic!("not alone") };
    assert!(start.elapsed() >= SOON);
    run.finish();
}

#[test]
fn limits_of_zero_are_refused_by_name() {
    for (options, name) in [
        (Options { max_batch: 0, ..options() }, "max_batch"),
        (Options { max_in_flight: 0, ..options() }, "max_in_flight"),
        (Options { max_queue: 0, ..options() }, "max_queue"),
    ] {
        let error = Queue::<()>::new(options).map(drop).unwrap_err();
        assert_eq!(error.to_string(), format!("{name} must be > 0, got 0"));
    }
}

#[test]
fn random_arrivals_errors_and_timeouts_never_mix_results_up() {
    let threads = 8;
    for (seed, options) in [
        (1, Options::default()),
        (2, Options { max_batch: 3, max_in_flight: 2, ..Options::default() }),
        (3, Options { max_queue: 2, spin: Duration::ZERO, ..Options::default() }),
        (4, Options { max_wait: Duration::from_micros(200), ..Options::default() }),
    ] {
        let batcher = Squares::batcher(options, |inputs: &[u64]| {
            if inputs.iter().any(|input| input % 17 == 5) {
                return Err(format!("{inputs:?}"));
            }
            Ok(())
        });
        thread::scope(|scope| {
            for me in 0..threads {
                let batcher = &batcher;
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed * 1000 + me);
                    for _ in 0..400 {
                        let number = random.u64(0..400);
                        let full = if random.bool() { WhenFull::Wait } else { WhenFull::Refuse };
                        let timeout =
                            (random.u8(0..10) == 0).then(|| Duration::from_micros(random.u64(0..300)));
                        match batcher.call_with(number, full, timeout) {
                            Ok(square) => assert_eq!(square, number * number),
                            Err(BatchError::Failed(text)) => assert_eq!(text, format!("[{number}]")),
                            Err(BatchError::Refused(Refused::TimedOut)) => assert!(timeout.is_some()),
                            Err(BatchError::Refused(Refused::Full { .. })) => {
                                assert_eq!(full, WhenFull::Refuse)
                            }
                            Err(other) => panic!("{other}"),
                        }
                        if random.u8(0..4) == 0 {
                            thread::sleep(Duration::from_micros(random.u64(0..200)));
                        }
                    }
                });
            }
        });
        let stats = batcher.stats();
        assert_eq!((stats.queued, stats.running), (0, 0), "{stats:?}");
        let runs: u64 = stats.sizes.iter().map(|(&size, &count)| size as u64 * count).sum();
        assert_eq!(runs, stats.requests);
        assert_eq!(stats.latency.count, stats.requests);
    }
}
