//! The map from indices of a module to indices of the module into which it is merged.

use std::collections::HashMap;

use wasm_encoder::reencode::{self, Reencode};
use wasm_encoder::{ConstExpr, Instruction};
use wasmparser::Operator;

/// The map from indices of one member to indices of the merged module.
#[derive(Default)]
pub struct IndexMap {
    pub types: Vec<u32>,
    pub functions: Vec<u32>,
    pub tables: Vec<u32>,
    pub memories: Vec<u32>,
    pub globals: Vec<GlobalUse>,
    /// The original indices of functions that are replaced by others.
    pub replaced: HashMap<u32, u32>,
}

/// The form of a global in the merged module.
#[derive(Clone, Copy)]
pub enum GlobalUse {
    Global(u32),
    /// No code changes the global.
    Constant(Value),
}

/// A number. Floating-point numbers are stored as their bits.
#[derive(Clone, Copy)]
pub enum Value {
    I32(i32),
    I64(i64),
    F32(u32),
    F64(u64),
}

impl Value {
    /// Returns the constant expression of an initial value.
    pub fn expression(self) -> ConstExpr {
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

impl IndexMap {
    /// Returns the function that is called for an index.
    pub fn function(&self, index: u32) -> u32 {
        self.functions[index as usize]
    }

    /// Returns the function of an index before it was replaced.
    pub fn original_function(&self, index: u32) -> u32 {
        self.replaced.get(&index).copied().unwrap_or_else(|| self.function(index))
    }

    /// Returns the global of an index, or `None` if it is a constant.
    pub fn mutable_global(&self, index: u32) -> Option<u32> {
        match self.globals[index as usize] {
            GlobalUse::Global(index) => Some(index),
            GlobalUse::Constant(_) => None,
        }
    }
}

impl Reencode for IndexMap {
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
            GlobalUse::Global(index) => Ok(index),
            // Constants are only read, and `instruction` has replaced the reads.
            GlobalUse::Constant(_) => Err(reencode::Error::InvalidConstExpr),
        }
    }

    fn instruction<'a>(&mut self, arg: Operator<'a>) -> Result<Instruction<'a>, reencode::Error> {
        if let Operator::GlobalGet { global_index } = arg
            && let GlobalUse::Constant(value) = self.globals[global_index as usize]
        {
            return Ok(value.instruction());
        }
        reencode::utils::instruction(self, arg)
    }
}
