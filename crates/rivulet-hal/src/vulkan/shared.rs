use super::cache::DiskCache;
use super::instance::Connection;
use super::slot::Slot;
use super::spare::Shape;
use crate::spin::SpinTime;
use crate::sync::{Arc, Mutex};
use crate::{HalError, MemoryUsage};
use ash::{khr, vk};
use std::sync::OnceLock;

/// Memory that the CPU reads as fast as its own, and the device too.
pub(super) const UNIFIED: vk::MemoryPropertyFlags = vk::MemoryPropertyFlags::from_raw(
    vk::MemoryPropertyFlags::DEVICE_LOCAL.as_raw()
        | vk::MemoryPropertyFlags::HOST_VISIBLE.as_raw()
        | vk::MemoryPropertyFlags::HOST_COHERENT.as_raw()
        | vk::MemoryPropertyFlags::HOST_CACHED.as_raw(),
);

/// What is asked for often.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Nanoseconds of a tick of the device's clock; 0 where it has none.
    pub(super) timestamp_period: f32,
    pub(super) push_constants: u32,
    pub(super) storage_alignment: u64,
    pub(super) groups: [u32; 3],
}

/// What every object of a device needs. The driver's device is closed when the last of them goes.
pub(super) struct Shared {
    pub(super) device: ash::Device,
    pub(super) push_descriptor: khr::push_descriptor::Device,
    pub(super) cache: vk::PipelineCache,
    pub(super) disk: Option<DiskCache>,
    pub(super) shape: Shape,
    pub(super) limits: Limits,
    pub(super) max_allocation: u64,
    pub(super) max_binding: u64,
    pub(super) spin: SpinTime,
    /// Idle command pools.
    pub(super) slots: Mutex<Vec<Slot>>,
    pub(super) memory: vk::PhysicalDeviceMemoryProperties,
    pub(super) unified: bool,
    /// Why the device is lost, once it is.
    pub(super) lost: OnceLock<String>,
    /// The device's own; outlives it.
    pub(super) connection: Arc<Connection>,
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
        slots.iter().for_each(|slot| slot.destroy(&self.device));
        // SAFETY: every object of the device held a reference to this value, so all are gone.
        unsafe { self.device.destroy_pipeline_cache(self.cache, None) };
        // A lost device is neither destroyed nor of use to anybody.
        if self.connection.is_validated() {
            // SAFETY: as above. The layer tells now what was left behind.
            unsafe { self.device.destroy_device(None) };
        } else if self.lost.get().is_none() {
            self.connection.spares.put(self.shape, self.device.clone());
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
        let types = self.memory.memory_types_as_slice();
        let find = |wish: Flags, unwanted: Flags| {
            let fits = |(index, kind): &(usize, &vk::MemoryType)| {
                allowed & (1 << index) != 0
                    && kind.property_flags.contains(wish)
                    // Memory of AMD's and protected types is not for ordinary use.
                    && !kind.property_flags.intersects(unwanted | Flags::PROTECTED | Flags::DEVICE_COHERENT_AMD)
            };
            let (index, kind) = types.iter().enumerate().find(fits)?;
            Some(MemoryType { index: index as u32, flags: kind.property_flags })
        };
        // A card's own memory is left for what only the device touches, where there is other.
        let staging = usage != MemoryUsage::Device && !self.unified;
        let elsewhere = staging.then(|| wishes.iter().find_map(|&wish| find(wish, Flags::DEVICE_LOCAL)));
        elsewhere.flatten().or_else(|| wishes.iter().find_map(|&wish| find(wish, Flags::empty())))
    }
}
