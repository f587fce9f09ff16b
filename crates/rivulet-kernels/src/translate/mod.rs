//! From WGSL to what a driver takes, through naga.

mod cooperative;
mod msl;
mod spirv;

use crate::dtype::DType;
use crate::kernel::Kernel;
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use spirv::FloatControls;

/// What a kernel is translated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// SPIR-V 1.3, entry point `main`.
    SpirV(FloatControls),
    /// Metal Shading Language 3.0.
    Msl,
}

/// A translated kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Translated {
    /// Words of a module with entry point `main`. Bindings are 0, 1, ... of set 0, parameters push constants.
    SpirV(Vec<u32>),
    /// Source text, to be compiled with math mode Safe.
    Msl {
        /// The text.
        text: String,
        /// Name of the kernel function. Its buffers are the bindings in order, the parameters, and the bindings'
        /// lengths in bytes.
        entry: String,
        /// Bytes of each argument in threadgroup memory, in order: WGSL's workgroup variables.
        threadgroup: Vec<u32>,
    },
}

/// Why a kernel could not be translated. Each is a defect of a kernel or of naga; the variant tests exclude them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TranslateError {
    /// The text is not WGSL.
    #[error("kernel {label} does not parse: {message}")]
    Parse {
        /// Which kernel.
        label: String,
        /// What naga says, with the place.
        message: String,
    },
    /// The text is WGSL that breaks a rule.
    #[error("kernel {label} is not valid: {message}")]
    Validate {
        /// Which kernel.
        label: String,
        /// What naga says.
        message: String,
    },
    /// The target cannot express it.
    #[error("kernel {label} cannot be written as {target:?}: {message}")]
    Write {
        /// Which kernel.
        label: String,
        /// For which target.
        target: Target,
        /// What naga says.
        message: String,
    },
    /// naga panicked.
    #[error("naga panicked on kernel {label}: {message}")]
    Panicked {
        /// Which kernel.
        label: String,
        /// The panic's message.
        message: String,
    },
}

/// Translates a kernel. Takes milliseconds; hold no lock across it.
///
/// # Errors
/// [`TranslateError`], never a panic.
pub fn translate(kernel: &Kernel, target: Target) -> Result<Translated, TranslateError> {
    translate_text(&kernel.label(), &kernel.wgsl(), kernel.bindings(), kernel.factors(), target)
}

/// Translates a text of one's own by the rules of the kernels: bindings 0.. of group 0, entry point `main`.
///
/// # Errors
/// As [`translate`].
pub fn translate_wgsl(
    label: &str,
    wgsl: &str,
    bindings: u32,
    target: Target,
) -> Result<Translated, TranslateError> {
    translate_text(label, wgsl, bindings, None, target)
}

/// `factors`: the type of the cooperative matrices that are loaded from memory of `u32`, where there are such.
fn translate_text(
    label: &str,
    wgsl: &str,
    bindings: u32,
    factors: Option<DType>,
    target: Target,
) -> Result<Translated, TranslateError> {
    // Nothing is shared with the closure that a panic could leave half done.
    catch_unwind(AssertUnwindSafe(|| {
        let (module, info) = check(label, wgsl)?;
        let written = match target {
            Target::SpirV(controls) => spirv::write(&module, &info, controls, factors),
            Target::Msl => msl::write(&module, &info, bindings),
        };
        written.map_err(|message| TranslateError::Write { label: label.to_owned(), target, message })
    }))
    .unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        Err(TranslateError::Panicked { label: label.to_owned(), message })
    })
}

fn check(label: &str, wgsl: &str) -> Result<(naga::Module, ModuleInfo), TranslateError> {
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|error| TranslateError::Parse {
        label: label.to_owned(),
        message: error.emit_to_string(wgsl),
    })?;
    let capabilities = Capabilities::IMMEDIATES
        | Capabilities::SHADER_INT64
        | Capabilities::SHADER_INT16
        | Capabilities::SHADER_FLOAT16
        | Capabilities::SUBGROUP
        | Capabilities::COOPERATIVE_MATRIX;
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(&module)
        .map_err(|error| TranslateError::Validate {
            label: label.to_owned(),
            message: error.emit_to_string(wgsl),
        })?;
    Ok((module, info))
}
