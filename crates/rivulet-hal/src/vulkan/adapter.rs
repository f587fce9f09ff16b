use super::Options;
use super::bfloat16;
use super::cache::DiskCache;
use super::device::VulkanDevice;
use super::instance::{Connection, unavailable};
use super::shared::{Limits, UNIFIED};
use crate::sync::Arc;
use crate::{AdapterClass, AdapterInfo, Backend, Device, HalError, ShaderFeatures};
use ash::{khr, nv, vk};

/// A physical device that can be opened, and how.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) connection: Arc<Connection>,
    pub(super) physical: vk::PhysicalDevice,
    pub(super) info: AdapterInfo,
    /// Queue family to use.
    pub(super) family: u32,
    /// Queues that the family has.
    pub(super) family_queues: usize,
    pub(super) limits: Limits,
    properties: vk::PhysicalDeviceProperties,
}

/// Vulkan adapters of this machine, best first: discrete, integrated, virtual, software. Empty where there is no
/// Vulkan, or no device that fits.
pub fn adapters() -> Vec<AdapterInfo> {
    let found = Connection::open(false).and_then(|connection| find(&connection));
    found.map(|found| found.into_iter().map(|found| found.info).collect()).unwrap_or_default()
}

/// Opens the adapter at `index` of [`adapters`].
///
/// # Errors
/// [`HalError::Usage`] where there is no such adapter or an option asks for what it has not;
/// [`HalError::OutOfMemory`], [`HalError::DeviceLost`].
pub fn open(index: usize, options: Options) -> Result<Arc<dyn Device>, HalError> {
    let connection = Connection::open(options.validation)?;
    let mut found = find(&connection)?;
    if index >= found.len() {
        let names: Vec<_> = found.iter().map(|found| found.info.name.as_str()).collect();
        return Err(unavailable(&format!(
            "no adapter {index}; there are {}: {}",
            names.len(),
            names.join(", ")
        )));
    }
    let mut found = found.swap_remove(index);
    if let Some(queues) = options.queues {
        if queues == 0 || queues > found.family_queues {
            let (name, most) = (&found.info.name, found.family_queues);
            return Err(unavailable(&format!("{queues} queues asked of {name}; 1 to {most} are allowed")));
        }
        found.info.queues = queues;
    }
    found.info.unified_memory &= !options.mirror;
    let cache = options.cache.map(|folder| DiskCache::new(folder, &found.properties));
    Ok(VulkanDevice::open(found, cache)?)
}

pub(super) fn find(connection: &Arc<Connection>) -> Result<Vec<Found>, HalError> {
    // SAFETY: only reads; the instance is alive.
    let devices = unsafe { connection.instance.enumerate_physical_devices() }
        .map_err(|error| unavailable(&format!("vkEnumeratePhysicalDevices: {error}")))?;
    let mut found: Vec<_> =
        devices.into_iter().filter_map(|physical| describe(connection, physical)).collect();
    found.sort_by_key(|found| match found.info.class {
        AdapterClass::Discrete => 0,
        AdapterClass::Integrated => 1,
        AdapterClass::Virtual => 2,
        AdapterClass::Cpu => 3,
    });
    Ok(found)
}

/// What the device is; `None` where it lacks something that every kernel needs.
fn describe(connection: &Arc<Connection>, physical: vk::PhysicalDevice) -> Option<Found> {
    let instance = &connection.instance;
    let mut driver = vk::PhysicalDeviceDriverProperties::default();
    let mut maintenance = vk::PhysicalDeviceMaintenance3Properties::default();
    let mut controls = vk::PhysicalDeviceFloatControlsProperties::default();
    let mut subgroups = vk::PhysicalDeviceSubgroupProperties::default();
    let mut properties = vk::PhysicalDeviceProperties2::default()
        .push_next(&mut driver)
        .push_next(&mut maintenance)
        .push_next(&mut controls)
        .push_next(&mut subgroups);
    // SAFETY: the chained structures are of version 1.2 or older, which every loader that made the instance knows.
    unsafe { instance.get_physical_device_properties2(physical, &mut properties) };
    let properties = properties.properties;
    if properties.api_version < vk::API_VERSION_1_2 {
        return None;
    }
    // SAFETY: only reads.
    let extensions = unsafe { instance.enumerate_device_extension_properties(physical) }.ok()?;
    let has = |name| extensions.iter().any(|extension| extension.extension_name_as_c_str() == Ok(name));
    if !has(khr::push_descriptor::NAME) {
        return None;
    }
    let mut timeline = vk::PhysicalDeviceTimelineSemaphoreFeatures::default();
    let mut float16 = vk::PhysicalDeviceShaderFloat16Int8Features::default();
    let mut memory_model = vk::PhysicalDeviceVulkanMemoryModelFeatures::default();
    let mut cooperative = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default();
    let mut features = vk::PhysicalDeviceFeatures2::default()
        .push_next(&mut timeline)
        .push_next(&mut float16)
        .push_next(&mut memory_model);
    if has(khr::cooperative_matrix::NAME) {
        features = features.push_next(&mut cooperative);
    }
    let mut brain = bfloat16::Features::default();
    if has(bfloat16::NAME) {
        features = features.push_next(&mut brain);
    }
    let mut processors = vk::PhysicalDeviceShaderSMBuiltinsPropertiesNV::default();
    if has(nv::shader_sm_builtins::NAME) {
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut processors);
        // SAFETY: the device has the extension of the chained structure.
        unsafe { instance.get_physical_device_properties2(physical, &mut properties) };
    }
    // SAFETY: as for the properties.
    unsafe { instance.get_physical_device_features2(physical, &mut features) };
    let features = features.features;
    if timeline.timeline_semaphore == vk::FALSE {
        return None;
    }
    let cooperative = cooperative.cooperative_matrix == vk::TRUE
        && memory_model.vulkan_memory_model == vk::TRUE
        && float16.shader_float16 == vk::TRUE
        && features.shader_int16 == vk::TRUE
        && subgroups.subgroup_size == 32
        && properties.limits.max_compute_shared_memory_size >= 48 << 10;
    let factors = if cooperative { factors(connection, physical) } else { Vec::new() };
    let cooperative_f16 = factors.contains(&vk::ComponentTypeKHR::FLOAT16);
    let cooperative_bf16 = brain.shader_type == vk::TRUE
        && brain.cooperative_matrix == vk::TRUE
        && cooperative_f16
        && factors.contains(&bfloat16::COMPONENT);
    // SAFETY: only reads.
    let families = unsafe { instance.get_physical_device_queue_family_properties(physical) };
    let family = choose_family(&families)?;
    let family_queues = families[family as usize].queue_count as usize;
    // SAFETY: only reads.
    let memory = unsafe { instance.get_physical_device_memory_properties(physical) };
    let local: u64 = memory
        .memory_heaps_as_slice()
        .iter()
        .filter(|heap| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL))
        .map(|heap| heap.size)
        .max()?;
    let unified = properties.device_type != vk::PhysicalDeviceType::DISCRETE_GPU
        && memory.memory_types_as_slice().iter().any(|kind| kind.property_flags.contains(UNIFIED));
    let dedicated = !families[family as usize].queue_flags.contains(vk::QueueFlags::GRAPHICS);
    let text = |words: Option<&std::ffi::CStr>| words.map(|words| words.to_string_lossy().into_owned());
    let name = text(properties.device_name_as_c_str().ok()).unwrap_or_default();
    let driver_name = text(driver.driver_name_as_c_str().ok()).unwrap_or_default();
    let driver_info = text(driver.driver_info_as_c_str().ok()).unwrap_or_default();
    let ticks = families[family as usize].timestamp_valid_bits;
    Some(Found {
        connection: Arc::clone(connection),
        physical,
        properties,
        info: AdapterInfo {
            name,
            backend: Backend::Vulkan,
            class: class(properties.device_type),
            driver: format!("{driver_name} {driver_info}").trim().to_owned(),
            queues: planned_queues(driver.driver_id, dedicated, family_queues),
            unified_memory: unified,
            inline_completion: false,
            memory_bytes: local,
            max_allocation: maintenance.max_memory_allocation_size.min(local),
            max_binding: u64::from(properties.limits.max_storage_buffer_range),
            float64: features.shader_float64 == vk::TRUE,
            shader: ShaderFeatures {
                int64: features.shader_int64 == vk::TRUE,
                half: float16.shader_float16 == vk::TRUE && features.shader_int16 == vk::TRUE,
                preserve_nan_f32: controls.shader_signed_zero_inf_nan_preserve_float32 == vk::TRUE,
                preserve_subnormals_f32: controls.shader_denorm_preserve_float32 == vk::TRUE,
                round_even_f16: controls.shader_rounding_mode_rte_float16 == vk::TRUE,
                cooperative_f16,
                simd_matrix: false,
                cooperative_bf16,
                processors: Some(processors.shader_sm_count).filter(|&count| count > 0),
            },
        },
        family,
        family_queues,
        limits: Limits {
            timestamp_period: if ticks == 0 { 0.0 } else { properties.limits.timestamp_period },
            push_constants: properties.limits.max_push_constants_size,
            storage_alignment: properties.limits.min_storage_buffer_offset_alignment,
            groups: properties.limits.max_compute_work_group_count,
        },
    })
}

/// The types of 16 x 16 matrices that a subgroup multiplies with sums in float32. The device has the extension.
fn factors(connection: &Connection, physical: vk::PhysicalDevice) -> Vec<vk::ComponentTypeKHR> {
    let functions = khr::cooperative_matrix::Instance::new(&connection.entry, &connection.instance);
    // SAFETY: the physical device is the instance's and has the extension; only reads.
    let shapes = unsafe { functions.get_physical_device_cooperative_matrix_properties(physical) };
    let float = vk::ComponentTypeKHR::FLOAT32;
    let fits = |shape: &&vk::CooperativeMatrixPropertiesKHR<'_>| {
        [shape.m_size, shape.n_size, shape.k_size] == [16; 3]
            && shape.a_type == shape.b_type
            && [shape.c_type, shape.result_type] == [float; 2]
            && shape.scope == vk::ScopeKHR::SUBGROUP
    };
    shapes.unwrap_or_default().iter().filter(fits).map(|shape| shape.a_type).collect()
}

fn class(kind: vk::PhysicalDeviceType) -> AdapterClass {
    match kind {
        vk::PhysicalDeviceType::DISCRETE_GPU => AdapterClass::Discrete,
        vk::PhysicalDeviceType::INTEGRATED_GPU => AdapterClass::Integrated,
        vk::PhysicalDeviceType::VIRTUAL_GPU => AdapterClass::Virtual,
        _ => AdapterClass::Cpu,
    }
}

/// A family for compute alone where there is one: its queues are scheduled by hardware, those of a graphics family
/// take turns in slices of hundreds of microseconds on some drivers.
fn choose_family(families: &[vk::QueueFamilyProperties]) -> Option<u32> {
    let computes = |family: &&(usize, &vk::QueueFamilyProperties)| {
        family.1.queue_count > 0 && family.1.queue_flags.contains(vk::QueueFlags::COMPUTE)
    };
    let graphics = |family: &(usize, &vk::QueueFamilyProperties)| {
        family.1.queue_flags.contains(vk::QueueFlags::GRAPHICS)
    };
    let best = families.iter().enumerate().filter(|family| computes(&family)).min_by_key(graphics)?;
    u32::try_from(best.0).ok()
}

/// Hardware queues worth using. Measured on an H200 (driver 580) with tiny dependent kernels: two queues of its
/// compute family serve twice what one does, eight serve less than two; several of its graphics family are 4 times
/// slower than one. Other drivers get one until they are measured.
fn planned_queues(driver: vk::DriverId, dedicated: bool, available: usize) -> usize {
    match driver {
        vk::DriverId::NVIDIA_PROPRIETARY if dedicated => available.min(2),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(flags: vk::QueueFlags, queue_count: u32) -> vk::QueueFamilyProperties {
        vk::QueueFamilyProperties { queue_flags: flags, queue_count, ..Default::default() }
    }

    #[test]
    fn a_family_for_compute_alone_comes_first() {
        let graphics = family(vk::QueueFlags::GRAPHICS | vk::QueueFlags::COMPUTE, 16);
        let copies = family(vk::QueueFlags::TRANSFER, 2);
        let compute = family(vk::QueueFlags::COMPUTE | vk::QueueFlags::TRANSFER, 8);
        assert_eq!(choose_family(&[graphics, copies, compute]), Some(2));
        assert_eq!(choose_family(&[graphics, copies]), Some(0));
        assert_eq!(choose_family(&[copies]), None);
    }

    #[test]
    fn several_queues_only_where_they_were_measured_to_help() {
        assert_eq!(planned_queues(vk::DriverId::NVIDIA_PROPRIETARY, true, 8), 2);
        assert_eq!(planned_queues(vk::DriverId::NVIDIA_PROPRIETARY, false, 16), 1);
        assert_eq!(planned_queues(vk::DriverId::MESA_LLVMPIPE, false, 1), 1);
    }
}
