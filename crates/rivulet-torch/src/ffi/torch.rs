//! The C++ adaptor's entry points, under names that the library exports.

use super::error::{Failure, enter};
use super::life::{self, give_text};
use serde_json::Value;
#[cfg(adaptor)]
use serde_json::json;
use std::ffi::c_char;
#[cfg(adaptor)]
use std::ffi::{CStr, c_void};

#[cfg(adaptor)]
type Visitor = unsafe extern "C" fn(
    *mut c_void,
    *const c_char,
    *const c_char,
    *const c_char,
    *const c_char,
    *const c_char,
    i32,
);

#[cfg(adaptor)]
unsafe extern "C" {
    fn rivulet_adaptor_register(accelerator: i32) -> i32;
    fn rivulet_adaptor_look_again(op: *const c_char) -> i32;
    fn rivulet_adaptor_make_room(op: *const c_char) -> i32;
    fn rivulet_adaptor_displaced(each: Visitor, context: *mut c_void) -> i32;
    fn rivulet_adaptor_last_error() -> *const c_char;
    fn rivulet_adaptor_built_for() -> *const c_char;
}

#[cfg(adaptor)]
fn outcome(status: i32) -> Result<(), Failure> {
    if status == super::error::OK {
        return Ok(());
    }
    // SAFETY: the adaptor answers a C string of this thread.
    let text = unsafe { CStr::from_ptr(rivulet_adaptor_last_error()) };
    Err(Failure::new(status, text.to_string_lossy()))
}

#[cfg(adaptor)]
fn register(accelerator: i32) -> Result<(), Failure> {
    // SAFETY: the adaptor catches its exceptions; PyTorch is loaded, since this library links to it.
    outcome(unsafe { rivulet_adaptor_register(accelerator) })
}

/// # Safety
/// - `op` is a C string or null.
#[cfg(adaptor)]
unsafe fn look_again(op: *const c_char) -> Result<(), Failure> {
    // SAFETY: by contract; else as in `register`.
    outcome(unsafe { rivulet_adaptor_look_again(op) })
}

/// # Safety
/// - `op` is a C string.
#[cfg(adaptor)]
unsafe fn make_room(op: *const c_char) -> Result<(), Failure> {
    // SAFETY: as in `look_again`.
    outcome(unsafe { rivulet_adaptor_make_room(op) })
}

#[cfg(adaptor)]
fn displaced() -> Result<Value, Failure> {
    unsafe extern "C" fn note(
        context: *mut c_void,
        part: *const c_char,
        name: *const c_char,
        key: *const c_char,
        from: *const c_char,
        now: *const c_char,
        later: i32,
    ) {
        // SAFETY: the adaptor passes C strings that outlive the call.
        let text = |text| unsafe { CStr::from_ptr(text) }.to_string_lossy();
        let entry = json!({
            "part": text(part),
            "name": text(name),
            "key": text(key),
            "from": text(from),
            "now": text(now),
            "later": later != 0,
        });
        // SAFETY: it is the list below, and nobody else has it meanwhile.
        unsafe { &mut *context.cast::<Vec<Value>>() }.push(entry);
    }
    let mut list: Vec<Value> = Vec::new();
    // SAFETY: the list outlives the call, and `note` does not unwind.
    outcome(unsafe { rivulet_adaptor_displaced(note, (&raw mut list).cast()) })?;
    Ok(Value::Array(list))
}

#[cfg(not(adaptor))]
fn register(_accelerator: i32) -> Result<(), Failure> {
    Err(left_out())
}

#[cfg(not(adaptor))]
unsafe fn look_again(_op: *const c_char) -> Result<(), Failure> {
    Err(left_out())
}

#[cfg(not(adaptor))]
unsafe fn make_room(_op: *const c_char) -> Result<(), Failure> {
    Err(left_out())
}

#[cfg(not(adaptor))]
fn displaced() -> Result<Value, Failure> {
    Err(left_out())
}

#[cfg(not(adaptor))]
fn left_out() -> Failure {
    Failure::new(
        super::error::ERROR,
        "this library was built without PyTorch; build it with RIVULET_TORCH_DIR=<folder of the torch package>",
    )
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
///
/// # Safety
/// - `op` is a C string or null.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_torch_look_again(op: *const c_char) -> i32 {
    // SAFETY: by contract.
    enter(|| unsafe { look_again(op) })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `op` is a C string.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_torch_make_room(op: *const c_char) -> i32 {
    // SAFETY: by contract.
    enter(|| unsafe { make_room(op) })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `out` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_torch_displaced_json(out: *mut *mut c_char) -> i32 {
    enter(|| {
        let list = displaced()?;
        // SAFETY: by contract.
        unsafe { give_text(out, &list) }
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
