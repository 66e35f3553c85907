//! The modules that compress with native libraries: `bz2`, `lzma` and `compression.zstd`.

use isola::{Limit, Limits, Runtime, Sandbox, args};
use serde_json::json;

use crate::fixture::started_with;

const SCRIPT: &str = include_str!("compression.py");

async fn loaded(limits: Limits) -> Sandbox {
    let sandbox = started_with(Runtime::Python, limits, isola::DenyAll).await;
    sandbox.load_script(SCRIPT).await.unwrap();
    sandbox
}

#[tokio::test]
async fn compressed_data_is_decompressed() {
    let sandbox = loaded(Limits::default()).await;
    let known = sandbox.run("known_data", args![]).await.unwrap();
    assert_eq!(known, json!(["world", "world", "world"]));
    let seen: Vec<bool> = sandbox.run("round_trips", args![]).await.unwrap().to().unwrap();
    assert_eq!(seen, [true; 18]);
}

#[tokio::test]
async fn output_has_at_most_the_requested_length() {
    let sandbox = loaded(Limits::default()).await;
    assert_eq!(sandbox.run("in_parts", args![]).await.unwrap(), json!(true));
}

#[tokio::test]
async fn archives_are_compressed_in_each_format() {
    let sandbox = loaded(Limits::default()).await;
    let seen = sandbox.run("archives", args![]).await.unwrap();
    let expected = json!([
        ["gz", "bz2", "xz", "zst", "STORED", "DEFLATED", "BZIP2", "LZMA", "ZSTANDARD"],
        ["bztar", "gztar", "tar", "xztar", "zip", "zstdtar"]
    ]);
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn bad_input_is_an_error() {
    let sandbox = loaded(Limits::default()).await;
    let rows = [
        ("bz2.decompress(b'x' * 100)", "OSError: Invalid data stream"),
        ("bz2.decompress(bz2.compress(DATA)[:-1])", "ValueError: Compressed data ended before"),
        ("bz2.compress('text')", "TypeError: a bytes-like object is required, not 'str'"),
        ("bz2.BZ2Compressor(10)", "ValueError: compresslevel must be between 1 and 9"),
        ("lzma.decompress(b'x' * 100)", "LZMAError: Input format not supported by decoder"),
        (
            "lzma.decompress(lzma.compress(DATA)[:200] + bytes(100))",
            "LZMAError: Corrupt input data",
        ),
        ("lzma.compress(b'', preset=10)", "LZMAError: Invalid or unsupported options"),
        ("lzma.decompress(lzma.compress(DATA), memlimit=1)", "LZMAError: Memory usage limit"),
        ("lzma.compress(b'', filters=[{'id': 5, 'x': 1}])", "ValueError: Invalid filter spec"),
        ("zstd.decompress(b'x' * 100)", "ZstdError: Unable to decompress Zstandard data: Unknown"),
        ("zstd.compress(b'', 23)", "ValueError: illegal compression level 23; the valid range"),
        ("zstd.ZstdDict(b'x' * 100)", "ValueError: invalid Zstandard dictionary"),
        ("__import__('copy').copy(zstd.ZstdCompressor())", "TypeError: cannot pickle"),
    ];
    let seen = sandbox.run("errors", args![rows.map(|row| row.0)]).await.unwrap();
    let seen: Vec<String> = seen.to().unwrap();
    for ((expression, expected), seen) in rows.into_iter().zip(seen) {
        assert!(seen.starts_with(expected), "{expression}: {seen}");
    }
}

#[tokio::test]
async fn data_that_expands_is_bounded_by_the_memory_limit() {
    for codec in ["bz2", "lzma", "zstd"] {
        let sandbox = loaded(Limits { max_memory: 144 << 20, ..Limits::default() }).await;
        let error = sandbox.run("bomb", args![codec]).await.unwrap_err();
        assert_eq!(error.limit(), Some(Limit::Memory), "{codec}: {error}");
        // The sandbox can still be used, also for the same data.
        let size = sandbox.run("bomb_in_parts", args![codec]).await.unwrap();
        assert_eq!(size, json!(160 << 20), "{codec}");
    }
}

#[tokio::test]
async fn streams_can_be_used_while_they_are_in_use() {
    for codec in ["bz2", "lzma", "zstd"] {
        let sandbox = loaded(Limits::default()).await;
        let seen = sandbox.run("reentrant", args![codec]).await.unwrap();
        assert_eq!(seen, json!("first second third"), "{codec}");
    }
    let sandbox = loaded(Limits::default()).await;
    assert_eq!(sandbox.run("resized_while_lent", args![]).await.unwrap(), json!(true));
    let seen: Vec<String> = sandbox.run("in_collection", args![]).await.unwrap().to().unwrap();
    assert_eq!(seen, ["the stream is in use"]);
}

#[tokio::test]
async fn libraries_are_not_called_at_the_end_of_the_stack() {
    let sandbox = loaded(Limits::default()).await;
    assert_eq!(sandbox.run("deep", args![]).await.unwrap(), json!("both"));
}

#[tokio::test]
async fn streams_continue_in_copies() {
    let sandbox = loaded(Limits::default()).await;
    sandbox.run("begin", args![]).await.unwrap();
    let copies = sandbox.fork(1).await.unwrap();
    for sandbox in [sandbox].into_iter().chain(copies) {
        assert_eq!(sandbox.run("end", args![]).await.unwrap(), json!([true, true, true]));
        // The files of the native modules do not exist.
        let seen = sandbox.run("imported_again", args![]).await.unwrap();
        assert_eq!(seen, json!([true, true, true]));
    }
}
