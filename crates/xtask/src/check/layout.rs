//! Checks how source files are laid out: one style of modules, and no directory for a
//! single small file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::length::is_source;
use crate::workspace;

/// A directory with one source file of fewer lines is not worth a level of the tree.
const MIN_LINES_OF_SINGLE_FILE: usize = 100;

/// Directories with a single small file that are kept: the directory, and the reason.
const KEPT: &[(&str, &str)] = &[];

/// Finds every `mod.rs`, and every directory that holds a single small source file.
pub fn find(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut found: Vec<String> = files.iter().filter_map(|path| mod_file(path)).collect();
    let mut lone = BTreeMap::new();
    for (dir, file) in lone_files(files) {
        let lines = fs::read_to_string(workspace::root().join(file))?.lines().count();
        lone.insert(dir, (file, lines));
    }
    found.extend(small_directories(&lone, KEPT));
    Ok(found)
}

fn mod_file(path: &Path) -> Option<String> {
    let is_found = path.starts_with("crates") && path.file_name()? == "mod.rs";
    is_found.then(|| {
        let dir = path.parent().unwrap_or(path).display();
        format!("{}: modules are kept beside their directory: move it to {dir}.rs", path.display())
    })
}

/// Returns the directories of sources that contain a single source file, at any depth,
/// each with that file.
fn lone_files(files: &[PathBuf]) -> BTreeMap<PathBuf, &Path> {
    let mut dirs: BTreeMap<PathBuf, Vec<&Path>> = BTreeMap::new();
    for file in files.iter().filter(|file| is_source(file)) {
        for dir in file.ancestors().skip(1).filter(|dir| is_source_directory(dir)) {
            dirs.entry(dir.to_owned()).or_default().push(file);
        }
    }
    dirs.into_iter()
        .filter_map(|(dir, files)| match files[..] {
            [file] if !is_expected(&dir, file) => Some((dir, file)),
            _ => None,
        })
        .collect()
}

/// Reports whether a directory is one of `crates/*/src`, `crates/*/tests`, `guests/*/src`
/// and `sdk`, or is below one. The first of them, which cargo and Python expect, are not
/// meant.
fn is_source_directory(dir: &Path) -> bool {
    let parts: Vec<_> = dir.iter().filter_map(|part| part.to_str()).collect();
    match parts[..] {
        ["crates", _, "src" | "tests", _, ..] | ["guests", _, "src", _, ..] => true,
        ["sdk", _, "src" | "tests"] => false,
        ["sdk", _, _, ..] => true,
        _ => false,
    }
}

/// Reports whether cargo or Python require the directory of a single file: `src/bin`,
/// that of a test or program with a `main.rs`, or that of a Python package.
fn is_expected(dir: &Path, file: &Path) -> bool {
    let rest = file.strip_prefix(dir).unwrap_or(file);
    match (dir.file_name().and_then(|name| name.to_str()), rest.to_str()) {
        (Some("bin"), _) => dir.parent().is_some_and(|parent| parent.ends_with("src")),
        (_, Some("main.rs")) => {
            dir.parent().is_some_and(|parent| parent.ends_with("tests") || parent.ends_with("bin"))
        }
        (_, Some("__init__.py" | "__init__.pyi")) => true,
        _ => false,
    }
}

fn small_directories(
    lone: &BTreeMap<PathBuf, (&Path, usize)>,
    kept: &[(&str, &str)],
) -> Vec<String> {
    let is_small = |lines: usize| lines < MIN_LINES_OF_SINGLE_FILE;
    let mut found = Vec::new();
    for (dir, (file, lines)) in lone {
        let is_kept = kept.iter().any(|(kept, _)| dir == Path::new(kept));
        if is_small(*lines) && !is_kept {
            let (dir, file) = (dir.display(), file.display());
            found.push(format!(
                "{dir}: its only source file is {file}, with {lines} lines of at least \
                 {MIN_LINES_OF_SINGLE_FILE}: move the file up, merge it into the parent module, \
                 or list the directory with a reason in KEPT of check/layout.rs"
            ));
        }
    }
    for (dir, _) in kept {
        if !lone.get(Path::new(dir)).is_some_and(|(_, lines)| is_small(*lines)) {
            found.push(format!("{dir}: remove it from KEPT, since the rule does not apply to it"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(files: &[(&str, usize)], kept: &[(&str, &str)], expected: &[&str]) {
        let paths: Vec<PathBuf> = files.iter().map(|(path, _)| PathBuf::from(path)).collect();
        let lines: BTreeMap<&Path, usize> =
            files.iter().map(|(path, lines)| (Path::new(path), *lines)).collect();
        let lone =
            lone_files(&paths).into_iter().map(|(dir, file)| (dir, (file, lines[file]))).collect();
        let found: Vec<String> = small_directories(&lone, kept)
            .into_iter()
            .map(|line| line.split(':').next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn directories_with_a_single_small_file_are_found() {
        check(
            &[
                ("crates/a/src/lib.rs", 10),
                ("crates/a/src/small/part.rs", 99),
                ("crates/a/src/large/part.rs", 100),
                ("crates/a/src/both/one.rs", 10),
                ("crates/a/src/both/two.rs", 10),
                ("crates/a/src/outer/inner/part.rs", 10),
                ("crates/a/tests/support/fixture.rs", 10),
                ("guests/b/src/pkg/part.py", 10),
                ("sdk/c/tests/helpers/part.py", 10),
            ],
            &[],
            &[
                "crates/a/src/outer",
                "crates/a/src/outer/inner",
                "crates/a/src/small",
                "crates/a/tests/support",
                "guests/b/src/pkg",
                "sdk/c/tests/helpers",
            ],
        );
    }

    #[test]
    fn layouts_of_cargo_and_python_are_no_choice() {
        check(
            &[
                ("crates/a/src/lib.rs", 10),
                ("crates/a/tests/one.rs", 10),
                ("crates/b/tests/all/main.rs", 10),
                ("crates/b/src/bin/tool/main.rs", 10),
                ("crates/b/src/tool/main.rs", 10),
                ("guests/c/src/pkg/__init__.py", 10),
                ("guests/c/wit/world.wit", 10),
                ("sdk/d/src/pkg/__init__.py", 10),
                ("sdk/d/tests/test_all.py", 10),
                ("crates/e/src/data/table.json", 10),
            ],
            &[],
            &["crates/b/src/tool"],
        );
    }

    #[test]
    fn a_directory_is_kept_with_a_reason_as_long_as_it_is_small() {
        let files = [("crates/a/src/small/part.rs", 10), ("crates/a/src/large/part.rs", 100)];
        check(&files, &[("crates/a/src/small", "a reason")], &[]);
        check(
            &files,
            &[("crates/a/src/large", "a reason"), ("crates/a/src/gone", "a reason")],
            &["crates/a/src/small", "crates/a/src/large", "crates/a/src/gone"],
        );
    }

    #[test]
    fn modules_are_beside_their_directory() {
        let message = mod_file(Path::new("crates/a/src/b/mod.rs")).unwrap();
        assert!(message.ends_with("move it to crates/a/src/b.rs"), "{message}");
        assert!(mod_file(Path::new("crates/a/src/b/model.rs")).is_none());
        assert!(mod_file(Path::new("docs/mod.rs")).is_none());
    }
}
