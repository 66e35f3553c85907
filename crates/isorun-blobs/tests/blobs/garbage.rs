//! Garbage collection never loses a tree, and in the end deletes everything else.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use isorun_blobs::{Blobs, Collected, Error, Result, TreeId, UploadedTree};
use test_support::wait::wait_until;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::fixture::{Fixture, GRACE, assert_same, noise};
use crate::server::Fault;

const NOTHING: [TreeId; 0] = [];

async fn collect(blobs: &Blobs, referenced: impl IntoIterator<Item = TreeId>) -> Collected {
    blobs.collect_garbage(&referenced.into_iter().collect()).await.unwrap()
}

async fn assert_downloads(fixture: &Fixture, blobs: &Blobs, id: TreeId, source: &str) {
    let target = fixture.path("verified");
    blobs.download(id, &target).await.unwrap();
    assert_same(&fixture.path(source), &target);
    std::fs::remove_dir_all(target).unwrap();
}

/// An upload that waits before a request with this text in its path.
struct HeldUpload {
    task: JoinHandle<Result<UploadedTree>>,
    permits: Arc<Semaphore>,
    started: Arc<Semaphore>,
}

impl HeldUpload {
    fn start(fixture: &Fixture, blobs: &Blobs, source: PathBuf, method: &'static str) -> Self {
        let permits = Arc::new(Semaphore::new(0));
        let started = Arc::new(Semaphore::new(0));
        let (held, reached) = (permits.clone(), started.clone());
        fixture.server.plan(move |received| {
            if received.method.as_str() == method && received.path.contains("/trees/") {
                reached.add_permits(1);
                return Fault::Hold(held.clone());
            }
            Fault::None
        });
        let blobs = blobs.clone();
        let task = tokio::spawn(async move { blobs.upload(&source).await });
        Self { task, permits, started }
    }

    /// Waits until the upload has stored its chunks.
    async fn reached(&self) {
        self.started.acquire().await.unwrap().forget();
    }

    async fn finish(self) -> TreeId {
        self.permits.add_permits(1);
        self.task.await.unwrap().unwrap().id
    }
}

#[tokio::test]
async fn what_is_not_referenced_is_deleted_in_two_steps() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let kept = fixture.directory("kept", &[("a", noise(1, 100)), ("b", noise(2, 100))]);
    let lost = fixture.directory("lost", &[("a", noise(1, 100)), ("c", noise(3, 100))]);
    let kept = blobs.upload(&kept).await.unwrap().id;
    blobs.upload(&lost).await.unwrap();
    // Everything is young.
    assert_eq!(collect(&blobs, [kept]).await, Collected::default());
    fixture.age(GRACE + Duration::from_secs(5));
    let first = collect(&blobs, [kept]).await;
    assert_eq!((first.trees, first.chunks, first.marked), (1, 0, 1), "{first:?}");
    assert_eq!(fixture.objects("chunks").len(), 3);
    // The list is young.
    let second = collect(&blobs, [kept]).await;
    assert_eq!((second.trees, second.chunks, second.marked), (0, 0, 0), "{second:?}");
    fixture.age(GRACE + Duration::from_secs(5));
    let third = collect(&blobs, [kept]).await;
    assert_eq!((third.trees, third.chunks, third.marked), (0, 1, 0), "{third:?}");
    assert!((100..300).contains(&third.bytes), "{third:?}");
    assert_eq!(fixture.objects("chunks").len(), 2);
    assert_eq!(fixture.objects("garbage").len(), 1);
    fixture.age(GRACE + Duration::from_secs(5));
    assert_eq!(collect(&blobs, [kept]).await, Collected::default());
    assert!(fixture.objects("garbage").is_empty());
    assert!(fixture.objects("clock").is_empty());
    assert_downloads(&fixture, &blobs, kept, "kept").await;
}

#[tokio::test]
async fn an_upload_keeps_chunks_that_it_found_before_they_were_marked() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let source = fixture.directory("source", &[("a", noise(1, 100))]);
    let first = blobs.upload(&source).await.unwrap().id;
    blobs.delete_tree(first).await.unwrap();
    fixture.age(GRACE * 3);
    let upload = HeldUpload::start(&fixture, &blobs, source, "PUT");
    upload.reached().await;
    assert_eq!(collect(&blobs, NOTHING).await.marked, 1);
    // An upload takes at most half of the grace period.
    fixture.age(GRACE / 2);
    assert_eq!(collect(&blobs, NOTHING).await, Collected::default());
    let id = upload.finish().await;
    for _ in 0..4 {
        fixture.age(GRACE / 2 + Duration::from_secs(1));
        assert_eq!(collect(&blobs, [id]).await.chunks, 0);
    }
    assert_downloads(&fixture, &blobs, id, "source").await;
    assert!(fixture.objects("garbage").is_empty());
}

#[tokio::test]
async fn an_upload_does_not_use_marked_chunks() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let source = fixture.directory("source", &[("a", noise(1, 100))]);
    let first = blobs.upload(&source).await.unwrap().id;
    blobs.delete_tree(first).await.unwrap();
    fixture.age(GRACE * 3);
    assert_eq!(collect(&blobs, NOTHING).await.marked, 1);
    fixture.age(GRACE + Duration::from_secs(5));
    // The collector waits before it deletes.
    let permits = Arc::new(Semaphore::new(0));
    let reached = Arc::new(Semaphore::new(0));
    let (held, started) = (permits.clone(), reached.clone());
    let mut deletions = 0;
    fixture.server.plan(move |received| {
        deletions += usize::from(received.path.contains("delete"));
        // The first one is that of the object for the clock.
        if received.path.contains("delete") && deletions == 2 {
            started.add_permits(1);
            return Fault::Hold(held.clone());
        }
        Fault::None
    });
    let collector = {
        let blobs = blobs.clone();
        tokio::spawn(async move { collect(&blobs, NOTHING).await })
    };
    reached.acquire().await.unwrap().forget();
    let second = blobs.upload(&source).await.unwrap();
    let third = blobs.upload(&source).await.unwrap();
    assert_eq!(fixture.objects("chunks").len(), 2);
    assert!(third.stored_bytes < second.stored_bytes - 50, "{second:?} {third:?}");
    permits.add_permits(1);
    assert_eq!(collector.await.unwrap().chunks, 1);
    assert_eq!(fixture.objects("chunks").len(), 1);
    for id in [second.id, third.id] {
        assert_downloads(&fixture, &blobs, id, "source").await;
    }
}

#[tokio::test]
async fn a_tree_that_cannot_be_read_protects_all_chunks() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let source = fixture.directory("source", &[("a", noise(1, 100))]);
    let id = blobs.upload(&source).await.unwrap().id;
    let tree = fixture.object("trees");
    let content = std::fs::read(&tree).unwrap();
    std::fs::write(&tree, &content[..content.len() - 1]).unwrap();
    fixture.age(GRACE * 2);
    let error = blobs.collect_garbage(&[id].into()).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(error.to_string().contains(&id.to_string()), "{error}");
    assert!(fixture.objects("garbage").is_empty());
    // It is not read when nothing refers to it.
    assert_eq!(collect(&blobs, NOTHING).await.trees, 1);
}

#[tokio::test]
async fn an_upload_fails_after_half_of_the_grace_period() {
    let fixture = Fixture::start().await;
    let mut options = fixture.options("cache");
    options.grace = Duration::from_secs(10);
    let blobs = fixture.open_with(1, options).await;
    let source = fixture.directory("source", &[("a", noise(1, 100))]);
    let upload = HeldUpload::start(&fixture, &blobs, source, "PUT");
    let started = tokio::time::Instant::now();
    let error = upload.task.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::TooSlow { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "the upload took longer than 5s, which is half of the grace period: repeat it, or use a \
         longer grace period on every node"
    );
    assert!(started.elapsed() >= Duration::from_secs(5));
    assert!(fixture.objects("trees").is_empty());
}

/// A reproducible sequence of numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Runs random operations: uploads that share contents, of which some wait for a while,
/// deletions, and collections by two nodes. Every referenced tree stays complete.
async fn run_model(seed: u64) {
    let fixture = Fixture::start().await;
    let nodes = [fixture.open().await, fixture.open_with(1, fixture.options("other")).await];
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut live: Vec<(TreeId, String)> = Vec::new();
    let mut held: Option<(HeldUpload, String, Duration)> = None;
    for step in 0..120 {
        let node = usize::try_from(random.below(2)).unwrap();
        let blobs = &nodes[node];
        let source = |random: &mut Random| {
            let name = format!("source{step}");
            let contents: HashSet<u64> = (0..=random.below(2)).map(|_| random.below(6)).collect();
            let files: Vec<_> =
                contents.iter().map(|it| (format!("f{it}"), noise(*it, 100))).collect();
            let files: Vec<_> = files.iter().map(|(name, it)| (&name[..], it.clone())).collect();
            (fixture.directory(&name, &files), name)
        };
        match step % 4 {
            0 if held.is_none() => {
                let (source, name) = source(&mut random);
                if random.below(3) > 0 {
                    let upload = HeldUpload::start(&fixture, blobs, source, "PUT");
                    upload.reached().await;
                    held = Some((upload, name, Duration::ZERO));
                } else {
                    live.push((blobs.upload(&source).await.unwrap().id, name));
                }
            }
            1 => {
                let by = GRACE / 10 * u32::try_from(random.below(14)).unwrap();
                match &mut held {
                    Some((_, _, aged)) if *aged + by > GRACE / 2 => {}
                    Some((_, _, aged)) => {
                        *aged += by;
                        fixture.age(by);
                    }
                    None => fixture.age(by),
                }
            }
            2 => {
                let referenced: HashSet<_> = live.iter().map(|(id, _)| *id).collect();
                let one = blobs.collect_garbage(&referenced);
                match random.below(3) {
                    0 => {
                        let other = nodes[1 - node].collect_garbage(&referenced);
                        let (one, other) = tokio::join!(one, other);
                        one.unwrap();
                        other.unwrap();
                    }
                    1 if held.is_none() => {
                        let (source, name) = source(&mut random);
                        let (one, uploaded) = tokio::join!(one, blobs.upload(&source));
                        one.unwrap();
                        live.push((uploaded.unwrap().id, name));
                    }
                    _ => {
                        one.await.unwrap();
                    }
                }
                for (id, source) in &live {
                    assert_downloads(&fixture, blobs, *id, source).await;
                }
            }
            _ => {
                if random.below(3) == 0
                    && let Some((upload, name, _)) = held.take()
                {
                    live.push((upload.finish().await, name));
                    fixture.server.plan(|_| Fault::None);
                }
                while live.len() > 3 || (!live.is_empty() && random.below(2) == 0) {
                    let at = usize::try_from(random.below(live.len() as u64)).unwrap();
                    let (id, _) = live.swap_remove(at);
                    if random.below(2) == 0 {
                        blobs.delete_tree(id).await.unwrap();
                    }
                }
            }
        }
    }
    for (id, source) in &live {
        assert_downloads(&fixture, &nodes[0], *id, source).await;
    }
    if let Some((upload, _, _)) = held {
        upload.finish().await;
        fixture.server.plan(|_| Fault::None);
    }
    for _ in 0..4 {
        fixture.age(GRACE + Duration::from_secs(5));
        collect(&nodes[0], NOTHING).await;
    }
    for directory in ["trees", "chunks", "garbage", "clock", "check"] {
        let left = fixture.objects(directory);
        assert!(left.is_empty(), "seed {seed}: {left:?}");
    }
}

#[tokio::test]
async fn no_sequence_of_operations_loses_a_referenced_tree() {
    for seed in 1..=10 {
        let run = tokio::spawn(run_model(seed));
        if let Err(error) = run.await {
            panic!("seed {seed}: {error}");
        }
    }
}

#[tokio::test]
async fn what_a_killed_process_left_is_deleted() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let source = fixture.directory("source", &[("a", noise(1, 100))]);
    let upload = HeldUpload::start(&fixture, &blobs, source, "PUT");
    upload.reached().await;
    upload.task.abort();
    wait_until("the upload has ended", async || upload.task.is_finished()).await;
    for directory in ["clock", "check"] {
        let path = fixture.server.bucket().join("a/prefix").join(directory);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("left"), "").unwrap();
    }
    // Another upload may be using the chunk.
    assert_eq!(collect(&blobs, NOTHING).await, Collected::default());
    for _ in 0..3 {
        fixture.age(GRACE + Duration::from_secs(5));
        collect(&blobs, NOTHING).await;
    }
    assert!(fixture.objects("").is_empty(), "{:?}", fixture.objects(""));
}
