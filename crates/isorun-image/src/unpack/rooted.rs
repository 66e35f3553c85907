//! File operations that are confined to a directory.
//!
//! A path without symbolic links is opened by the kernel in one step. A path with
//! links is walked component by component, each opened by the kernel without
//! following links: absolute links and `..` are resolved within the directory as
//! they would be in a `chroot`. The last component is never followed.
//!
//! The steps of such walks are limited. Forty links of 2,000 components each make a
//! path of three bytes cost 80,000 lookups, and an archive of a few kilobytes can
//! contain thousands of such paths.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::Error;

/// The largest number of symbolic links followed in one path, as in the kernel.
const MAX_LINKS_PER_PATH: u32 = 40;
/// The number of components that one image may have walked in paths with symbolic
/// links ...
const MAX_LINK_STEPS: u64 = 500_000;
/// ... and as many more with each entry.
const LINK_STEPS_PER_ENTRY: u64 = 16;

/// A root directory, and a directory beside it for removed entries.
pub(crate) struct RootDirectory {
    root: OwnedFd,
    trash: OwnedFd,
    trashed: u64,
    /// The directory that was used last, since archives are sorted by directory.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// The remaining components that may be walked in paths with symbolic links.
    steps_left: u64,
    /// The number of directories that were created only as parents of a path, since
    /// [`take_implicit_directories`](Self::take_implicit_directories).
    implicit_directories: u64,
}

/// A path relative to the root directory, without `.`, `..` and empty components. The
/// root directory itself is the empty path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RelativePath(Vec<u8>);

impl RelativePath {
    /// Parses a path of an archive. Returns the reason if it is invalid.
    pub(crate) fn new(raw: &[u8], max_bytes: usize) -> Result<Self, String> {
        if raw.len() > max_bytes {
            return Err(format!(
                "a path of {} bytes is over the limit of {max_bytes} bytes",
                raw.len()
            ));
        }
        let mut path = Vec::with_capacity(raw.len());
        for part in raw.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return Err("a path contains `..`".to_owned()),
                _ if part.len() > 255 => {
                    return Err("a name is longer than 255 bytes".to_owned());
                }
                _ if part.contains(&0) => return Err("a name contains a NUL".to_owned()),
                _ => {}
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(part);
        }
        Ok(Self(path))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Splits the path into its parent and its last component; `None` for the root.
    pub(crate) fn split(&self) -> Option<(RelativePath, &[u8])> {
        if self.0.is_empty() {
            return None;
        }
        Some(match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (Self(self.0[..slash].to_vec()), &self.0[slash + 1..]),
            None => (Self(Vec::new()), &self.0),
        })
    }

    pub(crate) fn join(&self, name: &[u8]) -> Self {
        let mut path = self.clone();
        path.push(name);
        path
    }

    pub(crate) fn push(&mut self, name: &[u8]) {
        if !self.0.is_empty() {
            self.0.push(b'/');
        }
        self.0.extend_from_slice(name);
    }

    pub(crate) fn pop(&mut self) {
        let end = self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        self.0.truncate(end);
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
    }
}

impl RootDirectory {
    pub(crate) fn new(root: OwnedFd, trash: OwnedFd) -> Self {
        Self {
            root,
            trash,
            trashed: 0,
            last: None,
            steps_left: MAX_LINK_STEPS,
            implicit_directories: 0,
        }
    }

    /// Allows the steps of one more entry.
    pub(crate) fn allow_entry_steps(&mut self) {
        self.steps_left = self.steps_left.saturating_add(LINK_STEPS_PER_ENTRY);
    }

    /// Returns the remaining components that may be walked.
    #[cfg(test)]
    pub(crate) fn steps_left(&self) -> u64 {
        self.steps_left
    }

    /// Returns the number of directories created as parents of paths, and resets it.
    pub(crate) fn take_implicit_directories(&mut self) -> u64 {
        std::mem::take(&mut self.implicit_directories)
    }

    /// Opens the directory at a path, and creates it if it is missing.
    pub(crate) fn open_or_create(&mut self, path: &RelativePath) -> io::Result<BorrowedFd<'_>> {
        let cached = self.last.as_ref().is_some_and(|(known, _)| known == path.bytes());
        if !cached {
            let fd = match open_without_symlinks(self.root.as_fd(), path.bytes()) {
                Err(Errno::NOENT | Errno::LOOP) => self.walk(path.bytes(), true)?,
                other => other?,
            };
            self.last = Some((path.bytes().to_vec(), fd));
        }
        match &self.last {
            Some((_, fd)) => Ok(fd.as_fd()),
            None => Err(Errno::NOENT.into()),
        }
    }

    /// Opens the directory at a path, if it exists.
    pub(crate) fn open_existing(&mut self, path: &RelativePath) -> io::Result<Option<OwnedFd>> {
        let opened = match open_without_symlinks(self.root.as_fd(), path.bytes()) {
            Err(Errno::LOOP) => self.walk(path.bytes(), false),
            other => other.map_err(io::Error::from),
        };
        match opened {
            Ok(fd) => Ok(Some(fd)),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Walks a path through symbolic links. With `create`, creates missing directories,
    /// also those that dangling links in the path point to: `var/run -> /run` often
    /// precedes `/run`.
    fn walk(&mut self, path: &[u8], create: bool) -> io::Result<OwnedFd> {
        let mut left: Vec<Vec<u8>> = parts(path).collect();
        left.reverse();
        // The resolved path of `here`.
        let mut at = RelativePath(Vec::new());
        let mut here = open_without_symlinks(self.root.as_fd(), b"")?;
        let mut links = 0;
        while let Some(name) = left.pop() {
            self.count_steps(1)?;
            if name == b".." {
                at.pop();
                // Opened from the root again, and not by `..`.
                self.count_steps(at.parts().count() as u64)?;
                here = open_without_symlinks(self.root.as_fd(), at.bytes())?;
                continue;
            }
            match open_without_symlinks(here.as_fd(), &name) {
                Ok(next) => here = next,
                Err(Errno::NOENT) if create => {
                    rustix::fs::mkdirat(&here, &*name, Mode::from_raw_mode(0o755))?;
                    // The default mode is 0755, whatever the umask.
                    let mode = Mode::from_raw_mode(0o755);
                    rustix::fs::chmodat(&here, &*name, mode, AtFlags::empty())?;
                    self.implicit_directories += 1;
                    here = open_without_symlinks(here.as_fd(), &name)?;
                }
                Err(Errno::LOOP) => {
                    links += 1;
                    if links > MAX_LINKS_PER_PATH {
                        return Err(Errno::LOOP.into());
                    }
                    let target = rustix::fs::readlinkat(&here, &*name, Vec::new())?;
                    if target.as_bytes().starts_with(b"/") {
                        at = RelativePath(Vec::new());
                        here = open_without_symlinks(self.root.as_fd(), b"")?;
                    }
                    let end = left.len();
                    left.extend(parts(target.as_bytes()));
                    left[end..].reverse();
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            at.push(&name);
        }
        Ok(here)
    }

    fn count_steps(&mut self, count: u64) -> io::Result<()> {
        match self.steps_left.checked_sub(count) {
            Some(left) => {
                self.steps_left = left;
                Ok(())
            }
            None => Err(io::Error::other(Error::TooLarge {
                what: "the number of steps through symbolic links in the image's paths".to_owned(),
                limit: format!(
                    "{MAX_LINK_STEPS} components and {LINK_STEPS_PER_ENTRY} more for each entry"
                ),
            })),
        }
    }

    /// Moves the entry at a path out of the directory, in one step whatever its depth.
    /// Reports whether it existed.
    pub(crate) fn move_to_trash(&mut self, path: &RelativePath) -> io::Result<bool> {
        let Some((parent, name)) = path.split() else {
            return Err(Errno::BUSY.into());
        };
        let Some(directory) = self.open_existing(&parent)? else { return Ok(false) };
        match self.move_to_trash_in(directory.as_fd(), name) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes an entry of a directory, or moves it to the trash if it is a directory.
    pub(crate) fn move_to_trash_in(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
    ) -> io::Result<()> {
        // Removing a link or a directory invalidates a cached path through it.
        self.last = None;
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        self.trashed += 1;
        let name_in_trash = self.trashed.to_string();
        rustix::fs::renameat(directory, name, &self.trash, name_in_trash.as_str())?;
        Ok(())
    }
}

/// Returns the status of an entry, without following a symbolic link.
pub(crate) fn stat(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Opens a path below `root`, resolving symbolic links within `root`.
pub(crate) fn open_in_root(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    retry_on_eagain(|| {
        rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    })
}

/// Opens a directory below another one. Fails if the path has a symbolic link.
pub(crate) fn open_without_symlinks(
    from: BorrowedFd<'_>,
    path: &[u8],
) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    retry_on_eagain(|| rustix::fs::openat2(from, path, flags, Mode::empty(), resolve))
}

/// Retries on EAGAIN, which `openat2` returns after a concurrent rename or mount on
/// the machine.
fn retry_on_eagain<T>(attempt: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    let mut tries = 0;
    loop {
        match attempt() {
            Err(Errno::AGAIN) if tries < 1000 => tries += 1,
            other => return other,
        }
    }
}

fn parts(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
}
