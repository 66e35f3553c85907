//! Makes one core module of those that share a table.
//!
//! `componentize-py` links its guest as an operating system links a program: a
//! core module for each library, which find each other's functions and data by
//! imports, and one table of functions for all of them. An engine fills a table
//! that a module imports when the module is instantiated, entry by entry, and
//! it knows nothing about functions and globals that come from another module.
//! In one module the table is its own, filled when it is used; calls between
//! libraries are plain calls; and the addresses that the linker has left in
//! globals, which nobody changes, are constants.
//!
//! ```text
//! component ─▶ which instances  ─▶ their modules ─▶ component, in which that
//! (component)  belong together     as one           module stands for all of
//!              (group)             (merge)          them (emit)
//! ```
//!
//! Nothing is guessed: a component with something in it that this does not know
//! is refused, and the build fails.

mod component;
mod emit;
mod group;
mod guard;
mod merge;
mod module;
#[cfg(test)]
mod tests;

use anyhow::{Context as _, Result};

use self::component::Component;
use self::group::Group;
pub use self::guard::{Changes, Guard};
#[cfg(test)]
pub use self::module::Module;
pub use self::module::{Function, Mend};
use crate::digest::Inputs;

/// The component with one core module instead of those that share a table. The
/// interpreter in it gets its changes, and each of the mends is made to the one
/// function of its name.
pub fn fuse(bytes: &[u8], changes: &Changes, mends: &[Mend]) -> Result<Vec<u8>> {
    let component = Component::parse(bytes).context("the component cannot be read")?;
    let group = Group::of(&component)?;
    let imports = group.imports()?;
    // What the rest of the component takes from the module is known when the
    // component is written; so it is written twice.
    let exports = emit::emit(&group, &imports, &[])?.exports;
    let module = merge::merge(&group, &imports, &exports, changes, mends)?;
    Ok(emit::emit(&group, &imports, &module)?.bytes)
}

/// Changes with this code.
pub fn digest() -> String {
    Inputs::default()
        .text("fuse", include_str!("fuse.rs"))
        .text("component", include_str!("fuse/component.rs"))
        .text("emit", include_str!("fuse/emit.rs"))
        .text("group", include_str!("fuse/group.rs"))
        .text("guard", include_str!("fuse/guard.rs"))
        .text("merge", include_str!("fuse/merge.rs"))
        .text("module", include_str!("fuse/module.rs"))
        .finish()
}
