//! Reading of directories in parts: the host holds one part of each, independent
//! of the directory's size.

use std::{collections::VecDeque, fs::File, io};

use wasmtime_wasi::p2::bindings::filesystem::types::{DescriptorType, DirectoryEntry, ErrorCode};

use super::{descriptors::DescriptorPermit, errors};

/// The maximum number of entries per read.
const MAX_ENTRIES_PER_READ: usize = 128;

/// A directory that is being read.
pub(super) struct DirectoryStream {
    /// The entries that the guest has not taken yet, followed by the error that
    /// ended the reading, if there was one.
    pub(super) ready: VecDeque<Result<DirectoryEntry, ErrorCode>>,
    /// The reader; `None` while a read is running, and at the end.
    pub(super) reader: Option<DirectoryReader>,
}

impl DirectoryStream {
    pub(super) fn new(reader: DirectoryReader) -> Self {
        Self { ready: VecDeque::new(), reader: Some(reader) }
    }
}

/// A reader with a position in a directory and a descriptor of its own.
pub(super) struct DirectoryReader {
    entries: Entries,
    _permit: DescriptorPermit,
}

impl DirectoryReader {
    /// Opens a directory for reading.
    pub(super) fn open(directory: &File, permit: DescriptorPermit) -> io::Result<Self> {
        Ok(Self { entries: entries(directory)?, _permit: permit })
    }

    /// Reads the next entries, and reports whether there may be more.
    ///
    /// An entry whose name is not UTF-8 is skipped, because WASI cannot represent
    /// it. A read error ends the directory.
    pub(super) fn next(&mut self) -> (VecDeque<Result<DirectoryEntry, ErrorCode>>, bool) {
        let mut ready = VecDeque::new();
        // Skipped names count, so that the loop ends.
        for _ in 0..MAX_ENTRIES_PER_READ {
            match self.entries.next() {
                None => return (ready, false),
                Some(Err(error)) => {
                    ready.push_back(Err(errors::code(&error)));
                    return (ready, false);
                }
                Some(Ok(None)) => {}
                Some(Ok(Some(entry))) => ready.push_back(Ok(entry)),
            }
        }
        (ready, true)
    }
}

/// A read entry; `None` for one that is hidden from guests.
type EntryResult = io::Result<Option<DirectoryEntry>>;

#[cfg(unix)]
struct Entries(rustix::fs::Dir);

#[cfg(unix)]
fn entries(directory: &File) -> io::Result<Entries> {
    use rustix::fs::{Dir, Mode, OFlags, openat};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(Entries(Dir::new(openat(directory, ".", flags, Mode::empty())?)?))
}

#[cfg(unix)]
impl Iterator for Entries {
    type Item = EntryResult;

    fn next(&mut self) -> Option<EntryResult> {
        use rustix::fs::{AtFlags, FileType, statat};
        let entry = match self.0.read()? {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error.into())),
        };
        let Ok(name) = entry.file_name().to_str() else { return Some(Ok(None)) };
        if name == "." || name == ".." {
            return Some(Ok(None));
        }
        let mut kind = entry.file_type();
        if kind == FileType::Unknown
            && let Ok(directory) = self.0.fd()
            && let Ok(found) = statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
        {
            kind = FileType::from_raw_mode(found.st_mode);
        }
        let type_ = match kind {
            FileType::RegularFile => DescriptorType::RegularFile,
            FileType::Directory => DescriptorType::Directory,
            FileType::Symlink => DescriptorType::SymbolicLink,
            FileType::Fifo => DescriptorType::Fifo,
            FileType::Socket => DescriptorType::Socket,
            FileType::CharacterDevice => DescriptorType::CharacterDevice,
            FileType::BlockDevice => DescriptorType::BlockDevice,
            FileType::Unknown => DescriptorType::Unknown,
        };
        Some(Ok(Some(DirectoryEntry { type_, name: name.to_owned() })))
    }
}

#[cfg(not(unix))]
struct Entries(cap_primitives::fs::ReadDir);

#[cfg(not(unix))]
fn entries(directory: &File) -> io::Result<Entries> {
    cap_primitives::fs::read_base_dir(directory).map(Entries)
}

#[cfg(not(unix))]
impl Iterator for Entries {
    type Item = EntryResult;

    fn next(&mut self) -> Option<EntryResult> {
        let entry = match self.0.next()? {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        let Ok(name) = entry.file_name().into_string() else { return Some(Ok(None)) };
        let type_ = match entry.file_type() {
            Ok(kind) if kind.is_dir() => DescriptorType::Directory,
            Ok(kind) if kind.is_symlink() => DescriptorType::SymbolicLink,
            Ok(kind) if kind.is_file() => DescriptorType::RegularFile,
            _ => DescriptorType::Unknown,
        };
        Some(Ok(Some(DirectoryEntry { type_, name })))
    }
}
