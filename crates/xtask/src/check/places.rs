//! Checks that no committed file contains details of the machine on which it was
//! written: neither a directory of that machine nor the host of a package registry.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::workspace;

/// Finds every mention of such a directory or host.
pub fn find(files: &[PathBuf]) -> Result<Vec<String>> {
    let places = places();
    let mut found = Vec::new();
    for path in files {
        // Binary files are skipped.
        if let Ok(text) = fs::read_to_string(workspace::root().join(path)) {
            found.extend(mentions(&path.display().to_string(), &text, &places));
        }
    }
    Ok(found)
}

struct Places {
    /// Directories, each with a slash at both ends.
    dirs: Vec<String>,
    hosts: Vec<String>,
}

/// Returns the directories and hosts to search for. They are composed of parts, so
/// that this file does not match.
fn places() -> Places {
    let mut dirs: Vec<String> =
        ["root", "work", "builds"].iter().map(|name| format!("/{name}/")).collect();
    let here = [Some(workspace::root()), std::env::var_os("HOME").map(PathBuf::from)];
    for dir in here.into_iter().flatten() {
        // A directory directly below `/`, such as `/app`, is too common a name.
        if dir.components().count() > 2 {
            dirs.push(format!("{}/", dir.display()));
        }
    }
    let hosts = [
        ("registry", "npmjs.org"),
        ("files", "pythonhosted.org"),
        ("index", "crates.io"),
        ("static", "crates.io"),
        ("deb", "debian.org"),
    ]
    .iter()
    .map(|(name, domain)| format!("{name}.{domain}"))
    .chain([["arti", "factory"].concat()])
    .collect();
    Places { dirs, hosts }
}

fn mentions(name: &str, text: &str, places: &Places) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let dir = places.dirs.iter().find(|dir| starts_path(line, dir));
        let host = places.hosts.iter().find(|host| line.contains(*host));
        for place in dir.into_iter().chain(host) {
            found.push(format!("{name}:{}: mentions {place}", number + 1));
        }
    }
    found
}

/// Reports whether a line contains the directory at the start of a path, and not as
/// a part of a longer one such as `target/work/`.
fn starts_path(line: &str, dir: &str) -> bool {
    line.match_indices(dir).any(|(position, _)| {
        let before = line[..position].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-~/}>)".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: usize) {
        let places = Places {
            dirs: vec!["/x/".to_owned(), "/y/z/".to_owned()],
            hosts: vec!["registry.example".to_owned()],
        };
        let found = mentions("a.md", &format!("first\n{line}\n"), &places);
        assert_eq!(found.len(), expected, "{line}: {found:?}");
        assert!(found.iter().all(|text| text.starts_with("a.md:2: ")));
    }

    #[test]
    fn folders() {
        check("see /x/main", 1);
        check("/x/main", 1);
        check("\"/x/main\"", 1);
        check("path=/y/z/w", 1);
        check("target/x/main", 0);
        check("$HOME/x/main", 0);
        check("{root}/x/main", 0);
        check("../x/main", 0);
        check("/xy/main", 0);
        check("/y/main", 0);
    }

    #[test]
    fn hosts() {
        check("\"resolved\": \"https://registry.example/a.tgz\"", 1);
        check("a registry, for example", 0);
    }

    #[test]
    fn this_repository_has_places_to_look_for() {
        let places = places();
        assert!(places.dirs.len() >= 3);
        assert!(places.hosts.iter().any(|host| host.starts_with("registry.")));
    }
}
