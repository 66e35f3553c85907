//! Merges the core modules of a component that share a table into one.
//!
//! `componentize-py` links its guest as an operating system links a program: a
//! core module for each library, which import each other's functions and data,
//! and one table of functions for all of them. An engine fills an imported table
//! when the module is instantiated, entry by entry, and cannot optimize functions
//! and globals that are imported from another module. A merged module defines its
//! table itself, and the engine fills it on use; calls between libraries are direct
//! calls; and the addresses that the linker has stored in globals, which no code
//! changes, are constants.
//!
//! ```text
//! component ─▶ instances that   ─▶ their modules ─▶ component with that
//! (component)  share a table       as one           module in place of
//!              (group)             (merge)          theirs (emit)
//! ```
//!
//! A component with a feature that this code does not support is rejected, and the
//! build fails.

mod component;
mod direct_calls;
mod emit;
mod group;
mod guard;
mod index_map;
mod merge;
mod missing_results;
mod module;
#[cfg(test)]
mod tests;

use anyhow::{Context as _, Result};

use self::component::Component;
use self::group::Group;
pub use self::guard::{Changes, Guard};
#[cfg(test)]
pub use self::module::Module;
pub use self::module::{Function, FunctionPatch};
use crate::digest::Inputs;

/// Merges the core modules of a component that share a table. Applies the changes to
/// the interpreter in it, each function patch to the only function of its name, and then
/// `optimize` to the merged module.
pub fn merge_component(
    bytes: &[u8],
    changes: &Changes,
    function_patches: &[FunctionPatch],
    optimize: impl FnOnce(&[u8]) -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let component = Component::parse(bytes).context("the component cannot be read")?;
    let group = Group::of(&component)?;
    let imports = group.imports()?;
    // The exports that the rest of the component needs are known only after the
    // component is written, so it is written twice.
    let exports = emit::emit(&group, &imports, &[])?.exports;
    let module = merge::merge(&group, &imports, &exports, changes, function_patches)?;
    Ok(emit::emit(&group, &imports, &optimize(&module)?)?.bytes)
}

/// Returns a digest of this code.
pub fn digest() -> String {
    Inputs::default()
        .text("merge_modules", include_str!("merge_modules.rs"))
        .text("component", include_str!("merge_modules/component.rs"))
        .text("direct calls", include_str!("merge_modules/direct_calls.rs"))
        .text("emit", include_str!("merge_modules/emit.rs"))
        .text("group", include_str!("merge_modules/group.rs"))
        .text("guard", include_str!("merge_modules/guard.rs"))
        .text("index_map", include_str!("merge_modules/index_map.rs"))
        .text("merge", include_str!("merge_modules/merge.rs"))
        .text("missing results", include_str!("merge_modules/missing_results.rs"))
        .text("module", include_str!("merge_modules/module.rs"))
        .finish()
}
