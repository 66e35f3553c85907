//! A core module, taken apart.

use std::collections::HashMap;
use std::ops::Range;

use anyhow::{Context as _, Result, bail};
use wasm_encoder::ExportKind;
use wasmparser::{
    CompositeInnerType, Data, Element, ExternalKind, FuncType, FunctionBody, Global, Import,
    MemoryType, Parser, Payload, Table, TypeRef,
};

#[derive(Default)]
pub struct Module<'a> {
    /// Where it is in the component.
    pub range: Range<usize>,
    pub types: Vec<FuncType>,
    pub imports: Vec<Import<'a>>,
    /// The types of the functions that it defines.
    pub functions: Vec<u32>,
    pub tables: Vec<Table<'a>>,
    pub memories: Vec<MemoryType>,
    pub globals: Vec<Global<'a>>,
    pub exports: HashMap<(&'a str, Kind), u32>,
    pub elements: Vec<Element<'a>>,
    pub bodies: Vec<FunctionBody<'a>>,
    pub data: Vec<Data<'a>>,
    /// What the linker left about the names of its functions.
    pub names: Option<&'a [u8]>,
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

    /// The imports of a kind, in the order of their indices.
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
                            _ => bail!("a module has types that are none of functions"),
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
            Payload::CustomSection(section) if section.name() == "name" => {
                self.names = Some(section.data());
            }
            // Notes for the linker do not hold any more.
            Payload::Version { .. }
            | Payload::CodeSectionStart { .. }
            | Payload::DataCountSection { .. }
            | Payload::CustomSection(_)
            | Payload::End(_) => {}
            other => bail!("a module has an unknown section: {other:?}"),
        }
        Ok(())
    }
}

/// What can be imported and exported.
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
