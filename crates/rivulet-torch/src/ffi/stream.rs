//! Streams.

use super::answer;
use super::error::{Failure, OK, enter};
use crate::python;
use rivulet::{Device, StreamId};

const NO_STREAM: u32 = u32::MAX;

/// The stream that a header argument means.
pub(super) fn resolve(device: &Device, id: u32) -> Result<rivulet::Stream, Failure> {
    if id == NO_STREAM { Ok(device.current_stream()?) } else { Ok(device.stream(StreamId(id))?) }
}

/// See `rivulet.h`.
///
/// # Safety
/// - `id` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_stream_current(id: *mut u32) -> i32 {
    enter(|| {
        python::stay_if_exiting();
        // SAFETY: by contract.
        *unsafe { answer(id, "id") }? = Device::global()?.current_stream_id()?.0;
        Ok(())
    })
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_stream_here() -> i64 {
    let mut id = 0;
    // SAFETY: the place is this function's own.
    let status = unsafe { rivulet_stream_current(&raw mut id) };
    if status == OK { i64::from(id) } else { -i64::from(status) }
}

/// See `rivulet.h`.
///
/// # Safety
/// - `id` and `has_slot` are valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_stream_peek(id: *mut u32, has_slot: *mut i32) -> i32 {
    enter(|| {
        let stream = Device::global()?.peek_stream();
        // SAFETY: by contract.
        *unsafe { answer(id, "id") }? = stream.unwrap_or(StreamId::DEFAULT).0;
        // SAFETY: by contract.
        *unsafe { answer(has_slot, "has_slot") }? = i32::from(stream.is_some());
        Ok(())
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `previous` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_stream_exchange(id: u32, previous: *mut u32) -> i32 {
    enter(|| {
        // SAFETY: by contract.
        let previous = unsafe { answer(previous, "previous") }?;
        let stream = (id != NO_STREAM).then_some(StreamId(id));
        *previous = Device::global()?.exchange_stream(stream)?.map_or(NO_STREAM, |stream| stream.0);
        Ok(())
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `id` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_stream_new(priority: i32, id: *mut u32) -> i32 {
    enter(|| {
        // SAFETY: by contract.
        *unsafe { answer(id, "id") }? = Device::global()?.new_stream(priority)?.id().0;
        Ok(())
    })
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_stream_check(id: u32) -> i32 {
    enter(|| Ok(Device::global()?.stream(StreamId(id)).map(drop)?))
}

/// See `rivulet.h`.
///
/// # Safety
/// - `done` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_stream_query(id: u32, done: *mut i32) -> i32 {
    enter(|| {
        let complete = resolve(Device::global()?, id)?.query()?;
        // SAFETY: by contract.
        *unsafe { answer(done, "done") }? = i32::from(complete);
        Ok(())
    })
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_stream_synchronize(id: u32) -> i32 {
    enter(|| Ok(resolve(Device::global()?, id)?.synchronize()?))
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_synchronize() -> i32 {
    enter(|| match Device::global_if_open() {
        Some(device) => Ok(device.synchronize()?),
        None => Ok(()),
    })
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_thread_release() -> i32 {
    enter(|| {
        if let Some(device) = Device::global_if_open() {
            device.release_current_thread();
        }
        Ok(())
    })
}
