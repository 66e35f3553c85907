//! The content of objects, before encryption.
//!
//! Every object is a text or chunk, compressed if that is smaller: one byte for the encoding,
//! the length in four bytes, and the data. Trees and garbage lists are JSON.

use std::collections::HashSet;
use std::io;

use serde::{Deserialize, Serialize};

use crate::options::{CHUNK_BYTES, MAX_CHUNKS, MAX_FILES, MAX_NAME_BYTES};

/// The compression level, which is as fast as a network of 10 Gbit/s.
const LEVEL: i32 = 1;
/// The bytes before the data.
pub(crate) const PACK_OVERHEAD: usize = 5;
/// The maximum size of the JSON of a tree or a garbage list, in bytes.
pub(crate) const MAX_JSON_BYTES: usize = 32 << 20;
/// The version of the formats.
const FORMAT: u32 = 1;

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// The content of a tree's object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tree {
    format: u32,
    pub(crate) files: Vec<FileRecord>,
}

/// A file of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileRecord {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// The keyed digest of the content.
    pub(crate) digest: Digest,
    /// The chunks in order; `None` is a chunk of zeros.
    pub(crate) chunks: Vec<Option<ChunkName>>,
}

/// A keyed digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Digest(pub(crate) [u8; 32]);

/// The name of a chunk's object: its digest, and a number that distinguishes it from
/// objects with the same content which garbage collection deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ChunkName {
    pub(crate) digest: Digest,
    pub(crate) generation: u32,
}

/// The content of a garbage list: chunks that no upload may use any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GarbageList {
    format: u32,
    /// Reports whether those that no tree uses were deleted.
    pub(crate) swept: bool,
    pub(crate) chunks: Vec<ChunkName>,
}

/// The reason why a content is invalid.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FormatError {
    #[error("it has an invalid encoding or length")]
    Encoding,
    #[error("it is not valid: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it has format {0}, and this version of isorun reads format {FORMAT}")]
    Format(u32),
    #[error("{0}")]
    Content(&'static str),
}

/// Compresses data if that makes it smaller.
pub(crate) fn pack(data: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(data.len()).map_err(io::Error::other)?;
    let compressed = zstd::bulk::compress(data, LEVEL)?;
    let (encoding, stored) =
        if compressed.len() < data.len() { (ZSTD, &compressed[..]) } else { (PLAIN, data) };
    let mut packed = Vec::with_capacity(stored.len() + PACK_OVERHEAD);
    packed.push(encoding);
    packed.extend_from_slice(&length.to_le_bytes());
    packed.extend_from_slice(stored);
    Ok(packed)
}

/// Returns the data, of at most `max_bytes`.
pub(crate) fn unpack(packed: &[u8], max_bytes: usize) -> Result<Vec<u8>, FormatError> {
    let (encoding, rest) = packed.split_first().ok_or(FormatError::Encoding)?;
    let (length, stored) = rest.split_first_chunk().ok_or(FormatError::Encoding)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > max_bytes {
        return Err(FormatError::Encoding);
    }
    let data = match *encoding {
        PLAIN => stored.to_vec(),
        ZSTD => zstd::bulk::decompress(stored, length).map_err(|_| FormatError::Encoding)?,
        _ => return Err(FormatError::Encoding),
    };
    if data.len() == length { Ok(data) } else { Err(FormatError::Encoding) }
}

/// Fails unless the format of a JSON text can be read.
fn check_format(json: &[u8]) -> Result<(), FormatError> {
    #[derive(Deserialize)]
    struct FormatOnly {
        format: u32,
    }
    match serde_json::from_slice(json)? {
        FormatOnly { format: FORMAT } => Ok(()),
        FormatOnly { format } => Err(FormatError::Format(format)),
    }
}

/// Reports whether a file of a tree may have this name.
pub(crate) fn is_valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && !name.starts_with('.')
        && !name.contains(['/', '\0'])
}

/// Returns the number of chunks of a file.
pub(crate) fn chunk_count(bytes: u64) -> u64 {
    bytes.div_ceil(CHUNK_BYTES as u64)
}

/// Returns the length of the chunk with this index in a file.
pub(crate) fn chunk_len(file_bytes: u64, index: u64) -> usize {
    let rest = file_bytes.saturating_sub(index.saturating_mul(CHUNK_BYTES as u64));
    usize::try_from(rest).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES)
}

impl Tree {
    pub(crate) fn new(files: Vec<FileRecord>) -> Self {
        Self { format: FORMAT, files }
    }

    pub(crate) fn to_json(&self) -> Result<Vec<u8>, FormatError> {
        Ok(serde_json::to_vec(self)?)
    }

    /// Parses and validates a tree.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, FormatError> {
        check_format(json)?;
        let tree: Self = serde_json::from_slice(json)?;
        if tree.files.len() > MAX_FILES {
            return Err(FormatError::Content("it has too many files"));
        }
        let mut names = HashSet::new();
        let mut chunks = 0_u64;
        for file in &tree.files {
            if !is_valid_name(&file.name) || !names.insert(&file.name) {
                return Err(FormatError::Content("the name of a file is invalid or not unique"));
            }
            if file.chunks.len() as u64 != chunk_count(file.bytes) {
                return Err(FormatError::Content("the length of a file is wrong"));
            }
            chunks += file.chunks.len() as u64;
        }
        if chunks > MAX_CHUNKS {
            return Err(FormatError::Content("it has too many chunks"));
        }
        Ok(tree)
    }

    /// Returns the length of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Returns the chunks that are not zeros.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = ChunkName> {
        self.files.iter().flat_map(|file| file.chunks.iter().flatten().copied())
    }

    /// Returns an upper bound of the disk space of the files, without chunks of zeros.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.chunks().count() as u64 * CHUNK_BYTES as u64
    }
}

impl GarbageList {
    pub(crate) fn new(chunks: Vec<ChunkName>) -> Self {
        Self { format: FORMAT, swept: false, chunks }
    }

    pub(crate) fn to_json(&self) -> Result<Vec<u8>, FormatError> {
        Ok(serde_json::to_vec(self)?)
    }

    pub(crate) fn parse(json: &[u8]) -> Result<Self, FormatError> {
        check_format(json)?;
        Ok(serde_json::from_slice(json)?)
    }
}

/// A text that is not a digest or the name of a chunk.
#[derive(Debug, thiserror::Error)]
#[error("not the name of a chunk")]
pub(crate) struct InvalidName;

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        hex::encode(digest.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        let mut digest = [0; 32];
        hex::decode_to_slice(&text, &mut digest).map_err(|_| InvalidName)?;
        Ok(Self(digest))
    }
}

impl From<ChunkName> for String {
    fn from(name: ChunkName) -> Self {
        let digest = Self::from(name.digest);
        match name.generation {
            0 => digest,
            generation => format!("{digest}-{generation}"),
        }
    }
}

impl TryFrom<String> for ChunkName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        let (digest, generation) = match text.split_once('-') {
            None => (text.as_str(), 0),
            Some((digest, number)) => (digest, number.parse().map_err(|_| InvalidName)?),
        };
        let name = Self { digest: digest.to_owned().try_into()?, generation };
        // A name has one spelling only.
        if String::from(name) == text { Ok(name) } else { Err(InvalidName) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(name: &str, bytes: u64) -> FileRecord {
        let chunk = ChunkName { digest: Digest([3; 32]), generation: 2 };
        let chunks = (0..chunk_count(bytes)).map(|i| (i % 2 == 0).then_some(chunk)).collect();
        FileRecord { name: name.to_owned(), bytes, digest: Digest([4; 32]), chunks }
    }

    #[test]
    fn chunks_of_every_length_are_packed_and_unpacked() {
        for length in [0, 1, 1000, CHUNK_BYTES] {
            let data: Vec<u8> = (0..length).map(|at| (at / 7 % 251) as u8).collect();
            let packed = pack(&data).unwrap();
            assert!(packed.len() <= length + PACK_OVERHEAD);
            assert_eq!(unpack(&packed, CHUNK_BYTES).unwrap(), data);
        }
        assert!(pack(&[7; 10_000]).unwrap().len() < 100);
    }

    #[test]
    fn a_packed_chunk_that_expands_beyond_its_length_is_refused() {
        let mut packed = pack(&[7; 10_000]).unwrap();
        assert!(unpack(&packed, 9_999).is_err());
        packed[1..5].copy_from_slice(&9_999_u32.to_le_bytes());
        assert!(unpack(&packed, CHUNK_BYTES).is_err());
        packed[1..5].copy_from_slice(&10_001_u32.to_le_bytes());
        assert!(unpack(&packed, CHUNK_BYTES).is_err());
        for wrong in [&[][..], &[0], &[0, 0, 0, 0], &[2, 0, 0, 0, 0], &[0, 1, 0, 0, 0]] {
            assert!(unpack(wrong, CHUNK_BYTES).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_tree_is_written_and_parsed() {
        let tree = Tree::new(vec![file("a", 0), file("b", 1), file("c", 9 << 20)]);
        assert_eq!(Tree::parse(&tree.to_json().unwrap()).unwrap(), tree);
        assert_eq!(tree.bytes(), (9 << 20) + 1);
        assert_eq!(tree.chunks().count(), 3);
    }

    #[test]
    fn invalid_trees_are_refused() {
        let refused = |tree: Tree| Tree::parse(&tree.to_json().unwrap()).unwrap_err().to_string();
        for name in ["", ".", "..", ".a", "a/b", "a\0", &"a".repeat(256)] {
            let error = refused(Tree::new(vec![file(name, 1)]));
            assert_eq!(error, "the name of a file is invalid or not unique", "{name:?}");
        }
        refused(Tree::new(vec![file("a", 1), file("a", 2)]));
        refused(Tree::new((0..=MAX_FILES).map(|at| file(&at.to_string(), 0)).collect()));
        let mut wrong = file("a", 9 << 20);
        wrong.chunks.pop();
        assert_eq!(refused(Tree::new(vec![wrong])), "the length of a file is wrong");
        let mut huge = file("a", 1);
        huge.bytes = u64::MAX;
        refused(Tree::new(vec![huge]));
        let newer = refused(Tree { format: 2, files: Vec::new() });
        assert_eq!(newer, "it has format 2, and this version of isorun reads format 1");
    }

    #[test]
    fn the_name_of_a_chunk_has_one_spelling() {
        let digest = "ab".repeat(32);
        for valid in [digest.clone(), format!("{digest}-1"), format!("{digest}-4294967295")] {
            assert_eq!(String::from(ChunkName::try_from(valid.clone()).unwrap()), valid);
        }
        for wrong in ["-0", "-01", "-", "-+1", "-4294967296", "-1-1", "0", "/"] {
            assert!(ChunkName::try_from(format!("{digest}{wrong}")).is_err(), "{wrong}");
        }
        assert!(ChunkName::try_from("AB".repeat(32)).is_err());
    }

    #[test]
    fn the_last_chunk_of_a_file_may_be_shorter() {
        let chunk = CHUNK_BYTES as u64;
        for (bytes, count, last) in [
            (1, 1, 1),
            (chunk, 1, CHUNK_BYTES),
            (chunk + 1, 2, 1),
            (chunk * 3 - 1, 3, CHUNK_BYTES - 1),
        ] {
            assert_eq!(chunk_count(bytes), count);
            assert_eq!(chunk_len(bytes, count - 1), last);
        }
        assert_eq!(chunk_count(0), 0);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_or_parsed_without_a_panic(input: Vec<u8>) {
            let _ = unpack(&input, CHUNK_BYTES);
            let _ = Tree::parse(&input);
            let _ = GarbageList::parse(&input);
        }
    }
}
