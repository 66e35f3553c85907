//! Digests of the inputs of a build: while the digest is the same, the build need not
//! be repeated.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

/// The digest of a list of inputs. Each is hashed with its length, so that different
/// lists have different digests.
#[derive(Default)]
pub struct Inputs(Sha256);

impl Inputs {
    /// Adds a text under a name.
    pub fn text(mut self, name: &str, text: &str) -> Self {
        self.add(name.as_bytes());
        self.add(text.as_bytes());
        self
    }

    /// Adds a file's content under a name.
    pub fn file(mut self, name: &str, path: &Path) -> Result<Self> {
        self.add(name.as_bytes());
        self.add(&fs::read(path).with_context(|| format!("cannot read {}", path.display()))?);
        Ok(self)
    }

    /// Adds all files below a directory, by relative path and content.
    pub fn tree(mut self, dir: &Path) -> Result<Self> {
        for path in files(dir)? {
            let name = path.to_string_lossy().replace('\\', "/");
            self = self.file(&name, &dir.join(&path))?;
        }
        Ok(self)
    }

    /// Returns the digest as hexadecimal digits.
    pub fn finish(self) -> String {
        hex(&self.0.finalize())
    }

    fn add(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

/// Returns the SHA-256 of a file as hexadecimal digits.
pub fn of_file(path: &Path) -> Result<String> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(of_bytes(&content))
}

/// Returns the SHA-256 of bytes as hexadecimal digits.
pub fn of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Returns all files below a directory, relative to it, in an order that does not
/// depend on the file system.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    walk(dir, Path::new(""), &mut found)?;
    found.sort();
    Ok(found)
}

fn walk(dir: &Path, relative: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let here = dir.join(relative);
    for entry in fs::read_dir(&here).with_context(|| format!("cannot list {}", here.display()))? {
        let entry = entry?;
        let path = relative.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            walk(dir, &path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// Formats bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_between_inputs_count() {
        let joined = Inputs::default().text("ab", "c").finish();
        let split = Inputs::default().text("a", "bc").finish();
        assert_ne!(joined, split);
    }

    #[test]
    fn a_tree_is_its_names_and_contents() {
        let digest_of = |files: &[(&str, &str)]| {
            let dir = tempfile::tempdir().unwrap();
            for (name, content) in files {
                let path = dir.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            Inputs::default().tree(dir.path()).unwrap().finish()
        };
        let base = digest_of(&[("a", "1"), ("b/c", "2")]);
        assert_eq!(base, digest_of(&[("b/c", "2"), ("a", "1")]));
        assert_ne!(base, digest_of(&[("a", "1"), ("b/c", "3")]), "content");
        assert_ne!(base, digest_of(&[("a", "1"), ("b/d", "2")]), "name");
        assert_ne!(base, digest_of(&[("a", "1")]), "missing file");
    }

    #[test]
    fn the_digest_of_a_file_is_its_sha256() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "abc").unwrap();
        assert_eq!(
            of_file(file.path()).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_missing_input_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Inputs::default().tree(&dir.path().join("none")).is_err());
    }
}
