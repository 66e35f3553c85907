//! Whiteouts: how a layer removes what lower ones have put there.
//!
//! Each folder is read at most once for each layer, however many whiteouts name
//! it, and each level of a tree is opened from the one above: the work is in
//! proportion to the entries that there are, and not to their number times that
//! of the whiteouts, or to the square of the depth.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags};

use super::rooted::{self, Inside};
use super::{Trouble, Unpacker};

/// The whiteouts of the OCI layer format.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What aufs kept for itself.
const AUFS: &[u8] = b".wh..wh.";

/// Whether an entry of this name says that something is removed.
pub(super) fn is_one(name: &[u8]) -> bool {
    name.starts_with(WHITEOUT)
}

/// A folder whose inner folders are not all done.
struct Level {
    key: u64,
    inner: Vec<Vec<u8>>,
}

impl Unpacker {
    /// Removes what lower layers put there, and spares what this one did.
    pub(super) fn whiteout(
        &mut self,
        parent: &Inside,
        name: &[u8],
    ) -> std::result::Result<(), Trouble> {
        if name == OPAQUE {
            self.mark(parent)?;
            return self.clear(parent);
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        // `.wh...` would name the folder above.
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Trouble::entry("a whiteout without a name"));
        }
        let path = parent.join(hidden);
        if !self.made.contains(&self.key_of(&path)) {
            self.forget(&path);
            self.rooted.discard(&path)?;
            return Ok(());
        }
        self.clear(&path)
    }

    /// Removes everything below a folder that this layer did not make.
    fn clear(&mut self, path: &Inside) -> std::result::Result<(), Trouble> {
        let Some(mut here) = self.rooted.existing_folder(path)? else { return Ok(()) };
        // A symbolic link to a folder stays as it is.
        if let Some((parent, name)) = path.split() {
            let Some(above) = self.rooted.existing_folder(&parent)? else { return Ok(()) };
            if !rooted::stat(above.as_fd(), name)?.is_some_and(|stat| rooted::is_folder(&stat)) {
                return Ok(());
            }
        }
        let mut at = path.clone();
        let mut key = self.key_of(path);
        let mut inner = self.clear_one(here.as_fd(), &at, key)?;
        let mut above: Vec<Level> = Vec::new();
        loop {
            if let Some(name) = inner.pop() {
                here = rooted::open_plain(here.as_fd(), &name)?;
                above.push(Level { key, inner });
                key = self.key(key, &name);
                at.push(&name);
                inner = self.clear_one(here.as_fd(), &at, key)?;
                continue;
            }
            let Some(level) = above.pop() else { return Ok(()) };
            here = parent_of(here.as_fd())?;
            at.pop();
            Level { key, inner } = level;
        }
    }

    /// Removes from one folder what this layer did not make. Gives the folders
    /// in it that it made: there may be something of lower layers in them.
    fn clear_one(
        &mut self,
        folder: BorrowedFd<'_>,
        at: &Inside,
        key: u64,
    ) -> std::result::Result<Vec<Vec<u8>>, Trouble> {
        self.stop.check()?;
        if !self.cleared.insert(rustix::fs::fstat(folder)?.st_ino) {
            return Ok(Vec::new());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = rustix::fs::openat(folder, ".", flags, Mode::empty())?;
        let mut others = Vec::new();
        let mut inner = Vec::new();
        for entry in Dir::new(listed)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            self.looked_at += 1;
            let is_folder = match entry.file_type() {
                // Some file systems do not tell.
                FileType::Unknown => {
                    rooted::stat(folder, name)?.is_some_and(|stat| rooted::is_folder(&stat))
                }
                kind => kind == FileType::Directory,
            };
            if !self.made.contains(&self.key(key, name)) {
                others.push((name.to_vec(), is_folder));
            } else if is_folder {
                inner.push(name.to_vec());
            }
        }
        for (name, is_folder) in others {
            if is_folder {
                self.forget(&at.join(&name));
            }
            self.rooted.discard_in(folder, &name)?;
        }
        Ok(inner)
    }
}

/// Opens the folder above one that was opened from there. Nobody but us moves
/// folders in the tree, and this one is not the root folder.
fn parent_of(folder: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, "..", flags, Mode::empty())
}
