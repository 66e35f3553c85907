//! Optimizes the code of the Python guest with Binaryen's `wasm-opt`.
//!
//! The compiler of the interpreter could not inline functions of other libraries, nor
//! exported functions of the same one, since a dynamic linker could have replaced them.
//! After the libraries were merged nothing replaces them any more.
//!
//! The optimizer takes longer than all other steps together, so it sees only the code: the
//! memory, which changes with each line of Python, is taken out before and put back
//! behind. Its result is kept in `target/guests/optimized`, by the digest of its input, and
//! for other checkouts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use wasm_encoder::{RawSection, SectionId};
use wasmparser::Parser;

use crate::digest::{self, Inputs};
use crate::{process, setup, stamp, workspace};

/// The features of WebAssembly that the guest uses.
const FEATURES: [&str; 9] = [
    "--enable-bulk-memory",
    "--enable-bulk-memory-opt",
    "--enable-extended-const",
    "--enable-multivalue",
    "--enable-mutable-globals",
    "--enable-nontrapping-float-to-int",
    "--enable-reference-types",
    "--enable-sign-ext",
    "--enable-simd",
];

/// The passes. Inlining beyond the optimizer's own limits, with what it needs, is faster
/// than its level 3, both to run and in the guest.
const PASSES: [&str; 12] = [
    "-O1",
    "--optimize-level=3",
    "--always-inline-max-function-size",
    "30",
    "--flexible-inline-max-function-size",
    "100",
    "--inlining-optimizing",
    "--optimize-instructions",
    "--precompute-propagate",
    "--simplify-locals",
    "--vacuum",
    "--coalesce-locals",
];

/// A memory section with one memory of one page, which is not limited. The size of the real
/// one changes with the Python modules in it.
const ONE_PAGE: [u8; 3] = [1, 0, 1];

/// The number of results that are kept in this checkout.
const KEPT: usize = 4;

/// The result, in its directory.
const OUTPUT: &str = "optimized.wasm";

/// The installed optimizer.
pub struct Optimizer {
    node: PathBuf,
    wasm_opt: PathBuf,
    /// The digest of the inputs of the installation, and of this file.
    pub digest: String,
}

/// Installs the optimizer.
pub fn install() -> Result<Optimizer> {
    const SOURCE: &str = "guests/python/optimizer";
    let label = "Binaryen, which optimizes the Python guest";
    let modules = setup::node_modules("binaryen", SOURCE, label, &["--ignore-scripts"])?;
    let digest = Inputs::default()
        .file("lock", &workspace::root().join(SOURCE).join("package-lock.json"))?
        .text("optimizer", include_str!("optimizer.rs"))
        .finish();
    Ok(Optimizer {
        node: setup::node()?.node,
        wasm_opt: modules.join("binaryen/bin/wasm-opt"),
        digest,
    })
}

impl Optimizer {
    /// Optimizes a core module. Its initial memory is not changed.
    pub fn optimize(&self, module: &[u8]) -> Result<Vec<u8>> {
        let (code, memory, data) = split(module)?;
        let inputs = Inputs::default().text("optimizer", &self.digest);
        let digest = inputs.text("code", &digest::of_bytes(&code)).finish();
        let kept = workspace::runtimes().join("optimized");
        let dir = kept.join(&digest);
        let label = "the optimized code of the Python guest, after some minutes";
        stamp::install_and_keep(label, &dir, &digest, || {
            remove_old(&kept)?;
            self.run(&code, &dir)
        })?;
        let output = dir.join(OUTPUT);
        let optimized =
            fs::read(&output).with_context(|| format!("cannot read {}", output.display()))?;
        join(&optimized, &memory, &data)
    }

    fn run(&self, code: &[u8], dir: &Path) -> Result<()> {
        let input = dir.join("input.wasm");
        fs::write(&input, code).with_context(|| format!("cannot write {}", input.display()))?;
        let mut command = Command::new(&self.node);
        command.arg(&self.wasm_opt).args(FEATURES).args(PASSES).arg(&input);
        command.arg("-o").arg(dir.join(OUTPUT));
        process::run_quiet(command)?;
        fs::remove_file(&input).with_context(|| format!("cannot remove {}", input.display()))
    }
}

/// Splits a module into one without initial memory and names, with a memory of one page,
/// and the contents of its memory section and its data section.
fn split(module: &[u8]) -> Result<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let mut code = wasm_encoder::Module::new();
    let (mut memory, mut data) = (Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(module) {
        let Some((id, range)) = payload?.as_section() else { continue };
        let content = &module[range];
        if id == SectionId::Memory as u8 {
            memory = content.to_vec();
            code.section(&RawSection { id, data: &ONE_PAGE });
        } else if id == SectionId::Data as u8 {
            data = content.to_vec();
        } else if id != SectionId::DataCount as u8 && id != SectionId::Custom as u8 {
            code.section(&RawSection { id, data: content });
        }
    }
    ensure!(!memory.is_empty() && !data.is_empty(), "the module has no initial memory");
    Ok((code.finish(), memory, data))
}

/// Puts the contents of the memory section and the data section into a module.
fn join(module: &[u8], memory: &[u8], data: &[u8]) -> Result<Vec<u8>> {
    let mut joined = wasm_encoder::Module::new();
    for payload in Parser::new(0).parse_all(module) {
        let Some((id, range)) = payload?.as_section() else { continue };
        let content = if id == SectionId::Memory as u8 { memory } else { &module[range] };
        joined.section(&RawSection { id, data: content });
    }
    joined.section(&RawSection { id: SectionId::Data as u8, data });
    Ok(joined.finish())
}

/// Removes all results but the newest ones, of which one is being created.
fn remove_old(dir: &Path) -> Result<()> {
    let mut results = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        results.push((entry.metadata()?.modified()?, entry.path()));
    }
    results.sort();
    let old = results.len().saturating_sub(KEPT);
    results.drain(..old).try_for_each(|(_, path)| fs::remove_dir_all(path)).context("cannot remove")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_put_back_as_it_was() {
        let module = wat::parse_str(
            r#"(module
                (memory 3)
                (func (export "f") (result i32) (i32.load (i32.const 8)))
                (data (i32.const 8) "\01\02\03\04"))"#,
        )
        .unwrap();
        let (code, memory, data) = split(&module).unwrap();
        assert!(!code.windows(4).any(|bytes| bytes == [1, 2, 3, 4]));
        let larger =
            wat::parse_str("(module (memory 2) (data (i32.const 8) \"\\01\\02\\03\\04\"))");
        assert_eq!(split(&larger.unwrap()).unwrap().2, data);
        let code = join(&code, &memory, &data).unwrap();
        let engine = wasmtime::Engine::default();
        let compiled = wasmtime::Module::new(&engine, &code).unwrap();
        let mut store = wasmtime::Store::new(&engine, ());
        let instance = wasmtime::Instance::new(&mut store, &compiled, &[]).unwrap();
        let function = instance.get_typed_func::<(), i32>(&mut store, "f").unwrap();
        assert_eq!(function.call(&mut store, ()).unwrap(), 0x0403_0201);
        assert_eq!(compiled.imports().len(), 0);
        assert!(split(&code[..8]).is_err(), "a module without memory");
    }
}
