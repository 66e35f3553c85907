//! Gives functions a result that their callers expect.
//!
//! In C a function without a result can be called by a pointer as one with a result, which
//! is then any value. In WebAssembly the types must be equal, and such a call terminates
//! the guest. In tables, such a function is replaced by one that calls it and returns 0.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use wasm_encoder::reencode::{self, Reencode};
use wasm_encoder::{
    CodeSection, ElementSection, Function, FunctionSection, Instruction, RawSection, SectionId,
};
use wasmparser::{FuncType, Parser, Payload, TypeRef, ValType};

/// Adds a result to functions, which are given by their indices.
pub fn add(module: &[u8], functions: &[u32]) -> Result<Vec<u8>> {
    if functions.is_empty() {
        return Ok(module.to_vec());
    }
    let mut types: Vec<FuncType> = Vec::new();
    let mut defined: Vec<u32> = Vec::new();
    let mut first = 0;
    let mut out = wasm_encoder::Module::new();
    let mut code = CodeSection::new();
    let mut replaced = Replaced::default();
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload?;
        let section = payload.as_section();
        match payload {
            Payload::TypeSection(section) => {
                types = section.into_iter_err_on_gc_types().collect::<Result<_, _>>()?;
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    first += u32::from(matches!(import?.ty, TypeRef::Func(_)));
                }
            }
            Payload::FunctionSection(section) => {
                defined = section.into_iter().collect::<Result<_, _>>()?;
                let mut section = FunctionSection::new();
                for ty in &defined {
                    section.function(*ty);
                }
                for function in functions {
                    let own = function.checked_sub(first).context("the function is imported")?;
                    let ty = &types[defined[own as usize] as usize];
                    ensure!(ty.results().is_empty(), "function {function} has a result");
                    let with_result = FuncType::new(ty.params().to_vec(), [ValType::I32]);
                    let with_result = types.iter().position(|other| *other == with_result);
                    section.function(u32::try_from(with_result.context("no such type")?)?);
                    let added = first + section.len() - 1;
                    replaced.functions.insert(*function, added);
                }
                out.section(&section);
                continue;
            }
            Payload::ElementSection(section) => {
                let mut elements = ElementSection::new();
                replaced.parse_element_section(&mut elements, section).map_err(unreadable)?;
                ensure!(
                    replaced.used == functions.len(),
                    "{} functions are in tables instead of {}",
                    replaced.used,
                    functions.len()
                );
                out.section(&elements);
                continue;
            }
            Payload::CodeSectionEntry(body) => {
                code.raw(&module[body.range()]);
                if code.len() == u32::try_from(defined.len())? {
                    for function in functions {
                        let ty = defined[(function - first) as usize];
                        code.function(&caller(*function, types[ty as usize].params().len()));
                    }
                    out.section(&code);
                }
            }
            _ => {}
        }
        if let Some((id, range)) = section
            && id != SectionId::Code as u8
        {
            out.section(&RawSection { id, data: &module[range] });
        }
    }
    Ok(out.finish())
}

/// Creates a function that calls another one with its parameters, and returns 0.
fn caller(function: u32, parameters: usize) -> Function {
    let mut caller = Function::new([]);
    for parameter in 0..parameters {
        caller.instruction(&Instruction::LocalGet(u32::try_from(parameter).unwrap_or(u32::MAX)));
    }
    caller
        .instruction(&Instruction::Call(function))
        .instruction(&Instruction::I32Const(0))
        .instruction(&Instruction::End);
    caller
}

/// Replaces functions in tables.
#[derive(Default)]
struct Replaced {
    functions: BTreeMap<u32, u32>,
    used: usize,
}

impl Reencode for Replaced {
    type Error = std::convert::Infallible;

    fn function_index(&mut self, index: u32) -> Result<u32, reencode::Error> {
        let Some(added) = self.functions.get(&index) else { return Ok(index) };
        self.used += 1;
        Ok(*added)
    }
}

fn unreadable(error: reencode::Error<std::convert::Infallible>) -> anyhow::Error {
    anyhow::anyhow!("a table cannot be read: {error}")
}
