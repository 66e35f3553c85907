//! Merges core modules into one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context as _, Result, bail, ensure};
use wasm_encoder::reencode::{self, Reencode};
use wasm_encoder::{
    CodeSection, ConstExpr, DataSection, ElementSection, Elements, ExportSection, FunctionSection,
    GlobalSection, ImportSection, MemorySection, TableSection, TypeSection,
};
use wasmparser::{DataKind, ElementItems, ElementKind, FuncType, Operator, TableInit};

use super::component::Definition;
use super::direct_calls;
use super::emit::{Export, IMPORT_MODULE};
use super::group::{Entity, Group};
use super::guard::{Changes, Patches};
use super::index_map::{GlobalUse, IndexMap, Value};
use super::missing_results;
use super::module::{FunctionPatch, Kind};

/// The module from which the libraries import what others of them define.
const LIBRARIES: &str = "env";

/// Merges the modules of a group. The names of the imports are their numbers.
pub fn merge(
    group: &Group<'_, '_>,
    imports: &[(Definition<'_>, usize, u32)],
    exports: &[Export<'_>],
    changes: &Changes,
    function_patches: &[FunctionPatch],
) -> Result<Vec<u8>> {
    let merger = Merger::new(group, imports, changes)?;
    let mut calls = Vec::new();
    for (callers, expected) in changes.expected {
        let expected = merger.named(expected)?;
        for caller in *callers {
            calls.push((merger.named(caller)?, expected));
        }
    }
    let without_result =
        changes.without_result.iter().map(|name| merger.named(name)).collect::<Result<Vec<_>>>()?;
    let module = merger.module(exports, function_patches)?;
    missing_results::add(&direct_calls::expect(&module, &calls)?, &without_result)
}

struct Merger<'g, 'c, 'a> {
    group: &'g Group<'c, 'a>,
    imports: &'g [(Definition<'a>, usize, u32)],
    types: Vec<FuncType>,
    /// The first indices of the definitions of each member.
    first: Vec<FirstIndices>,
    /// The index map of each member.
    maps: Vec<IndexMap>,
    /// The globals of each member.
    globals: Vec<Vec<Entity<'a>>>,
    /// The initial values of globals, by member and number.
    values: BTreeMap<(usize, u32), Value>,
    patches: Patches,
}

#[derive(Clone, Copy)]
struct FirstIndices {
    function: u32,
    table: u32,
    memory: u32,
}

impl<'g, 'c, 'a> Merger<'g, 'c, 'a> {
    fn new(
        group: &'g Group<'c, 'a>,
        imports: &'g [(Definition<'a>, usize, u32)],
        changes: &Changes,
    ) -> Result<Self> {
        let mut next =
            FirstIndices { function: u32::try_from(imports.len())?, table: 0, memory: 0 };
        let mut first = Vec::new();
        for member in &group.members {
            first.push(next);
            next.function += u32::try_from(member.module.functions.len())?;
            next.table += u32::try_from(member.module.tables.len())?;
            next.memory += u32::try_from(member.module.memories.len())?;
        }
        let mut this = Self {
            group,
            imports,
            types: Vec::new(),
            first,
            maps: Vec::new(),
            globals: Vec::new(),
            values: BTreeMap::new(),
            patches: Patches::find(group, changes)?,
        };
        let mut known = HashMap::new();
        let outer: HashMap<_, u32> =
            imports.iter().map(|(definition, ..)| *definition).zip(0..).collect();
        for (number, member) in group.members.iter().enumerate() {
            let mut map = IndexMap::default();
            for ty in &member.module.types {
                map.types.push(*known.entry(ty.clone()).or_insert_with(|| {
                    this.types.push(ty.clone());
                    u32::try_from(this.types.len() - 1).unwrap_or(u32::MAX)
                }));
            }
            let indices = |kind, defined: usize| -> Result<Vec<u32>> {
                let own = (0..u32::try_from(defined)?)
                    .map(|own| Entity::Defined { member: number, number: own });
                let all = group.imported(number, kind)?.into_iter().chain(own);
                all.map(|entity| this.index(kind, entity, &outer)).collect()
            };
            let module = member.module;
            map.functions = indices(Kind::Function, module.functions.len())?;
            map.tables = indices(Kind::Table, module.tables.len())?;
            map.memories = indices(Kind::Memory, module.memories.len())?;
            // Added functions follow the definitions of the members.
            for (index, (import, _)) in (next.function..).zip(this.patches.added(number)) {
                let known = &mut map.functions[*import as usize];
                map.replaced.insert(*import, std::mem::replace(known, index));
            }
            this.maps.push(map);
        }
        for (old, new) in changes.replaced {
            this.replace(old, new).with_context(|| format!("replacing {old}"))?;
        }
        Ok(this)
    }

    /// Returns the index of the only function of a name, which need not be exported.
    fn named(&self, name: &str) -> Result<u32> {
        let mut found = Vec::new();
        for (map, member) in self.maps.iter().zip(&self.group.members) {
            let imported = member.module.imported(Kind::Function).count();
            let named = member.module.names.iter().filter(|(_, other)| **other == name);
            let own = named.filter(|(index, _)| **index as usize >= imported);
            found.extend(own.map(|(index, _)| map.original_function(*index)));
        }
        match found[..] {
            [one] => Ok(one),
            _ => bail!("{} functions are named {name} instead of one", found.len()),
        }
    }

    /// Replaces the function that members import by a name, except in the member that
    /// exports the new one.
    fn replace(&mut self, old: &str, new: &str) -> Result<()> {
        let old = self.imported(old)?;
        let (owner, new) = self.exported(new)?;
        for (number, map) in self.maps.iter_mut().enumerate() {
            if number != owner {
                for function in map.functions.iter_mut().chain(map.replaced.values_mut()) {
                    if *function == old {
                        *function = new;
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the index of the function that members import from each other by a name.
    fn imported(&self, name: &str) -> Result<u32> {
        let mut found = BTreeSet::new();
        for (map, member) in self.maps.iter().zip(&self.group.members) {
            for (index, import) in (0..).zip(member.module.imported(Kind::Function)) {
                if import.module == LIBRARIES && import.name == name {
                    found.insert(map.original_function(index));
                }
            }
        }
        match found.len() {
            1 => found.pop_first().context("no import"),
            count => bail!("libraries import {count} functions named {name} instead of one"),
        }
    }

    /// Finds the only member that defines and exports a function, and the function's index.
    fn exported(&self, name: &str) -> Result<(usize, u32)> {
        let mut found = Vec::new();
        for (number, member) in self.group.members.iter().enumerate() {
            let imported = member.module.imported(Kind::Function).count();
            match member.module.exports.get(&(name, Kind::Function)) {
                Some(index) if *index as usize >= imported => {
                    found.push((number, self.maps[number].functions[*index as usize]));
                }
                _ => {}
            }
        }
        match found[..] {
            [one] => Ok(one),
            _ => bail!("{} libraries define {name} instead of one", found.len()),
        }
    }

    fn index(
        &self,
        kind: Kind,
        entity: Entity<'a>,
        outer: &HashMap<Definition<'a>, u32>,
    ) -> Result<u32> {
        match entity {
            Entity::External(definition) => {
                outer.get(&definition).copied().context("an import is not defined")
            }
            Entity::Defined { member, number } => {
                let first = &self.first[member];
                Ok(number
                    + match kind {
                        Kind::Function => first.function,
                        Kind::Table => first.table,
                        Kind::Memory => first.memory,
                        Kind::Global => bail!("globals have uses, not indices"),
                    })
            }
        }
    }

    fn module(
        mut self,
        exports: &[Export<'_>],
        function_patches: &[FunctionPatch],
    ) -> Result<Vec<u8>> {
        let globals = self.globals(exports)?;
        self.find_text()?;
        let mut module = wasm_encoder::Module::new();
        module
            .section(&self.type_section()?)
            .section(&self.import_section())
            .section(&self.function_section())
            .section(&self.table_section()?)
            .section(&self.memory_section()?)
            .section(&globals)
            .section(&self.export_section(exports)?)
            .section(&self.element_section()?)
            .section(&self.code_section(function_patches)?)
            .section(&self.data_section()?);
        Ok(module.finish())
    }

    /// Decides which globals are kept, and replaces the others by constants.
    fn globals(&mut self, exports: &[Export<'_>]) -> Result<GlobalSection> {
        let group = self.group;
        let kind = Kind::Global;
        for (number, member) in group.members.iter().enumerate() {
            let own = (0..u32::try_from(member.module.globals.len())?)
                .map(|global| Entity::Defined { member: number, number: global });
            self.globals.push(group.imported(number, kind)?.into_iter().chain(own).collect());
        }
        let mut kept: BTreeSet<_> = exports
            .iter()
            .filter(|export| export.kind == kind)
            .map(|export| export.entity)
            .collect();
        for (member, entities) in group.members.iter().zip(&self.globals) {
            for body in &member.module.bodies {
                for operator in body.get_operators_reader()? {
                    if let Operator::GlobalSet { global_index } = operator? {
                        kept.insert(entities[global_index as usize]);
                    }
                }
            }
        }
        let mut section = GlobalSection::new();
        let mut uses = BTreeMap::new();
        for (member, instance) in group.members.iter().enumerate() {
            for (number, global) in (0..).zip(&instance.module.globals) {
                let entity = &Entity::Defined { member, number };
                let value = self.value(member, &global.init_expr)?;
                self.values.insert((member, number), value);
                let used = if kept.contains(entity) {
                    let ty = self.maps[member].global_type(global.ty).map_err(parse_error)?;
                    section.global(ty, &value.expression());
                    GlobalUse::Global(section.len() - 1)
                } else {
                    GlobalUse::Constant(value)
                };
                uses.insert(*entity, used);
            }
        }
        for (map, entities) in self.maps.iter_mut().zip(&self.globals) {
            let used = |entity| uses.get(entity).copied().context("a global is not defined");
            map.globals = entities.iter().map(used).collect::<Result<_>>()?;
        }
        Ok(section)
    }

    /// Evaluates a constant expression of a member.
    fn value(&self, member: usize, expression: &wasmparser::ConstExpr<'_>) -> Result<Value> {
        let mut stack = Vec::new();
        for operator in expression.get_operators_reader() {
            let value = match operator? {
                Operator::I32Const { value } => Value::I32(value),
                Operator::I64Const { value } => Value::I64(value),
                Operator::F32Const { value } => Value::F32(value.bits()),
                Operator::F64Const { value } => Value::F64(value.bits()),
                Operator::GlobalGet { global_index } => {
                    let Some(Entity::Defined { member, number }) =
                        self.globals[member].get(global_index as usize)
                    else {
                        bail!("a global is not defined");
                    };
                    *self
                        .values
                        .get(&(*member, *number))
                        .context("a global is defined after its use")?
                }
                Operator::I32Add => match (stack.pop(), stack.pop()) {
                    (Some(Value::I32(b)), Some(Value::I32(a))) => Value::I32(a.wrapping_add(b)),
                    _ => bail!("an addition needs two i32 values"),
                },
                Operator::End => break,
                other => bail!("a constant expression with {other:?} is not supported"),
            };
            stack.push(value);
        }
        match stack[..] {
            [value] => Ok(value),
            _ => bail!("a constant expression has {} values instead of 1", stack.len()),
        }
    }

    /// Returns the value of an offset expression.
    fn offset(&self, member: usize, expression: &wasmparser::ConstExpr<'_>) -> Result<ConstExpr> {
        match self.value(member, expression)? {
            value @ Value::I32(_) => Ok(value.expression()),
            _ => bail!("an offset is not an i32"),
        }
    }

    fn find_text(&mut self) -> Result<()> {
        let mut data = Vec::new();
        for (number, member) in self.group.members.iter().enumerate() {
            for segment in &member.module.data {
                if let DataKind::Active { offset_expr, .. } = &segment.kind
                    && let Value::I32(offset) = self.value(number, offset_expr)?
                {
                    data.push((offset.cast_unsigned(), segment.data));
                }
            }
        }
        self.patches.find_text(data)
    }

    fn type_section(&mut self) -> Result<TypeSection> {
        let mut section = TypeSection::new();
        for ty in &self.types {
            let ty = IndexMap::default().func_type(ty.clone()).map_err(parse_error)?;
            section.ty().func_type(&ty);
        }
        Ok(section)
    }

    fn import_section(&self) -> ImportSection {
        let mut section = ImportSection::new();
        for (number, (_, member, ty)) in self.imports.iter().enumerate() {
            let ty = self.maps[*member].types[*ty as usize];
            section.import(
                IMPORT_MODULE,
                &number.to_string(),
                wasm_encoder::EntityType::Function(ty),
            );
        }
        section
    }

    fn function_section(&self) -> FunctionSection {
        let mut section = FunctionSection::new();
        for (map, member) in self.maps.iter().zip(&self.group.members) {
            for ty in &member.module.functions {
                section.function(map.types[*ty as usize]);
            }
        }
        for (number, map) in self.maps.iter().enumerate() {
            for (_, ty) in self.patches.added(number) {
                section.function(map.types[*ty as usize]);
            }
        }
        section
    }

    fn table_section(&mut self) -> Result<TableSection> {
        let mut section = TableSection::new();
        for (map, member) in self.maps.iter_mut().zip(&self.group.members) {
            for table in &member.module.tables {
                let TableInit::RefNull = table.init else { bail!("a table has an initial value") };
                section.table(map.table_type(table.ty).map_err(parse_error)?);
            }
        }
        Ok(section)
    }

    fn memory_section(&mut self) -> Result<MemorySection> {
        let mut section = MemorySection::new();
        for (map, member) in self.maps.iter_mut().zip(&self.group.members) {
            for memory in &member.module.memories {
                section.memory(map.memory_type(*memory).map_err(parse_error)?);
            }
        }
        Ok(section)
    }

    fn export_section(&self, exports: &[Export<'_>]) -> Result<ExportSection> {
        let mut section = ExportSection::new();
        for export in exports {
            let Entity::Defined { member, number } = export.entity else {
                bail!("{} is not defined in the group", export.name);
            };
            let module = self.group.members[member].module;
            let imported = module.imported(export.kind).count();
            let at = imported + number as usize;
            let map = &self.maps[member];
            let index = match export.kind {
                Kind::Function => map.functions[at],
                Kind::Table => map.tables[at],
                Kind::Memory => map.memories[at],
                Kind::Global => match map.globals[at] {
                    GlobalUse::Global(index) => index,
                    GlobalUse::Constant(_) => {
                        bail!("the exported global {} was replaced by a constant", export.name)
                    }
                },
            };
            section.export(&export.name, export.kind.encoded(), index);
        }
        Ok(section)
    }

    fn element_section(&mut self) -> Result<ElementSection> {
        let mut section = ElementSection::new();
        for number in 0..self.maps.len() {
            for element in &self.group.members[number].module.elements {
                let functions: Vec<u32> = match &element.items {
                    ElementItems::Functions(functions) => {
                        functions.clone().into_iter().collect::<Result<_, _>>()?
                    }
                    ElementItems::Expressions(_, expressions) => expressions
                        .clone()
                        .into_iter()
                        .map(|item| function(&item?))
                        .collect::<Result<_>>()?,
                };
                let functions: Vec<u32> = functions
                    .iter()
                    .map(|index| self.maps[number].functions[*index as usize])
                    .collect();
                let elements = Elements::Functions(functions.into());
                match &element.kind {
                    ElementKind::Active { table_index, offset_expr } => {
                        let offset = self.offset(number, offset_expr)?;
                        let table = self.maps[number].tables[table_index.unwrap_or(0) as usize];
                        section.active((table != 0).then_some(table), &offset, elements);
                    }
                    ElementKind::Declared => {
                        section.declared(elements);
                    }
                    ElementKind::Passive => bail!("a module has passive elements"),
                }
            }
        }
        Ok(section)
    }

    fn code_section(&mut self, function_patches: &[FunctionPatch]) -> Result<CodeSection> {
        let mut section = CodeSection::new();
        let mut applied = 0;
        let members = self.maps.iter_mut().zip(&self.group.members);
        for (number, (map, member)) in members.enumerate() {
            let first = u32::try_from(member.module.imported(Kind::Function).count())?;
            for (own, body) in (0..).zip(&member.module.bodies) {
                let function = member.module.function(first + own);
                let patch = function_patches.iter().find(|(name, _)| function.is(name));
                let changed = self.patches.body(map, number, own, member.module)?;
                match (changed, patch) {
                    (None, None) => {
                        map.parse_function_body(&mut section, body.clone()).map_err(parse_error)?;
                    }
                    (Some(changed), None) => {
                        section.function(&changed);
                    }
                    (None, Some((name, patch))) => {
                        let code =
                            body.get_operators_reader()?.into_iter().collect::<Result<_, _>>()?;
                        let code =
                            patch(&function, code).with_context(|| format!("changing {name}"))?;
                        let mut patched =
                            map.new_function_with_parsed_locals(body).map_err(parse_error)?;
                        for operator in code {
                            patched.instruction(&map.instruction(operator).map_err(parse_error)?);
                        }
                        section.function(&patched);
                        applied += 1;
                    }
                    (Some(_), Some((name, _))) => bail!("{name} has two changes"),
                }
            }
        }
        for (number, (map, member)) in self.maps.iter().zip(&self.group.members).enumerate() {
            for (import, ty) in self.patches.added(number) {
                let parameters = member.module.types[*ty as usize].params().len();
                let parameters = u32::try_from(parameters)?;
                section.function(&self.patches.allocator(map, *import, parameters));
            }
        }
        ensure!(
            applied == function_patches.len(),
            "{applied} functions were changed instead of {}",
            function_patches.len()
        );
        Ok(section)
    }

    fn data_section(&self) -> Result<DataSection> {
        let mut section = DataSection::new();
        for (number, member) in self.group.members.iter().enumerate() {
            for data in &member.module.data {
                let DataKind::Active { memory_index, offset_expr } = &data.kind else {
                    bail!("a module has passive data");
                };
                let offset = self.offset(number, offset_expr)?;
                let memory = self.maps[number].memories[*memory_index as usize];
                section.active(memory, &offset, data.data.iter().copied());
            }
        }
        Ok(section)
    }
}

/// Returns the function to which an expression refers.
fn function(expression: &wasmparser::ConstExpr<'_>) -> Result<u32> {
    let operators: Vec<_> =
        expression.get_operators_reader().into_iter().collect::<Result<_, _>>()?;
    match operators[..] {
        [Operator::RefFunc { function_index }, Operator::End] => Ok(function_index),
        _ => bail!("an element is not a function"),
    }
}

fn parse_error(error: reencode::Error<std::convert::Infallible>) -> anyhow::Error {
    anyhow::anyhow!("a module cannot be read: {error}")
}
