//! How long a source file may be.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::workspace;

const LONGEST: usize = 800;
const SOURCES: [&str; 10] = ["c", "rs", "py", "js", "mjs", "ts", "mts", "wit", "sh", "pyi"];

/// What a file that has a reason to be longer says in its first lines.
const EXCUSE: &str = "long because";

/// Finds every source file that is too long.
pub fn find(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for path in files.iter().filter(|path| is_source(path)) {
        let text = fs::read_to_string(workspace::root().join(path))?;
        found.extend(judge(&path.display().to_string(), &text));
    }
    Ok(found)
}

fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|ending| SOURCES.iter().any(|source| ending == *source))
}

fn judge(name: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    let excused = text.lines().take(5).any(|line| line.contains(EXCUSE));
    (lines > LONGEST && !excused).then(|| {
        format!(
            "{name}: {lines} lines; beyond {LONGEST} split it, or say \"{EXCUSE} ...\" at its top"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_files_without_a_reason_are_found() {
        let long = "line\n".repeat(LONGEST + 1);
        assert!(judge("a.rs", &long).is_some());
        assert!(judge("a.rs", &"line\n".repeat(LONGEST)).is_none());
        assert!(judge("a.rs", &format!("//! It is long because.\n{long}")).is_none());
        assert!(judge("a.rs", &format!("{long}// long because")).is_some());
    }

    #[test]
    fn data_may_be_long() {
        assert!(is_source(Path::new("src/a.rs")));
        assert!(!is_source(Path::new("package-lock.json")));
        assert!(!is_source(Path::new("LICENSE")));
    }
}
