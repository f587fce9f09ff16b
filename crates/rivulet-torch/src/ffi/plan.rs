//! What plans need beside ops: the GIL given up for a whole call, and their Python surface.

use super::answer;
use super::error::{ERROR, Failure, enter, enter_or};
use crate::python;
use rivulet::blocking::WaitHooks;
use std::ffi::{c_char, c_void};

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_gil_release() -> u64 {
    enter_or(0, || python::Hooks.enter() as u64)
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_gil_retake(token: u64) {
    enter_or((), || python::Hooks.leave(token as usize));
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_gil_await_turn() {
    enter_or((), python::await_turn);
}

#[cfg(adaptor)]
unsafe extern "C" {
    fn rivulet_adaptor_plan_surface(torch_python: *const c_char, missing: *mut *const c_char) -> *mut c_void;
}

/// A new reference, or null with a Python error set.
///
/// # Safety
/// - `torch_python` is a C string, and the GIL is held.
#[cfg(adaptor)]
unsafe fn surface(torch_python: *const c_char) -> Result<*mut c_void, Failure> {
    let mut missing = std::ptr::null();
    // SAFETY: by contract; `missing` is valid for the call.
    let made = unsafe { rivulet_adaptor_plan_surface(torch_python, &mut missing) };
    if missing.is_null() {
        return Ok(made);
    }
    // SAFETY: the adaptor answers a C string that outlives the call.
    let name = unsafe { std::ffi::CStr::from_ptr(missing) }.to_string_lossy();
    Err(Failure::new(ERROR, format!("plans need {name}, which is not in this process")))
}

#[cfg(not(adaptor))]
unsafe fn surface(_torch_python: *const c_char) -> Result<*mut c_void, Failure> {
    Err(Failure::new(ERROR, "this library was built without PyTorch"))
}

/// See `rivulet.h`.
///
/// # Safety
/// - `torch_python` is a C string, `out` is valid for writes, and the GIL is held.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_plan_surface(torch_python: *const c_char, out: *mut *mut c_void) -> i32 {
    enter(|| {
        // SAFETY: by contract.
        let out = unsafe { answer(out, "out") }?;
        // SAFETY: by contract.
        *out = unsafe { surface(torch_python) }?;
        Ok(())
    })
}
