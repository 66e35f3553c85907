//! Writes the instrumented component. This file, `parse` and `accessor` do not
//! depend on the rest of the crate: the fuzzer compiles them alone.
//!
//! The names below are contained in the compiled components of the cache. If one
//! changes, so must `cache::FORMAT_VERSION`.

use wasm_encoder::{ComponentSectionId, RawSection};

use super::{
    accessor,
    parse::{InitialMemory, InstrumentError, ParsedComponent, Section, part},
};

/// A component with the three functions added.
pub(crate) struct Instrumented<'a> {
    pub(crate) component: Vec<u8>,
    /// The content of its memory before any code runs.
    pub(crate) memory: InitialMemory<'a>,
}

/// Adds the three functions to a component. Unless `keep_data` is set, its data is removed:
/// the host must provide a memory with the returned content. For an invalid component the
/// result may be invalid as well: the engine validates it.
pub(crate) fn instrument(
    bytes: &[u8],
    keep_data: bool,
) -> Result<Instrumented<'_>, InstrumentError> {
    let component = ParsedComponent::parse(bytes)?;
    let state = component.state()?;
    let memory = component.initial_memory(&state)?;
    let mut out = wasm_encoder::Component::new();
    for section in &component.sections {
        match section {
            Section::Raw { id, range } => {
                out.section(&RawSection { id: *id, data: part(bytes, range)? });
            }
            Section::Module(index) => {
                let module = &component.modules[*index as usize];
                let data = module.with_exports(bytes, &state.exports(*index), keep_data)?;
                out.section(&RawSection { id: ComponentSectionId::CoreModule as u8, data: &data });
            }
        }
    }
    accessor::append(&mut out, &component, &state);
    Ok(Instrumented { component: out.finish(), memory })
}
