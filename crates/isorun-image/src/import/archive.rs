//! Reads files by name from a directory, or from a tar archive without unpacking it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Take};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use crate::compression::decompress;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::store::Store;
use crate::unpack::{Archive, ArchiveError, EntryKind};

/// The largest number of files in an imported archive.
const MAX_FILES: u64 = 100_000;
/// The largest size of all names and link targets in an imported archive, in bytes.
const MAX_NAME_BYTES: usize = 32 << 20;

/// A directory, or an archive with the locations of its files.
pub(super) enum Contents {
    Directory(OwnedFd),
    Archive { file: File, locations: HashMap<String, FileLocation> },
}

/// The location of a file in an archive.
pub(super) enum FileLocation {
    File {
        offset: u64,
        size: u64,
    },
    /// A link to another file. Old versions of `docker save` wrote duplicate layers
    /// as links.
    Link(String),
}

impl Contents {
    pub(super) fn directory(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::at("open the import source", path)(errno.into()))?;
        Ok(Contents::Directory(fd))
    }

    pub(super) fn archive(store: &Store, file: File, limits: &Limits) -> Result<Self> {
        let file = decompressed(store, file, limits)?;
        let mut locations = HashMap::new();
        scan(&file, limits, |name, location| {
            locations.insert(name, location);
        })?;
        Ok(Contents::Archive { file, locations })
    }

    /// Opens a file for reading.
    pub(super) fn open(&self, name: &str) -> Result<Take<File>> {
        let missing = || Error::Malformed {
            what: "the import source".to_owned(),
            reason: format!("it has no file {:?}", name.chars().take(200).collect::<String>()),
        };
        match self {
            Contents::Directory(directory) => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                let fd =
                    rustix::fs::openat2(directory.as_fd(), name, flags, Mode::empty(), resolve)
                        .map_err(|_| missing())?;
                let stat = rustix::fs::fstat(&fd).map_err(|_| missing())?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(missing());
                }
                Ok(File::from(fd).take(u64::MAX))
            }
            Contents::Archive { file, locations } => {
                let mut name = name.to_owned();
                for _ in 0..8 {
                    match locations.get(&name).ok_or_else(missing)? {
                        FileLocation::File { offset, size } => {
                            let failed = Error::io("read the import source");
                            // Opened again, since a duplicated descriptor shares its
                            // offset.
                            let path = format!("/proc/self/fd/{}", {
                                use std::os::fd::AsRawFd as _;
                                file.as_raw_fd()
                            });
                            let mut file = match File::open(path) {
                                Ok(file) => file,
                                Err(error) => return Err(failed(error)),
                            };
                            if let Err(error) = file.seek(SeekFrom::Start(*offset)) {
                                return Err(failed(error));
                            }
                            return Ok(file.take(*size));
                        }
                        FileLocation::Link(target) => name.clone_from(target),
                    }
                }
                Err(missing())
            }
        }
    }

    /// Reads a complete document, up to the limit.
    pub(super) fn document(&self, name: &str, limits: &Limits) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(name)?
            .take(limits.document + 1)
            .read_to_end(&mut bytes)
            .map_err(Error::io("read the import source"))?;
        if bytes.len() as u64 > limits.document {
            return Err(Error::TooLarge {
                what: format!("{name} of the import source"),
                limit: format!("{} bytes", limits.document),
            });
        }
        Ok(bytes)
    }
}

/// Lists the names at the top level of an archive.
pub(super) fn names(file: &mut File, limits: &Limits) -> Result<Vec<String>> {
    let failed = |error| Error::io("read the import source")(error);
    let mut names = Vec::new();
    let reader = decompress(&mut *file).map_err(failed)?;
    let reader = io::BufReader::with_capacity(128 << 10, reader.take(limits.unpacked));
    let mut archive = Archive::new(reader, limits);
    while let Some(entry) = archive.next_entry().map_err(archive_error)? {
        let name = normalize(&entry.path);
        // The names that identify a format are short.
        if name.len() <= 255 && !name.contains('/') && names.len() < 10_000 {
            names.push(name);
        }
    }
    Ok(names)
}

/// Decompresses an archive to a temporary file, unless it is uncompressed.
fn decompressed(store: &Store, mut file: File, limits: &Limits) -> Result<File> {
    let failed = || Error::io("read the import source");
    let mut magic = [0; 4];
    let is_plain = match file.read_exact(&mut magic) {
        Ok(()) => !matches!(magic, [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd]),
        Err(_) => true,
    };
    file.seek(SeekFrom::Start(0)).map_err(failed())?;
    if is_plain {
        return Ok(file);
    }
    let mut scratch = store.scratch()?;
    let mut reader = decompress(file).map_err(failed())?.take(limits.unpacked + 1);
    let size = io::copy(&mut reader, &mut scratch).map_err(failed())?;
    if size > limits.unpacked {
        return Err(Error::TooLarge {
            what: "the unpacked archive".to_owned(),
            limit: format!("{} bytes", limits.unpacked),
        });
    }
    scratch.seek(SeekFrom::Start(0)).map_err(failed())?;
    Ok(scratch)
}

/// Finds the locations of the files in an uncompressed archive.
fn scan(file: &File, limits: &Limits, mut found: impl FnMut(String, FileLocation)) -> Result<()> {
    let mut archive = Archive::new(PositionedReader { file, at: 0 }, limits);
    let (mut entries, mut bytes) = (0_u64, 0);
    while let Some(entry) = archive.next_entry().map_err(archive_error)? {
        entries += 1;
        if entries > MAX_FILES {
            return Err(Error::TooLarge {
                what: "the number of files in the archive".to_owned(),
                limit: MAX_FILES.to_string(),
            });
        }
        bytes += entry.path.len() + entry.link.len();
        if bytes > MAX_NAME_BYTES {
            return Err(Error::TooLarge {
                what: "the names of the files in the archive".to_owned(),
                limit: format!("{MAX_NAME_BYTES} bytes"),
            });
        }
        let name = normalize(&entry.path);
        match entry.kind {
            EntryKind::File => {
                let offset = archive.get_ref().at;
                found(name, FileLocation::File { offset, size: entry.size });
            }
            EntryKind::Symlink => {
                let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                let target = String::from_utf8_lossy(&entry.link);
                found(name.clone(), FileLocation::Link(join(directory, &target)));
            }
            EntryKind::Hardlink => found(name, FileLocation::Link(normalize(&entry.link))),
            _ => {}
        }
    }
    Ok(())
}

/// A reader of a file that keeps track of its position.
struct PositionedReader<'a> {
    file: &'a File,
    at: u64,
}

impl Read for PositionedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = std::os::unix::fs::FileExt::read_at(self.file, buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

fn archive_error(error: ArchiveError) -> Error {
    let reason = match error {
        ArchiveError::Format(reason) => reason,
        ArchiveError::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it is truncated".to_owned()
        }
        ArchiveError::Read(error) => error.to_string(),
    };
    Error::Malformed { what: "the import source".to_owned(), reason }
}

/// Normalizes a path: removes empty, `.` and `..` components.
fn normalize(path: &[u8]) -> String {
    join("", &String::from_utf8_lossy(path))
}

fn join(directory: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let from = if path.starts_with('/') { "" } else { directory };
    for part in from.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
