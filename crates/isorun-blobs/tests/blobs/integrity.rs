//! What was changed in the store, or during a transfer, is not accepted.

use std::fs;
use std::path::Path;

use isorun_blobs::{Blobs, Error, TreeId};
use test_support::wait::wait_until;

use crate::fixture::{CHUNK, Fixture, assert_same, noise};
use crate::server::Fault;

/// Asserts that a tree is refused as damaged, with this text, and leaves no directory.
async fn assert_damaged(fixture: &Fixture, blobs: &Blobs, id: TreeId, text: &str) {
    let target = fixture.path("damaged");
    let error = blobs.download(id, &target).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(error.to_string().contains(text), "{error}");
    assert!(!target.exists());
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let before = fs::read(path).unwrap();
    let mut content = before.clone();
    change(&mut content);
    fs::write(path, content).unwrap();
    before
}

#[tokio::test]
async fn a_tree_cannot_be_read_with_another_key() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let source = fixture.directory("source", &[("a", vec![1])]);
    let id = blobs.upload(&source).await.unwrap().id;
    let other = fixture.open_with(2, fixture.options("other-cache")).await;
    assert_damaged(&fixture, &other, id, "stored with another key").await;
    let error = other.cached(id).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert_eq!(fs::read_dir(fixture.path("other-cache/trees")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(fixture.path("other-cache/tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_changed_truncated_swapped_or_removed_chunk_is_detected() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let source = fixture.directory("source", &[("memory", noise(1, 2 * CHUNK))]);
    let id = blobs.upload(&source).await.unwrap().id;
    let chunks = fixture.objects("chunks");
    let [one, two] = &chunks[..] else { panic!("{chunks:?}") };
    for at in [0, 5, 20, 1000, CHUNK] {
        let before = change(one, |content| content[at] ^= 1);
        assert_damaged(&fixture, &blobs, id, "cannot be decrypted").await;
        fs::write(one, before).unwrap();
    }
    for length in [0, 10, 31, 1000, CHUNK] {
        let before = change(one, |content| content.truncate(length));
        assert_damaged(&fixture, &blobs, id, "cannot be decrypted").await;
        fs::write(one, before).unwrap();
    }
    let before = change(one, |content| content.extend([0; 100]));
    assert_damaged(&fixture, &blobs, id, "has more than").await;
    fs::write(one, &before).unwrap();
    // A chunk with the content of another one.
    fs::copy(two, one).unwrap();
    assert_damaged(&fixture, &blobs, id, "cannot be decrypted").await;
    fs::remove_file(one).unwrap();
    assert_damaged(&fixture, &blobs, id, "is missing").await;
    fs::write(one, before).unwrap();
    let target = fixture.path("target");
    blobs.download(id, &target).await.unwrap();
    assert_same(&source, &target);
}

#[tokio::test]
async fn a_changed_or_swapped_tree_is_detected() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let source = fixture.directory("source", &[("a", vec![1])]);
    let id = blobs.upload(&source).await.unwrap().id;
    let tree = fixture.object("trees");
    let length = fs::metadata(&tree).unwrap().len() as usize;
    for at in 0..length {
        let before = change(&tree, |content| content[at] ^= 0x80);
        assert_damaged(&fixture, &blobs, id, "cannot be decrypted").await;
        fs::write(&tree, before).unwrap();
    }
    let other = blobs.upload(&source).await.unwrap().id;
    let other_tree = tree.parent().unwrap().join(other.to_string());
    fs::copy(&tree, other_tree).unwrap();
    assert_damaged(&fixture, &blobs, other, "cannot be decrypted").await;
}

#[tokio::test]
async fn a_cancelled_download_leaves_no_directory() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let source = fixture.directory("source", &[("memory", noise(1, 12 * CHUNK))]);
    let id = blobs.upload(&source).await.unwrap().id;
    let mut seen = 0;
    fixture.server.plan(move |received| {
        seen += usize::from(received.path.contains("/chunks/"));
        if seen > 6 { Fault::Stall } else { Fault::None }
    });
    let target = fixture.path("target");
    let download = {
        let (blobs, target) = (blobs.clone(), target.clone());
        tokio::spawn(async move { blobs.download(id, target).await })
    };
    // Some chunks are written already.
    wait_until("a chunk is written", async || {
        fs::metadata(target.join("memory"))
            .is_ok_and(|file| std::os::unix::fs::MetadataExt::blocks(&file) > 0)
    })
    .await;
    download.abort();
    assert!(download.await.unwrap_err().is_cancelled());
    wait_until("the directory is removed", async || !target.exists()).await;
    // Nothing is left that keeps others from their turn.
    fixture.server.plan(|_| Fault::None);
    blobs.download(id, &target).await.unwrap();
    assert_same(&source, &target);
}

#[tokio::test]
async fn a_cancelled_upload_leaves_no_tree() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let source = fixture.directory("source", &[("memory", noise(1, 3 * CHUNK))]);
    fixture.server.plan(|received| {
        let is_tree = received.path.contains("/trees/");
        if is_tree { Fault::Stall } else { Fault::None }
    });
    let upload = {
        let (blobs, source) = (blobs.clone(), source.clone());
        tokio::spawn(async move { blobs.upload(&source).await })
    };
    wait_until("all chunks are stored", async || fixture.objects("chunks").len() == 3).await;
    upload.abort();
    assert!(upload.await.unwrap_err().is_cancelled());
    assert!(fixture.objects("trees").is_empty());
    fixture.server.plan(|_| Fault::None);
    let uploaded = blobs.upload(&source).await.unwrap();
    assert!(uploaded.stored_bytes < 1000, "{uploaded:?}");
}

#[tokio::test]
async fn a_tree_is_written_after_its_chunks() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let source = fixture.directory("source", &[("memory", noise(1, 9 * CHUNK))]);
    blobs.upload(&source).await.unwrap();
    let received = fixture.server.received();
    let writes: Vec<&str> = received
        .iter()
        .filter(|request| request.method == http::Method::PUT)
        .map(|request| request.path.as_str())
        .collect();
    assert_eq!(writes.len(), 10);
    assert!(writes[9].contains("/trees/"), "{writes:?}");
    assert!(writes[..9].iter().all(|path| path.contains("/chunks/")), "{writes:?}");
}
