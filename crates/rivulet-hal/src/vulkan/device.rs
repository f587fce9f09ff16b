use super::adapter::Found;
use super::bfloat16;
use super::cache::DiskCache;
use super::command::VulkanRecorder;
use super::memory::VulkanMemory;
use super::pipeline::VulkanPipeline;
use super::queue::VulkanQueue;
use super::shared::Shared;
use super::spare::Shape;
use super::timeline::VulkanTimeline;
use crate::spin::SpinTime;
use crate::sync::{Arc, Mutex, Rank};
use crate::{
    AdapterInfo, Device, HalError, Memory, MemoryUsage, Pipeline, PipelineDesc, QueueIndex, Recorder,
    Submission, SubmitFailure, Timeline,
};
use ash::{khr, vk};
use std::sync::OnceLock;

/// An opened adapter.
#[derive(Debug)]
pub(super) struct VulkanDevice {
    info: AdapterInfo,
    queues: Vec<VulkanQueue>,
    shared: Arc<Shared>,
}

impl VulkanDevice {
    pub(super) fn open(found: Found, disk: Option<DiskCache>) -> Result<Arc<Self>, HalError> {
        let Found { connection, physical, info, family, limits, .. } = found;
        let instance = &connection.instance;
        let priorities = vec![1.0; info.queues];
        let queues =
            [vk::DeviceQueueCreateInfo::default().queue_family_index(family).queue_priorities(&priorities)];
        let mut extensions = vec![khr::push_descriptor::NAME.as_ptr()];
        if info.shader.cooperative_f16 {
            extensions.push(khr::cooperative_matrix::NAME.as_ptr());
        }
        if info.shader.cooperative_bf16 {
            extensions.push(bfloat16::NAME.as_ptr());
        }
        let flag = |on: bool| if on { vk::TRUE } else { vk::FALSE };
        let features = vk::PhysicalDeviceFeatures {
            shader_int16: flag(info.shader.half),
            shader_int64: flag(info.shader.int64),
            shader_float64: flag(info.float64),
            ..Default::default()
        };
        let mut timeline = vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
        let mut float16 =
            vk::PhysicalDeviceShaderFloat16Int8Features::default().shader_float16(info.shader.half);
        let mut memory_model = vk::PhysicalDeviceVulkanMemoryModelFeatures::default()
            .vulkan_memory_model(info.shader.cooperative_f16);
        let mut cooperative =
            vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
        let mut bfloat16 = bfloat16::Features::of_matrices();
        let mut create = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&extensions)
            .enabled_features(&features)
            .push_next(&mut timeline)
            .push_next(&mut float16)
            .push_next(&mut memory_model);
        if info.shader.cooperative_f16 {
            create = create.push_next(&mut cooperative);
        }
        if info.shader.cooperative_bf16 {
            create = create.push_next(&mut bfloat16);
        }
        let opening = |error: vk::Result| match error {
            vk::Result::ERROR_OUT_OF_HOST_MEMORY | vk::Result::ERROR_OUT_OF_DEVICE_MEMORY => {
                HalError::OutOfMemory { requested: 0, detail: format!("opening {}: {error}", info.name) }
            }
            vk::Result::ERROR_DEVICE_LOST => {
                HalError::DeviceLost { reason: format!("opening {}: {error}", info.name) }
            }
            _ => super::instance::unavailable(&format!("opening {}: {error}", info.name)),
        };
        let shape = Shape { physical, family, queues: info.queues };
        let device = match connection.spares.take(shape) {
            Some(device) => device,
            // SAFETY: the physical device is the instance's; only features and extensions that it offers are enabled.
            None => unsafe { instance.create_device(physical, &create, None) }.map_err(opening)?,
        };
        let kept = disk.as_ref().map(DiskCache::load).unwrap_or_default();
        let make = |data: &[u8]| {
            let info = vk::PipelineCacheCreateInfo::default().initial_data(data);
            // SAFETY: the device is alive; the data is what the same driver gave out, as its key and checksum say.
            unsafe { device.create_pipeline_cache(&info, None) }
        };
        let cache = make(&kept).or_else(|_| make(&[])).unwrap_or(vk::PipelineCache::null());
        // SAFETY: only reads.
        let memory = unsafe { instance.get_physical_device_memory_properties(physical) };
        let push_descriptor = khr::push_descriptor::Device::new(instance, &device);
        let handles = (0..info.queues).map(|index| {
            // SAFETY: the device was made with this many queues of this family.
            VulkanQueue::new(unsafe { device.get_device_queue(family, index as u32) })
        });
        let queues = handles.collect();
        let shared = Arc::new(Shared {
            push_descriptor,
            cache,
            disk,
            shape,
            limits,
            max_allocation: info.max_allocation,
            max_binding: info.max_binding,
            spin: SpinTime::new(),
            slots: Mutex::new(Rank::DRIVER, Vec::new()),
            memory,
            unified: info.unified_memory,
            lost: OnceLock::new(),
            device,
            connection,
        });
        Ok(Arc::new(Self { info, queues, shared }))
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn handle(&self) -> vk::Device {
        self.shared.device.handle()
    }

    fn queue(&self, queue: QueueIndex) -> Result<&VulkanQueue, HalError> {
        self.queues.get(queue.0).ok_or_else(|| {
            HalError::Usage(format!("queue {}: the device has queues 0..{}", queue.0, self.queues.len()))
        })
    }
}

impl Drop for VulkanDevice {
    fn drop(&mut self) {
        // SAFETY: the device is alive; a lost one returns at once.
        let _ = unsafe { self.shared.device.device_wait_idle() };
        self.queues.iter().for_each(VulkanQueue::clear);
        self.save_pipelines();
    }
}

impl Device for VulkanDevice {
    fn info(&self) -> &AdapterInfo {
        &self.info
    }

    fn operand_alignment(&self) -> u64 {
        self.shared.limits.storage_alignment
    }

    fn allocate(&self, bytes: u64, usage: MemoryUsage) -> Result<Arc<dyn Memory>, HalError> {
        self.shared.check()?;
        Ok(Arc::new(VulkanMemory::new(&self.shared, bytes, usage)?))
    }

    fn timeline(&self) -> Result<Arc<dyn Timeline>, HalError> {
        self.shared.check()?;
        Ok(Arc::new(VulkanTimeline::new(&self.shared)?))
    }

    fn pipeline(&self, desc: &PipelineDesc) -> Result<Arc<dyn Pipeline>, HalError> {
        self.shared.check()?;
        let pipeline = VulkanPipeline::new(&self.shared, desc)?;
        if let Some(disk) = &self.shared.disk {
            disk.note(&self.shared);
        }
        Ok(Arc::new(pipeline))
    }

    fn save_pipelines(&self) {
        if let Some(disk) = &self.shared.disk
            && self.shared.check().is_ok()
        {
            disk.save(&self.shared);
        }
    }

    fn is_validated(&self) -> bool {
        self.shared.connection.is_validated()
    }

    fn recorder(&self, queue: QueueIndex) -> Result<Box<dyn Recorder>, HalError> {
        self.shared.check()?;
        self.queue(queue)?;
        Ok(Box::new(VulkanRecorder::new(&self.shared)?))
    }

    fn submit(&self, queue: QueueIndex, work: Vec<Submission>) -> Result<(), SubmitFailure> {
        self.queue(queue).map_err(|error| SubmitFailure { accepted: 0, error })?.submit(&self.shared, work)
    }
}
