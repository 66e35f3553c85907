//! Removes a tree of any depth, with a constant number of open files.
//!
//! A layer can nest folders deeper than a recursive removal has stack, or the
//! process has file descriptors. So a folder within a folder is first moved up
//! to the top, and the trees get flatter until nothing is left.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Removes `name` in a folder and everything below it. Symbolic links are
/// removed, not followed. What is not there is no error.
pub(crate) fn remove_tree(folder: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let top = open(folder, &CString::new(name)?)?;
    let mut moved = 0_u64;
    loop {
        let mut folders = Vec::new();
        for entry in Dir::read_from(&top)? {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." && !unlinked(top.as_fd(), name, entry.file_type())? {
                folders.push(name.to_owned());
            }
            // What is listed here is flattened before more is read.
            if folders.len() >= 1024 {
                break;
            }
        }
        if folders.is_empty() {
            break;
        }
        for folder in folders {
            flatten(top.as_fd(), &folder, &mut moved)?;
        }
    }
    rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?;
    Ok(())
}

/// Empties and removes a folder right below `top`; the folders in it go to
/// `top`.
fn flatten(top: BorrowedFd<'_>, name: &std::ffi::CStr, moved: &mut u64) -> io::Result<()> {
    let folder = open(top, name)?;
    // Moving entries while they are listed may skip some; the rest comes in
    // the next round.
    loop {
        let mut left = false;
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let inner = entry.file_name();
            if inner == c"." || inner == c".." {
                continue;
            }
            left = true;
            if unlinked(folder.as_fd(), inner, entry.file_type())? {
                continue;
            }
            loop {
                // A name that the tree does not use already.
                *moved += 1;
                let place = format!(".flattened-{moved}");
                let flags = rustix::fs::RenameFlags::NOREPLACE;
                match rustix::fs::renameat_with(&folder, inner, top, place.as_str(), flags) {
                    Ok(()) => break,
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if !left {
            break;
        }
    }
    rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR)?;
    Ok(())
}

/// Removes what is no folder, and folders that are empty.
fn unlinked(folder: BorrowedFd<'_>, name: &std::ffi::CStr, kind: FileType) -> io::Result<bool> {
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

fn open(folder: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<std::os::fd::OwnedFd> {
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
