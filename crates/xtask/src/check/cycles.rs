//! Checks that the modules of a crate depend on each other in one direction.
//!
//! The graph is read from the text of the sources: `use` declarations and other paths
//! that start with `crate`, `self` or `super`, without comments, strings and modules of
//! tests. A name that a module re-exports counts as its origin. Modules with the same
//! parent form a graph of their own; what is below a module counts as that module.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::workspace;

/// Cycles that are left to cut: the crate, and the modules. Remove what is gone; nothing
/// may be added.
const KNOWN: &[(&str, &[&str])] = &[];

/// A module: the names that lead to it from the root of the crate.
type Module = Vec<String>;

/// Finds every cycle that is not known, and every known one that is gone.
pub fn find() -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let crates = workspace::root().join("crates");
    let mut names: Vec<_> = fs::read_dir(&crates)?.flatten().map(|it| it.file_name()).collect();
    names.sort();
    for name in names {
        let name = name.to_string_lossy().into_owned();
        let sources = sources(&crates.join(&name).join("src"))?;
        for cycle in cycles(&sources) {
            let text = cycle.join(", ");
            match KNOWN.iter().position(|(krate, modules)| *krate == name && *modules == cycle) {
                Some(index) => _ = seen.insert(index),
                None => found.push(format!("crates/{name}: modules in a cycle: {text}")),
            }
        }
    }
    for (index, (krate, modules)) in KNOWN.iter().enumerate() {
        if !seen.contains(&index) {
            let modules = modules.join(", ");
            found.push(format!("crates/{krate}: remove the cycle of {modules} from the list"));
        }
    }
    Ok(found)
}

/// Reads the source files of a crate.
fn sources(dir: &Path) -> Result<BTreeMap<Module, String>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("{}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let module = module_of(path.strip_prefix(dir)?);
                if module.last().is_none_or(|name| name != "tests") {
                    found.insert(module, fs::read_to_string(&path)?);
                }
            }
        }
    }
    Ok(found)
}

fn module_of(path: &Path) -> Module {
    let mut module: Module = path
        .with_extension("")
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    if module.last().is_some_and(|name| matches!(name.as_str(), "mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

/// Returns the cycles among modules with the same parent, each sorted.
fn cycles(sources: &BTreeMap<Module, String>) -> Vec<Vec<String>> {
    let paths: BTreeMap<&Module, Vec<UsePath>> =
        sources.iter().map(|(module, text)| (module, paths(&tokens(text)))).collect();
    let mut exports = BTreeMap::new();
    for (module, paths) in &paths {
        for path in paths.iter().filter(|path| path.is_public) {
            if let Some(name) = path.names.last() {
                exports.insert(((*module).clone(), name.clone()), path.names.clone());
            }
        }
    }
    let modules: BTreeSet<Module> = sources.keys().cloned().collect();
    let crate_graph = Crate { modules, exports };
    // For each parent, which of its children depend on which.
    let mut graphs: BTreeMap<Module, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for (module, paths) in &paths {
        for path in paths {
            let Some(target) = crate_graph.resolve(module, &path.names, 0) else { continue };
            let common = module.iter().zip(&target).take_while(|(one, other)| one == other).count();
            if let (Some(from), Some(to)) = (module.get(common), target.get(common)) {
                let graph = graphs.entry(module[..common].to_vec()).or_default();
                graph.entry(from.clone()).or_default().insert(to.clone());
            }
        }
    }
    let mut found = Vec::new();
    for (parent, graph) in graphs {
        for cycle in strongly_connected(&graph) {
            let name = |module: &String| {
                let names: Vec<_> = parent.iter().chain([module]).map(String::as_str).collect();
                names.join("::")
            };
            found.push(cycle.iter().map(name).collect());
        }
    }
    found
}

struct Crate {
    modules: BTreeSet<Module>,
    /// The paths that a module re-exports, by module and name.
    exports: BTreeMap<(Module, String), Vec<String>>,
}

impl Crate {
    /// Returns the module in which a path ends, if it is one of the crate.
    fn resolve(&self, from: &Module, path: &[String], depth: usize) -> Option<Module> {
        let mut names = path.iter();
        let mut at = match names.next()?.as_str() {
            "crate" => Module::new(),
            "self" => from.clone(),
            "super" => from[..from.len().checked_sub(1)?].to_vec(),
            // A path without a prefix may start with a child module.
            name => {
                let child: Module = from.iter().cloned().chain([name.to_owned()]).collect();
                self.modules.contains(&child).then_some(child)?
            }
        };
        for name in names {
            if name == "super" {
                at.pop()?;
                continue;
            }
            let child: Module = at.iter().cloned().chain([name.clone()]).collect();
            if self.modules.contains(&child) {
                at = child;
                continue;
            }
            if depth < 8
                && let Some(origin) = self.exports.get(&(at.clone(), name.clone()))
            {
                return self.resolve(&at, origin, depth + 1).or(Some(at));
            }
            break;
        }
        Some(at)
    }
}

/// A path in the source of a module.
#[derive(Debug, PartialEq, Eq)]
struct UsePath {
    names: Vec<String>,
    /// It is re-exported.
    is_public: bool,
}

/// Splits a source into names and signs. Drops comments, literals, and modules of tests.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let chars: Vec<char> = text.chars().collect();
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        let next = chars.get(at + 1).copied();
        if c == '/' && next == Some('/') {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if c == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if c == '\'' && (next == Some('\\') || chars.get(at + 2) == Some(&'\'')) {
            // A character, and not a lifetime.
            at += if next == Some('\\') { 3 } else { 2 };
            while at < chars.len() && chars[at] != '\'' {
                at += 1;
            }
            at += 1;
        } else if c.is_alphanumeric() || c == '_' {
            let start = at;
            while at < chars.len() && (chars[at].is_alphanumeric() || chars[at] == '_') {
                at += 1;
            }
            let word: String = chars[start..at].iter().collect();
            let is_raw =
                matches!(word.as_str(), "r" | "br") && matches!(chars.get(at), Some('"' | '#'));
            if is_raw {
                let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
                let end: Vec<char> =
                    std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                at += hashes + 1;
                while at < chars.len() && !chars[at..].starts_with(&end) {
                    at += 1;
                }
                at += end.len();
            } else {
                tokens.push(word);
            }
        } else if c == ':' && next == Some(':') {
            tokens.push("::".to_owned());
            at += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            at += 1;
        }
    }
    without_tests(&tokens)
}

/// Drops what follows `#[cfg(test)]` or `#[cfg(any(test, ...))]`: an item with its braces,
/// or up to a semicolon.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let attribute = tokens[at..].iter().take_while(|token| *token != "]").count();
        let is_test = tokens[at] == "#"
            && tokens.get(at + 2).is_some_and(|token| token == "cfg")
            && tokens[at..at + attribute].iter().any(|token| token == "test");
        if !is_test {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        at += attribute + 1;
        let mut depth = 0;
        while at < tokens.len() {
            match tokens[at].as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            let is_end = depth == 0 && matches!(tokens[at].as_str(), "}" | ";");
            at += 1;
            if is_end {
                break;
            }
        }
    }
    kept
}

/// Returns the paths in a source: those of `use`, and those that start with `crate`,
/// `self` or `super`.
fn paths(tokens: &[String]) -> Vec<UsePath> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let starts = matches!(tokens[at].as_str(), "crate" | "self" | "super")
            && tokens.get(at + 1).is_some_and(|token| token == "::");
        if tokens[at] == "use" {
            // `pub use`, `pub(crate) use`.
            let before = at.checked_sub(1).map(|index| tokens[index].as_str());
            let is_public = matches!(before, Some("pub" | ")"));
            at = tree(tokens, at + 1, &[], is_public, &mut found);
        } else if starts {
            let mut names = Vec::new();
            while at < tokens.len() && is_name(&tokens[at]) {
                names.push(tokens[at].clone());
                at += 1;
                if tokens.get(at).is_none_or(|token| token != "::") {
                    break;
                }
                at += 1;
            }
            found.push(UsePath { names, is_public: false });
        } else {
            at += 1;
        }
    }
    found
}

/// Reads a tree of `use` and returns the position after it.
fn tree(
    tokens: &[String],
    mut at: usize,
    prefix: &[String],
    is_public: bool,
    found: &mut Vec<UsePath>,
) -> usize {
    let mut names = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    at = tree(tokens, at, &names, is_public, found);
                    if tokens.get(at).is_some_and(|token| token == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            // The new name of an item: its path is what counts.
            "as" => at += 2,
            name if is_name(name) || name == "*" => {
                if name != "self" || names.is_empty() {
                    names.push(token.clone());
                }
                at += 1;
            }
            _ => break,
        }
    }
    if !names.is_empty() {
        found.push(UsePath { names, is_public });
    }
    at
}

fn is_name(token: &str) -> bool {
    token.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// Returns the groups of more than one node that reach each other.
fn strongly_connected(graph: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> = graph
        .keys()
        .map(|node| {
            let mut seen = BTreeSet::new();
            let mut open = vec![node];
            while let Some(next) = open.pop() {
                for other in graph.get(next).into_iter().flatten() {
                    if seen.insert(other) {
                        open.push(other);
                    }
                }
            }
            (node, seen)
        })
        .collect();
    let mut groups = BTreeSet::new();
    for (node, others) in &reached {
        let group: BTreeSet<String> = others
            .iter()
            .filter(|other| reached.get(*other).is_some_and(|back| back.contains(node)))
            .map(|other| (*other).clone())
            .chain([(*node).clone()])
            .collect();
        if group.len() > 1 {
            groups.insert(group.into_iter().collect::<Vec<_>>());
        }
    }
    groups.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[track_caller]
    fn check(sources: &[(&str, &str)], expected: &[&[&str]]) {
        let sources = sources
            .iter()
            .map(|(path, text)| (module_of(&PathBuf::from(path)), (*text).to_owned()))
            .collect();
        assert_eq!(cycles(&sources), expected);
    }

    #[test]
    fn cycles_are_found_and_trees_are_not() {
        check(
            &[
                ("lib.rs", "mod a; mod b; pub use b::Thing;"),
                ("a.rs", "use crate::b::{self, Other as _, c::Deep};"),
                ("b.rs", "pub struct Thing; mod c;"),
                ("b/c.rs", "use super::Thing;"),
            ],
            &[],
        );
        // Through a re-export, from a child, and in the middle of an expression.
        for back in ["use crate::a::x;", "fn f() { crate::a::x() }", "use super::a;"] {
            check(
                &[("a.rs", "use crate::Thing;"), ("lib.rs", "pub use b::Thing;"), ("b.rs", back)],
                &[&["a", "b"]],
            );
        }
        check(
            &[
                ("net/mod.rs", "mod one; mod two;"),
                ("net/one.rs", "use super::two::x;"),
                ("net/two.rs", "use crate::net::one;"),
            ],
            &[&["net::one", "net::two"]],
        );
    }

    #[test]
    fn comments_literals_and_tests_do_not_count() {
        check(
            &[
                ("a.rs", "use crate::b;"),
                (
                    "b.rs",
                    "// use crate::a;\nconst X: &str = \"crate::a::x\"; const Y: char = '\"';\n\
                     const Z: &str = r#\"\"crate::a\"#;\n\
                     #[cfg(test)]\nmod tests { use crate::a; fn f() {} }\n\
                     #[cfg(test)]\nuse crate::a::x;\n",
                ),
            ],
            &[],
        );
    }
}
