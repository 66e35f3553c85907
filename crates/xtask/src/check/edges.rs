//! The rules for dependencies between packages.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use cargo_metadata::DependencyKind;

use crate::workspace;

/// Finds every forbidden edge of the workspace.
pub fn find() -> Result<Vec<String>> {
    let metadata = workspace::metadata()?;
    let graph = metadata
        .workspace_packages()
        .into_iter()
        .map(|package| {
            let counts = package
                .dependencies
                .iter()
                .filter(|edge| !is_for_tests(&package.name, &edge.name, edge.kind));
            (package.name.to_string(), counts.map(|edge| edge.name.clone()).collect())
        })
        .collect();
    Ok(forbidden(&graph))
}

/// Reports whether a dependency is exempt: the tests of `guests::merge_modules` run
/// merged components in wasmtime.
fn is_for_tests(package: &str, dependency: &str, kind: DependencyKind) -> bool {
    (package, dependency, kind) == ("xtask", "wasmtime", DependencyKind::Development)
}

/// The packages of the workspace, each with its direct dependencies of all kinds:
/// normal, build and development.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// The only crate of isorun that depends on isola, on its public API alone.
const BRIDGE: &str = "isorun-interpreter";

/// The crates of isorun, each with all others of them that it may depend on directly; and
/// what tests share, which depends on neither product.
const LAYERS: [(&str, &[&str]); 12] = [
    (
        "isorun",
        &[
            "isorun-agent",
            "isorun-api",
            "isorun-blobs",
            "isorun-egress",
            "isorun-engine",
            "isorun-image",
            "isorun-interpreter",
            "isorun-peers",
            "isorun-server",
        ],
    ),
    (
        "isorun-server",
        &[
            "isorun-agent",
            "isorun-api",
            "isorun-blobs",
            "isorun-egress",
            "isorun-engine",
            "isorun-image",
            "isorun-interpreter",
            "isorun-peers",
        ],
    ),
    (BRIDGE, &["isorun-agent", "isorun-egress"]),
    ("isorun-engine", &["isorun-agent", "isorun-egress"]),
    ("isorun-egress", &["isorun-agent"]),
    ("isorun-blobs", &[]),
    ("isorun-image", &[]),
    ("isorun-peers", &[]),
    ("isorun-api", &[]),
    ("isorun-agent", &[]),
    ("test-macros", &[]),
    ("test-support", &[]),
];

fn forbidden(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for (package, dependencies) in graph {
        let layer = LAYERS.iter().find(|(name, _)| name == package);
        if layer.is_none() && package.starts_with("isorun") {
            found.push(format!("{package}: the rules of `check edges` do not list it"));
        }
        for dependency in dependencies {
            let belongs = dependency == "isorun" || dependency.starts_with("isorun-");
            if let Some((_, allowed)) = layer
                && belongs
                && !allowed.contains(&dependency.as_str())
            {
                found.push(format!("{package} -> {dependency}: it belongs to a higher layer"));
            }
            if package == BRIDGE && dependency.starts_with("isola-") {
                found.push(format!("{package} -> {dependency}: it needs the crate isola only"));
            }
            if dependency.starts_with("wasmtime") && package != "isola" {
                found.push(format!(
                    "{package} -> {dependency}: only isola may use wasmtime's types"
                ));
            }
        }
        for reached in reachable(graph, package) {
            if are_separate(package, &reached) {
                found.push(format!(
                    "{package} -> {reached}: only {BRIDGE} may depend on isola, and isola on no \
                     crate of isorun"
                ));
            }
        }
    }
    found
}

/// Returns the packages of the workspace that a package depends on, directly or
/// through others, so that a third package cannot connect isola and isorun. What the
/// bridge depends on is left out.
fn reachable(graph: &Graph, package: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![package.to_owned()];
    while let Some(next) = open.pop() {
        if next == BRIDGE {
            continue;
        }
        for dependency in graph.get(&next).into_iter().flatten() {
            if graph.contains_key(dependency) && seen.insert(dependency.clone()) {
                open.push(dependency.clone());
            }
        }
    }
    seen
}

/// Reports whether one package belongs to isola and the other to isorun.
fn are_separate(one: &str, other: &str) -> bool {
    let is = |package: &str, family: &str| {
        package.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    (is(one, "isola") && is(other, "isorun")) || (is(one, "isorun") && is(other, "isola"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(edges: &[(&str, &[&str])], expected: &[&str]) {
        let graph = edges
            .iter()
            .map(|(package, dependencies)| {
                let dependencies = dependencies.iter().map(|name| (*name).to_owned());
                ((*package).to_owned(), dependencies.collect())
            })
            .collect();
        let found: Vec<String> = forbidden(&graph)
            .into_iter()
            .map(|line| line.split(':').next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_allowed() {
        check(
            &[
                ("isola", &["wasmtime", "wasmtime-wasi", "tokio"]),
                ("isola-cli", &["isola", "clap"]),
                ("isorun", &["isorun-engine", "isorun-image"]),
                ("isorun-engine", &["isorun-agent", "isorun-egress"]),
                ("isorun-agent", &[]),
                ("xtask", &["clap"]),
            ],
            &[],
        );
    }

    #[test]
    fn layers_of_isorun_know_only_lower_ones() {
        check(
            &[
                ("isorun-agent", &["isorun-egress"]),
                ("isorun-egress", &["isorun-agent", "isorun-image"]),
                ("isorun-image", &["tar"]),
                ("isorun-other", &[]),
                ("isorun-server", &["isorun", "isorun-engine"]),
            ],
            &[
                "isorun-agent -> isorun-egress",
                "isorun-egress -> isorun-image",
                "isorun-other",
                "isorun-server -> isorun",
            ],
        );
    }

    #[test]
    fn only_isola_names_wasmtime() {
        check(
            &[("isola", &["wasmtime"]), ("isola-cli", &["isola", "wasmtime-wasi"])],
            &["isola-cli -> wasmtime-wasi"],
        );
    }

    #[test]
    fn tests_of_the_chores_run_components() {
        use DependencyKind::{Build, Development, Normal};
        assert!(is_for_tests("xtask", "wasmtime", Development));
        for (package, dependency, kind) in [
            ("xtask", "wasmtime", Normal),
            ("xtask", "wasmtime", Build),
            ("xtask", "wasmtime-wasi", Development),
            ("isola-cli", "wasmtime", Development),
        ] {
            assert!(!is_for_tests(package, dependency, kind), "{package} {dependency} {kind}");
        }
    }

    #[test]
    fn the_halves_are_apart_both_ways() {
        check(
            &[
                ("isola", &[]),
                ("isola-cli", &["isorun-agent"]),
                ("isorun", &["isola"]),
                ("isorun-agent", &[]),
            ],
            &["isola-cli -> isorun-agent", "isorun -> isola"],
        );
    }

    #[test]
    fn a_bridge_is_found() {
        check(
            &[("isola", &["common"]), ("common", &["isorun-agent"]), ("isorun-agent", &[])],
            &["isola -> isorun-agent"],
        );
    }

    #[test]
    fn only_the_bridge_depends_on_isola() {
        check(
            &[
                ("isola", &[]),
                ("isola-cli", &["isola"]),
                (BRIDGE, &["isola", "isorun-egress"]),
                ("isorun-egress", &[]),
                ("isorun-server", &[BRIDGE]),
                ("isorun", &["isorun-server", "isola"]),
            ],
            &["isorun -> isola"],
        );
        check(
            &[("isola", &[BRIDGE]), (BRIDGE, &["isola-cli"]), ("isola-cli", &[])],
            &["isola -> isorun-interpreter", "isorun-interpreter -> isola-cli"],
        );
    }

    #[test]
    fn a_name_that_only_begins_alike_is_of_no_family() {
        check(&[("isolate", &["isorun"]), ("isorun", &["isolation"])], &[]);
    }

    #[test]
    fn a_cycle_ends() {
        check(&[("isola", &["isola-cli"]), ("isola-cli", &["isola"])], &[]);
    }
}
