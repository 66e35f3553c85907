//! The paths in the sources of a crate, and the modules in which they end.

use std::collections::{BTreeMap, BTreeSet};

use super::rust_source::{ModulePath, SourceFile, Token, at, child, is_name};

/// The maximum number of re-exports that are followed from one to the next.
const MAX_REEXPORTS: usize = 8;

/// The modules of a crate, and the paths in each.
pub struct ModuleTree {
    modules: BTreeSet<ModulePath>,
    paths: Vec<(ModulePath, SourcePath)>,
    /// The paths that a module re-exports, by module and name.
    exports: BTreeMap<(ModulePath, String), Vec<String>>,
}

/// A path in the source of a module.
#[derive(Debug, PartialEq, Eq)]
pub struct SourcePath {
    pub names: Vec<String>,
    pub line: usize,
    /// The path is re-exported.
    is_public: bool,
}

impl ModuleTree {
    pub fn of(files: &[SourceFile]) -> Self {
        let mut tree = Self {
            modules: files.iter().map(|file| file.module.clone()).collect(),
            paths: Vec::new(),
            exports: BTreeMap::new(),
        };
        for file in files {
            for path in paths(&file.tokens) {
                if let (true, Some(name)) = (path.is_public, path.names.last()) {
                    let name = (file.module.clone(), name.clone());
                    tree.exports.insert(name, path.names.clone());
                }
                tree.paths.push((file.module.clone(), path));
            }
        }
        tree
    }

    /// Returns all paths, each with the module that contains it.
    pub fn paths(&self) -> impl Iterator<Item = (&ModulePath, &SourcePath)> {
        self.paths.iter().map(|(module, path)| (module, path))
    }

    /// Returns the module in which a path ends, if it is one of the crate.
    pub fn resolve(&self, from: &ModulePath, path: &[String]) -> Option<ModulePath> {
        self.resolve_within(from, path, MAX_REEXPORTS)
    }

    fn resolve_within(
        &self,
        from: &ModulePath,
        path: &[String],
        reexports: usize,
    ) -> Option<ModulePath> {
        let mut names = path.iter();
        let mut module = match names.next()?.as_str() {
            "crate" => ModulePath::new(),
            "self" => from.clone(),
            "super" => from[..from.len().checked_sub(1)?].to_vec(),
            // A path without a prefix may start with a child module.
            name => Some(child(from, name)).filter(|child| self.modules.contains(child))?,
        };
        for name in names {
            if name == "super" {
                module.pop()?;
                continue;
            }
            let child = child(&module, name);
            if self.modules.contains(&child) {
                module = child;
                continue;
            }
            if let Some(left) = reexports.checked_sub(1)
                && let Some(origin) = self.exports.get(&(module.clone(), name.clone()))
            {
                return self.resolve_within(&module, origin, left).or(Some(module));
            }
            break;
        }
        Some(module)
    }
}

/// Returns the paths in a source: those of `use`, and all others of more than one name.
pub fn paths(tokens: &[Token]) -> Vec<SourcePath> {
    let mut found = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        let before = index.checked_sub(1).map_or("", |index| at(tokens, index));
        if at(tokens, index) == "use" {
            // `pub use`, `pub(crate) use`.
            let is_public = matches!(before, "pub" | ")");
            index = use_tree(tokens, index + 1, &[], is_public, &mut found);
        } else if is_name(at(tokens, index)) && at(tokens, index + 1) == "::" && before != "::" {
            let line = tokens[index].line;
            let mut names = Vec::new();
            while index < tokens.len() && is_name(at(tokens, index)) {
                names.push(at(tokens, index).to_owned());
                index += 1;
                if at(tokens, index) != "::" {
                    break;
                }
                index += 1;
            }
            found.push(SourcePath { names, line, is_public: false });
        } else {
            index += 1;
        }
    }
    found
}

/// Reads a tree of `use` and returns the position after it.
fn use_tree(
    tokens: &[Token],
    mut index: usize,
    prefix: &[String],
    is_public: bool,
    found: &mut Vec<SourcePath>,
) -> usize {
    let mut names = prefix.to_vec();
    let line = tokens.get(index).map_or(0, |token| token.line);
    while index < tokens.len() {
        match at(tokens, index) {
            "::" => index += 1,
            "{" => {
                index += 1;
                while index < tokens.len() && at(tokens, index) != "}" {
                    index = use_tree(tokens, index, &names, is_public, found);
                    if at(tokens, index) == "," {
                        index += 1;
                    }
                }
                return index + 1;
            }
            // The new name of an item: its path is what counts.
            "as" => index += 2,
            name if is_name(name) || name == "*" => {
                if name != "self" || names.is_empty() {
                    names.push(name.to_owned());
                }
                index += 1;
            }
            _ => break,
        }
    }
    if !names.is_empty() {
        found.push(SourcePath { names, line, is_public });
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::rust_source::{parse_files, tokens};

    #[test]
    fn paths_are_read_from_uses_and_expressions() {
        let source = "use a::{b, c::{self, d as e}};\npub(crate) use crate::f::*;\n\
                      fn g() -> h::I { super::super::j(); Vec::<k::L>::new() }";
        let found: Vec<_> = paths(&tokens(source))
            .into_iter()
            .map(|path| (path.names.join("::"), path.line, path.is_public))
            .collect();
        let expected = [
            ("a::b", 1, false),
            ("a::c", 1, false),
            ("a::c::d", 1, false),
            ("crate::f::*", 2, true),
            ("h::I", 3, false),
            ("super::super::j", 3, false),
            ("Vec", 3, false),
            ("k::L", 3, false),
        ];
        assert_eq!(found, expected.map(|(names, line, public)| (names.to_owned(), line, public)));
    }

    #[test]
    fn paths_are_resolved_through_reexports() {
        let tree = ModuleTree::of(&parse_files([
            ("lib.rs", "pub use a::Thing; mod a; mod b;"),
            ("a.rs", "pub use self::deep::Thing; mod deep;"),
            ("a/deep.rs", "pub struct Thing;"),
            ("b.rs", ""),
        ]));
        let resolve = |from: &str, path: &str| {
            let path: Vec<_> = path.split("::").map(str::to_owned).collect();
            tree.resolve(&vec![from.to_owned()], &path).map(|module| module.join("::"))
        };
        assert_eq!(resolve("b", "crate::Thing").as_deref(), Some("a::deep"));
        assert_eq!(resolve("b", "super::a::Thing").as_deref(), Some("a::deep"));
        assert_eq!(resolve("b", "crate::Other").as_deref(), Some(""));
        assert_eq!(resolve("a", "deep::Thing").as_deref(), Some("a::deep"));
        assert_eq!(resolve("b", "deep::Thing"), None);
        assert_eq!(resolve("b", "std::fs"), None);
    }
}
