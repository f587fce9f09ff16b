use super::Options;
use super::device::MetalDevice;
use super::objc::Metal;
use crate::sync::Arc;
use crate::{AdapterClass, AdapterInfo, Backend, Device, HalError, ShaderFeatures};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSProcessInfo;
use objc2_metal::{MTLCopyAllDevices, MTLDevice, MTLGPUFamily};

/// Apple GPUs of this machine that have Metal 3: the M1 and newer. Empty where there is none.
pub fn adapters() -> Vec<AdapterInfo> {
    find().into_iter().map(|(info, _)| info).collect()
}

/// Opens the adapter at `index` of [`adapters`].
///
/// # Errors
/// [`HalError::Usage`] where there is no such adapter or an option asks for what is not allowed;
/// [`HalError::OutOfMemory`].
pub fn open(index: usize, options: &Options) -> Result<Arc<dyn Device>, HalError> {
    let (queues, encoders) = options.checked()?;
    let mut found = find();
    if index >= found.len() {
        let names: Vec<_> = found.iter().map(|(info, _)| info.name.as_str()).collect();
        return Err(HalError::Usage(format!(
            "Metal: no adapter {index}; there are {}: {}",
            names.len(),
            names.join(", ")
        )));
    }
    let (mut info, device) = found.swap_remove(index);
    info.queues = queues;
    Ok(MetalDevice::open(Metal::new(device), info, encoders)?)
}

type Found = (AdapterInfo, Retained<ProtocolObject<dyn MTLDevice>>);

fn find() -> Vec<Found> {
    autoreleasepool(|_| {
        MTLCopyAllDevices().iter().filter_map(|device| Some((describe(&device)?, device))).collect()
    })
}

/// What the device is; `None` where it lacks something that every kernel needs. Intel and AMD GPUs do: their memory is
/// not all shared, and they have no 64-bit integers to rely on.
fn describe(device: &ProtocolObject<dyn MTLDevice>) -> Option<AdapterInfo> {
    let fits = device.supportsFamily(MTLGPUFamily::Metal3)
        && device.supportsFamily(MTLGPUFamily::Apple7)
        && device.hasUnifiedMemory();
    if !fits {
        return None;
    }
    let system = NSProcessInfo::processInfo().operatingSystemVersionString();
    let working_set = device.recommendedMaxWorkingSetSize();
    let largest = device.maxBufferLength() as u64;
    Some(AdapterInfo {
        name: device.name().to_string(),
        backend: Backend::Metal,
        class: AdapterClass::Integrated,
        driver: format!("Metal on macOS, {system}"),
        queues: 1,
        unified_memory: true,
        inline_completion: false,
        memory_bytes: working_set,
        max_allocation: largest.min(working_set),
        // Kernels count bytes of a binding in 32 bits.
        max_binding: largest.min(u64::from(u32::MAX) & !15),
        float64: false,
        shader: ShaderFeatures {
            int64: true,
            half: true,
            // With math mode Safe.
            preserve_nan_f32: true,
            preserve_subnormals_f32: false,
            round_even_f16: true,
            cooperative_f16: false,
            cooperative_bf16: false,
            // From Apple7 on.
            simd_matrix: true,
            processors: None,
        },
    })
}
