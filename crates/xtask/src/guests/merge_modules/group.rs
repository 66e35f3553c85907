//! The group of instances to merge, and the resolution of their imports.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context as _, Result, bail, ensure};
use wasmparser::{CanonicalFunction, CanonicalOption, Import, TypeRef};

use super::component::{Component, Definition, Instance, Item};
use super::module::{Kind, Module};

/// The instances whose modules are merged.
pub struct Group<'c, 'a> {
    pub component: &'c Component<'a>,
    /// The members in the order of their instantiation.
    pub members: Vec<Member<'c, 'a>>,
    /// Indices of instances to indices of members.
    numbers: HashMap<u32, usize>,
}

/// An instance of the group.
pub struct Member<'c, 'a> {
    pub instance: u32,
    pub module: &'c Module<'a>,
    args: &'c [(&'a str, u32)],
}

/// The entity to which a name or an index of a member refers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entity<'a> {
    /// A definition of a member: the member, and the number of the definition.
    Defined { member: usize, number: u32 },
    /// A definition outside of the group.
    External(Definition<'a>),
}

impl<'c, 'a> Group<'c, 'a> {
    /// Finds the group: the instances that share the table of the module with the
    /// memory, and those that depend on one of them and are needed by another.
    pub fn of(component: &'c Component<'a>) -> Result<Self> {
        let needs = needs(component)?;
        let modules: Vec<_> = (0..)
            .zip(&component.instances)
            .filter_map(|(index, instance)| match instance {
                Instance::Module { module, args } => Some((index, *module, args)),
                Instance::Exports(_) => None,
            })
            .collect();
        let module = |number: u32| {
            component.modules.get(number as usize).context("an index is out of range")
        };
        let mut chosen = BTreeSet::new();
        for (index, number, _) in &modules {
            if !module(*number)?.memories.is_empty() {
                chosen.insert(*index);
            }
        }
        ensure!(chosen.len() == 1, "{} modules have a memory", chosen.len());
        let main = chosen.clone();
        for (index, number, args) in &modules {
            let mut tables = module(*number)?.imported(Kind::Table);
            let sharing = tables.any(|import| {
                let from = args.iter().find(|(name, _)| *name == import.module);
                from.and_then(|(_, from)| owner(component, *from, import.name))
                    .is_some_and(|owner| main.contains(&owner))
            });
            if sharing {
                chosen.insert(*index);
            }
        }
        ensure!(chosen.len() > 1, "no modules share a table: there is nothing to merge");
        // Instances that need a member and are needed by another one are members, too.
        let between: Vec<u32> = modules
            .iter()
            .map(|(index, ..)| *index)
            .filter(|index| {
                needs[index].iter().any(|needed| chosen.contains(needed))
                    && chosen.iter().any(|member| needs[member].contains(index))
            })
            .collect();
        chosen.extend(between);

        let mut members = Vec::new();
        let mut used = BTreeSet::new();
        for (instance, number, args) in modules {
            let once = used.insert(number);
            if chosen.contains(&instance) {
                ensure!(once, "a module is instantiated twice");
                members.push(Member { instance, module: module(number)?, args });
            }
        }
        let numbers = (0..).zip(&members).map(|(number, member)| (member.instance, number));
        let numbers = numbers.collect();
        Ok(Self { component, members, numbers })
    }

    pub fn contains(&self, instance: u32) -> bool {
        self.numbers.contains_key(&instance)
    }

    /// Returns the entity of an index of a member.
    pub fn entity(&self, member: usize, kind: Kind, index: u32) -> Result<Entity<'a>> {
        let module = self.members[member].module;
        match module.imported(kind).nth(index as usize) {
            Some(import) => self.import(member, kind, import),
            None => {
                let imported = u32::try_from(module.imported(kind).count())?;
                Ok(Entity::Defined { member, number: index - imported })
            }
        }
    }

    /// Returns the entities of a kind that a member imports.
    pub fn imported(&self, member: usize, kind: Kind) -> Result<Vec<Entity<'a>>> {
        let imported = self.members[member].module.imported(kind);
        imported.map(|import| self.import(member, kind, import)).collect()
    }

    fn import(&self, member: usize, kind: Kind, import: &Import<'a>) -> Result<Entity<'a>> {
        let mut args = self.members[member].args.iter();
        let from = args.find(|(name, _)| *name == import.module);
        let (_, from) = from.with_context(|| format!("{} is not defined", import.module))?;
        self.export(*from, kind, import.name)
    }

    /// Returns the entity of a definition of the component.
    pub fn resolve(&self, kind: Kind, definition: Definition<'a>) -> Result<Entity<'a>> {
        match definition {
            Definition::Export { instance, name } => self.export(instance, kind, name),
            Definition::Canonical(_) => Ok(Entity::External(definition)),
        }
    }

    fn export(&self, instance: u32, kind: Kind, name: &'a str) -> Result<Entity<'a>> {
        if let Some(&member) = self.numbers.get(&instance) {
            let exports = &self.members[member].module.exports;
            let index = exports.get(&(name, kind)).with_context(|| format!("no export {name}"))?;
            return self.entity(member, kind, *index);
        }
        match self.component.instance(instance)? {
            Instance::Exports(exports) => {
                let export = exports.iter().find(|export| export.name == name);
                let export = export.with_context(|| format!("no export {name}"))?;
                self.resolve(kind, self.component.definition(kind, export.index)?)
            }
            Instance::Module { .. } => Ok(Entity::External(Definition::Export { instance, name })),
        }
    }

    /// Returns the functions that the members import from outside, each with a member
    /// that imports it, and the index of its type in that member.
    pub fn imports(&self) -> Result<Vec<(Definition<'a>, usize, u32)>> {
        let mut known = BTreeSet::new();
        let mut imports = Vec::new();
        for (number, member) in self.members.iter().enumerate() {
            for kind in Kind::ALL {
                let entities = self.imported(number, kind)?;
                for (import, entity) in member.module.imported(kind).zip(entities) {
                    let Entity::External(definition) = entity else { continue };
                    let (TypeRef::Func(ty) | TypeRef::FuncExact(ty)) = import.ty else {
                        bail!(
                            "{} {} is not a function, and is imported",
                            import.module,
                            import.name
                        );
                    };
                    if known.insert(definition) {
                        imports.push((definition, number, ty));
                    }
                }
            }
        }
        Ok(imports)
    }
}

/// Returns the instance whose module defines a table that an instance exports.
fn owner(component: &Component<'_>, instance: u32, name: &str) -> Option<u32> {
    match component.instances.get(instance as usize)? {
        Instance::Module { .. } => Some(instance),
        Instance::Exports(exports) => {
            let export = exports.iter().find(|export| export.name == name)?;
            match component.definition(Kind::Table, export.index).ok()? {
                Definition::Export { instance, name } => owner(component, instance, name),
                Definition::Canonical(_) => None,
            }
        }
    }
}

/// Returns for each instance all instances that it needs, directly or through others.
fn needs(component: &Component<'_>) -> Result<HashMap<u32, BTreeSet<u32>>> {
    let mut needs: HashMap<u32, BTreeSet<u32>> = HashMap::new();
    // Instances only need earlier ones.
    for (index, instance) in (0..).zip(&component.instances) {
        let mut direct = Vec::new();
        match instance {
            Instance::Module { args, .. } => direct.extend(args.iter().map(|(_, from)| *from)),
            Instance::Exports(exports) => {
                for export in exports {
                    let definition = component.definition(Kind::of(export.kind)?, export.index)?;
                    direct.extend(sources(component, definition)?);
                }
            }
        }
        let mut all = BTreeSet::new();
        for needed in direct {
            all.insert(needed);
            all.extend(needs.get(&needed).context("an instance depends on a later one")?);
        }
        needs.insert(index, all);
    }
    Ok(needs)
}

/// Returns the instances that a definition needs.
fn sources(component: &Component<'_>, definition: Definition<'_>) -> Result<Vec<u32>> {
    match definition {
        Definition::Export { instance, .. } => Ok(vec![instance]),
        Definition::Canonical(item) => {
            let Item::Canonical(function) = &component.items[item] else {
                bail!("an item does not create a function");
            };
            let mut sources = Vec::new();
            for (kind, index) in operands(function) {
                sources.extend(self::sources(component, component.definition(kind, index)?)?);
            }
            Ok(sources)
        }
    }
}

/// Returns the core functions and memories that a canonical function uses.
pub fn operands(function: &CanonicalFunction) -> Vec<(Kind, u32)> {
    let (function, options) = match function {
        CanonicalFunction::Lift { core_func_index, options, .. } => {
            (Some((Kind::Function, *core_func_index)), &options[..])
        }
        CanonicalFunction::Lower { options, .. } => (None, &options[..]),
        _ => (None, &[][..]),
    };
    let options = options.iter().filter_map(|option| match option {
        CanonicalOption::Memory(index) => Some((Kind::Memory, *index)),
        CanonicalOption::Realloc(index)
        | CanonicalOption::PostReturn(index)
        | CanonicalOption::Callback(index) => Some((Kind::Function, *index)),
        _ => None,
    });
    function.into_iter().chain(options).collect()
}
