//! SPIR-V through naga, and what naga has no words for: `NoContraction` and float-control modes.

use super::Translated;
use super::cooperative::{self, Instruction};
use crate::dtype::DType;
use naga::back::spv::{Options, PipelineOptions, WriterFlags, ZeroInitializeWorkgroupMemoryMode, write_vec};
use naga::valid::ModuleInfo;
use std::collections::HashSet;

/// Float-control modes that the device offers (`VkPhysicalDeviceFloatControlsProperties`); those set are declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FloatControls {
    /// `shaderSignedZeroInfNanPreserveFloat32`
    pub preserve_nan_f32: bool,
    /// `shaderDenormPreserveFloat32`
    pub preserve_subnormals_f32: bool,
    /// `shaderRoundingModeRTEFloat16`; declared only in kernels that compute with 16-bit floats.
    pub round_even_f16: bool,
}

const MAGIC: u32 = 0x0723_0203;
const HEADER_WORDS: usize = 5;
const OP_EXTENSION: u32 = 10;
const OP_EXT_INST_IMPORT: u32 = 11;
const OP_ENTRY_POINT: u32 = 15;
const OP_EXECUTION_MODE: u32 = 16;
const OP_CAPABILITY: u32 = 17;
const OP_TYPE_POINTER: u32 = 32;
const OP_VARIABLE: u32 = 59;
const OP_LOAD: u32 = 61;
const OP_STORE: u32 = 62;
const OP_ACCESS_CHAIN: u32 = 65;
const OP_IN_BOUNDS_ACCESS_CHAIN: u32 = 66;
const OP_DECORATE: u32 = 71;
const OP_COOPERATIVE_LOAD: u32 = 4457;
const OP_COOPERATIVE_STORE: u32 = 4458;
const STORAGE_WORKGROUP: u32 = 4;
const STORAGE_BUFFER: u32 = 12;
const NON_PRIVATE_POINTER: u32 = 0x20;
const DECORATION_NO_CONTRACTION: u32 = 42;
const CAPABILITY_FLOAT16: u32 = 9;
const CAPABILITY_COOPERATIVE_MATRIX: u32 = 6022;
/// StorageBuffer16BitAccess and UniformAndStorageBuffer16BitAccess: naga declares them with every use of a 16-bit type,
/// though none of ours is in a buffer.
const CAPABILITIES_STORAGE16: [u32; 2] = [4433, 4434];
/// OpFNegate, OpFAdd, OpFSub, OpFMul, OpFDiv, OpFRem, OpFMod, OpVectorTimesScalar, OpDot.
const FLOAT_ARITHMETIC: [u32; 9] = [127, 129, 131, 133, 136, 140, 141, 142, 148];

pub(super) fn write(
    module: &naga::Module,
    info: &ModuleInfo,
    controls: FloatControls,
    factors: Option<DType>,
) -> Result<Translated, String> {
    let options = Options {
        lang_version: (1, 3),
        flags: WriterFlags::empty(),
        fake_missing_bindings: false,
        binding_map: module
            .global_variables
            .iter()
            .filter_map(|(_, variable)| variable.binding)
            .map(|at| {
                (
                    at,
                    naga::back::spv::BindingInfo {
                        descriptor_set: 0,
                        binding: at.binding,
                        ..Default::default()
                    },
                )
            })
            .collect(),
        zero_initialize_workgroup_memory: ZeroInitializeWorkgroupMemoryMode::None,
        // Our loops end, and our divisors are not zero: see wgsl/lib/divide.wgsl.
        force_loop_bounding: false,
        use_storage_input_output_16: false,
        emit_int_div_checks: false,
        ..Options::default()
    };
    let entry = PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: "main".to_owned() };
    let words = write_vec(module, info, &options, Some(&entry)).map_err(|error| error.to_string())?;
    Ok(Translated::SpirV(annotate(&words, controls, factors)?))
}

/// Adds `NoContraction` to every float operation, so that sums and products are rounded where the WGSL says (`fma`
/// stays free to fuse), the execution modes, and what cooperative matrices of `factors` need.
fn annotate(words: &[u32], controls: FloatControls, factors: Option<DType>) -> Result<Vec<u32>, String> {
    if words.first() != Some(&MAGIC) {
        return Err("not a SPIR-V module".to_owned());
    }
    let mut header = words.get(..HEADER_WORDS).ok_or("truncated SPIR-V")?.to_vec();
    let mut instructions: Vec<Instruction> = Vec::new();
    let mut rest = words.get(HEADER_WORDS..).unwrap_or_default();
    while let Some(&first) = rest.first() {
        let Some((instruction, tail)) = rest.split_at_checked((first >> 16) as usize) else {
            return Err("truncated SPIR-V".to_owned());
        };
        if instruction.is_empty() {
            return Err("empty SPIR-V instruction".to_owned());
        }
        instructions.push((first & 0xffff, instruction.to_vec()));
        rest = tail;
    }
    if let (Some(factors), Some(bound)) = (factors, header.get_mut(3)) {
        instructions = cooperative::correct(&instructions, factors, bound)?;
    }
    let has = |capability| {
        instructions.iter().any(|(op, words)| *op == OP_CAPABILITY && words.get(1) == Some(&capability))
    };
    let cooperative = has(CAPABILITY_COOPERATIVE_MATRIX);
    let half = has(CAPABILITY_FLOAT16);
    let shared = if cooperative { shared_pointers(&instructions) } else { HashSet::new() };
    let entry = instructions.iter().find(|(op, _)| *op == OP_ENTRY_POINT).and_then(|(_, words)| words.get(2));
    let entry = *entry.ok_or("no entry point")?;
    // (capability, execution mode, width)
    let modes: Vec<(u32, u32, u32)> = [
        (controls.preserve_subnormals_f32, (4464, 4459, 32)),
        (controls.preserve_nan_f32, (4466, 4461, 32)),
        (controls.round_even_f16 && half, (4467, 4462, 16)),
    ]
    .into_iter()
    .filter_map(|(on, mode)| on.then_some(mode))
    .collect();

    let mut out = header;
    out.reserve(words.len());
    let mut place = Place::Capabilities;
    for (op, instruction) in &instructions {
        if place == Place::Capabilities && *op != OP_CAPABILITY {
            for (capability, ..) in &modes {
                out.extend([instruction_word(2, OP_CAPABILITY), *capability]);
            }
            place = Place::Extensions;
        }
        if place == Place::Extensions && *op != OP_EXTENSION {
            if !modes.is_empty() {
                extension(&mut out, "SPV_KHR_float_controls");
            }
            if let Some(name) = factors.and_then(cooperative::extension) {
                extension(&mut out, name);
            }
            place = Place::Modes;
        }
        if place == Place::Modes && after_modes(*op) {
            for (_, mode, width) in &modes {
                out.extend([instruction_word(4, OP_EXECUTION_MODE), entry, *mode, *width]);
            }
            place = Place::Decorations;
        }
        if place == Place::Decorations && after_names(*op) {
            for (op, instruction) in &instructions {
                if let (true, Some(&result)) = (FLOAT_ARITHMETIC.contains(op), instruction.get(2)) {
                    out.extend([instruction_word(3, OP_DECORATE), result, DECORATION_NO_CONTRACTION]);
                }
            }
            place = Place::Code;
        }
        let storage16 = instruction.get(1).is_some_and(|word| CAPABILITIES_STORAGE16.contains(word));
        if *op == OP_CAPABILITY && storage16 {
            continue;
        }
        match access(*op, instruction) {
            // The Vulkan memory model takes a plain access for a private one, which no barrier orders.
            Some(pointer) if shared.contains(&pointer) => {
                out.push(instruction_word(instruction.len() as u32 + 1, *op));
                out.extend_from_slice(instruction.get(1..).unwrap_or_default());
                out.push(NON_PRIVATE_POINTER);
            }
            _ => out.extend_from_slice(instruction),
        }
    }
    Ok(out)
}

/// The pointer of a load or store that names no memory operands; of values or cooperative matrices.
fn access(op: u32, instruction: &[u32]) -> Option<u32> {
    let (pointer, words) = match op {
        OP_LOAD => (3, 4),
        OP_STORE => (1, 3),
        OP_COOPERATIVE_LOAD => (3, 6),
        OP_COOPERATIVE_STORE => (1, 5),
        _ => return None,
    };
    if instruction.len() == words { instruction.get(pointer).copied() } else { None }
}

/// Pointers into memory that invocations share.
fn shared_pointers(instructions: &[Instruction]) -> HashSet<u32> {
    let mut types = HashSet::new();
    let mut pointers = HashSet::new();
    for (op, words) in instructions {
        match (*op, words.as_slice()) {
            (OP_TYPE_POINTER, [_, id, STORAGE_WORKGROUP | STORAGE_BUFFER, ..]) => {
                types.insert(*id);
            }
            (OP_VARIABLE | OP_ACCESS_CHAIN | OP_IN_BOUNDS_ACCESS_CHAIN, [_, ty, id, ..])
                if types.contains(ty) =>
            {
                pointers.insert(*id);
            }
            _ => {}
        }
    }
    pointers
}

/// Sections of a module, in order; what is added goes to the end of its section (decorations: to the start).
#[derive(PartialEq)]
enum Place {
    Capabilities,
    Extensions,
    Modes,
    Decorations,
    Code,
}

/// True for what may not stand before an execution mode any more: imports (11), the memory model (14) and entry
/// points (15) may.
fn after_modes(op: u32) -> bool {
    !matches!(op, OP_EXT_INST_IMPORT | 14 | OP_ENTRY_POINT | OP_EXECUTION_MODE)
}

/// True for what follows the debug section (sources 2 to 4 and 7, names 5 and 6).
fn after_names(op: u32) -> bool {
    !matches!(op, 2..=7)
}

const fn instruction_word(words: u32, op: u32) -> u32 {
    words << 16 | op
}

fn extension(out: &mut Vec<u32>, name: &str) {
    let mut bytes = name.as_bytes().to_vec();
    // The name ends in at least one zero byte and fills its last word.
    bytes.resize(bytes.len() / 4 * 4 + 4, 0);
    out.push(instruction_word(1 + (bytes.len() / 4) as u32, OP_EXTENSION));
    out.extend(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
}
