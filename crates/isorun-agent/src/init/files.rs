//! Files, for clients outside of the sandbox.
//!
//! Paths are those of the sandbox, with its own symbolic links: there is nothing
//! else that the agent could reach. Regular files are read and written on the
//! agent's thread, since that never waits for a guest; anything else that could
//! make it wait, such as a named pipe, is refused.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata as FsMetadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use isorun_agent::codec::{CHUNK, CodecError, Frame, FrameReader, FrameWriter};
use isorun_agent::protocol::{
    Entry, Failure, FailureKind, FileKind, Metadata, Name, Reply, WriteFile,
};

use super::users::{self, User};

const ENTRIES_IN_A_FRAME: usize = 1000;
const O_NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
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
                if let Err(error) = draft.file.write_all(&data) {
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
    let existed = path.is_dir();
    make_dirs(&path, owner.as_ref())?;
    if let Some(mode) = mode
        && !existed
    {
        fs::set_permissions(&path, Permissions::from_mode(mode & 0o7777))
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
        let outcome = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) => Err(error),
        };
        outcome.map_err(|error| failed("remove", &path, &error))
    });
    match removing.await {
        Ok(outcome) => outcome.map(|()| Reply::Done),
        Err(error) => {
            Err(Failure { kind: FailureKind::Other, message: format!("cannot remove: {error}") })
        }
    }
}

/// A file that is being written. Dropped before it is kept, it is removed.
struct Draft {
    file: File,
    path: PathBuf,
    target: PathBuf,
    kept: bool,
}

impl Draft {
    fn open(request: &WriteFile) -> Result<Self, Failure> {
        static NEXT: AtomicU64 = AtomicU64::new(0);

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
        make_dirs(folder, owner.as_ref())?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".isorun-{number}.part"));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .mode(0o600)
            .open(&path)
            .map_err(|error| failed("write", &target, &error))?;
        let draft = Self { file, path, target, kept: false };
        let mode = request.mode.or(before.as_ref().map(FsMetadata::mode)).unwrap_or(DEFAULT_FILE);
        let (uid, gid) = match (&owner, &before) {
            (Some(owner), _) => (owner.uid, owner.gid),
            (None, Some(before)) => (before.uid(), before.gid()),
            (None, None) => (0, 0),
        };
        fchown(&draft.file, Some(uid), Some(gid))
            .and_then(|()| draft.file.set_permissions(Permissions::from_mode(mode & 0o7777)))
            .map_err(|error| failed("set the owner and permissions of", &draft.target, &error))?;
        Ok(draft)
    }

    fn keep(mut self) -> Result<(), Failure> {
        fs::rename(&self.path, &self.target)
            .map_err(|error| failed("write", &self.target, &error))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            // A guest may have removed it already.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn open(path: &Name) -> Result<(File, FsMetadata), Failure> {
    check(path)?;
    let path = to_path(path);
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
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

fn make_dirs(path: &Path, owner: Option<&User>) -> Result<(), Failure> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        make_dirs(above, owner)?;
    }
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            return Ok(());
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(refusal(FailureKind::NotADirectory, path, "it is not a folder"));
        }
        Err(error) => return Err(failed("make the folder", path, &error)),
    }
    fs::set_permissions(path, Permissions::from_mode(DEFAULT_DIR))
        .and_then(|()| match owner {
            Some(owner) => chown(path, Some(owner.uid), Some(owner.gid)),
            None => Ok(()),
        })
        .map_err(|error| failed("make the folder", path, &error))
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
