//! Random numbers. A `rivulet_rng*` is a boxed generator given away.

use super::error::enter_or;
use rivulet::Device;
use rivulet::rng::{Generator, State};

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_rng_new(seed: u64) -> *mut Generator {
    Box::into_raw(Box::new(Generator::new(seed)))
}

/// See `rivulet.h`.
///
/// # Safety
/// - `rng` is a live generator.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_rng_clone(rng: *const Generator) -> *mut Generator {
    // SAFETY: by contract.
    let state = unsafe { &*rng }.state();
    let copy = Generator::new(state.seed);
    copy.set_state(state);
    Box::into_raw(Box::new(copy))
}

/// See `rivulet.h`.
///
/// # Safety
/// - `rng` is a live generator that nobody uses any more, or null.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_rng_free(rng: *mut Generator) {
    if !rng.is_null() {
        // SAFETY: by contract; it came from a Box.
        drop(unsafe { Box::from_raw(rng) });
    }
}

/// See `rivulet.h`.
///
/// # Safety
/// - `rng` is a live generator.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_rng_seed(rng: *const Generator, seed: u64) {
    // SAFETY: by contract.
    enter_or((), || unsafe { &*rng }.seed(seed));
}

/// See `rivulet.h`.
///
/// # Safety
/// - `rng` is a live generator.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_rng_get_seed(rng: *const Generator) -> u64 {
    // SAFETY: by contract.
    enter_or(0, || unsafe { &*rng }.state().seed)
}

/// See `rivulet.h`.
///
/// # Safety
/// - `rng` is a live generator.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_rng_get_offset(rng: *const Generator) -> u64 {
    // SAFETY: by contract.
    enter_or(0, || unsafe { &*rng }.state().offset)
}

/// See `rivulet.h`.
///
/// # Safety
/// - `rng` is a live generator.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_rng_set(rng: *const Generator, seed: u64, offset: u64) {
    // SAFETY: by contract.
    enter_or((), || unsafe { &*rng }.set_state(State { seed, offset }));
}

/// See `rivulet.h`.
///
/// # Safety
/// - `rng` is a live generator.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_rng_draw(rng: *const Generator) -> u64 {
    enter_or(0, || {
        // A forked child may have inherited the generator's lock in a locked state; the op that asks is refused.
        if Device::global_if_open().is_some_and(Device::is_forked) {
            return 0;
        }
        // SAFETY: by contract.
        unsafe { &*rng }.draw()
    })
}
