//! The rules for modules of a crate: what a module must not name, so that its layers
//! depend on each other in one direction.

use std::collections::BTreeSet;

use anyhow::Result;

use super::module_paths::{ModuleTree, paths};
use super::rust_source::{ModulePath, SourceFile, read_crate};
use crate::workspace;

/// A rule for some modules of a crate.
struct ModuleRule {
    /// The name of the crate, which is that of its directory in `crates`.
    krate: &'static str,
    scope: Scope,
    forbidden: &'static [Target],
    /// What to do instead.
    advice: &'static str,
}

/// The modules to which a rule applies.
#[derive(Clone, Copy)]
enum Scope {
    /// A module at the root of the crate, and the modules below it.
    Within(&'static str),
    /// All others.
    Outside(&'static str),
}

/// Something that a module must not name.
#[derive(Clone, Copy)]
enum Target {
    /// A module at the root of the same crate, and what is below it.
    Module(&'static str),
    /// A crate, as it is written in Rust.
    Crate(&'static str),
    /// A name, wherever it comes from.
    Name(&'static str),
}

/// The layers of the server: `http` calls `core`, and `core` calls `store`.
const RULES: &[ModuleRule] = &[
    ModuleRule {
        krate: "isorun-server",
        scope: Scope::Within("core"),
        forbidden: &[
            Target::Module("http"),
            Target::Crate("axum"),
            Target::Crate("http"),
            Target::Name("StatusCode"),
        ],
        advice: "return a value or an error of core, and convert it in http",
    },
    ModuleRule {
        krate: "isorun-server",
        scope: Scope::Within("store"),
        forbidden: &[Target::Module("core"), Target::Module("http")],
        advice: "pass plain values to store, or define the type there",
    },
    ModuleRule {
        krate: "isorun-server",
        scope: Scope::Outside("http"),
        forbidden: &[Target::Crate("axum")],
        advice: "move the code that needs it to http",
    },
];

/// Finds every violation of a rule, and every rule about something that does not exist.
pub fn find() -> Result<Vec<String>> {
    let mut found = Vec::new();
    let crates: BTreeSet<&str> = RULES.iter().map(|rule| rule.krate).collect();
    for name in crates {
        let dir = workspace::root().join("crates").join(name);
        if !dir.is_dir() {
            found.push(format!(
                "crates/{name} does not exist: remove its rules from check/module_rules.rs, or \
                 correct the name"
            ));
            continue;
        }
        let rules = RULES.iter().filter(|rule| rule.krate == name);
        found.extend(violations(&read_crate(&dir)?, rules));
    }
    Ok(found)
}

fn violations<'a>(
    files: &[SourceFile],
    rules: impl IntoIterator<Item = &'a ModuleRule>,
) -> Vec<String> {
    let tree = ModuleTree::of(files);
    let mut found = Vec::new();
    for rule in rules {
        for module in rule.modules() {
            if !files.iter().any(|file| is_within(&file.module, module)) {
                found.push(format!(
                    "crates/{}: there is no module {module}: correct its rule in \
                     check/module_rules.rs",
                    rule.krate
                ));
            }
        }
        for file in files.iter().filter(|file| rule.scope.contains(&file.module)) {
            for target in rule.forbidden {
                found.extend(target.uses(&tree, file).into_iter().map(|line| {
                    format!(
                        "crates/{}/{}:{line}: {} must not use {}: {}",
                        rule.krate,
                        file.path,
                        rule.scope.describe(),
                        target.describe(),
                        rule.advice
                    )
                }));
            }
        }
    }
    found
}

/// Reports whether a module is the one of this name at the root of the crate, or below it.
fn is_within(module: &[String], name: &str) -> bool {
    module.first().is_some_and(|first| first == name)
}

impl ModuleRule {
    /// Returns the modules that the rule names.
    fn modules(&self) -> Vec<&'static str> {
        let targets = self.forbidden.iter().filter_map(|target| match target {
            Target::Module(name) => Some(*name),
            Target::Crate(_) | Target::Name(_) => None,
        });
        let (Scope::Within(name) | Scope::Outside(name)) = self.scope;
        targets.chain([name]).collect()
    }
}

impl Scope {
    fn contains(self, module: &ModulePath) -> bool {
        match self {
            Self::Within(name) => is_within(module, name),
            Self::Outside(name) => !is_within(module, name),
        }
    }

    fn describe(self) -> String {
        match self {
            Self::Within(name) => format!("the module {name}"),
            Self::Outside(name) => format!("code outside of the module {name}"),
        }
    }
}

impl Target {
    /// Returns the lines in which a file uses it.
    fn uses(self, tree: &ModuleTree, file: &SourceFile) -> BTreeSet<usize> {
        if let Self::Name(name) = self {
            let named = file.tokens.iter().filter(|token| token.text == name);
            return named.map(|token| token.line).collect();
        }
        let is_use = |names: &[String]| {
            let module = tree.resolve(&file.module, names);
            match self {
                Self::Module(name) => module.is_some_and(|module| is_within(&module, name)),
                // A path without a prefix may also start with a child module.
                Self::Crate(name) => names.first().is_some_and(|it| it == name) && module.is_none(),
                Self::Name(_) => false,
            }
        };
        let paths = paths(&file.tokens);
        paths.iter().filter(|path| is_use(&path.names)).map(|path| path.line).collect()
    }

    fn describe(self) -> String {
        match self {
            Self::Module(name) => format!("the module {name}"),
            Self::Crate(name) => format!("the crate {name}"),
            Self::Name(name) => name.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::rust_source::parse_files;

    /// Checks which of the rules of the server these files violate, apart from
    /// `src/core.rs`, `src/http.rs` and `src/store.rs`, which are empty.
    #[track_caller]
    fn check(files: &[(&str, &str)], expected: &[&str]) {
        let layers = [("core.rs", ""), ("http.rs", ""), ("store.rs", "")];
        let files = parse_files(layers.iter().chain(files).copied());
        let found: Vec<String> = violations(&files, RULES)
            .into_iter()
            .map(|line| {
                let (place, rest) = line.split_once(": ").unwrap();
                let (_, target) = rest.split_once(" must not use ").unwrap();
                let (target, _) = target.split_once(": ").unwrap();
                format!("{} {target}", place.trim_start_matches("crates/isorun-server/src/"))
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn layers_that_use_lower_ones_are_allowed() {
        check(
            &[
                ("lib.rs", "mod core; mod http; mod store; pub use http::Server;"),
                ("http/routes.rs", "use axum::Router; use crate::core::Runs; use crate::store;"),
                ("http/errors.rs", "use http::StatusCode; fn f() -> axum::Response {}"),
                ("core/runs.rs", "use crate::store::Rows; use super::limits; use std::fs;"),
                ("core/limits.rs", "// axum::Body\nconst X: &str = \"StatusCode\";"),
                ("store/rows.rs", "use rusqlite::Row; use core::mem; use super::http_log;"),
                ("store/http_log.rs", "#[cfg(test)] mod tests { use crate::core::Runs; }"),
            ],
            &[],
        );
    }

    #[test]
    fn core_knows_nothing_of_http() {
        check(
            &[
                ("lib.rs", "pub use http::Server;"),
                ("core/runs.rs", "use crate::http::Query;\nuse super::super::http;"),
                ("core/files.rs", "fn f() {\n  crate::Server::new() }"),
                ("core/exec.rs", "fn f() -> http::Method {}\nuse hyper::{self, StatusCode};"),
                ("core/proxy.rs", "use axum::body::Body as B;"),
            ],
            &[
                "core/runs.rs:1 the module http",
                "core/runs.rs:2 the module http",
                "core/files.rs:2 the module http",
                "core/exec.rs:1 the crate http",
                "core/exec.rs:2 StatusCode",
                "core/proxy.rs:1 the crate axum",
                // By the rule for code outside of http.
                "core/proxy.rs:1 the crate axum",
            ],
        );
    }

    #[test]
    fn store_knows_nothing_of_the_layers_above() {
        check(
            &[("store/rows.rs", "use crate::{core::Runs, http::Query};\nuse super::super::core;")],
            &[
                "store/rows.rs:1 the module core",
                "store/rows.rs:2 the module core",
                "store/rows.rs:1 the module http",
            ],
        );
    }

    #[test]
    fn axum_is_used_in_http_only() {
        check(
            &[
                ("lib.rs", "use axum::Router;"),
                ("metrics.rs", "#[axum::debug_handler] fn f() {}"),
                ("http/metrics.rs", "use axum::Router;"),
                ("other.rs", "mod axum; use self::axum::Thing; use axum::Other;"),
                ("other/axum.rs", ""),
            ],
            &["lib.rs:1 the crate axum", "metrics.rs:1 the crate axum"],
        );
    }

    #[test]
    fn a_module_that_does_not_exist_is_found() {
        let found = violations(&parse_files([("core.rs", ""), ("http.rs", "")]), RULES);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("there is no module store"), "{found:?}");
    }
}
