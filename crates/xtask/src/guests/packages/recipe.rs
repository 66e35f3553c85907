//! How a package is built: a file in `guests/python/packages`.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::digest::Inputs;
use crate::workspace;

/// The directory of the recipes.
pub const DIRECTORY: &str = "guests/python/packages";

/// The file that pins the crates with C libraries, by their digests.
pub const LOCK_FILE: &str = "guests/python/native/Cargo.lock";

/// The packages, in the order in which they are built.
pub const PACKAGES: [&str; 7] =
    ["numpy", "regex", "msgpack", "markupsafe", "pydantic_core", "pandas", "pillow"];

/// The recipe of a package.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    pub name: String,
    pub version: String,
    /// The SHA-256 of the source distribution.
    pub sha256: String,
    /// The licence, for `docs/internals/dependencies.md`.
    #[allow(dead_code, reason = "read from the file by `generate`")]
    pub licence: String,
    pub build: Build,
    /// The packages whose files its build uses. They are built before it.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Parts of paths of files that the guest does not need.
    #[serde(default)]
    pub remove: Vec<String>,
    /// C libraries that are added to the sources.
    #[serde(default)]
    pub crates: Vec<SourceCrate>,
    /// Files of this repository that are added to the sources.
    #[serde(default)]
    pub add: Vec<Add>,
    /// Changes to the sources.
    #[serde(default)]
    pub replace: Vec<Replace>,
    /// The text of the recipe.
    #[serde(skip)]
    pub text: String,
}

/// The build system of a package.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Build {
    Meson(MesonBuild),
    Extensions(ExtensionsBuild),
    Cargo(CargoBuild),
}

/// A package that is built by meson.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MesonBuild {
    /// The meson that the sources contain, instead of the installed one.
    pub program: Option<String>,
    pub options: Vec<String>,
    /// Properties of the machine, in the syntax of meson. `{files}` stands for the
    /// directory of the first needed package.
    #[serde(default)]
    pub properties: Vec<String>,
}

/// A package whose native modules consist of a few files.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ExtensionsBuild {
    /// The directory that contains the Python packages, and their names.
    pub root: String,
    pub packages: Vec<String>,
    pub modules: Vec<Extension>,
}

/// A native module.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Extension {
    pub name: String,
    /// C, C++ and Cython files.
    pub sources: Vec<String>,
    /// Directories of headers.
    #[serde(default)]
    pub includes: Vec<String>,
    #[serde(default)]
    pub options: Vec<String>,
}

/// A crate whose C sources are added: one of those that `guests/python/native/Cargo.toml`
/// pins.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SourceCrate {
    pub name: String,
    /// The licence of the sources, for the bill of materials.
    #[allow(dead_code, reason = "read from the file by `release`")]
    pub licence: String,
    /// A directory of the crate.
    pub directory: String,
    /// The directory that it becomes.
    pub to: String,
}

/// A file that is added.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Add {
    pub file: String,
    /// Its path in `guests/python/packages`.
    pub from: String,
}

/// A package whose native module is a crate of Rust.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CargoBuild {
    /// The directory that contains the Python packages, and their names.
    pub root: String,
    pub packages: Vec<String>,
    /// The name of the native module.
    pub module: String,
    /// The name of the crate's library.
    pub library: String,
}

/// A change to a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Replace {
    pub file: String,
    /// A text that the file contains exactly once.
    pub old: String,
    pub new: String,
}

impl Recipe {
    pub fn read(name: &str) -> Result<Recipe> {
        let file = format!("{DIRECTORY}/{name}.toml");
        let text = fs::read_to_string(workspace::root().join(&file))
            .with_context(|| format!("cannot read {file}"))?;
        let recipe: Recipe =
            toml::from_str(&text).with_context(|| format!("{file} is not valid"))?;
        Ok(Recipe { text, ..recipe })
    }

    /// Adds what the package is made of, besides the tools.
    pub fn add_inputs(&self, inputs: Inputs) -> Result<Inputs> {
        let mut inputs = inputs.text("recipe", &self.text);
        if !self.crates.is_empty() {
            inputs = inputs
                .text("libraries", include_str!("libraries.rs"))
                .file("Cargo.lock", &workspace::root().join(LOCK_FILE))?;
        }
        self.add.iter().try_fold(inputs, |inputs, added| {
            inputs.file(&added.file, &workspace::root().join(DIRECTORY).join(&added.from))
        })
    }

    /// Reports whether the guest does not need this file.
    pub fn is_removed(&self, path: &Path) -> bool {
        let path = format!("/{}", path.display());
        self.remove.iter().any(|part| path.contains(part.as_str()))
    }
}
