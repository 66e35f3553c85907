//! Compiles the packages with native parts that the guest `python-data` contains.
//!
//! `guests/python/packages` has a recipe for each: the source distribution with its digest,
//! the changes to it, and how it is built. The result is a directory as pip would install
//! it, in which the native modules are WebAssembly libraries. `componentize-py` links them
//! with the interpreter.
//!
//! ```text
//! recipe ─▶ source distribution ─▶ changed sources ─▶ objects, libraries ─▶ files
//! (recipe)  (source)               (source)           (meson, extensions)   (here)
//! ```
//!
//! The files of a package are kept in `target/native/packages` by the digest of everything
//! that they are made of. No file contains a path or a time, so that the guest is
//! reproducible.

mod compiler;
mod extensions;
mod headers;
mod meson;
mod recipe;
mod source;
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

pub use self::compiler::CompilerArgs;
pub use self::compiler::run as run_compiler;
use self::headers::Headers;
use self::recipe::{Build, Recipe};
use crate::digest::{self, Inputs};
use crate::setup::{CCompiler, PackageTools};
use crate::{setup, stamp, workspace};

/// The packages. A package follows those that its build needs.
const PACKAGES: [&str; 1] = ["numpy"];

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
    let mut needed = String::new();
    for name in PACKAGES {
        let recipe = Recipe::read(name)?;
        let digest = Inputs::default()
            .text("tools", &tools.digest)
            .text("recipe", &recipe.text)
            .text("packages before it", &needed)
            .finish();
        let dir = base.join(name);
        let files = dir.join("files");
        let label = format!("{name} {}, compiled for the Python guest", recipe.version);
        stamp::install(&label, &dir, &digest, || {
            build_package(&recipe, &tools, &dir, &built)
                .with_context(|| format!("{name} cannot be built"))
        })?;
        needed = Inputs::default().text("before", &needed).tree(&files)?.finish();
        built.push(files);
    }
    Ok(built)
}

/// Builds a package in an empty directory.
fn build_package(recipe: &Recipe, tools: &Tools, dir: &Path, built: &[PathBuf]) -> Result<()> {
    let source = dir.join("source");
    source::unpack(recipe, &tools.packages, &source)?;
    let files = dir.join("files");
    fs::create_dir_all(&files)?;
    match &recipe.build {
        Build::Meson(build) => meson::build(build, tools, dir, &source, &files, built)?,
        Build::Extensions(build) => extensions::build(build, tools, dir, &source, &files)?,
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
