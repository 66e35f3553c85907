//! Removes a directory of any depth, with a constant number of open files.
//!
//! A program of the sandbox may nest directories so deep that recursion would
//! exhaust the stack or the agent's descriptors; and it may move the directories
//! away while they are being removed.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// A directory whose subdirectory is being removed.
struct Level {
    /// Its device and inode numbers, by which it is recognized.
    id: (u64, u64),
    /// The subdirectories that remain.
    inner: Vec<CString>,
    /// The name of the subdirectory that is being removed.
    removing: CString,
}

/// Removes a file, or a directory with its contents. Symbolic links are removed,
/// not followed.
pub fn remove_tree(above: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(above, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return Ok(other?),
    }
    let name = CString::new(OsString::from(name).into_vec())?;
    let mut here = open(above, &name)?;
    let mut inner = clear_dir(&here)?;
    let mut levels: Vec<Level> = Vec::new();
    loop {
        if let Some(next) = inner.pop() {
            let dir = match open(here.as_fd(), &next) {
                // It was removed meanwhile, or replaced by something else.
                Err(Errno::NOENT) => continue,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    ignore_missing(rustix::fs::unlinkat(&here, &next, AtFlags::empty()))?;
                    continue;
                }
                opened => opened?,
            };
            levels.push(Level { id: id(&here)?, inner, removing: next });
            inner = clear_dir(&dir)?;
            here = dir;
            continue;
        }
        let Some(level) = levels.pop() else { break };
        here = open(here.as_fd(), c"..")?;
        if id(&here)? != level.id {
            // The parent is another directory, whose contents must not be removed.
            return Err(io::Error::other("it was moved while it was being removed"));
        }
        ignore_missing(rustix::fs::unlinkat(&here, &level.removing, AtFlags::REMOVEDIR))?;
        inner = level.inner;
    }
    Ok(ignore_missing(rustix::fs::unlinkat(above, &name, AtFlags::REMOVEDIR))?)
}

/// Removes everything but directories that are not empty, and returns the names of
/// these.
fn clear_dir(dir: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut inner = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) if entry.file_type() == FileType::Unknown => {}
                other => {
                    ignore_missing(other)?;
                    continue;
                }
            }
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => inner.push(name.to_owned()),
            other => ignore_missing(other)?,
        }
    }
    Ok(inner)
}

fn ignore_missing(outcome: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match outcome {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn open(above: BorrowedFd<'_>, name: &std::ffi::CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(above, name, flags, Mode::empty())
}

fn id(dir: &OwnedFd) -> rustix::io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(dir)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_tree_is_removed_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let outside = home.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("stays"), "x").unwrap();
        let top: OwnedFd = std::fs::File::open(home.path()).unwrap().into();
        let mut here = top.try_clone().unwrap();
        for name in std::iter::once(c"tree").chain(std::iter::repeat_n(c"d", 3_000)) {
            rustix::fs::mkdirat(&here, name, Mode::from_raw_mode(0o755)).unwrap();
            here = open(here.as_fd(), name).unwrap();
            rustix::fs::symlinkat(&outside, &here, "link").unwrap();
        }
        for path in ["tree/side/a/b", "tree/side/c", "tree/empty"] {
            std::fs::create_dir_all(home.path().join(path)).unwrap();
            std::fs::write(home.path().join(path).join("file"), "x").unwrap();
        }
        remove_tree(top.as_fd(), OsStr::new("tree")).unwrap();
        let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert!(outside.join("stays").exists());
        let error = remove_tree(top.as_fd(), OsStr::new("tree")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        std::os::unix::fs::symlink(&outside, home.path().join("link")).unwrap();
        remove_tree(top.as_fd(), OsStr::new("link")).unwrap();
        assert!(outside.join("stays").exists());
    }
}
