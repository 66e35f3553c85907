//! Files, for clients outside of the sandbox.
//!
//! Paths are those of the sandbox, with its own symbolic links: there is nothing
//! else that the agent could reach. Regular files are read and written on the
//! agent's thread, since that never waits for a guest; anything else that could
//! make it wait, such as a named pipe, is refused. So nothing is opened for
//! which that could be a named pipe by now: what is read is opened without
//! waiting, and what is written is a new file, under a name that nobody knows
//! beforehand.
//!
//! A program of the sandbox may exchange folders for links at any moment. What
//! is made is given its owner and permissions through the descriptor that it was
//! made with, and not once more by its path.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata as FsMetadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use isorun_agent::codec::{CHUNK, CodecError, Frame, FrameReader, FrameWriter};
use isorun_agent::protocol::{
    Entry, Failure, FailureKind, FileKind, Metadata, Name, Reply, WriteFile,
};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::remove::remove_tree;
use super::users::{self, User};

const ENTRIES_IN_A_FRAME: usize = 1000;
/// How a folder is opened to work in it.
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// What keeps the opening of a file from waiting, and a terminal from being ours.
const AT_ONCE: i32 = OFlags::NONBLOCK.union(OFlags::NOCTTY).bits().cast_signed();
/// Names that are tried for a new file.
const MAX_ATTEMPTS: u32 = 16;
const DEFAULT_DIR: u32 = 0o755;
const DEFAULT_FILE: u32 = 0o644;

/// Writes a file beside its place, and puts it there when all has arrived.
pub async fn write<R, W>(
    request: &WriteFile,
    reader: &mut FrameReader<R>,
    writer: &mut FrameWriter<W>,
) -> Result<(), CodecError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut draft = match Draft::open(request) {
        Ok(draft) => draft,
        Err(failure) => return writer.send(&Frame::Failed(failure)).await,
    };
    // The welcome: the client waits for it before it sends anything.
    writer.flush().await?;
    let mut bytes = 0u64;
    loop {
        match reader.next().await? {
            Some(Frame::Data(data)) => {
                if let Err(error) = draft.new.file.write_all(&data) {
                    let failure = failed("write", &draft.target, &error);
                    return writer.send(&Frame::Failed(failure)).await;
                }
                bytes += data.len() as u64;
            }
            Some(Frame::DataEnd) => break,
            Some(_) => return Err(CodecError::UnknownKind(0)),
            None => return Err(CodecError::Truncated),
        }
    }
    writer
        .send(&match draft.keep() {
            Ok(()) => Frame::Reply(Reply::Written { bytes }),
            Err(failure) => Frame::Failed(failure),
        })
        .await
}

/// Sends a file.
pub async fn read<W>(path: &Name, writer: &mut FrameWriter<W>) -> Result<(), CodecError>
where
    W: AsyncWrite + Unpin,
{
    let (mut file, metadata) = match open(path) {
        Ok(opened) => opened,
        Err(failure) => return writer.send(&Frame::Failed(failure)).await,
    };
    writer.send(&Frame::Reply(Reply::File(describe(&metadata)))).await?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return writer.send(&Frame::DataEnd).await,
            Ok(count) => {
                let part = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
                writer.send(&Frame::Data(part)).await?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let failure = failed("read", &to_path(path), &error);
                return writer.send(&Frame::Failed(failure)).await;
            }
        }
    }
}

/// Sends the names in a folder.
pub async fn list<W>(path: &Name, writer: &mut FrameWriter<W>) -> Result<(), CodecError>
where
    W: AsyncWrite + Unpin,
{
    let folder = to_path(path);
    let names = match check(path)
        .and_then(|()| fs::read_dir(&folder).map_err(|error| failed("list", &folder, &error)))
    {
        Ok(names) => names,
        Err(failure) => return writer.send(&Frame::Failed(failure)).await,
    };
    let mut part = Vec::new();
    for entry in names.flatten() {
        // Gone since.
        let Ok(metadata) = entry.metadata() else { continue };
        let name = Name::from(entry.file_name().into_vec());
        part.push(Entry { name, metadata: describe(&metadata) });
        if part.len() == ENTRIES_IN_A_FRAME {
            writer.send(&Frame::Reply(Reply::Entries(std::mem::take(&mut part)))).await?;
            // A folder of a million names is not all that the agent has to do.
            tokio::task::yield_now().await;
        }
    }
    if !part.is_empty() {
        writer.send(&Frame::Reply(Reply::Entries(part))).await?;
    }
    writer.send(&Frame::Reply(Reply::Entries(Vec::new()))).await
}

/// What there is under a path.
pub fn stat(path: &Name) -> Result<Reply, Failure> {
    check(path)?;
    let path = to_path(path);
    let metadata = fs::metadata(&path).map_err(|error| failed("find", &path, &error))?;
    Ok(Reply::Stat(describe(&metadata)))
}

/// Makes a folder and those above it.
pub fn make_dir(path: &Name, mode: Option<u32>, owner: Option<&str>) -> Result<Reply, Failure> {
    check(path)?;
    let owner = owner.map(|owner| users::find(Some(owner))).transpose()?;
    let path = to_path(path);
    let folder = make_dirs(&path, owner.as_ref())?;
    if let (Some(mode), Some(made)) = (mode, folder.made) {
        made.set_permissions(Permissions::from_mode(mode & 0o7777))
            .map_err(|error| failed("set the permissions of", &path, &error))?;
    }
    Ok(Reply::Done)
}

/// Removes a file, or a folder with all that is in it.
pub async fn remove(path: Name) -> Result<Reply, Failure> {
    check(&path)?;
    // A large folder takes long.
    let removing = tokio::task::spawn_blocking(move || {
        let path = to_path(&path);
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(refusal(FailureKind::Invalid, &path, "it cannot be removed"));
        };
        let folder = rustix::fs::open(folder, FOLDER, Mode::empty());
        let removed = folder.map_err(io::Error::from).and_then(|folder| {
            rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            remove_tree(folder.as_fd(), name)
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

/// Puts a file of the agent's in its place, whatever is there.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = rustix::fs::open(folder, FOLDER, Mode::empty())?;
    let mut draft = NewFile::make(folder)?;
    draft.file.write_all(content)?;
    draft.file.set_permissions(Permissions::from_mode(DEFAULT_FILE))?;
    draft.rename(name)
}

/// A file under a name that nobody knew beforehand. Dropped before it is
/// renamed, it is removed.
struct NewFile {
    file: File,
    folder: OwnedFd,
    name: OsString,
    renamed: bool,
}

impl NewFile {
    fn make(folder: OwnedFd) -> io::Result<Self> {
        // Never one that is there already: that could be anything.
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
            match rustix::fs::openat(&folder, &*name, flags, Mode::from_raw_mode(0o600)) {
                Ok(fd) => return Ok(Self { file: fd.into(), folder, name, renamed: false }),
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn rename(mut self, name: &OsStr) -> io::Result<()> {
        rustix::fs::renameat(&self.folder, &*self.name, &self.folder, name)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.renamed {
            // A guest may have removed it already.
            let _ = rustix::fs::unlinkat(&self.folder, &*self.name, AtFlags::empty());
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
                only_a_file(&asked, &metadata)?;
                let target =
                    fs::canonicalize(&asked).map_err(|error| failed("find", &asked, &error))?;
                (target, Some(metadata))
            }
            Err(_) => (asked, None),
        };
        let (Some(folder), Some(_)) = (target.parent(), target.file_name()) else {
            return Err(refusal(FailureKind::IsADirectory, &target, "it is a folder"));
        };
        if request.path.as_bytes().ends_with(b"/") {
            return Err(refusal(FailureKind::IsADirectory, &target, "it ends with a slash"));
        }
        let folder = make_dirs(folder, owner.as_ref())?.folder;
        let new = NewFile::make(folder).map_err(|error| failed("write", &target, &error))?;
        let draft = Self { new, target };
        let mode = request.mode.or(before.as_ref().map(FsMetadata::mode)).unwrap_or(DEFAULT_FILE);
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

    fn keep(self) -> Result<(), Failure> {
        let name = self.target.file_name().unwrap_or_default();
        self.new.rename(name).map_err(|error| failed("write", &self.target, &error))
    }
}

fn open(path: &Name) -> Result<(File, FsMetadata), Failure> {
    check(path)?;
    let path = to_path(path);
    // A device is not even opened...
    let metadata = fs::metadata(&path).map_err(|error| failed("read", &path, &error))?;
    only_a_file(&path, &metadata)?;
    // ... unless it took the file's place just now.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(AT_ONCE)
        .open(&path)
        .and_then(|file| file.metadata().map(|metadata| (file, metadata)));
    let (file, metadata) = opened.map_err(|error| failed("read", &path, &error))?;
    only_a_file(&path, &metadata)?;
    Ok((file, metadata))
}

fn only_a_file(path: &Path, metadata: &FsMetadata) -> Result<(), Failure> {
    if metadata.is_dir() {
        return Err(refusal(FailureKind::IsADirectory, path, "it is a folder"));
    }
    if !metadata.is_file() {
        return Err(refusal(FailureKind::NotAFile, path, "it is a device, pipe or socket"));
    }
    Ok(())
}

/// A folder, and how it can be changed if it was made just now.
struct Folder {
    folder: OwnedFd,
    made: Option<File>,
}

/// Opens a folder, and makes it and those above it if they are missing. Each is
/// opened from the one above, so that a deep path takes no longer than its length.
fn make_dirs(path: &Path, owner: Option<&User>) -> Result<Folder, Failure> {
    if let Ok(folder) = rustix::fs::open(path, FOLDER, Mode::empty()) {
        return Ok(Folder { folder, made: None });
    }
    let fails = |error: io::Error| match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            refusal(FailureKind::NotADirectory, path, "part of it is not a folder")
        }
        _ => failed("make the folder", path, &error),
    };
    let root = rustix::fs::open("/", FOLDER, Mode::empty());
    let mut here = root.map_err(|error| fails(error.into()))?;
    let mut made = None;
    for part in path.components() {
        let name = match part {
            Component::ParentDir => OsStr::new(".."),
            Component::Normal(name) => name,
            _ => continue,
        };
        made = None;
        let next = match rustix::fs::openat(&here, name, FOLDER, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => {
                let new = make_one(&here, name, owner).map_err(fails)?;
                let opened = rustix::fs::openat(&new, ".", FOLDER, Mode::empty());
                made = Some(new);
                opened
            }
            opened => opened,
        };
        here = next.map_err(|error| fails(error.into()))?;
    }
    Ok(Folder { folder: here, made })
}

/// Makes a folder, and gives it to its owner through the descriptor of what was
/// made.
fn make_one(above: &OwnedFd, name: &OsStr, owner: Option<&User>) -> io::Result<File> {
    match rustix::fs::mkdirat(above, name, Mode::from_raw_mode(DEFAULT_DIR)) {
        // A dangling link, or somebody was faster.
        Err(error) if error != rustix::io::Errno::EXIST => Err(error.into()),
        made => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let folder = rustix::fs::openat(above, name, flags, Mode::empty());
            let folder = File::from(folder.map_err(|_| io::ErrorKind::NotADirectory)?);
            if made.is_ok() {
                folder.set_permissions(Permissions::from_mode(DEFAULT_DIR))?;
                if let Some(owner) = owner {
                    fchown(&folder, Some(owner.uid), Some(owner.gid))?;
                }
            }
            Ok(folder)
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
