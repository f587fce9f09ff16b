//! The queue: arriving, waiting, taking a batch, leaving.

use super::metrics::Stats;
use super::request::{Phase, Request};
use super::run::Run;
use super::state::{Arrival, State};
use crate::blocking::{self, Interrupted};
use rivulet_hal::sync::atomic::{AtomicUsize, Ordering};
use rivulet_hal::sync::{Arc, Mutex, Rank, hint, parking};
use std::time::{Duration, Instant};

/// How a [`Queue`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Rows of a batch, at most. A request that has more runs alone.
    pub max_batch: usize,
    /// Batches that run at the same time, at most.
    pub max_in_flight: usize,
    /// Requests that wait, at most; the next one finds the queue full.
    pub max_queue: usize,
    /// How long a runner waits, from the arrival of its request on, for its batch to become full. Zero: not at all.
    pub max_wait: Duration,
    /// Whether a runner waits for the members of the batch before it, as the module's text says.
    pub regroup: bool,
    /// How long a waiting thread looks for its result before it sleeps. At most half as many threads as there are cores
    /// do so at a time, and none on fewer than four cores.
    pub spin: Duration,
}

impl Default for Options {
    /// 64 rows, one batch at a time, 1024 waiting requests, no waiting for a full batch.
    fn default() -> Self {
        Self {
            max_batch: 64,
            max_in_flight: 1,
            max_queue: 1024,
            max_wait: Duration::ZERO,
            regroup: true,
            spin: Duration::from_micros(50),
        }
    }
}

/// What a request does where the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It waits outside, and is let in in the order of arrival.
    Wait,
    /// It is refused with [`Refused::Full`].
    Refuse,
}

/// Why a request got no result. None of them leaves anything behind in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many requests wait as may. Transient.
    #[error(
        "the queue is full: {max_queue} requests wait already (max_queue={max_queue}); send fewer at a time, allow more, \
         or let callers wait"
    )]
    Full {
        /// [`Options::max_queue`].
        max_queue: usize,
    },
    /// The queue takes no more requests. Permanent.
    #[error("the queue is closed")]
    Closed,
    /// The deadline passed first.
    #[error("timed out before the request was done")]
    TimedOut,
    /// A signal ended the wait.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The process was forked after the queue was made. Permanent in this process.
    #[error(
        "the queue was made before this process was forked, and the threads that serve it are in the parent; make a new \
         one in the child"
    )]
    Forked,
}

/// An option that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} must be > 0, got 0")]
pub struct BadOption {
    name: &'static str,
}

/// What a [`Queue::call`] comes to.
#[derive(Debug)]
pub enum Turn<T> {
    /// Somebody has run this request, the caller's.
    Done(Arc<Request<T>>),
    /// The caller has to run this batch, in which its request is the first.
    Run(Run<T>),
}

/// A request that nobody waits for in a call.
#[derive(Debug)]
pub struct Ticket<T> {
    queue: Arc<Inner<T>>,
    request: Arc<Request<T>>,
}

impl<T> Ticket<T> {
    /// Takes the request back; false where it has been taken into a batch or is done. Any thread, does not wait.
    pub fn cancel(&self) -> bool {
        if self.queue.check().is_err() {
            return false;
        }
        self.queue.withdraw(&self.request, |stats| stats.cancelled += 1)
    }
}

#[derive(Debug)]
pub(super) struct Inner<T> {
    pub(super) options: Options,
    pub(super) state: Mutex<State<T>>,
    /// Rises with each event that a sleeping server has to look at.
    bell: AtomicUsize,
    /// Threads that spin.
    spinning: AtomicUsize,
    forks: u32,
}

/// A combining queue, see the [module](super).
///
/// Any number of threads. `T` is what a request brings along; the queue does not look at it.
#[derive(Debug)]
pub struct Queue<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Clone for Queue<T> {
    /// The same queue.
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<T> Queue<T> {
    /// An empty queue.
    ///
    /// # Errors
    /// [`BadOption`] for a limit of 0.
    pub fn new(options: Options) -> Result<Self, BadOption> {
        for (name, value) in [
            ("max_batch", options.max_batch),
            ("max_in_flight", options.max_in_flight),
            ("max_queue", options.max_queue),
        ] {
            if value == 0 {
                return Err(BadOption { name });
            }
        }
        rivulet_hal::thread::watch_forks();
        let inner = Inner {
            options,
            state: Mutex::new(Rank::BATCH, State::new()),
            bell: AtomicUsize::new(0),
            spinning: AtomicUsize::new(0),
            forks: rivulet_hal::thread::fork_generation(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What it was made with.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// Has a request run: waits until somebody has, or until the caller has to. Requests of one `key` may be joined;
    /// `rows` is what this one adds to a batch.
    ///
    /// Called by a runner for the queue that it is running, it waits for itself.
    ///
    /// # Errors
    /// [`Refused`]; the request is no longer in the queue then. Where its batch is running already, that goes on.
    pub fn call(
        &self,
        key: u64,
        rows: usize,
        work: T,
        full: WhenFull,
        deadline: Option<Instant>,
    ) -> Result<Turn<T>, Refused> {
        let request = Request::new(work, key, rows, deadline, false);
        let (request, arrival) = self.inner.arrive(request, full)?;
        if arrival != Arrival::Leads {
            self.inner.wait(&request, Phase::ends_a_call)?;
        }
        if request.phase().leads()
            && let Some(run) = self.inner.take(&request, true)?
        {
            return Ok(Turn::Run(run));
        }
        Ok(Turn::Done(request))
    }

    /// Leaves a request for a [server](Queue::serve) or another caller to run. With [`WhenFull::Wait`] it waits until
    /// there is room, unless `wait` is false: then the request waits by itself.
    ///
    /// # Errors
    /// [`Refused`]; the request is no longer in the queue then.
    pub fn submit(
        &self,
        key: u64,
        rows: usize,
        work: T,
        full: WhenFull,
        wait: bool,
        deadline: Option<Instant>,
    ) -> Result<Ticket<T>, Refused> {
        let request = Request::new(work, key, rows, deadline, true);
        let (request, arrival) = self.inner.arrive(request, full)?;
        if arrival == Arrival::Waits && wait {
            self.inner.wait(&request, |phase| phase != Phase::Outside)?;
        }
        Ok(Ticket { queue: Arc::clone(&self.inner), request })
    }

    /// Waits until a submitted request needs a runner, and takes its batch; `None` once the queue is closed and empty.
    /// For threads of the owner's; as many as [`Options::max_in_flight`] can be busy at a time.
    ///
    /// # Errors
    /// [`Refused::Interrupted`] and [`Refused::Forked`].
    pub fn serve(&self) -> Result<Option<Run<T>>, Refused> {
        let inner = &self.inner;
        loop {
            inner.check()?;
            let mut found = None;
            let mut over = false;
            blocking::wait_loop(|longest| {
                let bell = inner.bell.load(Ordering::Acquire);
                {
                    let mut state = inner.state.lock();
                    found = state.next_ready();
                    over = state.is_drained();
                }
                if found.is_some() || over {
                    return true;
                }
                let longest = if cfg!(loom) { None } else { Some(longest) };
                parking::park(inner.bell_address(), || inner.bell.load(Ordering::Acquire) == bell, longest);
                false
            })?;
            let Some(request) = found else { return Ok(None) };
            // A request that was taken back meanwhile has passed its role on.
            if let Some(run) = inner.take(&request, false)? {
                return Ok(Some(run));
            }
        }
    }

    /// Takes no more requests. What is in the queue is still run: by those who wait for it, and by servers. Does not
    /// wait.
    pub fn close(&self) {
        if self.inner.check().is_err() {
            return;
        }
        self.inner.state.lock().closed = true;
        self.inner.wake_servers(true);
    }

    /// Counts and times since the queue was made.
    pub fn stats(&self) -> Stats {
        if self.inner.check().is_err() {
            return Stats::default();
        }
        let (mut stats, queue_time, latency) = self.inner.state.lock().stats();
        (stats.queue_time, stats.latency) = (queue_time.summary(), latency.summary());
        stats
    }
}

impl<T> Inner<T> {
    /// A child's copy of the lock may be held by a thread that it does not have.
    pub(super) fn check(&self) -> Result<(), Refused> {
        if self.forks == rivulet_hal::thread::fork_generation() { Ok(()) } else { Err(Refused::Forked) }
    }

    fn arrive(&self, request: Request<T>, full: WhenFull) -> Result<(Arc<Request<T>>, Arrival), Refused> {
        self.check()?;
        let mut request = Arc::new(request);
        let (arrival, woken) = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(Refused::Closed);
            }
            if full == WhenFull::Refuse && state.is_full(&self.options) {
                state.counts.refused += 1;
                return Err(Refused::Full { max_queue: self.options.max_queue });
            }
            let (arrival, woken) = state.arrive(&mut request, &self.options);
            state.counts.at_once += u64::from(arrival == Arrival::Leads);
            (arrival, woken)
        };
        woken.wake();
        self.wake_servers(arrival == Arrival::Serve);
        Ok((request, arrival))
    }

    /// Waits for a phase of the caller's own request; takes the request back where that fails.
    fn wait(&self, request: &Arc<Request<T>>, over: fn(Phase) -> bool) -> Result<(), Refused> {
        if self.spin(request, over) {
            return Ok(());
        }
        let mut timed_out = false;
        let waited = blocking::wait_loop(|longest| {
            if over(request.phase()) {
                return true;
            }
            // Its end is near, or the runner has misjudged it: then this thread sleeps again.
            if request.is_announced() && Self::look(request, over, LOOK) {
                return true;
            }
            let mut longest = longest;
            if let Some(deadline) = request.deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                timed_out = left.is_zero();
                longest = longest.min(left);
            }
            if !timed_out {
                request.sleep(over, longest);
                timed_out = cfg!(loom) && request.deadline.is_some() && !over(request.phase());
            }
            timed_out || over(request.phase())
        });
        // Not before the withdrawal: what others have to be told of depends on it.
        let outcome = match waited {
            Err(interrupted) => {
                self.withdraw(request, |stats| stats.cancelled += 1);
                Err(interrupted.into())
            }
            Ok(()) if timed_out && self.withdraw_in_time(request, over) => Err(Refused::TimedOut),
            Ok(()) => Ok(()),
        };
        request.leave();
        outcome
    }

    /// Looks for the end of a wait for a short time; false where the thread should sleep.
    fn spin(&self, request: &Request<T>, over: fn(Phase) -> bool) -> bool {
        let longest = self.options.spin;
        if over(request.phase()) {
            return true;
        }
        // A model tries every interleaving anyway.
        if longest.is_zero() || cfg!(loom) {
            return false;
        }
        // Of two or three cores the callers that make the next calls need each.
        let allowed = if blocking::cores() < FEW_CORES { 0 } else { blocking::cores() / 2 };
        // Relaxed: a limit on how many burn time, nothing else hangs on it.
        if self.spinning.fetch_add(1, Ordering::Relaxed) >= allowed {
            self.spinning.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let found = Self::look(request, over, longest);
        self.spinning.fetch_sub(1, Ordering::Relaxed);
        found
    }

    fn look(request: &Request<T>, over: fn(Phase) -> bool, longest: Duration) -> bool {
        let start = Instant::now();
        while !cfg!(loom) && start.elapsed() < longest {
            for _ in 0..32 {
                hint::spin_loop();
            }
            if over(request.phase()) {
                return true;
            }
        }
        over(request.phase())
    }

    /// True where the time was up before the request came to what its owner waited for.
    fn withdraw_in_time(&self, request: &Arc<Request<T>>, over: fn(Phase) -> bool) -> bool {
        if over(request.phase()) {
            return false;
        }
        self.withdraw(request, |stats| stats.timed_out += 1);
        !matches!(request.phase(), Phase::Done)
    }

    /// Takes a request out; true where it had not been taken into a batch.
    fn withdraw(&self, request: &Arc<Request<T>>, count: fn(&mut Stats)) -> bool {
        let (waited, woken, serve) = {
            let mut state = self.state.lock();
            let before = request.phase();
            if matches!(before, Phase::Done | Phase::Gone) {
                return false;
            }
            count(&mut state.counts);
            let freed = state.withdraw(request);
            let mut woken = state.let_in(&self.options);
            let mut serve = state.is_drained();
            if freed {
                let (more, needed) = state.pass_on(&self.options);
                woken.append(more);
                serve |= needed || state.is_drained();
            }
            (before != Phase::Taken, woken, serve)
        };
        woken.wake();
        self.wake_servers(serve);
        waited
    }

    /// Takes the batch of a request that has the role, after it has waited for others where it should. `None` where its
    /// owner has taken it back, and the role with it. `own`: the caller is its owner.
    fn take(self: &Arc<Self>, leader: &Arc<Request<T>>, own: bool) -> Result<Option<Run<T>>, Refused> {
        let gathered = self.gather(leader);
        if gathered.is_err() && own {
            self.withdraw(leader, |stats| stats.cancelled += 1);
        }
        let now = Instant::now();
        let (members, woken) = {
            let mut state = self.state.lock();
            let members = state.take(leader, &self.options, now);
            (members, state.let_in(&self.options))
        };
        woken.wake();
        let run = members.map(|members| Run::new(Arc::clone(self), members, now, own));
        // Where a server was interrupted, the run that is dropped here goes back to the queue.
        gathered.map(|()| run).map_err(Refused::from)
    }

    /// Waits for others where the new runner should.
    fn gather(&self, leader: &Arc<Request<T>>) -> Result<(), Interrupted> {
        // A model has no clock to wait for.
        if cfg!(loom) {
            return Ok(());
        }
        let Some(gather) = self.state.lock().gather(leader, &self.options, Instant::now()) else {
            return Ok(());
        };
        let mut until = gather.until;
        let called = |phase| phase == Phase::LeadsNow;
        let waited = blocking::wait_loop(|longest| {
            loop {
                if leader.phase() != Phase::Leads {
                    return true;
                }
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    match self.state.lock().gather_longer(&gather, Instant::now()) {
                        Some(later) => until = later,
                        None => return true,
                    }
                } else if left < SHORT {
                    for _ in 0..64 {
                        hint::spin_loop();
                    }
                } else {
                    leader.sleep(called, left.min(longest));
                    return false;
                }
            }
        });
        leader.leave();
        self.state.lock().gathered(&gather);
        waited
    }

    /// Has the servers look again where `needed`.
    pub(super) fn wake_servers(&self, needed: bool) {
        if needed {
            self.bell.fetch_add(1, Ordering::Release);
            parking::unpark_all(self.bell_address());
        }
    }

    fn bell_address(&self) -> usize {
        // As of a request: tickets begin with 1.
        if cfg!(loom) { 0 } else { (&raw const self.bell).addr() }
    }
}

/// Below, no thread polls for its result.
const FEW_CORES: usize = 4;
/// Waits that are shorter than this are spun: a thread that sleeps is woken some 50 µs late.
const SHORT: Duration = Duration::from_micros(80);

/// How long a thread that was woken for the end of its batch looks for it.
pub(super) const LOOK: Duration = Duration::from_micros(200);
