//! Round trips: what is uploaded is what is downloaded, and equal chunks are stored once.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};

use http::Method;
use isorun_blobs::{BlobKey, BlobOptions, Blobs, Error, TreeId};

use crate::fixture::{CHUNK, Fixture, assert_same, noise};
use crate::server::count;

#[tokio::test]
async fn files_of_every_size_come_back_with_private_modes() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let mut two = vec![0; CHUNK];
    two.extend(noise(3, 5));
    let source = fixture.directory(
        "source",
        &[
            ("empty", Vec::new()),
            ("byte", vec![7]),
            ("zero-byte", vec![0]),
            ("chunk", noise(1, CHUNK)),
            ("chunk-and-byte", noise(2, CHUNK + 1)),
            ("zeros", vec![0; 3 * CHUNK + 9]),
            ("hole-first", two),
            ("manifest.json", b"{\"a\": 1}".to_vec()),
        ],
    );
    let uploaded = blobs.upload(&source).await.unwrap();
    let bytes = 1 + 1 + CHUNK + CHUNK + 1 + 3 * CHUNK + 9 + CHUNK + 5 + 8;
    assert_eq!(uploaded.bytes, bytes as u64);
    let target = fixture.path("target");
    blobs.download(uploaded.id, &target).await.unwrap();
    assert_same(&source, &target);
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(&target).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_sparse_file_takes_little_space_in_the_store_and_on_disk() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let source = fixture.directory("source", &[]);
    let file = File::create(source.join("memory")).unwrap();
    file.set_len(100 << 20).unwrap();
    file.write_all_at(&noise(1, 70_000), 10 << 20).unwrap();
    file.write_all_at(b"end", (100 << 20) - 3).unwrap();
    let uploaded = blobs.upload(&source).await.unwrap();
    assert_eq!(uploaded.bytes, 100 << 20);
    assert!((70_000..100_000).contains(&uploaded.stored_bytes), "{uploaded:?}");
    let target = fixture.path("target");
    blobs.download(uploaded.id, &target).await.unwrap();
    assert_same(&source, &target);
    let blocks = fs::metadata(target.join("memory")).unwrap().blocks();
    assert!(blocks * 512 <= 3 * CHUNK as u64, "{blocks} blocks");
}

#[tokio::test]
async fn a_thousand_files_are_stored_and_one_more_is_refused() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let source = fixture.directory("source", &[]);
    for number in 0..1000 {
        fs::write(source.join(format!("file{number}")), format!("content {}", number / 10))
            .unwrap();
    }
    let uploaded = blobs.upload(&source).await.unwrap();
    // Ten files each have the same content.
    assert_eq!(fixture.objects("chunks").len(), 100);
    let target = fixture.path("target");
    blobs.download(uploaded.id, &target).await.unwrap();
    assert_same(&source, &target);
    fs::write(source.join("one-more"), "").unwrap();
    let error = blobs.upload(&source).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot store the directory: it has more than 1000 files");
}

#[tokio::test]
async fn only_changed_chunks_are_stored_again() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let mut memory = noise(1, 6 * CHUNK);
    let source = fixture.directory("source", &[("memory", memory.clone())]);
    let first = blobs.upload(&source).await.unwrap();
    assert!(first.stored_bytes > 6 * CHUNK as u64);
    memory[2 * CHUNK] ^= 1;
    fs::write(source.join("memory"), &memory).unwrap();
    fs::write(source.join("copy"), &memory).unwrap();
    fixture.server.received();
    let second = blobs.upload(&source).await.unwrap();
    let received = fixture.server.received();
    assert_eq!(count(&received, &Method::PUT, "/chunks/"), 1, "{received:?}");
    let stored = usize::try_from(second.stored_bytes).unwrap();
    assert!((CHUNK..CHUNK + 10_000).contains(&stored), "{second:?}");
    assert_eq!(fixture.objects("chunks").len(), 7);
    // The first tree did not change.
    let target = fixture.path("target");
    blobs.download(first.id, &target).await.unwrap();
    memory[2 * CHUNK] ^= 1;
    assert!(fs::read(target.join("memory")).unwrap() == memory);
}

#[tokio::test]
async fn chunks_are_compressed_if_that_is_smaller() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let text = b"a page of memory ".repeat(CHUNK / 17);
    let source = fixture.directory("source", &[("text", text)]);
    assert!(blobs.upload(&source).await.unwrap().stored_bytes < 10_000);
    let source = fixture.directory("noise", &[("noise", noise(1, CHUNK))]);
    let stored = blobs.upload(&source).await.unwrap().stored_bytes;
    assert!(stored < CHUNK as u64 + 1000, "{stored}");
}

#[tokio::test]
async fn what_is_not_a_regular_file_is_refused() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let refused = async |name: &str, create: &dyn Fn(&std::path::Path), reason: &str| {
        let directory = fixture.directory(&format!("source-{}", name.len()), &[("a", vec![1])]);
        create(&directory.join(name));
        let error = blobs.upload(&directory).await.unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    };
    refused("x", &|path| symlink("a", path).unwrap(), "not a regular file").await;
    refused("xx", &|path| symlink("/etc/passwd", path).unwrap(), "not a regular file").await;
    refused("xxx", &|path| fs::create_dir(path).unwrap(), "not a regular file").await;
    let fifo = |path: &std::path::Path| {
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    refused("xxxx", &fifo, "not a regular file").await;
    refused(".hidden", &|path| fs::write(path, "").unwrap(), "without a dot").await;
    assert!(fixture.objects("").is_empty());
}

#[tokio::test]
async fn a_directory_or_tree_that_does_not_exist_is_an_error() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let error = blobs.upload(&fixture.path("absent")).await.unwrap_err();
    assert!(matches!(error, Error::Disk { .. }), "{error}");
    let id: TreeId = format!("tree{}", "0".repeat(32)).parse().unwrap();
    let target = fixture.path("target");
    let error = blobs.download(id, &target).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { id: found } if found == id), "{error}");
    assert!(!target.exists());
}

#[tokio::test]
async fn a_target_that_exists_is_neither_used_nor_removed() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let source = fixture.directory("source", &[("a", vec![1])]);
    let uploaded = blobs.upload(&source).await.unwrap();
    let target = fixture.directory("target", &[("mine", vec![2])]);
    let error = blobs.download(uploaded.id, &target).await.unwrap_err();
    assert!(matches!(error, Error::Disk { .. }), "{error}");
    assert_eq!(fs::read(target.join("mine")).unwrap(), [2]);
}

#[tokio::test]
async fn a_deleted_tree_is_not_found() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let source = fixture.directory("source", &[("a", vec![1])]);
    let id = blobs.upload(&source).await.unwrap().id;
    blobs.delete_tree(id).await.unwrap();
    let error = blobs.download(id, fixture.path("target")).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    // Deleting is idempotent.
    blobs.delete_tree(id).await.unwrap();
}

#[tokio::test]
async fn a_directory_of_a_shared_file_system_is_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let url = format!("file://{}", store.display());
    let key = BlobKey::new([1; 32]);
    let error = Blobs::open(&url, &key, BlobOptions::new(dir.path().join("cache"))).await;
    assert!(matches!(error, Err(Error::Config { .. })), "{error:?}");
    fs::create_dir(&store).unwrap();
    let one = Blobs::open(&url, &key, BlobOptions::new(dir.path().join("one"))).await.unwrap();
    let two = Blobs::open(&url, &key, BlobOptions::new(dir.path().join("two"))).await.unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("memory"), noise(1, 3 * CHUNK + 5)).unwrap();
    fs::write(source.join("empty"), "").unwrap();
    let first = one.upload(&source).await.unwrap();
    let second = two.upload(&source).await.unwrap();
    assert!(second.stored_bytes < 1000, "{second:?}");
    let target = dir.path().join("target");
    two.download(first.id, &target).await.unwrap();
    assert_same(&source, &target);
    assert!(one.check().await.is_ok());
    one.delete_tree(first.id).await.unwrap();
    let error = two.download(first.id, dir.path().join("other")).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn concurrent_uploads_and_downloads_do_not_block_each_other() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let mut uploads = tokio::task::JoinSet::new();
    for number in 0..6 {
        let content = noise(number, 5 * CHUNK);
        let source = fixture.directory(&format!("source{number}"), &[("memory", content)]);
        let blobs = blobs.clone();
        uploads.spawn(async move { (number, blobs.upload(&source).await.unwrap().id) });
    }
    let mut downloads = tokio::task::JoinSet::new();
    while let Some(uploaded) = uploads.join_next().await {
        let (number, id) = uploaded.unwrap();
        for copy in 0..2 {
            let target = fixture.path(&format!("target{number}-{copy}"));
            let blobs = blobs.clone();
            downloads.spawn(async move { blobs.download(id, target).await.unwrap() });
        }
    }
    while let Some(downloaded) = downloads.join_next().await {
        downloaded.unwrap();
    }
    for number in 0..6 {
        let source = fixture.path(&format!("source{number}"));
        assert_same(&source, &fixture.path(&format!("target{number}-0")));
        assert_same(&source, &fixture.path(&format!("target{number}-1")));
    }
}
