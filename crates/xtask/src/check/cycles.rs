//! Checks that the modules of a crate depend on each other in one direction.
//!
//! The graph is read from the text of the sources: `use` declarations and other paths
//! that start with `crate`, `self` or `super`, without comments, strings and modules of
//! tests. A name that a module re-exports counts as its origin. Modules with the same
//! parent form a graph of their own; what is below a module counts as that module.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::module_paths::ModuleTree;
use super::rust_source::{ModulePath, SourceFile, read_crate};
use crate::workspace;

/// Finds every cycle.
pub fn find() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (name, dir) in workspace::crates()? {
        found.extend(cycles(&read_crate(&dir)?).into_iter().map(|modules| {
            let modules = modules.join(", ");
            format!(
                "crates/{name}: modules in a cycle: {modules}: move what they share into a \
                 module that depends on none of them"
            )
        }));
    }
    Ok(found)
}

/// Returns the cycles among modules with the same parent, each sorted.
fn cycles(files: &[SourceFile]) -> Vec<Vec<String>> {
    let tree = ModuleTree::of(files);
    // For each parent, which of its children depend on which.
    let mut graphs: BTreeMap<ModulePath, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for (module, path) in tree.paths() {
        let Some(target) = tree.resolve(module, &path.names) else { continue };
        let common = module.iter().zip(&target).take_while(|(one, other)| one == other).count();
        if let (Some(from), Some(to)) = (module.get(common), target.get(common)) {
            let graph = graphs.entry(module[..common].to_vec()).or_default();
            graph.entry(from.clone()).or_default().insert(to.clone());
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
    use super::*;
    use crate::check::rust_source::parse_files;

    #[track_caller]
    fn check(sources: &[(&str, &str)], expected: &[&[&str]]) {
        assert_eq!(cycles(&parse_files(sources.iter().copied())), expected);
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
