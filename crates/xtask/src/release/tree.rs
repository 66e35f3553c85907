//! A tree of files to install, and archives of it. The same tree gives the same bytes: the
//! files belong to root, are sorted by path, and have the time of the commit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder, write::GzEncoder};
use tar::{Builder, EntryType, Header};

/// Files by their path without a slash at its start, such as `bin/isola`.
#[derive(Default)]
pub struct Tree(BTreeMap<String, TreeFile>);

struct TreeFile {
    mode: u32,
    content: FileContent,
}

enum FileContent {
    File(PathBuf),
    Bytes(Vec<u8>),
}

impl Tree {
    /// Adds a file of this machine.
    pub fn file(&mut self, path: impl Into<String>, mode: u32, source: &Path) {
        self.0
            .insert(path.into(), TreeFile { mode, content: FileContent::File(source.to_owned()) });
    }

    /// Adds a file with this content.
    pub fn bytes(&mut self, path: impl Into<String>, mode: u32, content: impl Into<Vec<u8>>) {
        self.0.insert(path.into(), TreeFile { mode, content: FileContent::Bytes(content.into()) });
    }

    /// Moves all files below a directory.
    #[must_use]
    pub fn below(self, directory: &str) -> Self {
        Self(
            self.0
                .into_iter()
                .map(|(path, entry)| (format!("{directory}/{path}"), entry))
                .collect(),
        )
    }

    /// Returns the size of all files in bytes.
    pub fn size(&self) -> Result<u64> {
        self.0.values().try_fold(0, |sum, entry| {
            Ok(sum
                + match &entry.content {
                    FileContent::Bytes(bytes) => bytes.len() as u64,
                    FileContent::File(path) => fs::metadata(path)
                        .with_context(|| format!("cannot read {}", path.display()))?
                        .len(),
                })
        })
    }

    /// Returns the directories of the files, parents first.
    fn directories(&self) -> BTreeSet<&str> {
        let parents = |path: &str| {
            // A path has the length of one that is in the tree.
            path.match_indices('/').map(|(index, _)| index).collect::<Vec<_>>()
        };
        self.0
            .keys()
            .flat_map(|path| parents(path).into_iter().filter_map(|end| path.get(..end)))
            .collect()
    }

    /// Writes a tar archive in which each path begins with `prefix`, such as `./`.
    /// `directories` also writes entries of the directories.
    pub fn write_tar<W: Write>(
        &self,
        writer: W,
        prefix: &str,
        directories: bool,
        time: u64,
    ) -> Result<W> {
        let mut tar = Builder::new(writer);
        if directories {
            if prefix == "./" {
                append(&mut tar, prefix, EntryType::Directory, 0o755, time, &[])?;
            }
            for directory in self.directories() {
                let path = format!("{prefix}{directory}/");
                append(&mut tar, &path, EntryType::Directory, 0o755, time, &[])?;
            }
        }
        for (path, entry) in &self.0 {
            let path = format!("{prefix}{path}");
            match &entry.content {
                FileContent::Bytes(bytes) => {
                    append(&mut tar, &path, EntryType::Regular, entry.mode, time, bytes)?;
                }
                FileContent::File(source) => {
                    let bytes = fs::read(source)
                        .with_context(|| format!("cannot read {}", source.display()))?;
                    append(&mut tar, &path, EntryType::Regular, entry.mode, time, &bytes)?;
                }
            }
        }
        Ok(tar.into_inner()?)
    }

    /// Writes a tar archive, compressed with a level of gzip, to a file.
    pub fn write_tar_gz(&self, archive: &Path, prefix: &str, time: u64, level: u32) -> Result<()> {
        let file = File::create(archive)
            .with_context(|| format!("cannot create {}", archive.display()))?;
        self.write_tar(gzip(file, level), prefix, false, time)?.finish()?.flush()?;
        Ok(())
    }
}

/// Creates a gzip encoder that writes neither a time nor a name.
pub fn gzip<W: Write>(writer: W, level: u32) -> GzEncoder<W> {
    GzBuilder::new().mtime(0).write(writer, Compression::new(level))
}

/// Compresses bytes as `gzip -9n` does.
pub fn gzip_bytes(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = gzip(Vec::new(), 9);
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// Appends an entry that belongs to root.
fn append<W: Write>(
    tar: &mut Builder<W>,
    path: &str,
    kind: EntryType,
    mode: u32,
    time: u64,
    content: &[u8],
) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_username("root")?;
    header.set_groupname("root")?;
    header.set_mtime(time);
    header.set_size(content.len() as u64);
    set_path(&mut header, path)?;
    header.set_cksum();
    tar.append(&header, content).with_context(|| format!("cannot archive {path}"))
}

/// Sets the name of an entry as it is: `Header::set_path` removes a `./` at its start, with
/// which the members of a package of Debian begin.
fn set_path(header: &mut Header, path: &str) -> Result<()> {
    let name = &mut header.as_old_mut().name;
    let field = name.get_mut(..path.len()).with_context(|| format!("{path} is too long"))?;
    field.copy_from_slice(path.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.bytes("share/man/man1/a.1", 0o644, "page");
        tree.bytes("bin/a", 0o755, "program");
        tree
    }

    fn entries(bytes: &[u8]) -> Vec<(String, u32, u64)> {
        let mut archive = tar::Archive::new(bytes);
        archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
                assert_eq!((header.uid().unwrap(), header.username().unwrap()), (0, Some("root")));
                (path, header.mode().unwrap(), header.mtime().unwrap())
            })
            .collect()
    }

    #[test]
    fn members_are_sorted_and_have_the_time_of_the_commit() {
        let bytes = tree().write_tar(Vec::new(), "", false, 7).unwrap();
        let expected = [("bin/a", 0o755, 7), ("share/man/man1/a.1", 0o644, 7)];
        assert_eq!(
            entries(&bytes),
            expected.map(|(path, mode, time)| (path.to_owned(), mode, time))
        );
        assert_eq!(bytes, tree().write_tar(Vec::new(), "", false, 7).unwrap());
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let bytes = tree().write_tar(Vec::new(), "./", true, 7).unwrap();
        let paths: Vec<_> = entries(&bytes).into_iter().map(|(path, ..)| path).collect();
        let expected = [
            "./",
            "./bin/",
            "./share/",
            "./share/man/",
            "./share/man/man1/",
            "./bin/a",
            "./share/man/man1/a.1",
        ];
        assert_eq!(paths, expected);
    }

    #[test]
    fn a_path_that_does_not_fit_is_an_error() {
        let mut tree = Tree::default();
        tree.bytes("a".repeat(101), 0o644, "");
        assert!(tree.write_tar(Vec::new(), "", false, 0).is_err());
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let mut tree = Tree::default();
        tree.file("a", 0o644, Path::new("/no/such/file"));
        assert!(tree.size().is_err());
        assert!(tree.write_tar(Vec::new(), "", false, 0).is_err());
    }
}
