//! Removes a tree of any depth, with a constant number of open files.
//!
//! A layer can nest directories deeper than the stack of a recursive removal, or the
//! limit of file descriptors, allows. So nested directories are first moved up to the
//! top-level directory, until the tree is flat and empty.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Removes `name` in a directory and all entries below it. Symbolic links are
/// removed, not followed. A missing entry is not an error.
pub(crate) fn remove_tree(directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    remove_counted(directory, name).map(drop)
}

/// Removes a tree as [`remove_tree`] does. Returns the number of entries read.
pub(super) fn remove_counted(directory: BorrowedFd<'_>, name: &str) -> io::Result<u64> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(0),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let top = open(directory, &CString::new(name)?)?;
    let mut flattener = Flattener { top, moved: 0, pending: Vec::new(), read: 0 };
    // Listing may skip entries of a directory that changes meanwhile: the next pass
    // finds them.
    loop {
        let mut found = false;
        for entry in Dir::read_from(&flattener.top)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            found = true;
            flattener.read += 1;
            if !try_unlink(flattener.top.as_fd(), name, entry.file_type())? {
                flattener.flatten(name)?;
                // Each directory that was moved up is processed immediately, by its
                // name, so that the listing does not grow.
                while let Some(number) = flattener.pending.pop() {
                    flattener.flatten(&CString::new(moved_name(number))?)?;
                }
            }
        }
        if !found {
            break;
        }
    }
    rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?;
    Ok(flattener.read)
}

/// The state of a removal.
struct Flattener {
    top: OwnedFd,
    /// The number of the last directory that was moved up.
    moved: u64,
    /// The numbers of moved directories that are not empty.
    pending: Vec<u64>,
    /// The number of entries read.
    read: u64,
}

impl Flattener {
    /// Empties and removes a direct child of `top`, moving its subdirectories to `top`.
    fn flatten(&mut self, name: &CStr) -> io::Result<()> {
        let directory = match open(self.top.as_fd(), name) {
            Ok(directory) => directory,
            // Listed again after it was moved up and removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        loop {
            let mut found = false;
            for entry in Dir::read_from(&directory)? {
                let entry = entry?;
                let inner = entry.file_name();
                if inner == c"." || inner == c".." {
                    continue;
                }
                found = true;
                self.read += 1;
                if !try_unlink(directory.as_fd(), inner, entry.file_type())? {
                    self.move_up(directory.as_fd(), inner)?;
                }
            }
            if !found {
                break;
            }
        }
        rustix::fs::unlinkat(&self.top, name, AtFlags::REMOVEDIR)?;
        Ok(())
    }

    fn move_up(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        loop {
            // A name that the tree does not use.
            self.moved += 1;
            let target = moved_name(self.moved);
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(directory, name, &self.top, target.as_str(), flags) {
                Ok(()) => {
                    self.pending.push(self.moved);
                    return Ok(());
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn moved_name(number: u64) -> String {
    format!(".flattened-{number}")
}

/// Removes an entry that is not a directory, or an empty directory. Reports whether
/// it was removed.
fn try_unlink(directory: BorrowedFd<'_>, name: &CStr, kind: FileType) -> io::Result<bool> {
    if kind != FileType::Directory {
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(true),
            // Some file systems do not return the types of entries.
            Err(Errno::ISDIR | Errno::PERM) if kind == FileType::Unknown => {}
            Err(error) => return Err(error.into()),
        }
    }
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn open(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_deeper_than_the_descriptor_limit_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let outside = home.path().join("outside");
        std::fs::write(&outside, "stays").unwrap();
        let home_fd = std::fs::File::open(home.path()).unwrap();
        let mut directory: std::os::fd::OwnedFd = home_fd.try_clone().unwrap().into();
        for name in std::iter::once("tree").chain(std::iter::repeat_n("d", 5000)) {
            rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o755)).unwrap();
            directory = open(directory.as_fd(), &CString::new(name).unwrap()).unwrap();
            rustix::fs::mkdirat(&directory, "side", Mode::from_raw_mode(0o755)).unwrap();
            rustix::fs::symlinkat(&outside, &directory, "link").unwrap();
        }
        remove_tree(home_fd.as_fd(), "tree").unwrap();
        remove_tree(home_fd.as_fd(), "tree").unwrap();
        let found: Vec<_> = std::fs::read_dir(home.path()).unwrap().collect();
        assert_eq!(found.len(), 1);
        assert_eq!(std::fs::read_to_string(outside).unwrap(), "stays");
    }
}
