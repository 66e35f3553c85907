//! The cache of trees.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use http::Method;
use isorun_blobs::{Blobs, Error, TreeId};
use test_support::wait::wait_until;

use crate::fixture::{CHUNK, Fixture, assert_same, noise};
use crate::server::{Fault, count};

async fn upload(fixture: &Fixture, blobs: &Blobs, seed: u64, chunks: usize) -> TreeId {
    let name = format!("source{seed}");
    let content = noise(seed, chunks * CHUNK);
    let source = fixture.directory(&name, &[("memory", content), ("manifest.json", vec![1])]);
    blobs.upload(&source).await.unwrap().id
}

fn cached_trees(fixture: &Fixture) -> Vec<String> {
    let trees = fs::read_dir(fixture.path("cache/trees")).unwrap();
    let mut names: Vec<_> =
        trees.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn assert_has(fixture: &Fixture, expected: &[TreeId]) {
    let mut expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
    expected.sort();
    assert_eq!(cached_trees(fixture), expected);
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[tokio::test]
async fn twenty_tasks_download_a_tree_once() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let id = upload(&fixture, &blobs, 1, 3).await;
    fixture.server.received();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let blobs = blobs.clone();
        tasks.spawn(async move { blobs.cached(id).await.unwrap() });
    }
    let trees = tasks.join_all().await;
    assert_same(&fixture.path("source1"), trees[19].path());
    let received = fixture.server.received();
    assert_eq!(count(&received, &Method::GET, "/trees/"), 1, "{received:?}");
    assert_eq!(count(&received, &Method::GET, "/chunks/"), 4, "{received:?}");
    // Later uses send nothing.
    blobs.cached(id).await.unwrap();
    assert!(fixture.server.received().is_empty());
}

#[tokio::test]
async fn waiting_tasks_share_an_error_and_a_later_one_tries_again() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let id = upload(&fixture, &blobs, 1, 1).await;
    fixture.server.plan(|_| Fault::Status(403, "AccessDenied"));
    fixture.server.received();
    // Polled in order by this one task, so that all wait before the first response comes.
    let tasks = futures_util::future::join_all((0..20).map(|_| blobs.cached(id)));
    for outcome in tasks.await {
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error}");
    }
    assert_eq!(fixture.server.received().len(), 1);
    fixture.server.plan(|_| Fault::None);
    let tree = blobs.cached(id).await.unwrap();
    assert_same(&fixture.path("source1"), tree.path());
}

#[tokio::test]
async fn a_waiting_task_continues_when_the_downloading_one_is_cancelled() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let id = upload(&fixture, &blobs, 1, 1).await;
    let mut first = true;
    fixture.server.plan(move |received| {
        let stalls = received.path.contains("/chunks/") && std::mem::take(&mut first);
        if stalls { Fault::Stall } else { Fault::None }
    });
    fixture.server.received();
    let spawn = || {
        let blobs = blobs.clone();
        tokio::spawn(async move { blobs.cached(id).await })
    };
    let downloading = spawn();
    wait_until("the first task downloads", async || !is_empty(&fixture.path("cache/tmp"))).await;
    let waiting = spawn();
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    downloading.abort();
    let tree = waiting.await.unwrap().unwrap();
    assert_same(&fixture.path("source1"), tree.path());
    wait_until("the partial download is removed", async || is_empty(&fixture.path("cache/tmp")))
        .await;
}

#[tokio::test]
async fn the_least_recently_used_trees_are_removed() {
    let fixture = Fixture::start().await;
    let mut options = fixture.options("cache");
    options.max_cache_bytes = 9 * CHUNK as u64;
    let blobs = fixture.open_with(1, options).await;
    let mut ids = Vec::new();
    for seed in 0..5 {
        ids.push(upload(&fixture, &blobs, seed, 2).await);
    }
    for id in &ids[..3] {
        blobs.cached(*id).await.unwrap();
    }
    assert_has(&fixture, &ids[..3]);
    // The first tree is used again, so that the second one is the oldest.
    blobs.cached(ids[0]).await.unwrap();
    blobs.cached(ids[3]).await.unwrap();
    assert!(!cached_trees(&fixture).contains(&ids[1].to_string()));
    assert!(cached_trees(&fixture).contains(&ids[0].to_string()));
    assert!(blobs.cache_bytes() <= 9 * CHUNK as u64);
    assert!(is_empty(&fixture.path("cache/tmp")));
}

#[tokio::test]
async fn a_tree_in_use_is_not_removed() {
    let fixture = Fixture::start().await;
    let mut options = fixture.options("cache");
    options.max_cache_bytes = 1;
    let blobs = fixture.open_with(1, options).await;
    let first = upload(&fixture, &blobs, 1, 1).await;
    let second = upload(&fixture, &blobs, 2, 1).await;
    let one = blobs.cached(first).await.unwrap();
    let two = blobs.cached(second).await.unwrap();
    let again = blobs.cached(first).await.unwrap();
    assert_same(&fixture.path("source1"), one.path());
    assert_same(&fixture.path("source2"), two.path());
    // Deleting it in the store does not remove it either.
    blobs.delete_tree(first).await.unwrap();
    drop(one);
    assert_same(&fixture.path("source1"), again.path());
    drop((again, two));
    wait_until("the cache is empty", async || cached_trees(&fixture).is_empty()).await;
    wait_until("nothing is counted", async || blobs.cache_bytes() == 0).await;
}

#[tokio::test]
async fn a_deleted_tree_is_removed_from_the_cache() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let id = upload(&fixture, &blobs, 1, 1).await;
    drop(blobs.cached(id).await.unwrap());
    assert_has(&fixture, &[id]);
    blobs.delete_tree(id).await.unwrap();
    assert_has(&fixture, &[]);
    let error = blobs.cached(id).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn a_restarted_process_finds_complete_trees_only() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let id = upload(&fixture, &blobs, 1, 2).await;
    let tree = blobs.cached(id).await.unwrap();
    drop((tree, blobs));
    // What a killed process leaves.
    fs::create_dir(fixture.path("cache/tmp/partial")).unwrap();
    fs::write(fixture.path("cache/tmp/partial/memory"), "partial").unwrap();
    let incomplete = format!("cache/trees/tree{}", "1".repeat(32));
    fs::create_dir(fixture.path(&incomplete)).unwrap();
    let blobs = fixture.open().await;
    assert_has(&fixture, &[id]);
    assert!(is_empty(&fixture.path("cache/tmp")));
    assert!(blobs.cache_bytes() >= 2 * CHUNK as u64);
    fixture.server.received();
    let tree = blobs.cached(id).await.unwrap();
    assert_same(&fixture.path("source1"), tree.path());
    assert!(fixture.server.received().is_empty());
}

#[tokio::test]
async fn a_tree_that_was_damaged_on_disk_is_downloaded_again() {
    let fixture = Fixture::start().await;
    let mut blobs = fixture.open().await;
    let id = upload(&fixture, &blobs, 1, 2).await;
    let files = {
        let tree = blobs.cached(id).await.unwrap();
        tree.path().to_owned()
    };
    let change_byte = |path: &Path| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(b"X", 5_000_000).unwrap();
    };
    let truncate = |path: &Path| {
        fs::File::options().write(true).open(path).unwrap().set_len(100).unwrap();
    };
    let memory = files.join("memory");
    let damages: [(&str, &dyn Fn()); 6] = [
        ("a changed byte", &|| change_byte(&memory)),
        ("a truncated file", &|| truncate(&memory)),
        ("a removed file", &|| fs::remove_file(&memory).unwrap()),
        ("an added file", &|| fs::write(files.join("added"), "").unwrap()),
        ("a changed record", &|| truncate(&files.parent().unwrap().join("tree"))),
        ("a link", &|| {
            fs::rename(&memory, files.parent().unwrap().join("elsewhere")).unwrap();
            std::os::unix::fs::symlink("../elsewhere", &memory).unwrap();
        }),
    ];
    for (name, damage) in damages {
        drop(blobs);
        damage();
        blobs = fixture.open().await;
        fixture.server.received();
        let tree = blobs.cached(id).await.unwrap();
        assert_same(&fixture.path("source1"), tree.path());
        let received = fixture.server.received();
        assert_eq!(count(&received, &Method::GET, "/trees/"), 1, "{name}");
        assert_has(&fixture, &[id]);
    }
}

#[tokio::test]
async fn the_order_of_use_survives_a_restart() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let first = upload(&fixture, &blobs, 1, 2).await;
    let second = upload(&fixture, &blobs, 2, 2).await;
    blobs.cached(first).await.unwrap();
    blobs.cached(second).await.unwrap();
    blobs.cached(first).await.unwrap();
    drop(blobs);
    let mut options = fixture.options("cache");
    options.max_cache_bytes = 3 * CHUNK as u64;
    let _blobs = fixture.open_with(1, options).await;
    assert_has(&fixture, &[first]);
}

#[tokio::test]
async fn two_processes_cannot_use_one_cache() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let key = isorun_blobs::BlobKey::new([1; 32]);
    let error = Blobs::open(&fixture.url(), &key, fixture.options("cache")).await.unwrap_err();
    assert!(error.to_string().contains("is used by another process"), "{error}");
    // A tree in use keeps the cache, since another process could remove it.
    let id = upload(&fixture, &blobs, 1, 1).await;
    let tree = blobs.cached(id).await.unwrap();
    drop(blobs);
    let error = Blobs::open(&fixture.url(), &key, fixture.options("cache")).await.unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error}");
    drop(tree);
    Blobs::open(&fixture.url(), &key, fixture.options("cache")).await.unwrap();
}
