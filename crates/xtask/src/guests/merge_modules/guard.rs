//! Changes functions of an interpreter while its libraries are merged.
//!
//! CPython bounds recursion in C by the address of its stack. In WebAssembly this
//! is only the stack in linear memory: return addresses, and all variables whose
//! address is not taken, are on the engine's stack, which a program cannot measure.
//! A chain of calls that uses no linear stack overflows the engine's stack, which
//! terminates the guest. So functions that are part of such chains reserve linear
//! stack here, in proportion to their use of the engine's stack; and functions
//! without a check get one.
//!
//! The other change: if an allocation fails, cyclic garbage is collected, and the
//! allocation is repeated.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, Result, bail, ensure};
use wasm_encoder::reencode::Reencode;
use wasm_encoder::{BlockType, Function, Instruction, ValType};
use wasmparser::{FunctionBody, Operator};

use super::group::Group;
use super::index_map::IndexMap;
use super::module::{Kind, Module};

/// The changes of an interpreter.
pub struct Changes {
    /// Functions that check the stack. Their callers take part in recursion.
    pub checks: &'static [&'static str],
    /// Bytes of linear stack that a call of these callers reserves.
    pub frame: u32,
    /// Other functions that take part, or that reserve more.
    pub guards: &'static [Guard],
    /// Imported functions that allocate, by their names in C.
    pub allocators: &'static [&'static str],
    /// Exported functions, each with that of another library which all libraries but that
    /// one call instead.
    pub replaced: &'static [(&'static str, &'static str)],
    /// Functions that call another one by a pointer, which is nearly always the same.
    pub expected: &'static [(&'static [&'static str], &'static str)],
    /// Functions in tables whose callers expect a result, which they do not have.
    pub without_result: &'static [&'static str],
}

/// A function that takes part in recursion.
#[derive(Clone, Copy)]
pub struct Guard {
    pub name: &'static str,
    /// Bytes of linear stack that each call reserves.
    pub frame: u32,
    /// The return value at the end of the stack, if the function gets a check.
    pub error_value: Option<i32>,
}

/// No changes, for a component without an interpreter.
#[cfg(test)]
pub const NO_CHANGES: Changes = Changes {
    checks: &[],
    frame: 0,
    guards: &[],
    allocators: &[],
    replaced: &[],
    expected: &[],
    without_result: &[],
};

/// The function that sets an exception and returns -1 at the end of the stack.
const CHECK: &str = "Py_EnterRecursiveCall";
/// The function that collects cyclic garbage.
const COLLECT: &str = "PyGC_Collect";
/// An address in the linear stack, in bytes, that is past the end that the
/// interpreter sets itself (16 KiB), and leaves space to raise an exception (8 KiB).
const STACK_END: i32 = 12 * 1024;
/// The import of the linear stack pointer.
const STACK: (&str, &str) = ("env", "__stack_pointer");
/// A string of the interpreter. Its end serves as the empty string that is passed to
/// a check.
const TEXT: &[u8] = b" while calling a Python object\0";

/// The changes, with the indices that were found in the members of a group.
#[derive(Default)]
pub struct Patches {
    /// The member that is the interpreter.
    member: usize,
    guards: BTreeMap<u32, Guard>,
    /// The wrapped functions: the index of the import, and of the type.
    allocators: Vec<(u32, u32)>,
    /// The functions, by their indices in the interpreter.
    check: u32,
    collect: u32,
    stack: u32,
    /// The address of an empty string in the interpreter's data.
    text: u32,
}

impl Patches {
    /// Finds the functions to change.
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
            .context("no library is an interpreter")?;
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
                guards.insert(own, Guard { name, frame: changes.frame, error_value: None });
            }
        }
        for guard in changes.guards {
            let own = named(guard.name)?
                .checked_sub(imported)
                .context("a guarded function is imported")?;
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
                    bail!("{name} is not a function");
                };
                Ok((index, ty))
            })
            .collect::<Result<_>>()?;
        let stack = (0..)
            .zip(module.imported(Kind::Global))
            .find(|(_, import)| (import.module, import.name) == STACK)
            .context("the interpreter does not import the stack pointer")?;
        Ok(Self {
            member,
            guards,
            allocators,
            check: exported(module, CHECK).context("the interpreter has no check")?,
            collect: exported(module, COLLECT)
                .context("the interpreter has no garbage collector")?,
            stack: stack.0,
            text: 0,
        })
    }

    /// Returns the functions that are added for a member: the import of the interpreter
    /// that each of them replaces, and its type.
    pub fn added(&self, member: usize) -> &[(u32, u32)] {
        if member == self.member { &self.allocators } else { &[] }
    }

    /// Returns the changed body of a function, or `None` if it is not changed.
    pub fn body(
        &self,
        map: &mut IndexMap,
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
            [one] => BlockType::Result(map.val_type(*one).map_err(parse_error)?),
            _ => bail!("{} has more than one result", guard.name),
        };
        let stack =
            map.mutable_global(self.stack).context("no function changes the stack pointer")?;
        let mut locals = Vec::new();
        let mut saved = u32::try_from(ty.params().len())?;
        for local in body.get_locals_reader()? {
            let (count, ty) = local?;
            saved += count;
            locals.push((count, map.val_type(ty).map_err(parse_error)?));
        }
        locals.push((1, ValType::I32));
        let mut function = Function::new(locals);
        // The remaining stack is never less than the check needs to raise its exception.
        let frame = guard.frame.cast_signed();
        function
            .instruction(&Instruction::GlobalGet(stack))
            .instruction(&Instruction::LocalTee(saved))
            .instruction(&Instruction::I32Const(frame))
            .instruction(&Instruction::I32Sub);
        if guard.error_value.is_some() {
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
        if let Some(error_value) = guard.error_value {
            ensure!(
                ty.results() == [wasmparser::ValType::I32],
                "{} does not return an i32",
                guard.name
            );
            function
                .instruction(&Instruction::I32Const(self.text.cast_signed()))
                .instruction(&Instruction::Call(map.function(self.check)))
                .instruction(&Instruction::If(BlockType::Empty))
                .instruction(&Instruction::I32Const(error_value))
                .instruction(&Instruction::Br(1))
                .instruction(&Instruction::End);
        }
        // A return leaves the block around the body.
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
            function.instruction(&map.instruction(operator).map_err(parse_error)?);
        }
        function
            .instruction(&Instruction::LocalGet(saved))
            .instruction(&Instruction::GlobalSet(stack))
            .instruction(&Instruction::End);
        Ok(Some(function))
    }

    /// Creates a function that calls an allocator, and calls it again after a garbage
    /// collection if it fails.
    pub fn allocator(&self, map: &IndexMap, import: u32, parameters: u32) -> Function {
        let mut function = Function::new([(1, ValType::I32)]);
        let call = |function: &mut Function| {
            for parameter in 0..parameters {
                function.instruction(&Instruction::LocalGet(parameter));
            }
            function.instruction(&Instruction::Call(map.original_function(import)));
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

    /// Finds the string for a check in the data of all members.
    pub fn find_text<'d>(&mut self, data: impl IntoIterator<Item = (u32, &'d [u8])>) -> Result<()> {
        if self.guards.values().all(|guard| guard.error_value.is_none()) {
            return Ok(());
        }
        for (offset, bytes) in data {
            if let Some(at) = bytes.windows(TEXT.len()).position(|window| window == TEXT) {
                self.text = offset + u32::try_from(at + TEXT.len() - 1)?;
                return Ok(());
            }
        }
        bail!("the interpreter has no string for a check")
    }
}

/// Reports whether a function calls one of the given functions.
fn calls(body: &FunctionBody<'_>, functions: &[u32]) -> Result<bool> {
    for operator in body.get_operators_reader()? {
        if let Operator::Call { function_index } = operator?
            && functions.contains(&function_index)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the functions of a module by the names in its name section. Names of
/// several functions are left out.
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

fn parse_error(error: wasm_encoder::reencode::Error<std::convert::Infallible>) -> anyhow::Error {
    anyhow::anyhow!("a function cannot be read: {error}")
}
