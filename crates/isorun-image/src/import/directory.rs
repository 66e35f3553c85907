//! Packs a directory into a tar archive: owners, permissions, times, links, FIFOs and
//! extended attributes, in a deterministic order.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use tar::{EntryType, Header};

use crate::error::{Error, Result};
use crate::limits::Limits;

/// Packs all entries below a directory. Content of mounts, sockets and device nodes
/// are left out.
pub(super) fn pack(directory: &Path, into: &mut File, limits: &Limits) -> Result<()> {
    let failed = |path: &Path| Error::at("pack a directory", path.to_path_buf());
    let top = fs::metadata(directory).map_err(failed(directory))?;
    let mut builder = tar::Builder::new(io::BufWriter::with_capacity(256 << 10, into));
    let mut links: HashMap<u64, Vec<u8>> = HashMap::new();
    // The remaining entries, in reverse order.
    let mut stack: Vec<Vec<u8>> = vec![Vec::new()];
    let mut entries = 0_u64;
    while let Some(name) = stack.pop() {
        entries += 1;
        if entries > limits.entries {
            return Err(Error::TooLarge {
                what: "the number of files in the directory".to_owned(),
                limit: format!("{} entries", limits.entries),
            });
        }
        let path = directory.join(OsStr::from_bytes(&name));
        let found = if name.is_empty() {
            top.clone()
        } else {
            fs::symlink_metadata(&path).map_err(failed(&path))?
        };
        if found.is_dir() && found.dev() == top.dev() {
            let mut children = Vec::new();
            for entry in fs::read_dir(&path).map_err(failed(&path))? {
                let mut entry_name = name.clone();
                if !entry_name.is_empty() {
                    entry_name.push(b'/');
                }
                entry_name.extend_from_slice(entry.map_err(failed(&path))?.file_name().as_bytes());
                children.push(entry_name);
            }
            children.sort_unstable_by(|a, b| b.cmp(a));
            stack.append(&mut children);
        }
        append(&mut builder, &path, &name, &found, &mut links).map_err(failed(&path))?;
    }
    let mut writer = builder.into_inner().map_err(failed(directory))?;
    writer.flush().map_err(failed(directory))
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
    set_name(&mut header.as_old_mut().name, shown, "path", &mut records);
    set_name(&mut header.as_old_mut().linkname, &link, "linkpath", &mut records);
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
            let mut file = ExactReader { file, left: size };
            builder.append(&header, &mut file)
        }
        None => builder.append(&header, io::empty()),
    }
}

/// Writes a name into its field, or as a pax record too if it does not fit.
fn set_name(field: &mut [u8; 100], name: &[u8], key: &str, records: &mut Vec<(String, Vec<u8>)>) {
    if name.len() > field.len() {
        records.push((key.to_owned(), name.to_vec()));
    }
    let fitting = name.len().min(field.len());
    field[..fitting].copy_from_slice(&name[..fitting]);
}

/// Reads the extended attributes that unpacking supports, as pax records.
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

/// A reader of exactly the announced size, so that a file that changes while it is
/// packed does not corrupt the archive.
struct ExactReader {
    file: File,
    left: u64,
}

impl io::Read for ExactReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let max_bytes = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read(&mut buffer[..max_bytes])?;
        if count == 0 && max_bytes > 0 {
            return Err(io::Error::other("the file became shorter while it was read"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}
