//! MSL through naga.

use super::Translated;
use naga::back::msl::{BindTarget, EntryPointResources, Options, PipelineOptions, write_string};
use naga::proc::Layouter;
use naga::valid::ModuleInfo;
use naga::{AddressSpace, ArraySize, CooperativeSize, TypeInner};

/// Buffer `n` is binding `n`; parameters follow the last binding, then the lengths of all bindings in bytes.
pub(super) fn write(module: &naga::Module, info: &ModuleInfo, bindings: u32) -> Result<Translated, String> {
    expressible(module)?;
    let slot = |index: u32| u8::try_from(index).map_err(|error| error.to_string());
    let mut resources = EntryPointResources {
        immediates_buffer: Some(slot(bindings)?),
        sizes_buffer: Some(slot(bindings + 1)?),
        ..EntryPointResources::default()
    };
    for binding in 0..bindings {
        let target = BindTarget { buffer: Some(slot(binding)?), mutable: true, ..BindTarget::default() };
        resources.resources.insert(naga::ResourceBinding { group: 0, binding }, target);
    }
    let options = Options {
        lang_version: (3, 0),
        per_entry_point_map: [("main".to_owned(), resources)].into_iter().collect(),
        fake_missing_bindings: false,
        zero_initialize_workgroup_memory: false,
        // Our loops end, and our divisors are not zero: see wgsl/lib/divide.wgsl.
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..Options::default()
    };
    let (text, written) = write_string(module, info, &options, &PipelineOptions::default())
        .map_err(|error| error.to_string())?;
    let entry = written.entry_point_names.into_iter().next();
    let entry = entry.ok_or("no entry point")?.map_err(|error| error.to_string())?;
    if text.contains("_buffer_sizes.") {
        in_order(module, bindings)?;
    }
    let threadgroup = threadgroup(module, info)?;
    let written = arguments(&text).filter(|argument| argument.starts_with("threadgroup ")).count();
    if written != threadgroup.len() {
        return Err(format!("{written} threadgroup arguments written, {} expected", threadgroup.len()));
    }
    Ok(Translated::Msl { text, entry, threadgroup })
}

/// Arguments of the kernel function, one a line.
fn arguments(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().skip_while(|line| !line.contains("kernel void "));
    lines.skip(1).take_while(|line| !line.starts_with(')')).map(|line| line.trim_start_matches([',', ' ']))
}

/// Refuses what naga writes without complaint though Metal has no such thing.
fn expressible(module: &naga::Module) -> Result<(), String> {
    for (_, ty) in module.types.iter() {
        if let TypeInner::CooperativeMatrix { columns, rows, .. } = ty.inner
            && (columns, rows) != (CooperativeSize::Eight, CooperativeSize::Eight)
        {
            return Err("Metal multiplies matrices of 8 x 8 alone".to_owned());
        }
    }
    Ok(())
}

/// The lengths that naga's text takes have one member for each binding of unknown length, in the order of their
/// declarations; the driver gives them in the order of the bindings. Asked only where the text reads them (`arrayLength`).
fn in_order(module: &naga::Module, bindings: u32) -> Result<(), String> {
    let dynamic = module.global_variables.iter().filter(|(_, variable)| {
        matches!(module.types[variable.ty].inner, TypeInner::Array { size: ArraySize::Dynamic, .. })
    });
    let declared: Vec<_> = dynamic.filter_map(|(_, variable)| Some(variable.binding?.binding)).collect();
    if declared.iter().copied().eq(0..bindings) {
        return Ok(());
    }
    Err(format!("bindings are declared as {declared:?}; must be 0 to {bindings} in order, all arrays"))
}

/// Bytes of each variable of the workgroup that the entry point uses: its arguments in threadgroup memory, which the
/// driver has to give it.
fn threadgroup(module: &naga::Module, info: &ModuleInfo) -> Result<Vec<u32>, String> {
    let mut layouter = Layouter::default();
    layouter.update(module.to_ctx()).map_err(|error| error.to_string())?;
    let entry = info.get_entry_point(0);
    let shared = module
        .global_variables
        .iter()
        .filter(|(handle, variable)| variable.space == AddressSpace::WorkGroup && !entry[*handle].is_empty());
    Ok(shared.map(|(_, variable)| layouter[variable.ty].size).collect())
}
