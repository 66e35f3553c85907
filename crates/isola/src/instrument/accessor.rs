//! The accessor, a core module that reads and writes a guest's state, and its
//! connections to the rest of the component.

use wasm_encoder::{
    Alias, BlockType, CanonicalFunctionSection, CanonicalOption, CodeSection, Component,
    ComponentAliasSection, ComponentExportKind, ComponentExportSection, ComponentImportSection,
    ComponentTypeRef, ComponentTypeSection, ComponentValType, EntityType, ExportKind,
    ExportSection, Function, FunctionSection, GlobalType, ImportSection, InstanceSection,
    MemoryType, Module, ModuleArg, ModuleSection, PrimitiveValType, TypeSection, ValType,
};

use super::parse::{MutableState, NumType, ParsedComponent, RESET_PREOPENS};

/// The name of the export that loads a state. It takes the number of memory pages
/// and returns whether the memory could grow to it.
pub(crate) const LOAD: &str = "isola-state-load";
/// The name of the import to which the accessor passes the complete memory.
pub(crate) const MEMORY: &str = "isola-state-memory";
/// The name of the import with which the host reads a global: it takes the value.
pub(crate) const READ_GLOBAL: &str = "isola-state-seen";
/// The name of the export that makes libc release the handles that it can get again.
pub(crate) const RELEASE_HANDLES: &str = "isola-state-settle";
/// The name of the export that passes each global (an index, its bits) and the
/// memory to the host.
pub(crate) const SAVE: &str = "isola-state-save";
/// The name of the import with which the host writes a global: it returns the value.
pub(crate) const WRITE_GLOBAL: &str = "isola-state-wanted";

/// The module name of the accessor's imports from the host.
const HOST_MODULE: &str = "host";

/// Adds the accessor and its three lifted functions at the end of the component.
pub(super) fn append(out: &mut Component, component: &ParsedComponent<'_>, state: &MutableState) {
    let count = &component.count;
    let instances = u32::try_from(component.instances.len()).unwrap_or(u32::MAX);
    let modules = u32::try_from(component.modules.len()).unwrap_or(u32::MAX);
    let u32_type = ComponentValType::Primitive(PrimitiveValType::U32);
    let u64_type = ComponentValType::Primitive(PrimitiveValType::U64);

    // The types: bytes, those of the imports, those of the exports.
    let mut types = ComponentTypeSection::new();
    let bytes = count.types;
    types.defined_type().list(ComponentValType::Primitive(PrimitiveValType::U8));
    types.function().params([("bytes", ComponentValType::Type(bytes))]).result(None);
    types.function().params([("index", u32_type), ("bits", u64_type)]).result(None);
    types.function().params([("index", u32_type)]).result(Some(u64_type));
    let nothing: [(&str, ComponentValType); 0] = [];
    types.function().params(nothing).result(None);
    let flag = ComponentValType::Primitive(PrimitiveValType::Bool);
    types.function().params([("pages", u32_type)]).result(Some(flag));
    out.section(&types);

    let mut imports = ComponentImportSection::new();
    for (name, offset) in [(MEMORY, 1), (READ_GLOBAL, 2), (WRITE_GLOBAL, 3)] {
        imports.import(name, ComponentTypeRef::Func(count.types + offset));
    }
    out.section(&imports);

    let (memory_instance, _, memory_name, memory_type) = &state.memory;
    let mut aliases = ComponentAliasSection::new();
    aliases.alias(Alias::CoreInstanceExport {
        instance: *memory_instance,
        kind: ExportKind::Memory,
        name: memory_name,
    });
    out.section(&aliases);

    let mut lowered = CanonicalFunctionSection::new();
    lowered.lower(count.funcs, [CanonicalOption::Memory(count.core_memories)]);
    lowered.lower(count.funcs + 1, []);
    lowered.lower(count.funcs + 2, []);
    out.section(&lowered);

    let accessor = module(state, *memory_type);
    out.section(&ModuleSection(&accessor));

    let mut arguments = vec![(HOST_MODULE.to_owned(), ModuleArg::Instance(instances))];
    let mut named: Vec<u32> = state.globals.iter().map(|global| global.instance).collect();
    named.extend([*memory_instance]);
    named.extend(state.reset_preopens);
    named.sort_unstable();
    named.dedup();
    arguments
        .extend(named.into_iter().map(|index| (index.to_string(), ModuleArg::Instance(index))));
    let mut cores = InstanceSection::new();
    cores.export_items([
        (MEMORY, ExportKind::Func, count.core_funcs),
        (READ_GLOBAL, ExportKind::Func, count.core_funcs + 1),
        (WRITE_GLOBAL, ExportKind::Func, count.core_funcs + 2),
    ]);
    cores.instantiate(modules, arguments.iter().map(|(name, arg)| (name.as_str(), *arg)));
    out.section(&cores);

    let mut aliases = ComponentAliasSection::new();
    let mut lifted = CanonicalFunctionSection::new();
    let mut exports = ComponentExportSection::new();
    for (offset, (name, ty)) in (0..).zip([(SAVE, 4), (LOAD, 5), (RELEASE_HANDLES, 4)]) {
        aliases.alias(Alias::CoreInstanceExport {
            instance: instances + 1,
            kind: ExportKind::Func,
            name,
        });
        lifted.lift(count.core_funcs + 3 + offset, count.types + ty, []);
        exports.export(name, ComponentExportKind::Func, count.funcs + 3 + offset, None);
    }
    out.section(&aliases);
    out.section(&lifted);
    out.section(&exports);
}

/// Creates the core module.
fn module(state: &MutableState, memory: wasmparser::MemoryType) -> Module {
    let mut types = TypeSection::new();
    types.ty().function([ValType::I32, ValType::I32], []);
    types.ty().function([ValType::I32, ValType::I64], []);
    types.ty().function([ValType::I32], [ValType::I64]);
    types.ty().function([], []);
    types.ty().function([ValType::I32], [ValType::I32]);

    let (instance, _, name, _) = &state.memory;
    let mut imports = ImportSection::new();
    imports.import(HOST_MODULE, MEMORY, EntityType::Function(0));
    imports.import(HOST_MODULE, READ_GLOBAL, EntityType::Function(1));
    imports.import(HOST_MODULE, WRITE_GLOBAL, EntityType::Function(2));
    if let Some(instance) = state.reset_preopens {
        imports.import(&instance.to_string(), RESET_PREOPENS, EntityType::Function(3));
    }
    imports.import(
        &instance.to_string(),
        name,
        EntityType::Memory(MemoryType {
            minimum: memory.initial,
            maximum: memory.maximum,
            memory64: false,
            shared: false,
            page_size_log2: None,
        }),
    );
    for global in &state.globals {
        imports.import(
            &global.instance.to_string(),
            &global.name(),
            EntityType::Global(GlobalType {
                val_type: global.ty.val_type(),
                mutable: true,
                shared: false,
            }),
        );
    }

    let first = if state.reset_preopens.is_some() { 4 } else { 3 };
    let mut functions = FunctionSection::new();
    let mut exports = ExportSection::new();
    for (offset, (name, ty)) in (0..).zip([(SAVE, 3), (LOAD, 4), (RELEASE_HANDLES, 3)]) {
        functions.function(ty);
        exports.export(name, ExportKind::Func, first + offset);
    }
    let mut code = CodeSection::new();
    code.function(&save(state));
    code.function(&load(state));
    let mut release_handles = Function::new([]);
    if state.reset_preopens.is_some() {
        release_handles.instructions().call(3);
    }
    release_handles.instructions().end();
    code.function(&release_handles);

    let mut module = Module::new();
    module.section(&types).section(&imports).section(&functions).section(&exports).section(&code);
    module
}

/// Emits code that passes the complete memory to the host, which may read and fill it.
fn emit_pass_memory(function: &mut Function) {
    function.instructions().i32_const(0).memory_size(0).i32_const(16).i32_shl().call(0);
}

fn save(state: &MutableState) -> Function {
    let mut function = Function::new([]);
    for (number, global) in (0..).zip(&state.globals) {
        let mut code = function.instructions();
        code.i32_const(number).global_get(number.cast_unsigned());
        match global.ty {
            NumType::I32 => code.i64_extend_i32_u(),
            NumType::I64 => &mut code,
            NumType::F32 => code.i32_reinterpret_f32().i64_extend_i32_u(),
            NumType::F64 => code.i64_reinterpret_f64(),
        };
        code.call(1);
    }
    emit_pass_memory(&mut function);
    function.instructions().end();
    function
}

fn load(state: &MutableState) -> Function {
    let mut function = Function::new([]);
    function
        .instructions()
        // Grow the memory if it is smaller than the requested number of pages.
        .local_get(0)
        .memory_size(0)
        .i32_gt_u()
        .if_(BlockType::Empty)
        .local_get(0)
        .memory_size(0)
        .i32_sub()
        .memory_grow(0)
        .i32_const(-1)
        .i32_eq()
        .if_(BlockType::Empty)
        .i32_const(0)
        .return_()
        .end()
        .end();
    emit_pass_memory(&mut function);
    for (number, global) in (0..).zip(&state.globals) {
        let mut code = function.instructions();
        code.i32_const(number).call(2);
        match global.ty {
            NumType::I32 => code.i32_wrap_i64(),
            NumType::I64 => &mut code,
            NumType::F32 => code.i32_wrap_i64().f32_reinterpret_i32(),
            NumType::F64 => code.f64_reinterpret_i64(),
        };
        code.global_set(number.cast_unsigned());
    }
    function.instructions().i32_const(1).end();
    function
}
