//! Files that pin packages of Debian: the version, and the SHA-256 of each package.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::Version;
use crate::digest::Inputs;
use crate::workspace;

/// The pinned packages.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pins {
    /// The version of the first package.
    pub version: String,
    /// The SHA-256 of each package, by its path in Debian's archive.
    pub sha256: BTreeMap<String, String>,
}

impl Pins {
    /// Reads a file of the repository.
    pub fn read(file: &str) -> Result<Pins> {
        let text = fs::read_to_string(workspace::root().join(file))
            .with_context(|| format!("cannot read {file}"))?;
        toml::from_str(&text).with_context(|| format!("{file} is not valid"))
    }

    /// Pins versions. Those from the same source must be the same: while Debian publishes a
    /// new version, they can differ.
    pub fn of(versions: Vec<Version>) -> Result<Pins> {
        let version = versions.first().context("no packages are given")?.version.clone();
        let mut sources: BTreeMap<&str, &str> = BTreeMap::new();
        for package in &versions {
            let source = package.path.rsplit_once('/').map_or("", |(source, _)| source);
            let other = sources.entry(source).or_insert(&package.version);
            ensure!(
                *other == package.version,
                "the versions of the packages of {source} differ: try again later"
            );
        }
        let sha256 = versions.into_iter().map(|package| (package.path, package.sha256)).collect();
        Ok(Pins { version, sha256 })
    }

    /// Writes the pins into a file of the repository, whose comment at the start is kept.
    pub fn write(&self, file: &str) -> Result<()> {
        let path = workspace::root().join(file);
        let old = fs::read_to_string(&path).with_context(|| format!("cannot read {file}"))?;
        fs::write(&path, self.text(&old)).with_context(|| format!("cannot write {file}"))?;
        println!("{file}: {}", self.version);
        Ok(())
    }

    /// Returns the text of a file with the comment at the start of the old one.
    pub fn text(&self, old: &str) -> String {
        let comment: String = old
            .lines()
            .take_while(|line| line.starts_with('#'))
            .map(|line| format!("{line}\n"))
            .collect();
        let mut text = format!("{comment}version = \"{}\"\n\n[sha256]\n", self.version);
        for (path, sha256) in &self.sha256 {
            text.push_str(&format!("\"{path}\" = \"{sha256}\"\n"));
        }
        text
    }

    /// Adds the digests of the packages to inputs.
    pub fn add_to(&self, inputs: Inputs) -> Inputs {
        self.sha256.iter().fold(inputs, |inputs, (path, sha256)| inputs.text(path, sha256))
    }

    /// Downloads the packages for which `is_wanted` returns true, given their names, and
    /// unpacks them. Returns the directory of their files.
    pub fn unpack(
        &self,
        suite: &str,
        tools: &Path,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<PathBuf> {
        let unpacked = tools.join("unpacked");
        for (path, sha256) in &self.sha256 {
            let file = path.rsplit('/').next().unwrap_or_default();
            if is_wanted(file.split('_').next().unwrap_or_default()) {
                super::unpack_version(suite, path, sha256, tools, &unpacked)?;
            }
        }
        Ok(unpacked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(path: &str, version: &str) -> Version {
        Version {
            version: version.into(),
            path: path.into(),
            sha256: "00".into(),
            depends: String::new(),
        }
    }

    #[test]
    fn packages_of_one_source_have_one_version() {
        let pins = Pins::of(vec![version("pool/a/one.deb", "1"), version("pool/b/two.deb", "2")]);
        assert_eq!(pins.unwrap().version, "1");
        let pins = Pins::of(vec![version("pool/a/one.deb", "1"), version("pool/a/two.deb", "2")]);
        assert!(pins.is_err_and(|error| error.to_string().contains("pool/a differ")));
    }

    #[test]
    fn a_file_keeps_its_comment() {
        let pins = Pins::of(vec![version("pool/a/one.deb", "2")]).unwrap();
        let text = pins.text("# About it.\n# More.\nversion = \"1\"\n");
        let expected = "# About it.\n# More.\nversion = \"2\"\n\n[sha256]\n\"pool/a/one.deb\" = ";
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(toml::from_str::<Pins>(&text).unwrap().sha256, pins.sha256);
    }
}
