//! Checks that the tests exist which documents name as evidence.
//!
//! Evidence is what stands in the last column of a table whose head says `test`, and
//! after the word "test" or "fuzz target" elsewhere: `module::test`, the name of a test or
//! of a module with tests, `test_file.py::test`, `file.test.mjs` or the name of a fuzz
//! target. "in" or "of" and a crate, a test target or a directory may follow.

mod index;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use self::index::TestIndex;
use super::links::prose;
use crate::workspace;

/// The results of CPython's own tests in the guest.
const CPYTHON_TESTS: &str = "crates/isola/tests/python-tests.txt";

/// Finds every test that is named and does not exist.
pub fn find(files: &[PathBuf]) -> Result<Vec<String>> {
    let read = |path: &Path| fs::read_to_string(workspace::root().join(path));
    let mut index = TestIndex::default();
    for path in files {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let text = match extension {
            Some("rs" | "py" | "mjs") => read(path)?,
            _ => String::new(),
        };
        index.add(&path.display().to_string(), &text);
    }
    let cpython = read(Path::new(CPYTHON_TESTS))?;
    let mut found = Vec::new();
    for path in files.iter().filter(|path| names_evidence(path)) {
        let text = read(path)?;
        for (line, evidence) in evidence(&text) {
            let problem = match &evidence {
                Evidence::Test { name, place } => index.problem(name, place.as_deref()),
                Evidence::FuzzTarget(name) => index.fuzz_problem(name),
                Evidence::CPython(name) => cpython_problem(&cpython, name),
            };
            if let Some(problem) = problem {
                found
                    .push(format!("{}:{line}: {problem}: name a test that exists", path.display()));
            }
        }
    }
    Ok(found)
}

/// Reports whether a document names tests as evidence.
fn names_evidence(path: &Path) -> bool {
    let parents = ["docs/security", "docs/internals"];
    ["ARCHITECTURE.md", "SECURITY.md", "SPECIFICATION.md"]
        .iter()
        .any(|page| path == Path::new(page))
        || (path.extension().is_some_and(|extension| extension == "md")
            && parents.iter().any(|parent| path.parent() == Some(Path::new(parent))))
}

#[derive(Debug, PartialEq, Eq)]
enum Evidence {
    Test {
        name: String,
        /// The crate, test target or directory that contains it, if it is named.
        place: Option<String>,
    },
    FuzzTarget(String),
    CPython(String),
}

/// Returns the evidence that a document names, with the line of each.
fn evidence(text: &str) -> Vec<(usize, Evidence)> {
    let mut found = Vec::new();
    // The head of the last column of the current table.
    let mut head = None;
    for (number, line) in prose(text) {
        let row = line.strip_prefix('|').map(|row| row.trim_end().trim_end_matches('|'));
        let cell = row.map(|row| row.rsplit(" | ").next().unwrap_or(row).trim());
        let items = match (head, cell) {
            (_, None) => {
                head = None;
                in_prose(line)
            }
            (None, Some(cell)) => {
                head = Some(cell);
                continue;
            }
            (Some("test"), Some(cell)) => in_list(cell).0,
            (Some("CPython test"), Some(cell)) => {
                spans(cell).map(|(_, name)| Evidence::CPython(name.to_owned())).collect()
            }
            (Some(_), Some(_)) => in_prose(line),
        };
        found.extend(items.into_iter().map(|item| (number, item)));
    }
    found
}

/// Returns the code spans of a text, each with the text since the one before.
fn spans(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut parts = text.split('`');
    std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
}

/// Reads the evidence in other text: what follows the words that announce it.
fn in_prose(text: &str) -> Vec<Evidence> {
    const ANNOUNCEMENTS: [&str; 3] = ["test", "tests", "tests of"];
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('`') {
        let (before, list) = rest.split_at(start);
        let before = before.trim_end();
        let is_announced = before.ends_with("fuzz target")
            || before.ends_with("fuzz targets")
            || ANNOUNCEMENTS.iter().any(|words| {
                before
                    .strip_suffix(words)
                    .is_some_and(|before| before.is_empty() || before.ends_with([' ', '(', '|']))
            });
        let read = if is_announced {
            let announcement = before.rfind(['.', '(', '|']).map_or(0, |at| at + 1);
            let (items, length) = in_list(&rest[announcement..]);
            found.extend(items);
            announcement + length
        } else {
            // Skips the code span.
            start + 1 + list[1..].find('`').map_or(list.len() - 1, |end| end + 1)
        };
        rest = &rest[read..];
    }
    found
}

/// Reads a list of evidence. Returns it, and the length of the text that was read: up to
/// words that do not belong to a list.
fn in_list(text: &str) -> (Vec<Evidence>, usize) {
    let mut found: Vec<Evidence> = Vec::new();
    let mut is_fuzz_target = false;
    let mut read = 0;
    for (before, span) in spans(text) {
        let words = before.trim().trim_start_matches([',', ';']).trim();
        let is_first = found.is_empty();
        if !is_first && words.contains([')', '.', '|']) {
            break;
        }
        let is_place = !is_first && matches!(words, "in" | "of");
        let is_item = is_first
            || matches!(words, "" | "and")
            || ["test", "tests", "target", "targets", " of", "Python", "Rust"]
                .iter()
                .any(|end| words.ends_with(end));
        if !is_place && !is_item {
            break;
        }
        read += before.len() + span.len() + 2;
        if is_place {
            if let Some(Evidence::Test { place, .. }) = found.last_mut() {
                *place = Some(span.to_owned());
            }
            continue;
        }
        if !matches!(words, "" | "and") {
            is_fuzz_target = words.contains("fuzz target");
        }
        let is_path = span.contains("::") || span.contains('.');
        found.push(if is_fuzz_target && !is_path {
            Evidence::FuzzTarget(span.to_owned())
        } else {
            Evidence::Test { name: span.to_owned(), place: None }
        });
    }
    (found, read)
}

/// Returns what is wrong with the name of a test of CPython, which may start with `*`.
fn cpython_problem(listed: &str, name: &str) -> Option<String> {
    let mut names = listed.lines().flat_map(|line| line.split('.'));
    let is_listed = match name.strip_prefix('*') {
        Some(end) => names.any(|part| part.ends_with(end)),
        None => names.any(|part| part == name),
    };
    (!is_listed).then(|| format!("{CPYTHON_TESTS} does not list `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(name: &str, place: &str) -> Evidence {
        let place = (!place.is_empty()).then(|| place.to_owned());
        Evidence::Test { name: name.to_owned(), place }
    }

    fn fuzz_target(name: &str) -> Evidence {
        Evidence::FuzzTarget(name.to_owned())
    }

    #[track_caller]
    fn check(text: &str, expected: Vec<(usize, Evidence)>) {
        assert_eq!(evidence(text), expected);
    }

    #[test]
    fn the_last_column_of_a_table_of_tests_is_a_list() {
        check(
            "| part `x` | test |\n|---|---|\n\
             | `y` | `a::b`, `c::d` in `border`, fuzz targets `e`, `f`, unit tests `g::tests` |\n\
             | `y` | see [Images](a.md) |\n\
             | `y` | Python `test_a.py`, `test_b.py::test_c` in `isola-python` |\n\
             \n\
             | part | test | note |\n|---|---|---|\n| p | q | `r` |\n",
            vec![
                (3, test("a::b", "")),
                (3, test("c::d", "border")),
                (3, fuzz_target("e")),
                (3, fuzz_target("f")),
                (3, test("g::tests", "")),
                (5, test("test_a.py", "")),
                (5, test("test_b.py::test_c", "isola-python")),
            ],
        );
    }

    #[test]
    fn tests_are_announced_in_prose() {
        check(
            "It holds `a` (tests `b::c` and `d`). The test `e` of `f` shows `g`.\n\
             \n\
             | `h` | proof |\n|---|---|\n\
             | `i` | `check j`, test `k::l` |\n\
             | `m` | tests of `n` and `o` |\n\
             ```text\ntest `p`\n```\n\
             The latest `q`. See fuzz target `r`.\n",
            vec![
                (1, test("b::c", "")),
                (1, test("d", "")),
                (1, test("e", "f")),
                (5, test("k::l", "")),
                (6, test("n", "")),
                (6, test("o", "")),
                (10, fuzz_target("r")),
            ],
        );
    }

    #[test]
    fn tests_of_cpython_are_listed() {
        check(
            "| object | CPython test |\n|---|---|\n| `a` | `test_b`, `*_c` |\n",
            vec![
                (3, Evidence::CPython("test_b".to_owned())),
                (3, Evidence::CPython("*_c".to_owned())),
            ],
        );
        let listed = "[memory]\ntest_json.test_speedups.TestEncode.test_indent\n";
        assert_eq!(cpython_problem(listed, "test_json"), None);
        assert_eq!(cpython_problem(listed, "*_indent"), None);
        assert!(cpython_problem(listed, "test_speed").is_some());
        assert!(cpython_problem(listed, "*_outdent").is_some());
    }

    #[test]
    fn documents_with_evidence() {
        for path in ["SECURITY.md", "docs/security/a.md", "docs/internals/b.md"] {
            assert!(names_evidence(Path::new(path)), "{path}");
        }
        for path in ["CHANGELOG.md", "docs/isola/a.md", "docs/security/a.txt", "crates/SECURITY.md"]
        {
            assert!(!names_evidence(Path::new(path)), "{path}");
        }
    }
}
