//! What the queue's lock guards: who waits, in which order, and who holds the role.

use super::metrics::{Stats, Times};
use super::queue::Options;
use super::request::{Phase, Request};
use super::seeded;
use rivulet_hal::sync::Arc;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Lists that are kept for the next group.
const SPARE_LISTS: usize = 8;
/// Runners that do not wait after so many in vain is two to the power of them, up to this many.
const LONGEST_PAUSE: u32 = 64;

#[derive(Debug)]
pub(super) struct State<T> {
    last_ticket: u64,
    /// Requests that may be taken, by group, each in the order of tickets.
    groups: BTreeMap<u64, VecDeque<Arc<Request<T>>>>,
    /// The first ticket of each group, and the group.
    heads: BTreeMap<u64, u64>,
    spare: Vec<VecDeque<Arc<Request<T>>>>,
    queued: usize,
    /// Those who found the queue full, in the order of arrival.
    outside: VecDeque<Arc<Request<T>>>,
    /// Roles that are given. Where it is below the limit nobody is queued: a role that becomes free goes to the oldest.
    running: usize,
    /// Detached requests that were given a role and wait for a server.
    ready: VecDeque<Arc<Request<T>>>,
    gathering: Vec<Gathering<T>>,
    pub(super) closed: bool,
    regroup: Regroup,
    pub(super) counts: Stats,
    pub(super) queue_time: Times,
    pub(super) latency: Times,
}

/// What is known of the last run, for runners that wait for its members to come back.
#[derive(Debug)]
struct Regroup {
    /// Requests, queued ones included, if all came back.
    expected: usize,
    ended: Option<Instant>,
    last_arrival: Option<Instant>,
    usual_run: Duration,
    in_vain: u32,
    /// Runners that will not wait.
    pause: u32,
}

/// A runner that waits for others to arrive.
#[derive(Debug)]
struct Gathering<T> {
    runner: Arc<Request<T>>,
    /// Queued requests, of any group, that are enough.
    wanted: usize,
    /// Rows of its group that fill its batch.
    rows_left: usize,
}

/// Threads to wake once the lock is released.
#[derive(Debug)]
pub(super) struct ToWake<T>(Vec<Arc<Request<T>>>);

impl<T> ToWake<T> {
    pub(super) fn nobody() -> Self {
        Self(Vec::new())
    }

    pub(super) fn append(&mut self, mut more: Self) {
        self.0.append(&mut more.0);
    }

    pub(super) fn wake(self) {
        for request in self.0 {
            request.wake();
        }
    }
}

/// What an arriving request has come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    Leads,
    Waits,
    /// A detached request leads: a server has to be woken.
    Serve,
}

impl<T> State<T> {
    pub(super) fn new() -> Self {
        let regroup = Regroup {
            expected: 0,
            ended: None,
            last_arrival: None,
            usual_run: Duration::ZERO,
            in_vain: 0,
            pause: 0,
        };
        Self {
            last_ticket: 0,
            groups: BTreeMap::new(),
            heads: BTreeMap::new(),
            spare: Vec::new(),
            queued: 0,
            outside: VecDeque::new(),
            running: 0,
            ready: VecDeque::new(),
            gathering: Vec::new(),
            closed: false,
            regroup,
            counts: Stats::default(),
            queue_time: Times::new(),
            latency: Times::new(),
        }
    }

    pub(super) fn is_full(&self, options: &Options) -> bool {
        self.running >= options.max_in_flight
            && (self.queued >= options.max_queue || !self.outside.is_empty())
    }

    /// Nothing waits, nothing runs, and nothing will come.
    pub(super) fn is_drained(&self) -> bool {
        self.closed && self.running == 0 && self.queued == 0 && self.outside.is_empty()
    }

    /// Takes a request in.
    pub(super) fn arrive(
        &mut self,
        request: &mut Arc<Request<T>>,
        options: &Options,
    ) -> (Arrival, ToWake<T>) {
        self.last_ticket += 1;
        self.regroup.last_arrival = Some(request.arrived);
        // Nobody else has seen it, so the access is unique.
        if let Some(request) = Arc::get_mut(request) {
            request.ticket = self.last_ticket;
        }
        let nobody = ToWake::nobody();
        if self.running < options.max_in_flight {
            self.running += 1;
            request.set_phase(Phase::Leads);
            if request.detached {
                self.ready.push_back(Arc::clone(request));
                return (Arrival::Serve, nobody);
            }
            return (Arrival::Leads, nobody);
        }
        if self.is_full(options) {
            request.set_phase(Phase::Outside);
            self.outside.push_back(Arc::clone(request));
            return (Arrival::Waits, nobody);
        }
        self.admit(Arc::clone(request));
        (Arrival::Waits, self.call_gathered(request.key, request.rows))
    }

    /// Puts a request with the highest ticket of its group into the queue.
    fn admit(&mut self, request: Arc<Request<T>>) {
        request.set_phase(Phase::Queued);
        self.queued += 1;
        let spare = &mut self.spare;
        let group = self.groups.entry(request.key).or_insert_with(|| spare.pop().unwrap_or_default());
        if group.is_empty() {
            self.heads.insert(request.ticket, request.key);
        }
        group.push_back(request);
    }

    /// Lets those in for whom there is room now.
    pub(super) fn let_in(&mut self, options: &Options) -> ToWake<T> {
        let mut woken = Vec::new();
        while self.queued < options.max_queue
            && let Some(request) = self.outside.pop_front()
        {
            // Of those outside, only the owner of a detached one sleeps for being let in.
            if request.detached {
                woken.push(Arc::clone(&request));
            }
            self.admit(request);
        }
        ToWake(woken)
    }

    /// Wakes the runners for whom enough have arrived with these rows.
    fn call_gathered(&mut self, key: u64, rows: usize) -> ToWake<T> {
        let queued = self.queued;
        let mut woken = Vec::new();
        self.gathering.retain_mut(|gathering| {
            if gathering.runner.key == key {
                gathering.rows_left = gathering.rows_left.saturating_sub(rows);
            }
            let enough = queued >= gathering.wanted || gathering.rows_left == 0;
            if enough {
                gathering.runner.set_phase(Phase::LeadsNow);
                woken.push(Arc::clone(&gathering.runner));
            }
            !enough
        });
        ToWake(woken)
    }

    /// Gives free roles to the oldest requests; who has to be told, and whether a server has to.
    pub(super) fn pass_on(&mut self, options: &Options) -> (ToWake<T>, bool) {
        let (mut woken, mut serve) = (Vec::new(), false);
        while self.running < options.max_in_flight
            && let Some(request) = self.pop_oldest()
        {
            self.running += 1;
            request.set_phase(Phase::Leads);
            if request.detached {
                serve = true;
                self.ready.push_back(request);
            } else {
                woken.push(request);
            }
            woken.extend(self.let_in(options).0);
        }
        if seeded::is("batch: the role is passed to nobody") {
            woken.clear();
        }
        (ToWake(woken), serve)
    }

    fn pop_oldest(&mut self) -> Option<Arc<Request<T>>> {
        let (_, key) = self.heads.pop_first()?;
        self.pop_of(key)
    }

    /// The first of a group that is not among the heads at the moment, or whose head is about to be renewed.
    fn pop_of(&mut self, key: u64) -> Option<Arc<Request<T>>> {
        let group = self.groups.get_mut(&key)?;
        let request = group.pop_front();
        if let Some(request) = &request {
            self.queued -= 1;
            self.heads.remove(&request.ticket);
        }
        self.settle(key);
        request
    }

    /// Renews the head of a group, or drops the group where it is empty.
    fn settle(&mut self, key: u64) {
        let Some(group) = self.groups.get(&key) else { return };
        if let Some(first) = group.front() {
            self.heads.insert(first.ticket, key);
        } else if let Some(list) = self.groups.remove(&key)
            && self.spare.len() < SPARE_LISTS
        {
            self.spare.push(list);
        }
    }

    /// What runs with a request that has the role: it first, then those of its group in the order of arrival. `None` where
    /// it no longer has the role.
    pub(super) fn take(
        &mut self,
        leader: &Arc<Request<T>>,
        options: &Options,
        now: Instant,
    ) -> Option<Vec<Arc<Request<T>>>> {
        let key = leader.key;
        self.gathering.retain(|gathering| !Arc::ptr_eq(&gathering.runner, leader));
        if !leader.phase().leads() {
            return None;
        }
        let mut rows = leader.rows;
        let mut members = vec![Arc::clone(leader)];
        while let Some(next) = self.groups.get(&key).and_then(VecDeque::front)
            && rows.saturating_add(next.rows) <= options.max_batch
        {
            rows += next.rows;
            members.extend(self.pop_of(key));
        }
        for member in &members {
            member.set_phase(Phase::Taken);
            self.queue_time.add(now.saturating_duration_since(member.arrived));
        }
        Some(members)
    }

    /// The next request that a server has to run.
    pub(super) fn next_ready(&mut self) -> Option<Arc<Request<T>>> {
        self.ready.pop_front()
    }

    /// A run has ended well. Frees its role; the caller passes it on.
    pub(super) fn count_run(&mut self, members: &[Arc<Request<T>>], began: Instant, now: Instant) {
        self.running -= 1;
        let rows: usize = members.iter().map(|member| member.rows).sum();
        self.counts.requests += members.len() as u64;
        self.counts.rows += rows as u64;
        self.counts.batches += 1;
        *self.counts.sizes.entry(members.len()).or_insert(0) += 1;
        for member in members {
            self.latency.add(now.saturating_duration_since(member.arrived));
        }
        let run = now.saturating_duration_since(began);
        let usual = &mut self.regroup.usual_run;
        *usual = if usual.is_zero() { run } else { (*usual * 3 + run) / 4 };
        self.regroup.ended = Some(now);
        // Detached ones have no thread that comes back.
        let back = members.iter().filter(|member| !member.detached).count();
        self.regroup.expected = self.queued + back;
    }

    /// A run has ended without a result: its members, but for the one that gave up, get their places back.
    pub(super) fn give_back(&mut self, members: &[Arc<Request<T>>]) {
        self.running -= 1;
        for member in members.iter().rev() {
            if member.phase() != Phase::Taken {
                continue;
            }
            self.counts.requeued += 1;
            member.set_phase(Phase::Queued);
            self.queued += 1;
            let group = self.groups.entry(member.key).or_default();
            if let Some(first) = group.front() {
                self.heads.remove(&first.ticket);
            }
            // Taken from the front, in order, and later ones have higher tickets; but another runner's members may have
            // gone back meanwhile.
            let place = group.partition_point(|other| other.ticket < member.ticket);
            group.insert(place, Arc::clone(member));
            self.settle(member.key);
        }
    }

    /// Takes a request out whose owner leaves. True where a role became free by it.
    pub(super) fn withdraw(&mut self, request: &Arc<Request<T>>) -> bool {
        let phase = request.phase();
        if phase == Phase::Done {
            return false;
        }
        request.set_phase(Phase::Gone);
        let same = |other: &Arc<Request<T>>| Arc::ptr_eq(other, request);
        match phase {
            Phase::Queued => {
                if let Some(group) = self.groups.get_mut(&request.key)
                    && let Ok(place) = group.binary_search_by_key(&request.ticket, |other| other.ticket)
                {
                    group.remove(place);
                    self.queued -= 1;
                    self.heads.remove(&request.ticket);
                    self.settle(request.key);
                }
            }
            Phase::Outside => self.outside.retain(|other| !same(other)),
            Phase::Leads | Phase::LeadsNow => {
                self.gathering.retain(|gathering| !same(&gathering.runner));
                self.ready.retain(|other| !same(other));
                if !seeded::is("batch: a leaver keeps the role") {
                    self.running -= 1;
                    return true;
                }
            }
            Phase::Taken | Phase::Done | Phase::Gone => {}
        }
        false
    }

    // --- runners that wait for others --------------------------------------------------------------------------

    /// How long a run takes; `None` before the first.
    pub(super) fn usual_run(&self) -> Option<Duration> {
        Some(self.regroup.usual_run).filter(|usual| !usual.is_zero())
    }

    /// Until when a new runner should wait for others, or `None`. Where it should, it is on the list of those that an
    /// arrival may call.
    pub(super) fn gather(
        &mut self,
        leader: &Arc<Request<T>>,
        options: &Options,
        now: Instant,
    ) -> Option<Gather> {
        let group = self.groups.get(&leader.key);
        let rows: usize = group.map_or(0, |group| group.iter().map(|other| other.rows).sum());
        let rows_left = options.max_batch.saturating_sub(leader.rows + rows);
        if rows_left == 0 {
            return None;
        }
        if !options.max_wait.is_zero() {
            let until = leader.arrived + options.max_wait;
            return self.gather_until(leader, until, usize::MAX, rows_left, now);
        }
        let (ended, expected) = (self.regroup.ended?, self.regroup.expected);
        // The runner itself is one of those who were expected.
        let wanted = expected.saturating_sub(1);
        if !options.regroup || self.queued >= wanted {
            return None;
        }
        let usual = self.regroup.usual_run;
        let gap = (usual / 4).min(Duration::from_micros(500));
        let last = self.regroup.last_arrival.map_or(ended, |arrival| arrival.max(ended));
        let until = (last + gap).min(ended + usual.min(Duration::from_millis(2)));
        if until <= now {
            return None;
        }
        if self.regroup.pause > 0 {
            self.regroup.pause -= 1;
            return None;
        }
        self.gather_until(leader, until, wanted, rows_left, now)
    }

    fn gather_until(
        &mut self,
        leader: &Arc<Request<T>>,
        until: Instant,
        wanted: usize,
        rows_left: usize,
        now: Instant,
    ) -> Option<Gather> {
        let until = leader.deadline.map_or(until, |deadline| until.min(deadline));
        if until <= now {
            return None;
        }
        self.gathering.push(Gathering { runner: Arc::clone(leader), wanted, rows_left });
        let regroups = wanted != usize::MAX;
        Some(Gather { until, wanted, missing: wanted.saturating_sub(self.queued), regroups })
    }

    /// Whether a runner that has waited should go on waiting, because others keep coming.
    pub(super) fn gather_longer(&self, gather: &Gather, now: Instant) -> Option<Instant> {
        if !gather.regroups || self.queued >= gather.wanted {
            return None;
        }
        let usual = self.regroup.usual_run;
        let gap = (usual / 4).min(Duration::from_micros(500));
        let last = self.regroup.last_arrival? + gap;
        let until = last.min(self.regroup.ended? + usual.min(Duration::from_millis(2)));
        (until > now).then_some(until)
    }

    /// Notes whether waiting for others was worth it.
    pub(super) fn gathered(&mut self, gather: &Gather) {
        if !gather.regroups {
            return;
        }
        let came = gather.missing.saturating_sub(gather.wanted.saturating_sub(self.queued));
        self.counts.regrouped[0] += 1;
        if came * 2 >= gather.missing {
            self.counts.regrouped[1] += 1;
            self.regroup.in_vain = 0;
        } else {
            self.regroup.in_vain = (self.regroup.in_vain + 1).min(LONGEST_PAUSE.ilog2());
            self.regroup.pause = 1 << self.regroup.in_vain;
        }
    }

    pub(super) fn stats(&self) -> (Stats, Times, Times) {
        let mut stats = self.counts.clone();
        stats.queued = self.queued + self.outside.len();
        stats.running = self.running;
        (stats, self.queue_time.clone(), self.latency.clone())
    }
}

/// What a runner waits for.
#[derive(Debug)]
pub(super) struct Gather {
    pub(super) until: Instant,
    /// Queued requests.
    wanted: usize,
    /// How many of these were missing at the begin.
    missing: usize,
    /// It waits for the members of the last run, not for the time that the options give.
    regroups: bool,
}
