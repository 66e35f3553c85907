//! Packs a folder into a tar archive: owners, rights, times, links, pipes and
//! extended attributes, in an order that is always the same.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use tar::{EntryType, Header};

use crate::image::error::{Error, Result};
use crate::image::limits::Limits;

/// Packs everything below a folder. What is mounted in it stays out, and so do
/// sockets and device nodes.
pub(super) fn pack(folder: &Path, into: &mut File, limits: &Limits) -> Result<()> {
    let failed = |path: &Path| Error::at("pack a folder", path.to_path_buf());
    let top = fs::metadata(folder).map_err(failed(folder))?;
    let mut builder = tar::Builder::new(io::BufWriter::with_capacity(256 << 10, into));
    let mut links: HashMap<u64, Vec<u8>> = HashMap::new();
    // What is left to do, last first.
    let mut stack: Vec<Vec<u8>> = vec![Vec::new()];
    let mut entries = 0_u64;
    while let Some(name) = stack.pop() {
        entries += 1;
        if entries > limits.entries {
            return Err(Error::TooLarge {
                what: "the number of files in the folder".to_owned(),
                limit: format!("{} entries", limits.entries),
            });
        }
        let path = folder.join(OsStr::from_bytes(&name));
        let found = if name.is_empty() {
            top.clone()
        } else {
            fs::symlink_metadata(&path).map_err(failed(&path))?
        };
        if found.is_dir() && found.dev() == top.dev() {
            let mut inner = Vec::new();
            for entry in fs::read_dir(&path).map_err(failed(&path))? {
                let mut entry_name = name.clone();
                if !entry_name.is_empty() {
                    entry_name.push(b'/');
                }
                entry_name.extend_from_slice(entry.map_err(failed(&path))?.file_name().as_bytes());
                inner.push(entry_name);
            }
            inner.sort_unstable_by(|a, b| b.cmp(a));
            stack.append(&mut inner);
        }
        append(&mut builder, &path, &name, &found, &mut links).map_err(failed(&path))?;
    }
    let mut writer = builder.into_inner().map_err(failed(folder))?;
    writer.flush().map_err(failed(folder))
}

fn append<W: io::Write>(
    builder: &mut tar::Builder<W>,
    path: &Path,
    name: &[u8],
    found: &Metadata,
    links: &mut HashMap<u64, Vec<u8>>,
) -> io::Result<()> {
    let kind = found.file_type();
    let mut header = Header::new_gnu();
    header.set_mode(found.mode() & 0o7777);
    header.set_uid(found.uid().into());
    header.set_gid(found.gid().into());
    header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
    header.set_size(0);
    let mut link = Vec::new();
    let mut content = None;
    if kind.is_dir() {
        header.set_entry_type(EntryType::Directory);
    } else if kind.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        link = fs::read_link(path)?.as_os_str().as_bytes().to_vec();
    } else if kind.is_fifo() {
        header.set_entry_type(EntryType::Fifo);
    } else if kind.is_file() {
        if let Some(first) = links.get(&found.ino()) {
            header.set_entry_type(EntryType::Link);
            link.clone_from(first);
        } else {
            if found.nlink() > 1 {
                links.insert(found.ino(), name.to_vec());
            }
            header.set_entry_type(EntryType::Regular);
            let file = File::open(path)?;
            header.set_size(file.metadata()?.len());
            content = Some(file);
        }
    } else {
        return Ok(());
    }
    let mut records: Vec<(String, Vec<u8>)> = Vec::new();
    let shown = if name.is_empty() { b"./" } else { name };
    put(&mut header.as_old_mut().name, shown, "path", &mut records);
    put(&mut header.as_old_mut().linkname, &link, "linkpath", &mut records);
    if content.is_some() || kind.is_dir() {
        records.extend(xattrs(path));
    }
    builder.append_pax_extensions(
        records.iter().map(|(key, value)| (key.as_str(), value.as_slice())),
    )?;
    header.set_cksum();
    match content {
        Some(file) => {
            let size = header.entry_size()?;
            let mut file = Exactly { file, left: size };
            builder.append(&header, &mut file)
        }
        None => builder.append(&header, io::empty()),
    }
}

/// Writes a name into its field, and what does not fit as a record.
fn put(field: &mut [u8; 100], name: &[u8], key: &str, records: &mut Vec<(String, Vec<u8>)>) {
    if name.len() > field.len() {
        records.push((key.to_owned(), name.to_vec()));
    }
    let fitting = name.len().min(field.len());
    field[..fitting].copy_from_slice(&name[..fitting]);
}

/// The attributes that an unpacked image can have.
fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; 64 << 10];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names) else { return Vec::new() };
    let mut records = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        if name != "security.capability" && !name.starts_with("user.") {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        if let Ok(length) = rustix::fs::lgetxattr(path, name, &mut value) {
            value.truncate(length);
            records.push((format!("SCHILY.xattr.{name}"), value));
        }
    }
    records
}

/// A file that changes while it is packed must not break the archive.
struct Exactly {
    file: File,
    left: u64,
}

impl io::Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read(&mut buffer[..most])?;
        if count == 0 && most > 0 {
            return Err(io::Error::other("the file became shorter while it was read"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}
