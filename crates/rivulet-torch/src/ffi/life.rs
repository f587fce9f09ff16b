//! Start, end, and what people are told in between.

use super::answer;
use super::error::{ERROR, Failure, enter, enter_or, fail};
use crate::python;
use rivulet::ops::{Kernel, Op};
use rivulet::{Device, config};
use rivulet_hal::{AdapterInfo, Backend};
use serde_json::{Value, json};
use std::ffi::{CString, c_char};
use std::sync::OnceLock;

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_is_available() -> i32 {
    enter_or(0, || match config::adapter(&*config::env()) {
        Ok(_) => 1,
        Err(error) => {
            let _ = fail(Failure::new(ERROR, error.to_string()));
            0
        }
    })
}

/// Hands a text to the caller, who frees it with `rivulet_string_free`.
///
/// # Safety
/// - `out` is valid for writes.
pub(super) unsafe fn give_text(out: *mut *mut c_char, value: &Value) -> Result<(), Failure> {
    // SAFETY: by contract.
    let out = unsafe { answer(out, "out") }?;
    let text = CString::new(value.to_string()).map_err(|error| Failure::new(ERROR, error.to_string()))?;
    *out = text.into_raw();
    Ok(())
}

/// See `rivulet.h`.
///
/// # Safety
/// - `text` came from this library and was not freed, or is null.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_string_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: by contract; it came from CString::into_raw.
        drop(unsafe { CString::from_raw(text) });
    }
}

fn adapter(info: &AdapterInfo) -> Value {
    let backend = match info.backend {
        Backend::Host => "host",
        Backend::Sim => "sim",
        Backend::Vulkan => "vulkan",
        Backend::Metal => "metal",
    };
    json!({
        "name": info.name,
        "backend": backend,
        "driver": info.driver,
        "queues": info.queues,
        "unified_memory": info.unified_memory,
        "inline_completion": info.inline_completion,
        "memory_bytes": info.memory_bytes,
        "max_allocation": info.max_allocation,
        "max_binding": info.max_binding,
        "float64": info.float64,
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `out` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_adapters_json(out: *mut *mut c_char) -> i32 {
    enter(|| {
        let all = rivulet_hal::adapters();
        let all: Vec<Value> = all.iter().map(adapter).collect();
        // SAFETY: by contract.
        unsafe { give_text(out, &json!(all)) }
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `out` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_adapter_json(out: *mut *mut c_char) -> i32 {
    enter(|| {
        let used = match Device::global_if_open() {
            Some(device) => adapter(device.info()),
            None => adapter(&Device::planned(&*config::env())?),
        };
        // SAFETY: by contract.
        unsafe { give_text(out, &used) }
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `out` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_report_json(out: *mut *mut c_char) -> i32 {
    enter(|| {
        let value = match Device::global_if_open() {
            Some(device) => report(&device.report()),
            None => json!({ "opened": false }),
        };
        // SAFETY: by contract.
        unsafe { give_text(out, &value) }
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `out` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_kernels_json(out: *mut *mut c_char) -> i32 {
    enter(|| {
        let value = kernels(Device::global_if_open());
        // SAFETY: by contract.
        unsafe { give_text(out, &value) }
    })
}

fn kernels(device: Option<&Device>) -> Value {
    let (mut compiled, mut refused) = (Vec::new(), Vec::new());
    if let Some(device) = device {
        device.pipelines().for_each(|kernel, error| {
            let op = match kernel {
                Kernel::Pointwise(key) => Some(key.op.label()),
                _ => None,
            };
            let mut entry = json!({ "family": kernel.family(), "label": kernel.label(), "op": op });
            match error {
                None => compiled.push(entry),
                Some(error) => {
                    entry["error"] = json!(error.to_string());
                    refused.push(entry);
                }
            }
        });
    }
    json!({
        "families": Kernel::FAMILIES,
        "pointwise_ops": Op::ALL.iter().map(|op| op.label()).collect::<Vec<_>>(),
        "compiled": compiled,
        "refused": refused,
    })
}

fn report(report: &rivulet::report::Report) -> Value {
    let pool = report.pool.as_ref().map(|pool| {
        let used: Vec<Value> = pool
            .used
            .iter()
            .map(|slot| {
                json!({
                    "stream": slot.stream.0,
                    "thread": slot.owner.as_ref().map(|owner| owner.thread_id),
                    "name": slot.owner.as_ref().map(|owner| owner.name.to_string()),
                    "sharers": slot.sharers,
                })
            })
            .collect();
        json!({ "size": pool.size, "waiting": pool.waiting, "used": used })
    });
    let streams: Vec<Value> = report
        .streams
        .iter()
        .map(|stream| {
            json!({
                "id": stream.id.0,
                "priority": stream.priority,
                "queue": stream.queue,
                "given": [stream.given.device, stream.given.host],
                "complete": [stream.complete.device, stream.complete.host],
                "failure": stream.failure,
            })
        })
        .collect();
    let memory = report.memory.as_ref().map(|memory| {
        json!({
            "allocated": memory.allocated,
            "reserved": memory.reserved,
            "adopted": memory.adopted,
            "peak_allocated": memory.peak_allocated,
            "peak_reserved": memory.peak_reserved,
            "active_blocks": memory.active_blocks,
            "segments": memory.segments,
            "limit": memory.limit,
            "device_total": memory.device_total,
            "ooms": memory.ooms,
        })
    });
    let settings: serde_json::Map<String, Value> =
        report.settings.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    json!({
        "opened": true,
        "adapter": adapter(&report.adapter),
        "queues": report.queues,
        "pool": pool,
        "streams": streams,
        "bytes_to_device": report.bytes_to_device,
        "bytes_to_host": report.bytes_to_host,
        "memory": memory,
        "settings": settings,
        "failure": report.failure,
    })
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_in_bad_fork() -> i32 {
    enter_or(0, || i32::from(Device::global_if_open().is_some_and(Device::is_forked)))
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_shutdown() {
    enter_or((), || {
        python::shutdown();
        if let Some(device) = Device::global_if_open() {
            device.prepare_exit();
        }
    });
}

static THREAD_CALLBACK: OnceLock<extern "C" fn()> = OnceLock::new();

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_set_thread_callback(callback: Option<extern "C" fn()>) {
    if let Some(callback) = callback {
        let _ = THREAD_CALLBACK.set(callback);
    }
}

/// What the pool asks about threads.
struct Threads;

impl rivulet::pool::ThreadHooks for Threads {
    fn is_service_thread(&self) -> bool {
        // PyTorch names the worker threads of its autograd engine.
        rivulet_hal::thread::name().starts_with("pt_autograd")
    }

    fn slot_taken(&self) {
        if let Some(callback) = THREAD_CALLBACK.get().filter(|_| python::is_python_thread()) {
            callback();
        }
    }
}

/// Connects the runtime to the interpreter. Called once, before anything is registered with PyTorch.
pub(super) fn install_hooks() {
    rivulet::blocking::install(&python::Hooks);
    rivulet::config::install_env(rivulet_hal::sync::Arc::new(python::Environ));
    rivulet::pool::install_hooks(&Threads);
}
