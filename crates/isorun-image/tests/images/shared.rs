//! One store used by many tasks and processes, and by processes that are killed.

use std::path::Path;
use std::process::{Command, Stdio};

use isorun_image::{GcReport, ImportOptions, Limits, Progress, Source, Store};
use test_support::{KillOnDrop, Tmpfs};

use crate::bundle::{Bundle, Layer, TestStore, gzip, sha256};
use crate::registry::{Registry, options};

const STORE: &str = "ISORUN_TEST_STORE";
const IMAGE: &str = "ISORUN_TEST_IMAGE";

/// Creates an image of many files in several layers, so that a kill can interrupt it.
fn sample() -> Bundle {
    let layers: Vec<_> = (0..4)
        .map(|number| {
            let mut layer = Layer::default();
            for file in 0..150 {
                let content = format!("{number}.{file} ").repeat(400);
                layer = layer.file(&format!("layer{number}/dir{}/file{file}", file % 10), &content);
            }
            let tar = layer.tar();
            (gzip(&tar), sha256(&tar))
        })
        .collect();
    Bundle::new(&layers)
}

fn assert_complete(root: &Path) {
    for number in 0..4 {
        for file in 0..150 {
            let path = root.join(format!("layer{number}/dir{}/file{file}", file % 10));
            let expected = format!("{number}.{file} ").repeat(400);
            assert_eq!(std::fs::read_to_string(path).unwrap(), expected);
        }
    }
}

/// The child process of the tests below.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child process of other tests"]
async fn child() {
    let store = Store::open(std::env::var_os(STORE).unwrap()).unwrap();
    let name = std::env::var(IMAGE).unwrap().parse().unwrap();
    let image = store.pull(&name, &options(), &Progress::none()).await.unwrap();
    assert_complete(&image.root);
}

fn spawn(store: &Path, image: &str) -> KillOnDrop {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "shared::child", "--ignored"])
        .env(STORE, store)
        .env(IMAGE, image)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    KillOnDrop(child)
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_pulls_of_one_image_succeed() {
    let (home, registry) = (TestStore::new(), Registry::start());
    let layout = tempfile::tempdir().unwrap();
    let name = registry.push(&sample().layout(layout.path()), "shared", false);
    let children: Vec<_> = (0..2).map(|_| spawn(&home.path("store"), &name.to_string())).collect();
    let pulls = (0..4).map(|_| {
        let (store, name) = (home.store.clone(), name.clone());
        tokio::spawn(
            async move { store.pull(&name, &options(), &Progress::none()).await.unwrap().root },
        )
    });
    let mut roots = Vec::new();
    for pull in pulls.collect::<Vec<_>>() {
        roots.push(pull.await.unwrap());
        // While the others are pulling.
        home.store.gc().await.unwrap();
    }
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    roots.dedup();
    assert_eq!(roots.len(), 1);
    assert_complete(&roots[0]);
    assert_eq!(home.store.gc().await.unwrap(), GcReport::default());
    home.check("at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_pull_leaves_no_partial_state() {
    let registry = Registry::start();
    let layout = tempfile::tempdir().unwrap();
    let name = registry.push(&sample().layout(layout.path()), "killed", false);
    // Measures the duration of an uninterrupted pull.
    let home = TestStore::new();
    let start = std::time::Instant::now();
    assert!(spawn(&home.path("store"), &name.to_string()).wait().unwrap().success());
    let full_duration = start.elapsed();
    let (mut before, mut half) = (0, 0);
    for round in 0..24 {
        let home = TestStore::new();
        let mut child = spawn(&home.path("store"), &name.to_string());
        // The test needs kills at fixed fractions of the duration, so it sleeps.
        std::thread::sleep(full_duration * round / 24);
        child.kill().unwrap();
        child.wait().unwrap();
        // Images in the index are complete.
        match home.store.resolve(&name).unwrap() {
            Some(image) => assert_complete(&image.root),
            None => before += 1,
        }
        let work = |directory: &str| {
            std::fs::read_dir(home.path("store").join(directory)).unwrap().count()
        };
        if work("tmp") + work("partial") + work("work") > 0 {
            half += 1;
        }
        if round % 2 == 0 {
            home.store.gc().await.unwrap();
            assert_eq!(work("tmp") + work("partial") + work("work"), 0, "round {round}");
        }
        let image = home.store.pull(&name, &options(), &Progress::none()).await.unwrap();
        assert_complete(&image.root);
        home.store.gc().await.unwrap();
        assert_eq!(work("tmp") + work("partial") + work("work"), 0, "round {round}");
        home.check("killed");
    }
    assert!(before > 0 && half > 0, "no kill interrupted a pull: {before}, {half}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_removes_leftovers_but_no_file_being_written() {
    let home = TestStore::new();
    let image = home.layers(&[&Layer::default().file("one", "1")]).await.unwrap();
    // The leftovers of a crash while writing a file, and a directory.
    std::fs::write(home.path("store/tmp/.tmpAbCdEf"), "{").unwrap();
    std::fs::create_dir_all(home.path("store/tmp/.tmpGhIjKl/root/a")).unwrap();
    assert_eq!(home.store.gc().await.unwrap().leftovers, 2);
    assert_eq!(std::fs::read_dir(home.path("store/tmp")).unwrap().count(), 0);
    // Files are written during garbage collection.
    let writers: Vec<_> = (0..2)
        .map(|writer| {
            let (store, image) = (home.store.clone(), image.clone());
            tokio::task::spawn_blocking(move || {
                for round in 0..300 {
                    store.hold(&format!("run-{writer}-{}", round % 7), &image).unwrap();
                }
            })
        })
        .collect();
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        home.store.gc().await.unwrap();
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(home.store.holds().unwrap().len(), 14);
    home.check("leftovers");
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_keeps_leased_and_held_images() {
    let home = TestStore::new();
    let one = home.layers(&[&Layer::default().file("one", "1")]).await.unwrap();
    let name = "test".parse().unwrap();
    let (root, lease) = (one.root.clone(), one.lease());
    // The reference is moved to another image, and then removed.
    let two = home.layers(&[&Layer::default().file("two", "2")]).await.unwrap();
    home.store.hold("run-1", &two).unwrap();
    let held = two.root.clone();
    assert!(home.store.remove(&name).await.unwrap());
    assert!(!home.store.remove(&name).await.unwrap());
    drop((one, two));
    let removed = home.store.gc().await.unwrap();
    assert_eq!((removed.roots, removed.in_use), (0, 1));
    assert!(root.join("one").exists() && held.join("two").exists());
    drop(lease);
    assert_eq!(home.store.gc().await.unwrap().roots, 1);
    assert!(!root.exists() && held.join("two").exists());
    // A hold outlives the store object that created it.
    let again = Store::open(home.path("store")).unwrap();
    assert_eq!(again.holds().unwrap(), ["run-1"]);
    again.release("run-1").unwrap();
    again.release("run-1").unwrap();
    assert_eq!(again.gc().await.unwrap().roots, 1);
    assert!(!held.exists());
    for name in ["", "../x", "A", "a/b", &"x".repeat(65)] {
        assert!(again.release(name).is_err(), "{name}");
    }
    home.check("in use");
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_is_reported_and_cleaned_up() {
    let home = TestStore::new();
    let disk = home.path("disk");
    let _small = Tmpfs::mount(&disk, 2);
    let store = Store::open(disk.join("store")).unwrap();
    let tar = Layer::default().file("big", &"x".repeat(4 << 20)).tar();
    let work = tempfile::tempdir().unwrap();
    let layout = Bundle::new(&[(gzip(&tar), sha256(&tar))]).layout(work.path());
    let mut options = ImportOptions::default();
    options.platform = "linux/amd64".parse().unwrap();
    options.name = Some("x".parse().unwrap());
    options.limits = Limits::default();
    let error =
        store.import(&Source::Layout(layout), &options, &Progress::none()).await.unwrap_err();
    assert_eq!(error.code(), "image_io");
    assert!(error.is_host_error() && error.to_string().contains("No space left"), "{error}");
    assert_eq!(std::fs::read_dir(disk.join("store/tmp")).unwrap().count(), 0);
    let fits = Bundle::of(&[&Layer::default().file("a", "a")]).layout(&work.path().join("fits"));
    store.import(&Source::Layout(fits), &options, &Progress::none()).await.unwrap();
    store.gc().await.unwrap();
}
