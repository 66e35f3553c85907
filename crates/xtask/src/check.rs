//! `cargo xtask check`: checks of the source tree, with one row for each check.

mod cycles;
mod edges;
mod evidence;
mod guest_tests;
mod layout;
mod length;
mod links;
mod module_paths;
mod module_rules;
mod packages;
mod places;
mod rust_source;
mod stdlib;
mod type_names;
mod words;

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::workspace::files;
use crate::{format, fuzz, generate, node, process, progress, sdk, setup, typescript, workspace};

#[derive(clap::Args)]
pub struct CheckArgs {
    /// Also check for known vulnerabilities; fetches the advisory database
    #[arg(long)]
    advisories: bool,
    /// Also run CPython's and numpy's own tests, for many minutes; so do the filters `stdlib`
    /// and `packages`
    #[arg(long)]
    slow: bool,
    /// Update the tables of the rows `stdlib` and `packages` with their results
    #[arg(long)]
    write: bool,
    /// Run only the rows whose name contains this
    filter: Option<String>,
}

/// The result of one row.
enum Outcome {
    Ok,
    /// The check was not run, for this reason.
    NotRun(String),
    /// The output of the failed check.
    Failed(String),
}

pub fn run(args: &CheckArgs) -> Result<()> {
    let rows: [(&str, CheckFn); 26] = [
        ("format", Box::new(format)),
        ("edges", Box::new(edges)),
        ("places", Box::new(|| problems(places::find(&files()?)?))),
        ("layout", Box::new(|| problems([layout::find(&files()?)?, type_names::find()?].concat()))),
        ("length", Box::new(|| problems(length::find(&files()?)?))),
        ("links", Box::new(|| problems(links::find(&files()?)?))),
        ("evidence", Box::new(|| problems(evidence::find(&files()?)?))),
        ("words", Box::new(|| problems(words::find(&files()?)?))),
        ("kubernetes", Box::new(kubernetes)),
        ("generated", Box::new(generated)),
        ("clippy", Box::new(clippy)),
        ("docs", Box::new(docs)),
        ("types", Box::new(types)),
        ("mypy", Box::new(|| tool(setup::mypy))),
        ("stubs", Box::new(stubs)),
        ("python types", Box::new(python_types)),
        ("sdk types", Box::new(sdk_types)),
        ("typescript", Box::new(|| tool(setup::typescript))),
        ("npm types", Box::new(npm_types)),
        ("typescript sdk types", Box::new(typescript_sdk_types)),
        ("fuzz", Box::new(|| fuzz::run_quick_targets().map(|()| Outcome::Ok))),
        ("stdlib", slow(args, "stdlib", stdlib::run)),
        ("packages", slow(args, "packages", packages::run)),
        ("cargo-deny", Box::new(|| tool(setup::cargo_deny))),
        ("deny", Box::new(|| deny(&["bans", "licenses", "sources"]))),
        ("advisories", {
            let wanted = args.advisories;
            Box::new(move || advisories(wanted))
        }),
    ];
    let mut failed = Vec::new();
    for (name, check) in rows {
        if let Some(filter) = &args.filter
            && !name.contains(filter.as_str())
        {
            continue;
        }
        let start = Instant::now();
        // A check that cannot be run has failed. The other checks still run, since
        // their results are useful, too.
        let outcome = progress::with_progress(name, check)
            .unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        let time = progress::seconds(start.elapsed());
        match outcome {
            Outcome::Ok => println!("ok       {name:<12} {time}"),
            Outcome::NotRun(why) => println!("not run  {name:<12} {why}"),
            Outcome::Failed(text) => {
                println!("FAILED   {name:<12} {time}");
                for line in text.trim_end().lines() {
                    println!("         | {line}");
                }
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("{} failed: {}", failed.len(), failed.join(", "));
    }
    Ok(())
}

type CheckFn = Box<dyn Fn() -> Result<Outcome>>;

/// Checks the format of all languages, so that one run lists every file.
fn format() -> Result<Outcome> {
    let mut failures = Vec::new();
    for command in format::commands(format::Mode::Check)? {
        if let Outcome::Failed(text) = passes(command)? {
            failures.push(text);
        }
    }
    if !failures.is_empty() {
        failures.push("run `cargo xtask format`".to_owned());
    }
    problems(failures)
}

fn edges() -> Result<Outcome> {
    problems([edges::find()?, cycles::find()?, module_rules::find()?].concat())
}

fn clippy() -> Result<Outcome> {
    passes(process::cargo(&[
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--features",
        workspace::TEST_FEATURES,
        "--",
        "-D",
        "warnings",
    ]))
}

fn docs() -> Result<Outcome> {
    let mut cargo = process::cargo(&["doc", "--quiet", "--no-deps", "--workspace"]);
    cargo.env("RUSTDOCFLAGS", "-D warnings");
    passes(cargo)
}

/// Checks the manifests of Kubernetes by the schemas of Kubernetes, and by each other.
fn kubernetes() -> Result<Outcome> {
    let lock = workspace::lock()?;
    let mut python = Command::new(setup::kubernetes_schemas()?);
    drop(lock);
    python.arg(workspace::root().join("crates/xtask/kubernetes/validate.py"));
    python.arg(workspace::root());
    passes(python)
}

fn generated() -> Result<Outcome> {
    problems(
        generate::stale()?
            .into_iter()
            .map(|path| format!("{path} is not current: run `cargo xtask generate`"))
            .collect(),
    )
}

/// Checks the declarations of the JavaScript guest's globals, and a file that uses
/// each of them.
fn types() -> Result<Outcome> {
    let _lock = workspace::lock()?;
    let builder = setup::js_builder()?;
    let mut command = Command::new(&builder.node);
    command.current_dir(workspace::root().join("guests/js"));
    command.arg(builder.tools.join("node_modules/typescript/bin/tsc"));
    command.args(["--noEmit", "--strict", "--target", "esnext", "--module", "esnext"]);
    // Only these two files are visible: no DOM, and no types of Node.js.
    command.args(["--lib", "esnext", "--typeRoots", "none", "isola-guest.d.ts", "test/globals.ts"]);
    passes(command)
}

/// Installs a tool. This is a separate row, so that the time of the next row does
/// not include the installation.
fn tool(install: fn() -> Result<PathBuf>) -> Result<Outcome> {
    let _lock = workspace::lock()?;
    install()?;
    Ok(Outcome::Ok)
}

/// Checks the type stubs of the Python guest: valid uses pass, and invalid uses fail.
fn stubs() -> Result<Outcome> {
    let lock = workspace::lock()?;
    let mut mypy = Command::new(setup::mypy()?);
    drop(lock);
    mypy.current_dir(workspace::root().join("guests/python/stubs"));
    mypy.args(["--config-file", "tests/mypy.ini", "--no-color-output", "--cache-dir"]);
    mypy.arg(workspace::root().join("target/mypy"));
    mypy.args(["sandbox", "tests/sample.py", "tests/wrong.py"]);
    passes(mypy)
}

/// Checks the Python package and its tests with two type checkers, since each finds
/// errors that the other does not.
fn python_types() -> Result<Outcome> {
    let lock = workspace::lock()?;
    let mypy = setup::mypy()?;
    let python = setup::python_tests()?;
    drop(lock);
    let package = workspace::root().join("crates/isola-python");
    let mut first = Command::new(mypy);
    first.current_dir(&package).args(["--no-color-output", "--cache-dir"]);
    first.arg(workspace::root().join("target/mypy")).arg("--python-executable").arg(&python);
    let mut second = Command::new(python.with_file_name("pyrefly"));
    second.current_dir(&package).args(["check", "--color", "never", "--output-format", "min-text"]);
    second.arg("--python-interpreter-path").arg(&python);
    match passes(first)? {
        Outcome::Ok => passes(second),
        failed => Ok(failed),
    }
}

/// Checks the types of the Python package `isorun` and its tests.
fn sdk_types() -> Result<Outcome> {
    let lock = workspace::lock()?;
    let mypy = sdk::types()?;
    drop(lock);
    passes(mypy)
}

/// Checks the declarations of the npm package: samples and valid uses pass, and
/// invalid uses fail.
fn npm_types() -> Result<Outcome> {
    let _lock = workspace::lock()?;
    Ok(match node::check_types() {
        Ok(()) => Outcome::Ok,
        Err(error) => Outcome::Failed(format!("{error:#}")),
    })
}

/// Checks the types of the npm package `@isorun/sdk` and its tests.
fn typescript_sdk_types() -> Result<Outcome> {
    let _lock = workspace::lock()?;
    Ok(match typescript::check_types() {
        Ok(()) => Outcome::Ok,
        Err(error) => Outcome::Failed(format!("{error:#}")),
    })
}

fn deny(checks: &[&str]) -> Result<Outcome> {
    let _lock = workspace::lock()?;
    let mut command = Command::new(setup::cargo_deny()?);
    command.current_dir(workspace::root());
    command.args(["--workspace", "--log-level", "error", "check"]);
    command.args(checks);
    passes(command)
}

/// Creates a row of tests in a guest, which take minutes.
fn slow(args: &CheckArgs, name: &str, tests: fn(bool) -> Result<Outcome>) -> CheckFn {
    let is_wanted = args.slow || args.filter.as_deref() == Some(name);
    let write = args.write;
    Box::new(move || {
        if !is_wanted {
            return Ok(Outcome::NotRun("takes some minutes: pass --slow".to_owned()));
        }
        tests(write)
    })
}

fn advisories(wanted: bool) -> Result<Outcome> {
    if !wanted {
        return Ok(Outcome::NotRun(
            "pass --advisories, which fetches the advisory database".to_owned(),
        ));
    }
    deny(&["advisories"])
}

fn passes(mut command: Command) -> Result<Outcome> {
    command.env("CARGO_TERM_COLOR", "never");
    let captured = process::capture(command)?;
    Ok(if captured.status.success() {
        Outcome::Ok
    } else {
        Outcome::Failed(process::tail(&captured.text, 200))
    })
}

fn problems(found: Vec<String>) -> Result<Outcome> {
    Ok(if found.is_empty() { Outcome::Ok } else { Outcome::Failed(found.join("\n")) })
}
