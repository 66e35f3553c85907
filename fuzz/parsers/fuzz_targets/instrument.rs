//! Runtime files: the instrumentation, which exports the state of a guest, parses them
//! before the engine validates them. Any bytes result in a component with three more
//! functions, or in an error.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use wasm_encoder::{
    Alias, CodeSection, Component, ComponentAliasSection, Encode, EntityType, ExportKind,
    ExportSection, Function, FunctionSection, GlobalSection, GlobalType, ImportSection,
    InstanceSection, MemorySection, MemoryType, Module, ModuleArg, ModuleSection, TypeSection,
    ValType,
};

#[path = "../../../crates/isola/src/instrument/accessor.rs"]
mod accessor;
#[path = "../../../crates/isola/src/instrument/parse.rs"]
mod parse;
#[path = "../../../crates/isola/src/instrument/rewrite.rs"]
mod rewrite;

/// A component that can be instrumented.
static BASE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let base = component(&[]);
    assert!(rewrite::instrument(&base, false).is_ok());
    base
});

/// Builds a component with two modules: one defines a memory and a global; the other
/// imports the global through an instance of exports, and sets it after the given
/// instructions.
fn component(instructions: &[u8]) -> Vec<u8> {
    let global = GlobalType { val_type: ValType::I64, mutable: true, shared: false };
    let mut types = TypeSection::new();
    types.ty().function([], []);
    let mut functions = FunctionSection::new();
    functions.function(0);
    let mut code = CodeSection::new();
    let mut function = Function::new([]);
    function.raw(instructions.iter().copied());
    function.instructions().global_get(0).global_set(0).end();
    code.function(&function);

    let mut memories = MemorySection::new();
    memories.memory(MemoryType {
        minimum: 1,
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    let mut globals = GlobalSection::new();
    globals.global(global, &wasm_encoder::ConstExpr::i64_const(0));
    let mut exports = ExportSection::new();
    exports.export("memory", ExportKind::Memory, 0);
    exports.export("global", ExportKind::Global, 0);
    exports.export("change", ExportKind::Func, 0);
    let mut first = Module::new();
    first.section(&types).section(&functions).section(&memories).section(&globals);
    first.section(&exports).section(&code);

    let mut imports = ImportSection::new();
    imports.import("from", "global", EntityType::Global(global));
    let mut exports = ExportSection::new();
    exports.export("change", ExportKind::Func, 0);
    let mut second = Module::new();
    second.section(&types).section(&imports).section(&functions).section(&exports).section(&code);

    let mut instances = InstanceSection::new();
    instances.instantiate(0, Vec::<(&str, ModuleArg)>::new());
    let mut aliases = ComponentAliasSection::new();
    aliases.alias(Alias::CoreInstanceExport {
        instance: 0,
        kind: ExportKind::Global,
        name: "global",
    });
    let mut more = InstanceSection::new();
    more.export_items([("global", ExportKind::Global, 0)]);
    more.instantiate(1, [("from", ModuleArg::Instance(1))]);
    let mut component = Component::new();
    component.section(&ModuleSection(&first)).section(&ModuleSection(&second));
    component.section(&instances).section(&aliases).section(&more);
    component.finish()
}

/// Encodes vector instructions, each from two bytes: its opcode, and the value of its
/// immediates. The opcodes of relaxed SIMD start at 256.
fn vectors(bytes: &[u8]) -> Vec<u8> {
    let mut code = Vec::new();
    let (chosen, _) = bytes.as_chunks::<2>();
    for &[number, immediate] in chosen {
        let number = match immediate & 0x80 {
            0 => u32::from(number),
            _ => 0x100 + u32::from(number) % 0x14,
        };
        let unassigned = matches!(
            number,
            0x9a | 0xa2
                | 0xa5..=0xa6
                | 0xaf..=0xb0
                | 0xb2..=0xb4
                | 0xbb
                | 0xc2
                | 0xc5..=0xc6
                | 0xcf..=0xd0
                | 0xd2..=0xd4
                | 0xe2
                | 0xee
        );
        if unassigned {
            continue;
        }
        code.push(0xfd);
        number.encode(&mut code);
        let (immediate, lane) = (immediate & 0x7f, immediate & 1);
        match number {
            // An alignment and an offset, and a lane.
            0..=11 | 92..=93 => code.extend([lane, immediate]),
            84..=91 => code.extend([lane, immediate, lane]),
            // A value, or lanes of two.
            12 => code.extend([immediate; 16]),
            13 => code.extend([immediate % 32; 16]),
            21..=34 => code.push(lane),
            _ => {}
        }
    }
    code
}

/// Instruments bytes. All data is within the memory, as the host relies on.
fn instrumented(bytes: &[u8]) {
    let Ok(output) = rewrite::instrument(bytes, false) else { return };
    for (at, data) in output.memory.data {
        assert!(at + data.len() <= output.memory.size, "data outside of the memory");
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % 4 {
        0 => instrumented(bytes),
        // The valid component with some bytes changed: an offset and a value each.
        1 => {
            let mut component = BASE.clone();
            let (changes, _) = bytes.as_chunks::<3>();
            for [low, high, value] in changes {
                let offset = usize::from(u16::from_le_bytes([*low, *high])) % component.len();
                component[offset] = *value;
            }
            instrumented(&component);
        }
        // The instructions after vector instructions are instrumented.
        2 => {
            let component = component(&vectors(bytes));
            let output = rewrite::instrument(&component, false);
            let output = output.unwrap_or_else(|refusal| panic!("{refusal}")).component;
            let name: &[u8] = b"isola-state-0";
            assert!(
                output.windows(name.len()).any(|part| part == name),
                "a global is not exported"
            );
        }
        // The valid component with additional sections.
        _ => {
            let component = [BASE.as_slice(), bytes].concat();
            instrumented(&component);
        }
    }
});
