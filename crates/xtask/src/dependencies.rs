//! The page of the libraries and tools: purposes from a data file, licences and versions
//! from the manifests of the packages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail};
use cargo_metadata::{Metadata, Package};
use serde::Deserialize;

use crate::workspace;

/// The page, relative to the root of the repository.
pub const PAGE: &str = "docs/internals/dependencies.md";
/// The data file, relative to the root of the repository.
const DATA: &str = "docs/internals/dependencies.toml";

/// The content of the data file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    /// The text above the table.
    introduction: String,
    #[serde(rename = "entry")]
    entries: Vec<Entry>,
}

/// A row of the table.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Crates(CratesEntry),
    Other(OtherEntry),
}

/// A row about dependencies of cargo.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CratesEntry {
    crates: Vec<String>,
    /// What else the row is about, such as a library in another language.
    with: Option<String>,
    with_licence: Option<String>,
    purpose: String,
    version_note: Option<String>,
}

/// A row about something that cargo does not know.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OtherEntry {
    name: String,
    purpose: String,
    licence: String,
    version: String,
}

/// What the manifests say about a direct dependency.
#[derive(Debug, Default, PartialEq, Eq)]
struct Dependency {
    /// The packages of this repository that depend on it.
    users: BTreeSet<String>,
    /// The required versions: more than one if the packages do not agree.
    versions: BTreeSet<String>,
    licences: BTreeSet<String>,
}

type Dependencies = BTreeMap<String, Dependency>;

/// Generates the page.
pub fn render() -> Result<String> {
    let mut dependencies = Dependencies::new();
    for metadata in [workspace::metadata()?, workspace::fuzz_metadata()?] {
        collect(&metadata, &mut dependencies);
    }
    let path = workspace::root().join(DATA);
    let data = fs::read_to_string(path).with_context(|| format!("cannot read {DATA}"))?;
    page(&data, &dependencies)
}

/// Returns the licences of the rows that are not about crates, by name.
pub fn licences() -> Result<BTreeMap<String, String>> {
    let path = workspace::root().join(DATA);
    let data = fs::read_to_string(path).with_context(|| format!("cannot read {DATA}"))?;
    let data: Data = toml::from_str(&data).with_context(|| format!("{DATA} is not valid"))?;
    let licence = |entry| match entry {
        Entry::Crates(_) => None,
        Entry::Other(OtherEntry { name, licence, .. }) => Some((name, licence)),
    };
    Ok(data.entries.into_iter().filter_map(licence).collect())
}

/// Collects the direct dependencies of a workspace, without its own packages.
fn collect(metadata: &Metadata, dependencies: &mut Dependencies) {
    for package in metadata.workspace_packages() {
        for edge in package.dependencies.iter().filter(|edge| edge.path.is_none()) {
            let dependency = dependencies.entry(edge.name.clone()).or_default();
            dependency.users.insert(package.name.to_string());
            dependency.versions.insert(version(&edge.req.to_string()));
            let is_used =
                |used: &&Package| used.name == edge.name && edge.req.matches(&used.version);
            let licence = metadata.packages.iter().find(is_used).and_then(|it| it.license.as_ref());
            dependency.licences.extend(licence.map(|licence| licence.replace('/', " OR ")));
        }
    }
}

/// Returns a required version as the manifests write it.
fn version(requirement: &str) -> String {
    match requirement.strip_prefix('^') {
        Some(version) => version.to_owned(),
        None => format!("`{requirement}`"),
    }
}

fn page(data: &str, dependencies: &Dependencies) -> Result<String> {
    let data: Data = toml::from_str(data).with_context(|| {
        format!(
            "{DATA} is not valid: an [[entry]] has `crates` and `purpose`, and may have `with`, \
             `with_licence` and `version_note`; or it has `name`, `purpose`, `licence` and `version`"
        )
    })?;
    let problems = problems(&data, dependencies);
    if !problems.is_empty() {
        bail!("{DATA} does not match the manifests:\n{}", problems.join("\n"));
    }
    let mut page = data.introduction.trim_start().to_owned();
    page.push_str("\n| library | purpose | licence | version |\n|---|---|---|---|\n");
    for entry in &data.entries {
        let cells = match entry {
            Entry::Crates(entry) => crates_row(entry, dependencies),
            Entry::Other(OtherEntry { name, purpose, licence, version }) => {
                [name, purpose, licence, version].map(Clone::clone)
            }
        };
        let cells = cells.map(|cell| cell.replace('|', "\\|"));
        page.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    Ok(page)
}

/// Returns which dependencies have no entry, and which entries no dependency.
fn problems(data: &Data, dependencies: &Dependencies) -> Vec<String> {
    let listed: BTreeSet<&String> = data
        .entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Crates(entry) => Some(&entry.crates),
            Entry::Other(_) => None,
        })
        .flatten()
        .collect();
    let mut problems = Vec::new();
    for (name, dependency) in dependencies.iter().filter(|(name, _)| !listed.contains(name)) {
        let users: Vec<_> = dependency.users.iter().map(String::as_str).collect();
        problems.push(format!(
            "{name}, a dependency of {}, has no entry: add an [[entry]] with `crates = [{name:?}]` \
             and its `purpose`, and run `cargo xtask generate`",
            users.join(", ")
        ));
    }
    for name in listed.into_iter().filter(|name| !dependencies.contains_key(*name)) {
        problems.push(format!(
            "{name} has an entry, and no package of this repository depends on it: remove it from \
             `crates`, and run `cargo xtask generate`"
        ));
    }
    for (name, dependency) in dependencies {
        if dependency.licences.is_empty() {
            problems.push(format!("{name}: its manifest names no licence: use another library"));
        }
    }
    problems
}

fn crates_row(entry: &CratesEntry, dependencies: &Dependencies) -> [String; 4] {
    let known = || entry.crates.iter().filter_map(|name| dependencies.get(name));
    let mut names = entry.crates.join(", ");
    if let Some(with) = &entry.with {
        names.push_str(&format!(", with {with}"));
    }
    let licences = known().map(|it| join(&it.licences)).collect();
    let mut licence = without_repetition(licences).join("; ");
    if let Some(other) = &entry.with_licence {
        licence.push_str(&format!("; {other}"));
    }
    let versions = known().map(|it| join(&it.versions)).collect();
    let mut version = without_repetition(versions).join(", ");
    if let Some(note) = &entry.version_note {
        version.push_str(&format!(": {note}"));
    }
    [names, entry.purpose.clone(), licence, version]
}

fn join(values: &BTreeSet<String>) -> String {
    values.iter().map(String::as_str).collect::<Vec<_>>().join(" and ")
}

/// Shortens a list in which all values are the same to one value. Others have a value for
/// each crate.
fn without_repetition(mut values: Vec<String>) -> Vec<String> {
    if values.windows(2).all(|pair| pair[0] == pair[1]) {
        values.truncate(1);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dependencies() -> Dependencies {
        [
            ("tokio", "1", "MIT"),
            ("hyper", "1", "MIT"),
            ("rusqlite", "0.41", "MIT"),
            ("wasmtime", "`=48.0.8`", "Apache-2.0"),
        ]
        .map(|(name, version, licence)| {
            let dependency = Dependency {
                users: BTreeSet::from(["isola".to_owned(), "isorun".to_owned()]),
                versions: BTreeSet::from([version.to_owned()]),
                licences: BTreeSet::from([licence.to_owned()]),
            };
            (name.to_owned(), dependency)
        })
        .into()
    }

    const COMPLETE: &str = r#"
introduction = """
# Title
"""
[[entry]]
crates = ["tokio", "hyper"]
purpose = "a | b"
[[entry]]
crates = ["rusqlite", "wasmtime"]
with = "SQLite"
with_licence = "public domain"
purpose = "c"
version_note = "the newest"
[[entry]]
name = "nft"
purpose = "d"
licence = "GPL-2.0"
version = "any"
"#;

    #[test]
    fn licences_and_versions_are_those_of_the_manifests() {
        let expected = "# Title\n\n\
             | library | purpose | licence | version |\n|---|---|---|---|\n\
             | tokio, hyper | a \\| b | MIT | 1 |\n\
             | rusqlite, wasmtime, with SQLite | c | MIT; Apache-2.0; public domain \
             | 0.41, `=48.0.8`: the newest |\n\
             | nft | d | GPL-2.0 | any |\n";
        assert_eq!(page(COMPLETE, &dependencies()).unwrap(), expected);
    }

    #[track_caller]
    fn check_error(data: &str, dependencies: &Dependencies, expected: &str) {
        let error = format!("{:#}", page(data, dependencies).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn every_dependency_has_an_entry() {
        let data = COMPLETE.replace("\"tokio\", ", "");
        let expected = "tokio, a dependency of isola, isorun, has no entry: add an [[entry]] with \
                        `crates = [\"tokio\"]`";
        check_error(&data, &dependencies(), expected);
    }

    #[test]
    fn every_entry_has_a_dependency() {
        let mut fewer = dependencies();
        fewer.remove("hyper");
        check_error(COMPLETE, &fewer, "hyper has an entry, and no package");
    }

    #[test]
    fn a_dependency_has_a_licence() {
        let mut unlicensed = dependencies();
        unlicensed.entry("tokio".to_owned()).or_default().licences.clear();
        check_error(COMPLETE, &unlicensed, "tokio: its manifest names no licence");
    }

    #[test]
    fn unknown_fields_are_refused() {
        check_error(&COMPLETE.replace("with =", "wiht ="), &dependencies(), "may have `with`");
    }

    #[test]
    fn requirements_are_shown_as_they_are_written() {
        assert_eq!(version("^0.26.3"), "0.26.3");
        assert_eq!(version("=48.0.8"), "`=48.0.8`");
        assert_eq!(version("~1.254"), "`~1.254`");
    }
}
