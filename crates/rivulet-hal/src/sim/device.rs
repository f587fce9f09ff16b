use super::command::{SimCommandBuffer, SimRecorder, Storage};
use super::control::FailingSubmission;
use super::memory::SimMemory;
use super::order::{Planned, Point};
use super::pipeline::SimPipeline;
use super::queue::{self, Job};
use super::state::{Shared, State, TimelineState};
use super::timeline::SimTimeline;
use crate::cpu::{Allocation, Kernel};
use crate::sync::atomic::Ordering;
use crate::sync::thread;
use crate::{
    AdapterInfo, Device, HalError, Memory, MemoryUsage, Pipeline, PipelineDesc, QueueIndex, Recorder,
    Submission, SubmitFailure, Timeline, TimelinePoint,
};
use std::sync::Arc;

/// The handle whose drop ends the queues' threads.
#[derive(Debug)]
pub(super) struct SimDevice {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl SimDevice {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let mut threads = Vec::new();
        for index in 0..shared.info.queues {
            let own = Arc::clone(&shared);
            let builder = thread::Builder::new().name(format!("sim-queue-{index}"));
            match builder.spawn(move || queue::run(&own, index)) {
                Ok(handle) => threads.push(handle),
                Err(error) => shared.state.lock().lose(&format!("no thread for queue {index}: {error}")),
            }
        }
        Self { shared, threads }
    }

    fn submit_one(&self, queue: QueueIndex, submission: &Submission) -> Result<(), HalError> {
        let mut state = self.shared.state.lock();
        state.check_lost()?;
        if let Some(error) = injected_failure(&mut state, &submission.label) {
            return Err(error);
        }
        let signal = self.own(&submission.signal)?;
        let submitted = state.timelines[signal.timeline].submitted;
        if signal.value <= submitted {
            return Err(HalError::Usage(format!(
                "submit: submission `{}` signals {}, but {submitted} was asked for before; must rise",
                submission.label, signal.value
            )));
        }
        let waits = submission.waits.iter().map(|point| self.own(point)).collect::<Result<Vec<_>, _>>()?;
        let commands = submission.commands.iter().map(|buffer| SimCommandBuffer::take(buffer, queue));
        let commands = commands.collect::<Result<Vec<_>, _>>()?;

        let ticket = state.new_id();
        let label: Arc<str> = submission.label.as_str().into();
        let steps = commands.iter().map(|commands| Arc::clone(&commands.steps)).collect();
        let planned = Planned { ticket, label: Arc::clone(&label), waits: waits.clone(), steps, signal };
        let (mine, others): (Vec<_>, Vec<_>) =
            state.order.submit(queue.0, planned).into_iter().partition(|refused| refused.ticket == ticket);
        state.refuse_late(others);
        if let Some(refused) = mine.into_iter().next() {
            return Err(state.fault(refused.text));
        }
        state.timelines[signal.timeline].submitted = signal.value;
        state.queues[queue.0].push(Job { ticket, label, waits, commands, signal });
        Ok(())
    }

    fn own(&self, point: &TimelinePoint) -> Result<Point, HalError> {
        let own = point.timeline.as_any().downcast_ref::<SimTimeline>();
        let own = own.filter(|own| Arc::ptr_eq(&own.shared, &self.shared));
        let own = own.ok_or_else(|| HalError::Usage("submit: a timeline of another device".to_owned()))?;
        Ok(Point { timeline: own.id, value: point.value })
    }
}

/// The failure that a test asked for, if it is this submission's turn.
fn injected_failure(state: &mut State, label: &str) -> Option<HalError> {
    let rules = &mut state.failing_submissions;
    let mut hit = None;
    for (index, (rule, _)) in rules.iter_mut().enumerate() {
        let fails = match rule {
            FailingSubmission::Label(wanted) => wanted == label,
            FailingSubmission::Nth(left) => {
                *left = left.saturating_sub(1);
                *left == 0
            }
        };
        if fails && hit.is_none() {
            hit = Some(index);
        }
    }
    hit.map(|index| rules.remove(index).1)
}

impl Device for SimDevice {
    fn info(&self) -> &AdapterInfo {
        &self.shared.info
    }

    fn allocate(&self, bytes: u64, usage: MemoryUsage) -> Result<Arc<dyn Memory>, HalError> {
        let mut state = self.shared.state.lock();
        state.check_lost()?;
        if state.failing_allocations > 0 {
            state.failing_allocations -= 1;
            let detail = "the simulated device was told to fail this allocation".to_owned();
            return Err(HalError::OutOfMemory { requested: bytes, detail });
        }
        let id = state.new_id();
        let storage = Arc::new(Storage::new(id, Allocation::new(bytes, &self.shared.budget)?));
        state.memories.insert(storage.start().addr().get(), Arc::downgrade(&storage));
        state.order.add_memory(id);
        drop(state);
        let host_visible = self.shared.info.unified_memory || usage != MemoryUsage::Device;
        Ok(Arc::new(SimMemory { shared: Arc::clone(&self.shared), storage, host_visible }))
    }

    fn timeline(&self) -> Result<Arc<dyn Timeline>, HalError> {
        let mut state = self.shared.state.lock();
        state.check_lost()?;
        let id = state.order.add_timeline();
        state.timelines.push(TimelineState::default());
        Ok(Arc::new(SimTimeline { shared: Arc::clone(&self.shared), id }))
    }

    fn pipeline(&self, desc: &PipelineDesc) -> Result<Arc<dyn Pipeline>, HalError> {
        self.shared.state.lock().check_lost()?;
        Ok(Arc::new(SimPipeline(Kernel::new(desc, "sim")?)))
    }

    fn recorder(&self, queue: QueueIndex) -> Result<Box<dyn Recorder>, HalError> {
        self.shared.check_queue(queue)?;
        self.shared.state.lock().check_lost()?;
        Ok(Box::new(SimRecorder::new(Arc::clone(&self.shared), queue)))
    }

    fn submit(&self, queue: QueueIndex, work: Vec<Submission>) -> Result<(), SubmitFailure> {
        self.shared.check_queue(queue).map_err(|error| SubmitFailure { accepted: 0, error })?;
        let busy = &self.shared.submitting[queue.0];
        if busy.swap(true, Ordering::Acquire) {
            let text = format!("two threads submit to queue {} at the same time", queue.0);
            let error = self.shared.state.lock().fault(text);
            return Err(SubmitFailure { accepted: 0, error });
        }
        let outcome = work.iter().enumerate().try_for_each(|(accepted, submission)| {
            self.submit_one(queue, submission).map_err(|error| SubmitFailure { accepted, error })
        });
        busy.store(false, Ordering::Release);
        self.shared.wake_all();
        outcome
    }
}

impl Drop for SimDevice {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.shutdown = true;
        // What still holds a timeline must not wait for a device that is gone.
        state.lost.get_or_insert_with(|| "the device was closed".to_owned());
        state.queues.iter_mut().for_each(queue::QueueState::clear);
        drop(state);
        self.shared.wake_all();
        for thread in self.threads.drain(..) {
            // A panic of a queue's thread has been printed; there is nobody to hand it to.
            let _ = thread.join();
        }
    }
}
