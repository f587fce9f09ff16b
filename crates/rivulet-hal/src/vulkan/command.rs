use super::memory::VulkanMemory;
use super::pipeline::VulkanPipeline;
use super::shared::Shared;
use super::slot::Slot;
use crate::cpu::{check_copy, check_fill, check_range};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::{
    BufferRange, ByteRange, CommandBuffer, HalError, Memory, Operand, Pipeline, Recorder, TimestampSlot,
};
use ash::vk;

/// Timestamps of one command buffer.
const TIMESTAMPS: u32 = 64;
/// Operands of a dispatch that are bound without allocating.
const INLINE: usize = 8;
/// Pipelines among which one in use is looked for.
const RECENT: usize = 8;

/// Commands being recorded.
#[derive(Debug)]
pub(super) struct VulkanRecorder {
    shared: Arc<Shared>,
    /// Given back to the device where the recorder is dropped unfinished.
    slot: Option<Slot>,
    bound: vk::Pipeline,
    /// Pipelines in use, kept until the commands have run.
    pipelines: Vec<Arc<dyn Pipeline>>,
    commands: usize,
    timestamps: u32,
}

impl VulkanRecorder {
    pub(super) fn new(shared: &Arc<Shared>) -> Result<Self, HalError> {
        let device = &shared.device;
        let slot = match shared.slots.lock().pop() {
            Some(slot) => slot,
            None => Slot::new(device, shared.shape.family)
                .map_err(|e| shared.error("making a command pool", e))?,
        };
        let mut recorder = Self {
            shared: Arc::clone(shared),
            slot: None,
            bound: vk::Pipeline::null(),
            pipelines: Vec::new(),
            commands: 0,
            timestamps: 0,
        };
        let info = vk::CommandBufferBeginInfo::default().flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
        // SAFETY: slots on the shelf are idle, and this one is this recorder's alone now.
        let begun = unsafe {
            device
                .reset_command_pool(slot.pool, vk::CommandPoolResetFlags::empty())
                .and_then(|()| device.begin_command_buffer(slot.buffer, &info))
        };
        recorder.slot = Some(slot);
        begun.map_err(|error| shared.error("vkBeginCommandBuffer", error))?;
        Ok(recorder)
    }

    fn buffer(&self) -> Result<vk::CommandBuffer, HalError> {
        let slot = self.slot.as_ref().map(|slot| slot.buffer);
        slot.ok_or_else(|| HalError::Usage("recorder: used after it was closed".to_owned()))
    }

    /// The driver's buffer behind an operand of ours, with its range checked.
    #[inline]
    fn operand(&self, memory: &Arc<dyn Memory>, range: ByteRange) -> Result<vk::Buffer, HalError> {
        let own = memory.as_any().downcast_ref::<VulkanMemory>().filter(|memory| memory.is_of(&self.shared));
        let own =
            own.ok_or_else(|| HalError::Usage("command: the memory belongs to another device".to_owned()))?;
        check_range(range, own.size(), "command")?;
        Ok(own.buffer)
    }

    fn memory_barrier(
        &self,
        from: (vk::PipelineStageFlags, vk::AccessFlags),
        to: (vk::PipelineStageFlags, vk::AccessFlags),
    ) -> Result<(), HalError> {
        let barrier = [vk::MemoryBarrier::default().src_access_mask(from.1).dst_access_mask(to.1)];
        let buffer = self.buffer()?;
        // SAFETY: the buffer is recording, on this thread alone.
        unsafe {
            self.shared.device.cmd_pipeline_barrier(
                buffer,
                from.0,
                to.0,
                vk::DependencyFlags::empty(),
                &barrier,
                &[],
                &[],
            );
        }
        Ok(())
    }

    fn check_dispatch(
        &self,
        pipeline: &VulkanPipeline,
        label: &str,
        operands: &[Operand<'_>],
        params: &[u8],
        groups: [u32; 3],
    ) -> Result<(), HalError> {
        let wrong = |what: String| Err(HalError::Usage(format!("kernel {label}: {what}")));
        if operands.len() != pipeline.bindings as usize {
            return wrong(format!("{} operands; it takes {}", operands.len(), pipeline.bindings));
        }
        if params.len() != pipeline.param_bytes as usize {
            return wrong(format!("{} bytes of parameters; it takes {}", params.len(), pipeline.param_bytes));
        }
        let limits = self.shared.limits.groups;
        if groups.iter().zip(limits).any(|(&asked, limit)| asked > limit) {
            return wrong(format!("{groups:?} workgroups; up to {limits:?} are allowed"));
        }
        let alignment = self.shared.limits.storage_alignment;
        for (index, Operand { range, .. }) in operands.iter().enumerate() {
            // Alignments are powers of two.
            if range.start & (alignment - 1) != 0 {
                return wrong(format!(
                    "operand {index} begins at byte {}; multiples of {alignment} are allowed",
                    range.start
                ));
            }
            if range.is_empty() || range.len() > self.shared.max_binding {
                let most = self.shared.max_binding;
                return wrong(format!("operand {index} has {} bytes; 1 to {most} are allowed", range.len()));
            }
        }
        Ok(())
    }
}

const WORK: vk::PipelineStageFlags = vk::PipelineStageFlags::from_raw(
    vk::PipelineStageFlags::COMPUTE_SHADER.as_raw() | vk::PipelineStageFlags::TRANSFER.as_raw(),
);
const WRITES: vk::AccessFlags = vk::AccessFlags::from_raw(
    vk::AccessFlags::SHADER_WRITE.as_raw() | vk::AccessFlags::TRANSFER_WRITE.as_raw(),
);
const READS: vk::AccessFlags = vk::AccessFlags::from_raw(
    vk::AccessFlags::SHADER_READ.as_raw() | vk::AccessFlags::TRANSFER_READ.as_raw(),
);

impl Recorder for VulkanRecorder {
    fn copy(&mut self, src: &BufferRange, dst: &BufferRange) -> Result<(), HalError> {
        let (from, to) = (self.operand(&src.memory, src.range)?, self.operand(&dst.memory, dst.range)?);
        check_copy(src.range, dst.range, from == to && src.range.overlaps(dst.range))?;
        if src.range.is_empty() {
            return Ok(());
        }
        let region = [vk::BufferCopy {
            src_offset: src.range.start,
            dst_offset: dst.range.start,
            size: src.range.len(),
        }];
        // SAFETY: both ranges are inside their buffers and do not overlap; the buffer is recording.
        unsafe { self.shared.device.cmd_copy_buffer(self.buffer()?, from, to, &region) };
        self.commands += 1;
        Ok(())
    }

    fn fill(&mut self, dst: &BufferRange, word: u32) -> Result<(), HalError> {
        let buffer = self.operand(&dst.memory, dst.range)?;
        let (start, end) = (dst.range.start, dst.range.end);
        check_fill(dst.range)?;
        if dst.range.is_empty() {
            return Ok(());
        }
        // SAFETY: the range is inside the buffer and aligned; the buffer is recording.
        unsafe { self.shared.device.cmd_fill_buffer(self.buffer()?, buffer, start, end - start, word) };
        self.commands += 1;
        Ok(())
    }

    fn dispatch_on(
        &mut self,
        pipeline: &Arc<dyn Pipeline>,
        operands: &[Operand<'_>],
        params: &[u8],
        groups: [u32; 3],
    ) -> Result<(), HalError> {
        let label = pipeline.label();
        let kernel =
            pipeline.as_any().downcast_ref::<VulkanPipeline>().filter(|kernel| kernel.is_of(&self.shared));
        let kernel =
            kernel.ok_or_else(|| HalError::Usage(format!("kernel {label}: compiled by another device")))?;
        self.check_dispatch(kernel, label, operands, params, groups)?;
        if groups.contains(&0) {
            return Ok(());
        }
        let mut buffers = smallvec::SmallVec::<[vk::DescriptorBufferInfo; INLINE]>::new();
        for Operand { memory, range, .. } in operands {
            buffers.push(vk::DescriptorBufferInfo {
                buffer: self.operand(memory, *range)?,
                offset: range.start,
                range: range.len(),
            });
        }
        let writes: smallvec::SmallVec<[vk::WriteDescriptorSet<'_>; INLINE]> = buffers
            .iter()
            .enumerate()
            .map(|(binding, buffer)| {
                vk::WriteDescriptorSet::default()
                    .dst_binding(binding as u32)
                    .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                    .buffer_info(std::slice::from_ref(buffer))
            })
            .collect();
        let (commands, device) = (self.buffer()?, &self.shared.device);
        let point = vk::PipelineBindPoint::COMPUTE;
        // SAFETY: the buffer is recording on this thread; the pipeline is kept below until the commands have run; the
        // operands are buffers of this device with ranges inside them, as many as the layout has; the parameters are
        // as long as its range.
        unsafe {
            if self.bound != kernel.pipeline {
                device.cmd_bind_pipeline(commands, point, kernel.pipeline);
            }
            if !writes.is_empty() {
                self.shared.push_descriptor.cmd_push_descriptor_set(
                    commands,
                    point,
                    kernel.layout,
                    0,
                    &writes,
                );
            }
            if !params.is_empty() {
                device.cmd_push_constants(commands, kernel.layout, vk::ShaderStageFlags::COMPUTE, 0, params);
            }
            device.cmd_dispatch(commands, groups[0], groups[1], groups[2]);
        }
        if self.bound != kernel.pipeline {
            self.bound = kernel.pipeline;
            // All threads share this count of references: it is left alone where a recent command has one.
            if !self.pipelines.iter().rev().take(RECENT).any(|recent| Arc::ptr_eq(recent, pipeline)) {
                self.pipelines.push(Arc::clone(pipeline));
            }
        }
        self.commands += 1;
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), HalError> {
        self.memory_barrier((WORK, WRITES), (WORK, READS | WRITES))
    }

    fn timestamp(&mut self) -> Result<TimestampSlot, HalError> {
        if self.shared.limits.timestamp_period == 0.0 {
            return Err(HalError::Usage("timestamp: this queue has no clock".to_owned()));
        }
        if self.timestamps == TIMESTAMPS {
            return Err(HalError::Usage(format!("timestamp: a command buffer holds {TIMESTAMPS}")));
        }
        let commands = self.buffer()?;
        let device = &self.shared.device;
        let Some(slot) = &mut self.slot else { return Err(HalError::Usage("recorder: closed".to_owned())) };
        if slot.queries == vk::QueryPool::null() {
            let info = vk::QueryPoolCreateInfo::default()
                .query_type(vk::QueryType::TIMESTAMP)
                .query_count(TIMESTAMPS);
            // SAFETY: the device is alive.
            let made = unsafe { device.create_query_pool(&info, None) };
            slot.queries = made.map_err(|error| self.shared.error("vkCreateQueryPool", error))?;
        }
        let query = self.timestamps;
        // SAFETY: the query belongs to this slot, whose earlier use has ended, and is reset before it is written. A
        // barrier first: the bottom of the pipe waits for earlier commands, but only for those it can see.
        unsafe {
            device.cmd_reset_query_pool(commands, slot.queries, query, 1);
            device.cmd_write_timestamp(commands, vk::PipelineStageFlags::BOTTOM_OF_PIPE, slot.queries, query);
        }
        self.timestamps += 1;
        Ok(TimestampSlot(query))
    }

    fn len(&self) -> usize {
        self.commands
    }

    fn finish(mut self: Box<Self>) -> Result<Arc<dyn CommandBuffer>, HalError> {
        // What the CPU reads after the signal has to be made visible to it.
        let host = (vk::PipelineStageFlags::HOST, vk::AccessFlags::HOST_READ | vk::AccessFlags::HOST_WRITE);
        self.memory_barrier((WORK, WRITES), host)?;
        // SAFETY: the buffer is recording.
        let ended = unsafe { self.shared.device.end_command_buffer(self.buffer()?) };
        ended.map_err(|error| self.shared.error("vkEndCommandBuffer", error))?;
        Ok(Arc::new(VulkanCommands {
            shared: Arc::clone(&self.shared),
            slot: self.slot.take(),
            _pipelines: std::mem::take(&mut self.pipelines),
            timestamps: self.timestamps,
            submitted: AtomicBool::new(false),
        }))
    }
}

impl Drop for VulkanRecorder {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.shared.slots.lock().push(slot);
        }
    }
}

/// Closed commands. The queue holds a reference until they have run, so the slot is idle when this is dropped.
#[derive(Debug)]
pub(super) struct VulkanCommands {
    shared: Arc<Shared>,
    slot: Option<Slot>,
    _pipelines: Vec<Arc<dyn Pipeline>>,
    timestamps: u32,
    submitted: AtomicBool,
}

impl VulkanCommands {
    /// The driver's buffer behind the trait object, which from now on counts as submitted.
    pub(super) fn take(
        buffer: &Arc<dyn CommandBuffer>,
        shared: &Arc<Shared>,
    ) -> Result<vk::CommandBuffer, HalError> {
        let own = buffer.as_any().downcast_ref::<Self>().filter(|own| Arc::ptr_eq(&own.shared, shared));
        let slot = own.and_then(|own| Some((own, own.slot.as_ref()?)));
        let (own, slot) =
            slot.ok_or_else(|| HalError::Usage("submit: a command buffer of another driver".to_owned()))?;
        if own.submitted.swap(true, Ordering::Relaxed) {
            return Err(HalError::Usage("submit: a command buffer was submitted twice".to_owned()));
        }
        Ok(slot.buffer)
    }

    /// Takes back a mark of `take` after a submission that the driver refused.
    pub(super) fn untake(buffer: &Arc<dyn CommandBuffer>) {
        if let Some(own) = buffer.as_any().downcast_ref::<Self>() {
            own.submitted.store(false, Ordering::Relaxed);
        }
    }
}

impl Drop for VulkanCommands {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.shared.slots.lock().push(slot);
        }
    }
}

impl CommandBuffer for VulkanCommands {
    fn timestamp(&self, slot: TimestampSlot) -> Option<u64> {
        // Before it is submitted the query is not reset yet, which is not a state that can be asked about.
        if slot.0 >= self.timestamps || !self.submitted.load(Ordering::Relaxed) {
            return None;
        }
        let own = self.slot.as_ref()?;
        let mut ticks = [0_u64];
        let flags = vk::QueryResultFlags::TYPE_64;
        // SAFETY: the query pool belongs to this slot and has this query.
        unsafe { self.shared.device.get_query_pool_results(own.queries, slot.0, &mut ticks, flags) }.ok()?;
        Some((ticks[0] as f64 * f64::from(self.shared.limits.timestamp_period)) as u64)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
