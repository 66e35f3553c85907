//! The limits on the length of source files, and of documents that must stay short.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::workspace;

/// The maximum number of lines of a source file.
const MAX_LINES: usize = 800;
/// The file extensions of source files.
const SOURCES: [&str; 10] = ["c", "rs", "py", "js", "mjs", "ts", "mts", "wit", "sh", "pyi"];

/// The documents that one reads as a whole, and their maximum length in bytes.
const SHORT_DOCUMENTS: [&str; 2] = ["ARCHITECTURE.md", "SECURITY.md"];
const MAX_DOCUMENT_BYTES: usize = 12_000;

/// The text in the first lines of a file that has a reason to be longer.
const EXEMPTION_MARK: &str = "long because";

/// Finds every source file that is too long.
pub fn find(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for path in files.iter().filter(|path| is_source(path)) {
        let text = fs::read_to_string(workspace::root().join(path))?;
        found.extend(check_file(&path.display().to_string(), &text));
    }
    for name in SHORT_DOCUMENTS {
        found.extend(check_document(name, &fs::read_to_string(workspace::root().join(name))?));
    }
    Ok(found)
}

fn check_document(name: &str, text: &str) -> Option<String> {
    let bytes = text.len();
    (bytes > MAX_DOCUMENT_BYTES).then(|| {
        format!(
            "{name}: {bytes} bytes, the limit is {MAX_DOCUMENT_BYTES}: move details to the \
             docs of the crate that they concern, or to docs/"
        )
    })
}

/// Reports whether a file is a source file, by its extension.
pub fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|extension| SOURCES.iter().any(|source| extension == *source))
}

fn check_file(name: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    let exempt = text.lines().take(5).any(|line| line.contains(EXEMPTION_MARK));
    (lines > MAX_LINES && !exempt).then(|| {
        format!(
            "{name}: {lines} lines, the limit is {MAX_LINES}: split the file, or write \
             \"{EXEMPTION_MARK} ...\" in its first lines"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_files_without_a_reason_are_found() {
        let long = "line\n".repeat(MAX_LINES + 1);
        assert!(check_file("a.rs", &long).is_some());
        assert!(check_file("a.rs", &"line\n".repeat(MAX_LINES)).is_none());
        assert!(check_file("a.rs", &format!("//! It is long because.\n{long}")).is_none());
        assert!(check_file("a.rs", &format!("{long}// long because")).is_some());
    }

    #[test]
    fn documents_stay_short() {
        assert!(check_document("A.md", &"x".repeat(MAX_DOCUMENT_BYTES)).is_none());
        let found = check_document("A.md", &"x".repeat(MAX_DOCUMENT_BYTES + 1)).unwrap();
        assert!(found.contains("A.md: 12001 bytes"), "{found}");
    }

    #[test]
    fn data_may_be_long() {
        assert!(is_source(Path::new("src/a.rs")));
        assert!(!is_source(Path::new("package-lock.json")));
        assert!(!is_source(Path::new("LICENSE")));
    }
}
