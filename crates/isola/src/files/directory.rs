//! Reading directories a piece at a time: the host holds one piece of each,
//! however large the directory is.

use std::{collections::VecDeque, fs::File, io};

use wasmtime_wasi::p2::bindings::filesystem::types::{DescriptorType, DirectoryEntry, ErrorCode};

use super::{descriptors::Descriptor, errors};

/// Entries that are read at once.
const ENTRIES_AT_ONCE: usize = 128;

/// A directory that is being read.
pub(super) struct DirectoryStream {
    /// Entries that the guest did not take yet, and at the end the reason why
    /// there are no more.
    pub(super) ready: VecDeque<Result<DirectoryEntry, ErrorCode>>,
    /// `None` while it is being read, and at the end.
    pub(super) reader: Option<Reader>,
}

impl DirectoryStream {
    pub(super) fn new(reader: Reader) -> Self {
        Self { ready: VecDeque::new(), reader: Some(reader) }
    }
}

/// The position in a directory, on a descriptor of its own.
pub(super) struct Reader {
    entries: Entries,
    _descriptor: Descriptor,
}

impl Reader {
    /// Begins to read a directory.
    pub(super) fn open(directory: &File, descriptor: Descriptor) -> io::Result<Self> {
        Ok(Self { entries: entries(directory)?, _descriptor: descriptor })
    }

    /// Reads the next entries, and says whether there may be more.
    ///
    /// A name that is not UTF-8 has no form in WASI: it is left out, as if it
    /// were not there. What cannot be read any further ends the directory.
    pub(super) fn next(&mut self) -> (VecDeque<Result<DirectoryEntry, ErrorCode>>, bool) {
        let mut ready = VecDeque::new();
        // Names that are left out count, so that this ends.
        for _ in 0..ENTRIES_AT_ONCE {
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

/// An entry; `None` for one that guests do not see.
type Found = io::Result<Option<DirectoryEntry>>;

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
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
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
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
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
