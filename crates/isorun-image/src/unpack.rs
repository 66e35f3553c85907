//! Unpacks layers, in order, into one directory.
//!
//! Layers are untrusted: anyone can push an image to a registry. Entries are created
//! only through [`rooted::RootDirectory`], which confines all paths to the directory,
//! and only after they were counted against [`Limits`].
//!
//! Device nodes are skipped (a sandbox has its own `/dev`), and so are extended
//! attributes other than `user.*` and `security.capability`: those of overlay file
//! systems would change the content of other directories in a sandbox.

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
use self::rooted::{RelativePath, RootDirectory};
use super::digest::{Hasher, HashingReader};
use super::error::{Error, Result};
use super::limits::Limits;

pub(crate) use self::archive::{Archive, ArchiveError, EntryKind};
pub(crate) use self::rooted::open_in_root;

/// The largest size of the paths and attributes of directories that are kept until an
/// image is complete, in bytes.
const MAX_DIRECTORY_METADATA_BYTES: usize = 64 << 20;
/// The largest number of paths in one layer, parents of its entries included.
const MAX_PATHS_PER_LAYER: usize = 4_000_000;

/// A flag that cancels unpacking on another thread.
#[derive(Debug, Clone, Default)]
pub(crate) struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    pub(crate) fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// An unpacker of the layers of one image into a directory.
pub(crate) struct Unpacker {
    root: RootDirectory,
    limits: Limits,
    /// The bytes that the remaining layers may have, uncompressed.
    bytes_left: u64,
    cancel: CancelFlag,
    /// True if this process can change the owners of files.
    privileged: bool,
    /// The metadata of directories, which is set last: writing into a directory changes
    /// its times, and its mode may forbid writing.
    directories: HashMap<RelativePath, DirectoryMetadata>,
    directory_metadata_bytes: usize,
    /// The paths that the current layer has created, as keyed hashes: whiteouts do not
    /// remove them. A set of the paths themselves could take gigabytes.
    created: HashSet<u64>,
    /// The inode numbers of the directories from which the current layer has removed
    /// the entries of lower layers, so that another whiteout skips them.
    cleared: HashSet<u64>,
    /// The number of directory entries that whiteouts have read.
    scanned_entries: u64,
    hash: RandomState,
    summary: UnpackSummary,
    /// The buffer for file contents.
    buffer: Vec<u8>,
}

/// The result of unpacking an image. It is serialized as `root.json`.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct UnpackSummary {
    /// The bytes of all files.
    pub(crate) bytes: u64,
    /// The number of entries of all layers.
    pub(crate) entries: u64,
    /// The number of skipped device nodes.
    pub(crate) devices: u64,
    /// The number of skipped extended attributes.
    pub(crate) xattrs: u64,
}

#[derive(Clone)]
struct DirectoryMetadata {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl DirectoryMetadata {
    fn bytes(&self) -> usize {
        self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

impl Unpacker {
    /// Creates an unpacker into `directory`, which must be empty. `trash` is an empty
    /// directory on the same file system, which the caller removes.
    pub(crate) fn new(
        directory: &Path,
        trash: &Path,
        limits: &Limits,
        cancel: CancelFlag,
    ) -> Result<Self> {
        let open = |path: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| {
                Error::at("open a directory of the image store", path)(errno.into())
            })
        };
        let root = open(directory)?;
        // Fails early on a kernel before 5.6, or under a seccomp filter.
        open_in_root(root.as_fd(), b"", OFlags::PATH).map_err(|errno| Error::Unsupported {
            what: "unpacking images on this kernel".to_owned(),
            reason: format!("the system call openat2 (Linux 5.6) fails: {errno}"),
        })?;
        Ok(Self {
            root: RootDirectory::new(root, open(trash)?),
            limits: limits.clone(),
            bytes_left: limits.unpacked,
            cancel,
            privileged: rustix::process::geteuid().is_root(),
            directories: HashMap::new(),
            directory_metadata_bytes: 0,
            created: HashSet::new(),
            cleared: HashSet::new(),
            scanned_entries: 0,
            hash: RandomState::new(),
            summary: UnpackSummary::default(),
            buffer: Vec::new(),
        })
    }

    /// Applies a layer: a tar archive, uncompressed or compressed by gzip or zstd.
    /// Returns the digest of the uncompressed archive, its DiffID.
    pub(crate) fn apply_layer(
        &mut self,
        name: &str,
        compressed: impl Read,
        algorithm: &Digest,
    ) -> Result<Digest> {
        self.created.clear();
        self.cleared.clear();
        let plain =
            super::compression::decompress(compressed).map_err(|error| read_error(name, error))?;
        let reader = BoundedReader {
            reader: HashingReader::new(plain, Hasher::like(algorithm, name)?),
            bytes_left: self.bytes_left,
            limit: self.limits.unpacked,
            cancel: self.cancel.clone(),
        };
        let mut archive = Archive::new(BufReader::with_capacity(128 << 10, reader), &self.limits);
        loop {
            let entry = match archive.next_entry() {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(error) => return Err(archive_error(name, "after the last valid entry", error)),
            };
            self.count_entries(1)?;
            self.root.allow_entry_steps();
            let shown = printable(&entry.path);
            self.apply_entry(&mut archive, entry)
                .map_err(|error| error.into_error(name, &shown))?;
            // Directories that have no entry of their own are created for paths
            // through them.
            let implicit = self.root.take_implicit_directories();
            self.count_entries(implicit)?;
        }
        // The digest includes the bytes after the end of the archive.
        archive.drain().map_err(|error| read_error(name, error))?;
        let reader = archive.into_inner().into_inner();
        self.bytes_left = reader.bytes_left;
        Ok(reader.reader.finish())
    }

    /// Sets the modes and times of directories, which completes the image.
    pub(crate) fn finish(mut self) -> Result<UnpackSummary> {
        let mut directories: Vec<_> = std::mem::take(&mut self.directories).into_iter().collect();
        // From the bottom up, so that a directory's mode does not prevent access to
        // those below it.
        directories.sort_by(|(a, _), (b, _)| b.cmp(a));
        for (path, meta) in directories {
            let skipped = self.open_for_metadata(&path).and_then(|found| {
                let Some(fd) = found else { return Ok(0) };
                let skipped =
                    self.set_metadata(fd.as_fd(), meta.mode, meta.uid, meta.gid, &meta.xattrs)?;
                set_times(fd.as_fd(), meta.mtime)?;
                Ok(skipped)
            });
            self.summary.xattrs += skipped.map_err(|error| {
                EntryError::from(error).into_error("the image", &printable(path.bytes()))
            })?;
        }
        Ok(self.summary)
    }

    fn apply_entry<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        entry: archive::ArchiveEntry,
    ) -> std::result::Result<(), EntryError> {
        let path = RelativePath::new(&entry.path, self.limits.path).map_err(EntryError::Invalid)?;
        let Some((parent, name)) = path.split() else {
            // The root directory itself.
            if entry.kind != EntryKind::Directory {
                return Err(EntryError::invalid(
                    "the entry of the root directory is not a directory",
                ));
            }
            return self.record_directory(path, entry);
        };
        if whiteout::is_whiteout(name) {
            return self.whiteout(&parent, name);
        }
        if entry.kind == EntryKind::Device {
            self.summary.devices += 1;
            return Ok(());
        }
        if entry.kind == EntryKind::Hardlink {
            return self.hardlink(&path, &parent, name, &entry);
        }
        self.mark_created(&path)?;
        let directory = self.root.open_or_create(&parent)?;
        if entry.kind == EntryKind::Directory {
            match rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o700)) {
                Ok(()) => {}
                Err(Errno::EXIST) => {
                    if !rooted::stat(directory, name)?
                        .is_some_and(|stat| rooted::is_directory(&stat))
                    {
                        self.root.move_to_trash(&path)?;
                        let directory = self.root.open_or_create(&parent)?;
                        rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o700))?;
                    }
                }
                Err(error) => return Err(error.into()),
            }
            return self.record_directory(path, entry);
        }
        // An existing entry is removed, so that nothing is written through a link.
        match self.create_entry(archive, &parent, name, &entry) {
            Err(EntryError::Io(error)) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.root.move_to_trash(&path)?;
                self.create_entry(archive, &parent, name, &entry)
            }
            other => other,
        }
    }

    /// Creates a file, a symbolic link or a FIFO at a path that does not exist.
    fn create_entry<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        parent: &RelativePath,
        name: &[u8],
        entry: &archive::ArchiveEntry,
    ) -> std::result::Result<(), EntryError> {
        let privileged = self.privileged;
        let directory = self.root.open_or_create(parent)?;
        match entry.kind {
            EntryKind::File => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600))?;
                let mut file = File::from(fd);
                self.write_content(&mut file, archive)?;
                self.summary.bytes += entry.size;
                let fd = file.as_fd();
                self.summary.xattrs +=
                    self.set_metadata(fd, entry.mode, entry.uid, entry.gid, &entry.xattrs)?;
                set_times(fd, entry.mtime)?;
            }
            EntryKind::Symlink => {
                if entry.link.is_empty() || entry.link.len() > 4095 || entry.link.contains(&0) {
                    return Err(EntryError::invalid(
                        "the target of a symbolic link is empty, has a NUL, or is over 4095 bytes",
                    ));
                }
                rustix::fs::symlinkat(entry.link.as_slice(), directory, name)?;
                set_owner_and_times(privileged, directory, name, entry)?;
                self.summary.xattrs += entry.xattrs.len() as u64;
            }
            EntryKind::Fifo => {
                let mode = Mode::from_raw_mode(entry.mode & 0o777);
                rustix::fs::mknodat(directory, name, FileType::Fifo, mode, 0)?;
                set_owner_and_times(privileged, directory, name, entry)?;
                rustix::fs::chmodat(directory, name, mode, AtFlags::empty())?;
                self.summary.xattrs += entry.xattrs.len() as u64;
            }
            EntryKind::Directory | EntryKind::Hardlink | EntryKind::Device => {}
        }
        Ok(())
    }

    fn write_content<R: Read>(
        &mut self,
        file: &mut File,
        archive: &mut Archive<R>,
    ) -> std::result::Result<(), EntryError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(128 << 10, 0);
        let filled = copy(archive, file, &mut buffer);
        self.buffer = buffer;
        filled
    }

    fn hardlink(
        &mut self,
        path: &RelativePath,
        parent: &RelativePath,
        name: &[u8],
        entry: &archive::ArchiveEntry,
    ) -> std::result::Result<(), EntryError> {
        let target = RelativePath::new(&entry.link, self.limits.path).map_err(|reason| {
            EntryError::Invalid(format!("the target of a hard link: {reason}"))
        })?;
        let Some((target_parent, target_name)) = target.split() else {
            return Err(EntryError::invalid("a hard link to the root directory"));
        };
        self.mark_created(path)?;
        if target == *path {
            return Ok(());
        }
        let missing = || {
            EntryError::Invalid(format!(
                "the target of a hard link does not exist: {}",
                printable(target.bytes())
            ))
        };
        let from = self.root.open_existing(&target_parent)?.ok_or_else(missing)?;
        let found = rooted::stat(from.as_fd(), target_name)?.ok_or_else(missing)?;
        if rooted::is_directory(&found) {
            return Err(EntryError::invalid("a hard link to a directory"));
        }
        let directory = self.root.open_or_create(parent)?;
        match rooted::stat(directory, name)? {
            // Already the same file: removing it would remove the target.
            Some(there) if (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino) => {
                return Ok(());
            }
            Some(_) => {
                self.root.move_to_trash(path)?;
            }
            None => {}
        }
        let directory = self.root.open_or_create(parent)?;
        rustix::fs::linkat(&from, target_name, directory, name, AtFlags::empty())?;
        Ok(())
    }

    fn record_directory(
        &mut self,
        path: RelativePath,
        entry: archive::ArchiveEntry,
    ) -> std::result::Result<(), EntryError> {
        let meta = DirectoryMetadata {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: entry.xattrs,
        };
        // Several layers may list the same directories.
        self.forget_directory(&path);
        self.directory_metadata_bytes += path.bytes().len() + meta.bytes();
        if self.directory_metadata_bytes > MAX_DIRECTORY_METADATA_BYTES {
            return Err(EntryError::Image(Error::TooLarge {
                what: "the metadata of the image's directories".to_owned(),
                limit: format!("{MAX_DIRECTORY_METADATA_BYTES} bytes"),
            }));
        }
        self.directories.insert(path, meta);
        Ok(())
    }

    /// Opens the directory at a path, without following a symbolic link in its last
    /// component.
    fn open_for_metadata(&mut self, path: &RelativePath) -> io::Result<Option<OwnedFd>> {
        let (above, name) = match path.split() {
            Some((parent, name)) => (self.root.open_existing(&parent)?, name),
            None => (self.root.open_existing(path)?, b".".as_slice()),
        };
        let Some(above) = above else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&above, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            // A later layer has replaced it.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sets owner, mode and extended attributes, in the order that preserves
    /// set-user-id bits and capabilities. Returns the number of skipped attributes.
    fn set_metadata(
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
            // Without root, files belong to the current user, who must be able to
            // remove them later. A set-user-id bit would apply to that user.
            mode = mode & 0o1777 | 0o600;
            if rustix::fs::fstat(fd).is_ok_and(|stat| rooted::is_directory(&stat)) {
                mode |= 0o700;
            }
        }
        fchmod(fd, Mode::from_raw_mode(mode))?;
        let mut skipped = 0;
        for (name, value) in xattrs {
            let wanted = name == b"security.capability" && self.privileged
                || name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
            if !wanted {
                skipped += 1;
                continue;
            }
            match fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) => {}
                // The file system does not support them, or refuses the value.
                Err(
                    Errno::OPNOTSUPP
                    | Errno::PERM
                    | Errno::NOSPC
                    | Errno::RANGE
                    | Errno::TOOBIG
                    | Errno::INVAL,
                ) => {
                    skipped += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(skipped)
    }

    fn count_entries(&mut self, entries: u64) -> Result<()> {
        self.summary.entries += entries;
        if self.summary.entries > self.limits.entries {
            return Err(Error::TooLarge {
                what: "the number of files in the image".to_owned(),
                limit: format!("{} entries", self.limits.entries),
            });
        }
        Ok(())
    }

    /// Records that this layer has created a path and its parents.
    fn mark_created(&mut self, path: &RelativePath) -> Result<()> {
        let mut key = 0;
        for name in path.parts() {
            key = self.child_key(key, name);
            self.created.insert(key);
        }
        if self.created.len() > MAX_PATHS_PER_LAYER {
            return Err(Error::TooLarge {
                what: "the number of paths in one layer".to_owned(),
                limit: MAX_PATHS_PER_LAYER.to_string(),
            });
        }
        Ok(())
    }

    /// Hashes a name and the hash of its parent directory; the root directory's is 0.
    fn child_key(&self, directory: u64, name: &[u8]) -> u64 {
        self.hash.hash_one((directory, name))
    }

    /// Hashes a path.
    fn path_key(&self, path: &RelativePath) -> u64 {
        path.parts().fold(0, |key, name| self.child_key(key, name))
    }

    /// Drops the recorded metadata of a directory that was removed.
    fn forget_directory(&mut self, path: &RelativePath) {
        if let Some(meta) = self.directories.remove(path) {
            self.directory_metadata_bytes -= path.bytes().len() + meta.bytes();
        }
    }
}

/// The error of unpacking an entry.
enum EntryError {
    /// The entry is invalid.
    Invalid(String),
    /// The archive is invalid or cannot be read.
    Archive(ArchiveError),
    /// A system call failed.
    Io(io::Error),
    /// An error with a complete message.
    Image(Error),
}

impl EntryError {
    fn invalid(reason: &str) -> Self {
        EntryError::Invalid(reason.to_owned())
    }

    fn into_error(self, layer: &str, entry: &str) -> Error {
        let invalid = |reason: String| Error::Layer {
            layer: layer.to_owned(),
            entry: entry.to_owned(),
            reason,
        };
        match self {
            EntryError::Invalid(reason) => invalid(reason),
            EntryError::Archive(error) => archive_error(layer, entry, error),
            EntryError::Image(error) => error,
            EntryError::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<Error>()) => {
                read_error(layer, error)
            }
            EntryError::Io(error) => match Errno::from_io_error(&error) {
                // Errors that only the image's own names and links can cause.
                Some(Errno::NOTDIR) => {
                    invalid("a parent in its path is not a directory".to_owned())
                }
                Some(Errno::LOOP) => invalid("its path has a loop of symbolic links".to_owned()),
                Some(Errno::NAMETOOLONG) => invalid("its name is too long".to_owned()),
                Some(Errno::XDEV) => invalid("it is on another file system".to_owned()),
                Some(Errno::MLINK) => invalid("too many hard links to one file".to_owned()),
                Some(Errno::INVAL | Errno::ILSEQ) => {
                    invalid("the store's file system refuses its name".to_owned())
                }
                _ => Error::io(format!("unpack {layer}"))(error),
            },
        }
    }
}

impl From<io::Error> for EntryError {
    fn from(error: io::Error) -> Self {
        EntryError::Io(error)
    }
}

impl From<Errno> for EntryError {
    fn from(error: Errno) -> Self {
        EntryError::Io(error.into())
    }
}

impl From<Error> for EntryError {
    fn from(error: Error) -> Self {
        EntryError::Image(error)
    }
}

/// A reader that fails when the size limit is exceeded, or when unpacking is
/// cancelled.
struct BoundedReader<R> {
    reader: R,
    bytes_left: u64,
    limit: u64,
    cancel: CancelFlag,
}

impl<R: Read> Read for BoundedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancel.check().map_err(io::Error::other)?;
        let count = self.reader.read(buffer)?;
        self.bytes_left = self.bytes_left.checked_sub(count as u64).ok_or_else(|| {
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
) -> std::result::Result<(), EntryError> {
    loop {
        let count = archive.read(buffer).map_err(|error| EntryError::Archive(error.into()))?;
        if count == 0 {
            return Ok(());
        }
        file.write_all(&buffer[..count])?;
    }
}

fn archive_error(layer: &str, entry: &str, error: ArchiveError) -> Error {
    match error {
        ArchiveError::Read(error) => read_error(layer, error),
        ArchiveError::Format(reason) => {
            Error::Layer { layer: layer.to_owned(), entry: entry.to_owned(), reason }
        }
    }
}

/// Converts an error of reading a layer: its compression is corrupt, or it is
/// truncated.
fn read_error(layer: &str, error: io::Error) -> Error {
    let error = match error.downcast::<Error>() {
        Ok(error) => return error,
        Err(error) => error,
    };
    let reason = match error.kind() {
        io::ErrorKind::UnexpectedEof => "the archive is truncated".to_owned(),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
            format!("its compression is corrupt ({error})")
        }
        _ => return Error::io(format!("read {layer}"))(error),
    };
    Error::Layer { layer: layer.to_owned(), entry: "the archive".to_owned(), reason }
}

/// Sets the owner and the times of a symbolic link or a FIFO.
fn set_owner_and_times(
    privileged: bool,
    directory: BorrowedFd<'_>,
    name: &[u8],
    entry: &archive::ArchiveEntry,
) -> io::Result<()> {
    if privileged {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    let times = timestamps(entry.mtime);
    rustix::fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn set_times(fd: BorrowedFd<'_>, mtime: (i64, u32)) -> io::Result<()> {
    Ok(futimens(fd, &timestamps(mtime))?)
}

fn timestamps((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Returns a path for messages: truncated, and with control characters escaped.
fn printable(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let mut shown: String = text.chars().take(200).flat_map(char::escape_debug).collect();
    if text.chars().nth(200).is_some() {
        shown.push('…');
    }
    shown
}
