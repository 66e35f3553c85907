//! CPython's own tests, each module of `Lib/test`, in the Python guest.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::Outcome;
use super::guest_tests::{TestSuite, in_hundreds};
use crate::{guests, python_library, workspace};

/// Runs the tests and compares the results with the table, which is updated first if
/// `write` is set.
pub fn run(write: bool) -> Result<Outcome> {
    guests::ensure()?;
    let lock = workspace::lock()?;
    let tests = python_library::install_tests()?;
    drop(lock);
    let version = python_library::tests_version()?;
    let suite = TestSuite {
        runtime: "python",
        driver: "crates/xtask/src/check/guest_tests/stdlib.py",
        table: "crates/isola/tests/python-tests.txt",
        page: "docs/guest/python/README.md",
        figures: "Of CPython's own tests,",
        scratch: "python-tests",
        // Some tests need more memory than the default.
        limits: &["--max-memory", "512M", "--cpu-timeout", "120s", "--timeout", "400s"],
        environment: &["PYTHONPATH=/lib/python3.14"],
        modules: modules(&tests)?,
        mounts: vec![(tests, "/lib/python3.14:ro")],
    };
    suite.run(write, |figures| {
        format!(
            "those of {version}, about {} in {} modules pass in the guest, {} do not, and {} and \
             {} more modules skip themselves, since there are no threads, processes or sockets.",
            in_hundreds(figures.passed),
            figures.modules,
            in_hundreds(figures.failed),
            in_hundreds(figures.skipped),
            figures.skipped_modules
        )
    })
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
