//! Adds three functions to a component through which its host accesses the
//! complete state of its guest.
//!
//! A component does not export its linear memory and globals. So, before it is
//! compiled, the modules in it get additional exports for them, and a small core
//! module is added that imports all of these:
//!
//! ```text
//!  isola-state-save     passes each global and the complete memory to the host
//!  isola-state-load     grows the memory, lets the host fill it, and requests
//!                       each global from it
//!  isola-state-settle   makes libc release the handles that it can get again:
//!                       those of the mounted directories
//! ```
//!
//! The code of the guest is not changed and cannot call these functions. Wizer's
//! component support works the same way, for the same purpose.
//!
//! The data of the guest, with which its memory begins, is removed, and becomes an image that
//! the host maps (`linear_memory`). So the memory of each guest, whether new or a copy, is a
//! mapping of an image when its instance is created.
//!
//! State that is not copied must not change while a guest runs: tables and
//! passive segments, which only their own instructions change, and globals that
//! no reachable code sets. A component for which this cannot be proved is
//! rejected.

mod accessor;
mod parse;
mod rewrite;

pub(crate) use self::{
    accessor::{LOAD, MEMORY, READ_GLOBAL, RELEASE_HANDLES, SAVE, WRITE_GLOBAL},
    parse::InitialMemory,
    rewrite::{Instrumented, instrument},
};

#[cfg(test)]
mod tests {
    use wasm_encoder::{
        CodeSection, Component, ConstExpr, DataCountSection, DataSection, ExportKind,
        ExportSection, Function, FunctionSection, GlobalSection, GlobalType, ImportSection,
        InstanceSection, MemorySection, MemoryType, Module, ModuleArg, ModuleSection, RefType,
        StartSection, TableSection, TableType, TypeSection, ValType,
    };

    use super::*;

    /// The properties of a component for the tests.
    #[derive(Clone, Copy, Default)]
    struct Shape {
        memories: u32,
        hidden_memory: bool,
        changes_table: bool,
        vector: bool,
        twice: bool,
        starts: bool,
        /// The address of four bytes of data.
        data: Option<i32>,
        /// The address is the result of an addition.
        computed: bool,
    }

    /// Creates a component with one module, whose function sets a global.
    fn component(shape: Shape) -> Vec<u8> {
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
        for number in 0..shape.memories {
            memories.memory(MemoryType {
                minimum: 1,
                maximum: None,
                memory64: false,
                shared: false,
                page_size_log2: None,
            });
            if !shape.hidden_memory {
                exports.export(&format!("memory{number}"), ExportKind::Memory, number);
            }
        }
        exports.export("change", ExportKind::Func, 0);
        let mut globals = GlobalSection::new();
        let (ty, zero) = if shape.vector {
            (ValType::V128, ConstExpr::v128_const(0))
        } else {
            (ValType::I64, ConstExpr::i64_const(0))
        };
        globals.global(GlobalType { val_type: ty, mutable: true, shared: false }, &zero);
        let mut function = Function::new([]);
        let mut code = function.instructions();
        code.global_get(0).global_set(0);
        if shape.changes_table {
            code.ref_null(wasm_encoder::HeapType::FUNC).i32_const(1).table_grow(0).drop();
        }
        code.end();
        let mut codes = CodeSection::new();
        codes.function(&function);
        let mut module = Module::new();
        module.section(&types).section(&functions).section(&tables).section(&memories);
        module.section(&globals).section(&exports);
        if shape.starts {
            module.section(&StartSection { function_index: 0 });
        }
        let mut data = DataSection::new();
        if let Some(at) = shape.data {
            let address = ConstExpr::i32_const(at);
            let sum = ConstExpr::i32_const(at).with_i32_const(0).with_i32_add();
            data.active(0, if shape.computed { &sum } else { &address }, *b"data");
            module.section(&DataCountSection { count: 1 });
        }
        module.section(&codes).section(&data);
        let mut instances = InstanceSection::new();
        for _ in 0..=u32::from(shape.twice) {
            instances.instantiate(0, Vec::<(&str, ModuleArg)>::new());
        }
        let mut component = Component::new();
        component.section(&ModuleSection(&module)).section(&instances);
        component.finish()
    }

    const PLAIN: Shape = Shape {
        memories: 1,
        hidden_memory: false,
        changes_table: false,
        vector: false,
        twice: false,
        starts: false,
        data: None,
        computed: false,
    };

    /// Returns why a component cannot be instrumented.
    fn refusal(component: &[u8]) -> String {
        instrument(component, false).err().unwrap()
    }

    #[test]
    fn instrumented_component_has_three_functions() {
        let component = component(PLAIN);
        let bytes = instrument(&component, false).unwrap().component;
        let engine = wasmtime::Engine::default();
        let component = wasmtime::component::Component::new(&engine, bytes).unwrap();
        for name in [SAVE, LOAD, RELEASE_HANDLES] {
            assert!(component.get_export_index(None, name).is_some(), "{name}");
        }
    }

    #[test]
    fn data_is_removed_and_returned() {
        let component = component(Shape { data: Some((64 << 10) - 4), ..PLAIN });
        let has_data = |bytes: &[u8]| bytes.windows(4).any(|part| part == b"data");
        let removed = instrument(&component, false).unwrap();
        assert!(!has_data(&removed.component));
        assert_eq!(removed.memory.size, 64 << 10);
        assert_eq!(removed.memory.data, [((64 << 10) - 4, &b"data"[..])]);
        let kept = instrument(&component, true).unwrap();
        assert!(has_data(&kept.component));
        for bytes in [removed.component, kept.component] {
            wasmtime::component::Component::new(&wasmtime::Engine::default(), bytes).unwrap();
        }
    }

    /// Creates a component whose only module imports a mutable global and sets it.
    /// `wire` adds the instances.
    fn wired(wire: impl FnOnce(&mut InstanceSection)) -> Vec<u8> {
        let mut types = TypeSection::new();
        types.ty().function([], []);
        let mut imports = ImportSection::new();
        let global = GlobalType { val_type: ValType::I64, mutable: true, shared: false };
        imports.import("from", "global", global);
        let mut functions = FunctionSection::new();
        functions.function(0);
        let mut memories = MemorySection::new();
        memories.memory(MemoryType {
            minimum: 1,
            maximum: None,
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
        let mut exports = ExportSection::new();
        exports.export("memory", ExportKind::Memory, 0);
        exports.export("change", ExportKind::Func, 0);
        exports.export("global", ExportKind::Global, 0);
        let mut function = Function::new([]);
        function.instructions().global_get(0).global_set(0).end();
        let mut codes = CodeSection::new();
        codes.function(&function);
        let mut module = Module::new();
        module.section(&types).section(&imports).section(&functions).section(&memories);
        module.section(&exports).section(&codes);
        let mut instances = InstanceSection::new();
        wire(&mut instances);
        let mut component = Component::new();
        component.section(&ModuleSection(&module)).section(&instances);
        component.finish()
    }

    #[test]
    fn self_references_are_refused() {
        let itself = |instances: &mut InstanceSection, from: u32| {
            instances.instantiate(0, [("from", ModuleArg::Instance(from))]);
        };
        for from in [0, 1, 1000, u32::MAX] {
            let why = refusal(&wired(|instances| itself(instances, from)));
            assert!(why.contains("not defined"), "{from}: {why}");
        }
        // Through an instance made of exports, and back.
        let through_exports = wired(|instances| {
            itself(instances, 1);
            instances.export_items([("global", ExportKind::Global, 0)]);
        });
        assert!(refusal(&through_exports).contains("not defined"));
    }

    #[test]
    fn counts_larger_than_their_section_are_refused() {
        // Sections of types with a count but without content.
        for count in [&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0xff, 0x7f]] {
            let mut bytes = component(PLAIN);
            for _ in 0..2 {
                bytes.extend_from_slice(&[7, u8::try_from(count.len()).unwrap()]);
                bytes.extend_from_slice(count);
            }
            let why = refusal(&bytes);
            assert!(why.contains("the number of types is larger than the section"), "{why}");
        }
    }

    #[test]
    fn inaccessible_state_is_refused() {
        for (shape, says) in [
            (Shape { memories: 0, ..PLAIN }, "no memory"),
            (Shape { memories: 2, ..PLAIN }, "more than one memory"),
            (Shape { hidden_memory: true, ..PLAIN }, "does not export its memory"),
            (Shape { changes_table: true, ..PLAIN }, "changes a table"),
            (Shape { vector: true, ..PLAIN }, "not a number"),
            (Shape { twice: true, ..PLAIN }, "twice"),
            (Shape { starts: true, ..PLAIN }, "a start function"),
            (Shape { data: Some((64 << 10) - 3), ..PLAIN }, "outside of its memory"),
            (Shape { data: Some(-1), ..PLAIN }, "outside of its memory"),
            (Shape { data: Some(0), computed: true, ..PLAIN }, "not at a constant address"),
        ] {
            let why = refusal(&component(shape));
            assert!(why.contains(says), "{why}");
        }
        for bytes in [&b""[..], b"\0asm\x01\0\0\0", b"nonsense"] {
            assert!(instrument(bytes, false).is_err());
        }
    }
}
