//! Archives of runtimes: files and folders, and nothing that leads out.
//!
//! Nothing here needs the rest of the crate: the fuzzer compiles this file
//! alone.

use std::{
    cell::Cell,
    fs::{self, File},
    io::{self, BufReader, Read},
    path::{Component, Path},
};

use flate2::read::GzDecoder;
use tar::{Archive, Entry, EntryType};

/// The largest size of the files of an archive in bytes, unpacked.
const MAX_UNPACKED: u64 = 2 << 30;

/// The largest number of entries of an archive.
const MAX_ENTRIES: usize = 10_000;

/// The largest size of what stands between the content of two files in bytes:
/// headers, and names that are too long for one. Its reader holds it in memory.
const MAX_BETWEEN: u64 = 1 << 20;

/// Unpacks an archive, a tar file compressed by gzip, into a folder that is
/// empty. The error says what is wrong with the archive, or with the disk.
pub(crate) fn unpack(archive: impl Read, folder: &Path) -> Result<(), String> {
    let budget = Cell::new(MAX_BETWEEN);
    let reader = Limited { inner: GzDecoder::new(BufReader::new(archive)), left: &budget };
    let mut archive = Archive::new(reader);
    let damaged = |error: io::Error| format!("it is damaged: {error}");
    let mut left = MAX_UNPACKED;
    for (number, entry) in archive.entries().map_err(damaged)?.enumerate() {
        let mut entry = entry.map_err(damaged)?;
        if number >= MAX_ENTRIES {
            return Err(format!("it has more than {MAX_ENTRIES} entries"));
        }
        let size = entry.size();
        left = left
            .checked_sub(size)
            .ok_or_else(|| format!("it unpacks to more than {MAX_UNPACKED} bytes"))?;
        budget.set(size.saturating_add(MAX_BETWEEN));
        write(&mut entry, folder)?;
        // What is left of the entry is skipped when the next is looked for.
        budget.set(MAX_BETWEEN);
    }
    Ok(())
}

fn write(entry: &mut Entry<'_, impl Read>, folder: &Path) -> Result<(), String> {
    let path = entry.path().map_err(|error| format!("it is damaged: {error}"))?.into_owned();
    let shown = path.display();
    // Not even one that is within: nobody has to look where it leads.
    let is_plain =
        path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !is_plain {
        return Err(format!("its entry {shown} leads out of its folder"));
    }
    let target = folder.join(&path);
    let failed = |error: io::Error| format!("{shown}: {error}");
    match entry.header().entry_type() {
        EntryType::Directory => fs::create_dir_all(&target).map_err(failed),
        EntryType::Regular => {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(failed)?;
            }
            // `create_new`: an entry that comes twice is no honest archive.
            let mut file =
                File::options().write(true).create_new(true).open(&target).map_err(failed)?;
            io::copy(entry, &mut file).map_err(failed)?;
            file.sync_all().map_err(failed)
        }
        EntryType::XGlobalHeader => Ok(()),
        _ => Err(format!("its entry {shown} is neither a file nor a folder")),
    }
}

/// Reads so many bytes, and then fails.
struct Limited<'a, R> {
    inner: R,
    left: &'a Cell<u64>,
}

impl<R: Read> Read for Limited<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        let left = self.left.get().checked_sub(read as u64).ok_or_else(|| {
            io::Error::other(format!("more than {MAX_BETWEEN} bytes stand between two files"))
        })?;
        self.left.set(left);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compression, write::GzEncoder};
    use tar::{Builder, Header};

    use super::*;

    type Tar = Builder<GzEncoder<Vec<u8>>>;

    /// What comes of unpacking an archive, and the names of what is there then.
    fn unpacked(fill: impl FnOnce(&mut Tar)) -> Result<Vec<String>, String> {
        let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        fill(&mut tar);
        let bytes = tar.into_inner().unwrap().finish().unwrap();
        let folder = tempfile::tempdir().unwrap();
        unpack(bytes.as_slice(), folder.path())?;
        let entries = fs::read_dir(folder.path()).unwrap();
        Ok(entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
    }

    fn entry(tar: &mut Tar, kind: EntryType, name: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content).unwrap();
    }

    #[test]
    fn files_and_folders_are_unpacked() {
        let long = format!("{}/x", "folder/".repeat(30));
        let mut names = unpacked(|tar| {
            entry(tar, EntryType::Regular, "a.wasm", &[1; 3 << 20]);
            entry(tar, EntryType::Directory, "b", b"");
            entry(tar, EntryType::Regular, &long, b"content");
        })
        .unwrap();
        names.sort();
        assert_eq!(names, ["a.wasm", "b", "folder"]);
    }

    #[test]
    fn what_takes_memory_or_time_is_refused() {
        // A name of 64 MiB, which compresses to almost nothing.
        for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
            let error = unpacked(|tar| {
                entry(tar, kind, "long", &vec![b'x'; 64 << 20]);
                entry(tar, EntryType::Regular, "a", b"");
            })
            .unwrap_err();
            assert!(error.contains("between two files"), "{kind:?}: {error}");
        }
        let error = unpacked(|tar| {
            for _ in 0..=MAX_ENTRIES {
                entry(tar, EntryType::Directory, "a", b"");
            }
        })
        .unwrap_err();
        assert!(error.contains("more than 10000 entries"), "{error}");
        // Sizes that are not those of any file.
        for size in [MAX_UNPACKED + 1, u64::MAX / 2, u64::MAX] {
            let error = unpacked(|tar| {
                let mut header = Header::new_gnu();
                header.set_path("a").unwrap();
                header.set_size(size);
                header.set_cksum();
                tar.append(&header, io::empty()).unwrap();
            })
            .unwrap_err();
            assert!(error.contains("more than 2147483648") || error.contains("damaged"), "{error}");
        }
    }
}
