//! Checks that relative links in documents lead to files and headings that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::Result;

use crate::workspace;

/// Finds every broken link.
pub fn find(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for path in files.iter().filter(|path| path.extension().is_some_and(|it| it == "md")) {
        let Ok(text) = fs::read_to_string(workspace::root().join(path)) else { continue };
        for (number, target) in links(&text) {
            if let Some(problem) = problem(path, target) {
                found.push(format!("{}:{number}: {target}: {problem}", path.display()));
            }
        }
    }
    Ok(found)
}

/// Returns the targets of the relative links of a document, with their lines.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        for (start, _) in line.match_indices("](") {
            let rest = &line[start + 2..];
            let Some(end) = rest.find(')') else { continue };
            let target = &rest[..end];
            let is_remote = ["http://", "https://", "mailto:"];
            if !is_remote.iter().any(|scheme| target.starts_with(scheme)) {
                found.push((number, target));
            }
        }
    }
    found
}

/// Returns the lines outside code blocks, with their numbers.
pub fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        (!is_code && !is_fence).then_some((index + 1, line))
    })
}

fn problem(from: &Path, target: &str) -> Option<String> {
    let (path, heading) = target.split_once('#').unwrap_or((target, ""));
    let file = if path.is_empty() {
        from.to_owned()
    } else {
        normalize(&from.parent().unwrap_or(Path::new("")).join(path))
    };
    let absolute = workspace::root().join(&file);
    if !absolute.exists() {
        return Some("the file does not exist".to_owned());
    }
    if heading.is_empty() || file.extension().is_none_or(|extension| extension != "md") {
        return None;
    }
    let text = fs::read_to_string(absolute).unwrap_or_default();
    (!anchors(&text).contains(heading)).then(|| format!("{} has no such heading", file.display()))
}

/// Removes `.` and `..` from a path.
fn normalize(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                parts.pop();
            }
            Component::CurDir => {}
            other => parts.push(other),
        }
    }
    parts
}

/// Returns the anchors of the headings of a document, as GitHub computes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, line) in prose(text) {
        let Some(title) = line.strip_prefix('#').map(|rest| rest.trim_start_matches('#')) else {
            continue;
        };
        let anchor: String = title
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        // A repeated heading gets a number.
        let mut numbered = anchor.clone();
        for count in 1.. {
            if found.insert(numbered) {
                break;
            }
            numbered = format!("{anchor}-{count}");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_anchors_are_read() {
        let text = "# The `x` of *this*: it\n\
                    [one](a.md#b) and [two](https://example.com/)\n\
                    ```text\n[three](c.md)\n```\n\
                    ## Twice\n## Twice\n";
        assert_eq!(links(text), [(2, "a.md#b")]);
        let anchors: Vec<_> = anchors(text).into_iter().collect();
        assert_eq!(anchors, ["the-x-of-this-it", "twice", "twice-1"]);
        assert_eq!(normalize(Path::new("docs/a/../b/./c.md")), Path::new("docs/b/c.md"));
    }
}
