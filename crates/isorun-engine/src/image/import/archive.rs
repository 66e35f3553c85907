//! Files by name: out of a folder, or out of a tar archive without unpacking it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Take};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use crate::image::compression::decompress;
use crate::image::error::{Error, Result};
use crate::image::limits::Limits;
use crate::image::store::Store;
use crate::image::unpack::{Archive, Fault, Kind};

/// Files of an archive that is imported.
const MAX_FILES: u64 = 100_000;
/// Bytes of their names, and of what its links point to.
const MAX_NAME_BYTES: usize = 32 << 20;

/// A folder, or an archive whose files' places are known.
pub(super) enum Contents {
    Folder(OwnedFd),
    Archive { file: File, places: HashMap<String, Place> },
}

pub(super) enum Place {
    File {
        offset: u64,
        size: u64,
    },
    /// `docker save` once wrote a layer that comes twice as a link.
    Link(String),
}

impl Contents {
    pub(super) fn folder(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::at("open what is to be imported", path)(errno.into()))?;
        Ok(Contents::Folder(fd))
    }

    pub(super) fn archive(store: &Store, file: File, limits: &Limits) -> Result<Self> {
        let file = plain(store, file, limits)?;
        let mut places = HashMap::new();
        scan(&file, limits, |name, place| {
            places.insert(name, place);
        })?;
        Ok(Contents::Archive { file, places })
    }

    /// A file, for reading.
    pub(super) fn open(&self, name: &str) -> Result<Take<File>> {
        let missing = || Error::Malformed {
            what: "what is to be imported".to_owned(),
            reason: format!("it has no file {:?}", name.chars().take(200).collect::<String>()),
        };
        match self {
            Contents::Folder(folder) => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                let fd = rustix::fs::openat2(folder.as_fd(), name, flags, Mode::empty(), resolve)
                    .map_err(|_| missing())?;
                let stat = rustix::fs::fstat(&fd).map_err(|_| missing())?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(missing());
                }
                Ok(File::from(fd).take(u64::MAX))
            }
            Contents::Archive { file, places } => {
                let mut name = name.to_owned();
                for _ in 0..8 {
                    match places.get(&name).ok_or_else(missing)? {
                        Place::File { offset, size } => {
                            let failed = Error::io("read what is to be imported");
                            // The same file opened once more has a place of its own.
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
                        Place::Link(target) => name.clone_from(target),
                    }
                }
                Err(missing())
            }
        }
    }

    /// A small file, whole.
    pub(super) fn document(&self, name: &str, limits: &Limits) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(name)?
            .take(limits.document + 1)
            .read_to_end(&mut bytes)
            .map_err(Error::io("read what is to be imported"))?;
        if bytes.len() as u64 > limits.document {
            return Err(Error::TooLarge {
                what: format!("{name} of what is to be imported"),
                limit: format!("{} bytes", limits.document),
            });
        }
        Ok(bytes)
    }
}

/// The names at the top of an archive.
pub(super) fn names(file: &mut File, limits: &Limits) -> Result<Vec<String>> {
    let failed = |error| Error::io("read what is to be imported")(error);
    let mut names = Vec::new();
    let reader = decompress(&mut *file).map_err(failed)?;
    let reader = io::BufReader::with_capacity(128 << 10, reader.take(limits.unpacked));
    let mut archive = Archive::new(reader, limits);
    while let Some(entry) = archive.next_entry().map_err(broken)? {
        let name = clean(&entry.path);
        // What is looked for has a short name.
        if name.len() <= 255 && !name.contains('/') && names.len() < 10_000 {
            names.push(name);
        }
    }
    Ok(names)
}

/// The archive without its compression.
fn plain(store: &Store, mut file: File, limits: &Limits) -> Result<File> {
    let failed = || Error::io("read what is to be imported");
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

/// Finds where in a plain archive its files are.
fn scan(file: &File, limits: &Limits, mut found: impl FnMut(String, Place)) -> Result<()> {
    let mut archive = Archive::new(Positioned { file, at: 0 }, limits);
    let (mut entries, mut bytes) = (0_u64, 0);
    while let Some(entry) = archive.next_entry().map_err(broken)? {
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
        let name = clean(&entry.path);
        match entry.kind {
            Kind::File => {
                let offset = archive.get_ref().at;
                found(name, Place::File { offset, size: entry.size });
            }
            Kind::Symlink => {
                let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                let target = String::from_utf8_lossy(&entry.link);
                found(name.clone(), Place::Link(join(folder, &target)));
            }
            Kind::Hardlink => found(name, Place::Link(clean(&entry.link))),
            _ => {}
        }
    }
    Ok(())
}

/// Reads a file, and skips what nobody wants by seeking.
struct Positioned<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = std::os::unix::fs::FileExt::read_at(self.file, buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

fn broken(fault: Fault) -> Error {
    let reason = match fault {
        Fault::Format(reason) => reason,
        Fault::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it is cut off".to_owned()
        }
        Fault::Read(error) => error.to_string(),
    };
    Error::Malformed { what: "what is to be imported".to_owned(), reason }
}

/// A path without what says nothing.
fn clean(path: &[u8]) -> String {
    join("", &String::from_utf8_lossy(path))
}

fn join(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let from = if path.starts_with('/') { "" } else { folder };
    for part in from.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
