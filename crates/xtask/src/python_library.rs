//! The standard library of the Python guest, and CPython's own tests of the same version.
//!
//! The builder embeds an older version of the library. The newest is taken from packages
//! of Debian, which `guests/python/library/debian.toml` pins. Debian deletes a version some
//! weeks after a newer one, and then a clean checkout could no longer be built. So there is
//! a second source, an npm package, which is never deleted: its library is older than
//! Debian's, and newer than the builder's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::debian::{self, Pins};
use crate::digest::{self, Inputs};
use crate::{process, progress, setup, stamp, workspace};

const PINS: &str = "guests/python/library/debian.toml";
const RESERVE: &str = "guests/python/library";
/// The version of the library in the npm package.
const RESERVE_VERSION: &str = "3.14.2";

/// The suite of Debian that has the newest version.
const SUITE: &str = "sid";
const PACKAGES: [&str; 4] = [MINIMAL, STDLIB, TESTS, HEADERS];
const MINIMAL: &str = "libpython3.14-minimal";
const STDLIB: &str = "libpython3.14-stdlib";
const TESTS: &str = "libpython3.14-testsuite";
const HEADERS: &str = "libpython3.14-dev";

/// The directory of the library in Debian's packages.
const DIRECTORY: &str = "usr/lib/python3.14";

/// Files that describe Debian's interpreter, or that Debian or the npm package have
/// changed for their own purposes. The builder's are used.
const EXCLUDED: [&str; 13] = [
    "_distutils_system_mod.py",
    "_ssl.py",
    "dbm/gnu.py",
    "dbm/ndbm.py",
    "lib-dynload",
    // Links for `help()`, which does without them; the npm package has none.
    "pydoc_data/module_docs.py",
    "site.py",
    "sitecustomize.py",
    "sysconfig",
    "test",
    "venv",
    "pyodide",
    "_pyodide",
];
/// Files that only the npm package has changed.
const EXCLUDED_OF_RESERVE: [&str; 4] = ["socket.py", "ssl.py", "subprocess.py", "webbrowser.py"];
const EXCLUDED_PREFIXES: [&str; 3] = ["_sysconfig", "build-details", "config-"];

/// An installed library.
pub struct Library {
    /// The directory of its modules.
    pub dir: PathBuf,
    /// The version of CPython that it belongs to, such as "3.14.10".
    pub version: String,
}

/// Installs the library.
pub fn install() -> Result<Library> {
    let pins = pins()?;
    let version = upstream(&pins.version).to_owned();
    match from_debian(&pins) {
        Ok(dir) => Ok(Library { dir, version }),
        Err(error) if error.is::<debian::Unavailable>() => {
            eprintln!(
                "    warning: the Python guest gets the library of {RESERVE_VERSION} instead of \
                 {version}. Cause: {error:#}"
            );
            Ok(Library { dir: from_npm()?, version: RESERVE_VERSION.to_owned() })
        }
        // Another attempt may succeed: the guest must not depend on a moment of the network.
        Err(error) => Err(error),
    }
}

/// Installs CPython's own tests into a directory that contains only the package `test`.
pub fn install_tests() -> Result<PathBuf> {
    let pins = pins()?;
    let tools = workspace::tools().join("cpython-tests");
    stamp::install("CPython's own tests", &tools, &digest_of(&pins, "tests"), || {
        let unpacked = unpack(&pins, &tools, &[STDLIB, TESTS])?.join(DIRECTORY);
        fs::create_dir(tools.join("lib"))?;
        fs::rename(unpacked.join("test"), tools.join("lib/test"))?;
        fs::remove_dir_all(tools.join("unpacked"))?;
        Ok(())
    })?;
    Ok(tools.join("lib"))
}

/// Returns the version of CPython's own tests, such as "3.14.10".
pub fn tests_version() -> Result<String> {
    Ok(upstream(&pins()?.version).to_owned())
}

/// Returns a digest of the pinned headers.
pub fn headers_digest() -> Result<String> {
    Ok(digest_of(&pins()?, "headers"))
}

/// Unpacks the headers of CPython into a directory. Those of all patch releases of a version
/// are compatible, so the newest of Debian will do when the pinned ones are gone.
pub fn install_headers(dir: &Path) -> Result<()> {
    let scratch = dir.with_extension("scratch");
    fs::create_dir_all(&scratch)?;
    let unpacked = match unpack(&pins()?, &scratch, &[HEADERS]) {
        Err(error) if error.is::<debian::Unavailable>() => {
            debian::unpack(&[HEADERS], SUITE, &scratch)?
        }
        unpacked => unpacked?,
    };
    fs::rename(unpacked, dir)?;
    fs::remove_dir_all(&scratch)?;
    Ok(())
}

/// Pins the newest version that Debian has.
pub fn update() -> Result<()> {
    let _lock = workspace::lock()?;
    let scratch = workspace::tools().join("update-python");
    fs::create_dir_all(&scratch)?;
    let found = progress::step("reading Debian's package lists", || {
        debian::newest(&PACKAGES, SUITE, &scratch)
    })?;
    fs::remove_dir_all(&scratch)?;
    Pins::of(found)?.write(PINS)?;
    println!("now run: cargo xtask guests python && cargo xtask check --slow --write stdlib");
    Ok(())
}

fn pins() -> Result<Pins> {
    Pins::read(PINS)
}

/// Returns the version of CPython in a version of a package of Debian.
fn upstream(version: &str) -> &str {
    version.split_once('-').map_or(version, |(upstream, _)| upstream)
}

fn digest_of(pins: &Pins, purpose: &str) -> String {
    let inputs = Inputs::default().text("purpose", purpose);
    let inputs = inputs.text("excluded", &format!("{EXCLUDED:?} {EXCLUDED_PREFIXES:?}"));
    pins.add_to(inputs).finish()
}

fn from_debian(pins: &Pins) -> Result<PathBuf> {
    let tools = workspace::tools().join("python-library");
    let label = "the standard library of the Python guest";
    stamp::install(label, &tools, &digest_of(pins, "library"), || {
        let unpacked = unpack(pins, &tools, &[MINIMAL, STDLIB])?.join(DIRECTORY);
        copy_library(&unpacked, &tools.join("lib"), &[])?;
        fs::remove_dir_all(tools.join("unpacked"))?;
        Ok(())
    })?;
    Ok(tools.join("lib"))
}

fn from_npm() -> Result<PathBuf> {
    let tools = workspace::tools().join("python-library-npm");
    let label = "the standard library of the Python guest, from npm";
    let modules =
        setup::node_modules("python-library-source", RESERVE, label, &["--ignore-scripts"])?;
    let archive = modules.join("pyodide/python_stdlib.zip");
    let inputs = Inputs::default().file("archive", &archive)?;
    let digest = inputs.text("excluded", &format!("{EXCLUDED:?} {EXCLUDED_OF_RESERVE:?}")).finish();
    stamp::install(label, &tools, &digest, || {
        let unpacked = tools.join("unpacked");
        let mut unzip = Command::new(setup::python()?.program);
        unzip.args(["-m", "zipfile", "-e"]).arg(&archive).arg(&unpacked);
        process::run_quiet(unzip)?;
        copy_library(&unpacked, &tools.join("lib"), &EXCLUDED_OF_RESERVE)?;
        fs::remove_dir_all(&unpacked)?;
        Ok(())
    })?;
    Ok(tools.join("lib"))
}

/// Downloads and unpacks pinned packages. Returns the directory of their files.
fn unpack(pins: &Pins, tools: &Path, wanted: &[&str]) -> Result<PathBuf> {
    pins.unpack(SUITE, tools, |package| wanted.contains(&package))
}

/// Copies the Python files of a library.
fn copy_library(from: &Path, to: &Path, excluded: &[&str]) -> Result<()> {
    for path in digest::files(from)? {
        if is_included(&path, excluded) {
            let copy = to.join(&path);
            fs::create_dir_all(copy.parent().unwrap_or(to))?;
            fs::copy(from.join(&path), &copy)
                .with_context(|| format!("cannot copy {}", path.display()))?;
        }
    }
    Ok(())
}

fn is_included(path: &Path, excluded: &[&str]) -> bool {
    let first = path.iter().next().unwrap_or_default().to_string_lossy();
    path.extension().is_some_and(|extension| extension == "py")
        && !path.iter().any(|part| part == "__pycache__")
        && !EXCLUDED.iter().chain(excluded).any(|excluded| path.starts_with(excluded))
        && !EXCLUDED_PREFIXES.iter().any(|prefix| first.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_another_interpreter_are_excluded() {
        for (path, included) in [
            ("csv.py", true),
            ("json/decoder.py", true),
            ("site.py", false),
            ("importlib/site.py", true),
            ("test/test_csv.py", false),
            ("lib-dynload/_ssl.so", false),
            ("sysconfig/__init__.py", false),
            ("dbm/gnu.py", false),
            ("dbm/sqlite3.py", true),
            ("_sysconfigdata__linux.py", false),
            ("ssl.py", true),
        ] {
            assert_eq!(is_included(Path::new(path), &[]), included, "{path}");
        }
        assert!(!is_included(Path::new("ssl.py"), &EXCLUDED_OF_RESERVE));
    }

    #[test]
    fn the_documentation_names_the_version() {
        let page = workspace::root().join("docs/guest/python/README.md");
        let version = format!("the standard library that of {};", tests_version().unwrap());
        assert!(fs::read_to_string(page).unwrap().contains(&version), "{version}");
    }

    #[test]
    fn pins_are_read_as_they_are_written() {
        let text = fs::read_to_string(workspace::root().join(PINS)).unwrap();
        let pins = pins().unwrap();
        assert_eq!(pins.text(&text), text);
        assert_eq!(pins.sha256.len(), PACKAGES.len());
        assert!(pins.version.starts_with(upstream(&pins.version)));
    }
}
