//! Memory. A `rivulet_block*` is an `Arc<Block>` given away.

use super::answer;
use super::error::{Failure, INVALID, enter, enter_or};
use crate::python;
use rivulet::Device;
use rivulet::memory::Block;
use rivulet_hal::sync::Arc;
use std::ffi::c_void;

/// See `rivulet.h`.
///
/// # Safety
/// - `data` and `block` are valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_alloc(bytes: usize, data: *mut *mut c_void, block: *mut *const Block) -> i32 {
    enter(|| {
        python::stay_if_exiting();
        // SAFETY: by contract.
        let (data, block) = unsafe { (answer(data, "data")?, answer(block, "block")?) };
        let allocated = Device::global()?.allocate(bytes as u64)?;
        *data = allocated.address() as *mut c_void;
        *block = Arc::into_raw(allocated);
        Ok(())
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `data` and `block` are valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_alloc_host(
    bytes: usize,
    data: *mut *mut c_void,
    block: *mut *const Block,
) -> i32 {
    enter(|| {
        python::stay_if_exiting();
        // SAFETY: by contract.
        let (data, block) = unsafe { (answer(data, "data")?, answer(block, "block")?) };
        let allocated = Device::global()?.allocate_for_host(bytes as u64)?;
        *data = allocated.address() as *mut c_void;
        *block = Arc::into_raw(allocated);
        Ok(())
    })
}

/// What a foreign owner's callback needs; called once, on whichever thread the block becomes idle.
struct Owner {
    owner: *mut c_void,
    drop: extern "C" fn(*mut c_void),
}

// SAFETY: the header requires that the callback may run on any thread.
unsafe impl Send for Owner {}

impl Owner {
    fn drop(self) {
        (self.drop)(self.owner);
    }
}

/// See `rivulet.h`.
///
/// # Safety
/// - `data` is valid for `bytes` bytes until `drop(owner)` is called.
/// - `block` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_adopt(
    data: *mut c_void,
    bytes: usize,
    owner: *mut c_void,
    drop: Option<extern "C" fn(*mut c_void)>,
    block: *mut *const Block,
) -> i32 {
    enter(|| {
        // SAFETY: by contract.
        let block = unsafe { answer(block, "block") }?;
        let drop = drop.ok_or_else(|| Failure::new(INVALID, "drop is null"))?;
        let owner = Owner { owner, drop };
        let adopted = Device::global()?.adopt(data as usize, bytes as u64, Box::new(move || owner.drop()))?;
        *block = Arc::into_raw(adopted);
        Ok(())
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `block` came from `rivulet_alloc` or `rivulet_adopt` and was not freed, or is null.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_free(block: *const Block) {
    if block.is_null() {
        return;
    }
    enter_or((), || {
        if let Some(device) = Device::global_if_open() {
            // SAFETY: by contract this is the one handle that `Arc::into_raw` gave away.
            device.free(unsafe { Arc::from_raw(block) });
        }
    });
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_block_of(address: *const c_void) -> *const Block {
    enter_or(std::ptr::null(), || {
        let found = Device::global_if_open().and_then(|device| device.find(address as usize));
        // The pointer is borrowed: whoever owns the storage at this address keeps the block alive.
        found.map_or(std::ptr::null(), |block| Arc::as_ptr(&block))
    })
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_holds(address: *const c_void) -> i32 {
    enter_or(1, || i32::from(Device::any_holds(address as usize)))
}

/// `rivulet_memory_stats`.
#[repr(C)]
#[derive(Debug, Default)]
struct MemoryStats {
    allocated: u64,
    reserved: u64,
    driver: u64,
    recommended_max: u64,
    peak_allocated: u64,
    peak_reserved: u64,
    alloc_count: u64,
    free_count: u64,
    alloc_bytes: u64,
    free_bytes: u64,
    active_blocks: u64,
    ooms: u64,
    retries: u64,
}

/// See `rivulet.h`.
///
/// # Safety
/// - `out` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_memory(out: *mut MemoryStats) -> i32 {
    enter(|| {
        let stats = Device::global()?.memory_stats()?;
        // SAFETY: by contract.
        *unsafe { answer(out, "out") }? = MemoryStats {
            allocated: stats.allocated,
            reserved: stats.reserved,
            driver: stats.reserved,
            recommended_max: stats.device_total,
            peak_allocated: stats.peak_allocated,
            peak_reserved: stats.peak_reserved,
            alloc_count: stats.alloc_count,
            free_count: stats.free_count,
            alloc_bytes: stats.alloc_bytes,
            free_bytes: stats.free_bytes,
            active_blocks: stats.active_blocks,
            ooms: stats.ooms,
            retries: stats.retries,
        };
        Ok(())
    })
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_memory_reset(peak_only: i32) -> i32 {
    enter(|| {
        let device = Device::global()?;
        device.check()?;
        device.allocator().reset_stats(peak_only != 0);
        Ok(())
    })
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_empty_cache() -> i32 {
    enter(|| match Device::global_if_open() {
        Some(device) => Ok(device.empty_cache()?),
        None => Ok(()),
    })
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_set_memory_fraction(fraction: f64) -> i32 {
    enter(|| {
        let device = Device::global()?;
        device.check()?;
        device.allocator().set_fraction(fraction).map_err(|error| Failure::new(INVALID, error.to_string()))
    })
}
