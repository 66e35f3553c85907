//! The libraries that compiled code expects of its compiler, and that the builder's
//! interpreter does not export: arithmetic of 128 bits, and a part of the C++ library.
//!
//! Both are compiled from the sources that Zig contains, as archives that are linked into
//! each native module. The builder has a C++ library as well, of another version and with
//! other names.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::digest::Inputs;
use crate::guests::native_modules::{self, Unit};
use crate::setup::CCompiler;
use crate::{process, stamp, workspace};

/// The files of the C++ library that packages use. None of them allocates or locks.
const CXX_FILES: [&str; 9] = [
    "algorithm",
    "functional",
    "hash",
    "memory",
    "new_helpers",
    "stdexcept",
    "string",
    "vector",
    "verbose_abort",
];

/// The options with which a C++ library compiles itself.
const CXX_OPTIONS: [&str; 6] = [
    "-std=c++23",
    "-fno-exceptions",
    "-D_GNU_SOURCE",
    "-D_LIBCPP_BUILDING_LIBRARY",
    "-D_LIBCXXABI_BUILDING_LIBRARY",
    "-w",
];

/// The archives, in the order in which they are linked.
pub const ARCHIVES: [&str; 2] = ["libsupport.a", "libcompiler_rt.a"];

/// Compiles the libraries unless they are current. Returns their directory.
pub fn install(compiler: &CCompiler) -> Result<PathBuf> {
    let dir = workspace::root().join("target/native/support");
    let source = workspace::root().join("guests/python/packages/support");
    let digest = Inputs::default()
        .text("compiler", &compiler.digest)
        .text("code", include_str!("support.rs"))
        .tree(&source)?
        .finish();
    let label = "the libraries of the compiler, for packages of the Python guest";
    stamp::install_and_keep(label, &dir, &digest, || build(compiler, &source, &dir))?;
    Ok(dir)
}

fn build(compiler: &CCompiler, source: &Path, dir: &Path) -> Result<()> {
    let library = compiler.zig.parent().context("Zig is not in a directory")?.join("lib");
    let cache = dir.join("zig-cache");
    let run = |mut command: std::process::Command| {
        command.current_dir(dir);
        command.env("ZIG_GLOBAL_CACHE_DIR", &cache).env("ZIG_LOCAL_CACHE_DIR", &cache);
        process::run_quiet(command)
    };

    let mut arithmetic = native_modules::zig(&compiler.zig, "build-lib");
    arithmetic.arg(library.join("compiler_rt.zig"));
    arithmetic.args(["-target", "wasm32-wasi", "-fPIC", "-fstrip", "-O", "ReleaseFast"]);
    arithmetic.args(["--name", "compiler_rt", &format!("-femit-bin={}", ARCHIVES[1])]);
    run(arithmetic)?;

    let units = units(&library, source, dir);
    native_modules::compile_all(compiler, dir, &units)?;
    let mut archive = native_modules::zig(&compiler.zig, "ar");
    // Without times and owners.
    archive.args(["rcD", ARCHIVES[0]]).args(units.iter().map(|unit| &unit.object));
    run(archive)?;
    std::fs::remove_dir_all(&cache)?;
    Ok(())
}

fn units(library: &Path, source: &Path, dir: &Path) -> Vec<Unit> {
    let cxx = library.join("libcxx/src");
    let map = format!("-ffile-prefix-map={}=zig", library.display());
    let mut units: Vec<Unit> = CXX_FILES
        .iter()
        .map(|name| Unit {
            source: cxx.join(format!("{name}.cpp")),
            options: CXX_OPTIONS.map(str::to_owned).to_vec(),
            paths: vec![format!("-I{}", cxx.display()), map.clone()],
            object: dir.join(format!("{name}.o")),
        })
        .collect();
    units.push(Unit {
        source: source.join("exceptions.c"),
        options: ["-std=c11", "-Wall", "-Wextra", "-Werror"].map(str::to_owned).to_vec(),
        paths: Vec::new(),
        object: dir.join("exceptions.o"),
    });
    units
}
