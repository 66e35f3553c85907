//! One core module of many.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context as _, Result, bail, ensure};
use wasm_encoder::reencode::{self, Reencode};
use wasm_encoder::{
    CodeSection, ConstExpr, DataSection, ElementSection, Elements, ExportSection, FunctionSection,
    GlobalSection, ImportSection, Instruction, MemorySection, TableSection, TypeSection,
};
use wasmparser::{DataKind, ElementItems, ElementKind, FuncType, Operator, TableInit};

use super::component::Definition;
use super::emit::Export;
use super::group::{Entity, Group};
use super::guard::{Changes, Patches};
use super::module::{Kind, Mend};

/// The name under which the module imports all that it imports.
pub const OUTSIDE: &str = "outside";

/// The modules of a group as one. Its imports are named by their numbers.
pub fn merge(
    group: &Group<'_, '_>,
    imports: &[(Definition<'_>, usize, u32)],
    exports: &[Export<'_>],
    changes: &Changes,
    mends: &[Mend],
) -> Result<Vec<u8>> {
    let merger = Merger::new(group, imports, changes)?;
    merger.module(exports, mends)
}

struct Merger<'g, 'c, 'a> {
    group: &'g Group<'c, 'a>,
    imports: &'g [(Definition<'a>, usize, u32)],
    types: Vec<FuncType>,
    /// Where what each member defines begins.
    first: Vec<First>,
    /// How the indices of each member are to be read.
    maps: Vec<Map>,
    /// What the globals of each member are, and with which values they begin.
    globals: Vec<Vec<Entity<'a>>>,
    values: BTreeMap<(usize, u32), Value>,
    patches: Patches,
}

#[derive(Clone, Copy)]
struct First {
    function: u32,
    table: u32,
    memory: u32,
}

/// The indices of one member, in the module of all.
#[derive(Default)]
pub struct Map {
    types: Vec<u32>,
    functions: Vec<u32>,
    tables: Vec<u32>,
    memories: Vec<u32>,
    globals: Vec<Use>,
    /// Functions that others stand for: what they were.
    replaced: HashMap<u32, u32>,
}

/// What becomes of a global.
#[derive(Clone, Copy)]
enum Use {
    Global(u32),
    /// Nobody ever changes it.
    Constant(Value),
}

/// A number, by its bits.
#[derive(Clone, Copy)]
enum Value {
    I32(i32),
    I64(i64),
    F32(u32),
    F64(u64),
}

impl<'g, 'c, 'a> Merger<'g, 'c, 'a> {
    fn new(
        group: &'g Group<'c, 'a>,
        imports: &'g [(Definition<'a>, usize, u32)],
        changes: &Changes,
    ) -> Result<Self> {
        let mut next = First { function: u32::try_from(imports.len())?, table: 0, memory: 0 };
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
            let mut map = Map::default();
            for ty in &member.module.types {
                map.types.push(*known.entry(ty.clone()).or_insert_with(|| {
                    this.types.push(ty.clone());
                    u32::try_from(this.types.len() - 1).unwrap_or(u32::MAX)
                }));
            }
            let indices = |kind, defined: usize| -> Result<Vec<u32>> {
                let own = (0..u32::try_from(defined)?)
                    .map(|own| Entity::Own { member: number, number: own });
                let all = group.imported(number, kind)?.into_iter().chain(own);
                all.map(|entity| this.index(kind, entity, &outer)).collect()
            };
            let module = member.module;
            map.functions = indices(Kind::Function, module.functions.len())?;
            map.tables = indices(Kind::Table, module.tables.len())?;
            map.memories = indices(Kind::Memory, module.memories.len())?;
            // What is added comes after all that the members define.
            for (place, (import, _)) in (next.function..).zip(this.patches.added(number)) {
                let known = &mut map.functions[*import as usize];
                map.replaced.insert(*import, std::mem::replace(known, place));
            }
            this.maps.push(map);
        }
        Ok(this)
    }

    fn index(
        &self,
        kind: Kind,
        entity: Entity<'a>,
        outer: &HashMap<Definition<'a>, u32>,
    ) -> Result<u32> {
        match entity {
            Entity::Outer(definition) => {
                outer.get(&definition).copied().context("an import is nowhere")
            }
            Entity::Own { member, number } => {
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

    fn module(mut self, exports: &[Export<'_>], mends: &[Mend]) -> Result<Vec<u8>> {
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
            .section(&self.code_section(mends)?)
            .section(&self.data_section()?);
        Ok(module.finish())
    }

    /// Decides what becomes of the globals.
    fn globals(&mut self, exports: &[Export<'_>]) -> Result<GlobalSection> {
        let group = self.group;
        let kind = Kind::Global;
        for (member, what) in group.members.iter().enumerate() {
            let own = (0..u32::try_from(what.module.globals.len())?)
                .map(|number| Entity::Own { member, number });
            self.globals.push(group.imported(member, kind)?.into_iter().chain(own).collect());
        }
        let mut kept: BTreeSet<_> =
            exports.iter().filter(|export| export.kind == kind).map(|export| export.what).collect();
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
        for (member, what) in group.members.iter().enumerate() {
            for (number, global) in (0..).zip(&what.module.globals) {
                let entity = &Entity::Own { member, number };
                let value = self.value(member, &global.init_expr)?;
                self.values.insert((member, number), value);
                let used = if kept.contains(entity) {
                    let ty = self.maps[member].global_type(global.ty).map_err(unreadable)?;
                    section.global(ty, &value.expression());
                    Use::Global(section.len() - 1)
                } else {
                    Use::Constant(value)
                };
                uses.insert(*entity, used);
            }
        }
        for (map, entities) in self.maps.iter_mut().zip(&self.globals) {
            let used = |entity| uses.get(entity).copied().context("a global is nowhere");
            map.globals = entities.iter().map(used).collect::<Result<_>>()?;
        }
        Ok(section)
    }

    /// What an expression of a member gives before any code has run.
    fn value(&self, member: usize, expression: &wasmparser::ConstExpr<'_>) -> Result<Value> {
        let mut stack = Vec::new();
        for operator in expression.get_operators_reader() {
            let value = match operator? {
                Operator::I32Const { value } => Value::I32(value),
                Operator::I64Const { value } => Value::I64(value),
                Operator::F32Const { value } => Value::F32(value.bits()),
                Operator::F64Const { value } => Value::F64(value.bits()),
                Operator::GlobalGet { global_index } => {
                    let Some(Entity::Own { member, number }) =
                        self.globals[member].get(global_index as usize)
                    else {
                        bail!("a global is nowhere");
                    };
                    *self.values.get(&(*member, *number)).context("a global comes too late")?
                }
                Operator::I32Add => match (stack.pop(), stack.pop()) {
                    (Some(Value::I32(b)), Some(Value::I32(a))) => Value::I32(a.wrapping_add(b)),
                    _ => bail!("an addition of no two numbers"),
                },
                Operator::End => break,
                other => bail!("a constant expression with {other:?}"),
            };
            stack.push(value);
        }
        match stack[..] {
            [value] => Ok(value),
            _ => bail!("a constant expression of {} values", stack.len()),
        }
    }

    /// An expression that says where something is put.
    fn offset(&self, member: usize, expression: &wasmparser::ConstExpr<'_>) -> Result<ConstExpr> {
        match self.value(member, expression)? {
            value @ Value::I32(_) => Ok(value.expression()),
            _ => bail!("an offset that is no i32"),
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
            let ty = Map::default().func_type(ty.clone()).map_err(unreadable)?;
            section.ty().func_type(&ty);
        }
        Ok(section)
    }

    fn import_section(&self) -> ImportSection {
        let mut section = ImportSection::new();
        for (number, (_, member, ty)) in self.imports.iter().enumerate() {
            let ty = self.maps[*member].types[*ty as usize];
            section.import(OUTSIDE, &number.to_string(), wasm_encoder::EntityType::Function(ty));
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
                let TableInit::RefNull = table.init else { bail!("a table with a first value") };
                section.table(map.table_type(table.ty).map_err(unreadable)?);
            }
        }
        Ok(section)
    }

    fn memory_section(&mut self) -> Result<MemorySection> {
        let mut section = MemorySection::new();
        for (map, member) in self.maps.iter_mut().zip(&self.group.members) {
            for memory in &member.module.memories {
                section.memory(map.memory_type(*memory).map_err(unreadable)?);
            }
        }
        Ok(section)
    }

    fn export_section(&self, exports: &[Export<'_>]) -> Result<ExportSection> {
        let mut section = ExportSection::new();
        for export in exports {
            let Entity::Own { member, number } = export.what else {
                bail!("{} is not ours", export.name);
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
                    Use::Global(index) => index,
                    Use::Constant(_) => bail!("the global {} is gone", export.name),
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

    fn code_section(&mut self, mends: &[Mend]) -> Result<CodeSection> {
        let mut section = CodeSection::new();
        let mut made = 0;
        let members = self.maps.iter_mut().zip(&self.group.members);
        for (number, (map, member)) in members.enumerate() {
            let first = u32::try_from(member.module.imported(Kind::Function).count())?;
            for (own, body) in (0..).zip(&member.module.bodies) {
                let function = member.module.function(first + own);
                let mend = mends.iter().find(|(name, _)| function.is(name));
                let changed = self.patches.body(map, number, own, member.module)?;
                match (changed, mend) {
                    (None, None) => {
                        map.parse_function_body(&mut section, body.clone()).map_err(unreadable)?;
                    }
                    (Some(changed), None) => {
                        section.function(&changed);
                    }
                    (None, Some((name, mend))) => {
                        let code =
                            body.get_operators_reader()?.into_iter().collect::<Result<_, _>>()?;
                        let code =
                            mend(&function, code).with_context(|| format!("changing {name}"))?;
                        let mut mended =
                            map.new_function_with_parsed_locals(body).map_err(unreadable)?;
                        for operator in code {
                            mended.instruction(&map.instruction(operator).map_err(unreadable)?);
                        }
                        section.function(&mended);
                        made += 1;
                    }
                    (Some(_), Some((name, _))) => bail!("{name} would be changed twice"),
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
        ensure!(made == mends.len(), "{made} functions were changed instead of {}", mends.len());
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

/// The function that an expression refers to.
fn function(expression: &wasmparser::ConstExpr<'_>) -> Result<u32> {
    let operators: Vec<_> =
        expression.get_operators_reader().into_iter().collect::<Result<_, _>>()?;
    match operators[..] {
        [Operator::RefFunc { function_index }, Operator::End] => Ok(function_index),
        _ => bail!("an element that is no function"),
    }
}

fn unreadable(error: reencode::Error<std::convert::Infallible>) -> anyhow::Error {
    anyhow::anyhow!("a module cannot be read: {error}")
}

impl Value {
    fn expression(self) -> ConstExpr {
        match self {
            Value::I32(value) => ConstExpr::i32_const(value),
            Value::I64(value) => ConstExpr::i64_const(value),
            Value::F32(bits) => ConstExpr::f32_const(f32::from_bits(bits).into()),
            Value::F64(bits) => ConstExpr::f64_const(f64::from_bits(bits).into()),
        }
    }

    fn instruction(self) -> Instruction<'static> {
        match self {
            Value::I32(value) => Instruction::I32Const(value),
            Value::I64(value) => Instruction::I64Const(value),
            Value::F32(bits) => Instruction::F32Const(f32::from_bits(bits).into()),
            Value::F64(bits) => Instruction::F64Const(f64::from_bits(bits).into()),
        }
    }
}

impl Map {
    /// The function that calls of an index go to.
    pub fn function(&self, index: u32) -> u32 {
        self.functions[index as usize]
    }

    /// The function that an index meant before another took its place.
    pub fn real_function(&self, index: u32) -> u32 {
        self.replaced.get(&index).copied().unwrap_or_else(|| self.function(index))
    }

    /// The global of an index, if it is one that changes.
    pub fn kept_global(&self, index: u32) -> Option<u32> {
        match self.globals[index as usize] {
            Use::Global(index) => Some(index),
            Use::Constant(_) => None,
        }
    }
}

impl Reencode for Map {
    type Error = std::convert::Infallible;

    fn type_index(&mut self, index: u32) -> Result<u32, reencode::Error> {
        Ok(self.types[index as usize])
    }

    fn function_index(&mut self, index: u32) -> Result<u32, reencode::Error> {
        Ok(self.functions[index as usize])
    }

    fn table_index(&mut self, index: u32) -> Result<u32, reencode::Error> {
        Ok(self.tables[index as usize])
    }

    fn memory_index(&mut self, index: u32) -> Result<u32, reencode::Error> {
        Ok(self.memories[index as usize])
    }

    fn global_index(&mut self, index: u32) -> Result<u32, reencode::Error> {
        match self.globals[index as usize] {
            Use::Global(index) => Ok(index),
            // Only reading one is left, and that is what `instruction` replaces.
            Use::Constant(_) => Err(reencode::Error::InvalidConstExpr),
        }
    }

    fn instruction<'a>(&mut self, arg: Operator<'a>) -> Result<Instruction<'a>, reencode::Error> {
        if let Operator::GlobalGet { global_index } = arg
            && let Use::Constant(value) = self.globals[global_index as usize]
        {
            return Ok(value.instruction());
        }
        reencode::utils::instruction(self, arg)
    }
}
