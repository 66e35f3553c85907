//! Writes the component with the merged module in place of the modules of the group.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context as _, Result, bail, ensure};
use wasm_encoder::reencode::{self, Reencode, ReencodeComponent};
use wasm_encoder::{
    Alias, CanonicalFunctionSection, ComponentAliasSection, ComponentSectionId, ExportKind,
    InstanceSection, ModuleArg, RawSection,
};
use wasmparser::CanonicalFunction;

use super::component::{Definition, Instance, Item};
use super::group::{Entity, Group, operands};
use super::module::Kind;

/// The module name of all imports of the merged module.
pub const IMPORT_MODULE: &str = "outside";

/// The written component.
pub struct Emitted<'a> {
    pub bytes: Vec<u8>,
    /// The exports that the merged module must have.
    pub exports: Vec<Export<'a>>,
}

/// An export of the merged module.
pub struct Export<'a> {
    pub name: String,
    pub kind: Kind,
    pub entity: Entity<'a>,
}

/// The function of wasi-libc that discards the list of mounted directories, for
/// snapshots. The host finds it by name; nothing in the component calls it.
const RESET_PREOPENS: &str = "__wasilibc_reset_preopens";

/// Writes the component. Items that do not belong to core WebAssembly stay in their
/// order, and so keep their indices. Core items are written when they are needed,
/// but not before the position at which the last member of the group was
/// instantiated.
pub fn emit<'a>(
    group: &Group<'_, 'a>,
    imports: &[(Definition<'a>, usize, u32)],
    module: &[u8],
) -> Result<Emitted<'a>> {
    let mut emitter = Emitter {
        group,
        out: wasm_encoder::Component::new(),
        count: ItemCounts::default(),
        modules: HashMap::new(),
        instances: HashMap::new(),
        merged: None,
        known: HashMap::new(),
        exports: Vec::new(),
    };
    let last = group.members.last().context("nothing to merge")?.instance;
    let outside: BTreeSet<u32> = (0..)
        .zip(&group.component.instances)
        .filter_map(|(index, instance)| match instance {
            Instance::Module { module, .. } if !group.contains(index) => Some(*module),
            _ => None,
        })
        .collect();
    let mut waiting = Vec::new();
    for item in &group.component.items {
        match item {
            Item::Section { id, range } => {
                let data = &group.component.bytes[range.clone()];
                emitter.out.section(&RawSection { id: *id, data });
            }
            Item::Alias(alias) => emitter.alias(alias)?,
            Item::Module(module) if outside.contains(module) => emitter.module(*module),
            Item::Module(_) => {}
            Item::Instance(instance) if *instance == last => {
                emitter.merged(imports, module)?;
                for instance in std::mem::take(&mut waiting) {
                    emitter.instance(instance)?;
                }
            }
            Item::Instance(instance) => match group.component.instance(*instance)? {
                Instance::Module { .. } if group.contains(*instance) => {}
                Instance::Module { .. } if emitter.merged.is_none() => waiting.push(*instance),
                Instance::Module { .. } => drop(emitter.instance(*instance)?),
                Instance::Exports(_) => {}
            },
            Item::Canonical(function @ CanonicalFunction::Lift { .. }) => {
                ensure!(
                    emitter.merged.is_some(),
                    "a function is lifted before the group is instantiated"
                );
                emitter.canonical(function)?;
            }
            // Created when it is needed.
            Item::Canonical(_) => {}
        }
    }
    Ok(Emitted { bytes: emitter.out.finish(), exports: emitter.exports })
}

struct Emitter<'g, 'c, 'a> {
    group: &'g Group<'c, 'a>,
    out: wasm_encoder::Component,
    count: ItemCounts,
    /// Old indices to new ones.
    modules: HashMap<u32, u32>,
    instances: HashMap<u32, u32>,
    /// The instance of the merged module.
    merged: Option<u32>,
    /// The new indices of entities that are already defined.
    known: HashMap<(Kind, Entity<'a>), u32>,
    exports: Vec<Export<'a>>,
}

/// The number of items of each kind.
#[derive(Default)]
struct ItemCounts {
    modules: u32,
    instances: u32,
    functions: u32,
    tables: u32,
    memories: u32,
    globals: u32,
}

impl<'a> Emitter<'_, '_, 'a> {
    fn alias(&mut self, alias: &wasmparser::ComponentAlias<'a>) -> Result<()> {
        let mut section = ComponentAliasSection::new();
        section.alias(Indices::default().component_alias(alias.clone()).map_err(parse_error)?);
        self.out.section(&section);
        Ok(())
    }

    fn module(&mut self, number: u32) {
        let range = self.group.component.modules[number as usize].range.clone();
        self.raw_module(&self.group.component.bytes[range]);
        self.modules.insert(number, self.count.modules - 1);
    }

    fn raw_module(&mut self, data: &[u8]) {
        self.out.section(&RawSection { id: ComponentSectionId::CoreModule as u8, data });
        self.count.modules += 1;
    }

    /// Writes the merged module, and its instance.
    fn merged(&mut self, imports: &[(Definition<'a>, usize, u32)], module: &[u8]) -> Result<()> {
        let mut items = Vec::new();
        for (number, (definition, ..)) in imports.iter().enumerate() {
            let index = self.definition(Kind::Function, *definition)?;
            items.push((number.to_string(), ExportKind::Func, index));
        }
        self.raw_module(module);
        let mut section = InstanceSection::new();
        section
            .export_items(items.iter().map(|(name, kind, index)| (name.as_str(), *kind, *index)));
        let exports = ModuleArg::Instance(self.count.instances);
        section.instantiate(self.count.modules - 1, [(IMPORT_MODULE, exports)]);
        self.out.section(&section);
        self.count.instances += 2;
        self.merged = Some(self.count.instances - 1);
        for (number, member) in self.group.members.iter().enumerate() {
            let key = (RESET_PREOPENS, Kind::Function);
            if let Some(index) = member.module.exports.get(&key) {
                let entity = self.group.entity(number, Kind::Function, *index)?;
                self.exports.push(Export {
                    name: RESET_PREOPENS.to_owned(),
                    kind: Kind::Function,
                    entity,
                });
                break;
            }
        }
        Ok(())
    }

    /// Returns the index of an instance outside of the group, and writes it if needed.
    fn instance(&mut self, instance: u32) -> Result<u32> {
        if let Some(index) = self.instances.get(&instance) {
            return Ok(*index);
        }
        ensure!(
            !self.group.contains(instance),
            "an instance of the group is passed as an argument"
        );
        let mut section = InstanceSection::new();
        match self.group.component.instance(instance)? {
            Instance::Exports(exports) => {
                let mut items = Vec::new();
                for export in exports {
                    let kind = Kind::of(export.kind)?;
                    let definition = self.group.component.definition(kind, export.index)?;
                    items.push((export.name, kind.encoded(), self.definition(kind, definition)?));
                }
                section.export_items(items);
            }
            Instance::Module { module, args } => {
                let mut given = Vec::new();
                for (name, from) in args {
                    given.push((*name, ModuleArg::Instance(self.instance(*from)?)));
                }
                let module =
                    self.modules.get(module).context("a module is defined after its use")?;
                section.instantiate(*module, given);
            }
        }
        self.out.section(&section);
        self.instances.insert(instance, self.count.instances);
        self.count.instances += 1;
        Ok(self.count.instances - 1)
    }

    /// Returns the index of the entity of a definition, and writes its alias if needed.
    fn definition(&mut self, kind: Kind, definition: Definition<'a>) -> Result<u32> {
        let entity = self.group.resolve(kind, definition)?;
        if let Some(index) = self.known.get(&(kind, entity)) {
            return Ok(*index);
        }
        let (instance, name) = match entity {
            Entity::External(Definition::Canonical(item)) => {
                let Item::Canonical(function) = &self.group.component.items[item] else {
                    bail!("an item does not create a function");
                };
                self.canonical(function)?;
                self.known.insert((kind, entity), self.count.functions);
                self.count.functions += 1;
                return Ok(self.count.functions - 1);
            }
            Entity::External(Definition::Export { instance, name }) => {
                (self.instance(instance)?, name.to_owned())
            }
            Entity::Defined { .. } => {
                let merged = self.merged.context("the group depends on itself")?;
                let Definition::Export { name, .. } = definition else {
                    bail!("a member's export has no name");
                };
                (merged, self.export(kind, entity, name))
            }
        };
        let mut section = ComponentAliasSection::new();
        section.alias(Alias::CoreInstanceExport { instance, kind: kind.encoded(), name: &name });
        self.out.section(&section);
        let count = match kind {
            Kind::Function => &mut self.count.functions,
            Kind::Table => &mut self.count.tables,
            Kind::Memory => &mut self.count.memories,
            Kind::Global => &mut self.count.globals,
        };
        self.known.insert((kind, entity), *count);
        *count += 1;
        Ok(*count - 1)
    }

    /// Returns the name under which the merged module exports an entity.
    fn export(&mut self, kind: Kind, entity: Entity<'a>, name: &str) -> String {
        let same = |export: &&Export<'_>| export.kind == kind && export.entity == entity;
        if let Some(known) = self.exports.iter().find(same) {
            return known.name.clone();
        }
        let mut unused = name.to_owned();
        while self.exports.iter().any(|export| export.name == unused) {
            unused.push('\'');
        }
        self.exports.push(Export { name: unused.clone(), kind, entity });
        unused
    }

    fn canonical(&mut self, function: &CanonicalFunction) -> Result<()> {
        let mut indices = Indices::default();
        for (kind, old) in operands(function) {
            let definition = self.group.component.definition(kind, old)?;
            let new = self.definition(kind, definition)?;
            match kind {
                Kind::Memory => indices.memories.insert(old, new),
                _ => indices.functions.insert(old, new),
            };
        }
        let mut section = CanonicalFunctionSection::new();
        indices.parse_component_canonical(&mut section, function.clone()).map_err(parse_error)?;
        self.out.section(&section);
        Ok(())
    }
}

fn parse_error(error: reencode::Error<String>) -> anyhow::Error {
    anyhow::anyhow!("the component cannot be read: {error}")
}

/// Old indices of core functions and memories to new ones.
#[derive(Default)]
struct Indices {
    functions: HashMap<u32, u32>,
    memories: HashMap<u32, u32>,
}

impl Reencode for Indices {
    type Error = String;

    fn function_index(&mut self, index: u32) -> Result<u32, reencode::Error<String>> {
        let new = self.functions.get(&index).copied();
        new.ok_or_else(|| reencode::Error::UserError(format!("function {index} is not defined")))
    }

    fn memory_index(&mut self, index: u32) -> Result<u32, reencode::Error<String>> {
        let new = self.memories.get(&index).copied();
        new.ok_or_else(|| reencode::Error::UserError(format!("memory {index} is not defined")))
    }
}

impl ReencodeComponent for Indices {}
