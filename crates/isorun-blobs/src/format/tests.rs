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
    for (bytes, count, last) in
        [(1, 1, 1), (chunk, 1, CHUNK_BYTES), (chunk + 1, 2, 1), (chunk * 3 - 1, 3, CHUNK_BYTES - 1)]
    {
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
