//! Writes the instrumented component. This file, `parse` and `accessor` do not
//! depend on the rest of the crate: the fuzzer compiles them alone.
//!
//! The names below are contained in the compiled components of the cache. If one
//! changes, so must `cache::FORMAT_VERSION`.

use std::ops::Range;

use wasm_encoder::{ComponentSectionId, RawSection};

use super::{
    accessor,
    parse::{ParsedComponent, Section},
};

/// The name of the export that passes each global (an index, its bits) and the
/// memory to the host.
pub(crate) const SAVE: &str = "isola-state-save";
/// The name of the export that loads a state. It takes the number of memory pages
/// and returns whether the memory could grow to it.
pub(crate) const LOAD: &str = "isola-state-load";
/// The name of the export that makes libc release the handles that it can get again.
pub(crate) const RELEASE_HANDLES: &str = "isola-state-settle";
/// The name of the import to which the accessor passes the complete memory.
pub(crate) const MEMORY: &str = "isola-state-memory";
/// The name of the import with which the host reads a global: it takes the value.
pub(crate) const READ_GLOBAL: &str = "isola-state-seen";
/// The name of the import with which the host writes a global: it returns the value.
pub(crate) const WRITE_GLOBAL: &str = "isola-state-wanted";

/// The reason why a component cannot be instrumented.
pub(crate) type InstrumentError = String;

/// Returns the component with the three functions added. For an invalid component
/// the result may be invalid as well: the engine validates it.
pub(crate) fn instrument(bytes: &[u8]) -> Result<Vec<u8>, InstrumentError> {
    let component = ParsedComponent::parse(bytes)?;
    let state = component.state()?;
    let mut out = wasm_encoder::Component::new();
    for section in &component.sections {
        match section {
            Section::Raw { id, range } => {
                out.section(&RawSection { id: *id, data: part(bytes, range)? });
            }
            Section::Module(index) => {
                let module = &component.modules[*index as usize];
                let data = module.with_exports(bytes, &state.exports(*index))?;
                out.section(&RawSection { id: ComponentSectionId::CoreModule as u8, data: &data });
            }
        }
    }
    accessor::append(&mut out, &component, &state);
    Ok(out.finish())
}

/// Returns the bytes of a section.
pub(super) fn part<'a>(bytes: &'a [u8], range: &Range<usize>) -> Result<&'a [u8], InstrumentError> {
    bytes.get(range.clone()).ok_or_else(|| "a section in it is truncated".into())
}
