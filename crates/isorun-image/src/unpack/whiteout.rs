//! Whiteouts: entries of a layer that remove entries of lower layers.
//!
//! Each directory is read at most once per layer, however many whiteouts refer to it,
//! and each level of a tree is opened from its parent: the work is proportional to the
//! number of entries, and not to their number times that of the whiteouts, or to the
//! square of the depth.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags};

use super::rooted::{self, RelativePath};
use super::{EntryError, Unpacker};

/// The prefix of a whiteout in the OCI layer format.
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The name of an opaque whiteout.
const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";
/// The prefix of internal files of aufs.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// Reports whether a name is that of a whiteout.
pub(super) fn is_whiteout(name: &[u8]) -> bool {
    name.starts_with(WHITEOUT_PREFIX)
}

/// A directory whose subdirectories are not all processed.
struct PendingDirectory {
    key: u64,
    subdirectories: Vec<Vec<u8>>,
}

impl Unpacker {
    /// Removes the entries of lower layers, but not those of this layer.
    pub(super) fn whiteout(
        &mut self,
        parent: &RelativePath,
        name: &[u8],
    ) -> std::result::Result<(), EntryError> {
        if name == OPAQUE_WHITEOUT {
            self.mark_created(parent)?;
            return self.remove_lower(parent);
        }
        if name.starts_with(AUFS_PREFIX) {
            return Ok(());
        }
        let hidden = &name[WHITEOUT_PREFIX.len()..];
        // `.wh...` would refer to the parent directory.
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(EntryError::invalid("a whiteout without a valid name"));
        }
        let path = parent.join(hidden);
        if !self.created.contains(&self.path_key(&path)) {
            self.forget_directory(&path);
            self.root.move_to_trash(&path)?;
            return Ok(());
        }
        self.remove_lower(&path)
    }

    /// Removes all entries below a directory that this layer has not created.
    fn remove_lower(&mut self, path: &RelativePath) -> std::result::Result<(), EntryError> {
        let Some(mut here) = self.root.open_existing(path)? else { return Ok(()) };
        // A symbolic link to a directory is left unchanged.
        if let Some((parent, name)) = path.split() {
            let Some(above) = self.root.open_existing(&parent)? else { return Ok(()) };
            if !rooted::stat(above.as_fd(), name)?.is_some_and(|stat| rooted::is_directory(&stat)) {
                return Ok(());
            }
        }
        let mut at = path.clone();
        let mut key = self.path_key(path);
        let mut subdirectories = self.remove_lower_children(here.as_fd(), &at, key)?;
        let mut above: Vec<PendingDirectory> = Vec::new();
        loop {
            if let Some(name) = subdirectories.pop() {
                here = rooted::open_without_symlinks(here.as_fd(), &name)?;
                above.push(PendingDirectory { key, subdirectories });
                key = self.child_key(key, &name);
                at.push(&name);
                subdirectories = self.remove_lower_children(here.as_fd(), &at, key)?;
                continue;
            }
            let Some(level) = above.pop() else { return Ok(()) };
            here = open_parent(here.as_fd())?;
            at.pop();
            PendingDirectory { key, subdirectories } = level;
        }
    }

    /// Removes the direct children of a directory that this layer has not created.
    /// Returns the subdirectories that it has created: they may contain entries of
    /// lower layers.
    fn remove_lower_children(
        &mut self,
        directory: BorrowedFd<'_>,
        at: &RelativePath,
        key: u64,
    ) -> std::result::Result<Vec<Vec<u8>>, EntryError> {
        self.cancel.check()?;
        if !self.cleared.insert(rustix::fs::fstat(directory)?.st_ino) {
            return Ok(Vec::new());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
        let mut others = Vec::new();
        let mut subdirectories = Vec::new();
        for entry in Dir::new(listed)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            self.scanned_entries += 1;
            let is_directory = match entry.file_type() {
                // Some file systems do not return the types of entries.
                FileType::Unknown => {
                    rooted::stat(directory, name)?.is_some_and(|stat| rooted::is_directory(&stat))
                }
                kind => kind == FileType::Directory,
            };
            if !self.created.contains(&self.child_key(key, name)) {
                others.push((name.to_vec(), is_directory));
            } else if is_directory {
                subdirectories.push(name.to_vec());
            }
        }
        for (name, is_directory) in others {
            if is_directory {
                self.forget_directory(&at.join(&name));
            }
            self.root.move_to_trash_in(directory, &name)?;
        }
        Ok(subdirectories)
    }
}

/// Opens the parent of a directory that was opened from there. No other process moves
/// directories in the tree, and this one is not the root directory.
fn open_parent(directory: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, "..", flags, Mode::empty())
}
