//! Snapshot files: the header and the complete file are parsed or refused, within the
//! memory that the header may request.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../crates/isola/src/snapshot/format.rs"]
#[allow(dead_code, reason = "the crate uses the rest")]
mod format;

/// The largest memory of a snapshot that is read to its end, in bytes.
const MAX_MEMORY_BYTES: u64 = 16 << 20;

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % 3 {
        0 => read(bytes),
        // The parser after the magic, the length and the checksum.
        1 => {
            let split = bytes.len().min(usize::from(*kind) * 4);
            let (header, body) = bytes.split_at(split);
            read(&file(header, &zstd::encode_all(body, 1).unwrap_or_default()));
        }
        // The parser after the header.
        _ => {
            let header = format!(
                r#"{{"isola":"0","runtime":"js","guest":"","engine":"","created":{},"memory":{},
                "changed":0,"base":[0,0],"globals":[1],"monotonic":{}}}"#,
                u64::from(*kind) << 33,
                (1 + u64::from(*kind)) << 16,
                u64::MAX,
            );
            let mut body = bytes.to_vec();
            // More pages than the input has bytes for.
            body.resize(bytes.len() + (usize::from(*kind) << 10), *kind);
            read(&file(header.as_bytes(), &zstd::encode_all(&*body, 1).unwrap_or_default()));
            read(&file(header.as_bytes(), bytes));
        }
    }
});

fn file(header: &[u8], body: &[u8]) -> Vec<u8> {
    let mut file = format::MAGIC.to_vec();
    file.extend_from_slice(&u32::try_from(header.len()).unwrap_or(u32::MAX).to_le_bytes());
    file.extend_from_slice(header);
    file.extend_from_slice(body);
    let sum = crc32fast::hash(&file);
    file.extend_from_slice(&sum.to_le_bytes());
    file
}

fn read(file: &[u8]) {
    let mut rest = file;
    let Ok(header) = format::Header::read(&mut rest) else { return };
    let year_10000 = std::time::Duration::from_secs(253_402_300_800);
    assert!(header.created() < std::time::UNIX_EPOCH + year_10000);
    assert!(header.max_file_size() <= 5 << 30);
    if header.memory > MAX_MEMORY_BYTES {
        return;
    }
    let Ok(body) = format::body(file, rest.len()) else { return };
    let Ok(mut pages) = format::Pages::read(body, header.memory, 0) else { return };
    let mut buffer = vec![0; 1 << 16];
    let mut end = 0;
    for (first, length) in pages.runs() {
        assert!(first >= end && length > 0);
        end = first + length;
        assert!(end <= pages.len());
        let mut left = length;
        while left > 0 {
            let part = left.min(buffer.len());
            if pages.fill(&mut buffer[..part]).is_err() {
                return;
            }
            left -= part;
        }
    }
    drop(pages.end());
}
