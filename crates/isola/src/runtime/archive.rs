//! Archives of runtimes: only regular files and directories, all within the target
//! directory.
//!
//! This file does not depend on the rest of the crate, because the fuzzer compiles
//! it separately.

use std::{
    cell::Cell,
    fs::{self, File},
    io::{self, BufReader, Read},
    path::{Component, Path},
};

use flate2::read::GzDecoder;
use tar::{Archive, Entry, EntryType};

/// The maximum total size of an archive's unpacked files in bytes.
const MAX_UNPACKED_BYTES: u64 = 2 << 30;

/// The maximum number of entries of an archive.
const MAX_ARCHIVE_ENTRIES: usize = 10_000;

/// The maximum size of the metadata between the contents of two files in bytes:
/// headers, and names that are too long for a header. The reader holds them in
/// memory.
const MAX_METADATA_BYTES: u64 = 1 << 20;

/// Unpacks an archive, a gzip-compressed tar file, into an empty directory. The
/// error describes the defect of the archive, or the failure to write.
pub(crate) fn unpack(archive: impl Read, dir: &Path) -> Result<(), String> {
    let budget = Cell::new(MAX_METADATA_BYTES);
    let reader = LimitedReader { inner: GzDecoder::new(BufReader::new(archive)), left: &budget };
    let mut archive = Archive::new(reader);
    let damaged = |error: io::Error| format!("it is damaged: {error}");
    let mut left = MAX_UNPACKED_BYTES;
    for (number, entry) in archive.entries().map_err(damaged)?.enumerate() {
        let mut entry = entry.map_err(damaged)?;
        if number >= MAX_ARCHIVE_ENTRIES {
            return Err(format!("it has more than {MAX_ARCHIVE_ENTRIES} entries"));
        }
        let size = entry.size();
        left = left
            .checked_sub(size)
            .ok_or_else(|| format!("it unpacks to more than {MAX_UNPACKED_BYTES} bytes"))?;
        budget.set(size.saturating_add(MAX_METADATA_BYTES));
        write(&mut entry, dir)?;
        // The unread rest of the entry is skipped when the next one is read.
        budget.set(MAX_METADATA_BYTES);
    }
    Ok(())
}

fn write(entry: &mut Entry<'_, impl Read>, dir: &Path) -> Result<(), String> {
    let path = entry.path().map_err(|error| format!("it is damaged: {error}"))?.into_owned();
    let shown = path.display();
    // `..` is refused even within the directory, so that no path has to be resolved.
    let is_plain =
        path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !is_plain {
        return Err(format!("its entry {shown} points outside of the target directory"));
    }
    let target = dir.join(&path);
    let failed = |error: io::Error| format!("{shown}: {error}");
    match entry.header().entry_type() {
        EntryType::Directory => fs::create_dir_all(&target).map_err(failed),
        EntryType::Regular => {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(failed)?;
            }
            // `create_new`: an archive with a duplicate entry is refused.
            let mut file =
                File::options().write(true).create_new(true).open(&target).map_err(failed)?;
            io::copy(entry, &mut file).map_err(failed)?;
            file.sync_all().map_err(failed)
        }
        EntryType::XGlobalHeader => Ok(()),
        _ => Err(format!("its entry {shown} is neither a regular file nor a directory")),
    }
}

/// A reader that fails after a number of bytes.
struct LimitedReader<'a, R> {
    inner: R,
    left: &'a Cell<u64>,
}

impl<R: Read> Read for LimitedReader<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        let left = self.left.get().checked_sub(read as u64).ok_or_else(|| {
            io::Error::other(format!(
                "more than {MAX_METADATA_BYTES} bytes of metadata between two files"
            ))
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

    /// Creates and unpacks an archive, and returns the names of the unpacked entries.
    fn unpacked(fill: impl FnOnce(&mut Tar)) -> Result<Vec<String>, String> {
        let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        fill(&mut tar);
        let bytes = tar.into_inner().unwrap().finish().unwrap();
        let dir = tempfile::tempdir().unwrap();
        unpack(bytes.as_slice(), dir.path())?;
        let entries = fs::read_dir(dir.path()).unwrap();
        Ok(entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
    }

    fn entry(tar: &mut Tar, kind: EntryType, name: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content).unwrap();
    }

    #[test]
    fn files_and_directories_are_unpacked() {
        let long = format!("{}/x", "directory/".repeat(30));
        let mut names = unpacked(|tar| {
            entry(tar, EntryType::Regular, "a.wasm", &[1; 3 << 20]);
            entry(tar, EntryType::Directory, "b", b"");
            entry(tar, EntryType::Regular, &long, b"content");
        })
        .unwrap();
        names.sort();
        assert_eq!(names, ["a.wasm", "b", "directory"]);
    }

    #[test]
    fn oversized_entries_are_refused() {
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
            for _ in 0..=MAX_ARCHIVE_ENTRIES {
                entry(tar, EntryType::Directory, "a", b"");
            }
        })
        .unwrap_err();
        assert!(error.contains("more than 10000 entries"), "{error}");
        // Sizes that no file has.
        for size in [MAX_UNPACKED_BYTES + 1, u64::MAX / 2, u64::MAX] {
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
