//! Devices that were closed, for the next who opens the same.
//!
//! Destroying one can stop the process for good with NVIDIA's driver (seen with 580.159.04): under a lock of the driver
//! it waits for a thread of the driver's to end; that thread waits for a spin lock, which any thread that has used
//! Vulkan takes at its own end, while it waits for the first lock. Nobody can keep other threads from ending meanwhile:
//! what `std::thread::scope` returns from is not their end yet. So a closed device is kept. Its work is done and its
//! objects are gone; what stays is what the driver needs to have it open.

use crate::sync::{Mutex, Rank};
use ash::vk;

/// What two openings have to agree in to share a device; the rest follows from the physical device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) physical: vk::PhysicalDevice,
    pub(super) family: u32,
    pub(super) queues: usize,
}

/// Closed devices of one instance.
pub(super) struct Spares(Mutex<Vec<(Shape, ash::Device)>>);

impl Spares {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Rank::DRIVER, Vec::new()))
    }

    /// A closed device of this shape that still works.
    pub(super) fn take(&self, shape: Shape) -> Option<ash::Device> {
        loop {
            let mut spares = self.0.lock();
            let place = spares.iter().position(|(found, _)| *found == shape)?;
            let (_, device) = spares.swap_remove(place);
            drop(spares);
            // SAFETY: the device is alive, and nobody else has it.
            if unsafe { device.device_wait_idle() }.is_ok() {
                return Some(device);
            }
        }
    }

    /// Keeps a device of which no object is left.
    pub(super) fn put(&self, shape: Shape, device: ash::Device) {
        self.0.lock().push((shape, device));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{adapter, device::VulkanDevice, instance::Connection};
    use crate::sync::Arc;

    /// An opened device without validation; `None` where there is no Vulkan.
    fn open() -> Option<Arc<VulkanDevice>> {
        let connection = Connection::open(false).ok()?;
        let found = adapter::find(&connection).ok()?.into_iter().next()?;
        VulkanDevice::open(found, None).ok()
    }

    #[test]
    fn a_closed_device_is_the_next_ones_and_an_open_one_is_not() {
        let Some(first) = open() else { return };
        let second = open().unwrap();
        let closed = second.handle();
        assert_ne!(first.handle(), closed);
        drop(second);
        let (third, fourth) = (open().unwrap(), open().unwrap());
        assert_eq!(third.handle(), closed);
        assert!(fourth.handle() != closed && fourth.handle() != first.handle());
    }
}
