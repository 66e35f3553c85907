//! The format of snapshots on disk, and its reader.
//!
//! ```text
//! magic, 8 bytes · length of the header, u32 · header (JSON)
//! body, one zstd frame: number of runs, u32
//!                       of each: first page, u32; pages, u32
//!                       their bytes
//!                       the private files, if there are any (`files/private/format.rs`)
//! CRC-32 of all of that, u32
//! ```
//!
//! Runs are the pages that differ from a guest of the same build before any code
//! has run. Numbers from a file are checked before they are used as a size or an
//! offset. This file does not depend on the rest of the crate: the fuzzer compiles
//! it alone.

use std::{
    io::{self, Read},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// The first bytes of a file. They change with the format.
pub(crate) const MAGIC: &[u8; 8] = b"isolas02";

/// The largest header, in bytes.
const MAX_HEADER_BYTES: u32 = 64 << 10;

/// The largest memory of a guest, in bytes: the 32-bit address space.
const MAX_MEMORY_BYTES: u64 = 4 << 30;

/// The latest time of creation, in seconds since 1970: the end of the year 9999,
/// after which dates cannot be formatted.
const MAX_CREATED_SECS: u64 = 253_402_300_799;

/// The largest window for the decompression of a body, as the base 2 logarithm of
/// a number of bytes. The writer uses less.
const MAX_WINDOW_LOG: u32 = 24;

/// The granularity at which a file differs from a newly created guest, in bytes.
pub(crate) const PAGE_BYTES: usize = 4096;

/// The granularity at which a guest's memory grows, in bytes.
const WASM_PAGE_BYTES: usize = 64 << 10;

/// The header of a snapshot file.
#[derive(Serialize, Deserialize)]
pub(crate) struct Header {
    /// The version of isola that wrote it, for information.
    pub(crate) isola: String,
    pub(crate) runtime: String,
    /// The digest of the runtime's component.
    pub(crate) guest: String,
    /// The engine's version and settings, and the CPU features.
    pub(crate) engine: String,
    /// The time of creation, in seconds since 1970.
    created: u64,
    /// The size of the memory, in bytes.
    pub(crate) memory: u64,
    /// The size of the part of it that is in the file, in bytes.
    pub(crate) changed: u64,
    /// The memory that the rest is copied from, that of a newly created guest: its
    /// CRC-32 and its size in bytes.
    pub(crate) base: (u32, u64),
    pub(crate) globals: Vec<u64>,
    pub(crate) monotonic: u64,
    /// What the private files count against the limit of storage, in bytes; `None` if the
    /// guest had none. They take at most as much space in the file.
    pub(crate) files: Option<u64>,
}

/// The fields of a header that the caller sets.
pub(crate) struct HeaderFields {
    pub(crate) runtime: String,
    pub(crate) guest: String,
    pub(crate) engine: String,
    pub(crate) memory: u64,
    pub(crate) changed: u64,
    pub(crate) base: (u32, u64),
    pub(crate) globals: Vec<u64>,
    pub(crate) monotonic: u64,
    pub(crate) files: Option<u64>,
}

impl Header {
    /// Creates the header of a snapshot with the current time.
    pub(crate) fn new(fields: HeaderFields) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let HeaderFields {
            runtime,
            guest,
            engine,
            memory,
            changed,
            base,
            globals,
            monotonic,
            files,
        } = fields;
        Self {
            isola: env!("CARGO_PKG_VERSION").to_owned(),
            runtime,
            guest,
            engine,
            created: now.as_secs().min(MAX_CREATED_SECS),
            memory,
            changed,
            base,
            globals,
            monotonic,
            files,
        }
    }

    /// Reads a header from the start of a file, and nothing after it.
    pub(crate) fn read(file: &mut impl Read) -> io::Result<Self> {
        let mut magic = [0; 8];
        file.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(io::Error::other("its first 8 bytes are not those of a snapshot"));
        }
        let mut len = [0; 4];
        file.read_exact(&mut len)?;
        let len = u32::from_le_bytes(len);
        if len > MAX_HEADER_BYTES {
            return Err(io::Error::other(format!(
                "its header has {len} bytes: at most {MAX_HEADER_BYTES} are allowed"
            )));
        }
        let mut header = vec![0; len as usize];
        file.read_exact(&mut header)?;
        let header: Self = serde_json::from_slice(&header).map_err(io::Error::other)?;
        if header.created > MAX_CREATED_SECS {
            return Err(io::Error::other(format!(
                "its time of creation, {} s, is beyond the year 9999",
                header.created
            )));
        }
        if header.memory > MAX_MEMORY_BYTES || header.changed > header.memory {
            return Err(io::Error::other(format!(
                "its memory size is invalid: {} bytes (at most {MAX_MEMORY_BYTES}), {} of them \
                 changed (at most all)",
                header.memory, header.changed
            )));
        }
        Ok(header)
    }

    /// Returns the time at which the snapshot was written.
    pub(crate) fn created(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.created)).unwrap_or(UNIX_EPOCH)
    }

    /// Returns the largest size of its file, in bytes. Data that cannot be compressed
    /// takes slightly more than its own size.
    pub(crate) fn max_file_size(&self) -> u64 {
        let content = self.memory.saturating_add(self.files.unwrap_or(0));
        content.saturating_add(content / 64).saturating_add(1 << 20)
    }
}

/// Returns the body of a complete file, after verifying its checksum. The last
/// `rest` bytes are those after the header.
pub(crate) fn body(file: &[u8], rest: usize) -> io::Result<&[u8]> {
    let (content, sum) = file
        .split_last_chunk::<4>()
        .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    if crc32fast::hash(content) != u32::from_le_bytes(*sum) {
        return Err(io::Error::other("its checksum is wrong"));
    }
    let start = file.len().saturating_sub(rest);
    content.get(start..).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// The pages in a body, in their order.
pub(crate) struct Pages<'a> {
    body: zstd::Decoder<'static, &'a [u8]>,
    runs: Vec<(usize, usize)>,
    len: usize,
}

impl<'a> Pages<'a> {
    /// Reads the positions of the pages in a memory of `memory` bytes, which must be
    /// at least `min_len`.
    pub(crate) fn read(body: &'a [u8], memory: u64, min_len: usize) -> io::Result<Self> {
        let mut body = zstd::Decoder::with_buffer(body)?;
        body.window_log_max(MAX_WINDOW_LOG)?;
        let mut word = || {
            let mut bytes = [0; 4];
            body.read_exact(&mut bytes).map(|()| u32::from_le_bytes(bytes) as usize)
        };
        let len = usize::try_from(memory).map_err(io::Error::other)?;
        let pages = len / PAGE_BYTES;
        let count = word()?;
        if count > pages || !len.is_multiple_of(WASM_PAGE_BYTES) || len < min_len {
            return Err(content_mismatch());
        }
        let mut runs = Vec::new();
        let mut next = 0;
        for _ in 0..count {
            let (first, length) = (word()?, word()?);
            // Runs are in order, do not overlap, and are within the memory.
            if first < next || length == 0 || length > pages || first > pages - length {
                return Err(content_mismatch());
            }
            next = first + length;
            runs.push((first * PAGE_BYTES, length * PAGE_BYTES));
        }
        Ok(Self { body, runs, len })
    }

    /// Returns the size of the memory, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the offset and the length of each run, in bytes.
    pub(crate) fn runs(&self) -> Vec<(usize, usize)> {
        self.runs.clone()
    }

    /// Reads the next bytes of the runs.
    pub(crate) fn fill(&mut self, part: &mut [u8]) -> io::Result<()> {
        self.body.read_exact(part)
    }

    /// Returns what follows the runs.
    pub(crate) fn rest(&mut self) -> &mut impl Read {
        &mut self.body
    }

    /// Checks that nothing follows.
    pub(crate) fn end(mut self) -> io::Result<()> {
        if self.body.read(&mut [0])? != 0 {
            return Err(content_mismatch());
        }
        Ok(())
    }
}

fn content_mismatch() -> io::Error {
    io::Error::other("its content does not match its header")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let mut header = serde_json::json!({
            "isola": "0", "runtime": "python", "guest": "", "engine": "", "created": 1,
            "memory": 65_536, "changed": 4096, "base": [0, 0], "globals": [], "monotonic": 0,
            "files": null,
        });
        change(&mut header);
        let text = header.to_string();
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&u32::try_from(text.len()).unwrap().to_le_bytes());
        file.extend_from_slice(text.as_bytes());
        file
    }

    #[test]
    fn out_of_range_numbers_are_refused() {
        assert!(Header::read(&mut header(|_| {}).as_slice()).is_ok());
        for (name, number, says) in [
            ("created", u64::MAX, "beyond the year 9999"),
            ("created", i64::MAX as u64, "beyond the year 9999"),
            ("created", MAX_CREATED_SECS + 1, "beyond the year 9999"),
            ("memory", u64::MAX, "memory size is invalid"),
            ("memory", MAX_MEMORY_BYTES + 1, "memory size is invalid"),
            ("memory", 0, "memory size is invalid"),
            ("changed", u64::MAX, "memory size is invalid"),
        ] {
            let file = header(|header| header[name] = number.into());
            let error = Header::read(&mut file.as_slice()).err().unwrap().to_string();
            assert!(error.contains(says), "{name} {number}: {error}");
        }
        let last = header(|header| header["created"] = MAX_CREATED_SECS.into());
        assert!(Header::read(&mut last.as_slice()).unwrap().created() > SystemTime::now());
        for wrong in [serde_json::json!(-1), serde_json::json!(1e300), serde_json::json!("1")] {
            let file = header(|header| header["created"] = wrong);
            assert!(Header::read(&mut file.as_slice()).is_err());
        }
        let mut long = MAGIC.to_vec();
        long.extend_from_slice(&u32::MAX.to_le_bytes());
        assert!(Header::read(&mut long.as_slice()).is_err());
    }

    #[test]
    fn page_runs_beyond_the_memory_are_refused() {
        let body = |words: &[u32]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            zstd::encode_all(bytes.as_slice(), 1).unwrap()
        };
        assert!(Pages::read(&body(&[2, 0, 1, 1, 15]), 65_536, 0).is_ok());
        for words in [
            &[1, 0, 17][..],
            &[1, 16, 1],
            &[1, u32::MAX, u32::MAX],
            &[1, 0, 0],
            &[2, 4, 4, 0, 1],
            &[17],
            &[u32::MAX, 0, 1],
            &[1, 0],
        ] {
            assert!(Pages::read(&body(words), 65_536, 0).is_err(), "{words:?}");
        }
        assert!(Pages::read(&body(&[0]), 65_535, 0).is_err());
        assert!(Pages::read(&body(&[0]), 65_536, 65_537).is_err());
    }
}
