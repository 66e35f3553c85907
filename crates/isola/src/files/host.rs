//! Operations on the host's files, as plain functions that block during disk I/O.
//!
//! No function waits for another process: only regular files and directories are
//! opened, in non-blocking mode, so that neither opening nor reading waits for a
//! writer.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use cap_primitives::fs::{self, FollowSymlinks, Metadata, OpenOptions};
use wasmtime_wasi::p2::bindings::{
    clocks::wall_clock::Datetime,
    filesystem::types::{DescriptorStat, DescriptorType, ErrorCode, MetadataHashValue},
};

/// The maximum number of bytes per read or write, and thus the size of the host's
/// buffer.
pub(super) const MAX_TRANSFER_BYTES: usize = 64 << 10;

/// The options for opening a file.
#[derive(Clone, Copy)]
pub(super) struct OpenHow {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) create: bool,
    pub(super) exclusive: bool,
    pub(super) truncate: bool,
    /// Fails unless it is a directory.
    pub(super) directory: bool,
    pub(super) follow: bool,
}

/// Opens a regular file or a directory beneath `start`, and reports whether it is
/// a directory.
pub(super) fn open(start: &File, path: &str, how: OpenHow) -> io::Result<(File, bool)> {
    // Opening a device or a pipe can have side effects, so it is not attempted. If
    // one replaces the file after this check, it is opened in non-blocking mode and
    // closed again.
    if let Ok(found) = fs::stat(start, Path::new(path), follow(how.follow)) {
        check_kind(found.is_file() || found.is_dir() || found.is_symlink())?;
    }
    let mut options = OpenOptions::new();
    options
        .read(how.read)
        .write(how.write || how.create || how.truncate)
        .truncate(how.truncate)
        ._cap_fs_ext_follow(follow(how.follow));
    if how.create {
        if how.exclusive {
            options.create_new(true)
        } else {
            options.create(true)
        };
    }
    set_nonblocking(&mut options);
    let file = fs::open(start, Path::new(path), &options)?;
    let found = file.metadata()?;
    check_kind(found.is_file() || found.is_dir())?;
    if how.directory && !found.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok((file, found.is_dir()))
}

/// Opens a directory for operations that a mounted one does not permit: it is
/// opened only as the start of paths.
pub(super) fn open_directory(start: &File, path: &str) -> io::Result<File> {
    let how = OpenHow {
        read: true,
        write: false,
        create: false,
        exclusive: false,
        truncate: false,
        directory: true,
        follow: true,
    };
    Ok(open(start, path, how)?.0)
}

fn check_kind(known: bool) -> io::Result<()> {
    if known { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

#[cfg(unix)]
fn set_nonblocking(options: &mut OpenOptions) {
    use cap_primitives::fs::OpenOptionsExt;
    use rustix::fs::OFlags;
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    options.custom_flags(flags.cast_signed());
}

#[cfg(not(unix))]
fn set_nonblocking(_: &mut OpenOptions) {}

fn follow(links: bool) -> FollowSymlinks {
    if links { FollowSymlinks::Yes } else { FollowSymlinks::No }
}

/// Reports whether the form of a path requires a directory, so that a link at its
/// end is followed.
fn names_directory(path: &str) -> bool {
    path.ends_with('/') || path.ends_with("/.")
}

fn metadata(start: &File, path: &str, links: bool) -> io::Result<Metadata> {
    let directory = names_directory(path);
    let found = fs::stat(start, Path::new(path), follow(links || directory))?;
    if directory && !found.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(found)
}

pub(super) fn stat_at(start: &File, path: &str, links: bool) -> io::Result<DescriptorStat> {
    metadata(start, path, links).map(|found| stat_of(&found))
}

pub(super) fn stat(file: &File) -> io::Result<DescriptorStat> {
    Metadata::from_file(file).map(|found| stat_of(&found))
}

pub(super) fn hash_at(start: &File, path: &str, links: bool) -> io::Result<MetadataHashValue> {
    metadata(start, path, links).map(|found| hash_of(&found))
}

pub(super) fn hash(file: &File) -> io::Result<MetadataHashValue> {
    Metadata::from_file(file).map(|found| hash_of(&found))
}

pub(super) fn kind(file: &File) -> io::Result<DescriptorType> {
    Metadata::from_file(file).map(|found| kind_of(found.file_type()))
}

fn stat_of(found: &Metadata) -> DescriptorStat {
    #[cfg(unix)]
    let (links, changed) = {
        use cap_primitives::fs::MetadataExt;
        (found.nlink(), datetime(found.ctime(), found.ctime_nsec()))
    };
    #[cfg(not(unix))]
    let (links, changed) = (1, None);
    let time = |time: io::Result<cap_primitives::time::SystemTime>| {
        let (seconds, nanoseconds) = since_epoch(time.ok()?.into_std());
        datetime(seconds, nanoseconds)
    };
    DescriptorStat {
        type_: kind_of(found.file_type()),
        link_count: links,
        size: found.len(),
        data_access_timestamp: time(found.accessed()),
        data_modification_timestamp: time(found.modified()),
        status_change_timestamp: changed,
    }
}

fn kind_of(kind: fs::FileType) -> DescriptorType {
    #[cfg(unix)]
    {
        use cap_primitives::fs::FileTypeExt;
        if kind.is_fifo() {
            return DescriptorType::Fifo;
        } else if kind.is_socket() {
            return DescriptorType::Socket;
        } else if kind.is_char_device() {
            return DescriptorType::CharacterDevice;
        } else if kind.is_block_device() {
            return DescriptorType::BlockDevice;
        }
    }
    if kind.is_dir() {
        DescriptorType::Directory
    } else if kind.is_symlink() {
        DescriptorType::SymbolicLink
    } else if kind.is_file() {
        DescriptorType::RegularFile
    } else {
        DescriptorType::Unknown
    }
}

/// Returns a number that identifies a file without revealing its inode.
fn hash_of(found: &Metadata) -> MetadataHashValue {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    #[cfg(unix)]
    {
        use cap_primitives::fs::MetadataExt;
        (found.dev(), found.ino()).hash(&mut hasher);
    }
    #[cfg(not(unix))]
    (found.len(), found.created().ok().map(|time| since_epoch(time.into_std()))).hash(&mut hasher);
    let lower = hasher.finish();
    0x6973_6f6c_6100_0001_u64.hash(&mut hasher);
    MetadataHashValue { lower, upper: hasher.finish() }
}

/// Converts a time to that of WASI, whose seconds are unsigned: times before 1970
/// are passed in two's complement, which C libraries convert back to a signed
/// number.
fn datetime(seconds: i64, nanoseconds: i64) -> Option<Datetime> {
    let nanoseconds = u32::try_from(nanoseconds).ok()?;
    Some(Datetime { seconds: seconds.cast_unsigned(), nanoseconds })
}

/// Converts a time to that of WASI.
pub(super) fn timestamp(time: SystemTime) -> Option<Datetime> {
    let (seconds, nanoseconds) = since_epoch(time);
    datetime(seconds, nanoseconds)
}

/// Returns the seconds since 1970, rounded down, and the nanoseconds after them.
pub(super) fn since_epoch(time: SystemTime) -> (i64, i64) {
    let signed = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (signed(after.as_secs()), i64::from(after.subsec_nanos())),
        Err(error) => {
            let before = error.duration();
            match i64::from(before.subsec_nanos()) {
                0 => (-signed(before.as_secs()), 0),
                nanoseconds => (-signed(before.as_secs()) - 1, 1_000_000_000 - nanoseconds),
            }
        }
    }
}

/// Converts a time of WASI; the inverse of [`datetime`].
pub(super) fn system_time(time: Datetime) -> Result<SystemTime, ErrorCode> {
    let seconds = time.seconds.cast_signed();
    let fraction = Duration::from_nanos(u64::from(time.nanoseconds));
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    let second =
        if seconds < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) };
    second.and_then(|second| second.checked_add(fraction)).ok_or(ErrorCode::Overflow)
}

/// The times of a file's last access and modification; `None` leaves one unchanged.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) accessed: Option<SystemTime>,
    pub(super) modified: Option<SystemTime>,
}

pub(super) fn set_times(file: &File, times: Times) -> io::Result<()> {
    let mut set = std::fs::FileTimes::new();
    if let Some(time) = times.accessed {
        set = set.set_accessed(time);
    }
    if let Some(time) = times.modified {
        set = set.set_modified(time);
    }
    file.set_times(set)
}

/// Sets the times of an entry, and opens it only if it is a directory.
pub(super) fn set_times_at(start: &File, path: &str, links: bool, times: Times) -> io::Result<()> {
    let links = links || names_directory(path);
    let mut target = PathBuf::from(path);
    if metadata(start, path, links)?.is_dir() {
        return set_times(&open_directory(start, path)?, times);
    }
    if links {
        target = fs::canonicalize(start, &target)?;
    }
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if parent.as_os_str().is_empty() {
        set_entry_times(start, name, times)
    } else {
        set_entry_times(&fs::open_dir(start, parent)?, name, times)
    }
}

/// Sets the times of an entry, which may be a link. The function of
/// `cap-primitives` is not used because it panics for times before 1970.
#[cfg(unix)]
fn set_entry_times(directory: &File, name: &OsStr, times: Times) -> io::Result<()> {
    use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_OMIT, utimensat};
    let spec = |time: Option<SystemTime>| match time.map(since_epoch) {
        Some((tv_sec, tv_nsec)) => Timespec { tv_sec, tv_nsec },
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    };
    let times =
        Timestamps { last_access: spec(times.accessed), last_modification: spec(times.modified) };
    Ok(utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(not(unix))]
fn set_entry_times(directory: &File, name: &OsStr, times: Times) -> io::Result<()> {
    let spec = |time: Option<SystemTime>| {
        time.map(cap_primitives::time::SystemTime::from_std).map(fs::SystemTimeSpec::Absolute)
    };
    fs::set_times_nofollow(directory, Path::new(name), spec(times.accessed), spec(times.modified))
}

pub(super) fn create_dir(start: &File, path: &str) -> io::Result<()> {
    fs::create_dir(start, Path::new(path), &fs::DirOptions::new())
}

pub(super) fn remove_dir(start: &File, path: &str) -> io::Result<()> {
    fs::remove_dir(start, Path::new(path))
}

pub(super) fn remove_file(start: &File, path: &str) -> io::Result<()> {
    fs::remove_file(start, Path::new(path))
}

#[cfg(unix)]
pub(super) fn symlink(target: &str, start: &File, path: &str) -> io::Result<()> {
    fs::symlink(Path::new(target), start, Path::new(path))
}

#[cfg(not(unix))]
pub(super) fn symlink(target: &str, start: &File, path: &str) -> io::Result<()> {
    fs::symlink_file(Path::new(target), start, Path::new(path))
}

pub(super) fn read_link(start: &File, path: &str) -> io::Result<String> {
    let target = fs::read_link(start, Path::new(path))?;
    target.into_os_string().into_string().map_err(|_| io::ErrorKind::InvalidData.into())
}

pub(super) fn hard_link(start: &File, path: &str, to: &File, new: &str) -> io::Result<()> {
    fs::hard_link(start, Path::new(path), to, Path::new(new))
}

pub(super) fn rename(start: &File, path: &str, to: &File, new: &str) -> io::Result<()> {
    fs::rename(start, Path::new(path), to, Path::new(new))
}

pub(super) fn is_same(a: &File, b: &File) -> io::Result<bool> {
    let (a, b) = (hash(a)?, hash(b)?);
    Ok((a.lower, a.upper) == (b.lower, b.upper))
}

/// Flushes a file's content and, unless `content_only`, its metadata.
pub(super) fn sync(file: &File, content_only: bool) -> io::Result<()> {
    if content_only { file.sync_data() } else { file.sync_all() }
}

/// Reads up to [`MAX_TRANSFER_BYTES`] bytes.
pub(super) fn read(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; length.min(MAX_TRANSFER_BYTES)];
    let length = loop {
        match read_at(file, &mut buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result?,
        }
    };
    buffer.truncate(length);
    Ok(buffer)
}

/// The position at which a write starts.
#[derive(Clone, Copy)]
pub(super) enum Position {
    At(u64),
    End,
}

/// Writes all bytes, and returns their number.
pub(super) fn write(file: &File, bytes: &[u8], position: Position) -> io::Result<u64> {
    let mut written = 0_usize;
    while written < bytes.len() {
        let rest = &bytes[written..];
        let result = match position {
            Position::At(offset) => {
                let offset = offset.saturating_add(written as u64);
                check_size(offset.saturating_add(rest.len() as u64))?;
                write_at(file, rest, offset)
            }
            Position::End => {
                check_size(file.metadata()?.len().saturating_add(rest.len() as u64))?;
                append(file, rest)
            }
        };
        match result {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => written += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written as u64)
}

pub(super) fn set_size(file: &File, size: u64) -> io::Result<()> {
    check_size(size)?;
    file.set_len(size)
}

/// Refuses a size beyond the process's file size limit: the kernel would send
/// `SIGXFSZ`, which terminates a process without a handler.
#[cfg(unix)]
fn check_size(size: u64) -> io::Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize);
    match limit.current {
        Some(limit) if size > limit => Err(io::ErrorKind::FileTooLarge.into()),
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn check_size(_: u64) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

#[cfg(windows)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, bytes, offset)
}

#[cfg(unix)]
fn append(file: &File, bytes: &[u8]) -> io::Result<usize> {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    #[cfg(target_os = "linux")]
    {
        use rustix::io::{Errno, ReadWriteFlags, pwritev2};
        match pwritev2(file, &[io::IoSlice::new(bytes)], 0, ReadWriteFlags::APPEND) {
            Err(Errno::NOSYS | Errno::NOTSUP) => {}
            result => return Ok(result?),
        }
    }
    let flags = fcntl_getfl(file)?;
    fcntl_setfl(file, flags | OFlags::APPEND)?;
    let result = rustix::io::write(file, bytes);
    fcntl_setfl(file, flags)?;
    Ok(result?)
}

#[cfg(not(unix))]
fn append(file: &File, bytes: &[u8]) -> io::Result<usize> {
    write_at(file, bytes, file.metadata()?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip() {
        for (seconds, nanoseconds) in
            [(0, 0), (1, 999_999_999), (-1, 0), (-1, 1), (-2_000_000_000, 5), (4_000_000_000, 0)]
        {
            let time = datetime(seconds, nanoseconds).unwrap();
            let there = system_time(time).unwrap();
            assert_eq!(since_epoch(there), (seconds, nanoseconds));
        }
        assert!(datetime(0, -1).is_none());
    }
}
