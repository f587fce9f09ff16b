use super::shared::Shared;
use crate::cpu::{Mirror, check_range};
use crate::sync::Arc;
use crate::{ByteRange, HalError, Memory, MemoryUsage};
use ash::vk;
use std::ptr::NonNull;

/// One allocation of the driver with one buffer over all of it.
#[derive(Debug)]
pub(super) struct VulkanMemory {
    shared: Arc<Shared>,
    pub(super) buffer: vk::Buffer,
    memory: vk::DeviceMemory,
    size: u64,
    place: Place,
}

/// What the memory is known by.
#[derive(Debug)]
enum Place {
    Mapped {
        start: NonNull<u8>,
        coherent: bool,
    },
    /// Out of the CPU's sight; pages of its own stand for it.
    Mirrored(Mirror),
}

// SAFETY: the pointers are addresses; mapped bytes stay mapped for the life of the value, and who may touch them when
// is the contract of `Device::submit` and `Memory::begin_host_access`. Vulkan's handles may be used on any thread.
unsafe impl Send for VulkanMemory {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl Sync for VulkanMemory {}

impl VulkanMemory {
    pub(super) fn new(shared: &Arc<Shared>, bytes: u64, usage: MemoryUsage) -> Result<Self, HalError> {
        if bytes == 0 {
            return Err(HalError::Usage("allocate: 0 bytes requested; at least 1 is allowed".to_owned()));
        }
        let size = bytes.next_multiple_of(4);
        let refusal = |detail: String| HalError::OutOfMemory { requested: bytes, detail };
        if size > shared.max_allocation {
            return Err(refusal(format!("one allocation may have {} bytes", shared.max_allocation)));
        }
        let device = &shared.device;
        let info = vk::BufferCreateInfo::default()
            .size(size)
            .usage(
                vk::BufferUsageFlags::STORAGE_BUFFER
                    | vk::BufferUsageFlags::TRANSFER_SRC
                    | vk::BufferUsageFlags::TRANSFER_DST,
            )
            .sharing_mode(vk::SharingMode::EXCLUSIVE);
        // SAFETY: the device is alive.
        let buffer =
            unsafe { device.create_buffer(&info, None) }.map_err(|e| shared.memory_error(bytes, e))?;
        // SAFETY: the buffer was just made.
        let needs = unsafe { device.get_buffer_memory_requirements(buffer) };
        let attempt = (|| {
            let kind = shared
                .memory_type(needs.memory_type_bits, usage)
                .ok_or_else(|| refusal(format!("no memory type serves {usage:?}")))?;
            let info =
                vk::MemoryAllocateInfo::default().allocation_size(needs.size).memory_type_index(kind.index);
            // SAFETY: the type is one of the device's, the size what the buffer needs.
            let memory =
                unsafe { device.allocate_memory(&info, None) }.map_err(|e| shared.memory_error(bytes, e))?;
            let mapped = kind.flags.contains(vk::MemoryPropertyFlags::HOST_VISIBLE)
                && (shared.unified || usage != MemoryUsage::Device);
            let bound = Self::bind(shared, buffer, memory, size, mapped.then_some(kind.flags));
            if bound.is_err() {
                // SAFETY: bound to a buffer that is destroyed below, used by nobody.
                unsafe { device.free_memory(memory, None) };
            }
            Ok((memory, bound?))
        })();
        match attempt {
            Ok((memory, place)) => {
                Ok(Self { shared: Arc::clone(shared), buffer, memory, size: bytes, place })
            }
            Err(error) => {
                // SAFETY: nobody has seen the buffer.
                unsafe { device.destroy_buffer(buffer, None) };
                Err(error)
            }
        }
    }

    pub(super) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    fn bind(
        shared: &Shared,
        buffer: vk::Buffer,
        memory: vk::DeviceMemory,
        size: u64,
        mapped: Option<vk::MemoryPropertyFlags>,
    ) -> Result<Place, HalError> {
        let device = &shared.device;
        // SAFETY: both are fresh and fit each other.
        unsafe { device.bind_buffer_memory(buffer, memory, 0) }.map_err(|e| shared.memory_error(size, e))?;
        let Some(flags) = mapped else { return Mirror::new(size).map(Place::Mirrored) };
        // SAFETY: the memory is host-visible and not mapped yet.
        let start = unsafe { device.map_memory(memory, 0, vk::WHOLE_SIZE, vk::MemoryMapFlags::empty()) };
        let start = start.map_err(|error| shared.memory_error(size, error))?;
        let start = NonNull::new(start.cast())
            .ok_or_else(|| shared.error("vkMapMemory", vk::Result::ERROR_UNKNOWN))?;
        Ok(Place::Mapped { start, coherent: flags.contains(vk::MemoryPropertyFlags::HOST_COHERENT) })
    }

    /// Runs `call` on the whole mapping where the driver does not keep it coherent by itself. Whole: the ends of a
    /// smaller range would have to be rounded to the device's atoms.
    fn synchronise(
        &self,
        name: &str,
        call: impl FnOnce(&ash::Device, &[vk::MappedMemoryRange<'_>]) -> ash::prelude::VkResult<()>,
    ) -> Result<(), HalError> {
        if !matches!(self.place, Place::Mapped { coherent: false, .. }) {
            return Ok(());
        }
        let range = vk::MappedMemoryRange::default().memory(self.memory).offset(0).size(vk::WHOLE_SIZE);
        call(&self.shared.device, &[range]).map_err(|error| self.shared.error(name, error))
    }
}

impl Drop for VulkanMemory {
    fn drop(&mut self) {
        // SAFETY: the runtime lets go of a memory only when every submission that names it is complete.
        unsafe {
            self.shared.device.destroy_buffer(self.buffer, None);
            // Unmaps too.
            self.shared.device.free_memory(self.memory, None);
        }
    }
}

impl Memory for VulkanMemory {
    fn size(&self) -> u64 {
        self.size
    }

    fn address(&self) -> usize {
        match &self.place {
            Place::Mapped { start, .. } => start.addr().get(),
            Place::Mirrored(mirror) => mirror.start().addr().get(),
        }
    }

    fn host_ptr(&self) -> Option<NonNull<u8>> {
        match self.place {
            Place::Mapped { start, .. } => Some(start),
            Place::Mirrored(_) => None,
        }
    }

    fn mirror(&self) -> Option<NonNull<u8>> {
        match &self.place {
            Place::Mapped { .. } => None,
            Place::Mirrored(mirror) => Some(mirror.start()),
        }
    }

    fn release_mirror(&self, range: ByteRange) -> Result<(), HalError> {
        check_range(range, self.size, "release_mirror")?;
        if let Place::Mirrored(mirror) = &self.place {
            mirror.release(range);
        }
        Ok(())
    }

    fn begin_host_access(&self, range: ByteRange, _write: bool) -> Result<(), HalError> {
        check_range(range, self.size, "begin_host_access")?;
        // SAFETY: the range is of mapped memory of this device.
        self.synchronise("vkInvalidateMappedMemoryRanges", |device, ranges| unsafe {
            device.invalidate_mapped_memory_ranges(ranges)
        })
    }

    fn end_host_access(&self, range: ByteRange, write: bool) -> Result<(), HalError> {
        check_range(range, self.size, "end_host_access")?;
        if !write {
            return Ok(());
        }
        // SAFETY: the range is of mapped memory of this device.
        self.synchronise("vkFlushMappedMemoryRanges", |device, ranges| unsafe {
            device.flush_mapped_memory_ranges(ranges)
        })
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
