//! Status codes, the per-thread message, and the wall that no panic passes.

use rivulet::Error;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// `enum rivulet_status`.
pub(crate) const OK: i32 = 0;
pub(crate) const ERROR: i32 = 1;
pub(crate) const OUT_OF_MEMORY: i32 = 2;
pub(crate) const INTERRUPTED: i32 = 3;
pub(crate) const INVALID: i32 = 4;
pub(crate) const NO_KERNEL: i32 = 5;

thread_local! {
    static LAST: RefCell<CString> = RefCell::new(CString::default());
}

/// A status and its message.
#[derive(Debug)]
pub(crate) struct Failure {
    status: i32,
    message: String,
}

impl Failure {
    pub(crate) fn new(status: i32, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::OutOfMemory { .. } => OUT_OF_MEMORY,
            Error::Interrupted(_) => INTERRUPTED,
            Error::NoSuchStream { .. } | Error::NoSuchPriority { .. } => INVALID,
            // Refused operands go to PyTorch's own code too, which refuses them in its own words.
            Error::NoKernel { .. } | Error::BadOperand { .. } => NO_KERNEL,
            _ => ERROR,
        };
        Self::new(status, error.to_string())
    }
}

/// Keeps the message for `rivulet_last_error` and gives the status.
pub(crate) fn fail(failure: Failure) -> i32 {
    let text = CString::new(failure.message.replace('\0', " ")).unwrap_or_default();
    // The slot is gone only while the thread ends, when nobody asks any more.
    let _ = LAST.try_with(|last| *last.borrow_mut() = text);
    failure.status
}

/// Runs the body of an entry point. A panic becomes an error that asks for a report.
pub(crate) fn enter(body: impl FnOnce() -> Result<(), Failure>) -> i32 {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => OK,
        Ok(Err(failure)) => fail(failure),
        Err(panic) => {
            fail(Failure::new(ERROR, format!("internal error in rivulet: {}", panic_text(&*panic))))
        }
    }
}

/// The same for entry points that cannot fail; a panic gives `otherwise`.
pub(crate) fn enter_or<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown panic")
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}
