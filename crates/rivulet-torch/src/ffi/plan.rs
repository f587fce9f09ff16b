//! What plans need beside ops: the GIL given up for a whole call, threads for CPU kernels, and their Python surface.

use super::answer;
use super::error::{ERROR, Failure, enter, enter_or};
use super::ops::{kernel_cores, rivulet_kernel_threads};
use crate::python;
use rivulet::blocking::WaitHooks;
use rivulet::plan::{Callers, Pace, Way};
use rivulet_hal::sync;
use std::ffi::{c_char, c_void};
use std::time::Instant;

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

sync::global! {
    /// The calls of plans that run CPU kernels now.
    static CALLERS: Callers = Callers::new();
}

/// Batches that a tape is measured for: one for each power of two, and one for all above.
const SIZES: usize = 16;

/// `rivulet_pace`.
#[derive(Debug, Default)]
struct RawPace {
    sizes: [Pace; SIZES],
}

impl RawPace {
    fn of(&self, batch: i64) -> &Pace {
        let size = u64::try_from(batch).ok().and_then(u64::checked_ilog2).unwrap_or(0);
        &self.sizes[(size as usize).min(SIZES - 1)]
    }
}

/// `rivulet_pace_run`.
#[derive(Debug)]
#[repr(C)]
struct RawRun {
    threads: i32,
    /// 0: not measured, 1: to try one thread, 2: to try several, 3: on several, as was found to be better.
    way: u32,
    batch: i64,
    /// Nanoseconds since [`RawRun::clock`]'s zero.
    began: u64,
}

impl RawRun {
    fn clock() -> u64 {
        sync::global! {
            static ZERO: Instant = Instant::now();
        }
        u64::try_from(ZERO.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_pace_new() -> *mut RawPace {
    enter_or(std::ptr::null_mut(), || Box::into_raw(Box::default()))
}

/// See `rivulet.h`.
///
/// # Safety
/// - `pace` is null or from [`rivulet_pace_new`], and no call uses it.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_pace_free(pace: *mut RawPace) {
    enter_or((), || {
        if !pace.is_null() {
            // SAFETY: by contract; it came from Box::into_raw.
            drop(unsafe { Box::from_raw(pace) });
        }
    });
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_pace_enter() {
    enter_or((), || CALLERS.enter());
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_pace_leave() {
    enter_or((), || CALLERS.leave());
}

/// See `rivulet.h`.
///
/// # Safety
/// - `pace` is from [`rivulet_pace_new`], `run` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_pace_begin(pace: *const RawPace, batch: i64, run: *mut RawRun) {
    enter_or((), || {
        let cores = kernel_cores();
        // SAFETY: by contract.
        let (Some(pace), false) = (unsafe { pace.as_ref() }, run.is_null()) else { return };
        let mut begun = RawRun { threads: 0, way: 0, batch, began: 0 };
        if cores > 0 {
            // Others may be busy without a plan.
            let share = usize::try_from(rivulet_kernel_threads()).unwrap_or(1).min(cores / CALLERS.most());
            let (threads, way) = pace.of(batch).choose(share);
            begun.threads = i32::try_from(threads).unwrap_or(1);
            begun.way = match way {
                Way::Settled => 0,
                Way::TryOne => 1,
                Way::TryMany => 2,
                Way::Many => 3,
            };
            if begun.way != 0 {
                begun.began = RawRun::clock();
            }
        }
        // SAFETY: by contract.
        unsafe { run.write(begun) };
    });
}

/// See `rivulet.h`.
///
/// # Safety
/// - `pace` is from [`rivulet_pace_new`], `run` was filled by [`rivulet_pace_begin`].
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_pace_end(pace: *const RawPace, run: *const RawRun) {
    enter_or((), || {
        // SAFETY: by contract.
        let (Some(pace), Some(run)) = (unsafe { pace.as_ref() }, unsafe { run.as_ref() }) else { return };
        let way = match run.way {
            1 => Way::TryOne,
            2 => Way::TryMany,
            3 => Way::Many,
            _ => return,
        };
        let time = std::time::Duration::from_nanos(RawRun::clock().saturating_sub(run.began));
        pace.of(run.batch).took(way, time);
    });
}

/// See `rivulet.h`.
///
/// # Safety
/// - `pace` is from [`rivulet_pace_new`], `one` and `many` are valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_pace_times(pace: *const RawPace, one: *mut u64, many: *mut u64) -> i32 {
    enter_or(0, || {
        // SAFETY: by contract.
        let (Some(pace), Some(one), Some(many)) =
            (unsafe { pace.as_ref() }, unsafe { one.as_mut() }, unsafe { many.as_mut() })
        else {
            return 0;
        };
        let Some(times) = pace.sizes.iter().find_map(Pace::times) else { return 0 };
        let nanoseconds = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        (*one, *many) = (nanoseconds(times.0), nanoseconds(times.1));
        1
    })
}
