//! `VK_KHR_shader_bfloat16`, which the bindings do not have yet. Names and numbers from Vulkan's registry, version 1.4.311.

use ash::vk;
use std::ffi::{CStr, c_void};

/// The extension.
pub(super) const NAME: &CStr = c"VK_KHR_shader_bfloat16";

/// `VK_COMPONENT_TYPE_BFLOAT16_KHR`
pub(super) const COMPONENT: vk::ComponentTypeKHR = vk::ComponentTypeKHR::from_raw(1_000_141_000);

/// `VkPhysicalDeviceShaderBfloat16FeaturesKHR`
#[repr(C)]
#[derive(Debug)]
pub(super) struct Features {
    s_type: vk::StructureType,
    p_next: *mut c_void,
    pub(super) shader_type: vk::Bool32,
    dot_product: vk::Bool32,
    pub(super) cooperative_matrix: vk::Bool32,
}

impl Features {
    /// Cooperative matrices of the type, asked for.
    pub(super) fn of_matrices() -> Self {
        Self { shader_type: vk::TRUE, cooperative_matrix: vk::TRUE, ..Self::default() }
    }
}

impl Default for Features {
    fn default() -> Self {
        Self {
            s_type: vk::StructureType::from_raw(1_000_141_000),
            p_next: std::ptr::null_mut(),
            shader_type: vk::FALSE,
            dot_product: vk::FALSE,
            cooperative_matrix: vk::FALSE,
        }
    }
}

// SAFETY: the structure begins with its type and the next one's address, as every one that may be chained, and the
// registry allows it in both chains.
unsafe impl vk::ExtendsPhysicalDeviceFeatures2 for Features {}
// SAFETY: as above.
unsafe impl vk::ExtendsDeviceCreateInfo for Features {}
