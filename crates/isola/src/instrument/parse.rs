//! Parses a component and finds the parts of it that are mutable state.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
};

use wasm_encoder::{ExportKind, ExportSection, RawSection};
use wasmparser::{
    CanonicalFunction, ComponentAlias, ComponentExternalKind, ComponentOuterAliasKind, ConstExpr,
    DataKind, ElementItems, ElementKind, Encoding, ExternalKind, GlobalType, Instance, MemoryType,
    Operator, Parser, Payload, TypeRef, ValType,
};

/// The reason why a component cannot be instrumented.
pub(crate) type InstrumentError = String;

/// The parts of a component that instrumentation uses.
#[derive(Default)]
pub(super) struct ParsedComponent<'a> {
    pub(super) sections: Vec<Section>,
    pub(super) modules: Vec<Module<'a>>,
    pub(super) instances: Vec<CoreInstance<'a>>,
    /// The core globals by index: the instance and name of which each is an alias.
    globals: Vec<(u32, &'a str)>,
    pub(super) count: Count,
}

/// A section of a component.
pub(super) enum Section {
    Raw { id: u8, range: Range<usize> },
    Module(u32),
}

/// The number of definitions of each kind, which is the index of the next one.
#[derive(Default)]
pub(super) struct Count {
    pub(super) core_funcs: u32,
    pub(super) core_memories: u32,
    pub(super) funcs: u32,
    pub(super) types: u32,
}

/// A core instance: of a module, or made of exports.
pub(super) enum CoreInstance<'a> {
    Module { module: u32, args: HashMap<&'a str, u32> },
    FromExports { globals: HashMap<&'a str, u32> },
}

/// A core module.
#[derive(Default)]
pub(super) struct Module<'a> {
    sections: Vec<(u8, Range<usize>)>,
    imported_globals: Vec<(&'a str, &'a str)>,
    imported_funcs: u32,
    defined_globals: Vec<GlobalType>,
    memories: Vec<MemoryType>,
    imports_memory: bool,
    exports: Vec<(&'a str, ExternalKind, u32)>,
    /// The globals that its code sets.
    assigned_globals: BTreeSet<u32>,
    /// `true` if any of its code can run.
    reachable: bool,
    /// The bytes that its memory has at the start, by their address.
    data: Vec<(u32, &'a [u8])>,
}

/// The content of a guest's memory before any of its code runs: zeros, except for its data.
pub(crate) struct InitialMemory<'a> {
    /// The size of the memory in bytes.
    pub(crate) size: usize,
    /// Bytes by their address, in the order in which they are written.
    pub(crate) data: Vec<(usize, &'a [u8])>,
}

/// The state that a guest can change.
pub(super) struct MutableState {
    /// The memory: its instance and module, its name there, and its type.
    pub(super) memory: (u32, u32, String, MemoryType),
    pub(super) globals: Vec<Global>,
    /// The instance that exports [`RESET_PREOPENS`].
    pub(super) reset_preopens: Option<u32>,
}

/// A global that the code of its module sets.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Global {
    pub(super) instance: u32,
    module: u32,
    index: u32,
    pub(super) ty: NumType,
}

/// A number type of WebAssembly.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NumType {
    I32,
    I64,
    F32,
    F64,
}

impl Global {
    pub(super) fn name(&self) -> String {
        format!("isola-state-{}", self.index)
    }
}

/// The name of wasi-libc's function that drops the descriptors of preopened
/// directories, which it requests again when one is needed.
pub(super) const RESET_PREOPENS: &str = "__wasilibc_reset_preopens";

impl MutableState {
    /// Returns the names and indices of the globals that a module has to export.
    pub(super) fn exports(&self, module: u32) -> Vec<(String, u32)> {
        let own = self.globals.iter().filter(|global| global.module == module);
        own.map(|global| (global.name(), global.index)).collect()
    }
}

impl<'a> ParsedComponent<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, InstrumentError> {
        let mut this = Self::default();
        // The modules and components that contain the payload, except the outermost
        // component.
        let mut enclosing: Vec<Enclosing> = Vec::new();
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload.map_err(|error| format!("it cannot be read: {error}"))?;
            if enclosing.is_empty() {
                this.section(&payload)?;
            } else if matches!(enclosing.last(), Some(Enclosing::Module)) && enclosing.len() == 1 {
                let module = this.modules.last_mut().ok_or("a module is not defined")?;
                module.section(&payload)?;
            }
            match payload {
                Payload::ModuleSection { .. } if enclosing.is_empty() => {
                    enclosing.push(Enclosing::Module);
                }
                Payload::ModuleSection { .. } => {
                    return Err("a component within it has its own modules".into());
                }
                Payload::ComponentSection { .. } => enclosing.push(Enclosing::Component),
                Payload::End(_) => {
                    enclosing.pop();
                }
                _ => {}
            }
        }
        Ok(this)
    }

    fn section(&mut self, payload: &Payload<'a>) -> Result<(), InstrumentError> {
        let broken = |error| format!("it cannot be read: {error}");
        match payload {
            Payload::ModuleSection { .. } => {
                let index = u32::try_from(self.modules.len()).map_err(|_| "too many modules")?;
                self.sections.push(Section::Module(index));
                self.modules.push(Module::default());
            }
            other => {
                if let Some((id, range)) = other.as_section() {
                    self.sections.push(Section::Raw { id, range });
                }
            }
        }
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } => {
                return Err("it is a module, not a component".into());
            }
            Payload::InstanceSection(section) => {
                for instance in section.clone() {
                    self.instances.push(CoreInstance::new(instance.map_err(broken)?));
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section.clone() {
                    self.alias(alias.map_err(broken)?)?;
                }
            }
            Payload::ComponentCanonicalSection(section) => {
                for function in section.clone() {
                    match function.map_err(broken)? {
                        CanonicalFunction::Lift { .. } => self.count.funcs += 1,
                        _ => self.count.core_funcs += 1,
                    }
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section.clone() {
                    self.define(import.map_err(broken)?.ty.kind())?;
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section.clone() {
                    self.define(export.map_err(broken)?.kind)?;
                }
            }
            Payload::ComponentTypeSection(section) => {
                // The count is untrusted. Each type takes at least one byte.
                if section.count() as usize > section.range().len() {
                    return Err("the number of types is larger than the section".into());
                }
                self.count.types = self.count.types.saturating_add(section.count());
            }
            Payload::ComponentStartSection { .. } => {
                return Err("it has a start function".into());
            }
            _ => {}
        }
        Ok(())
    }

    fn alias(&mut self, alias: ComponentAlias<'a>) -> Result<(), InstrumentError> {
        match alias {
            ComponentAlias::CoreInstanceExport { kind, instance_index, name } => match kind {
                ExternalKind::Func | ExternalKind::FuncExact => self.count.core_funcs += 1,
                ExternalKind::Memory => self.count.core_memories += 1,
                ExternalKind::Global => self.globals.push((instance_index, name)),
                ExternalKind::Table | ExternalKind::Tag => {}
            },
            ComponentAlias::InstanceExport { kind, .. } => self.define(kind)?,
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::Type, .. } => {
                self.count.types += 1;
            }
            ComponentAlias::Outer { .. } => return Err("it takes modules from outside".into()),
        }
        Ok(())
    }

    fn define(&mut self, kind: ComponentExternalKind) -> Result<(), InstrumentError> {
        match kind {
            ComponentExternalKind::Func => self.count.funcs += 1,
            ComponentExternalKind::Type => self.count.types += 1,
            ComponentExternalKind::Instance => {}
            ComponentExternalKind::Module
            | ComponentExternalKind::Component
            | ComponentExternalKind::Value => {
                return Err("it imports modules, components or values".into());
            }
        }
        Ok(())
    }

    /// Returns the state that a guest can change in it.
    pub(super) fn state(&self) -> Result<MutableState, InstrumentError> {
        let mut memories = Vec::new();
        let mut globals = BTreeSet::new();
        let mut reset_preopens = None;
        let mut used = BTreeSet::new();
        for (instance, core_instance) in (0..).zip(&self.instances) {
            let CoreInstance::Module { module: number, .. } = core_instance else { continue };
            let module = self.module(*number)?;
            if !used.insert(*number) {
                return Err("a module in it is instantiated twice".into());
            }
            for (index, ty) in (0..).zip(&module.memories) {
                let name = module
                    .export(ExternalKind::Memory, index)
                    .ok_or("a module in it does not export its memory")?;
                memories.push((instance, *number, name.to_owned(), *ty));
            }
            if module.reachable {
                for &index in &module.assigned_globals {
                    globals.insert(self.resolve(instance, index)?);
                }
            }
            let resets = |(name, kind, _): &(&str, ExternalKind, u32)| {
                *name == RESET_PREOPENS && *kind == ExternalKind::Func
            };
            if module.exports.iter().any(resets) {
                reset_preopens = Some(instance);
            }
        }
        let memory = memories.pop().ok_or("it has no memory")?;
        if !memories.is_empty() {
            return Err("it has more than one memory".into());
        }
        if memory.3.memory64 || memory.3.shared || memory.3.page_size_log2.is_some() {
            return Err("its memory is 64-bit, shared or has an unusual page size".into());
        }
        Ok(MutableState { memory, globals: globals.into_iter().collect(), reset_preopens })
    }

    /// Returns the content that the memory has before any code runs.
    pub(super) fn initial_memory(
        &self,
        state: &MutableState,
    ) -> Result<InitialMemory<'a>, InstrumentError> {
        let (_, owner, _, ty) = &state.memory;
        let too_large = "its memory is larger than the address space";
        let size = ty.initial.checked_mul(WASM_PAGE_BYTES).ok_or(too_large)?;
        let size = usize::try_from(size).map_err(|_| too_large)?;
        let others = self.modules.iter().zip(0..).filter(|(_, index)| index != owner);
        if others.into_iter().any(|(module, _)| !module.data.is_empty()) {
            return Err("a module in it initializes the memory of another".into());
        }
        let mut data = Vec::new();
        for &(at, bytes) in &self.module(*owner)?.data {
            let at = at as usize;
            if at.checked_add(bytes.len()).is_none_or(|end| end > size) {
                return Err("its data is outside of its memory".into());
            }
            data.push((at, bytes));
        }
        Ok(InitialMemory { size, data })
    }

    fn module(&self, index: u32) -> Result<&Module<'a>, InstrumentError> {
        self.modules
            .get(index as usize)
            .ok_or_else(|| "it uses a module that is not defined".into())
    }

    /// Returns the definition of a global that an instance uses. An instance can use
    /// only earlier ones: a reference to itself or to a later one is invalid, and
    /// following it might not terminate.
    fn resolve(&self, instance: u32, index: u32) -> Result<Global, InstrumentError> {
        let undefined = UNDEFINED_GLOBAL;
        let Some(CoreInstance::Module { module: number, args }) =
            self.instances.get(instance as usize)
        else {
            return Err(undefined.into());
        };
        let module = self.module(*number)?;
        let Some((from, name)) = module.imported_globals.get(index as usize) else {
            let defined = (index as usize).saturating_sub(module.imported_globals.len());
            let ty = module.defined_globals.get(defined).ok_or(undefined)?.content_type;
            let ty = NumType::of(ty).ok_or("it changes a global that is not a number")?;
            return Ok(Global { instance, module: *number, index, ty });
        };
        self.resolve_export(instance, *args.get(from).ok_or(undefined)?, name)
    }

    fn resolve_export(
        &self,
        user: u32,
        instance: u32,
        name: &str,
    ) -> Result<Global, InstrumentError> {
        let undefined = UNDEFINED_GLOBAL;
        if instance >= user {
            return Err(undefined.into());
        }
        match self.instances.get(instance as usize).ok_or(undefined)? {
            CoreInstance::Module { module, .. } => {
                let exports = &self.module(*module)?.exports;
                let export = exports
                    .iter()
                    .find(|(own, kind, _)| *kind == ExternalKind::Global && *own == name)
                    .ok_or(undefined)?;
                self.resolve(instance, export.2)
            }
            CoreInstance::FromExports { globals } => {
                let index = *globals.get(name).ok_or(undefined)?;
                let (from, name) = self.globals.get(index as usize).ok_or(undefined)?;
                self.resolve_export(instance, *from, name)
            }
        }
    }
}

/// The granularity of a memory.
const WASM_PAGE_BYTES: u64 = 64 << 10;

/// The error for a global without a definition.
const UNDEFINED_GLOBAL: &str = "it uses a global that is not defined";

/// The kind of an enclosing module or component.
enum Enclosing {
    Module,
    Component,
}

impl<'a> CoreInstance<'a> {
    fn new(instance: Instance<'a>) -> Self {
        match instance {
            Instance::Instantiate { module_index, args } => Self::Module {
                module: module_index,
                args: args.iter().map(|arg| (arg.name, arg.index)).collect(),
            },
            Instance::FromExports(exports) => Self::FromExports {
                globals: exports
                    .iter()
                    .filter(|export| export.kind == ExternalKind::Global)
                    .map(|export| (export.name, export.index))
                    .collect(),
            },
        }
    }
}

impl NumType {
    fn of(ty: ValType) -> Option<Self> {
        Some(match ty {
            ValType::I32 => Self::I32,
            ValType::I64 => Self::I64,
            ValType::F32 => Self::F32,
            ValType::F64 => Self::F64,
            ValType::V128 | ValType::Ref(_) => return None,
        })
    }

    pub(super) fn val_type(self) -> wasm_encoder::ValType {
        match self {
            Self::I32 => wasm_encoder::ValType::I32,
            Self::I64 => wasm_encoder::ValType::I64,
            Self::F32 => wasm_encoder::ValType::F32,
            Self::F64 => wasm_encoder::ValType::F64,
        }
    }
}

impl<'a> Module<'a> {
    fn export(&self, kind: ExternalKind, index: u32) -> Option<&'a str> {
        self.exports
            .iter()
            .find(|export| export.1 == kind && export.2 == index)
            .map(|export| export.0)
    }

    fn section(&mut self, payload: &Payload<'a>) -> Result<(), InstrumentError> {
        let broken = |error| format!("it cannot be read: {error}");
        if let Some(section) = payload.as_section() {
            self.sections.push(section);
        }
        match payload {
            Payload::ImportSection(section) => {
                for import in section.clone().into_imports() {
                    let import = import.map_err(broken)?;
                    match import.ty {
                        TypeRef::Func(_) | TypeRef::FuncExact(_) => self.imported_funcs += 1,
                        TypeRef::Global(_) => {
                            self.imported_globals.push((import.module, import.name));
                        }
                        TypeRef::Memory(_) => self.imports_memory = true,
                        TypeRef::Table(_) | TypeRef::Tag(_) => {}
                    }
                }
            }
            Payload::MemorySection(section) => {
                for memory in section.clone() {
                    self.memories.push(memory.map_err(broken)?);
                }
                if self.imports_memory || self.memories.len() > 1 {
                    return Err("a module in it has more than one memory".into());
                }
            }
            Payload::GlobalSection(section) => {
                for global in section.clone() {
                    self.defined_globals.push(global.map_err(broken)?.ty);
                }
            }
            Payload::ExportSection(section) => {
                for export in section.clone() {
                    let export = export.map_err(broken)?;
                    self.reachable |=
                        matches!(export.kind, ExternalKind::Func | ExternalKind::FuncExact);
                    self.exports.push((export.name, export.kind, export.index));
                }
            }
            // It would run on a memory that has the state of another guest already.
            Payload::StartSection { .. } => {
                return Err("a module in it has a start function".into());
            }
            Payload::DataSection(section) => {
                for data in section.clone() {
                    let data = data.map_err(broken)?;
                    match data.kind {
                        DataKind::Active { memory_index: 0, offset_expr } => {
                            let at = constant(&offset_expr)
                                .ok_or("its data is not at a constant address")?;
                            self.data.push((at, data.data));
                        }
                        DataKind::Active { .. } => {
                            return Err("a module in it has more than one memory".into());
                        }
                        // No code uses it.
                        DataKind::Passive => {}
                    }
                }
            }
            Payload::ElementSection(section) => {
                for element in section.clone() {
                    let element = element.map_err(broken)?;
                    if matches!(element.kind, ElementKind::Passive) {
                        return Err("it has passive elements".into());
                    }
                    match element.items {
                        ElementItems::Functions(functions) => {
                            for function in functions {
                                self.reachable |= function.map_err(broken)? >= self.imported_funcs;
                            }
                        }
                        ElementItems::Expressions(..) => self.reachable = true,
                    }
                }
            }
            Payload::CodeSectionEntry(body) => {
                for operator in body.get_operators_reader().map_err(broken)? {
                    match operator.map_err(broken)? {
                        Operator::GlobalSet { global_index } => {
                            self.assigned_globals.insert(global_index);
                        }
                        Operator::TableSet { .. }
                        | Operator::TableGrow { .. }
                        | Operator::TableFill { .. }
                        | Operator::TableCopy { .. }
                        | Operator::TableInit { .. }
                        | Operator::ElemDrop { .. } => {
                            return Err("its code changes a table".into());
                        }
                        Operator::MemoryInit { .. } | Operator::DataDrop { .. } => {
                            return Err("its code uses passive data".into());
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns the module's bytes with the globals in `more` exported as well, and without
    /// its data unless that is kept.
    pub(super) fn with_exports(
        &self,
        bytes: &[u8],
        more: &[(String, u32)],
        keep_data: bool,
    ) -> Result<Vec<u8>, InstrumentError> {
        const DATA: [u8; 2] =
            [wasm_encoder::SectionId::Data as u8, wasm_encoder::SectionId::DataCount as u8];
        let mut out = wasm_encoder::Module::new();
        let mut pending = !more.is_empty();
        for (id, range) in &self.sections {
            if DATA.contains(id) && !keep_data {
                continue;
            }
            if *id == wasm_encoder::SectionId::Export as u8 && pending {
                pending = false;
                let mut exports = ExportSection::new();
                for (name, kind, index) in &self.exports {
                    exports.export(name, export_kind(*kind), *index);
                }
                for (name, index) in more {
                    exports.export(name, ExportKind::Global, *index);
                }
                out.section(&exports);
            } else {
                out.section(&RawSection { id: *id, data: part(bytes, range)? });
            }
        }
        if pending {
            return Err("a module in it changes globals and has no exports".into());
        }
        Ok(out.finish())
    }
}

/// Returns the value of an expression that consists of one number.
fn constant(expression: &ConstExpr<'_>) -> Option<u32> {
    let mut operators = expression.get_operators_reader().into_iter();
    let Some(Ok(Operator::I32Const { value })) = operators.next() else { return None };
    matches!(operators.next(), Some(Ok(Operator::End))).then_some(value.cast_unsigned())
}

fn export_kind(kind: ExternalKind) -> ExportKind {
    match kind {
        ExternalKind::Func | ExternalKind::FuncExact => ExportKind::Func,
        ExternalKind::Table => ExportKind::Table,
        ExternalKind::Memory => ExportKind::Memory,
        ExternalKind::Global => ExportKind::Global,
        ExternalKind::Tag => ExportKind::Tag,
    }
}

/// Returns the bytes of a section.
pub(super) fn part<'a>(bytes: &'a [u8], range: &Range<usize>) -> Result<&'a [u8], InstrumentError> {
    bytes.get(range.clone()).ok_or_else(|| "a section in it is truncated".into())
}
