//! The embedder's access to the private files of a sandbox.

use std::time::SystemTime;

use super::{
    Found, PathEntry, PrivateFiles, State,
    inode::{Ino, Inode, Kind},
    resolve::resolve,
    tree::{HOME, ROOT},
};
use crate::{
    error::{Error, FileError},
    file_failure::FileFailure,
};

/// The size in bytes that a path must stay below, as for the guest.
const MAX_PATH_BYTES: usize = 4_096;

/// The sandbox's own files.
///
/// They are in memory, limited by [`Limits::max_storage`](crate::Limits::max_storage).
/// Relative paths start in the sandbox's home, `/root`, which is also the initial working
/// directory of its code. Symbolic links are followed as in the sandbox, and never lead
/// out of it. The operations do not wait, and may be used while a call runs.
///
/// Mounted directories are not part of them.
///
/// All operations fail with [`Error::File`].
#[derive(Clone)]
pub struct SandboxFiles {
    files: PrivateFiles,
}

/// An entry of a directory of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileEntry {
    /// Its name.
    pub name: String,
    /// Its metadata. A symbolic link is not followed.
    pub stat: FileStat,
}

/// The metadata of a file in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileStat {
    /// What it is.
    pub kind: FileKind,
    /// Its size in bytes; 0 for a directory.
    pub size: u64,
    /// Its permissions, such as `0o644`.
    pub mode: u32,
    /// The time of its last change.
    pub modified: SystemTime,
}

/// The kind of a file in a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, such as `/dev/null`.
    Device,
}

impl FileKind {
    /// Returns its name: `file`, `directory`, `link` or `device`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Link => "link",
            Self::Device => "device",
        }
    }
}

type FileResult<T> = Result<T, FileFailure>;

impl SandboxFiles {
    pub(crate) fn new(files: PrivateFiles) -> Self {
        Self { files }
    }

    /// Returns the space that the files take, in bytes, as the limit counts it.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.files.lock().tree.budget().used()
    }

    /// Returns the content of a file.
    ///
    /// # Errors
    ///
    /// [`Error::File`], also for a file with holes that is larger than the storage of the
    /// sandbox.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.read_at_most(path, u64::MAX)
    }

    /// Returns the content of a file that has at most so many bytes.
    ///
    /// # Errors
    ///
    /// [`Error::File`], also for a larger file, as for [`read`](Self::read).
    pub fn read_at_most(&self, path: &str, max_bytes: u64) -> Result<Vec<u8>, Error> {
        self.at(path, |state, now| {
            let ino = existing(state, path, true)?;
            let inode = state.tree.inode(ino)?;
            let max_bytes = max_bytes.min(state.tree.budget().max());
            match &inode.kind {
                Kind::File(content) if content.size() > max_bytes => {
                    return Err(FileFailure::TooLarge);
                }
                Kind::Directory(_) => return Err(FileFailure::IsADirectory),
                Kind::File(_) => {}
                Kind::Link(_) | Kind::Device(_) => return Err(FileFailure::Invalid),
            }
            let size = usize::try_from(inode.size()).map_err(|_| FileFailure::TooLarge)?;
            state.tree.read(ino, 0, size, now)
        })
    }

    /// Writes a file: creates it, and its missing directories, or replaces its content.
    ///
    /// # Errors
    ///
    /// [`Error::File`]. If there is not enough space, the old content is kept.
    pub fn write(&self, path: &str, content: &[u8]) -> Result<(), Error> {
        self.change(path, |state, now| {
            let entry = create_parents(state, path, now)?;
            let (ino, new) = match entry.ino {
                Some(ino) => (ino, false),
                None if entry.directory => return Err(FileFailure::IsADirectory),
                None => (state.tree.add_file(entry.parent, &entry.name, now)?, true),
            };
            let written = state.tree.replace(ino, content, now);
            if written.is_err() && new {
                state.tree.unlink(entry.parent, &entry.name, now)?;
            }
            written
        })
    }

    /// Lists a directory, sorted by name.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn list(&self, path: &str) -> Result<Vec<FileEntry>, Error> {
        self.at(path, |state, _| {
            let directory = existing(state, path, true)?;
            let entries = &state.tree.directory(directory)?.entries;
            let mut found = Vec::with_capacity(entries.len());
            for (name, ino) in entries {
                let stat = stat(state.tree.inode(*ino)?);
                found.push(FileEntry { name: name.to_string(), stat });
            }
            Ok(found)
        })
    }

    /// Returns the number of entries of a directory.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn count(&self, path: &str) -> Result<usize, Error> {
        self.at(path, |state, _| {
            Ok(state.tree.directory(existing(state, path, true)?)?.entries.len())
        })
    }

    /// Returns the metadata of a file. Symbolic links are followed.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn stat(&self, path: &str) -> Result<FileStat, Error> {
        self.at(path, |state, _| Ok(stat(state.tree.inode(existing(state, path, true)?)?)))
    }

    /// Reports whether a file or directory exists.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.stat(path).is_ok()
    }

    /// Creates a directory and its missing parents. Succeeds if it exists.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn make_dir(&self, path: &str) -> Result<(), Error> {
        self.change(path, |state, now| {
            let entry = create_parents(state, path, now)?;
            match entry.ino {
                Some(ino) if state.tree.inode(ino)?.is_directory() => Ok(()),
                Some(_) => Err(FileFailure::Exists),
                None => {
                    state.tree.add_directory(entry.parent, &entry.name, now)?;
                    Ok(())
                }
            }
        })
    }

    /// Removes a file, or a directory with everything in it. A symbolic link is removed
    /// itself.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn remove(&self, path: &str) -> Result<(), Error> {
        self.change(path, |state, now| {
            let entry = entry(state, path, false)?;
            let ino = entry.existing()?;
            let (parent, name) = entry.named().map_err(|_| FileFailure::Invalid)?;
            if state.has_mount_below(ino) {
                return Err(FileFailure::Mounted);
            }
            state.tree.remove_all(parent, name, now)
        })
    }

    /// Moves a file or directory. An existing file is replaced, and missing directories
    /// are created.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        self.change(from, |state, now| {
            let old = entry(state, from, false)?;
            old.existing()?;
            let new = create_parents(state, to, now)?;
            let (old, new) = (old.named()?, new.named()?);
            state.tree.rename(old, new, now)
        })
    }

    fn change<T>(
        &self,
        path: &str,
        operation: impl FnOnce(&mut State, SystemTime) -> FileResult<T>,
    ) -> Result<T, Error> {
        self.at(path, |state, now| {
            if self.files.check_writable().is_err() {
                return Err(FileFailure::ReadOnly);
            }
            operation(state, now)
        })
    }

    fn at<T>(
        &self,
        path: &str,
        operation: impl FnOnce(&mut State, SystemTime) -> FileResult<T>,
    ) -> Result<T, Error> {
        let result = operation(&mut self.files.lock(), SystemTime::now());
        result.map_err(|failure| Error::File(FileError::new(path, failure)))
    }
}

/// Resolves a path to a private entry.
fn entry(state: &State, path: &str, follow: bool) -> FileResult<PathEntry> {
    if path.len() >= MAX_PATH_BYTES {
        return Err(FileFailure::NameTooLong);
    }
    if path.is_empty() {
        return Err(FileFailure::NotFound);
    }
    match resolve(&state.tree, &state.mounts, home(state), path, follow)? {
        Found::Entry(entry) => Ok(entry),
        Found::Mounted(..) => Err(FileFailure::Mounted),
    }
}

fn existing(state: &State, path: &str, follow: bool) -> FileResult<Ino> {
    entry(state, path, follow)?.existing()
}

/// Returns the directory in which relative paths start: the root if the guest removed its
/// home.
fn home(state: &State) -> Ino {
    let home = state.tree.child(ROOT, &HOME[1..]).ok().flatten();
    home.filter(|ino| state.tree.directory(*ino).is_ok()).unwrap_or(ROOT)
}

/// Resolves a path, and creates the missing directories above its last component.
fn create_parents(state: &mut State, path: &str, now: SystemTime) -> FileResult<PathEntry> {
    let trimmed = path.trim_end_matches('/');
    for (end, _) in trimmed.match_indices('/').filter(|(end, _)| *end > 0) {
        let parent = entry(state, &path[..end], true)?;
        if parent.ino.is_none() {
            state.tree.add_directory(parent.parent, &parent.name, now)?;
        }
    }
    entry(state, path, true)
}

fn stat(inode: &Inode) -> FileStat {
    FileStat {
        kind: match inode.kind {
            Kind::Directory(_) => FileKind::Directory,
            Kind::File(_) => FileKind::File,
            Kind::Link(_) => FileKind::Link,
            Kind::Device(_) => FileKind::Device,
        },
        size: inode.size(),
        mode: u32::from(inode.mode),
        modified: inode.modified,
    }
}

impl std::fmt::Debug for SandboxFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SandboxFiles").finish_non_exhaustive()
    }
}
