//! The parser of core modules.

use std::collections::HashMap;
use std::ops::Range;

use anyhow::{Context as _, Result, bail};
use wasm_encoder::ExportKind;
use wasmparser::{
    CompositeInnerType, Data, Element, ExternalKind, FuncType, FunctionBody, Global, Import,
    KnownCustom, MemoryType, Name, NameSectionReader, Operator, Parser, Payload, Table, TypeRef,
};

/// A parsed core module.
#[derive(Default)]
pub struct Module<'a> {
    /// The position in the component.
    pub range: Range<usize>,
    pub types: Vec<FuncType>,
    pub imports: Vec<Import<'a>>,
    /// The types of the functions that the module defines.
    pub functions: Vec<u32>,
    pub tables: Vec<Table<'a>>,
    pub memories: Vec<MemoryType>,
    pub globals: Vec<Global<'a>>,
    pub exports: HashMap<(&'a str, Kind), u32>,
    pub elements: Vec<Element<'a>>,
    pub bodies: Vec<FunctionBody<'a>>,
    pub data: Vec<Data<'a>>,
    /// The names of functions, by their indices.
    pub names: HashMap<u32, &'a str>,
}

/// A patch: the name of a function, and the change of its code.
pub type FunctionPatch =
    (&'static str, for<'a> fn(&Function<'_>, Vec<Operator<'a>>) -> Result<Vec<Operator<'a>>>);

/// A function of a module.
pub struct Function<'m> {
    names: &'m HashMap<u32, &'m str>,
    index: u32,
}

impl Function<'_> {
    /// Reports whether this is the function of this name.
    pub fn is(&self, name: &str) -> bool {
        self.names.get(&self.index) == Some(&name)
    }

    /// Returns the index of another function of the same module.
    pub fn named(&self, name: &str) -> Result<u32> {
        let mut named = self.names.iter().filter(|(_, other)| **other == name);
        match (named.next(), named.next()) {
            (Some((index, _)), None) => Ok(*index),
            _ => bail!("there is no function {name}, or more than one"),
        }
    }
}

impl<'a> Module<'a> {
    pub fn parse(bytes: &'a [u8], range: Range<usize>) -> Result<Self> {
        let mut this = Self { range: range.clone(), ..Self::default() };
        let module = bytes.get(range).context("a module ends too early")?;
        for payload in Parser::new(0).parse_all(module) {
            this.section(payload?)?;
        }
        Ok(this)
    }

    pub fn function(&self, index: u32) -> Function<'_> {
        Function { names: &self.names, index }
    }

    /// Returns the imports of a kind, in the order of their indices.
    pub fn imported(&self, kind: Kind) -> impl Iterator<Item = &Import<'a>> {
        self.imports.iter().filter(move |import| kind.is_of(&import.ty))
    }

    fn section(&mut self, payload: Payload<'a>) -> Result<()> {
        match payload {
            Payload::TypeSection(section) => {
                for group in section {
                    for ty in group?.into_types() {
                        match ty.composite_type.inner {
                            CompositeInnerType::Func(ty) => self.types.push(ty),
                            _ => bail!("a module has a type that is not a function type"),
                        }
                    }
                }
            }
            Payload::ImportSection(section) => {
                self.imports = section.into_imports().collect::<Result<_, _>>()?;
                if self.imports.iter().any(|import| matches!(import.ty, TypeRef::Tag(_))) {
                    bail!("a module has exceptions");
                }
            }
            Payload::FunctionSection(section) => {
                self.functions = section.into_iter().collect::<Result<_, _>>()?;
            }
            Payload::TableSection(section) => {
                self.tables = section.into_iter().collect::<Result<_, _>>()?;
            }
            Payload::MemorySection(section) => {
                self.memories = section.into_iter().collect::<Result<_, _>>()?;
            }
            Payload::GlobalSection(section) => {
                self.globals = section.into_iter().collect::<Result<_, _>>()?;
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export?;
                    self.exports.insert((export.name, Kind::of(export.kind)?), export.index);
                }
            }
            Payload::ElementSection(section) => {
                self.elements = section.into_iter().collect::<Result<_, _>>()?;
            }
            Payload::DataSection(section) => {
                self.data = section.into_iter().collect::<Result<_, _>>()?;
            }
            Payload::CodeSectionEntry(body) => self.bodies.push(body),
            Payload::StartSection { .. } => bail!("a module has a start function"),
            Payload::TagSection(_) => bail!("a module has exceptions"),
            Payload::CustomSection(section) => {
                if let KnownCustom::Name(names) = section.as_known() {
                    self.function_names(names)?;
                }
            }
            // Information for the linker is no longer valid.
            Payload::Version { .. }
            | Payload::CodeSectionStart { .. }
            | Payload::DataCountSection { .. }
            | Payload::End(_) => {}
            other => bail!("a module has an unknown section: {other:?}"),
        }
        Ok(())
    }

    fn function_names(&mut self, names: NameSectionReader<'a>) -> Result<()> {
        for names in names {
            if let Name::Function(names) = names? {
                for naming in names {
                    let naming = naming?;
                    self.names.insert(naming.index, naming.name);
                }
            }
        }
        Ok(())
    }
}

/// The kind of an import or export.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Function,
    Table,
    Memory,
    Global,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Function, Kind::Table, Kind::Memory, Kind::Global];

    pub fn of(kind: ExternalKind) -> Result<Self> {
        Ok(match kind {
            ExternalKind::Func | ExternalKind::FuncExact => Self::Function,
            ExternalKind::Table => Self::Table,
            ExternalKind::Memory => Self::Memory,
            ExternalKind::Global => Self::Global,
            ExternalKind::Tag => bail!("exceptions are not supported"),
        })
    }

    pub fn encoded(self) -> ExportKind {
        match self {
            Self::Function => ExportKind::Func,
            Self::Table => ExportKind::Table,
            Self::Memory => ExportKind::Memory,
            Self::Global => ExportKind::Global,
        }
    }

    fn is_of(self, ty: &TypeRef) -> bool {
        match ty {
            TypeRef::Func(_) | TypeRef::FuncExact(_) => self == Self::Function,
            TypeRef::Table(_) => self == Self::Table,
            TypeRef::Memory(_) => self == Self::Memory,
            TypeRef::Global(_) => self == Self::Global,
            TypeRef::Tag(_) => false,
        }
    }
}
