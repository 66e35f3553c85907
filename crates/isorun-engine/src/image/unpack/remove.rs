//! Removes a tree of any depth, with a constant number of open files.
//!
//! A layer can nest folders deeper than a recursive removal has stack, or the
//! process has file descriptors. So a folder within a folder is first moved up
//! to the top, and the trees get flatter until nothing is left.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Removes `name` in a folder and everything below it. Symbolic links are
/// removed, not followed. What is not there is no error.
pub(crate) fn remove_tree(folder: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    remove_counted(folder, name).map(drop)
}

/// The same; gives the number of entries that were read.
pub(super) fn remove_counted(folder: BorrowedFd<'_>, name: &str) -> io::Result<u64> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(0),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let top = open(folder, &CString::new(name)?)?;
    let mut flattener = Flattener { top, moved: 0, waiting: Vec::new(), read: 0 };
    // Entries that come and go while they are listed may be skipped: the next
    // pass finds them.
    loop {
        let mut left = false;
        for entry in Dir::read_from(&flattener.top)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            left = true;
            flattener.read += 1;
            if !unlinked(flattener.top.as_fd(), name, entry.file_type())? {
                flattener.flatten(name)?;
                // Each folder that was moved up is done at once, by its name,
                // so that what is still to be listed does not grow.
                while let Some(number) = flattener.waiting.pop() {
                    flattener.flatten(&CString::new(moved_name(number))?)?;
                }
            }
        }
        if !left {
            break;
        }
    }
    rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?;
    Ok(flattener.read)
}

struct Flattener {
    top: OwnedFd,
    /// The number of the last folder that was moved up.
    moved: u64,
    /// Folders that were moved up and are not empty.
    waiting: Vec<u64>,
    /// Entries that were read.
    read: u64,
}

impl Flattener {
    /// Empties and removes a folder right below `top`; the folders in it go to
    /// `top`.
    fn flatten(&mut self, name: &CStr) -> io::Result<()> {
        let folder = match open(self.top.as_fd(), name) {
            Ok(folder) => folder,
            // Listed again after it was moved up and done.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        loop {
            let mut left = false;
            for entry in Dir::read_from(&folder)? {
                let entry = entry?;
                let inner = entry.file_name();
                if inner == c"." || inner == c".." {
                    continue;
                }
                left = true;
                self.read += 1;
                if !unlinked(folder.as_fd(), inner, entry.file_type())? {
                    self.move_up(folder.as_fd(), inner)?;
                }
            }
            if !left {
                break;
            }
        }
        rustix::fs::unlinkat(&self.top, name, AtFlags::REMOVEDIR)?;
        Ok(())
    }

    fn move_up(&mut self, folder: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        loop {
            // A name that the tree does not use already.
            self.moved += 1;
            let place = moved_name(self.moved);
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(folder, name, &self.top, place.as_str(), flags) {
                Ok(()) => {
                    self.waiting.push(self.moved);
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

/// Removes what is no folder, and folders that are empty.
fn unlinked(folder: BorrowedFd<'_>, name: &CStr, kind: FileType) -> io::Result<bool> {
    if kind != FileType::Directory {
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(true),
            // Some file systems do not tell what an entry is.
            Err(Errno::ISDIR | Errno::PERM) if kind == FileType::Unknown => {}
            Err(error) => return Err(error.into()),
        }
    }
    match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn open(folder: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_the_limit_of_open_files_goes() {
        let home = tempfile::tempdir().unwrap();
        let outside = home.path().join("outside");
        std::fs::write(&outside, "stays").unwrap();
        let home_fd = std::fs::File::open(home.path()).unwrap();
        let mut folder: std::os::fd::OwnedFd = home_fd.try_clone().unwrap().into();
        for name in std::iter::once("tree").chain(std::iter::repeat_n("d", 5000)) {
            rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)).unwrap();
            folder = open(folder.as_fd(), &CString::new(name).unwrap()).unwrap();
            rustix::fs::mkdirat(&folder, "side", Mode::from_raw_mode(0o755)).unwrap();
            rustix::fs::symlinkat(&outside, &folder, "link").unwrap();
        }
        remove_tree(home_fd.as_fd(), "tree").unwrap();
        remove_tree(home_fd.as_fd(), "tree").unwrap();
        let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(std::fs::read_to_string(outside).unwrap(), "stays");
    }
}
