//! numpy's own tests in the guest `python-data`.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::Outcome;
use super::guest_tests::{Figures, TestSuite, in_hundreds};
use crate::{digest, guests, setup, workspace};

/// The modules of tests that are run: those of what the recipe changes, and of what most
/// programs use. All 147 of numpy take several times as long, and have not been listed yet.
const MODULES: [&str; 14] = [
    "numpy/_core/test_half",
    "numpy/_core/test_indexing",
    "numpy/_core/test_numeric",
    "numpy/_core/test_shape_base",
    "numpy/fft/test_pocketfft",
    "numpy/lib/test_arraysetops",
    "numpy/lib/test_format",
    "numpy/lib/test_function_base",
    "numpy/lib/test_io",
    "numpy/linalg/test_linalg",
    "numpy/ma/test_core",
    "numpy/polynomial/test_polynomial",
    "numpy/random/test_generator_mt19937",
    "numpy/random/test_random",
];

/// Runs the tests and compares the results with the table, which is updated first if
/// `write` is set.
pub fn run(write: bool) -> Result<Outcome> {
    guests::ensure_all()?;
    let lock = workspace::lock()?;
    let pytest = setup::package_tests()?;
    drop(lock);
    let files = guests::package_files("numpy");
    let cache = workspace::root().join("target/numpy-tests/bytecode");
    fs::create_dir_all(&cache)?;
    let version = version(&files, "numpy")?;
    let suite = TestSuite {
        runtime: "python-data",
        driver: "crates/xtask/src/check/guest_tests/numpy.py",
        table: "crates/isola/tests/numpy-tests.txt",
        page: "docs/guest/python/data.md",
        figures: "Of numpy's own tests,",
        scratch: "numpy-tests",
        limits: &["--max-memory", "1G", "--cpu-timeout", "900s", "--timeout", "1800s"],
        // Tests that need more memory skip themselves.
        environment: &["PYTHONPATH=/pytest", "NPY_AVAILABLE_MEM=512MB"],
        modules: modules(&files)?,
        mounts: vec![(files, "/packages:ro"), (pytest, "/pytest:ro"), (cache, "/bytecode:rw")],
    };
    suite.run(write, |figures| sentence(&version, figures))
}

fn sentence(version: &str, figures: &Figures) -> String {
    let ran = figures.passed + figures.failed;
    // Rounded down, so that it never promises too much.
    let thousandths = figures.passed * 1000 / ran.max(1);
    format!(
        "about {} in {} modules of {version} pass in the guest, {}.{} % of those that run there; \
         {} do not, and {} skip themselves.",
        in_hundreds(figures.passed),
        figures.modules,
        thousandths / 10,
        thousandths % 10,
        figures.failed,
        in_hundreds(figures.skipped),
    )
}

/// Returns the modules of tests, each with the size of its file.
fn modules(files: &Path) -> Result<Vec<(u64, String)>> {
    let mut found = Vec::new();
    for path in digest::files(files)? {
        if let Some(name) = module_name(&path).filter(|name| MODULES.contains(&name.as_str())) {
            found.push((fs::metadata(files.join(&path))?.len(), name));
        }
    }
    ensure!(found.len() == MODULES.len(), "numpy has {} of the modules of tests", found.len());
    Ok(found)
}

/// Returns the name of a module of tests: its path without the directory `tests`.
fn module_name(path: &Path) -> Option<String> {
    let dir = path.parent()?;
    let name = path.file_name()?.to_str()?.strip_suffix(".py")?;
    if !name.starts_with("test_") || dir.file_name() != Some(OsStr::new("tests")) {
        return None;
    }
    Some(format!("{}/{name}", dir.parent()?.to_str()?))
}

/// Returns the version of an installed package.
fn version(files: &Path, package: &str) -> Result<String> {
    let entries = fs::read_dir(files)?.collect::<Result<Vec<_>, _>>()?;
    let version = entries.iter().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let version = name.strip_prefix(package)?.strip_prefix('-')?.strip_suffix(".dist-info")?;
        Some(version.to_owned())
    });
    version.with_context(|| format!("{package} has no metadata"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_tests_are_found() {
        for (path, name) in [
            ("numpy/_core/tests/test_half.py", Some("numpy/_core/test_half")),
            ("numpy/tests/test_lazyloading.py", Some("numpy/test_lazyloading")),
            ("numpy/_core/tests/_natype.py", None),
            ("numpy/testing/_private/utils.py", None),
            ("numpy/typing/tests/data/pass/test_a.py", None),
        ] {
            assert_eq!(module_name(Path::new(path)).as_deref(), name, "{path}");
        }
    }

    #[test]
    fn the_share_of_tests_that_pass_is_rounded_down() {
        let figures = Figures {
            modules: 3,
            passed: 47_449,
            failed: 51,
            skipped: 1_234,
            ..Figures::default()
        };
        assert_eq!(
            sentence("2.0", &figures),
            "about 47,400 in 3 modules of 2.0 pass in the guest, 99.8 % of those that run there; \
             51 do not, and 1,200 skip themselves."
        );
    }

    #[test]
    fn the_version_is_that_of_the_metadata() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["numpy", "numpy-2.0.1.dist-info"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        assert_eq!(version(dir.path(), "numpy").unwrap(), "2.0.1");
        assert!(version(dir.path(), "pandas").is_err());
    }
}
