//! Ops on the CPU path.

use super::answer;
use super::error::{Failure, INVALID, NO_KERNEL, enter, enter_or};
use super::life::give_text;
use crate::python;
use rivulet::memory::Block;
use rivulet::{Access, Device, HostAccess, config};
use rivulet_hal::sync::atomic::{AtomicU64, Ordering};
use rivulet_hal::sync::{Mutex, Rank};
use smallvec::SmallVec;
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

/// Names that have an id; PyTorch has about 3,000 overloads.
const MAX_OPS: usize = 16 * 1024;
/// The name of ids beyond the table.
const UNNAMED: &str = "an op without a name";

/// Operands kept without allocating.
const INLINE: usize = 8;

struct Op {
    name: OnceLock<&'static str>,
    fallbacks: AtomicU64,
}

/// Append-only: an op's name is read on every call and never changes.
fn op(id: u32) -> Option<&'static Op> {
    static OPS: OnceLock<Box<[Op]>> = OnceLock::new();
    let new = || Op { name: OnceLock::new(), fallbacks: AtomicU64::new(0) };
    OPS.get_or_init(|| (0..MAX_OPS).map(|_| new()).collect()).get(id as usize)
}

fn ids() -> &'static Mutex<HashMap<&'static str, u32>> {
    static IDS: OnceLock<Mutex<HashMap<&'static str, u32>>> = OnceLock::new();
    IDS.get_or_init(|| Mutex::new(Rank::REGISTRY, HashMap::new()))
}

/// See `rivulet.h`.
///
/// # Safety
/// - `name` is a C string.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_op_id(name: *const c_char) -> u32 {
    enter_or(u32::MAX, || {
        // SAFETY: by contract.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let mut ids = ids().lock();
        if let Some(&id) = ids.get(&*name) {
            return id;
        }
        let Ok(id) = u32::try_from(ids.len()) else { return u32::MAX };
        let Some(entry) = op(id) else { return u32::MAX };
        // Names live as long as the process: there is one for each op of PyTorch.
        let name: &'static str = String::leak(name.into_owned());
        let _ = entry.name.set(name);
        ids.insert(name, id);
        id
    })
}

/// `rivulet_operand`.
#[repr(C)]
struct Operand {
    block: *const Block,
    write: u32,
}

/// `rivulet_host_scope`: room for an access in progress.
#[repr(C)]
struct HostScope {
    opaque: [u64; SCOPE_WORDS],
}

const SCOPE_WORDS: usize = 64;
const _: () = assert!(size_of::<Option<HostAccess<'static>>>() <= SCOPE_WORDS * 8);
const _: () = assert!(align_of::<Option<HostAccess<'static>>>() <= 8);

/// See `rivulet.h`.
///
/// # Safety
/// - `operands` points to `count` operands whose blocks stay alive until `rivulet_host_end`.
/// - `scope` is valid for writes and stays where it is until `rivulet_host_end`, called on this thread.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_host_begin(
    op_id: u32,
    operands: *const Operand,
    count: usize,
    scope: *mut HostScope,
) -> i32 {
    enter(|| {
        python::stay_if_exiting();
        // SAFETY: by contract.
        let slot = unsafe { answer(scope.cast::<MaybeUninit<HostAccess<'static>>>(), "scope") }?;
        // SAFETY: by contract; a null pointer comes with a count of 0.
        let operands = if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(operands, count) } };
        let mut blocks = SmallVec::<[(&'static Block, Access); INLINE]>::new();
        for operand in operands {
            // SAFETY: the block outlives the access by contract; 'static stands for that.
            let block = unsafe { operand.block.as_ref() }
                .ok_or_else(|| Failure::new(INVALID, "an operand's block is null"))?;
            blocks.push((block, if operand.write != 0 { Access::Write } else { Access::Read }));
        }
        let device = Device::global()?;
        let entry = op(op_id);
        let label = entry.and_then(|op| op.name.get()).copied().unwrap_or(UNNAMED);
        slot.write(device.host_access(label, &blocks)?);
        // Other labels are of accesses that the user asked for.
        if let Some(op) = entry.filter(|_| !device.info().inline_completion && label.starts_with("aten::")) {
            op.fallbacks.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `scope` was filled by a successful `rivulet_host_begin` on this thread and not ended yet.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_host_end(scope: *mut HostScope) {
    enter_or((), || {
        // SAFETY: by contract it holds an access, which is moved out once.
        drop(unsafe { scope.cast::<HostAccess<'static>>().read() });
        // Also here: a long kernel may end when the interpreter is gone.
        python::stay_if_exiting();
    });
}

/// The block, the byte of it that lies at `address`, and the op's name.
///
/// # Safety
/// - `block` is null or live for `'b`.
unsafe fn place<'b>(
    op_id: u32,
    block: *const Block,
    address: *const c_void,
) -> Result<(&'b Block, u64, &'static str), Failure> {
    // SAFETY: by contract.
    let block = unsafe { block.as_ref() }.ok_or_else(|| Failure::new(INVALID, "the block is null"))?;
    if block.buffer().is_none() {
        return Err(Failure::new(NO_KERNEL, "adopted memory is copied by the CPU"));
    }
    let offset = (address as u64).checked_sub(block.address() as u64);
    let offset = offset.ok_or_else(|| Failure::new(INVALID, "the address lies before its block"))?;
    Ok((block, offset, op(op_id).and_then(|op| op.name.get()).copied().unwrap_or(UNNAMED)))
}

/// See `rivulet.h`.
///
/// # Safety
/// - `block` is live, and `host` is valid for writes of `bytes` bytes that nobody else uses meanwhile.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_read(
    op_id: u32,
    block: *const Block,
    device: *const c_void,
    host: *mut u8,
    bytes: usize,
) -> i32 {
    enter(|| {
        python::stay_if_exiting();
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: by contract.
        let (block, offset, label) = unsafe { place(op_id, block, device) }?;
        // SAFETY: by contract; bytes are not 0, so the pointer is not null.
        let target = unsafe { std::slice::from_raw_parts_mut(host, bytes) };
        Ok(Device::global()?.read(label, block, offset, target)?)
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `block` is live, and `host` is valid for reads of `bytes` bytes that nobody writes meanwhile.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_write(
    op_id: u32,
    block: *const Block,
    device: *const c_void,
    host: *const u8,
    bytes: usize,
) -> i32 {
    enter(|| {
        python::stay_if_exiting();
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: by contract.
        let (block, offset, label) = unsafe { place(op_id, block, device) }?;
        // SAFETY: by contract; bytes are not 0, so the pointer is not null.
        let source = unsafe { std::slice::from_raw_parts(host, bytes) };
        Ok(Device::global()?.write(label, block, offset, source)?)
    })
}

/// Ops of a thread between two looks at what the others do; a look reads a word of every slot.
const LOOK_EVERY: u32 = 16;

thread_local! {
    /// Ops until the next look, and the last answer.
    static KERNEL_THREADS: Cell<(u32, i32)> = const { Cell::new((0, 0)) };
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
pub(super) extern "C" fn rivulet_kernel_threads() -> i32 {
    enter_or(0, || {
        KERNEL_THREADS.with(|state| {
            let (left, last) = state.get();
            let next = if left > 0 { (left - 1, last) } else { (LOOK_EVERY, look_at_threads()) };
            state.set(next);
            next.1
        })
    })
}

/// The cores that kernels may share; 0 where the user has fixed the number of their threads.
pub(super) fn kernel_cores() -> usize {
    // Both ask the system, which takes longer than many an op.
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| match config::fixes_kernel_threads(&*config::env()) {
        true => 0,
        false => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    })
}

#[cold]
fn look_at_threads() -> i32 {
    let cores = kernel_cores();
    if cores == 0 {
        return 0;
    }
    let workers = Device::global_if_open().map_or(0, Device::busy_threads);
    // The main thread's slot is no worker's, so it counts itself.
    let busy = workers + usize::from(rivulet_hal::thread::is_main_thread());
    i32::try_from((cores / busy.max(1)).max(1)).unwrap_or(1)
}

/// See `rivulet.h`.
///
/// # Safety
/// - `out` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_fallback_json(out: *mut *mut c_char) -> i32 {
    enter(|| {
        let mut counts = serde_json::Map::new();
        for (&name, &id) in ids().lock().iter() {
            let calls = op(id).map_or(0, |op| op.fallbacks.load(Ordering::Relaxed));
            if calls != 0 {
                counts.insert(name.to_owned(), calls.into());
            }
        }
        // SAFETY: by contract.
        unsafe { give_text(out, &serde_json::Value::Object(counts)) }
    })
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_fallback_reset() {
    enter_or((), || {
        for &id in ids().lock().values() {
            if let Some(op) = op(id) {
                op.fallbacks.store(0, Ordering::Relaxed);
            }
        }
    });
}
