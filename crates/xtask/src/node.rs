//! The npm packages of `crates/isola-node`: packed as they are published, and
//! tested as they are installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::digest::Inputs;
use crate::{archive, bench, guests, process, progress, setup, workspace};

const SOURCE: &str = "crates/isola-node";

/// A package, and what is built for it: its name in the package, and where it
/// comes from.
struct Package {
    name: &'static str,
    built: Option<(&'static str, PathBuf)>,
}

#[derive(Clone, Copy)]
pub enum Profile {
    Debug,
    Release,
    /// What `cargo bench` and the benchmark of the Python package build, too.
    Bench,
}

#[derive(clap::Args)]
pub struct Args {}

/// `cargo xtask pack`: what is published, in `target/npm`.
pub fn pack_for_release(_: &Args) -> Result<()> {
    guests::ensure()?;
    build(Profile::Release)?;
    for archive in pack(Profile::Release)? {
        println!("{}", archive.display());
    }
    Ok(())
}

/// The tests, on packages that npm has packed and installed into an empty
/// folder, without a network.
pub fn test() -> Result<()> {
    build(Profile::Debug)?;
    let app = install(Profile::Debug)?;
    for folder in ["test", "types"] {
        copy_folder(&workspace::root().join(SOURCE).join(folder), &app.join(folder))?;
    }
    for page in ["README.md", "docs/node.md", "docs/errors.md"] {
        let to = app.join(page);
        fs::create_dir_all(to.parent().unwrap_or(&app))?;
        fs::copy(workspace::root().join(page), to).with_context(|| format!("no {page}"))?;
    }
    compile(&app)?;
    let archives = archive::make()?;
    // Each by name: a folder is another thing to a later Node.js.
    let files: Vec<_> = crate::digest::files(&app.join("test"))?
        .into_iter()
        .filter(|path| path.to_string_lossy().ends_with(".test.mjs"))
        .map(|path| Path::new("test").join(path))
        .collect();
    for node in [setup::node()?.node, setup::newest_node()?] {
        let version = process::answer(&node, &["--version"]).context("Node.js does not run")?;
        eprintln!("==> node --test {SOURCE}/test, on Node.js {version}");
        let mut node = Command::new(&node);
        node.current_dir(&app).args(["--test", "--test-timeout=120000"]).args(&files);
        // The package finds its own runtimes, as it does with its users.
        node.env_remove("ISOLA_RUNTIME_DIR").env("ISOLA_ARCHIVES", &archives);
        process::loud(node)?;
    }
    Ok(())
}

/// The type declarations, proved: what is right compiles, what is wrong does
/// not. The samples among it are compiled for the tests to run.
pub fn compile(app: &Path) -> Result<()> {
    let tools = setup::typescript()?;
    let types = app.join("types");
    let mut tsc = Command::new(setup::node()?.node);
    tsc.arg(tools.join("typescript/bin/tsc")).arg("--project").arg(types.join("tsconfig.json"));
    tsc.arg("--typeRoots").arg(tools.join("@types")).current_dir(app);
    process::quiet(tsc)
}

/// The rows about Node.js, on the installed packages, beside what others have.
pub fn bench(filter: Option<&str>) -> Result<()> {
    build(Profile::Bench)?;
    let app = install(Profile::Bench)?;
    fs::copy(workspace::root().join(SOURCE).join("bench/bench.mjs"), app.join("bench.mjs"))?;
    let modules = setup::node_competitors()?;
    let mut node = Command::new(setup::node()?.node);
    node.current_dir(&app).args(["--expose-gc", "bench.mjs"]).args(filter);
    node.env(bench::RUST_CALLS, bench::rust_calls()?);
    node.env("ISOLA_BENCH_MODULES", modules).env_remove("ISOLA_RUNTIME_DIR");
    process::loud(node)
}

/// For `cargo xtask check`: the declarations alone, without a native part.
pub fn check_types() -> Result<()> {
    let app = workspace::root().join("target/npm/types");
    clear(&app)?;
    let source = workspace::root().join(SOURCE);
    copy_folder(&source.join("types"), &app.join("types"))?;
    copy_folder(&source.join("npm/isola-core"), &app.join("node_modules/isola-core"))?;
    compile(&app)
}

/// Builds the native part. All of the workspace, for the features of the
/// dependencies are chosen by what is built, and the tests have built these.
pub fn build(profile: Profile) -> Result<()> {
    let mut cargo = process::cargo(&["build", "--workspace", "--lib", "--bins", "--examples"]);
    cargo.args(["--profile", profile.name()]);
    eprintln!("==> cargo build of isola-node");
    process::loud(cargo)
}

/// An empty folder with the packages installed.
pub fn install(profile: Profile) -> Result<PathBuf> {
    let archives = pack(profile)?;
    let app = workspace::root().join("target/npm").join(profile.name()).join("app");
    progress::step("installing isola-core from its archives", || {
        clear(&app)?;
        fs::write(app.join("package.json"), "{ \"name\": \"app\", \"private\": true }\n")?;
        let tools = setup::node()?;
        let mut npm = Command::new(&tools.npm);
        npm.args(["install", "--offline", "--no-audit", "--no-fund"]).args(&archives);
        npm.current_dir(&app).env("PATH", &tools.path);
        process::quiet(npm)
    })?;
    Ok(app)
}

/// Packs all packages whose content has changed.
fn pack(profile: Profile) -> Result<Vec<PathBuf>> {
    let root = workspace::root();
    let library = root.join("target").join(profile.folder()).join("libisola_node.so");
    let guest = |name: &str| workspace::runtimes().join(name);
    let packages = [
        Package { name: "isola-core", built: None },
        Package { name: "isola-core-linux-x64-gnu", built: Some(("isola.node", library)) },
        Package {
            name: "isola-core-runtime-python",
            built: Some(("python.wasm", guest("python.wasm"))),
        },
        Package { name: "isola-core-runtime-js", built: Some(("js.wasm", guest("js.wasm"))) },
    ];
    packages.iter().map(|package| pack_one(package, profile)).collect()
}

fn pack_one(package: &Package, profile: Profile) -> Result<PathBuf> {
    let root = workspace::root();
    let source = root.join(SOURCE).join("npm").join(package.name);
    let folder = root.join("target/npm").join(profile.name()).join(package.name);
    let mut inputs = Inputs::default().tree(&source)?;
    if let Some((name, path)) = &package.built {
        inputs = inputs.file(name, path)?;
    }
    let digest = inputs.finish();
    setup::install(&format!("{}, packed by npm", package.name), &folder, &digest, || {
        let content = folder.join("package");
        copy_folder(&source, &content)?;
        fs::copy(root.join("LICENSE"), content.join("LICENSE"))?;
        if let Some((name, path)) = &package.built {
            fs::copy(path, content.join(name))
                .with_context(|| format!("cannot copy {}", path.display()))?;
        }
        let tools = setup::node()?;
        let mut npm = Command::new(&tools.npm);
        npm.args(["pack", "--pack-destination"]).arg(&folder);
        npm.current_dir(&content).env("PATH", &tools.path);
        process::quiet(npm)
    })?;
    archive_in(&folder)
}

fn archive_in(folder: &Path) -> Result<PathBuf> {
    fs::read_dir(folder)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|ending| ending == "tgz"))
        .with_context(|| format!("npm pack left no archive in {}", folder.display()))
}

fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    for path in crate::digest::files(from)? {
        let target = to.join(&path);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(from.join(&path), &target)
            .with_context(|| format!("cannot copy {}", path.display()))?;
    }
    Ok(())
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Debug => "dev",
            Self::Release => "release",
            Self::Bench => "bench",
        }
    }

    /// Where cargo leaves what it builds with it.
    fn folder(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release | Self::Bench => "release",
        }
    }
}
