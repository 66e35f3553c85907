//! File operations for clients outside the sandbox.
//!
//! Paths are those of the sandbox, with its own symbolic links: the agent cannot
//! reach any other file. Regular files are read and written on the agent's thread,
//! since that never waits for a guest. Anything else that could block, such as a
//! named pipe, is refused. A file may be replaced by a named pipe at any moment, so
//! files are opened for reading without blocking, and written as a new file with an
//! unpredictable name.
//!
//! A program of the sandbox may replace directories with links at any moment. So
//! the owner and permissions of a new file are set through the descriptor with
//! which it was created, and not by its path.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata as FsMetadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use isorun_agent::codec::{CHUNK_BYTES, CodecError, Frame};
use isorun_agent::protocol::{
    Entry, Failure, FailureKind, FileKind, Metadata, Name, Reply, WriteFile,
};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::conn::Conn;
use super::remove::remove_tree;
use super::users::{self, User};

const MAX_ENTRIES_PER_FRAME: usize = 1000;
/// The flags with which a directory is opened to operate in it.
const DIR_FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// The flags that keep opening a file from blocking, and a terminal from becoming
/// the controlling terminal.
const NONBLOCKING_FLAGS: i32 = OFlags::NONBLOCK.union(OFlags::NOCTTY).bits().cast_signed();
/// The maximum number of names that are tried for a new file.
const MAX_ATTEMPTS: u32 = 16;
const DEFAULT_DIR_MODE: u32 = 0o755;
const DEFAULT_FILE_MODE: u32 = 0o644;

/// Writes a new file in the same directory, and renames it when all data has
/// arrived.
pub async fn write(request: &WriteFile, conn: &mut Conn) -> Result<(), CodecError> {
    let mut draft = match Draft::open(request) {
        Ok(draft) => draft,
        Err(failure) => return conn.fail(failure).await,
    };
    // Sends the welcome: the client waits for it before it sends anything.
    conn.writer.flush().await?;
    let mut bytes = 0u64;
    loop {
        match conn.reader.next().await? {
            Some(Frame::Data(data)) => {
                if let Err(error) = draft.new.file.write_all(&data) {
                    let failure = failed("write", &draft.target, &error);
                    return conn.fail(failure).await;
                }
                bytes += data.len() as u64;
            }
            Some(Frame::DataEnd) => break,
            Some(_) => return Err(CodecError::UnknownKind(0)),
            None => return Err(CodecError::Truncated),
        }
    }
    conn.reply(draft.commit().map(|()| Reply::Written { bytes })).await
}

/// Sends the content of a file.
pub async fn read(path: &Name, conn: &mut Conn) -> Result<(), CodecError> {
    let (mut file, metadata) = match open(path) {
        Ok(opened) => opened,
        Err(failure) => return conn.fail(failure).await,
    };
    conn.reply(Ok(Reply::File(describe(&metadata)))).await?;
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return conn.writer.send(&Frame::DataEnd).await,
            Ok(count) => {
                let part = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
                conn.writer.send(&Frame::Data(part)).await?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let failure = failed("read", &to_path(path), &error);
                return conn.fail(failure).await;
            }
        }
    }
}

/// Sends the names in a directory.
pub async fn list(path: &Name, conn: &mut Conn) -> Result<(), CodecError> {
    let dir = to_path(path);
    let names = match check(path)
        .and_then(|()| fs::read_dir(&dir).map_err(|error| failed("list", &dir, &error)))
    {
        Ok(names) => names,
        Err(failure) => return conn.fail(failure).await,
    };
    let mut part = Vec::new();
    for entry in names.flatten() {
        // Removed since.
        let Ok(metadata) = entry.metadata() else { continue };
        let name = Name::from(entry.file_name().into_vec());
        part.push(Entry { name, metadata: describe(&metadata) });
        if part.len() == MAX_ENTRIES_PER_FRAME {
            conn.reply(Ok(Reply::Entries(std::mem::take(&mut part)))).await?;
            // Other connections get their turn while a large directory is listed.
            tokio::task::yield_now().await;
        }
    }
    if !part.is_empty() {
        conn.reply(Ok(Reply::Entries(part))).await?;
    }
    conn.reply(Ok(Reply::Entries(Vec::new()))).await
}

/// Returns the metadata of a file.
pub fn stat(path: &Name) -> Result<Reply, Failure> {
    check(path)?;
    let path = to_path(path);
    let metadata = fs::metadata(&path).map_err(|error| failed("find", &path, &error))?;
    Ok(Reply::Stat(describe(&metadata)))
}

/// Creates a directory and its missing parents.
pub fn make_dir(path: &Name, mode: Option<u32>, owner: Option<&str>) -> Result<Reply, Failure> {
    check(path)?;
    let owner = owner.map(|owner| users::find(Some(owner))).transpose()?;
    let path = to_path(path);
    let dir = create_dirs(&path, owner.as_ref())?;
    if let (Some(mode), Some(created)) = (mode, dir.created) {
        created
            .set_permissions(Permissions::from_mode(mode & 0o7777))
            .map_err(|error| failed("set the permissions of", &path, &error))?;
    }
    Ok(Reply::Done)
}

/// Removes a file, or a directory with its contents.
pub async fn remove(path: Name) -> Result<Reply, Failure> {
    check(&path)?;
    // Removing a large directory takes long.
    let removing = tokio::task::spawn_blocking(move || {
        let path = to_path(&path);
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(refusal(FailureKind::Invalid, &path, "it cannot be removed"));
        };
        let dir = rustix::fs::open(dir, DIR_FLAGS, Mode::empty());
        let removed = dir.map_err(io::Error::from).and_then(|dir| {
            rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            remove_tree(dir.as_fd(), name)
        });
        removed.map_err(|error| failed("remove", &path, &error))
    });
    match removing.await {
        Ok(outcome) => outcome.map(|()| Reply::Done),
        Err(error) => {
            Err(Failure { kind: FailureKind::Other, message: format!("cannot remove: {error}") })
        }
    }
}

/// Replaces a file with one of the agent's, whatever its path refers to.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = rustix::fs::open(dir, DIR_FLAGS, Mode::empty())?;
    let mut draft = NewFile::create(dir)?;
    draft.file.write_all(content)?;
    draft.file.set_permissions(Permissions::from_mode(DEFAULT_FILE_MODE))?;
    draft.rename(name)
}

/// A file with an unpredictable name. It is removed if it is dropped before it is
/// renamed.
struct NewFile {
    file: File,
    dir: OwnedFd,
    name: OsString,
    renamed: bool,
}

impl NewFile {
    fn create(dir: OwnedFd) -> io::Result<Self> {
        // Never opens an existing file, which could be of any type.
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::CLOEXEC;
        for _ in 0..MAX_ATTEMPTS {
            let mut number = [0; 16];
            rustix::rand::getrandom(&mut number, rustix::rand::GetRandomFlags::empty())?;
            let number = u128::from_le_bytes(number);
            let name = OsString::from(format!(".isorun-{number:032x}.part"));
            match rustix::fs::openat(&dir, &*name, flags, Mode::from_raw_mode(0o600)) {
                Ok(fd) => return Ok(Self { file: fd.into(), dir, name, renamed: false }),
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn rename(mut self, name: &OsStr) -> io::Result<()> {
        rustix::fs::renameat(&self.dir, &*self.name, &self.dir, name)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.renamed {
            // A guest may have removed it already.
            let _ = rustix::fs::unlinkat(&self.dir, &*self.name, AtFlags::empty());
        }
    }
}

/// A file that is being written.
struct Draft {
    new: NewFile,
    target: PathBuf,
}

impl Draft {
    fn open(request: &WriteFile) -> Result<Self, Failure> {
        check(&request.path)?;
        let owner = request.owner.as_deref().map(|owner| users::find(Some(owner))).transpose()?;
        let asked = to_path(&request.path);
        let (target, before) = match fs::metadata(&asked) {
            Ok(metadata) => {
                check_regular_file(&asked, &metadata)?;
                let target =
                    fs::canonicalize(&asked).map_err(|error| failed("find", &asked, &error))?;
                (target, Some(metadata))
            }
            Err(_) => (asked, None),
        };
        let (Some(dir), Some(_)) = (target.parent(), target.file_name()) else {
            return Err(refusal(FailureKind::IsADirectory, &target, "it is a directory"));
        };
        if request.path.as_bytes().ends_with(b"/") {
            return Err(refusal(FailureKind::IsADirectory, &target, "it ends with a slash"));
        }
        let dir = create_dirs(dir, owner.as_ref())?.dir;
        let new = NewFile::create(dir).map_err(|error| failed("write", &target, &error))?;
        let draft = Self { new, target };
        let mode =
            request.mode.or(before.as_ref().map(FsMetadata::mode)).unwrap_or(DEFAULT_FILE_MODE);
        let (uid, gid) = match (&owner, &before) {
            (Some(owner), _) => (owner.uid, owner.gid),
            (None, Some(before)) => (before.uid(), before.gid()),
            (None, None) => (0, 0),
        };
        let file = &draft.new.file;
        fchown(file, Some(uid), Some(gid))
            .and_then(|()| file.set_permissions(Permissions::from_mode(mode & 0o7777)))
            .map_err(|error| failed("set the owner and permissions of", &draft.target, &error))?;
        Ok(draft)
    }

    fn commit(self) -> Result<(), Failure> {
        let name = self.target.file_name().unwrap_or_default();
        self.new.rename(name).map_err(|error| failed("write", &self.target, &error))
    }
}

fn open(path: &Name) -> Result<(File, FsMetadata), Failure> {
    check(path)?;
    let path = to_path(path);
    // A device must not even be opened.
    let metadata = fs::metadata(&path).map_err(|error| failed("read", &path, &error))?;
    check_regular_file(&path, &metadata)?;
    // It may have replaced the file just now.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(NONBLOCKING_FLAGS)
        .open(&path)
        .and_then(|file| file.metadata().map(|metadata| (file, metadata)));
    let (file, metadata) = opened.map_err(|error| failed("read", &path, &error))?;
    check_regular_file(&path, &metadata)?;
    Ok((file, metadata))
}

fn check_regular_file(path: &Path, metadata: &FsMetadata) -> Result<(), Failure> {
    if metadata.is_dir() {
        return Err(refusal(FailureKind::IsADirectory, path, "it is a directory"));
    }
    if !metadata.is_file() {
        return Err(refusal(FailureKind::NotAFile, path, "it is a device, pipe or socket"));
    }
    Ok(())
}

/// An open directory, and a descriptor to change it if it was just created.
struct OpenedDir {
    dir: OwnedFd,
    created: Option<File>,
}

/// Opens a directory, and creates it and its missing parents. Each is opened from
/// its parent, so that the time for a deep path is linear in its length.
fn create_dirs(path: &Path, owner: Option<&User>) -> Result<OpenedDir, Failure> {
    if let Ok(dir) = rustix::fs::open(path, DIR_FLAGS, Mode::empty()) {
        return Ok(OpenedDir { dir, created: None });
    }
    let fails = |error: io::Error| match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            refusal(FailureKind::NotADirectory, path, "part of it is not a directory")
        }
        _ => failed("create the directory", path, &error),
    };
    let root = rustix::fs::open("/", DIR_FLAGS, Mode::empty());
    let mut here = root.map_err(|error| fails(error.into()))?;
    let mut created = None;
    for part in path.components() {
        let name = match part {
            Component::ParentDir => OsStr::new(".."),
            Component::Normal(name) => name,
            _ => continue,
        };
        created = None;
        let next = match rustix::fs::openat(&here, name, DIR_FLAGS, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => {
                let new = create_dir(&here, name, owner).map_err(fails)?;
                let opened = rustix::fs::openat(&new, ".", DIR_FLAGS, Mode::empty());
                created = Some(new);
                opened
            }
            opened => opened,
        };
        here = next.map_err(|error| fails(error.into()))?;
    }
    Ok(OpenedDir { dir: here, created })
}

/// Creates a directory, and sets its owner through the descriptor of the new
/// directory.
fn create_dir(above: &OwnedFd, name: &OsStr, owner: Option<&User>) -> io::Result<File> {
    match rustix::fs::mkdirat(above, name, Mode::from_raw_mode(DEFAULT_DIR_MODE)) {
        // Otherwise it is a dangling link, or another process has created it.
        Err(error) if error != rustix::io::Errno::EXIST => Err(error.into()),
        created => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = rustix::fs::openat(above, name, flags, Mode::empty());
            let dir = File::from(dir.map_err(|_| io::ErrorKind::NotADirectory)?);
            if created.is_ok() {
                dir.set_permissions(Permissions::from_mode(DEFAULT_DIR_MODE))?;
                if let Some(owner) = owner {
                    fchown(&dir, Some(owner.uid), Some(owner.gid))?;
                }
            }
            Ok(dir)
        }
    }
}

fn check(path: &Name) -> Result<(), Failure> {
    let bytes = path.as_bytes();
    let why = if bytes.first() != Some(&b'/') {
        "it does not start with a slash"
    } else if bytes.contains(&0) {
        "it has a NUL byte in it"
    } else if bytes.len() > 4096 {
        "it is longer than 4,096 bytes"
    } else {
        return Ok(());
    };
    let shown: String = path.to_text().chars().take(100).collect();
    Err(Failure { kind: FailureKind::Invalid, message: format!("the path {shown:?}: {why}") })
}

fn to_path(name: &Name) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(name.as_bytes()))
}

fn describe(metadata: &FsMetadata) -> Metadata {
    let kind = if metadata.is_dir() {
        FileKind::Dir
    } else if metadata.is_symlink() {
        FileKind::Link
    } else if metadata.is_file() {
        FileKind::File
    } else {
        FileKind::Other
    };
    Metadata {
        kind,
        size: metadata.size(),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        modified: metadata.mtime(),
    }
}

fn refusal(kind: FailureKind, path: &Path, why: &str) -> Failure {
    Failure { kind, message: format!("{}: {why}", path.display()) }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => FailureKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            FailureKind::PermissionDenied
        }
        io::ErrorKind::IsADirectory => FailureKind::IsADirectory,
        io::ErrorKind::NotADirectory => FailureKind::NotADirectory,
        io::ErrorKind::AlreadyExists => FailureKind::AlreadyExists,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureKind::NoSpace,
        io::ErrorKind::OutOfMemory => FailureKind::NoResources,
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => FailureKind::Invalid,
        _ => FailureKind::Other,
    };
    Failure { kind, message: format!("cannot {what} {}: {error}", path.display()) }
}
