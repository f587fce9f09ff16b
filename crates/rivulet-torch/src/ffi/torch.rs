//! The C++ adaptor's entry points, under names that the library exports.

use super::error::{Failure, enter};
use super::life;
#[cfg(adaptor)]
use std::ffi::CStr;
use std::ffi::c_char;

#[cfg(adaptor)]
unsafe extern "C" {
    fn rivulet_adaptor_register(accelerator: i32) -> i32;
    fn rivulet_adaptor_last_error() -> *const c_char;
    fn rivulet_adaptor_built_for() -> *const c_char;
}

#[cfg(adaptor)]
fn register(accelerator: i32) -> Result<(), Failure> {
    // SAFETY: the adaptor catches its exceptions; PyTorch is loaded, since this library links to it.
    let status = unsafe { rivulet_adaptor_register(accelerator) };
    if status == super::error::OK {
        return Ok(());
    }
    // SAFETY: the adaptor answers a C string of this thread.
    let text = unsafe { CStr::from_ptr(rivulet_adaptor_last_error()) };
    Err(Failure::new(status, text.to_string_lossy()))
}

#[cfg(not(adaptor))]
fn register(_accelerator: i32) -> Result<(), Failure> {
    Err(Failure::new(
        super::error::ERROR,
        "this library was built without PyTorch; build it with RIVULET_TORCH_DIR=<folder of the torch package>",
    ))
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_torch_register(accelerator: i32) -> i32 {
    enter(|| {
        life::install_hooks();
        register(accelerator)
    })
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_torch_built_for() -> *const c_char {
    #[cfg(adaptor)]
    // SAFETY: it answers a string literal.
    return unsafe { rivulet_adaptor_built_for() };
    #[cfg(not(adaptor))]
    c"".as_ptr()
}
