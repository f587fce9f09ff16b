//! One call on its way through the queue: where it stands, and how its thread sleeps and is woken.

use super::seeded;
use rivulet_hal::sync::atomic::{AtomicBool, AtomicU8, Ordering, fence};
use rivulet_hal::sync::{Arc, Mutex, Rank, parking};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Where a request stands. Changes happen under the queue's lock, but for those to [`Phase::Done`], which the runner
/// of the batch makes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// The queue is full; it will be let in in the order of arrival.
    Outside,
    /// May be taken into a batch.
    Queued,
    /// Has been given the role of the runner, and has not begun.
    Leads,
    /// The same, and what it was told to wait for has arrived.
    LeadsNow,
    /// In a batch that is being run.
    Taken,
    /// Its batch has been run.
    Done,
    /// Its owner has left.
    Gone,
}

impl Phase {
    fn of(number: u8) -> Self {
        const ALL: [Phase; 7] = [
            Phase::Outside,
            Phase::Queued,
            Phase::Leads,
            Phase::LeadsNow,
            Phase::Taken,
            Phase::Done,
            Phase::Gone,
        ];
        ALL[usize::from(number)]
    }

    pub(super) fn leads(self) -> bool {
        matches!(self, Self::Leads | Self::LeadsNow)
    }

    /// True where the thread that called has something to do or to take home.
    pub(super) fn ends_a_call(self) -> bool {
        self.leads() || self == Self::Done
    }
}

/// What a woken thread has to do for others, see [`wake_all`].
#[derive(Debug)]
enum Duty<T> {
    None,
    Wake(Arc<Vec<Arc<Request<T>>>>, Range<usize>),
    /// The thread has left: nobody would do it.
    Left,
}

/// A call in the queue, with what it brought along. Made by [`Queue`](super::Queue).
#[derive(Debug)]
pub struct Request<T> {
    pub(super) work: T,
    pub(super) key: u64,
    pub(super) rows: usize,
    pub(super) deadline: Option<Instant>,
    pub(super) arrived: Instant,
    /// Nobody waits in a call for it: where it is the oldest, a server runs it.
    pub(super) detached: bool,
    /// Order of arrival. Set under the queue's lock, before anybody else sees the request.
    pub(super) ticket: u64,
    phase: AtomicU8,
    /// Its thread has slept at least once, or is about to: it may have been given others to wake.
    slept: AtomicBool,
    /// Its thread sleeps, or is about to.
    asleep: AtomicBool,
    /// Its batch is about to end, see [`announce`].
    announced: AtomicBool,
    duty: Mutex<Duty<T>>,
}

impl<T> Request<T> {
    pub(super) fn new(work: T, key: u64, rows: usize, deadline: Option<Instant>, detached: bool) -> Self {
        Self {
            work,
            key,
            rows,
            deadline,
            arrived: Instant::now(),
            detached,
            ticket: 0,
            phase: AtomicU8::new(Phase::Queued as u8),
            slept: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            announced: AtomicBool::new(false),
            duty: Mutex::new(Rank::BATCH, Duty::None),
        }
    }

    /// What the call brought along.
    pub fn work(&self) -> &T {
        &self.work
    }

    /// Rows that it adds to a batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// True where its owner no longer waits for a result (it ran out of time, or gave up).
    pub fn is_abandoned(&self) -> bool {
        self.phase() == Phase::Gone
    }

    pub(super) fn phase(&self) -> Phase {
        // Acquire pairs with `set_phase`: who sees Done sees the result.
        Phase::of(self.phase.load(Ordering::Acquire))
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Sleeps for at most `longest` while `over` says no. Only the thread that called may sleep here, and it has to
    /// [`Request::leave`] afterwards.
    pub(super) fn sleep(&self, over: fn(Phase) -> bool, longest: Duration) {
        // Before the fence inside `park`: a waker that does not see it has changed the phase before `over` looks.
        let again = self.slept.swap(true, Ordering::Relaxed);
        if !(again && seeded::is("batch: who sleeps again is taken for awake")) {
            self.asleep.store(true, Ordering::Relaxed);
        }
        // A model waits without end, or a timeout would hide a wake-up that was lost; but for those who may run out of
        // time, which they do there after any step of others.
        let longest = if cfg!(loom) && self.deadline.is_none() { None } else { Some(longest) };
        let awaited = || !over(self.phase()) && !self.announced.load(Ordering::Relaxed);
        parking::park(self.address(), awaited, longest);
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// True once after the end of its batch was announced. Called by the thread that called.
    pub(super) fn is_announced(&self) -> bool {
        self.announced.load(Ordering::Relaxed) && self.announced.swap(false, Ordering::Relaxed)
    }

    /// Ends the waiting of the thread that called: wakes whom it was asked to wake.
    pub(super) fn leave(&self) {
        if !self.slept.load(Ordering::Relaxed) {
            return;
        }
        let left = if seeded::is("batch: a leaver stays on the list") { Duty::None } else { Duty::Left };
        let duty = std::mem::replace(&mut *self.duty.lock(), left);
        if let Duty::Wake(list, range) = duty {
            wake_range(&list, range);
        }
    }

    /// Wakes the thread where it sleeps. After a change of the phase.
    pub(super) fn wake(&self) {
        parking::unpark_all(self.address());
    }

    /// What the thread is parked under.
    fn address(&self) -> usize {
        // A model has to take the same way each time, and where memory lies differs from run to run.
        if cfg!(loom) { self.ticket as usize } else { (&raw const self.phase).addr() }
    }

    /// Gives the thread others to wake; false where it has left.
    fn accepts(&self, list: &Arc<Vec<Arc<Self>>>, range: Range<usize>) -> bool {
        let mut duty = self.duty.lock();
        if matches!(*duty, Duty::Left) {
            return false;
        }
        *duty = Duty::Wake(Arc::clone(list), range);
        true
    }
}

/// Tells the members of a batch that it has been run, and wakes those that sleep.
///
/// A wake-up is a system call, and thirty of them take as long as a small batch runs. So the runner wakes one thread of
/// each half of the list, of the remaining half again, and so on; each of those does the same with its part.
pub(super) fn wake_all<T>(members: &[Arc<Request<T>>]) {
    wake_list(done(members));
}

/// The same one by one, in the order of the members: each when `admit` returns, which is told how many know by then.
pub(super) fn wake_in_turn<T>(members: &[Arc<Request<T>>], mut admit: impl FnMut(usize)) {
    let asleep = done(members);
    let awake = members.len() - asleep.len();
    for (told, member) in asleep.iter().enumerate() {
        admit(awake + told);
        member.wake();
    }
}

/// Tells the members; those that sleep.
fn done<T>(members: &[Arc<Request<T>>]) -> Vec<Arc<Request<T>>> {
    for member in members {
        member.set_phase(Phase::Done);
    }
    sleepers(members, usize::MAX)
}

/// Wakes some of those that sleep, `most` at most, to look for their results awake.
pub(super) fn announce<T>(members: &[Arc<Request<T>>], most: usize) {
    let asleep = sleepers(members, most);
    for member in &asleep {
        member.announced.store(true, Ordering::Relaxed);
    }
    wake_list(asleep);
}

/// Members that sleep, after a change of their phase.
fn sleepers<T>(members: &[Arc<Request<T>>], most: usize) -> Vec<Arc<Request<T>>> {
    // Pairs with the fence in `park`: either the sleeper finds the change or `asleep` is seen here.
    fence(Ordering::SeqCst);
    members.iter().filter(|member| member.asleep.load(Ordering::Relaxed)).take(most).map(Arc::clone).collect()
}

fn wake_list<T>(list: Vec<Arc<Request<T>>>) {
    if !list.is_empty() {
        let all = 0..list.len();
        wake_range(&Arc::new(list), all);
    }
}

fn wake_range<T>(list: &Arc<Vec<Arc<Request<T>>>>, range: Range<usize>) {
    let mut open = vec![range];
    while let Some(range) = open.pop() {
        let mut end = range.end;
        while range.start < end {
            let middle = range.start + (end - range.start) / 2;
            let rest = middle + 1..end;
            if !rest.is_empty() && !list[middle].accepts(list, rest.clone()) {
                open.push(rest);
            }
            list[middle].wake();
            end = middle;
        }
    }
}
