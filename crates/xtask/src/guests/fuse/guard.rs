//! Functions of an interpreter that are changed while its libraries are merged.
//!
//! CPython bounds recursion in C by the address of its stack. In WebAssembly
//! that is only the stack in linear memory: return addresses, and all variables
//! whose address nobody takes, are on the engine's stack, which a program cannot
//! measure. A chain of calls that takes nothing of the one overflows the other,
//! and that ends the guest. So functions that are part of such chains take
//! something of the stack in memory here, in proportion to what they take of the
//! engine's; and those that check nothing get a check.
//!
//! The other change: where memory is refused, cyclic garbage is collected, and
//! the allocation is tried again.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, Result, bail, ensure};
use wasm_encoder::reencode::Reencode;
use wasm_encoder::{BlockType, Function, Instruction, ValType};
use wasmparser::{FunctionBody, Operator};

use super::group::Group;
use super::merge::Map;
use super::module::{Kind, Module};

/// What is changed in an interpreter.
pub struct Changes {
    /// Functions that check the stack. Whoever calls one takes part in recursion.
    pub checks: &'static [&'static str],
    /// Bytes that a call of these takes of the stack in memory.
    pub frame: u32,
    /// Others that take part, or that take more.
    pub guards: &'static [Guard],
    /// Imported functions that allocate, by the names that C gives them.
    pub allocators: &'static [&'static str],
}

/// A function that takes part in recursion.
#[derive(Clone, Copy)]
pub struct Guard {
    pub name: &'static str,
    /// Bytes that each of its calls takes of the stack in memory.
    pub frame: u32,
    /// What it returns where the stack is at its end, if it is to check that.
    pub refusal: Option<i32>,
}

/// Nothing: for a component without an interpreter.
#[cfg(test)]
pub const NOTHING: Changes = Changes { checks: &[], frame: 0, guards: &[], allocators: &[] };

/// Sets an exception and returns -1 where the stack is at its end.
const CHECK: &str = "Py_EnterRecursiveCall";
/// Collects cyclic garbage.
const COLLECT: &str = "PyGC_Collect";
/// An address of the stack in memory that is past the end that the interpreter
/// sets itself (16 KiB), and leaves it room to raise an exception (8 KiB).
const STACK_END: i32 = 12 * 1024;
/// The import by which a library knows the stack in memory.
const STACK: (&str, &str) = ("env", "__stack_pointer");
/// A text of the interpreter; the empty one at its end is what a check says.
const TEXT: &[u8] = b" while calling a Python object\0";

/// The changes, found in the members of a group.
#[derive(Default)]
pub struct Patches {
    /// The member that is the interpreter.
    member: usize,
    guards: BTreeMap<u32, Guard>,
    /// The functions that are wrapped: which import, and which type.
    allocators: Vec<(u32, u32)>,
    /// Functions of the interpreter, by their indices in it.
    check: u32,
    collect: u32,
    stack: u32,
    /// Where an empty text is, from the beginning of the interpreter's data.
    text: u32,
}

impl Patches {
    pub fn find(group: &Group<'_, '_>, changes: &Changes) -> Result<Self> {
        if changes.checks.is_empty() && changes.guards.is_empty() && changes.allocators.is_empty() {
            return Ok(Self::default());
        }
        let exported =
            |module: &Module<'_>, name| module.exports.get(&(name, Kind::Function)).copied();
        let (member, module) = group
            .members
            .iter()
            .map(|member| member.module)
            .enumerate()
            .find(|(_, module)| exported(module, CHECK).is_some())
            .context("no library is the interpreter")?;
        let names = names(module)?;
        let imported = u32::try_from(module.imported(Kind::Function).count())?;
        let named = |name: &str| {
            let index = names.get(name).copied();
            index.with_context(|| format!("the interpreter has no function {name}"))
        };
        let checks = changes.checks.iter().map(|name| named(name)).collect::<Result<Vec<_>>>()?;
        let mut guards = BTreeMap::new();
        for (own, body) in (0..).zip(&module.bodies) {
            if calls(body, &checks)? {
                let name = "a function that checks the stack";
                guards.insert(own, Guard { name, frame: changes.frame, refusal: None });
            }
        }
        for guard in changes.guards {
            let own = named(guard.name)?.checked_sub(imported).context("it is not its own")?;
            guards.insert(own, *guard);
        }
        let allocators = changes
            .allocators
            .iter()
            .map(|name| {
                let mut imports = (0..).zip(module.imported(Kind::Function));
                let found = imports.find(|(_, import)| import.name == *name);
                let (index, import) = found.with_context(|| format!("{name} is not imported"))?;
                let (wasmparser::TypeRef::Func(ty) | wasmparser::TypeRef::FuncExact(ty)) =
                    import.ty
                else {
                    bail!("{name} is no function");
                };
                Ok((index, ty))
            })
            .collect::<Result<_>>()?;
        let stack = (0..)
            .zip(module.imported(Kind::Global))
            .find(|(_, import)| (import.module, import.name) == STACK)
            .context("the interpreter knows no stack")?;
        Ok(Self {
            member,
            guards,
            allocators,
            check: exported(module, CHECK).context("no check")?,
            collect: exported(module, COLLECT).context("no garbage collector")?,
            stack: stack.0,
            text: 0,
        })
    }

    /// The types of the functions that are added, and the imports that they
    /// stand for in the interpreter.
    pub fn added(&self, member: usize) -> &[(u32, u32)] {
        if member == self.member { &self.allocators } else { &[] }
    }

    /// The body of a function, if it is one that is changed.
    pub fn body(
        &self,
        map: &mut Map,
        member: usize,
        number: u32,
        module: &Module<'_>,
    ) -> Result<Option<Function>> {
        if member != self.member {
            return Ok(None);
        }
        let Some(guard) = self.guards.get(&number) else { return Ok(None) };
        let body = &module.bodies[number as usize];
        let ty = &module.types[module.functions[number as usize] as usize];
        let block = match ty.results() {
            [] => BlockType::Empty,
            [one] => BlockType::Result(map.val_type(*one).map_err(unreadable)?),
            _ => bail!("{} has more than one result", guard.name),
        };
        let stack = map.kept_global(self.stack).context("nothing changes the stack")?;
        let mut locals = Vec::new();
        let mut saved = u32::try_from(ty.params().len())?;
        for local in body.get_locals_reader()? {
            let (count, ty) = local?;
            saved += count;
            locals.push((count, map.val_type(ty).map_err(unreadable)?));
        }
        locals.push((1, ValType::I32));
        let mut function = Function::new(locals);
        // What is left is never less than the check needs to see and to say it.
        let frame = guard.frame.cast_signed();
        function
            .instruction(&Instruction::GlobalGet(stack))
            .instruction(&Instruction::LocalTee(saved))
            .instruction(&Instruction::I32Const(frame))
            .instruction(&Instruction::I32Sub);
        if guard.refusal.is_some() {
            function
                .instruction(&Instruction::I32Const(STACK_END))
                .instruction(&Instruction::LocalGet(saved))
                .instruction(&Instruction::I32Const(frame + STACK_END))
                .instruction(&Instruction::I32GtS)
                .instruction(&Instruction::Select);
        }
        function
            .instruction(&Instruction::GlobalSet(stack))
            .instruction(&Instruction::Block(block));
        if let Some(refusal) = guard.refusal {
            ensure!(ty.results() == [wasmparser::ValType::I32], "{} cannot refuse", guard.name);
            function
                .instruction(&Instruction::I32Const(self.text.cast_signed()))
                .instruction(&Instruction::Call(map.function(self.check)))
                .instruction(&Instruction::If(BlockType::Empty))
                .instruction(&Instruction::I32Const(refusal))
                .instruction(&Instruction::Br(1))
                .instruction(&Instruction::End);
        }
        // What would leave the function leaves the block around it.
        let mut depth = 0;
        for operator in body.get_operators_reader()? {
            let operator = operator?;
            match operator {
                Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => depth += 1,
                Operator::End if depth > 0 => depth -= 1,
                Operator::Return => {
                    function.instruction(&Instruction::Br(depth));
                    continue;
                }
                Operator::ReturnCall { .. } | Operator::ReturnCallIndirect { .. } => {
                    bail!("{} ends with a call", guard.name)
                }
                _ => {}
            }
            function.instruction(&map.instruction(operator).map_err(unreadable)?);
        }
        function
            .instruction(&Instruction::LocalGet(saved))
            .instruction(&Instruction::GlobalSet(stack))
            .instruction(&Instruction::End);
        Ok(Some(function))
    }

    /// A function that does what an allocator does, and if that fails, once
    /// more after a collection.
    pub fn allocator(&self, map: &Map, import: u32, parameters: u32) -> Function {
        let mut function = Function::new([(1, ValType::I32)]);
        let call = |function: &mut Function| {
            for parameter in 0..parameters {
                function.instruction(&Instruction::LocalGet(parameter));
            }
            function.instruction(&Instruction::Call(map.real_function(import)));
        };
        call(&mut function);
        function
            .instruction(&Instruction::LocalTee(parameters))
            .instruction(&Instruction::If(BlockType::Result(ValType::I32)))
            .instruction(&Instruction::LocalGet(parameters))
            .instruction(&Instruction::Else)
            .instruction(&Instruction::Call(map.function(self.collect)))
            .instruction(&Instruction::Drop);
        call(&mut function);
        function.instruction(&Instruction::End).instruction(&Instruction::End);
        function
    }

    /// Finds the text for a check in the data of all members.
    pub fn find_text<'d>(&mut self, data: impl IntoIterator<Item = (u32, &'d [u8])>) -> Result<()> {
        if self.guards.values().all(|guard| guard.refusal.is_none()) {
            return Ok(());
        }
        for (offset, bytes) in data {
            if let Some(at) = bytes.windows(TEXT.len()).position(|window| window == TEXT) {
                self.text = offset + u32::try_from(at + TEXT.len() - 1)?;
                return Ok(());
            }
        }
        bail!("the interpreter has no text for a check")
    }
}

/// Whether a function calls one of some.
fn calls(body: &FunctionBody<'_>, some: &[u32]) -> Result<bool> {
    for operator in body.get_operators_reader()? {
        if let Operator::Call { function_index } = operator?
            && some.contains(&function_index)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The functions of a module by the names that its linker left. One name of
/// several functions is nobody's.
fn names<'a>(module: &Module<'a>) -> Result<HashMap<&'a str, u32>> {
    ensure!(!module.names.is_empty(), "the interpreter has no names");
    let mut names: HashMap<&str, Vec<u32>> = HashMap::new();
    for (index, name) in &module.names {
        names.entry(name).or_default().push(*index);
    }
    let one = |(name, indices): (_, Vec<u32>)| match indices[..] {
        [index] => Some((name, index)),
        _ => None,
    };
    Ok(names.into_iter().filter_map(one).collect())
}

fn unreadable(error: wasm_encoder::reencode::Error<std::convert::Infallible>) -> anyhow::Error {
    anyhow::anyhow!("a function cannot be read: {error}")
}
