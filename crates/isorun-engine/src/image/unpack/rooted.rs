//! File operations that cannot leave a folder.
//!
//! A path without symbolic links is opened by the kernel in one step. One with
//! links is walked component by component, each opened by the kernel without
//! following anything: absolute links and `..` end inside of the folder as they
//! would in a `chroot`. The last component is never followed.
//!
//! The steps of such walks are counted. Forty links of 2,000 components each
//! make a path of three bytes cost 80,000 lookups, and an archive of a few
//! kilobytes can ask for thousands of such paths.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::image::error::Error;

/// Symbolic links that are followed in one path, as in the kernel.
const MAX_LINKS_PER_PATH: u32 = 40;
/// Components that an image may make us walk in paths with symbolic links...
const MAX_LINK_STEPS: u64 = 500_000;
/// ... and as many more with each entry.
const LINK_STEPS_PER_ENTRY: u64 = 16;

/// A folder, and a place beside it for what is removed.
pub(crate) struct Rooted {
    root: OwnedFd,
    trash: OwnedFd,
    trashed: u64,
    /// The folder that was used last: archives are sorted by folder.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// Components that may still be walked in paths with symbolic links.
    steps_left: u64,
    /// Folders that were made only because a path goes through them, since they
    /// were last asked for.
    implied: u64,
}

/// A path within the folder: no `.`, no `..`, no empty component. The folder
/// itself is the empty path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Inside(Vec<u8>);

impl Inside {
    /// Takes a path of an archive, or says why it is refused.
    pub(crate) fn new(raw: &[u8], longest: usize) -> Result<Self, String> {
        if raw.len() > longest {
            return Err(format!("a path of {} bytes is over the limit of {longest}", raw.len()));
        }
        let mut path = Vec::with_capacity(raw.len());
        for part in raw.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return Err("a path with `..` in it".to_owned()),
                _ if part.len() > 255 => {
                    return Err("a name of more than 255 bytes".to_owned());
                }
                _ if part.contains(&0) => return Err("a name with a NUL in it".to_owned()),
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

    /// The folder that the path is in, and its name there; `None` for the root.
    pub(crate) fn split(&self) -> Option<(Inside, &[u8])> {
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

impl Rooted {
    pub(crate) fn new(root: OwnedFd, trash: OwnedFd) -> Self {
        Self { root, trash, trashed: 0, last: None, steps_left: MAX_LINK_STEPS, implied: 0 }
    }

    /// Allows the steps of one more entry.
    pub(crate) fn allow_entry(&mut self) {
        self.steps_left = self.steps_left.saturating_add(LINK_STEPS_PER_ENTRY);
    }

    /// Gives the components that may still be walked.
    #[cfg(test)]
    pub(crate) fn steps_left(&self) -> u64 {
        self.steps_left
    }

    /// Gives the number of folders that were made for paths that go through
    /// them, and starts counting anew.
    pub(crate) fn take_implied(&mut self) -> u64 {
        std::mem::take(&mut self.implied)
    }

    /// Opens the folder at a path, which is made if it is missing.
    pub(crate) fn folder(&mut self, path: &Inside) -> io::Result<BorrowedFd<'_>> {
        let cached = self.last.as_ref().is_some_and(|(known, _)| known == path.bytes());
        if !cached {
            let fd = match open_plain(self.root.as_fd(), path.bytes()) {
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

    /// Opens the folder at a path, if there is one.
    pub(crate) fn existing_folder(&mut self, path: &Inside) -> io::Result<Option<OwnedFd>> {
        let opened = match open_plain(self.root.as_fd(), path.bytes()) {
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

    /// Walks a path through symbolic links. With `make`, makes the folders that
    /// are missing, and those that dangling links on the way point to:
    /// `var/run -> /run` often comes before `/run`.
    fn walk(&mut self, path: &[u8], make: bool) -> io::Result<OwnedFd> {
        let mut left: Vec<Vec<u8>> = parts(path).collect();
        left.reverse();
        // Where we are, without links.
        let mut at = Inside(Vec::new());
        let mut here = open_plain(self.root.as_fd(), b"")?;
        let mut links = 0;
        while let Some(name) = left.pop() {
            self.step(1)?;
            if name == b".." {
                at.pop();
                // The kernel opens it from the root again, and not by `..`.
                self.step(at.parts().count() as u64)?;
                here = open_plain(self.root.as_fd(), at.bytes())?;
                continue;
            }
            match open_plain(here.as_fd(), &name) {
                Ok(next) => here = next,
                Err(Errno::NOENT) if make => {
                    rustix::fs::mkdirat(&here, &*name, Mode::from_raw_mode(0o755))?;
                    // What an image does not say has these rights, whatever the umask.
                    let mode = Mode::from_raw_mode(0o755);
                    rustix::fs::chmodat(&here, &*name, mode, AtFlags::empty())?;
                    self.implied += 1;
                    here = open_plain(here.as_fd(), &name)?;
                }
                Err(Errno::LOOP) => {
                    links += 1;
                    if links > MAX_LINKS_PER_PATH {
                        return Err(Errno::LOOP.into());
                    }
                    let target = rustix::fs::readlinkat(&here, &*name, Vec::new())?;
                    if target.as_bytes().starts_with(b"/") {
                        at = Inside(Vec::new());
                        here = open_plain(self.root.as_fd(), b"")?;
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

    fn step(&mut self, count: u64) -> io::Result<()> {
        match self.steps_left.checked_sub(count) {
            Some(left) => {
                self.steps_left = left;
                Ok(())
            }
            None => Err(io::Error::other(Error::TooLarge {
                what: "the way through symbolic links in the image's paths".to_owned(),
                limit: format!(
                    "{MAX_LINK_STEPS} components and {LINK_STEPS_PER_ENTRY} more for each entry"
                ),
            })),
        }
    }

    /// Moves whatever is at a path out of the folder, in one step whatever its
    /// depth. Says whether there was something.
    pub(crate) fn discard(&mut self, path: &Inside) -> io::Result<bool> {
        let Some((parent, name)) = path.split() else {
            return Err(Errno::BUSY.into());
        };
        let Some(folder) = self.existing_folder(&parent)? else { return Ok(false) };
        match self.discard_in(folder.as_fd(), name) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Moves an entry of a folder out of the way.
    pub(crate) fn discard_in(&mut self, folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        // Links and folders take paths with them that were resolved before.
        self.last = None;
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        self.trashed += 1;
        let place = self.trashed.to_string();
        rustix::fs::renameat(folder, name, &self.trash, place.as_str())?;
        Ok(())
    }
}

/// What is at `name` in a folder, itself, not what it points to.
pub(crate) fn stat(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Opens something below `root` and nothing else, whatever links say.
pub(crate) fn open_in_root(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    again(|| rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve))
}

/// Opens a folder below another one, if no symbolic link is on the way to it.
pub(crate) fn open_plain(from: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    again(|| rustix::fs::openat2(from, path, flags, Mode::empty(), resolve))
}

/// Repeats what fails because of a rename or a mount anywhere on the machine.
fn again<T>(attempt: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
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
