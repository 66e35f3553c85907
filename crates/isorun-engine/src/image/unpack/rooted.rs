//! File operations that cannot leave a folder.
//!
//! Every path is resolved by the kernel with `RESOLVE_IN_ROOT`: symbolic links
//! on the way, absolute ones and those with `..` too, end inside of the folder
//! as they would in a `chroot`. The last component is never followed. Nothing is
//! resolved by text, so there is no moment between a check and a use.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// How often symbolic links are followed to make the folders they point to.
const HOPS: u32 = 40;

/// A folder, and a place beside it for what is removed.
pub(crate) struct Rooted {
    root: OwnedFd,
    trash: OwnedFd,
    trashed: u64,
    /// The folder that was used last: archives are sorted by folder.
    last: Option<(Vec<u8>, OwnedFd)>,
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
        let mut path = self.0.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Self(path)
    }
}

impl Rooted {
    pub(crate) fn new(root: OwnedFd, trash: OwnedFd) -> Self {
        Self { root, trash, trashed: 0, last: None }
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The folder at a path, which is made if it is missing.
    pub(crate) fn folder(&mut self, path: &Inside) -> io::Result<BorrowedFd<'_>> {
        let cached = self.last.as_ref().is_some_and(|(known, _)| known == path.bytes());
        if !cached {
            let fd = match open_folder(self.root.as_fd(), path.bytes()) {
                Err(Errno::NOENT) => {
                    make_folders(self.root.as_fd(), path.bytes())?;
                    open_folder(self.root.as_fd(), path.bytes())?
                }
                other => other?,
            };
            self.last = Some((path.bytes().to_vec(), fd));
        }
        match &self.last {
            Some((_, fd)) => Ok(fd.as_fd()),
            None => Err(Errno::NOENT.into()),
        }
    }

    /// The folder at a path, if there is one.
    pub(crate) fn existing_folder(&self, path: &Inside) -> io::Result<Option<OwnedFd>> {
        match open_folder(self.root.as_fd(), path.bytes()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
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

    fn discard_in(&mut self, folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
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
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename or a mount anywhere on the machine got in between.
            Err(Errno::AGAIN) if tries < 1000 => tries += 1,
            other => return other,
        }
    }
}

fn open_folder(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    open_in_root(root, path, OFlags::PATH | OFlags::DIRECTORY)
}

/// Makes the folders of a path, and those that dangling symbolic links on it
/// point to: `var/run -> /run` often comes before `/run`.
fn make_folders(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<()> {
    let mut hops = 0;
    let mut wanted: Vec<Vec<u8>> = parts(path).collect();
    let mut depth = 0;
    while depth < wanted.len() {
        let prefix = wanted[..=depth].join(&b'/');
        match open_folder(root, &prefix) {
            Ok(_) => {
                depth += 1;
                continue;
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let parent = open_folder(root, &wanted[..depth].join(&b'/'))?;
        let name = wanted[depth].as_slice();
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => depth += 1,
            Err(Errno::EXIST) => {
                let target = rustix::fs::readlinkat(&parent, name, Vec::new())?;
                hops += 1;
                if hops > HOPS {
                    return Err(Errno::LOOP.into());
                }
                let target = target.as_bytes();
                let from = if target.starts_with(b"/") { 0 } else { depth };
                let mut next: Vec<Vec<u8>> = wanted[..from].to_vec();
                next.extend(parts(target));
                next.extend_from_slice(&wanted[depth + 1..]);
                if next.iter().map(|part| part.len() + 1).sum::<usize>() > 4096 {
                    return Err(Errno::NAMETOOLONG.into());
                }
                wanted = next;
                depth = 0;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn parts(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
}
