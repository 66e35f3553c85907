//! `cargo xtask test`: runs all tests, with guests that are built from this tree.
//! The tests of the JavaScript guest run first, in Node.js, then those of the code that
//! runs cells; the tests of the npm
//! package and of the two Python packages run last, on the installed packages, with those of
//! the TypeScript package.

use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;
use clap::Subcommand;

use crate::process::Background;
use crate::{
    archive, debian, guests, integrations, linux, node, process, progress, release, sdk, setup,
    typescript, wheel, workspace,
};

/// The end of the help, which shows what [`expand_short_forms`] replaces.
const SHORT_FORMS: &str = "\
Short forms:
  cargo xtask test --quick [-- ARGS]  The same as `cargo xtask test quick [-- ARGS]`
  cargo xtask test -- ARGS            The same as `cargo xtask test rust -- ARGS`";

/// The names of the tests of `isola` that need the guest `python-data`.
const DATA_TESTS: &str = "python_data::";

#[derive(clap::Args)]
#[command(after_help = SHORT_FORMS)]
pub struct TestArgs {
    /// The part of the tests; all of them by default
    #[command(subcommand)]
    suite: Option<Suite>,
}

#[derive(Subcommand)]
enum Suite {
    /// Run only tests that need neither root nor a network nor other tools than Rust, Python
    /// and PostgreSQL, in less than two minutes once everything is compiled
    Quick {
        /// Arguments for `cargo test --workspace`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Run only the tests of the crates
    Rust {
        /// Arguments for `cargo test --workspace`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Run only the tests of the npm package isola-core
    Node,
    /// Run only the tests of the Python package isola
    Python {
        /// Arguments for pytest
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Run only the tests of the Python package isorun, in sdk/python: on one server, and on a
    /// cluster of three with a PostgreSQL server of the tests' own
    Sdk {
        /// Arguments for pytest
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Run only the tests of the npm package @isorun/sdk, in sdk/typescript
    Typescript {
        /// Arguments for `node --test`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Install each artifact of a release into an empty place, and try it there
    Release(release::ReleaseTestArgs),
    /// Run only the tests of the adapters to other frameworks, on the real frameworks
    Integrations {
        /// Groups of frameworks: agents, adk, code; all of them by default
        groups: Vec<String>,
        /// Arguments for pytest
        #[arg(last = true)]
        args: Vec<String>,
    },
}

/// Replaces the short forms `test --quick` and `test -- ARGS` by the commands that they
/// stand for. They are no arguments of `test` itself: clap suggests a command for an
/// unknown one only where no other arguments are expected.
pub fn expand_short_forms(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    if words.get(1).is_some_and(|command| command == "test") {
        match words.get(2).and_then(|word| word.to_str()) {
            Some("--quick") => words[2] = "quick".into(),
            Some("--") => words.insert(2, "rust".into()),
            _ => {}
        }
    }
    words
}

pub fn run(args: &TestArgs) -> Result<()> {
    match &args.suite {
        None => all(),
        Some(Suite::Quick { args }) => quick(args),
        Some(Suite::Rust { args }) => rust(args),
        Some(Suite::Node) => {
            guests::ensure_all()?;
            node::test()
        }
        Some(Suite::Python { args }) => python(args),
        Some(Suite::Sdk { args }) => {
            sdk::build_for_tests()?;
            sdk::test(args)
        }
        Some(Suite::Typescript { args }) => {
            sdk::build_for_tests()?;
            typescript::test(args)
        }
        Some(Suite::Release(args)) => release::test(args),
        Some(Suite::Integrations { groups, args }) => {
            sdk::build_for_tests()?;
            integrations::test(groups, args)
        }
    }
}

fn all() -> Result<()> {
    let compiling = compile_crates()?;
    guests::ensure_all()?;
    javascript_guest()?;
    runners()?;
    progress::step("compiling the crates and their tests", || compiling.finish())?;
    rust(&[])?;
    node::test()?;
    python(&[])?;
    // The tests of the crates have built the server.
    sdk::test(&[])?;
    typescript::test(&[])?;
    integrations::test(&[], &[])
}

/// Starts to compile all crates and their tests. Much of what else has to be built uses one
/// core only.
fn compile_crates() -> Result<Background> {
    let features = workspace::TEST_FEATURES;
    Background::start(process::cargo(&["test", "--workspace", "--features", features, "--no-run"]))
}

/// Runs the tests of all crates.
fn rust(args: &[String]) -> Result<()> {
    guests::ensure_all()?;
    setup::python_samples()?;
    setup::javascript_libraries()?;
    setup::client_library()?;
    setup::s3_server()?;
    debian::image_tools()?;
    debian::postgres()?;
    linux::ensure()?;
    eprintln!("==> cargo test --workspace");
    let mut command =
        process::cargo(&["test", "--workspace", "--features", workspace::TEST_FEATURES]);
    command.args(args);
    process::run(command)?;
    if args.is_empty() { oldest_runsc() } else { Ok(()) }
}

/// Runs what every engine has to pass on the oldest `runsc` that is supported; all other
/// tests use a current one.
fn oldest_runsc() -> Result<()> {
    let tools = linux::ensure_oldest()?;
    eprintln!("==> cargo test --test gvisor conformance:: (on the oldest supported runsc)");
    let mut command =
        process::cargo(&["test", "--workspace", "--features", workspace::TEST_FEATURES]);
    command.args(["--test", "gvisor", "conformance::"]).env("ISORUN_TOOLS_DIR", tools);
    process::run(command)
}

/// Runs the unit tests of all crates, the tests of `isola` on the guests `python` and `js`,
/// and those of the JavaScript guest in Node.js. The guest `python-data` takes minutes to
/// build, with tools that the others do not need.
fn quick(args: &[String]) -> Result<()> {
    guests::ensure()?;
    setup::javascript_libraries()?;
    debian::postgres()?;
    javascript_guest()?;
    runners()?;
    let selected = ["--lib", "--bins", "--test", "sandbox", "--test", "codec"];
    eprintln!("==> cargo test --workspace {}", selected.join(" "));
    let mut command =
        process::cargo(&["test", "--workspace", "--features", workspace::TEST_FEATURES]);
    command.args(selected).args(args);
    if !args.iter().any(|arg| arg == "--") {
        command.arg("--");
    }
    command.args(["--skip", DATA_TESTS]);
    process::run(command)
}

/// Runs the tests of the JavaScript guest that need no engine.
fn javascript_guest() -> Result<()> {
    eprintln!("==> node --test guests/js/test");
    let builder = setup::js_builder()?;
    let mut node = Command::new(builder.node);
    node.current_dir(workspace::root()).args(["--test", "guests/js/test/"]);
    node.env("ISOLA_JS_TOOLS", builder.tools);
    process::run(node)
}

/// Runs the tests of the code that runs cells, with the Python of this machine.
fn runners() -> Result<()> {
    eprintln!("==> python3 -m unittest discover runners/python/tests");
    let mut python = Command::new("python3");
    python.current_dir(workspace::root().join("runners/python"));
    python.args(["-m", "unittest", "discover", "tests"]).env("PYTHONDONTWRITEBYTECODE", "1");
    process::run(python)
}

/// Runs the tests of the Python package on the installed wheel.
fn python(args: &[String]) -> Result<()> {
    guests::ensure_all()?;
    let python = setup::python_tests()?;
    // Builds the MCP server and the wheel, and reuses the artifacts of the tests.
    process::run(process::cargo(&["build", "--workspace", "--examples", "--bins"]))?;
    let (wheel, data) = (wheel::build("dev")?, wheel::build_data(None)?);
    let site = workspace::root().join("target/python-site");
    wheel::install(&python, &[&wheel, &data], &site)?;
    eprintln!("==> pytest crates/isola-python/tests");
    let mut pytest = Command::new(python);
    pytest.current_dir(workspace::root().join("crates/isola-python"));
    pytest.args(["-m", "pytest"]).args(args);
    pytest.env("PYTHONPATH", &site).env("PYTHONDONTWRITEBYTECODE", "1");
    pytest.env("ISOLA_WHEEL", &wheel).env("ISOLA_ARCHIVES", archive::create("js")?);
    pytest.env("ISOLA_COMMAND", workspace::cargo_target()?.join("debug/isola"));
    // The runtimes are those in the wheel.
    pytest.env_remove("ISOLA_RUNTIME_DIR");
    process::run(pytest)
}
