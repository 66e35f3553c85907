//! Builds a package whose native module is a crate of Rust.
//!
//! Cargo compiles the crate and the standard library as an archive, which is linked like the
//! modules in C. A panic ends the sandbox: a merged module cannot catch it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use wasmparser::{Parser, Payload};

use super::meson::SUFFIX;
use super::recipe::CargoBuild;
use super::rust::{self, RustCompiler};
use super::{Tools, compiler, copy_python_files, support};
use crate::guests::{clear, hermetic, native_modules};
use crate::{process, workspace};

const TARGET: &str = "wasm32-wasip2";

/// The configuration of Python, for PyO3.
const PYTHON: &str = "implementation=CPython\nversion=3.14\nshared=true\nabi3=false\n\
                      pointer_width=32\nbuild_flags=\nsuppress_build_script_link_lines=true\n";

/// The options of the compiler, for the crate, its dependencies and the standard library.
const OPTIONS: [&str; 7] = [
    "-Crelocation-model=pic",
    // Otherwise two modules would share one standard library, and call each other's functions.
    "-Zdefault-visibility=hidden",
    "-Cpanic=abort",
    "-Clink-self-contained=n",
    "-Ctarget-feature=+simd128",
    // `random.rs` defines the function.
    "--cfg",
    "getrandom_backend=\"custom\"",
];

/// The profile of all packages, so that they share the compiled standard library. Fat link-time
/// optimization of a package takes minutes of CPU time, and the guest is optimized as a whole.
const PROFILE: [(&str, &str); 7] = [
    ("CODEGEN_UNITS", "1"),
    ("DEBUG", "false"),
    ("INCREMENTAL", "false"),
    ("LTO", "off"),
    ("OPT_LEVEL", "3"),
    ("PANIC", "abort"),
    ("STRIP", "none"),
];

/// The options of the linker besides those of all modules. Everything that is exported is
/// kept, so only the function that creates the module may be.
const LINK: [&str; 1] = ["--no-export-dynamic"];

/// The modules from which a native module may import: the linker's, which stand for the
/// libraries of the guest.
const IMPORTED_MODULES: [&str; 3] = ["env", "GOT.func", "GOT.mem"];

/// Builds the package in `source`, and copies its files into `files`.
pub fn build(
    build: &CargoBuild,
    tools: &Tools,
    dir: &Path,
    source: &Path,
    files: &Path,
) -> Result<()> {
    let rust = rust::install()?;
    separate(source)?;
    let archive = compile(build, &rust, tools, dir, source)?;
    copy_python_files(&source.join(&build.root), &build.packages, files)?;

    let module = files.join(format!("{}{SUFFIX}", build.module.replace('.', "/")));
    fs::create_dir_all(module.parent().unwrap_or(files))?;
    let name = build.module.rsplit('.').next().unwrap_or_default();
    let mut linker = native_modules::zig(&tools.compiler.zig, "wasm-ld");
    linker.args(native_modules::LINK).args(LINK);
    linker.arg(format!("--export=PyInit_{name}")).arg(archive);
    linker.args(support::ARCHIVES.map(|name| tools.support.join(name)));
    linker.arg("-o").arg(&module);
    process::run_quiet(linker)?;
    check(&fs::read(&module)?, &[workspace::root(), cargo_home()?])
}

/// Makes the crate a workspace of its own: its directory is below this repository's.
fn separate(source: &Path) -> Result<()> {
    let manifest = source.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).context("the source has no Cargo.toml")?;
    ensure!(!text.contains("[workspace"), "workspaces are not supported");
    fs::write(&manifest, format!("{text}\n[workspace]\n"))?;
    Ok(())
}

/// Compiles the crate. Returns the archive.
fn compile(
    build: &CargoBuild,
    rust: &RustCompiler,
    tools: &Tools,
    dir: &Path,
    source: &Path,
) -> Result<PathBuf> {
    let scratch = dir.join("cargo");
    clear(&scratch)?;
    let python = scratch.join("pyo3.txt");
    fs::write(&python, PYTHON)?;
    let target = target(rust)?;
    let common = ["--locked", "--target", TARGET, "-Zbuild-std=std,panic_abort"];

    // Fetching uses the machine's configuration of the registry, the rest does not.
    let mut fetch = process::cargo(&["fetch", "--quiet"]);
    fetch.args(common).current_dir(source);
    fetch.env("RUSTC", &rust.rustc).env("RUSTC_BOOTSTRAP", "1");
    fetch.env("CARGO_TARGET_DIR", &target).env_remove("RUSTFLAGS");
    process::run_quiet(fetch).context("its crates cannot be fetched")?;

    let mut cargo = hermetic(Path::new(process::cargo(&[]).get_program()));
    cargo.args(["rustc", "--quiet", "--release", "--lib", "--offline"]);
    cargo.args(common).args(["--crate-type", "staticlib"]);
    cargo.current_dir(source);
    // The toolchain of the machine, for a `cargo` that is rustup.
    for name in ["CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"] {
        if let Some(value) = env::var_os(name) {
            cargo.env(name, value);
        }
    }
    cargo.env("RUSTC", &rust.rustc).env("RUSTC_BOOTSTRAP", "1");
    cargo.env("CARGO_TARGET_DIR", &target).env("PYO3_CONFIG_FILE", &python);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", options(rust)?.join("\x1f"));
    for (name, value) in PROFILE {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
    }
    set_c_compiler(&mut cargo, tools, &scratch)?;
    process::run_quiet(cargo).context("cargo cannot compile it")?;
    fs::remove_dir_all(&scratch)?;

    let archive = target.join(TARGET).join("release").join(format!("lib{}.a", build.library));
    ensure!(archive.is_file(), "cargo created no library {}", build.library);
    Ok(archive)
}

/// Returns the options of the compiler, with those that hide the paths of this machine. They
/// are the same for all packages.
fn options(rust: &RustCompiler) -> Result<Vec<String>> {
    let mut paths = vec![
        (workspace::root().join("target/native"), "/build"),
        (rust.dir.clone(), "/rust"),
        (cargo_home()?, "/cargo"),
    ];
    // The name of a registry's directory contains its host. The last option counts.
    if let Ok(registries) = fs::read_dir(cargo_home()?.join("registry/src")) {
        let mut registries: Vec<_> = registries.flatten().map(|entry| entry.path()).collect();
        registries.sort();
        paths.extend(registries.into_iter().map(|path| (path, "/cargo")));
    }
    let mut options = OPTIONS.map(str::to_owned).to_vec();
    options.extend(
        paths.iter().map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display())),
    );
    Ok(options)
}

/// Tells cargo's build scripts how C is compiled for the guest.
fn set_c_compiler(cargo: &mut Command, tools: &Tools, scratch: &Path) -> Result<()> {
    let target = TARGET.replace('-', "_");
    let cache = scratch.join("zig-cache");
    for (variable, command) in [("CC", "cc"), ("CXX", "c++"), ("AR", "ar")] {
        let script = scratch.join(variable);
        super::write_script(&script, &compiler::words(tools, &cache, command)?)?;
        cargo.env(format!("{variable}_{target}"), script);
    }
    // Options for a compiler of WASI's developers.
    cargo.env("CRATE_CC_NO_DEFAULTS", "1").env(format!("CFLAGS_{target}"), "-O3");
    Ok(())
}

/// Returns the directory of compiled crates, which packages share. Those of another compiler
/// are removed.
fn target(rust: &RustCompiler) -> Result<PathBuf> {
    let base = workspace::root().join("target/native/cargo");
    let target = base.join(&rust.digest);
    if !target.is_dir() {
        clear(&base)?;
        fs::create_dir_all(&target)?;
    }
    Ok(target)
}

fn cargo_home() -> Result<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| Some(env::home_dir()?.join(".cargo")))
        .context("the home directory is not known")
}

/// Fails if a module imports functions that no library of the guest has, or contains a path of
/// this machine.
fn check(module: &[u8], paths: &[PathBuf]) -> Result<()> {
    for payload in Parser::new(0).parse_all(module) {
        let Payload::ImportSection(imports) = payload? else { continue };
        for import in imports.into_imports() {
            let import = import?;
            if !IMPORTED_MODULES.contains(&import.module) {
                bail!(
                    "it imports `{}` from `{}`, which the guest has not",
                    import.name,
                    import.module
                );
            }
        }
    }
    for path in paths {
        let path = path.to_string_lossy();
        let found = module.windows(path.len()).any(|window| window == path.as_bytes());
        ensure!(!found, "its native module contains the path {path}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(from: &str) -> Vec<u8> {
        use wasm_encoder::{EntityType, ImportSection, Module, TypeSection};
        let mut types = TypeSection::new();
        types.ty().function([], []);
        let mut imports = ImportSection::new();
        imports.import(from, "f", EntityType::Function(0));
        let mut module = Module::new();
        module.section(&types).section(&imports);
        module.finish()
    }

    #[test]
    fn a_module_that_imports_from_wasi_is_refused() {
        check(&module("env"), &[]).unwrap();
        let message = check(&module("wasi:random/random@0.2.4"), &[]).unwrap_err().to_string();
        assert!(message.contains("`f` from `wasi:random/random@0.2.4`"), "{message}");
    }

    #[test]
    fn a_module_with_a_path_of_this_machine_is_refused() {
        let module = [&module("env")[..], b"\x00\x08\x01x/home/"].concat();
        check(&module, &["/root".into()]).unwrap();
        assert!(check(&module, &["/home".into()]).is_err());
    }
}
