//! The component with its state in reach, made of the one that it was. Nothing
//! here, in `parse` and in `accessor` needs the rest of the crate: the fuzzer
//! compiles these files alone.

use std::ops::Range;

use wasm_encoder::{ComponentSectionId, RawSection};

use super::{
    accessor,
    parse::{Component, Section},
};

/// Tells the host each global (an index, its bits) and the memory.
pub(crate) const SAVE: &str = "isola-state-save";
/// Takes the number of memory pages; says whether memory could grow so far.
pub(crate) const LOAD: &str = "isola-state-load";
/// Lets go of the handles that libc can have again.
pub(crate) const SETTLE: &str = "isola-state-settle";
/// Import: here is all of the memory.
pub(crate) const MEMORY: &str = "isola-state-memory";
/// Import: this is the value of that global.
pub(crate) const SEEN: &str = "isola-state-seen";
/// Import: what value is that global to have?
pub(crate) const WANTED: &str = "isola-state-wanted";

/// Why a component's state cannot be reached.
pub(crate) type Refusal = String;

/// The component, with the three functions added. What is no valid component may
/// give another that is none either: the engine validates what comes of this.
pub(crate) fn instrument(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    let component = Component::parse(bytes)?;
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

/// The bytes of a section.
pub(super) fn part<'a>(bytes: &'a [u8], range: &Range<usize>) -> Result<&'a [u8], Refusal> {
    bytes.get(range.clone()).ok_or_else(|| "a section in it is cut off".into())
}
