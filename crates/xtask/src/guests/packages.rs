//! Compiles the packages with native parts that the guest `python-data` contains.
//!
//! `guests/python/packages` has a recipe for each: the source distribution with its digest,
//! the changes to it, and how it is built. The result is a directory as pip would install
//! it, in which the native modules are WebAssembly libraries. `componentize-py` links them
//! with the interpreter.
//!
//! ```text
//! recipe ─▶ source distribution ─▶ changed sources ─▶ objects, libraries ─▶ files
//! (recipe)  (source)               (source)           (meson, extensions,   (here)
//!                                                      cargo)
//! ```
//!
//! The files of a package are kept in `target/native/packages` by the digest of everything
//! that they are made of. No file contains a path or a time, so that the guest is
//! reproducible.

mod cargo;
mod compiler;
mod extensions;
mod headers;
mod libraries;
mod meson;
mod recipe;
mod rust;
mod source;
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

pub use self::compiler::CompilerArgs;
pub use self::compiler::run as run_compiler;
use self::headers::Headers;
use self::recipe::{Build, PACKAGES, Recipe};
use crate::digest::{self, Inputs};
use crate::guests::copy;
use crate::setup::{CCompiler, PackageTools};
use crate::{setup, stamp, workspace};

/// What the builds of all packages use.
struct Tools {
    compiler: CCompiler,
    packages: PackageTools,
    headers: Headers,
    /// The directory of the libraries of the compiler.
    support: PathBuf,
    /// A digest of all of them, and of this code.
    digest: String,
}

/// Compiles the packages whose inputs have changed. Returns the directories of their
/// files, in the order of `PACKAGES`.
pub fn build() -> Result<Vec<PathBuf>> {
    build_below(&workspace::root().join("target/native/packages"))
}

/// Compiles the packages below a directory.
fn build_below(base: &Path) -> Result<Vec<PathBuf>> {
    let tools = Tools::install()?;
    let mut built = Vec::new();
    for name in PACKAGES {
        let recipe = Recipe::read(name)?;
        let mut inputs = recipe.add_inputs(Inputs::default().text("tools", &tools.digest))?;
        let needed: Vec<_> =
            recipe.needs.iter().map(|name| base.join(name).join("files")).collect();
        for files in &needed {
            inputs = inputs.tree(files)?;
        }
        let inputs = match &recipe.build {
            Build::Meson(_) | Build::Extensions(_) => inputs,
            Build::Cargo(_) => inputs
                .text("rust", &rust::digest()?)
                .text("cargo", include_str!("packages/cargo.rs")),
        };
        let digest = inputs.finish();
        let dir = base.join(name);
        let files = dir.join("files");
        let label = format!("{name} {}, compiled for the Python guest", recipe.version);
        stamp::install_and_keep(&label, &dir, &digest, || {
            build_package(&recipe, &tools, &dir, &needed)
                .with_context(|| format!("{name} cannot be built"))
        })?;
        built.push(files);
    }
    Ok(built)
}

/// Builds a package in an empty directory.
fn build_package(recipe: &Recipe, tools: &Tools, dir: &Path, needed: &[PathBuf]) -> Result<()> {
    let source = dir.join("source");
    source::unpack(recipe, &tools.packages, &source)?;
    let files = dir.join("files");
    fs::create_dir_all(&files)?;
    match &recipe.build {
        Build::Meson(build) => meson::build(build, tools, dir, &source, &files, needed)?,
        Build::Extensions(build) => extensions::build(build, tools, dir, &source, &files)?,
        Build::Cargo(build) => cargo::build(build, tools, dir, &source, &files)?,
    }
    for path in digest::files(&files)? {
        if recipe.is_removed(&path) {
            fs::remove_file(files.join(path))?;
        }
    }
    source::write_metadata(recipe, &source, &files)?;
    fs::remove_dir_all(&source)?;
    Ok(())
}

/// Copies the Python files of packages that a source distribution contains.
fn copy_python_files(root: &Path, packages: &[String], files: &Path) -> Result<()> {
    for package in packages {
        for path in digest::files(&root.join(package))? {
            if path.extension().is_some_and(|extension| extension == "py") {
                let path = Path::new(package).join(path);
                copy(&root.join(&path), &files.join(&path))?;
            }
        }
    }
    Ok(())
}

/// Writes a program that starts another one with arguments, which its own follow.
fn write_script(program: &Path, words: &[String]) -> Result<()> {
    let quoted: Vec<String> =
        words.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
    fs::write(program, format!("#!/bin/sh\nexec {} \"$@\"\n", quoted.join(" ")))
        .with_context(|| format!("cannot write {}", program.display()))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(program, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

impl Tools {
    fn install() -> Result<Tools> {
        let compiler = setup::c_compiler()?;
        let packages = setup::package_tools()?;
        let headers = headers::install()?;
        let support = support::install(&compiler)?;
        let digest = Inputs::default()
            .text("compiler", &compiler.digest)
            .text("tools", &packages.digest)
            .text("headers", &headers.digest)
            .text("packages", include_str!("packages.rs"))
            .text("compiler", include_str!("packages/compiler.rs"))
            .text("extensions", include_str!("packages/extensions.rs"))
            .text("meson", include_str!("packages/meson.rs"))
            .text("source", include_str!("packages/source.rs"))
            .text("support", include_str!("packages/support.rs"))
            .tree(&workspace::root().join("guests/python/packages/support"))?
            .finish();
        Ok(Tools { compiler, packages, headers, support, digest })
    }
}

/// Pins the newest Rust compiler that Debian has.
pub fn update_rust() -> Result<()> {
    let _lock = workspace::lock()?;
    rust::update()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_passes_its_words_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        let words = ["printf", "<%s>", "it's", "a b", "$HOME"].map(str::to_owned);
        write_script(&program, &words).unwrap();
        let text = crate::process::stdout_of(&program, &["c d"]).unwrap();
        assert_eq!(text, "<it's><a b><$HOME><c d>");
    }
}
