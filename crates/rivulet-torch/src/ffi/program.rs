//! Programs. A `rivulet_program*` is a boxed program given away.

use super::answer;
use super::error::{Failure, INVALID, enter, enter_or};
use super::life::give_text;
use crate::python;
use rivulet::memory::Block;
use rivulet::plan::{Noting, OutputPlace, Program, Span};
use rivulet::rng::Generator;
use rivulet::{Device, Error, ops};
use rivulet_hal::sync::Arc;
use smallvec::SmallVec;
use std::cell::RefCell;
use std::ffi::{c_char, c_void};

thread_local! {
    /// Between begin and end.
    static NOTING: RefCell<Option<Noting>> = const { RefCell::new(None) };
}

/// `rivulet_span`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct RawSpan {
    block: *const Block,
    data: *const c_void,
    bytes: usize,
}

type Spans<'b> = SmallVec<[Span<'b>; 8]>;

/// Spans of blocks that live as long as the answer.
///
/// # Safety
/// - `spans` points to `count` spans, or `count` is 0; their blocks are null or live while the answer is used.
unsafe fn read_spans<'b>(spans: *const RawSpan, count: usize, name: &str) -> Result<Spans<'b>, Failure> {
    if count == 0 {
        return Ok(Spans::new());
    }
    if spans.is_null() {
        return Err(Failure::new(INVALID, format!("{name} is null")));
    }
    // SAFETY: by contract.
    let spans = unsafe { std::slice::from_raw_parts(spans, count) };
    let span = |(index, raw): (usize, &RawSpan)| {
        // SAFETY: by contract.
        let block = unsafe { raw.block.as_ref() };
        let block = block.ok_or_else(|| Failure::new(INVALID, format!("{name}[{index}] has no block")))?;
        let offset = (raw.data as usize).checked_sub(block.address()).map(|offset| offset as u64);
        let offset = offset.filter(|offset| offset.saturating_add(raw.bytes as u64) <= block.size());
        let offset =
            offset.ok_or_else(|| Failure::new(INVALID, format!("{name}[{index}] lies outside its block")))?;
        Ok(Span { block, offset, bytes: raw.bytes as u64 })
    };
    spans.iter().enumerate().map(span).collect()
}

fn take() -> Option<Noting> {
    NOTING.try_with(|noting| noting.borrow_mut().take()).ok().flatten()
}

/// See `rivulet.h`.
///
/// # Safety
/// - `inputs` points to `count` spans of live blocks.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_program_begin(inputs: *const RawSpan, count: usize) -> i32 {
    enter(|| {
        python::stay_if_exiting();
        let device = Device::global()?;
        if !ops::has_kernels(device) {
            let reason = format!("{} runs ops on the CPU", device.info().name);
            return Err(Error::NoKernel { op: "program", reason }.into());
        }
        // SAFETY: by contract.
        let inputs = unsafe { read_spans(inputs, count, "inputs") }?;
        let noting = Noting::begin(device, &inputs)?;
        // Where the thread is ending there is nobody who would end the noting: it is dropped.
        let _ = NOTING.try_with(|place| *place.borrow_mut() = Some(noting));
        Ok(())
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `outputs` points to `count` spans of live blocks; `program` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_program_end(
    outputs: *const RawSpan,
    count: usize,
    program: *mut *mut Program,
) -> i32 {
    enter(|| {
        // Before anything that may fail: the noting is over in any case.
        let noting = take().ok_or_else(|| Failure::new(INVALID, "this thread has begun no program"))?;
        // SAFETY: by contract.
        let (program, outputs) =
            unsafe { (answer(program, "program")?, read_spans(outputs, count, "outputs")?) };
        *program = Box::into_raw(Box::new(noting.end(&outputs)?));
        Ok(())
    })
}

/// See `rivulet.h`.
#[unsafe(no_mangle)]
extern "C" fn rivulet_program_abandon() {
    enter_or((), || drop(take()));
}

/// See `rivulet.h`.
///
/// # Safety
/// - `program` came from `rivulet_program_end` and was not freed, or is null; nobody uses it any more.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_program_free(program: *mut Program) {
    if !program.is_null() {
        // SAFETY: by contract; it came from a Box.
        enter_or((), || drop(unsafe { Box::from_raw(program) }));
    }
}

/// # Safety
/// - `program` is null or a live program.
unsafe fn borrow<'p>(program: *const Program) -> Result<&'p Program, Failure> {
    // SAFETY: by contract.
    unsafe { program.as_ref() }.ok_or_else(|| Failure::new(INVALID, "program is null"))
}

/// See `rivulet.h`.
///
/// # Safety
/// - `program` is a live program; the other pointers are valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_program_output(
    program: *const Program,
    index: usize,
    kind: *mut u32,
    place: *mut usize,
    offset: *mut usize,
    shared: *mut *const Block,
) -> i32 {
    enter(|| {
        // SAFETY: by contract.
        let program = unsafe { borrow(program) }?;
        // SAFETY: by contract.
        let (kind, place) = unsafe { (answer(kind, "kind")?, answer(place, "place")?) };
        // SAFETY: by contract.
        let (offset, shared) = unsafe { (answer(offset, "offset")?, answer(shared, "shared")?) };
        let output = program.output(index).ok_or_else(|| {
            Failure::new(INVALID, format!("output {index} of a program that has {}", program.outputs()))
        })?;
        (*kind, *place, *offset, *shared) = match output {
            OutputPlace::Fresh { index, offset } => (0, index, offset as usize, std::ptr::null()),
            OutputPlace::Input { index, offset } => (1, index, offset as usize, std::ptr::null()),
            // Borrowed: the program keeps it alive.
            OutputPlace::Shared { block, offset } => (2, 0, offset as usize, Arc::as_ptr(block)),
        };
        Ok(())
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `program` is a live program.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_program_fresh(program: *const Program) -> usize {
    // SAFETY: by contract.
    enter_or(0, || unsafe { program.as_ref() }.map_or(0, |program| program.fresh().len()))
}

/// See `rivulet.h`.
///
/// # Safety
/// - `program` is a live program, `inputs` points to `count` spans of live blocks, `rng` is null or a live generator, and
///   `fresh` and `data` have room for `rivulet_program_fresh(program)` pointers.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_program_run(
    program: *const Program,
    inputs: *const RawSpan,
    count: usize,
    rng: *const Generator,
    fresh: *mut *const Block,
    data: *mut *mut c_void,
) -> i32 {
    enter(|| {
        python::stay_if_exiting();
        // SAFETY: by contract.
        let (program, inputs) = unsafe { (borrow(program)?, read_spans(inputs, count, "inputs")?) };
        if !program.fresh().is_empty() && (fresh.is_null() || data.is_null()) {
            return Err(Failure::new(INVALID, "fresh or data is null"));
        }
        // SAFETY: by contract.
        let made = program.run(&inputs, unsafe { rng.as_ref() })?;
        for (index, block) in made.into_iter().enumerate() {
            // SAFETY: by contract there is room for as many as the program makes.
            unsafe {
                *data.add(index) = block.address() as *mut c_void;
                *fresh.add(index) = Arc::into_raw(block);
            }
        }
        Ok(())
    })
}

/// See `rivulet.h`.
///
/// # Safety
/// - `program` is a live program; `out` is valid for writes.
#[unsafe(no_mangle)]
unsafe extern "C" fn rivulet_program_json(program: *const Program, out: *mut *mut c_char) -> i32 {
    enter(|| {
        // SAFETY: by contract.
        let report = unsafe { borrow(program) }?.report();
        let commands: Vec<_> = report
            .commands
            .iter()
            .map(|own| serde_json::json!({ "op": own.label, "kernel": own.kernel, "level": own.level }))
            .collect();
        let json = serde_json::json!({
            "commands": commands,
            "noted_commands": report.noted,
            "fusions": report.fusions,
            "barriers": report.barriers,
            "parts": report.parts,
            "arena_bytes": report.arena_bytes,
            "output_bytes": report.fresh_bytes,
            "eager_peak_bytes": report.eager_peak_bytes,
            "shared_blocks": report.shared_blocks,
        });
        // SAFETY: by contract.
        unsafe { give_text(out, &json) }
    })
}
