use super::command::VulkanCommands;
use super::shared::Shared;
use super::timeline::VulkanTimeline;
use crate::sync::{Arc, Mutex, Rank};
use crate::{CommandBuffer, HalError, Submission, SubmitFailure, TimelinePoint};
use ash::vk;
use smallvec::SmallVec;
use std::collections::VecDeque;

/// One hardware queue.
#[derive(Debug)]
pub(super) struct VulkanQueue {
    handle: vk::Queue,
    /// Submitted and not known to be complete; the oldest first.
    unfinished: Mutex<VecDeque<Unfinished>>,
}

/// What the device still uses.
#[derive(Debug)]
struct Unfinished {
    signal: TimelinePoint,
    _commands: Vec<Arc<dyn CommandBuffer>>,
    /// Timelines waited for.
    _waits: Vec<TimelinePoint>,
}

fn own<'a>(point: &'a TimelinePoint, shared: &Arc<Shared>) -> Result<&'a VulkanTimeline, HalError> {
    let own = point.timeline.as_any().downcast_ref::<VulkanTimeline>().filter(|own| own.is_of(shared));
    own.ok_or_else(|| HalError::Usage("submit: a timeline of another driver".to_owned()))
}

/// Submissions of one call, and waits of a submission, that are held without allocating.
const INLINE: usize = 2;

/// The arrays behind one `VkSubmitInfo`.
#[derive(Default)]
struct Arrays {
    commands: SmallVec<[vk::CommandBuffer; INLINE]>,
    waits: SmallVec<[vk::Semaphore; INLINE]>,
    wait_values: SmallVec<[u64; INLINE]>,
    stages: SmallVec<[vk::PipelineStageFlags; INLINE]>,
    signal: [vk::Semaphore; 1],
    signal_value: [u64; 1],
}

impl VulkanQueue {
    pub(super) fn new(handle: vk::Queue) -> Self {
        Self { handle, unfinished: Mutex::new(Rank::DRIVER, VecDeque::new()) }
    }

    /// Submits everything in one call of the driver.
    pub(super) fn submit(&self, shared: &Arc<Shared>, work: Vec<Submission>) -> Result<(), SubmitFailure> {
        let refused = |error| SubmitFailure { accepted: 0, error };
        shared.check().map_err(refused)?;
        let mut arrays: SmallVec<[Arrays; INLINE]> = SmallVec::with_capacity(work.len());
        for (index, submission) in work.iter().enumerate() {
            match Self::arrays(shared, submission) {
                Ok(made) => arrays.push(made),
                Err(error) => {
                    work[..index]
                        .iter()
                        .flat_map(|earlier| &earlier.commands)
                        .for_each(VulkanCommands::untake);
                    return Err(refused(error));
                }
            }
        }
        let mut values: SmallVec<[_; INLINE]> = arrays
            .iter()
            .map(|arrays| {
                vk::TimelineSemaphoreSubmitInfo::default()
                    .wait_semaphore_values(&arrays.wait_values)
                    .signal_semaphore_values(&arrays.signal_value)
            })
            .collect();
        let infos: SmallVec<[_; INLINE]> = arrays
            .iter()
            .zip(&mut values)
            .map(|(arrays, values)| {
                vk::SubmitInfo::default()
                    .wait_semaphores(&arrays.waits)
                    .wait_dst_stage_mask(&arrays.stages)
                    .command_buffers(&arrays.commands)
                    .signal_semaphores(&arrays.signal)
                    .push_next(values)
            })
            .collect();
        // SAFETY: every handle is of this device and kept by `work` until its signal is reached; the caller sees to it
        // that calls for one queue do not overlap.
        let done = unsafe { shared.device.queue_submit(self.handle, &infos, vk::Fence::null()) };
        if let Err(error) = done {
            // The driver leaves everything as it was, but for a lost device.
            work.iter().flat_map(|submission| &submission.commands).for_each(VulkanCommands::untake);
            let label = work.first().map_or("", |submission| submission.label.as_str());
            return Err(refused(shared.error(&format!("vkQueueSubmit of {label}"), error)));
        }
        drop(infos);
        let finished = self.note(work);
        drop(finished);
        Ok(())
    }

    fn arrays(shared: &Arc<Shared>, submission: &Submission) -> Result<Arrays, HalError> {
        let mut made = Arrays {
            signal: [own(&submission.signal, shared)?.semaphore],
            signal_value: [submission.signal.value],
            ..Arrays::default()
        };
        for point in &submission.waits {
            made.waits.push(own(point, shared)?.semaphore);
            made.wait_values.push(point.value);
            made.stages.push(vk::PipelineStageFlags::ALL_COMMANDS);
        }
        for (index, buffer) in submission.commands.iter().enumerate() {
            match VulkanCommands::take(buffer, shared) {
                Ok(buffer) => made.commands.push(buffer),
                Err(error) => {
                    submission.commands[..index].iter().for_each(VulkanCommands::untake);
                    return Err(error);
                }
            }
        }
        Ok(made)
    }

    /// Keeps what was submitted and gives what has completed, to be dropped without the lock.
    fn note(&self, work: Vec<Submission>) -> Vec<Unfinished> {
        let mut unfinished = self.unfinished.lock();
        unfinished.extend(work.into_iter().map(|Submission { commands, waits, signal, .. }| Unfinished {
            signal,
            _commands: commands,
            _waits: waits,
        }));
        let mut finished = Vec::new();
        while let Some(first) = unfinished.front() {
            let complete = first.signal.timeline.completed().is_ok_and(|value| value >= first.signal.value);
            match complete.then(|| unfinished.pop_front()).flatten() {
                Some(first) => finished.push(first),
                None => break,
            }
        }
        finished
    }

    /// Lets go of everything. Only when the device is idle or lost.
    pub(super) fn clear(&self) {
        let unfinished = std::mem::take(&mut *self.unfinished.lock());
        drop(unfinished);
    }
}
