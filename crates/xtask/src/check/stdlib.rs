//! Runs CPython's own tests in the Python guest.
//!
//! The command `isola` runs each module of `Lib/test` in a separate sandbox.
//! `crates/isola/tests/python-tests.txt` lists the tests that are expected to fail,
//! and the reasons. A test that fails and is not listed is an error, and so is a
//! listed test that passes.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use self::table::{Outcomes, Table, Test};
use super::Outcome;
use crate::{guests, process, python_library, workspace};

const TABLE: &str = "crates/isola/tests/python-tests.txt";

/// The page that contains the figures.
const PAGE: &str = "docs/guest/python/README.md";

/// The start of the line with the figures.
const FIGURES: &str = "Of CPython's own tests";

/// The limits of a module. Some tests need more memory than the default.
const LIMITS: [&str; 6] = ["--max-memory", "512M", "--cpu-timeout", "120s", "--timeout", "400s"];

/// The maximum number of crashes of one module, after which it is given up.
const MAX_CRASHES: usize = 20;

/// The paths that are needed to run a module.
struct Runner {
    isola: PathBuf,
    driver: PathBuf,
    tests: PathBuf,
    scratch: PathBuf,
}

/// Runs all modules and compares the results with the table, which is updated first
/// if `write` is set.
pub fn run(write: bool) -> Result<Outcome> {
    guests::ensure()?;
    let lock = workspace::lock()?;
    let tests = python_library::install_tests()?;
    drop(lock);
    // As `cargo xtask test` builds it, so that nothing is compiled twice.
    process::run_quiet(process::cargo(&[
        "build",
        "--workspace",
        "--bins",
        "--features",
        workspace::TEST_FEATURES,
    ]))?;
    let runner = Runner {
        isola: workspace::cargo_target()?.join("debug/isola").into(),
        driver: workspace::root().join("crates/xtask/src/check/stdlib/driver.py"),
        scratch: workspace::root().join("target/python-tests"),
        tests,
    };
    let path = workspace::root().join(TABLE);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {TABLE}"))?;
    let mut table = Table::parse(&text).with_context(|| format!("cannot read {TABLE}"))?;
    let outcomes = run_all(&runner, &table)?;
    if write {
        table.update(&outcomes);
        fs::write(&path, table.text()).with_context(|| format!("cannot write {TABLE}"))?;
        write_figures(&outcomes)?;
    }
    let mut found = table.compare(&outcomes);
    let page = fs::read_to_string(workspace::root().join(PAGE))?;
    let figures = figures(&outcomes)?;
    if !page.lines().any(|line| line == figures) {
        found.push(format!("{PAGE}: the line \"{FIGURES}\" should be: {figures}"));
    }
    if !found.is_empty() {
        found.push(format!("{TABLE} lists the expected results; --write updates it."));
    }
    super::problems(found)
}

/// Runs all modules that the table does not exclude, the large ones first, on all
/// cores.
fn run_all(runner: &Runner, table: &Table) -> Result<Outcomes> {
    let mut modules = modules(&runner.tests)?;
    modules.retain(|(_, module)| !table.excludes(module));
    modules.sort();
    let modules = Mutex::new(modules);
    let outcomes = Mutex::new(BTreeMap::new());
    let failure = Mutex::new(None);
    let work = || {
        while let Some((_, module)) = modules.lock().ok().and_then(|mut modules| modules.pop()) {
            match runner.run(&module, table) {
                Ok(outcome) => {
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.insert(module, outcome);
                    }
                }
                Err(error) => {
                    if let Ok(mut failure) = failure.lock() {
                        failure.get_or_insert(error.context(module));
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    match failure.into_inner().ok().flatten() {
        Some(error) => Err(error),
        None => outcomes.into_inner().context("a thread panicked"),
    }
}

/// Returns the modules and packages of tests, each with the size of its file.
fn modules(tests: &Path) -> Result<Vec<(u64, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(tests.join("test"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let module = name.strip_suffix(".py").unwrap_or(&name);
        let is_package = entry.path().join("__init__.py").is_file();
        if module.starts_with("test_") && (is_package || name.ends_with(".py")) {
            let size = if is_package { 1 << 20 } else { entry.metadata()?.len() };
            found.push((size, module.to_owned()));
        }
    }
    Ok(found)
}

impl Runner {
    fn run(&self, module: &str, table: &Table) -> Result<table::ModuleOutcome> {
        let scratch = self.scratch.join(module);
        if scratch.exists() {
            fs::remove_dir_all(&scratch)?;
        }
        fs::create_dir_all(scratch.join("tmp"))?;
        fs::create_dir(scratch.join("report"))?;
        let mut not_run: BTreeSet<String> =
            table.excluded_tests(module).map(str::to_owned).collect();
        let mut tests = BTreeMap::new();
        for _ in 0..MAX_CRASHES {
            let names: String = not_run.iter().map(|name| format!("{name}\n")).collect();
            fs::write(scratch.join("report/not-run"), names)?;
            let error = self.start(module, &scratch)?;
            let events = fs::read(scratch.join("report/events")).unwrap_or_default();
            let mut started = None;
            for line in String::from_utf8_lossy(&events).lines() {
                let mut parts = line.splitn(3, '\t').map(str::to_owned);
                let (Some(kind), Some(name), Some(detail)) =
                    (parts.next(), parts.next(), parts.next())
                else {
                    bail!("not a line of driver.py: {line:?}");
                };
                match kind.as_str() {
                    "start" => started = Some(name),
                    "end" => return Ok(table::ModuleOutcome::Ran(tests)),
                    "module" => return Ok(table::ModuleOutcome::Skipped(detail)),
                    _ => {
                        if started.as_ref() == Some(&name) {
                            started = None;
                        }
                        if let Some(test) = Test::parse(&kind, detail) {
                            not_run.insert(name.clone());
                            add(&mut tests, name, test);
                        }
                    }
                }
            }
            let error = error.unwrap_or_else(|| "it exited without an error message".to_owned());
            let Some(started) = started else {
                bail!("the module crashed before its first test: {error}")
            };
            // Repeat the module without the test that crashed or hung.
            fs::remove_file(scratch.join("report/events"))?;
            not_run.insert(started.clone());
            add(&mut tests, started, Test::Failed(error));
        }
        bail!("the module crashed {MAX_CRASHES} times")
    }

    /// Runs a module once. Returns the error that ended it early.
    fn start(&self, module: &str, scratch: &Path) -> Result<Option<String>> {
        let mut command = Command::new(&self.isola);
        command
            .arg("run")
            .arg(&self.driver)
            .args(LIMITS)
            .args(["--env", "PYTHONPATH=/lib/python3.14"]);
        command.arg("--arg").arg(format!("\"{module}\"")).args(["--arg", "\"/report\""]);
        for (host, guest) in [
            (self.tests.clone(), "/lib/python3.14:ro"),
            (scratch.join("tmp"), "/tmp:rw"),
            (scratch.join("report"), "/report:rw"),
        ] {
            command.arg("--mount").arg(format!("{}:{guest}", host.display()));
        }
        command.env("ISOLA_RUNTIME_DIR", workspace::runtimes());
        let captured = process::capture(command)?;
        fs::write(scratch.join("output"), &captured.text)?;
        // Tests may print such lines, too, but not as the last one.
        let mut lines = captured.text.lines().rev();
        Ok(lines.find(|line| line.starts_with("error: ")).map(str::to_owned))
    }
}

/// Adds the result of a test. If several tests have the same name, the worst result
/// is kept.
fn add(tests: &mut BTreeMap<String, Test>, name: String, test: Test) {
    let rank = |test: &Test| match test {
        Test::NotRun => 0,
        Test::Passed => 1,
        Test::Skipped => 2,
        Test::Failed(_) => 3,
    };
    if tests.get(&name).is_none_or(|known| rank(known) < rank(&test)) {
        tests.insert(name, test);
    }
}

fn figures(outcomes: &Outcomes) -> Result<String> {
    let figures = table::figures(outcomes);
    let version = python_library::tests_version()?;
    Ok(format!(
        "{FIGURES}, those of {version}, about {} in {} modules pass in the guest, {} do not, and \
         {} and {} more modules skip themselves, since there are no threads, processes or sockets.",
        in_hundreds(figures.passed),
        figures.modules,
        in_hundreds(figures.failed),
        in_hundreds(figures.skipped),
        figures.skipped_modules
    ))
}

/// Formats a number rounded to hundreds, since the results of some tests vary.
fn in_hundreds(number: usize) -> String {
    let hundreds = (number + 50) / 100;
    match hundreds / 10 {
        0 => format!("{hundreds}00"),
        thousands => format!("{thousands},{}00", hundreds % 10),
    }
}

fn write_figures(outcomes: &Outcomes) -> Result<()> {
    let path = workspace::root().join(PAGE);
    let page = fs::read_to_string(&path)?;
    let figures = figures(outcomes)?;
    let lines = page
        .lines()
        .map(|line| if line.starts_with(FIGURES) { figures.as_str() } else { line })
        .collect::<Vec<_>>();
    fs::write(&path, lines.join("\n") + "\n").with_context(|| format!("cannot write {PAGE}"))
}
