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

#[cfg(test)]
mod tests {
    use wasm_encoder::{
        CodeSection, Component, ConstExpr, ExportKind, ExportSection, Function, FunctionSection,
        GlobalSection, GlobalType, InstanceSection, MemorySection, MemoryType, Module, ModuleArg,
        ModuleSection, RefType, TableSection, TableType, TypeSection, ValType,
    };

    use super::*;

    #[derive(Clone, Copy, Default)]
    struct Made {
        memories: u32,
        hidden_memory: bool,
        changes_table: bool,
        vector: bool,
        twice: bool,
    }

    /// A component with one module, whose function sets a global.
    fn component(made: Made) -> Vec<u8> {
        let mut types = TypeSection::new();
        types.ty().function([], []);
        let mut functions = FunctionSection::new();
        functions.function(0);
        let mut tables = TableSection::new();
        tables.table(TableType {
            element_type: RefType::FUNCREF,
            table64: false,
            minimum: 1,
            maximum: None,
            shared: false,
        });
        let mut memories = MemorySection::new();
        let mut exports = ExportSection::new();
        for number in 0..made.memories {
            memories.memory(MemoryType {
                minimum: 1,
                maximum: None,
                memory64: false,
                shared: false,
                page_size_log2: None,
            });
            if !made.hidden_memory {
                exports.export(&format!("memory{number}"), ExportKind::Memory, number);
            }
        }
        exports.export("change", ExportKind::Func, 0);
        let mut globals = GlobalSection::new();
        let (ty, zero) = if made.vector {
            (ValType::V128, ConstExpr::v128_const(0))
        } else {
            (ValType::I64, ConstExpr::i64_const(0))
        };
        globals.global(GlobalType { val_type: ty, mutable: true, shared: false }, &zero);
        let mut function = Function::new([]);
        let mut code = function.instructions();
        code.global_get(0).global_set(0);
        if made.changes_table {
            code.ref_null(wasm_encoder::HeapType::FUNC).i32_const(1).table_grow(0).drop();
        }
        code.end();
        let mut codes = CodeSection::new();
        codes.function(&function);
        let mut module = Module::new();
        module.section(&types).section(&functions).section(&tables).section(&memories);
        module.section(&globals).section(&exports).section(&codes);
        let mut instances = InstanceSection::new();
        for _ in 0..=u32::from(made.twice) {
            instances.instantiate(0, Vec::<(&str, ModuleArg)>::new());
        }
        let mut component = Component::new();
        component.section(&ModuleSection(&module)).section(&instances);
        component.finish()
    }

    const PLAIN: Made = Made {
        memories: 1,
        hidden_memory: false,
        changes_table: false,
        vector: false,
        twice: false,
    };

    #[test]
    fn what_comes_of_it_is_a_component_with_three_functions() {
        let bytes = instrument(&component(PLAIN)).unwrap();
        let engine = wasmtime::Engine::default();
        let component = wasmtime::component::Component::new(&engine, bytes).unwrap();
        for name in [SAVE, LOAD, SETTLE] {
            assert!(component.get_export_index(None, name).is_some(), "{name}");
        }
    }

    #[test]
    fn state_out_of_reach_is_refused() {
        for (made, says) in [
            (Made { memories: 0, ..PLAIN }, "no memory"),
            (Made { memories: 2, ..PLAIN }, "more than one memory"),
            (Made { hidden_memory: true, ..PLAIN }, "does not export its memory"),
            (Made { changes_table: true, ..PLAIN }, "changes a table"),
            (Made { vector: true, ..PLAIN }, "no number"),
            (Made { twice: true, ..PLAIN }, "twice"),
        ] {
            let why = instrument(&component(made)).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
        for bytes in [&b""[..], b"\0asm\x01\0\0\0", b"nonsense"] {
            assert!(instrument(bytes).is_err());
        }
    }
}
