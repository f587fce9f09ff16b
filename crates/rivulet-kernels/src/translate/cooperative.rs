//! Cooperative matrices in SPIR-V as naga writes it, put right.
//!
//! naga takes the component type of a loaded matrix from the memory that it is loaded from, whatever the WGSL says, and has
//! no bfloat16. Our kernels keep factors as vectors of `u32` on their way, 16 bytes at a time; so matrices of `u32` become
//! matrices of the factors' type here. Barriers are for the Vulkan memory model, which makes nothing available and visible
//! that was not asked for.

use crate::dtype::DType;
use std::collections::HashMap;

/// One instruction: its opcode and all its words.
pub(super) type Instruction = (u32, Vec<u32>);

const OP_TYPE_INT: u32 = 21;
const OP_TYPE_FLOAT: u32 = 22;
const OP_CONSTANT: u32 = 43;
const OP_CONTROL_BARRIER: u32 = 224;
const OP_TYPE_COOPERATIVE: u32 = 4456;
const OP_CAPABILITY: u32 = 17;
const CAPABILITY_FLOAT16: u32 = 9;
const CAPABILITY_BFLOAT16_TYPE: u32 = 5116;
const CAPABILITY_BFLOAT16_COOPERATIVE: u32 = 5118;
/// FP Encoding: BFloat16KHR.
const ENCODING_BFLOAT16: u32 = 0;
/// MakeAvailable and MakeVisible.
const AVAILABLE_AND_VISIBLE: u32 = 0x6000;

/// Rewrites a module whose cooperative factors are of type `factors`; `bound` is the module's bound of identifiers, raised
/// by those that are new.
///
/// # Errors
/// Where naga no longer writes what is corrected here.
pub(super) fn correct(
    instructions: &[Instruction],
    factors: DType,
    bound: &mut u32,
) -> Result<Vec<Instruction>, String> {
    let mut fresh = || {
        let id = *bound;
        *bound += 1;
        id
    };
    let uint = instructions.iter().find_map(|(op, words)| match (*op, words.as_slice()) {
        (OP_TYPE_INT, &[_, id, 32, 0]) => Some(id),
        _ => None,
    });
    let uint = uint.ok_or("no type u32")?;
    let is_factor = |instruction: &Instruction| {
        instruction.0 == OP_TYPE_COOPERATIVE && instruction.1.get(2) == Some(&uint)
    };
    if !instructions.iter().any(is_factor) {
        return Err("no cooperative matrix is loaded from memory of u32".to_owned());
    }
    let float16 = instructions.iter().find_map(|(op, words)| match (*op, words.as_slice()) {
        (OP_TYPE_FLOAT, &[_, id, 16]) => Some(id),
        _ => None,
    });
    let element = match (factors, float16) {
        (DType::F16, Some(id)) => (id, vec![3 << 16 | OP_TYPE_FLOAT, id, 16]),
        (DType::F16, None) => {
            let id = fresh();
            (id, vec![3 << 16 | OP_TYPE_FLOAT, id, 16])
        }
        (DType::BF16, _) => {
            let id = fresh();
            (id, vec![4 << 16 | OP_TYPE_FLOAT, id, 16, ENCODING_BFLOAT16])
        }
        _ => return Err(format!("no cooperative matrices of {}", factors.name())),
    };
    // The semantics of barriers, by the constants that hold them.
    let mut semantics: HashMap<u32, u32> = HashMap::new();
    for (op, words) in instructions {
        if let (OP_CONTROL_BARRIER, Some(&id)) = (*op, words.get(3)) {
            semantics.entry(id).or_insert_with(&mut fresh);
        }
    }
    let mut corrected = Vec::with_capacity(instructions.len() + 8);
    let (mut capable, mut typed) = (false, false);
    for instruction in instructions {
        let (op, words) = instruction;
        match *op {
            OP_CAPABILITY if !capable => {
                capable = true;
                corrected.push(instruction.clone());
                let wanted: &[u32] = match factors {
                    DType::F16 => &[CAPABILITY_FLOAT16],
                    _ => &[CAPABILITY_BFLOAT16_TYPE, CAPABILITY_BFLOAT16_COOPERATIVE],
                };
                let there = |capability: &u32| {
                    instructions
                        .iter()
                        .any(|(op, words)| *op == OP_CAPABILITY && words.get(1) == Some(capability))
                };
                for capability in wanted.iter().filter(|capability| !there(capability)) {
                    corrected.push((OP_CAPABILITY, vec![2 << 16 | OP_CAPABILITY, *capability]));
                }
                continue;
            }
            // One declaration of a type is allowed.
            OP_TYPE_FLOAT if words.get(1) == Some(&element.0) => {
                if typed {
                    continue;
                }
                typed = true;
            }
            OP_TYPE_COOPERATIVE if is_factor(instruction) => {
                if !typed {
                    typed = true;
                    corrected.push((OP_TYPE_FLOAT, element.1.clone()));
                }
                let mut words = words.clone();
                words[2] = element.0;
                corrected.push((*op, words));
                continue;
            }
            OP_CONTROL_BARRIER => {
                let mut words = words.clone();
                if let Some(id) = words.get_mut(3) {
                    *id = semantics.get(id).copied().unwrap_or(*id);
                }
                corrected.push((*op, words));
                continue;
            }
            OP_CONSTANT => {
                if let (Some(&ty), Some(new), Some(&value)) =
                    (words.get(1), words.get(2).and_then(|id| semantics.get(id)), words.get(3))
                {
                    let more = vec![4 << 16 | OP_CONSTANT, ty, *new, value | AVAILABLE_AND_VISIBLE];
                    corrected.push((OP_CONSTANT, more));
                }
            }
            _ => {}
        }
        corrected.push(instruction.clone());
    }
    Ok(corrected)
}

/// The extension that a module with such factors names, besides naga's.
pub(super) fn extension(factors: DType) -> Option<&'static str> {
    (factors == DType::BF16).then_some("SPV_KHR_bfloat16")
}
