//! Runs the tests of a Python project in a guest.
//!
//! The command `isola` runs each module of tests in a separate sandbox. A script, the
//! driver, runs the tests there and writes a line for each event: `stdlib.py` for CPython's
//! own tests, `numpy.py` for numpy's. A file lists the tests that are expected to fail, and
//! the reasons. A test that fails and is not listed is an error, and so is a listed test
//! that passes.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

pub use self::table::Figures;
use self::table::{Outcomes, Table, Test};
use super::Outcome;
use crate::{process, workspace};

/// The maximum number of crashes of one module, after which it is given up.
const MAX_CRASHES: usize = 20;

/// The tests of a project.
pub struct TestSuite {
    /// The name of the runtime.
    pub runtime: &'static str,
    /// The file of the driver.
    pub driver: &'static str,
    /// The file of the expected results.
    pub table: &'static str,
    /// The page that contains the figures, and the start of the line with them.
    pub page: &'static str,
    pub figures: &'static str,
    /// The directory for the files of the tests, in `target`.
    pub scratch: &'static str,
    /// The options of `isola run` that set limits.
    pub limits: &'static [&'static str],
    /// The environment variables of the guest, as `NAME=VALUE`.
    pub environment: &'static [&'static str],
    /// Directories, and where they are mounted.
    pub mounts: Vec<(PathBuf, &'static str)>,
    /// The modules of tests, each with the size of its file.
    pub modules: Vec<(u64, String)>,
}

/// A suite that can be run.
struct Runner<'a> {
    suite: &'a TestSuite,
    isola: PathBuf,
    scratch: PathBuf,
}

impl TestSuite {
    /// Runs all modules and compares the results with the table, which is updated first
    /// if `write` is set. `sentence` returns the rest of the line with the figures.
    pub fn run(&self, write: bool, sentence: impl Fn(&Figures) -> String) -> Result<Outcome> {
        // As `cargo xtask test` builds it, so that nothing is compiled twice.
        process::run_quiet(process::cargo(&[
            "build",
            "--workspace",
            "--bins",
            "--features",
            workspace::TEST_FEATURES,
        ]))?;
        let runner = Runner {
            suite: self,
            isola: workspace::cargo_target()?.join("debug/isola"),
            scratch: workspace::root().join("target").join(self.scratch),
        };
        let path = workspace::root().join(self.table);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", self.table))?;
        let mut table =
            Table::parse(&text).with_context(|| format!("cannot read {}", self.table))?;
        let outcomes = runner.run_all(&table)?;
        let figures = format!("{} {}", self.figures, sentence(&table::figures(&outcomes)));
        if write {
            table.update(&outcomes);
            fs::write(&path, table.text())
                .with_context(|| format!("cannot write {}", self.table))?;
            self.write_figures(&figures)?;
        }
        let mut found = table.compare(&outcomes);
        let page = fs::read_to_string(workspace::root().join(self.page))?;
        if !page.lines().any(|line| line == figures) {
            let (page, start) = (self.page, self.figures);
            found.push(format!("{page}: the line \"{start}\" should be: {figures}"));
        }
        if !found.is_empty() {
            found.push(format!("{} lists the expected results; --write updates it.", self.table));
        }
        super::problems(found)
    }

    fn write_figures(&self, figures: &str) -> Result<()> {
        let path = workspace::root().join(self.page);
        let page = fs::read_to_string(&path)?;
        let lines = page
            .lines()
            .map(|line| if line.starts_with(self.figures) { figures } else { line })
            .collect::<Vec<_>>();
        fs::write(&path, lines.join("\n") + "\n")
            .with_context(|| format!("cannot write {}", self.page))
    }
}

/// Formats a number rounded to hundreds, since the results of some tests vary.
pub fn in_hundreds(number: usize) -> String {
    let hundreds = (number + 50) / 100;
    match (hundreds / 10, hundreds % 10) {
        (0, 0) => "0".to_owned(),
        (0, hundreds) => format!("{hundreds}00"),
        (thousands, hundreds) => format!("{thousands},{hundreds}00"),
    }
}

impl Runner<'_> {
    /// Runs all modules that the table does not exclude, the large ones first, on all
    /// cores.
    fn run_all(&self, table: &Table) -> Result<Outcomes> {
        let mut modules = self.suite.modules.clone();
        modules.retain(|(_, module)| !table.excludes(module));
        modules.sort();
        let modules = Mutex::new(modules);
        let outcomes = Mutex::new(BTreeMap::new());
        let failure = Mutex::new(None);
        let work = || {
            while let Some((_, module)) = modules.lock().ok().and_then(|mut modules| modules.pop())
            {
                match self.run(&module, table) {
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

    /// Runs a module, and again without the test that was running if it crashed or hung.
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
                    bail!("not a line of the driver: {line:?}");
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
            fs::remove_file(scratch.join("report/events"))?;
            not_run.insert(started.clone());
            add(&mut tests, started, Test::Failed(error));
        }
        bail!("the module crashed {MAX_CRASHES} times")
    }

    /// Runs a module once. Returns the error that ended it early.
    fn start(&self, module: &str, scratch: &Path) -> Result<Option<String>> {
        let mut command = Command::new(&self.isola);
        command.arg("run").arg(workspace::root().join(self.suite.driver));
        command.args(["--runtime", self.suite.runtime]).args(self.suite.limits);
        for variable in self.suite.environment {
            command.args(["--env", variable]);
        }
        command.arg("--arg").arg(format!("\"{module}\"")).args(["--arg", "\"/report\""]);
        let own = [(scratch.join("tmp"), "/tmp:rw"), (scratch.join("report"), "/report:rw")];
        for (host, guest) in self.suite.mounts.iter().chain(&own) {
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
        Test::Skipped(_) => 2,
        Test::Failed(_) => 3,
    };
    if tests.get(&name).is_none_or(|known| rank(known) < rank(&test)) {
        tests.insert(name, test);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_hundreds() {
        for (number, text) in
            [(7, "0"), (50, "100"), (949, "900"), (950, "1,000"), (48_123, "48,100")]
        {
            assert_eq!(in_hundreds(number), text);
        }
    }

    #[test]
    fn the_worst_of_results_with_one_name_is_kept() {
        let mut tests = BTreeMap::new();
        let skipped = Test::Skipped("why".to_owned());
        for test in [Test::Passed, skipped.clone(), Test::NotRun] {
            add(&mut tests, "a".to_owned(), test);
        }
        assert_eq!(tests["a"], skipped);
    }
}
