//! The parts of a component that concern core modules.

use std::ops::Range;

use anyhow::{Context as _, Result, bail};
use wasmparser::{CanonicalFunction, ComponentAlias, Encoding, Export, Parser, Payload};

use super::module::{Kind, Module};

/// A parsed component.
pub struct Component<'a> {
    pub bytes: &'a [u8],
    /// The items in their order.
    pub items: Vec<Item<'a>>,
    pub modules: Vec<Module<'a>>,
    pub instances: Vec<Instance<'a>>,
    functions: Vec<Definition<'a>>,
    tables: Vec<Definition<'a>>,
    memories: Vec<Definition<'a>>,
    globals: Vec<Definition<'a>>,
}

/// An item of a component.
pub enum Item<'a> {
    /// A section that does not concern core modules.
    Section { id: u8, range: Range<usize> },
    /// An alias of an export of a component instance, or of an outer item.
    Alias(ComponentAlias<'a>),
    /// A core module, by index.
    Module(u32),
    /// A core instance, by index.
    Instance(u32),
    /// A canonical function: creates a core function, or lifts one.
    Canonical(CanonicalFunction),
}

/// A core instance.
pub enum Instance<'a> {
    /// An instance of a module.
    Module { module: u32, args: Vec<(&'a str, u32)> },
    /// An instance that consists of exports of other instances.
    Exports(Vec<Export<'a>>),
}

/// The definition of an item of core WebAssembly.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Definition<'a> {
    Export {
        instance: u32,
        name: &'a str,
    },
    /// A function that the item of this number creates.
    Canonical(usize),
}

impl<'a> Component<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut this = Self {
            bytes,
            items: Vec::new(),
            modules: Vec::new(),
            instances: Vec::new(),
            functions: Vec::new(),
            tables: Vec::new(),
            memories: Vec::new(),
            globals: Vec::new(),
        };
        // The nesting depth in modules and components of this one.
        let mut depth = 0_u32;
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload?;
            let opens =
                matches!(payload, Payload::ModuleSection { .. } | Payload::ComponentSection { .. });
            if depth == 0 {
                this.section(payload)?;
            } else if let Payload::End(_) = payload {
                depth -= 1;
            }
            depth += u32::from(opens);
        }
        Ok(this)
    }

    /// Returns the definition of an index in the index space of a kind.
    pub fn definition(&self, kind: Kind, index: u32) -> Result<Definition<'a>> {
        let space = match kind {
            Kind::Function => &self.functions,
            Kind::Table => &self.tables,
            Kind::Memory => &self.memories,
            Kind::Global => &self.globals,
        };
        space.get(index as usize).copied().context("an index is out of range")
    }

    pub fn instance(&self, index: u32) -> Result<&Instance<'a>> {
        self.instances.get(index as usize).context("an index is out of range")
    }

    fn section(&mut self, payload: Payload<'a>) -> Result<()> {
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } => {
                bail!("this is a module, not a component")
            }
            Payload::ModuleSection { unchecked_range, .. } => {
                self.items.push(Item::Module(u32::try_from(self.modules.len())?));
                self.modules.push(Module::parse(self.bytes, unchecked_range)?);
            }
            Payload::InstanceSection(section) => {
                for instance in section {
                    self.items.push(Item::Instance(u32::try_from(self.instances.len())?));
                    self.instances.push(Instance::new(instance?));
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    self.alias(alias?)?;
                }
            }
            Payload::ComponentCanonicalSection(section) => {
                for function in section {
                    let function = function?;
                    if !matches!(function, CanonicalFunction::Lift { .. }) {
                        self.functions.push(Definition::Canonical(self.items.len()));
                    }
                    self.items.push(Item::Canonical(function));
                }
            }
            // Custom sections are dropped: names of indices, which change, and the
            // producers.
            Payload::CustomSection(_) => {}
            other => {
                if let Some((id, range)) = other.as_section() {
                    self.items.push(Item::Section { id, range });
                }
            }
        }
        Ok(())
    }

    fn alias(&mut self, alias: ComponentAlias<'a>) -> Result<()> {
        let ComponentAlias::CoreInstanceExport { kind, instance_index: instance, name } = alias
        else {
            self.items.push(Item::Alias(alias));
            return Ok(());
        };
        let definition = Definition::Export { instance, name };
        match Kind::of(kind)? {
            Kind::Function => self.functions.push(definition),
            Kind::Table => self.tables.push(definition),
            Kind::Memory => self.memories.push(definition),
            Kind::Global => self.globals.push(definition),
        }
        Ok(())
    }
}

impl<'a> Instance<'a> {
    fn new(instance: wasmparser::Instance<'a>) -> Self {
        match instance {
            wasmparser::Instance::Instantiate { module_index, args } => Self::Module {
                module: module_index,
                args: args.iter().map(|arg| (arg.name, arg.index)).collect(),
            },
            wasmparser::Instance::FromExports(exports) => Self::Exports(exports.into_vec()),
        }
    }
}
