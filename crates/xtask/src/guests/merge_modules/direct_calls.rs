//! Turns frequent indirect calls into direct ones.
//!
//! The interpreter calls its allocator, for example, by a pointer that only debugging tools
//! change. An engine cannot inline such a call, and checks its table, its bounds and its
//! type. Here the code compares the pointer with that of the expected function first, and
//! calls that one directly if they are equal.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use wasm_encoder::reencode::{self, Reencode as _, RoundtripReencoder};
use wasm_encoder::{BlockType, CodeSection, Function, Instruction, RawSection, SectionId, ValType};
use wasmparser::{ElementItems, ElementKind, FunctionBody, Operator, Parser, Payload, TypeRef};

/// Changes the indirect calls in a function to the expected one, given as pairs of
/// indices: the caller and the expected function. In each caller at least one call is
/// of the type of the expected function, and all such calls are changed.
pub fn expect(module: &[u8], calls: &[(u32, u32)]) -> Result<Vec<u8>> {
    if calls.is_empty() {
        return Ok(module.to_vec());
    }
    let tables = Tables::read(module)?;
    let mut expected = BTreeMap::new();
    for (caller, callee) in calls {
        let call = tables.call(*callee)?;
        ensure!(expected.insert(*caller, call).is_none(), "function {caller} is listed twice");
    }
    let mut out = wasm_encoder::Module::new();
    let mut code = CodeSection::new();
    let mut next = tables.imported;
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload?;
        if let Payload::CodeSectionEntry(body) = &payload {
            match expected.get(&next) {
                Some(call) => {
                    let parameters = tables.parameters(next)?;
                    let changed = change(body, parameters, call);
                    code.function(&changed.with_context(|| format!("changing function {next}"))?)
                }
                None => code.raw(&module[body.range()]),
            };
            next += 1;
            if next - tables.imported == u32::try_from(tables.functions.len())? {
                out.section(&code);
            }
        } else if let Some((id, range)) = payload.as_section()
            && id != SectionId::Code as u8
        {
            out.section(&RawSection { id, data: &module[range] });
        }
    }
    Ok(out.finish())
}

/// An expected function.
struct Call {
    function: u32,
    ty: u32,
    /// The pointer to the function: its index in the table.
    pointer: u32,
}

/// What the module defines.
#[derive(Default)]
struct Tables {
    types: Vec<wasmparser::FuncType>,
    imported: u32,
    /// The types of the functions that are not imported.
    functions: Vec<u32>,
    /// The pointers of each function.
    pointers: BTreeMap<u32, Vec<u32>>,
}

impl Tables {
    fn read(module: &[u8]) -> Result<Self> {
        let mut this = Self::default();
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::TypeSection(section) => {
                    for ty in section.into_iter_err_on_gc_types() {
                        this.types.push(ty?);
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        if let TypeRef::Func(_) = import?.ty {
                            this.imported += 1;
                        }
                    }
                }
                Payload::FunctionSection(section) => {
                    this.functions = section.into_iter().collect::<Result<_, _>>()?;
                }
                Payload::ElementSection(section) => {
                    for element in section {
                        this.element(&element?)?;
                    }
                }
                _ => {}
            }
        }
        Ok(this)
    }

    fn element(&mut self, element: &wasmparser::Element<'_>) -> Result<()> {
        let ElementKind::Active { offset_expr, .. } = &element.kind else { return Ok(()) };
        let ElementItems::Functions(functions) = &element.items else { return Ok(()) };
        let Operator::I32Const { value } = offset_expr.get_operators_reader().read()? else {
            bail!("an offset is not a constant");
        };
        for (pointer, function) in (value.cast_unsigned()..).zip(functions.clone()) {
            self.pointers.entry(function?).or_default().push(pointer);
        }
        Ok(())
    }

    /// Returns the number of parameters of a function.
    fn parameters(&self, function: u32) -> Result<usize> {
        let own = function.checked_sub(self.imported).context("the function is imported")?;
        let ty = self.functions.get(own as usize).context("no such function")?;
        Ok(self.types.get(*ty as usize).context("no such type")?.params().len())
    }

    fn call(&self, function: u32) -> Result<Call> {
        let own = function.checked_sub(self.imported).context("the function is imported")?;
        let ty = *self.functions.get(own as usize).context("no such function")?;
        match self.pointers.get(&function).map(Vec::as_slice) {
            Some([pointer]) => Ok(Call { function, ty, pointer: *pointer }),
            found => bail!("function {function} has {} pointers", found.map_or(0, <[u32]>::len)),
        }
    }
}

/// Changes the calls in a function that has this number of parameters.
fn change(body: &FunctionBody<'_>, parameters: usize, call: &Call) -> Result<Function> {
    let mut same = RoundtripReencoder;
    let mut locals = Vec::new();
    let mut pointer = u32::try_from(parameters)?;
    for local in body.get_locals_reader()? {
        let (count, ty) = local?;
        pointer += count;
        locals.push((count, same.val_type(ty).map_err(unreadable)?));
    }
    locals.push((1, ValType::I32));
    let mut function = Function::new(locals);
    let mut changed = 0;
    for operator in body.get_operators_reader()? {
        let operator = operator?;
        let indirect = same.instruction(operator.clone()).map_err(unreadable)?;
        if !matches!(operator, Operator::CallIndirect { type_index, .. } if type_index == call.ty) {
            function.instruction(&indirect);
            continue;
        }
        changed += 1;
        // The parameters stay on the stack.
        function
            .instruction(&Instruction::LocalTee(pointer))
            .instruction(&Instruction::I32Const(call.pointer.cast_signed()))
            .instruction(&Instruction::I32Eq)
            .instruction(&Instruction::If(BlockType::FunctionType(call.ty)))
            .instruction(&Instruction::Call(call.function))
            .instruction(&Instruction::Else)
            .instruction(&Instruction::LocalGet(pointer))
            .instruction(&indirect)
            .instruction(&Instruction::End);
    }
    ensure!(changed > 0, "no call is of the type of function {}", call.function);
    Ok(function)
}

fn unreadable(error: reencode::Error<std::convert::Infallible>) -> anyhow::Error {
    anyhow::anyhow!("a function cannot be read: {error}")
}
