//! Entry points of fuzz targets: each takes arbitrary bytes, and panics if an invariant does
//! not hold.
#![allow(clippy::expect_used, reason = "runs in fuzzers only, and must panic")]

use crate::format::{self, GarbageList, Tree, chunk_len, is_valid_name};
use crate::key::{BlobKey, Keys};
use crate::options::{CHUNK_BYTES, MAX_FILES};

/// Parses an object before and after decryption: a chunk, a tree and a garbage list.
pub fn objects(input: &[u8]) {
    let keys = Keys::new(&BlobKey::new([1; 32])).expect("the keys are derived");
    assert!(keys.open("trees/fuzz", &mut input.to_vec()).is_none());
    if let Ok(data) = format::unpack(input, CHUNK_BYTES) {
        assert!(data.len() <= CHUNK_BYTES);
        let packed = format::pack(&data).expect("data is packed");
        assert_eq!(format::unpack(&packed, data.len()).expect("packed data is valid"), data);
    }
    if let Ok(tree) = Tree::parse(input) {
        assert!(tree.files.len() <= MAX_FILES);
        for file in &tree.files {
            assert!(is_valid_name(&file.name), "{}", file.name);
            let lengths = (0..).zip(&file.chunks).map(|(at, _)| chunk_len(file.bytes, at) as u64);
            assert_eq!(lengths.sum::<u64>(), file.bytes);
        }
        let json = tree.to_json().expect("a tree is written");
        assert_eq!(Tree::parse(&json).expect("a written tree is valid"), tree);
    }
    if let Ok(list) = GarbageList::parse(input) {
        let json = list.to_json().expect("a list is written");
        assert_eq!(GarbageList::parse(&json).expect("a written list is valid"), list);
    }
}
