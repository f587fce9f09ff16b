use ash::prelude::VkResult;
use ash::vk;

/// A command pool with its one buffer, and a query pool once one was needed. Used by one thread at a time and reset as
/// a whole, which is cheaper than resetting buffers of a shared pool.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) pool: vk::CommandPool,
    pub(super) buffer: vk::CommandBuffer,
    /// Null until a timestamp was asked for.
    pub(super) queries: vk::QueryPool,
}

impl Slot {
    pub(super) fn new(device: &ash::Device, family: u32) -> VkResult<Self> {
        let info = vk::CommandPoolCreateInfo::default()
            .flags(vk::CommandPoolCreateFlags::TRANSIENT)
            .queue_family_index(family);
        // SAFETY: the family is the one that the device was made with.
        let pool = unsafe { device.create_command_pool(&info, None) }?;
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(pool)
            .level(vk::CommandBufferLevel::PRIMARY)
            .command_buffer_count(1);
        // SAFETY: the pool was just made.
        match unsafe { device.allocate_command_buffers(&info) } {
            Ok(buffers) => Ok(Self { pool, buffer: buffers[0], queries: vk::QueryPool::null() }),
            Err(error) => {
                // SAFETY: nobody has seen the pool.
                unsafe { device.destroy_command_pool(pool, None) };
                Err(error)
            }
        }
    }

    /// Only for slots that no unfinished submission uses.
    pub(super) fn destroy(&self, device: &ash::Device) {
        // SAFETY: as the contract says; a null query pool is ignored.
        unsafe {
            device.destroy_query_pool(self.queries, None);
            device.destroy_command_pool(self.pool, None);
        }
    }
}
