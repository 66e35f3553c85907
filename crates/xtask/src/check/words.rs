//! Checks that the sources use the standard terms of `docs/glossary.md`, and that
//! constants are named after what they limit.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::workspace;

/// Words that are not used, with the words to use instead.
const WORDS: &[(&str, &str)] = &[
    ("nobody", "no client, no process, ..."),
    ("somebody", "a client, a process, ..."),
    ("trouble", "error"),
    ("newborn", "the name of the guard"),
    ("bury", "mark as failed, remove"),
    ("patience", "a timeout with its name"),
    ("folder", "directory"),
    ("hangs up", "disconnects"),
    ("gives way", "yields"),
    ("under a lid", "over-mounted"),
    ("aphorism", "a plain sentence"),
];

/// Names of constants that do not name what is limited, or in which unit.
const CONSTANTS: &[&str] = &[
    "AT_ONCE", "FEW", "FOREVER", "LARGEST", "LEAST", "LIMIT", "LONGEST", "MANY", "MAX", "MIN",
    "MOST", "PATIENCE", "SHORTEST", "SMALLEST", "TICK",
];

/// Lines in which such a word has a rightful use: the end of a path, and a part of the
/// line.
const RIGHTFUL: &[(&str, &str)] = &[
    // The user of that name.
    ("", "\"nobody\""),
    ("", "nobody:x:65534"),
    ("conformance/execs.rs", "nobody may write to /"),
    // Text of a sample, and names that clients or files on disk have.
    ("docs/guest/javascript/README.md", "nobody waits for this"),
    ("docs/isola/python/README.md", "folder"),
    ("", "rename = \"folder\""),
    ("isola-cli/src/snapshot.rs", "\"folder\":"),
    ("isola-cli/tests/cli/cache.rs", "[\"folder\"]"),
    ("gvisor/hiding.rs", "folder\""),
    ("docs/glossary.md", "| directory |"),
    // The end of time, which has no better name.
    ("isola-cli/src/cache.rs", "const MAX: Duration"),
];

/// Files that are not checked: this one, and lists of names that others gave.
const EXEMPT: &[&str] =
    &["check/words.rs", "tests/numpy-tests.txt", "tests/python-tests.txt", "CHANGELOG.md"];

/// Finds every such word and name.
pub fn find(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for path in files {
        let name = path.display().to_string();
        let is_checked = ["rs", "md", "py", "pyi", "js", "mjs", "ts", "wit"]
            .iter()
            .any(|extension| path.extension().is_some_and(|found| found == *extension));
        if !is_checked || EXEMPT.iter().any(|end| name.ends_with(end)) {
            continue;
        }
        if let Ok(text) = fs::read_to_string(workspace::root().join(path)) {
            found.extend(mentions(&name, &text));
        }
    }
    Ok(found)
}

fn mentions(name: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if RIGHTFUL.iter().any(|(end, part)| name.ends_with(end) && line.contains(part)) {
            continue;
        }
        let number = number + 1;
        let lower = line.to_ascii_lowercase();
        for (word, instead) in WORDS {
            if contains_word(&lower, word) {
                found.push(format!("{name}:{number}: {word:?}: write {instead}"));
            }
        }
        let constant = CONSTANTS.iter().find(|constant| {
            let declaration = format!("const {constant}:");
            line.trim_start().trim_start_matches("pub ").starts_with(&declaration)
        });
        if let Some(constant) = constant {
            found.push(format!("{name}:{number}: {constant}: name what it limits, and the unit"));
        }
    }
    found
}

/// Reports whether a line has the word between other characters than letters, digits
/// and `_`, which make it a part of a name.
fn contains_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_constants_are_found() {
        let text = "/// Nobody waits.\n\
                    fn where_nobody_listens() {}\n\
                    let user = \"nobody\";\n\
                    pub const MOST: usize = 3;\n\
                    const MOST_FILES: usize = 3;\n\
                    // The troubleshooting page.\n\
                    // It hangs up.\n";
        let lines: Vec<_> = mentions("a.rs", text)
            .into_iter()
            .map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(lines, ["a.rs:1 \"nobody\"", "a.rs:4 MOST", "a.rs:7 \"hangs up\""]);
    }
}
