//! The format of snapshots on disk, as it is read.
//!
//! ```text
//! magic, 8 bytes · length of the header, u32 · header (JSON)
//! body, one zstd frame: number of runs, u32
//!                       of each: first page, u32; pages, u32
//!                       their bytes
//! CRC-32 of all of that, u32
//! ```
//!
//! Runs are the pages that differ from a guest of the same build in which
//! nothing has run. Whatever a file says is checked before it becomes a size or
//! a place. Nothing here needs the rest of the crate: the fuzzer compiles this
//! file alone.

use std::{
    io::{self, Read},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// The first bytes of a file. They change with the format.
pub(crate) const MAGIC: &[u8; 8] = b"isolas01";

/// The largest length of a header in bytes.
const MAX_HEADER: u32 = 64 << 10;

/// The largest memory of a guest in bytes: all that 32 bits address.
const MAX_MEMORY: u64 = 4 << 30;

/// The last second that is a time of creation: the end of the year 9999, beyond
/// which dates cannot be written.
const MAX_CREATED: u64 = 253_402_300_799;

/// The base 2 logarithm of the largest window that a body is decompressed with,
/// in bytes. The writer uses less.
const MAX_WINDOW_LOG: u32 = 24;

/// The granularity at which empty memory is left out, in bytes.
pub(crate) const PAGE: usize = 4096;

/// The granularity at which a guest's memory grows, in bytes.
const WASM_PAGE: usize = 64 << 10;

/// What a file says of the snapshot in it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Header {
    /// The version that wrote it, for people.
    pub(crate) isola: String,
    pub(crate) runtime: String,
    /// The digest of the runtime's component.
    pub(crate) guest: String,
    /// The engine's version and settings, and the CPU features.
    pub(crate) engine: String,
    /// Seconds since 1970.
    created: u64,
    /// The size of the memory, in bytes.
    pub(crate) memory: u64,
    /// How much of it is in the file.
    pub(crate) changed: u64,
    /// What the rest is: the CRC-32 of a fresh memory, and its size.
    pub(crate) base: (u32, u64),
    pub(crate) globals: Vec<u64>,
    pub(crate) monotonic: u64,
    pub(crate) evaluates: bool,
}

/// What makes a header, beside the time.
pub(crate) struct Parts {
    pub(crate) runtime: String,
    pub(crate) guest: String,
    pub(crate) engine: String,
    pub(crate) memory: u64,
    pub(crate) changed: u64,
    pub(crate) base: (u32, u64),
    pub(crate) globals: Vec<u64>,
    pub(crate) monotonic: u64,
    pub(crate) evaluates: bool,
}

impl Header {
    /// The header of a snapshot that is written now.
    pub(crate) fn new(parts: Parts) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let Parts { runtime, guest, engine, memory, changed, base, globals, monotonic, evaluates } =
            parts;
        Self {
            isola: env!("CARGO_PKG_VERSION").to_owned(),
            runtime,
            guest,
            engine,
            created: now.as_secs().min(MAX_CREATED),
            memory,
            changed,
            base,
            globals,
            monotonic,
            evaluates,
        }
    }

    /// Reads a header from the beginning of a file, and nothing beyond it.
    pub(crate) fn read(file: &mut impl Read) -> io::Result<Self> {
        let mut magic = [0; 8];
        file.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(io::Error::other("it does not begin as one"));
        }
        let mut len = [0; 4];
        file.read_exact(&mut len)?;
        let len = u32::from_le_bytes(len);
        if len > MAX_HEADER {
            return Err(io::Error::other("its header is too long"));
        }
        let mut header = vec![0; len as usize];
        file.read_exact(&mut header)?;
        let header: Self = serde_json::from_slice(&header).map_err(io::Error::other)?;
        if header.created > MAX_CREATED {
            return Err(io::Error::other(format!(
                "its time of creation, {} s, is beyond the year 9999",
                header.created
            )));
        }
        if header.memory > MAX_MEMORY || header.changed > header.memory {
            return Err(io::Error::other(format!(
                "its memory of {} bytes, {} of them changed, is more than a guest can have",
                header.memory, header.changed
            )));
        }
        Ok(header)
    }

    /// When it was written.
    pub(crate) fn created(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.created)).unwrap_or(UNIX_EPOCH)
    }

    /// The largest size of its file in bytes. What cannot be compressed becomes
    /// a little longer.
    pub(crate) fn max_file_size(&self) -> u64 {
        self.memory.saturating_add(self.memory / 64).saturating_add(1 << 20)
    }
}

/// The body of a whole file, if its checksum holds. The last `rest` bytes are
/// those behind the header.
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

/// The pages that a body holds, in their order.
pub(crate) struct Pages<'a> {
    body: zstd::Decoder<'static, &'a [u8]>,
    runs: Vec<(usize, usize)>,
    len: usize,
}

impl<'a> Pages<'a> {
    /// Reads where the pages of a memory of `memory` bytes belong. The memory is
    /// not smaller than `least`.
    pub(crate) fn read(body: &'a [u8], memory: u64, least: usize) -> io::Result<Self> {
        let mut body = zstd::Decoder::with_buffer(body)?;
        body.window_log_max(MAX_WINDOW_LOG)?;
        let mut word = || {
            let mut bytes = [0; 4];
            body.read_exact(&mut bytes).map(|()| u32::from_le_bytes(bytes) as usize)
        };
        let len = usize::try_from(memory).map_err(io::Error::other)?;
        let pages = len / PAGE;
        let count = word()?;
        if count > pages || !len.is_multiple_of(WASM_PAGE) || len < least {
            return Err(wrong());
        }
        let mut runs = Vec::new();
        let mut next = 0;
        for _ in 0..count {
            let (first, length) = (word()?, word()?);
            // In order, apart from each other, and inside.
            if first < next || length == 0 || length > pages || first > pages - length {
                return Err(wrong());
            }
            next = first + length;
            runs.push((first * PAGE, length * PAGE));
        }
        Ok(Self { body, runs, len })
    }

    /// The size of the memory in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The place and the length of each run in bytes.
    pub(crate) fn runs(&self) -> Vec<(usize, usize)> {
        self.runs.clone()
    }

    /// Reads the next bytes of the runs.
    pub(crate) fn fill(&mut self, part: &mut [u8]) -> io::Result<()> {
        self.body.read_exact(part)
    }

    /// Checks that nothing follows.
    pub(crate) fn end(mut self) -> io::Result<()> {
        if self.body.read(&mut [0])? != 0 {
            return Err(wrong());
        }
        Ok(())
    }
}

fn wrong() -> io::Error {
    io::Error::other("its content is not as its header says")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let mut header = serde_json::json!({
            "isola": "0", "runtime": "python", "guest": "", "engine": "", "created": 1,
            "memory": 65_536, "changed": 4096, "base": [0, 0], "globals": [], "monotonic": 0,
            "evaluates": false,
        });
        change(&mut header);
        let text = header.to_string();
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&u32::try_from(text.len()).unwrap().to_le_bytes());
        file.extend_from_slice(text.as_bytes());
        file
    }

    #[test]
    fn numbers_that_cannot_be_are_refused() {
        assert!(Header::read(&mut header(|_| {}).as_slice()).is_ok());
        for (name, number, says) in [
            ("created", u64::MAX, "beyond the year 9999"),
            ("created", i64::MAX as u64, "beyond the year 9999"),
            ("created", MAX_CREATED + 1, "beyond the year 9999"),
            ("memory", u64::MAX, "more than a guest can have"),
            ("memory", MAX_MEMORY + 1, "more than a guest can have"),
            ("memory", 0, "more than a guest can have"),
            ("changed", u64::MAX, "more than a guest can have"),
        ] {
            let file = header(|header| header[name] = number.into());
            let error = Header::read(&mut file.as_slice()).err().unwrap().to_string();
            assert!(error.contains(says), "{name} {number}: {error}");
        }
        let last = header(|header| header["created"] = MAX_CREATED.into());
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
    fn runs_are_within_the_memory() {
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
