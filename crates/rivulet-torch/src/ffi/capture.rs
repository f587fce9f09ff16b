//! Captures, behind `torch.mps.profiler`.

use super::answer;
use super::error::{Failure, INVALID, enter};
use rivulet::{Device, config};
use rivulet_hal::Backend;
use std::ffi::{CStr, c_char};

/// The device, opened where it is one that may have captures: asking opens none of the others.
fn device() -> Result<Option<&'static Device>, Failure> {
    if let Some(device) = Device::global_if_open() {
        device.check()?;
        return Ok(Some(device));
    }
    let is_metal = Device::planned(&*config::env())?.backend == Backend::Metal;
    Ok(if is_metal { Some(Device::global()?) } else { None })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `enabled` and `recording` are valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_capture_state(enabled: *mut i32, recording: *mut i32) -> i32 {
    enter(|| {
        let device = device()?;
        // SAFETY: by contract.
        *unsafe { answer(enabled, "enabled") }? = i32::from(device.is_some_and(Device::can_capture));
        // SAFETY: by contract.
        *unsafe { answer(recording, "recording") }? = i32::from(device.is_some_and(Device::is_capturing));
        Ok(())
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `name` is a C string.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_capture_start(name: *const c_char) -> i32 {
    enter(|| {
        if name.is_null() {
            return Err(Failure::new(INVALID, "name is null"));
        }
        // SAFETY: by contract, and not null.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        if name.is_empty() {
            return Err(Failure::new(
                INVALID,
                "the name of a capture is empty; it becomes the name of a file",
            ));
        }
        Device::global()?.start_capture(&name)?;
        Ok(())
    })
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_capture_stop() -> i32 {
    enter(|| {
        if let Some(device) = Device::global_if_open() {
            device.stop_capture()?;
        }
        Ok(())
    })
}
