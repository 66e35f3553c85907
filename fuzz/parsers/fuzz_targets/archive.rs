//! Archives of runtimes: they are unpacked or refused, and no file is created outside
//! of the target directory.
#![no_main]

use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use libfuzzer_sys::fuzz_target;
use tar::{EntryType, Header};

/// `unpack` is visible to the parent module, which is this file.
#[path = "../../../crates/isola/src/runtime/archive.rs"]
mod archive;

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    // In memory, if the machine has a tmpfs.
    let tmpfs = Path::new("/dev/shm");
    let outer = if tmpfs.is_dir() { tempfile::tempdir_in(tmpfs) } else { tempfile::tempdir() };
    let Ok(outer) = outer else { return };
    let directory = outer.path().join("directory");
    assert!(fs::create_dir(&directory).is_ok());
    let unpacked = match kind % 3 {
        0 => archive::unpack(bytes, &directory),
        1 => archive::unpack(gzipped(bytes).as_slice(), &directory),
        _ => archive::unpack(gzipped(&tar_of(bytes)).as_slice(), &directory),
    };
    drop(unpacked);
    // No entry is beside the directory, and no link is in it.
    assert_eq!(fs::read_dir(outer.path()).map(Iterator::count).ok(), Some(1));
    assert_files_and_directories(&directory);
});

fn gzipped(tar: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
    assert!(gzip.write_all(tar).is_ok());
    gzip.finish().unwrap_or_default()
}

/// Builds a tar archive with valid header checksums. The input determines the type,
/// the name, the claimed size and the content of each entry.
fn tar_of(mut bytes: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    while let [kind, name, size, content, rest @ ..] = bytes {
        let take = |rest: &mut &[u8], len: u8| {
            let (part, left) = rest.split_at(rest.len().min(len.into()));
            *rest = left;
            part.to_vec()
        };
        let mut rest = rest;
        let name = take(&mut rest, *name);
        let content = take(&mut rest, *content);
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::new(*kind));
        let field = &mut header.as_old_mut().name;
        for (to, from) in field.iter_mut().zip(&name) {
            *to = *from;
        }
        header.set_size(match size {
            255 => u64::MAX,
            254 => 1 << 40,
            253 => 1 << 21,
            _ => content.len() as u64,
        });
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(&content);
        tar.resize(tar.len().next_multiple_of(512), 0);
        bytes = rest;
    }
    tar
}

/// Asserts that there are only files and directories below a directory.
fn assert_files_and_directories(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        assert!(kind.is_file() || kind.is_dir(), "{:?}", entry.path());
        if kind.is_dir() {
            assert_files_and_directories(&entry.path());
        }
    }
}
