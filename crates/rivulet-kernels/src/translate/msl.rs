//! MSL through naga.

use super::Translated;
use naga::back::msl::{BindTarget, EntryPointResources, Options, PipelineOptions, write_string};
use naga::valid::ModuleInfo;

/// Buffer `n` is binding `n`; parameters follow the last binding.
pub(super) fn write(module: &naga::Module, info: &ModuleInfo, bindings: u32) -> Result<Translated, String> {
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
    Ok(Translated::Msl { text, entry })
}
