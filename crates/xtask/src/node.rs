//! The npm packages of `crates/isola-node`: packed as for publishing, and tested
//! after installation.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::digest::Inputs;
use crate::{archive, process, progress, rust_calls, setup, stamp, workspace};

const SOURCE: &str = "crates/isola-node";

/// An npm package.
struct Package {
    name: &'static str,
    /// The file that is built for it: its name in the package, and its source.
    built: Option<(&'static str, PathBuf)>,
}

/// The packages of runtimes that are packed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum RuntimePackages {
    /// Those on which `isola-core` depends.
    Required,
    /// Also those that users install in addition.
    All,
}

/// The options of Node.js for tests. By default it leaves one core unused.
const TEST_OPTIONS: [&str; 3] = ["--test", "--test-timeout=120000", "--test-concurrency=2"];

/// The profile of cargo.
#[derive(Clone, Copy)]
pub enum Profile {
    Debug,
    Release,
    /// The profile of `cargo bench` and of the benchmark of the Python package.
    Bench,
}

/// Runs the tests on packages that npm has packed and installed into an empty
/// directory, without a network.
pub fn test() -> Result<()> {
    /// What the tests read of the repository.
    const PAGES: [&str; 7] = [
        "README.md",
        "docs/guest/python/data.md",
        "docs/isola/node.md",
        "docs/isola/errors.md",
        "docs/isola/files.md",
        "docs/isola/run-code.md",
        "crates/isola/api.json",
    ];
    build(Profile::Debug)?;
    let app = install("app", Profile::Debug, RuntimePackages::All)?;
    for dir in ["test", "types"] {
        copy_dir(&workspace::root().join(SOURCE).join(dir), &app.join(dir))?;
    }
    for page in PAGES {
        let to = app.join(page);
        fs::create_dir_all(to.parent().unwrap_or(&app))?;
        fs::copy(workspace::root().join(page), to).with_context(|| format!("no {page}"))?;
    }
    compile(&app)?;
    let archives = archive::create("js")?;
    let files = test_files(&app)?;
    for node in [setup::node()?.node, setup::newest_node()?] {
        let version = process::stdout_of(&node, &["--version"]).context("Node.js does not run")?;
        eprintln!("==> node --test {SOURCE}/test, on Node.js {version}");
        let mut node = Command::new(&node);
        node.current_dir(&app).args(TEST_OPTIONS).args(&files);
        // The package must find its own runtimes, as for its users.
        node.env_remove("ISOLA_RUNTIME_DIR").env("ISOLA_ARCHIVES", &archives);
        process::run(node)?;
    }
    test_adapters()
}

/// Runs the tests of the adapters to other frameworks, beside the frameworks themselves. They
/// need a newer Node.js than the packages do.
fn test_adapters() -> Result<()> {
    const PAGES: [&str; 2] = ["docs/integrations/codemode.md", "docs/integrations/isola-ai-sdk.md"];
    let frameworks = setup::frameworks_of_node()?;
    let app = install("adapters", Profile::Debug, RuntimePackages::Required)?;
    for entry in fs::read_dir(&frameworks)? {
        let entry = entry?;
        let link = app.join("node_modules").join(entry.file_name());
        if !entry.file_name().to_string_lossy().starts_with('.') && !link.exists() {
            std::os::unix::fs::symlink(entry.path(), &link)
                .with_context(|| format!("cannot create the link {}", link.display()))?;
        }
    }
    for dir in ["test", "types"] {
        copy_dir(&workspace::root().join(SOURCE).join("integrations").join(dir), &app.join(dir))?;
    }
    for page in PAGES {
        let to = app.join(page);
        fs::create_dir_all(to.parent().unwrap_or(&app))?;
        fs::copy(workspace::root().join(page), to).with_context(|| format!("no {page}"))?;
    }
    compile(&app)?;
    let node = setup::newest_node()?;
    let version = process::stdout_of(&node, &["--version"]).context("Node.js does not run")?;
    eprintln!("==> node --test {SOURCE}/integrations/test, on Node.js {version}");
    let mut node = Command::new(&node);
    node.current_dir(&app).args(TEST_OPTIONS).args(test_files(&app)?);
    node.env_remove("ISOLA_RUNTIME_DIR");
    process::run(node)
}

/// Returns the files of tests by their names: later versions of Node.js treat a directory
/// differently.
fn test_files(app: &Path) -> Result<Vec<PathBuf>> {
    let files = crate::digest::files(&app.join("test"))?;
    let tests = files.into_iter().filter(|path| path.to_string_lossy().ends_with(".test.mjs"));
    Ok(tests.map(|path| Path::new("test").join(path)).collect())
}

/// Checks the type declarations: valid uses compile, invalid uses do not. The samples
/// among them are compiled for the tests.
pub fn compile(app: &Path) -> Result<()> {
    let tools = setup::typescript()?;
    let types = app.join("types");
    let mut tsc = Command::new(setup::node()?.node);
    tsc.arg(tools.join("typescript/bin/tsc")).arg("--project").arg(types.join("tsconfig.json"));
    tsc.arg("--typeRoots").arg(tools.join("@types")).current_dir(app);
    process::run_quiet(tsc)
}

/// Measures the installed packages on Node.js, in comparison with other packages.
pub fn bench(filter: Option<&str>) -> Result<()> {
    build(Profile::Bench)?;
    let app = install("app", Profile::Bench, RuntimePackages::Required)?;
    fs::copy(workspace::root().join(SOURCE).join("bench/bench.mjs"), app.join("bench.mjs"))?;
    let modules = setup::node_competitors()?;
    let mut node = Command::new(setup::node()?.node);
    node.current_dir(&app).args(["--expose-gc", "bench.mjs"]).args(filter);
    node.env(rust_calls::VARIABLE, rust_calls::measure()?);
    node.env("ISOLA_BENCH_MODULES", modules).env_remove("ISOLA_RUNTIME_DIR");
    process::run(node)
}

/// Checks the declarations alone, without the native part, for `cargo xtask check`.
pub fn check_types() -> Result<()> {
    let app = workspace::root().join("target/npm/types");
    clear(&app)?;
    let source = workspace::root().join(SOURCE);
    copy_dir(&source.join("types"), &app.join("types"))?;
    copy_dir(&source.join("npm/isola-core"), &app.join("node_modules/isola-core"))?;
    compile(&app)
}

/// Builds the native part. The complete workspace is built, because cargo selects
/// the features of dependencies by the packages it builds, and the tests have built
/// the same ones.
pub fn build(profile: Profile) -> Result<()> {
    let mut cargo = process::cargo(&["build", "--workspace", "--lib", "--bins", "--examples"]);
    cargo.args(["--profile", profile.name()]);
    eprintln!("==> cargo build of isola-node");
    process::run(cargo)
}

/// Installs the packages into an empty directory with this name.
fn install(name: &str, profile: Profile, runtimes: RuntimePackages) -> Result<PathBuf> {
    let archives = pack(profile, runtimes)?;
    let app = workspace::root().join("target/npm").join(profile.name()).join(name);
    progress::step("installing isola-core from its archives", || {
        clear(&app)?;
        fs::write(app.join("package.json"), "{ \"name\": \"app\", \"private\": true }\n")?;
        let tools = setup::node()?;
        let mut npm = Command::new(&tools.npm);
        npm.args(["install", "--offline", "--no-audit", "--no-fund"]).args(&archives);
        npm.current_dir(&app).env("PATH", &tools.path);
        process::run_quiet(npm)
    })?;
    Ok(app)
}

/// Packs the packages whose content has changed. Returns the archives of all of them.
pub fn pack(profile: Profile, runtimes: RuntimePackages) -> Result<Vec<PathBuf>> {
    let library = workspace::cargo_target()?.join(profile.dir()).join("libisola_node.so");
    let guest = |name: &str| workspace::runtimes().join(name);
    let mut packages = vec![
        Package { name: "isola-core", built: None },
        Package { name: "isola-core-linux-x64-gnu", built: Some(("isola.node", library)) },
        Package {
            name: "isola-core-runtime-python",
            built: Some(("python.wasm", guest("python.wasm"))),
        },
        Package { name: "isola-core-runtime-js", built: Some(("js.wasm", guest("js.wasm"))) },
    ];
    if runtimes == RuntimePackages::All {
        packages.push(Package {
            name: "isola-core-runtime-python-data",
            built: Some(("python-data.wasm", guest("python-data.wasm"))),
        });
    }
    packages.iter().map(|package| pack_one(package, profile)).collect()
}

fn pack_one(package: &Package, profile: Profile) -> Result<PathBuf> {
    let root = workspace::root();
    let source = root.join(SOURCE).join("npm").join(package.name);
    let dir = root.join("target/npm").join(profile.name()).join(package.name);
    let mut inputs = Inputs::default().tree(&source)?;
    if let Some((name, path)) = &package.built {
        inputs = inputs.file(name, path)?;
    }
    let digest = inputs.finish();
    stamp::install(&format!("{}, packed by npm", package.name), &dir, &digest, || {
        let content = dir.join("package");
        copy_dir(&source, &content)?;
        fs::copy(root.join("LICENSE"), content.join("LICENSE"))?;
        if let Some((name, path)) = &package.built {
            fs::copy(path, content.join(name))
                .with_context(|| format!("cannot copy {}", path.display()))?;
        }
        let tools = setup::node()?;
        let mut npm = Command::new(&tools.npm);
        npm.args(["pack", "--pack-destination"]).arg(&dir);
        npm.current_dir(&content).env("PATH", &tools.path);
        process::run_quiet(npm)
    })?;
    archive_in(&dir)
}

/// Returns the archive that `npm pack` has written into a directory.
pub fn archive_in(dir: &Path) -> Result<PathBuf> {
    fs::read_dir(dir)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|ending| ending == "tgz"))
        .with_context(|| format!("npm pack left no archive in {}", dir.display()))
}

/// Creates an empty directory in the place of an existing one.
pub fn clear(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))
}

/// Copies all files below a directory.
pub fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    for path in crate::digest::files(from)? {
        let target = to.join(&path);
        if let Some(dir) = target.parent() {
            fs::create_dir_all(dir)?;
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

    /// Returns the directory of the artifacts below `target`.
    fn dir(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release | Self::Bench => "release",
        }
    }
}
