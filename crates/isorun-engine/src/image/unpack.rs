//! Unpacks layers, one above the other, into one folder.
//!
//! Layers are hostile: anybody can put an image into a registry. What an
//! archive says reaches the file system only through [`rooted::Rooted`], which
//! cannot leave the folder, and only after it was counted against [`Limits`].
//!
//! What is not taken over: device nodes (a sandbox has its own `/dev`), and
//! extended attributes other than `user.*` and `security.capability`: those of
//! overlay file systems would change what a sandbox sees of other folders.

mod archive;
mod remove;
mod rooted;
mod whiteout;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, BufReader, Read, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oci_spec::image::Digest;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::fs::{XattrFlags, fchmod, fchown, fsetxattr, futimens};
use rustix::io::Errno;

pub(crate) use self::remove::remove_tree;
use self::rooted::{Inside, Rooted};
use super::digest::{Hasher, Hashing};
use super::error::{Error, Result};
use super::limits::Limits;

pub(crate) use self::archive::{Archive, Fault, Kind};
pub(crate) use self::rooted::open_in_root;

/// The bytes of folder names that are kept until the end of an image.
const FOLDER_NAMES: usize = 64 << 20;
/// Paths that one layer may name, those above its entries included.
const MAX_PATHS_PER_LAYER: usize = 4_000_000;

/// Asks an unpacking that runs on another thread to stop.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// A folder that layers are being unpacked into.
pub(crate) struct Unpacker {
    rooted: Rooted,
    limits: Limits,
    /// Bytes that the layers may still have.
    left: u64,
    stop: Stop,
    /// Whether files can be given to others.
    privileged: bool,
    /// Folders get their times and rights at the end: what is written into them
    /// would change the times, and rights may forbid writing.
    folders: HashMap<Inside, FolderMeta>,
    folder_names: usize,
    /// Which paths the current layer made, as keyed hashes: whiteouts spare
    /// them. A set of the paths themselves could be made to take gigabytes.
    made: HashSet<u64>,
    /// Numbers of the folders in which the current layer has removed what is of
    /// lower layers. A second whiteout finds nothing more there, and does not
    /// look.
    cleared: HashSet<u64>,
    /// Entries of folders that whiteouts looked at.
    looked_at: u64,
    hash: RandomState,
    summary: Summary,
    /// What contents flow through.
    buffer: Vec<u8>,
}

/// What came out.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Summary {
    /// Bytes of files.
    pub(crate) bytes: u64,
    /// Entries of all layers.
    pub(crate) entries: u64,
    /// Device nodes that were left out.
    pub(crate) devices: u64,
    /// Extended attributes that were left out.
    pub(crate) xattrs: u64,
}

#[derive(Clone)]
struct FolderMeta {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl FolderMeta {
    fn bytes(&self) -> usize {
        self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

impl Unpacker {
    /// Unpacks into `folder`, which must be empty. `trash` is an empty folder
    /// on the same file system, which the caller removes.
    pub(crate) fn new(folder: &Path, trash: &Path, limits: &Limits, stop: Stop) -> Result<Self> {
        let open = |path: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
                .map_err(|errno| Error::at("open a folder of the image store", path)(errno.into()))
        };
        let root = open(folder)?;
        // Says at once what a kernel before 5.6 or a seccomp filter would say
        // at the first file.
        open_in_root(root.as_fd(), b"", OFlags::PATH).map_err(|errno| Error::Unsupported {
            what: "unpacking images on this kernel".to_owned(),
            reason: format!("the system call openat2 (Linux 5.6) fails: {errno}"),
        })?;
        Ok(Self {
            rooted: Rooted::new(root, open(trash)?),
            limits: limits.clone(),
            left: limits.unpacked,
            stop,
            privileged: rustix::process::geteuid().is_root(),
            folders: HashMap::new(),
            folder_names: 0,
            made: HashSet::new(),
            cleared: HashSet::new(),
            looked_at: 0,
            hash: RandomState::new(),
            summary: Summary::default(),
            buffer: Vec::new(),
        })
    }

    /// Applies a layer: a tar archive, plain or compressed by gzip or zstd.
    /// Gives the digest of the plain archive, its DiffID.
    pub(crate) fn layer(
        &mut self,
        name: &str,
        compressed: impl Read,
        algorithm: &Digest,
    ) -> Result<Digest> {
        self.made.clear();
        self.cleared.clear();
        let plain =
            super::compression::decompress(compressed).map_err(|error| unread(name, error))?;
        let guarded = Guarded {
            reader: Hashing::new(plain, Hasher::like(algorithm, name)?),
            left: self.left,
            limit: self.limits.unpacked,
            stop: self.stop.clone(),
        };
        let mut archive = Archive::new(BufReader::with_capacity(128 << 10, guarded), &self.limits);
        loop {
            let entry = match archive.next_entry() {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(fault) => return Err(faulty(name, "after the last good entry", fault)),
            };
            self.count(1)?;
            self.rooted.allow_entry();
            let shown = show(&entry.path);
            self.entry(&mut archive, entry).map_err(|trouble| trouble.of(name, &shown))?;
            // Folders that no entry describes are made all the same.
            let implied = self.rooted.take_implied();
            self.count(implied)?;
        }
        // The digest covers what follows the archive's end, too.
        archive.drain().map_err(|error| unread(name, error))?;
        let guarded = archive.into_inner().into_inner();
        self.left = guarded.left;
        Ok(guarded.reader.finish())
    }

    /// Gives folders their rights and times. The image is complete then.
    pub(crate) fn finish(mut self) -> Result<Summary> {
        let mut folders: Vec<_> = std::mem::take(&mut self.folders).into_iter().collect();
        // From the bottom up, so that a folder's rights never bar the way.
        folders.sort_by(|(a, _), (b, _)| b.cmp(a));
        for (path, meta) in folders {
            let dressed = self.own_folder(&path).and_then(|found| {
                let Some(fd) = found else { return Ok(0) };
                let left_out =
                    self.dress(fd.as_fd(), meta.mode, meta.uid, meta.gid, &meta.xattrs)?;
                times(fd.as_fd(), meta.mtime)?;
                Ok(left_out)
            });
            self.summary.xattrs += dressed
                .map_err(|error| Trouble::from(error).of("the image", &show(path.bytes())))?;
        }
        Ok(self.summary)
    }

    fn entry<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        entry: archive::Entry,
    ) -> std::result::Result<(), Trouble> {
        let path = Inside::new(&entry.path, self.limits.path).map_err(Trouble::Entry)?;
        let Some((parent, name)) = path.split() else {
            // The root folder itself.
            if entry.kind != Kind::Directory {
                return Err(Trouble::entry("the root folder can only be a folder"));
            }
            return self.keep_folder(path, entry);
        };
        if whiteout::is_one(name) {
            return self.whiteout(&parent, name);
        }
        if entry.kind == Kind::Device {
            self.summary.devices += 1;
            return Ok(());
        }
        if entry.kind == Kind::Hardlink {
            return self.hardlink(&path, &parent, name, &entry);
        }
        self.mark(&path)?;
        let folder = self.rooted.folder(&parent)?;
        if entry.kind == Kind::Directory {
            match rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o700)) {
                Ok(()) => {}
                Err(Errno::EXIST) => {
                    if !rooted::stat(folder, name)?.is_some_and(|stat| rooted::is_folder(&stat)) {
                        self.rooted.discard(&path)?;
                        let folder = self.rooted.folder(&parent)?;
                        rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o700))?;
                    }
                }
                Err(error) => return Err(error.into()),
            }
            return self.keep_folder(path, entry);
        }
        // Whatever is there goes, so nothing is ever written through it.
        match self.make(archive, &parent, name, &entry) {
            Err(Trouble::System(error)) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.rooted.discard(&path)?;
                self.make(archive, &parent, name, &entry)
            }
            other => other,
        }
    }

    /// Makes a file, a symbolic link or a pipe where nothing is yet.
    fn make<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        parent: &Inside,
        name: &[u8],
        entry: &archive::Entry,
    ) -> std::result::Result<(), Trouble> {
        let privileged = self.privileged;
        let folder = self.rooted.folder(parent)?;
        match entry.kind {
            Kind::File => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o600))?;
                let mut file = File::from(fd);
                self.fill(&mut file, archive)?;
                self.summary.bytes += entry.size;
                let fd = file.as_fd();
                self.summary.xattrs +=
                    self.dress(fd, entry.mode, entry.uid, entry.gid, &entry.xattrs)?;
                times(fd, entry.mtime)?;
            }
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.len() > 4095 || entry.link.contains(&0) {
                    return Err(Trouble::entry("a symbolic link without a target, or a long one"));
                }
                rustix::fs::symlinkat(entry.link.as_slice(), folder, name)?;
                own(privileged, folder, name, entry)?;
                self.summary.xattrs += entry.xattrs.len() as u64;
            }
            Kind::Fifo => {
                let mode = Mode::from_raw_mode(entry.mode & 0o777);
                rustix::fs::mknodat(folder, name, FileType::Fifo, mode, 0)?;
                own(privileged, folder, name, entry)?;
                rustix::fs::chmodat(folder, name, mode, AtFlags::empty())?;
                self.summary.xattrs += entry.xattrs.len() as u64;
            }
            Kind::Directory | Kind::Hardlink | Kind::Device => {}
        }
        Ok(())
    }

    fn fill<R: Read>(
        &mut self,
        file: &mut File,
        archive: &mut Archive<R>,
    ) -> std::result::Result<(), Trouble> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(128 << 10, 0);
        let filled = copy(archive, file, &mut buffer);
        self.buffer = buffer;
        filled
    }

    fn hardlink(
        &mut self,
        path: &Inside,
        parent: &Inside,
        name: &[u8],
        entry: &archive::Entry,
    ) -> std::result::Result<(), Trouble> {
        let target = Inside::new(&entry.link, self.limits.path)
            .map_err(|reason| Trouble::Entry(format!("a link to {reason}")))?;
        let Some((target_parent, target_name)) = target.split() else {
            return Err(Trouble::entry("a hard link to the root folder"));
        };
        self.mark(path)?;
        if target == *path {
            return Ok(());
        }
        let missing = || {
            Trouble::Entry(format!("a hard link to {}, which is not there", show(target.bytes())))
        };
        let from = self.rooted.existing_folder(&target_parent)?.ok_or_else(missing)?;
        let found = rooted::stat(from.as_fd(), target_name)?.ok_or_else(missing)?;
        if rooted::is_folder(&found) {
            return Err(Trouble::entry("a hard link to a folder"));
        }
        let folder = self.rooted.folder(parent)?;
        match rooted::stat(folder, name)? {
            // Already the same file: removing it would remove the target.
            Some(there) if (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino) => {
                return Ok(());
            }
            Some(_) => {
                self.rooted.discard(path)?;
            }
            None => {}
        }
        let folder = self.rooted.folder(parent)?;
        rustix::fs::linkat(&from, target_name, folder, name, AtFlags::empty())?;
        Ok(())
    }

    fn keep_folder(
        &mut self,
        path: Inside,
        entry: archive::Entry,
    ) -> std::result::Result<(), Trouble> {
        let meta = FolderMeta {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: entry.xattrs,
        };
        // Twenty layers may all name the same folders.
        self.forget(&path);
        self.folder_names += path.bytes().len() + meta.bytes();
        if self.folder_names > FOLDER_NAMES {
            return Err(Trouble::Ours(Error::TooLarge {
                what: "what the image says about its folders".to_owned(),
                limit: format!("{FOLDER_NAMES} bytes"),
            }));
        }
        self.folders.insert(path, meta);
        Ok(())
    }

    /// A folder at this very path, opened for changing it.
    fn own_folder(&mut self, path: &Inside) -> io::Result<Option<OwnedFd>> {
        let (above, name) = match path.split() {
            Some((parent, name)) => (self.rooted.existing_folder(&parent)?, name),
            None => (self.rooted.existing_folder(path)?, b".".as_slice()),
        };
        let Some(above) = above else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&above, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            // A later layer replaced it.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Owner, rights and attributes, in the order that keeps set-user-id bits
    /// and capabilities. Gives the number of attributes that were left out.
    fn dress(
        &self,
        fd: BorrowedFd<'_>,
        mode: u32,
        uid: u32,
        gid: u32,
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> io::Result<u64> {
        let mut mode = mode;
        if self.privileged {
            fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        } else {
            // Without root the owner is who unpacks, and must be able to remove
            // it later. Set-user-id would be that user's.
            mode = mode & 0o1777 | 0o600;
            if rustix::fs::fstat(fd).is_ok_and(|stat| rooted::is_folder(&stat)) {
                mode |= 0o700;
            }
        }
        fchmod(fd, Mode::from_raw_mode(mode))?;
        let mut left_out = 0;
        for (name, value) in xattrs {
            let wanted = name == b"security.capability" && self.privileged
                || name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
            if !wanted {
                left_out += 1;
                continue;
            }
            match fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) => {}
                // A file system without them, or a value that it refuses.
                Err(
                    Errno::OPNOTSUPP
                    | Errno::PERM
                    | Errno::NOSPC
                    | Errno::RANGE
                    | Errno::TOOBIG
                    | Errno::INVAL,
                ) => {
                    left_out += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(left_out)
    }

    fn count(&mut self, entries: u64) -> Result<()> {
        self.summary.entries += entries;
        if self.summary.entries > self.limits.entries {
            return Err(Error::TooLarge {
                what: "the number of files in the image".to_owned(),
                limit: format!("{} entries", self.limits.entries),
            });
        }
        Ok(())
    }

    /// Remembers that this layer made a path and the folders above it.
    fn mark(&mut self, path: &Inside) -> Result<()> {
        let mut key = 0;
        for name in path.parts() {
            key = self.key(key, name);
            self.made.insert(key);
        }
        if self.made.len() > MAX_PATHS_PER_LAYER {
            return Err(Error::TooLarge {
                what: "the number of paths in one layer".to_owned(),
                limit: MAX_PATHS_PER_LAYER.to_string(),
            });
        }
        Ok(())
    }

    /// Hashes a name in a folder that has a hash itself; the root folder's is 0.
    fn key(&self, folder: u64, name: &[u8]) -> u64 {
        self.hash.hash_one((folder, name))
    }

    fn key_of(&self, path: &Inside) -> u64 {
        path.parts().fold(0, |key, name| self.key(key, name))
    }

    /// Forgets the rights and times of a folder that was removed.
    fn forget(&mut self, path: &Inside) {
        if let Some(meta) = self.folders.remove(path) {
            self.folder_names -= path.bytes().len() + meta.bytes();
        }
    }
}

/// Why an entry could not be unpacked.
enum Trouble {
    /// The entry is at fault.
    Entry(String),
    /// The archive around it is.
    Archive(Fault),
    /// The system refused.
    System(io::Error),
    /// Something that has its message already.
    Ours(Error),
}

impl Trouble {
    fn entry(reason: &str) -> Self {
        Trouble::Entry(reason.to_owned())
    }

    fn of(self, layer: &str, entry: &str) -> Error {
        let broken = |reason: String| Error::Layer {
            layer: layer.to_owned(),
            entry: entry.to_owned(),
            reason,
        };
        match self {
            Trouble::Entry(reason) => broken(reason),
            Trouble::Archive(fault) => faulty(layer, entry, fault),
            Trouble::Ours(error) => error,
            Trouble::System(error) if error.get_ref().is_some_and(|inner| inner.is::<Error>()) => {
                unread(layer, error)
            }
            Trouble::System(error) => match Errno::from_io_error(&error) {
                // What only the image's own names and links can cause.
                Some(Errno::NOTDIR) => broken("something on the way to it is no folder".to_owned()),
                Some(Errno::LOOP) => broken("its symbolic links go in circles".to_owned()),
                Some(Errno::NAMETOOLONG) => broken("its name is too long".to_owned()),
                Some(Errno::XDEV) => broken("it lies on another file system".to_owned()),
                Some(Errno::MLINK) => broken("too many hard links to one file".to_owned()),
                Some(Errno::INVAL | Errno::ILSEQ) => {
                    broken("the store's file system refuses its name".to_owned())
                }
                _ => Error::io(format!("unpack {layer}"))(error),
            },
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::System(error)
    }
}

impl From<Errno> for Trouble {
    fn from(error: Errno) -> Self {
        Trouble::System(error.into())
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Ours(error)
    }
}

/// Ends a stream that goes on for too long, or that nobody wants any more.
struct Guarded<R> {
    reader: R,
    left: u64,
    limit: u64,
    stop: Stop,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stop.check().map_err(io::Error::other)?;
        let count = self.reader.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::other(Error::TooLarge {
                what: "the unpacked image".to_owned(),
                limit: format!("{} bytes", self.limit),
            })
        })?;
        Ok(count)
    }
}

fn copy<R: Read>(
    archive: &mut Archive<R>,
    file: &mut File,
    buffer: &mut [u8],
) -> std::result::Result<(), Trouble> {
    loop {
        let count = archive.read(buffer).map_err(|error| Trouble::Archive(error.into()))?;
        if count == 0 {
            return Ok(());
        }
        file.write_all(&buffer[..count])?;
    }
}

fn faulty(layer: &str, entry: &str, fault: Fault) -> Error {
    match fault {
        Fault::Read(error) => unread(layer, error),
        Fault::Format(reason) => {
            Error::Layer { layer: layer.to_owned(), entry: entry.to_owned(), reason }
        }
    }
}

/// A layer that cannot be read: its compression is broken, or it ends too early.
fn unread(layer: &str, error: io::Error) -> Error {
    let error = match error.downcast::<Error>() {
        Ok(ours) => return ours,
        Err(error) => error,
    };
    let reason = match error.kind() {
        io::ErrorKind::UnexpectedEof => "the archive is cut off".to_owned(),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
            format!("its compression is broken ({error})")
        }
        _ => return Error::io(format!("read {layer}"))(error),
    };
    Error::Layer { layer: layer.to_owned(), entry: "the archive".to_owned(), reason }
}

/// Gives a link or a pipe its owner and its time.
fn own(
    privileged: bool,
    folder: BorrowedFd<'_>,
    name: &[u8],
    entry: &archive::Entry,
) -> io::Result<()> {
    if privileged {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    let times = timestamps(entry.mtime);
    rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn times(fd: BorrowedFd<'_>, mtime: (i64, u32)) -> io::Result<()> {
    Ok(futimens(fd, &timestamps(mtime))?)
}

fn timestamps((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// A name for a message: short, and without what would steer a terminal.
fn show(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let mut shown: String = text.chars().take(200).flat_map(char::escape_debug).collect();
    if text.chars().nth(200).is_some() {
        shown.push('…');
    }
    shown
}
