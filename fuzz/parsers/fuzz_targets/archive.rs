//! Archives that pass for runtimes: they are unpacked or refused, and nothing of
//! them is outside of their folder.
#![no_main]

use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use libfuzzer_sys::fuzz_target;
use tar::{EntryType, Header};

/// `unpack` is for the module above it, which is this file here.
#[path = "../../../crates/isola/src/runtime/archive.rs"]
mod archive;

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    // Memory, if the machine has a place for files in it.
    let place = Path::new("/dev/shm");
    let outer = if place.is_dir() { tempfile::tempdir_in(place) } else { tempfile::tempdir() };
    let Ok(outer) = outer else { return };
    let folder = outer.path().join("folder");
    assert!(fs::create_dir(&folder).is_ok());
    let unpacked = match kind % 3 {
        0 => archive::unpack(bytes, &folder),
        1 => archive::unpack(packed(bytes).as_slice(), &folder),
        _ => archive::unpack(packed(&entries(bytes)).as_slice(), &folder),
    };
    drop(unpacked);
    // Nothing is beside the folder, and no link is in it.
    assert_eq!(fs::read_dir(outer.path()).map(Iterator::count).ok(), Some(1));
    only_plain(&folder);
});

fn packed(tar: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
    assert!(gzip.write_all(tar).is_ok());
    gzip.finish().unwrap_or_default()
}

/// A tar file whose headers have good checksums: of each entry the kind, a name,
/// the size that it says, and its content.
fn entries(mut bytes: &[u8]) -> Vec<u8> {
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

fn only_plain(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        assert!(kind.is_file() || kind.is_dir(), "{:?}", entry.path());
        if kind.is_dir() {
            only_plain(&entry.path());
        }
    }
}
