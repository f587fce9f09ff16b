use super::adapter::{Found, Limits};
use super::command::{Slot, VulkanRecorder};
use super::instance::Connection;
use super::memory::{UNIFIED, VulkanMemory};
use super::pipeline::VulkanPipeline;
use super::queue::VulkanQueue;
use super::timeline::{SpinTime, VulkanTimeline};
use crate::sync::{Arc, Mutex, Rank};
use crate::{
    AdapterInfo, Device, HalError, Memory, MemoryUsage, Pipeline, PipelineDesc, QueueIndex, Recorder,
    Submission, SubmitFailure, Timeline,
};
use ash::{khr, vk};
use std::sync::OnceLock;

/// What every object of a device needs. The driver's device goes when the last of them does.
pub(super) struct Shared {
    pub(super) device: ash::Device,
    pub(super) push_descriptor: khr::push_descriptor::Device,
    pub(super) cache: vk::PipelineCache,
    pub(super) family: u32,
    pub(super) limits: Limits,
    pub(super) max_allocation: u64,
    pub(super) max_binding: u64,
    pub(super) spin: SpinTime,
    /// Idle command pools.
    pub(super) slots: Mutex<Vec<Slot>>,
    memory: vk::PhysicalDeviceMemoryProperties,
    unified: bool,
    /// Why the device is lost, once it is.
    lost: OnceLock<String>,
    _connection: Arc<Connection>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("limits", &self.limits)
            .field("lost", &self.lost.get())
            .finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let slots = std::mem::take(&mut *self.slots.lock());
        slots.iter().for_each(|slot| slot.destroy(self));
        // SAFETY: every object of the device held a reference to this value, so all are gone.
        unsafe {
            self.device.destroy_pipeline_cache(self.cache, None);
            self.device.destroy_device(None);
        }
    }
}

/// A memory type and what it can do.
pub(super) struct MemoryType {
    pub(super) index: u32,
    pub(super) flags: vk::MemoryPropertyFlags,
}

impl Shared {
    /// The error of a lost device once it is lost.
    pub(super) fn check(&self) -> Result<(), HalError> {
        match self.lost.get() {
            Some(reason) => Err(HalError::DeviceLost { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// What an error of the driver means. A lost device is remembered.
    pub(super) fn error(&self, call: &str, error: vk::Result) -> HalError {
        match error {
            vk::Result::ERROR_DEVICE_LOST => {
                let reason = self.lost.get_or_init(|| format!("{call}: {error}"));
                HalError::DeviceLost { reason: reason.clone() }
            }
            vk::Result::ERROR_OUT_OF_HOST_MEMORY | vk::Result::ERROR_OUT_OF_DEVICE_MEMORY => {
                HalError::OutOfMemory { requested: 0, detail: format!("{call}: {error}") }
            }
            _ => HalError::Usage(format!("{call}: {error}")),
        }
    }

    /// As [`Shared::error`], for an allocation: every refusal but a lost device is a lack of memory.
    pub(super) fn memory_error(&self, requested: u64, error: vk::Result) -> HalError {
        match self.error("allocating", error) {
            HalError::DeviceLost { reason } => HalError::DeviceLost { reason },
            _ => HalError::OutOfMemory { requested, detail: format!("the driver says {error}") },
        }
    }

    /// The best of the allowed memory types.
    pub(super) fn memory_type(&self, allowed: u32, usage: MemoryUsage) -> Option<MemoryType> {
        use vk::MemoryPropertyFlags as Flags;
        let visible = Flags::HOST_VISIBLE | Flags::HOST_COHERENT;
        let wishes: &[Flags] = match usage {
            MemoryUsage::Device if self.unified => &[UNIFIED, Flags::DEVICE_LOCAL | Flags::HOST_VISIBLE],
            MemoryUsage::Device => &[Flags::DEVICE_LOCAL],
            MemoryUsage::Upload => &[visible],
            MemoryUsage::Readback => {
                &[visible | Flags::HOST_CACHED, Flags::HOST_VISIBLE | Flags::HOST_CACHED, visible]
            }
        };
        wishes.iter().find_map(|&wish| {
            let fits = |(index, kind): &(usize, &vk::MemoryType)| {
                allowed & (1 << index) != 0
                    && kind.property_flags.contains(wish)
                    // Memory of AMD's and protected types is not for ordinary use.
                    && !kind.property_flags.intersects(Flags::PROTECTED | Flags::DEVICE_COHERENT_AMD)
                    // A discrete card's own memory is left for what only the device touches.
                    && (usage == MemoryUsage::Device || self.unified || !kind.property_flags.contains(Flags::DEVICE_LOCAL))
            };
            let types = self.memory.memory_types_as_slice();
            let (index, kind) = types.iter().enumerate().find(fits)?;
            Some(MemoryType { index: index as u32, flags: kind.property_flags })
        })
    }
}

/// An opened adapter.
#[derive(Debug)]
pub(super) struct VulkanDevice {
    info: AdapterInfo,
    queues: Vec<VulkanQueue>,
    shared: Arc<Shared>,
}

impl VulkanDevice {
    pub(super) fn open(found: Found) -> Result<Arc<Self>, HalError> {
        let Found { connection, physical, info, family, limits, .. } = found;
        let instance = &connection.instance;
        let priorities = vec![1.0; info.queues];
        let queues =
            [vk::DeviceQueueCreateInfo::default().queue_family_index(family).queue_priorities(&priorities)];
        let extensions = [khr::push_descriptor::NAME.as_ptr()];
        let flag = |on: bool| if on { vk::TRUE } else { vk::FALSE };
        let features = vk::PhysicalDeviceFeatures {
            shader_int16: flag(limits.int16),
            shader_int64: flag(limits.int64),
            shader_float64: flag(info.float64),
            ..Default::default()
        };
        let mut timeline = vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
        let mut float16 =
            vk::PhysicalDeviceShaderFloat16Int8Features::default().shader_float16(limits.float16);
        let mut storage16 =
            vk::PhysicalDevice16BitStorageFeatures::default().storage_buffer16_bit_access(limits.storage16);
        let create = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&extensions)
            .enabled_features(&features)
            .push_next(&mut timeline)
            .push_next(&mut float16)
            .push_next(&mut storage16);
        let opening = |error: vk::Result| match error {
            vk::Result::ERROR_OUT_OF_HOST_MEMORY | vk::Result::ERROR_OUT_OF_DEVICE_MEMORY => {
                HalError::OutOfMemory { requested: 0, detail: format!("opening {}: {error}", info.name) }
            }
            vk::Result::ERROR_DEVICE_LOST => {
                HalError::DeviceLost { reason: format!("opening {}: {error}", info.name) }
            }
            _ => super::instance::unavailable(&format!("opening {}: {error}", info.name)),
        };
        // SAFETY: the physical device is the instance's; only features and extensions that it offers are enabled.
        let device = unsafe { instance.create_device(physical, &create, None) }.map_err(opening)?;
        // SAFETY: the device is alive.
        let cache = unsafe { device.create_pipeline_cache(&vk::PipelineCacheCreateInfo::default(), None) };
        let cache = cache.unwrap_or(vk::PipelineCache::null());
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
            family,
            limits,
            max_allocation: info.max_allocation,
            max_binding: info.max_binding,
            spin: SpinTime::new(),
            slots: Mutex::new(Rank::DRIVER, Vec::new()),
            memory,
            unified: info.unified_memory,
            lost: OnceLock::new(),
            device,
            _connection: connection,
        });
        Ok(Arc::new(Self { info, queues, shared }))
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
    }
}

impl Device for VulkanDevice {
    fn info(&self) -> &AdapterInfo {
        &self.info
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
        Ok(Arc::new(VulkanPipeline::new(&self.shared, desc)?))
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
