//! One store, many at work: tasks, processes, and processes that are killed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use isorun_engine::image::{ImportOptions, Limits, Progress, Removed, Source, Store};
use rustix::process::{Pid, Signal};

use crate::bundle::{Bundle, Home, Layer, gzip, sha256};
use crate::registry::{Registry, options};

const STORE: &str = "ISORUN_TEST_STORE";
const IMAGE: &str = "ISORUN_TEST_IMAGE";

/// Many files in several layers, so that there is a middle to be killed in.
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

fn complete(root: &Path) {
    for number in 0..4 {
        for file in 0..150 {
            let path = root.join(format!("layer{number}/dir{}/file{file}", file % 10));
            let expected = format!("{number}.{file} ").repeat(400);
            assert_eq!(std::fs::read_to_string(path).unwrap(), expected);
        }
    }
}

/// What the tests below run as a process of its own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a process of other tests"]
async fn child() {
    let store = Store::open(std::env::var_os(STORE).unwrap()).unwrap();
    let name = std::env::var(IMAGE).unwrap().parse().unwrap();
    let image = store.pull(&name, &options(), &Progress::none()).await.unwrap();
    complete(&image.root);
}

fn spawn(store: &Path, image: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "shared::child", "--ignored"])
        .env(STORE, store)
        .env(IMAGE, image)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_and_processes_pull_the_same_image_at_once() {
    let (home, registry) = (Home::new(), Registry::start());
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
        // In the middle of the others' work.
        home.store.gc().await.unwrap();
    }
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    roots.dedup();
    assert_eq!(roots.len(), 1);
    complete(&roots[0]);
    assert_eq!(home.store.gc().await.unwrap(), Removed::default());
    home.check("at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_was_killed_leaves_nothing_half_done() {
    let registry = Registry::start();
    let layout = tempfile::tempdir().unwrap();
    let name = registry.push(&sample().layout(layout.path()), "killed", false);
    // How long an undisturbed one takes.
    let home = Home::new();
    let start = std::time::Instant::now();
    assert!(spawn(&home.path("store"), &name.to_string()).wait().unwrap().success());
    let whole = start.elapsed();
    let (mut before, mut half) = (0, 0);
    for round in 0..24 {
        let home = Home::new();
        let mut child = spawn(&home.path("store"), &name.to_string());
        // The moment is what this test is about; none is waited for.
        std::thread::sleep(whole * round / 24);
        let pid = Pid::from_child(&child);
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        child.wait().unwrap();
        // The images that are known are whole ones.
        match home.store.resolve(&name).unwrap() {
            Some(image) => complete(&image.root),
            None => before += 1,
        }
        let work =
            |folder: &str| std::fs::read_dir(home.path("store").join(folder)).unwrap().count();
        if work("tmp") + work("partial") + work("work") > 0 {
            half += 1;
        }
        if round % 2 == 0 {
            home.store.gc().await.unwrap();
            assert_eq!(work("tmp") + work("partial") + work("work"), 0, "round {round}");
        }
        let image = home.store.pull(&name, &options(), &Progress::none()).await.unwrap();
        complete(&image.root);
        home.store.gc().await.unwrap();
        assert_eq!(work("tmp") + work("partial") + work("work"), 0, "round {round}");
        home.check("killed");
    }
    assert!(before > 0 && half > 0, "no kill was in the middle: {before}, {half}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_is_at_goes_and_the_rest_stays() {
    let home = Home::new();
    let image = home.layers(&[&Layer::default().file("one", "1")]).await.unwrap();
    // What a crash leaves in the middle of writing a file, and a folder.
    std::fs::write(home.path("store/tmp/.tmpAbCdEf"), "{").unwrap();
    std::fs::create_dir_all(home.path("store/tmp/.tmpGhIjKl/root/a")).unwrap();
    assert_eq!(home.store.gc().await.unwrap().leftovers, 2);
    assert_eq!(std::fs::read_dir(home.path("store/tmp")).unwrap().count(), 0);
    // Files are written while garbage is collected.
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
    home.check("nobody at it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_stays() {
    let home = Home::new();
    let one = home.layers(&[&Layer::default().file("one", "1")]).await.unwrap();
    let name = "test".parse().unwrap();
    let (root, lease) = (one.root.clone(), one.lease());
    // The name goes over to another image, and then away.
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
    // A hold outlives whoever made it.
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
async fn a_full_disk_is_said_and_cleaned_up() {
    let home = Home::new();
    let disk = home.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let small = Small::mount(&disk);
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
    assert!(error.is_ours() && error.to_string().contains("No space left"), "{error}");
    assert_eq!(std::fs::read_dir(disk.join("store/tmp")).unwrap().count(), 0);
    let fits = Bundle::of(&[&Layer::default().file("a", "a")]).layout(&work.path().join("fits"));
    store.import(&Source::Layout(fits), &options, &Progress::none()).await.unwrap();
    store.gc().await.unwrap();
    drop(store);
    drop(small);
    std::fs::remove_dir(&disk).unwrap();
}

/// A file system of two MiB.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(at: &Path) -> Self {
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs"])
            .arg(at)
            .status()
            .unwrap();
        assert!(status.success(), "these tests run as root");
        Self(at.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        for _ in 0..100 {
            if Command::new("umount").arg(&self.0).status().unwrap().success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
