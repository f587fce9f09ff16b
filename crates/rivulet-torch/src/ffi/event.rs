//! Events, by handle: Python objects and `torch.Event` may outlive the device and each other.

use super::answer;
use super::error::{Failure, INVALID, enter, enter_or};
use super::stream::resolve;
use rivulet::{Device, Event};
use rivulet_hal::sync::atomic::{AtomicU64, Ordering};
use rivulet_hal::sync::{Arc, Mutex, Rank};
use std::collections::HashMap;

/// Shards of the table, so that threads that make events do not meet.
const SHARDS: usize = 16;

type Shard = Mutex<HashMap<u64, Arc<Event>>>;

fn shard(handle: u64) -> &'static Shard {
    static TABLE: std::sync::OnceLock<[Shard; SHARDS]> = std::sync::OnceLock::new();
    let table = TABLE.get_or_init(|| std::array::from_fn(|_| Mutex::new(Rank::REGISTRY, HashMap::new())));
    &table[handle as usize % SHARDS]
}

fn event(handle: u64) -> Result<Arc<Event>, Failure> {
    let found = shard(handle).lock().get(&handle).cloned();
    found.ok_or_else(|| Failure::new(INVALID, format!("Invalid Event ID: {handle}")))
}

/// See `rivulet.h`.
///
/// # Safety
/// - `handle` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_event_new(timing: i32, handle: *mut u64) -> i32 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    enter(|| {
        // SAFETY: by contract.
        let out = unsafe { answer(handle, "event") }?;
        // Making one opens no device, but in a child of one that did the shard's lock may be held for ever.
        if let Some(device) = Device::global_if_open() {
            device.check()?;
        }
        let handle = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        let event = Arc::new(Event::new(timing != 0));
        shard(handle).lock().insert(handle, event);
        *out = handle;
        Ok(())
    })
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_event_free(handle: u64) {
    enter_or((), || {
        // A forked child may have inherited the shard's lock in a locked state.
        if Device::global_if_open().is_some_and(Device::is_forked) {
            return;
        }
        let event = shard(handle).lock().remove(&handle);
        drop(event);
    });
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_event_record(handle: u64, stream: u32) -> i32 {
    enter(|| {
        let device = Device::global()?;
        Ok(event(handle)?.record(&resolve(device, stream)?)?)
    })
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_event_wait(handle: u64, stream: u32) -> i32 {
    enter(|| {
        let device = Device::global()?;
        Ok(event(handle)?.wait(&resolve(device, stream)?)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `done` and `recorded` are valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_event_query(handle: u64, done: *mut i32, recorded: *mut i32) -> i32 {
    enter(|| {
        Device::global()?.check()?;
        let event = event(handle)?;
        let was_recorded = event.recorded();
        // SAFETY: by contract.
        *unsafe { answer(recorded, "recorded") }? = i32::from(was_recorded);
        // SAFETY: by contract.
        *unsafe { answer(done, "done") }? = i32::from(was_recorded && event.query()?);
        Ok(())
    })
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_event_synchronize(handle: u64) -> i32 {
    enter(|| {
        Device::global()?.check()?;
        Ok(event(handle)?.synchronize()?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `milliseconds` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_event_elapsed(start: u64, end: u64, milliseconds: *mut f64) -> i32 {
    enter(|| {
        Device::global()?.check()?;
        let elapsed = event(start)?.elapsed_time(&*event(end)?)?;
        // SAFETY: by contract.
        *unsafe { answer(milliseconds, "milliseconds") }? = elapsed;
        Ok(())
    })
}
