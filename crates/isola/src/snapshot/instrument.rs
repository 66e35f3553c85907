//! Gives a component three functions through which its host reaches the whole
//! state of its guest.
//!
//! A component keeps its linear memory and globals to itself. So, before it is
//! compiled, the modules in it get exports for what they would hide, and a
//! small core module is added that imports all of that:
//!
//! ```text
//!  isola-state-save     tells the host each global and the whole memory
//!  isola-state-load     grows the memory, lets the host fill it, and asks it
//!                       for each global
//!  isola-state-settle   lets libc forget what it can find out again: the
//!                       handles of the folders that are mounted
//! ```
//!
//! What a guest runs stays as it is, and no code of a guest can call them. The
//! same is done by Wizer's component support, which needs it for the same end.
//!
//! What is not copied cannot change while a guest runs; a component of which
//! that cannot be seen is refused: tables and passive segments, which only
//! instructions of their own change, and globals that no live code sets.

mod accessor;
mod parse;

use wasm_encoder::{ComponentSectionId, RawSection};

use self::parse::{Component, Section};

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

/// The component, with the three functions added.
pub(crate) fn instrument(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    let component = Component::parse(bytes)?;
    let state = component.state()?;
    let mut out = wasm_encoder::Component::new();
    for section in &component.sections {
        match section {
            Section::Raw { id, range } => {
                out.section(&RawSection { id: *id, data: &bytes[range.clone()] });
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
