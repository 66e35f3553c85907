//! `cargo xtask guests`: builds the guest components, reproducibly.
//!
//! A build uses only a directory into which all its inputs were copied
//! (`target/guests/<name>/`), relative paths and a fixed environment. The Python
//! builder runs with the deterministic build shim, too: see `build_shim.c`. A guest
//! is built if the digest of that directory and of the builder has changed.

mod build_shim;
mod builder_library;
mod interpreter;
mod libc;
mod merge_modules;
mod native_modules;
mod optimizer;
mod packages;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use self::optimizer::Optimizer;
pub use self::packages::{CompilerArgs, run_compiler, update_rust};

use crate::digest::{self, Inputs};
use crate::{process, progress, python_library, setup, wit, workspace};

#[derive(clap::Args)]
pub struct GuestsArgs {
    /// Build only this guest
    #[arg(value_enum)]
    guest: Option<Guest>,
    /// Build even if no input has changed
    #[arg(long)]
    force: bool,
    /// Build twice, in different directories, and fail if the results differ
    #[arg(long)]
    verify: bool,
    /// Optimize `python-data` too, as a release does; this takes minutes
    #[arg(long)]
    optimize: bool,
}

/// Which guests are optimized. The optimizer takes a multiple of the time of all other steps,
/// and its result is cached for as long as no C code changes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Optimization {
    /// `python`: its code changes rarely, and everything uses it.
    Usual,
    /// Also `python-data`, for releases.
    All,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Guest {
    Python,
    PythonData,
    Js,
}

/// The files of `runners/python` that are modules of the Python guest's runner.
const CELLS: [&str; 3] = ["cells.py", "cell_results.py", "cell_charts.py"];

/// The time of all builds: 2020-01-01, in seconds since 1970.
const SOURCE_DATE_EPOCH: u64 = 1_577_836_800;

pub fn run(args: &GuestsArgs) -> Result<()> {
    let _lock = workspace::lock()?;
    let guests = match &args.guest {
        Some(guest) => std::slice::from_ref(guest),
        None => Guest::value_variants(),
    };
    let mut differ = Vec::new();
    for &guest in guests {
        let optimization = if args.optimize { Optimization::All } else { Optimization::Usual };
        if args.verify && !verify(guest, optimization)? {
            differ.push(guest.name());
        } else if !args.verify {
            build_if_stale(guest, optimization, args.force)?;
        }
    }
    if !differ.is_empty() {
        bail!("not reproducible: {}", differ.join(", "));
    }
    Ok(())
}

/// Builds the guests that every installation contains, unless they are current.
pub fn ensure() -> Result<()> {
    ensure_these(&[Guest::Python, Guest::Js], Optimization::Usual)
}

/// Builds all guests unless they are current. The first build of `python-data` compiles its
/// packages, which takes minutes.
pub fn ensure_all() -> Result<()> {
    ensure_these(Guest::value_variants(), Optimization::Usual)
}

/// Builds all guests as they are published, unless they are current.
pub fn ensure_optimized() -> Result<()> {
    ensure_these(Guest::value_variants(), Optimization::All)
}

/// Returns the directory of the files of a package that was compiled for `python-data`, with
/// the tests, which the guest does not contain.
pub fn package_files(name: &str) -> PathBuf {
    workspace::root().join("target/native/packages").join(name).join("files")
}

fn ensure_these(guests: &[Guest], optimization: Optimization) -> Result<()> {
    let _lock = workspace::lock()?;
    guests.iter().try_for_each(|&guest| build_if_stale(guest, optimization, false))
}

impl Guest {
    fn name(self) -> &'static str {
        match self {
            Guest::Python => "python",
            Guest::PythonData => "python-data",
            Guest::Js => "js",
        }
    }

    /// Returns the directory of its sources, below `guests`.
    fn directory(self) -> &'static str {
        match self {
            Guest::Python | Guest::PythonData => "python",
            Guest::Js => "js",
        }
    }

    /// Returns the files and directories that are copied from there, in addition to the WIT
    /// packages.
    fn sources(self) -> &'static [&'static str] {
        match self {
            Guest::Python | Guest::PythonData => &["src"],
            Guest::Js => &[
                "src",
                "lazy",
                "build.mjs",
                "lazy-texts.mjs",
                "unicode-tables.mjs",
                "zone-tables.mjs",
            ],
        }
    }
}

enum Builder {
    Python {
        tools: setup::PythonBuilder,
        shim: Option<PathBuf>,
        /// The directory of the builder's package with another library, and its digest.
        package: (PathBuf, String),
        optimizer: Option<Optimizer>,
    },
    Js(setup::JsBuilder),
}

impl Builder {
    fn of(guest: Guest, optimization: Optimization) -> Result<Builder> {
        Ok(match guest {
            Guest::Python | Guest::PythonData => {
                let tools = setup::python_builder()?;
                let package = builder_library::install(&tools, &python_library::install()?)?;
                let shim = build_shim::library()?;
                let is_optimized =
                    optimization == Optimization::All || matches!(guest, Guest::Python);
                let optimizer = is_optimized.then(optimizer::install).transpose()?;
                Builder::Python { tools, shim, package, optimizer }
            }
            // `build.mjs` is deterministic by itself.
            Guest::Js => Builder::Js(setup::js_builder()?),
        })
    }

    fn digest(&self) -> String {
        match self {
            Builder::Python { tools, shim, package, optimizer } => Inputs::default()
                .text("optimizer", optimizer.as_ref().map_or("", |optimizer| &optimizer.digest))
                .text("tools", &tools.digest)
                .text("package", &package.1)
                .text("build shim", &shim.as_ref().map_or(String::new(), |_| build_shim::digest()))
                .text("merge modules", &merge_modules::digest())
                .text("interpreter", interpreter::SOURCE)
                .text("libc", &libc::digest())
                .finish(),
            Builder::Js(tools) => tools.digest.clone(),
        }
    }

    /// Creates the command that builds a directory prepared by `stage`. `output` is a
    /// file in that directory.
    fn command(&self, output: &str) -> Command {
        match self {
            Builder::Python { tools, shim, package, .. } => {
                let mut command = hermetic(&tools.componentize_py);
                command.args(["-d", "wit", "-w", "guest", "componentize", "app"]);
                command.args(["-p", "src", "-p", "site", "-p", "native"]);
                command.env("PYTHONPATH", &package.0);
                command.args(["-o", output]);
                // Without this variable the builder would use all packages of the
                // machine's own Python.
                command.env("VIRTUAL_ENV", "no-site-packages");
                if let Some(shim) = shim {
                    command.env("LD_PRELOAD", shim);
                }
                command
            }
            Builder::Js(tools) => {
                let mut command = hermetic(&tools.node);
                command.args(["build.mjs", "--wit", "wit", "--out", output]);
                command.env("ISOLA_JS_TOOLS", &tools.tools);
                command
            }
        }
    }
}

fn build_if_stale(guest: Guest, optimization: Optimization, force: bool) -> Result<()> {
    let builder = Builder::of(guest, optimization)?;
    let name = guest.name();
    let dir = workspace::runtimes().join(name);
    let output = workspace::runtimes().join(format!("{name}.wasm"));
    let stamp = workspace::runtimes().join(format!("{name}.digest"));

    stage(guest, &builder, &dir)?;
    let digest_with = |builder: &Builder| -> Result<String> {
        let arguments = arguments(&builder.command("out.wasm"));
        let inputs = Inputs::default().text("builder", &builder.digest());
        Ok(inputs.text("command", &arguments).tree(&dir)?.finish())
    };
    let digest = digest_with(&builder)?;
    if !force && output.exists() {
        let stamp = fs::read_to_string(&stamp).unwrap_or_default();
        // An optimized guest serves all purposes.
        if stamp == digest || stamp == digest_with(&Builder::of(guest, Optimization::All)?)? {
            return Ok(());
        }
    }

    progress::step(&format!("building the {name} guest"), || {
        build(&builder, &dir, &output)?;
        fs::write(&stamp, &digest).with_context(|| format!("cannot write {}", stamp.display()))
    })?;
    eprintln!("    target/guests/{name}.wasm, {}", size_in_mb(&output)?);
    Ok(())
}

/// Builds twice and reports whether the results are identical. The second build runs
/// in another directory, to detect paths that get into the component.
fn verify(guest: Guest, optimization: Optimization) -> Result<bool> {
    let builder = Builder::of(guest, optimization)?;
    let name = guest.name();
    let base = workspace::runtimes().join("verify");
    let here = base.join(name);
    let elsewhere = base.join("elsewhere").join(name);
    stage(guest, &builder, &here)?;
    clear(&elsewhere)?;
    copy(&here, &elsewhere)?;

    let mut digests = Vec::new();
    for (label, dir) in [("first", here), ("second", elsewhere)] {
        let output = base.join(format!("{name}-{label}.wasm"));
        progress::step(&format!("building the {name} guest, {label} time"), || {
            build(&builder, &dir, &output)
        })?;
        let digest = digest::of_file(&output)?;
        println!("{name} {label}: sha256 {digest}, {}", size_in_mb(&output)?);
        digests.push(digest);
    }
    let identical = digests.windows(2).all(|pair| pair[0] == pair[1]);
    let verdict = if identical { "identical" } else { "DIFFERENT" };
    println!("{name}: {verdict}");
    Ok(identical)
}

/// Copies all inputs of a build into a separate directory.
fn stage(guest: Guest, builder: &Builder, dir: &Path) -> Result<()> {
    let source = workspace::root().join("guests").join(guest.directory());
    clear(dir)?;
    wit::assemble(&source.join("wit/world.wit"), &dir.join("wit"))?;
    for name in guest.sources() {
        copy(&source.join(name), &dir.join(name))?;
    }
    if let Builder::Python { tools, .. } = builder {
        // The code that runs cells, which Linux sandboxes use as well.
        for name in CELLS {
            let file = workspace::root().join("runners/python").join(name);
            copy(&file, &dir.join("src/isola_guest").join(name))?;
        }
        let edition = source.join("editions").join(format!("{}.py", guest.name()));
        copy(&edition, &dir.join("src/isola_guest/edition.py"))?;
        copy_python(&tools.bundled, &dir.join("site"))?;
        if matches!(guest, Guest::PythonData) {
            copy_python(&setup::data_packages()?, &dir.join("site"))?;
            for files in packages::build()? {
                copy_python(&files, &dir.join("site"))?;
            }
        }
        copy(&native_modules::build()?, &dir.join("native"))?;
    }
    Ok(())
}

/// Creates an empty directory, or empties an existing one.
fn clear(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))
}

/// Runs the builder and renames its result to the output, so that an incomplete
/// component never has the final name.
fn build(builder: &Builder, dir: &Path, output: &Path) -> Result<()> {
    const UNFINISHED: &str = "unfinished.wasm";
    // Random numbers repeat, and so do the names of temporary files: each build uses
    // a separate directory for them.
    let scratch = dir.with_extension("tmp");
    clear(&scratch)?;
    let mut command = builder.command(UNFINISHED);
    command.current_dir(dir).env("TMPDIR", &scratch);
    process::run_quiet(command)?;
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    let unfinished = dir.join(UNFINISHED);
    if let Builder::Python { optimizer, .. } = builder {
        let mut linked = fs::read(&unfinished).context("the builder created no component")?;
        libc::patch_tables(&mut linked)?;
        let merged = merge_modules::merge_component(
            &linked,
            &interpreter::CPYTHON,
            &libc::FUNCTION_PATCHES,
            |module| match optimizer {
                Some(optimizer) => optimizer.optimize(module),
                None => Ok(module.to_vec()),
            },
        )
        .context("the guest's libraries cannot be merged")?;
        fs::write(&unfinished, merged)
            .with_context(|| format!("cannot write {}", unfinished.display()))?;
    }
    fs::rename(&unfinished, output)
        .with_context(|| format!("the builder created no component for {}", output.display()))
}

fn arguments(command: &Command) -> String {
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
    args.join(" ")
}

/// Creates a command with an environment that does not depend on the machine or on
/// the time.
fn hermetic(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    // Builders start other programs.
    for name in ["PATH", "HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH.to_string());
    command
}

/// Copies the Python files, the native modules and the metadata of packages, and the data
/// of time zones. Tests and benchmarks of packages stay behind.
fn copy_python(from: &Path, to: &Path) -> Result<()> {
    for path in digest::files(from)? {
        let is_python = path.extension().is_some_and(|extension| extension == "py");
        let is_native = path.to_string_lossy().ends_with("-wasm32-wasi.so");
        let is_zone = path.starts_with("tzdata");
        let is_part = is_python || is_native || is_zone || path.ends_with("METADATA");
        if is_excluded(&path) || is_test(&path) || !is_part {
            continue;
        }
        copy(&from.join(&path), &to.join(&path))?;
    }
    Ok(())
}

fn is_test(path: &Path) -> bool {
    const NAMES: [&str; 2] = ["benchmarks", "tests"];
    let dir = path.parent().unwrap_or(path);
    dir.components().any(|part| NAMES.iter().any(|name| part.as_os_str() == *name))
}

/// Copies a file, or a directory without caches and stamps.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_file() {
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
        return Ok(());
    }
    for path in digest::files(from)? {
        if is_excluded(&path) {
            continue;
        }
        copy(&from.join(&path), &to.join(&path))?;
    }
    Ok(())
}

fn is_excluded(path: &Path) -> bool {
    const NAMES: [&str; 3] = ["__pycache__", ".stamp", "bin"];
    path.components().any(|part| NAMES.iter().any(|name| part.as_os_str() == *name))
}

fn size_in_mb(path: &PathBuf) -> Result<String> {
    let bytes = fs::metadata(path).with_context(|| format!("no {}", path.display()))?.len();
    Ok(format!("{:.1} MB", bytes as f64 / 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_leaves_caches_behind() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        for name in ["app.py", "pkg/a.py", "pkg/__pycache__/a.pyc", ".stamp"] {
            let path = from.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        copy(from.path(), to.path()).unwrap();
        let copied = digest::files(to.path()).unwrap();
        assert_eq!(copied, [Path::new("app.py"), Path::new("pkg/a.py")]);
    }

    #[test]
    fn only_what_python_needs_is_copied_of_a_package() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        let native = "pkg/_fast.cpython-314-wasm32-wasi.so";
        for name in [
            "pkg/__init__.py",
            "pkg/py.typed",
            "pkg/tests/test_a.py",
            "pkg/tests.py",
            "pkg/benchmarks/b.py",
            native,
            "pkg-1.dist-info/METADATA",
            "pkg-1.dist-info/RECORD",
            "bin/pkg.py",
        ] {
            let path = from.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        copy_python(from.path(), to.path()).unwrap();
        let copied = digest::files(to.path()).unwrap();
        let expected = ["pkg/__init__.py", native, "pkg/tests.py", "pkg-1.dist-info/METADATA"];
        assert_eq!(copied, expected.map(PathBuf::from));
    }

    #[test]
    fn a_build_does_not_see_the_environment() {
        let command = hermetic(Path::new("true"));
        let names: Vec<_> = command.get_envs().map(|(name, _)| name).collect();
        assert!(!names.iter().any(|name| *name == "CARGO"));
        assert!(names.iter().any(|name| *name == "SOURCE_DATE_EPOCH"));
    }
}
