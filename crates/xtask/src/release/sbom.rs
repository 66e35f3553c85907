//! The bill of materials of a release, in CycloneDX: the crates that are compiled into its
//! programs, what is inside the guests, and the packages of Debian in the server's image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::debian_root::SUITE;
use crate::linux::{BuiltRunsc, go_modules};
use crate::{dependencies, digest, workspace};

/// What is distributed: its crate, the type of the component, and its name.
const PROGRAMS: [(&str, &str, &str); 5] = [
    ("isola-cli", "application", "the command isola"),
    ("isorun", "application", "the command isorun, with the server"),
    ("isorun-agent", "application", "isorun-agent, the first process of a Linux sandbox"),
    ("isola-node", "library", "the native part of the npm package isola-core"),
    ("isola-python", "library", "the native part of the Python package isola"),
];

/// The runtime that is distributed by itself.
const DATA_RUNTIME: &str = "python-data.wasm";

/// The program that isolates Linux sandboxes.
const RUNSC: &str = "runsc";

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The file that pins the C sources in the guests of Python.
const NATIVE_LOCK: &str = "guests/python/native/Cargo.lock";

/// A component, without its reference.
#[derive(Default)]
struct BillEntry {
    kind: &'static str,
    name: String,
    version: String,
    description: Option<String>,
    licence: Option<String>,
    purl: Option<String>,
    sha256: Option<String>,
}

/// The components by their reference, and the references that each depends on.
#[derive(Default)]
struct Bill {
    components: BTreeMap<String, BillEntry>,
    edges: BTreeMap<String, BTreeSet<String>>,
}

/// What a release is, and what is in it.
pub struct Contents<'a> {
    pub version: &'a str,
    /// The time of the commit as RFC 3339.
    pub created: &'a str,
    pub runtimes: &'a Path,
    /// Lines `NAME VERSION` of the packages of Debian in the image.
    pub debian: &'a str,
    pub runsc: &'a BuiltRunsc,
}

/// Creates the bill of materials.
pub fn render(release: &Contents<'_>) -> Result<String> {
    let mut bill = Bill::default();
    let metadata = metadata()?;
    let hashes = lock_hashes("Cargo.lock")?;
    for (crate_name, kind, description) in PROGRAMS {
        bill.add_program(&metadata, &hashes, crate_name, kind, description)?;
    }
    bill.add_guests(release)?;
    bill.add_runsc(release)?;
    bill.add_image(release)?;
    bill.finish(release)
}

fn metadata() -> Result<Metadata> {
    MetadataCommand::new()
        .manifest_path(workspace::root().join("Cargo.toml"))
        .other_options(["--locked", "--filter-platform", TARGET].map(str::to_owned))
        .exec()
        .context("cargo metadata failed")
}

impl Bill {
    fn add(&mut self, reference: &str, component: BillEntry) {
        self.components.entry(reference.to_owned()).or_insert(component);
        self.edges.entry(reference.to_owned()).or_default();
    }

    fn link(&mut self, from: &str, to: &str) {
        self.edges.entry(from.to_owned()).or_default().insert(to.to_owned());
    }

    /// Adds a package that a registry has, as a part of `user`.
    fn add_package(&mut self, user: &str, kind: &str, name: &str, version: &str, more: BillEntry) {
        let purl = format!("pkg:{kind}/{}@{}", encode_name(name), encode(version));
        let component = BillEntry {
            kind: "library",
            name: name.to_owned(),
            version: version.to_owned(),
            purl: Some(purl.clone()),
            ..more
        };
        self.add(&purl, component);
        self.link(user, &purl);
    }

    /// Adds a crate and all crates that are compiled into it.
    fn add_program(
        &mut self,
        metadata: &Metadata,
        hashes: &BTreeMap<(String, String), String>,
        crate_name: &str,
        kind: &'static str,
        description: &str,
    ) -> Result<()> {
        let root = metadata
            .workspace_packages()
            .into_iter()
            .find(|package| package.name.as_str() == crate_name)
            .with_context(|| format!("the workspace has no crate {crate_name}"))?;
        let graph = metadata.resolve.as_ref().context("cargo metadata has no graph")?;
        let nodes: BTreeMap<&PackageId, _> =
            graph.nodes.iter().map(|node| (&node.id, node)).collect();
        let mut waiting = vec![&root.id];
        let mut visited = BTreeSet::new();
        while let Some(id) = waiting.pop() {
            if !visited.insert(id) {
                continue;
            }
            let package = &metadata[id];
            let reference = crate_reference(package.name.as_str(), &package.version.to_string());
            let is_root = id == &root.id;
            let (name, version) = (package.name.to_string(), package.version.to_string());
            self.add(
                &reference,
                BillEntry {
                    kind: if is_root { kind } else { "library" },
                    sha256: hashes.get(&(name.clone(), version.clone())).cloned(),
                    name,
                    version,
                    description: is_root.then(|| description.to_owned()),
                    licence: package.license.as_ref().map(|licence| licence.replace('/', " OR ")),
                    purl: Some(reference.clone()),
                },
            );
            let node = nodes.get(id).with_context(|| format!("{id} is not in the graph"))?;
            for dependency in &node.deps {
                let linked =
                    |kind: &cargo_metadata::DepKindInfo| kind.kind == DependencyKind::Normal;
                if dependency.dep_kinds.iter().any(linked) {
                    let other = &metadata[&dependency.pkg];
                    let to = crate_reference(other.name.as_str(), &other.version.to_string());
                    self.link(&reference, &to);
                    waiting.push(&dependency.pkg);
                }
            }
        }
        Ok(())
    }

    /// Adds the runtimes and what the pins of the guests list.
    fn add_guests(&mut self, release: &Contents<'_>) -> Result<()> {
        for (name, description) in [
            ("python.wasm", "the runtime of Python, a component of WebAssembly"),
            (DATA_RUNTIME, "the runtime of Python with packages for data"),
            ("js.wasm", "the runtime of JavaScript, a component of WebAssembly"),
        ] {
            self.add(
                name,
                BillEntry {
                    kind: "file",
                    name: name.to_owned(),
                    version: release.version.to_owned(),
                    description: Some(description.to_owned()),
                    licence: Some("Apache-2.0".to_owned()),
                    sha256: Some(digest::of_file(&release.runtimes.join(name))?),
                    purl: None,
                },
            );
            // The other runtime is installed separately.
            if name != DATA_RUNTIME {
                for program in ["isola-node", "isola-python", "isola-cli", "isorun"] {
                    self.link(&crate_reference(program, release.version), name);
                }
            }
        }
        self.add_python_guest("python.wasm")?;
        self.add_python_guest(DATA_RUNTIME)?;
        self.add_data_packages()?;
        self.add_javascript_guest()
    }

    /// Adds the packages that are compiled for the runtime `python-data`.
    fn add_data_packages(&mut self) -> Result<()> {
        #[derive(Deserialize)]
        struct DataPackage {
            name: String,
            version: String,
            sha256: String,
            licence: String,
            #[serde(default)]
            crates: Vec<LibraryCrate>,
        }
        /// A crate with the C sources of a library.
        #[derive(Deserialize)]
        struct LibraryCrate {
            name: String,
            licence: String,
        }
        let metadata = workspace::native_sources()?;
        let hashes = lock_hashes(NATIVE_LOCK)?;
        let dir = workspace::root().join("guests/python/packages");
        for entry in fs::read_dir(&dir).context("cannot list the recipes of the packages")? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let text = fs::read_to_string(&path)?;
            let package: DataPackage = toml::from_str(&text)
                .with_context(|| format!("{} is not valid", path.display()))?;
            let more = BillEntry {
                licence: Some(package.licence),
                sha256: Some(package.sha256),
                description: Some("compiled from its source distribution".to_owned()),
                ..BillEntry::default()
            };
            self.add_package(DATA_RUNTIME, "pypi", &package.name, &package.version, more);
            for LibraryCrate { name, licence } in package.crates {
                let pinned = metadata.packages.iter().find(|pinned| *pinned.name == name);
                let pinned = pinned.with_context(|| format!("{NATIVE_LOCK} has no {name}"))?;
                let version = pinned.version.to_string();
                let more = BillEntry {
                    sha256: hashes.get(&(name.clone(), version.clone())).cloned(),
                    licence: Some(licence),
                    description: Some("the sources in C of this crate".to_owned()),
                    ..BillEntry::default()
                };
                self.add_package(DATA_RUNTIME, "cargo", &name, &version, more);
            }
        }
        Ok(())
    }

    /// Adds what both runtimes of Python have, as a part of one of them.
    fn add_python_guest(&mut self, user: &str) -> Result<()> {
        let licences = dependencies::licences()?;
        let licence = |name: &str| licences.get(name).cloned();
        for (name, version) in python_pins("guests/python/bundled-requirements.txt")? {
            let more = BillEntry { licence: licence(&name), ..BillEntry::default() };
            self.add_package(user, "pypi", &name, &version, more);
        }
        for (name, version) in python_pins("guests/python/requirements.txt")? {
            let more = BillEntry {
                licence: Some("Apache-2.0 WITH LLVM-exception".to_owned()),
                description: Some("links the guest with the libraries that it contains".to_owned()),
                ..BillEntry::default()
            };
            self.add_package(user, "pypi", &name, &version, more);
        }
        let python = |description: &str| BillEntry {
            licence: Some("PSF-2.0".to_owned()),
            description: Some(description.to_owned()),
            ..BillEntry::default()
        };
        self.add_package(user, "generic", "cpython", "3.14.0", python("the interpreter"));
        self.add_package(
            user,
            "generic",
            "cpython-stdlib",
            &standard_library()?,
            python("the standard library, as Debian packages it"),
        );
        for (name, licence) in [
            ("wasi-libc", "MIT OR Apache-2.0 WITH LLVM-exception"),
            ("libc++", "Apache-2.0 WITH LLVM-exception"),
        ] {
            let component = BillEntry {
                kind: "library",
                name: name.to_owned(),
                description: Some("in the version that the builder contains".to_owned()),
                licence: Some(licence.to_owned()),
                ..BillEntry::default()
            };
            self.add(name, component);
            self.link(user, name);
        }
        let metadata = workspace::native_sources()?;
        let hashes = lock_hashes(NATIVE_LOCK)?;
        for package in &metadata.packages {
            let (name, version) = (package.name.to_string(), package.version.to_string());
            let licence = match name.as_str() {
                "bzip2-sys" => "bzip2-1.0.6",
                "liblzma-sys" => "0BSD",
                "zstd-sys" => "BSD-3-Clause",
                // The package itself, and crates that build scripts use.
                _ => continue,
            };
            let more = BillEntry {
                sha256: hashes.get(&(name.clone(), version.clone())).cloned(),
                licence: Some(licence.to_owned()),
                description: Some("the sources in C of this crate".to_owned()),
                ..BillEntry::default()
            };
            self.add_package(user, "cargo", &name, &version, more);
        }
        Ok(())
    }

    fn add_javascript_guest(&mut self) -> Result<()> {
        let user = "js.wasm";
        let path = workspace::root().join("guests/js/package-lock.json");
        let text = fs::read_to_string(&path).context("cannot read guests/js/package-lock.json")?;
        let lock: Value = serde_json::from_str(&text)?;
        for (name, licence, description) in [
            (
                "@bytecodealliance/componentize-js",
                "Apache-2.0 WITH LLVM-exception",
                "contains the engine",
            ),
            ("sucrase", "MIT", "removes types of TypeScript"),
            ("@formatjs/intl-segmenter", "MIT", "Intl.Segmenter"),
            ("moment-timezone", "MIT", "the data of time zones"),
            ("regenerate-unicode-properties", "MIT", "the sets of Unicode properties"),
            ("unicode-property-aliases-ecmascript", "MIT", "the names of Unicode properties"),
            ("unicode-property-value-aliases-ecmascript", "MIT", "the names of their values"),
        ] {
            let version = lock["packages"][format!("node_modules/{name}")]["version"]
                .as_str()
                .with_context(|| format!("guests/js/package-lock.json does not pin {name}"))?;
            let more = BillEntry {
                licence: Some(licence.to_owned()),
                description: Some(description.to_owned()),
                ..BillEntry::default()
            };
            self.add_package(user, "npm", name, version, more);
        }
        for (name, licence) in [
            ("StarlingMonkey", "Apache-2.0 WITH LLVM-exception"),
            ("SpiderMonkey", "MPL-2.0"),
            ("OpenSSL", "Apache-2.0"),
        ] {
            let component = BillEntry {
                kind: "library",
                name: name.to_owned(),
                description: Some("in the version that componentize-js contains".to_owned()),
                licence: Some(licence.to_owned()),
                ..BillEntry::default()
            };
            self.add(name, component);
            self.link(user, name);
        }
        Ok(())
    }

    /// Adds the image of the server with its packages of Debian.
    /// Adds the program that isolates Linux sandboxes, and the modules in it.
    fn add_runsc(&mut self, release: &Contents<'_>) -> Result<()> {
        let BuiltRunsc { program, modules, .. } = release.runsc;
        let list = fs::read_to_string(modules)
            .with_context(|| format!("cannot read {}", modules.display()))?;
        let modules = go_modules::read(&list)?;
        let gvisor = modules.iter().find(|[path, ..]| *path == "gvisor.dev/gvisor");
        let [_, version, licence] = gvisor.context("runsc does not contain gVisor")?;
        self.add(
            RUNSC,
            BillEntry {
                kind: "application",
                name: RUNSC.to_owned(),
                version: (*version).to_owned(),
                description: Some("gVisor's program, which isolates Linux sandboxes".to_owned()),
                licence: Some((*licence).to_owned()),
                sha256: Some(digest::of_file(program)?),
                purl: None,
            },
        );
        for [path, version, licence] in modules {
            let more = BillEntry { licence: Some(licence.to_owned()), ..BillEntry::default() };
            self.add_package(RUNSC, "golang", path, version, more);
        }
        self.link(&crate_reference("isorun", release.version), RUNSC);
        Ok(())
    }

    fn add_image(&mut self, release: &Contents<'_>) -> Result<()> {
        let image = "image";
        self.add(
            image,
            BillEntry {
                kind: "container",
                name: "isorun".to_owned(),
                version: release.version.to_owned(),
                description: Some("the image of the server".to_owned()),
                ..BillEntry::default()
            },
        );
        for program in ["isorun", "isorun-agent"] {
            self.link(image, &crate_reference(program, release.version));
        }
        for line in release.debian.lines() {
            let (name, version) = line.split_once(' ').context("an invalid list of packages")?;
            let purl = format!(
                "pkg:deb/debian/{}@{}?arch=amd64&distro={SUITE}",
                encode_name(name),
                encode(version)
            );
            self.add(
                &purl,
                BillEntry {
                    kind: "library",
                    name: name.to_owned(),
                    version: version.to_owned(),
                    purl: Some(purl.clone()),
                    ..BillEntry::default()
                },
            );
            self.link(image, &purl);
        }
        Ok(())
    }

    fn finish(self, release: &Contents<'_>) -> Result<String> {
        for (from, to) in &self.edges {
            if let Some(missing) = to.iter().find(|to| !self.components.contains_key(*to)) {
                bail!("{from} depends on {missing}, which is no component");
            }
        }
        let components: Vec<Value> = self.components.iter().map(render_component).collect();
        let dependencies: Vec<Value> =
            self.edges.iter().map(|(from, to)| json!({ "ref": from, "dependsOn": to })).collect();
        let mut bill = json!({
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {
                "timestamp": release.created,
                "component": {
                    "type": "application",
                    "bom-ref": "release",
                    "name": "isola and isorun",
                    "version": release.version,
                    "licenses": [{ "license": { "id": "Apache-2.0" } }],
                },
            },
            "components": components,
            "dependencies": dependencies,
        });
        bill["serialNumber"] = uuid(&digest::of_bytes(&serde_json::to_vec(&bill)?)).into();
        Ok(serde_json::to_string_pretty(&bill)? + "\n")
    }
}

fn render_component((reference, component): (&String, &BillEntry)) -> Value {
    let mut value = json!({
        "type": component.kind,
        "bom-ref": reference,
        "name": component.name,
    });
    if !component.version.is_empty() {
        value["version"] = component.version.as_str().into();
    }
    if let Some(description) = &component.description {
        value["description"] = description.as_str().into();
    }
    if let Some(licence) = &component.licence {
        value["licenses"] = json!([{ "expression": licence }]);
    }
    if let Some(purl) = &component.purl {
        value["purl"] = purl.as_str().into();
    }
    if let Some(sha256) = &component.sha256 {
        value["hashes"] = json!([{ "alg": "SHA-256", "content": sha256 }]);
    }
    value
}

fn crate_reference(name: &str, version: &str) -> String {
    format!("pkg:cargo/{name}@{}", encode(version))
}

/// Encodes a name, which may have a scope.
fn encode_name(name: &str) -> String {
    name.split('/').map(encode).collect::<Vec<_>>().join("/")
}

/// Encodes a part of a package URL.
fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Makes a UUID of version 8 of a digest, so that the same bill has the same number.
fn uuid(digest: &str) -> String {
    let part = |range: std::ops::Range<usize>| digest.get(range).unwrap_or_default();
    format!(
        "urn:uuid:{}-{}-8{}-8{}-{}",
        part(0..8),
        part(8..12),
        part(12..15),
        part(15..18),
        part(18..30)
    )
}

/// Returns the SHA-256 of each crate of a lock file, by name and version.
fn lock_hashes(lock: &str) -> Result<BTreeMap<(String, String), String>> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<LockedCrate>,
    }
    #[derive(Deserialize)]
    struct LockedCrate {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let path = workspace::root().join(lock);
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {lock}"))?;
    let lock: Lock = toml::from_str(&text).with_context(|| format!("{lock} is not valid"))?;
    let hash = |package: LockedCrate| Some(((package.name, package.version), package.checksum?));
    Ok(lock.package.into_iter().filter_map(hash).collect())
}

/// Returns the names and versions of a requirements file.
fn python_pins(requirements: &str) -> Result<Vec<(String, String)>> {
    let path = workspace::root().join(requirements);
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {requirements}"))?;
    let pins: Vec<_> = text.lines().filter_map(pin).collect();
    if pins.is_empty() {
        bail!("{requirements} pins nothing");
    }
    Ok(pins)
}

/// Parses a line such as `cbor2==5.9.0 \`.
fn pin(line: &str) -> Option<(String, String)> {
    let (name, version) = line.split_once("==")?;
    let version = version.split_whitespace().next()?;
    Some((name.to_owned(), version.to_owned()))
}

/// Returns the version of the standard library of the Python guest.
fn standard_library() -> Result<String> {
    #[derive(Deserialize)]
    struct LibraryPins {
        version: String,
    }
    const PINS: &str = "guests/python/library/debian.toml";
    let text = fs::read_to_string(workspace::root().join(PINS))
        .with_context(|| format!("cannot read {PINS}"))?;
    let pins: LibraryPins =
        toml::from_str(&text).with_context(|| format!("{PINS} is not valid"))?;
    Ok(pins.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_package_urls_are_encoded() {
        assert_eq!(encode_name("@bytecodealliance/jco"), "%40bytecodealliance/jco");
        assert_eq!(encode("1:2.0+b~rc"), "1%3A2.0%2Bb~rc");
    }

    #[test]
    fn requirements_are_names_and_versions() {
        let found = pin("cbor2==5.9.0 \\").unwrap();
        assert_eq!(found, ("cbor2".to_owned(), "5.9.0".to_owned()));
        assert!(pin("    --hash=sha256:abc").is_none());
    }

    #[test]
    fn every_pinned_part_of_the_guests_is_found() {
        assert_eq!(python_pins("guests/python/bundled-requirements.txt").unwrap().len(), 4);
        assert!(standard_library().unwrap().starts_with("3.14."));
        let hashes = lock_hashes("Cargo.lock").unwrap();
        assert!(hashes.keys().any(|(name, _)| name == "wasmtime"));
    }
}
