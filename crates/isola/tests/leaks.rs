//! The resources of the process that copies of guests use: ten thousand forks leak no
//! memory, mapping or file descriptor, and a snapshot file is in memory only once.
//!
//! They are a separate test binary, because they measure the process.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use isola::{Runtime, Template, args};

use self::process::{descriptors, mappings, resident_bytes};

#[path = "sandbox/process.rs"]
mod process;

/// Runs the tests one after another, because all measure the process.
#[tokio::test]
async fn copies_leak_no_resources() {
    snapshot_file_is_in_memory_once().await;
    live_copies_hold_few_descriptors().await;
    ten_thousand_forks_leak_nothing().await;
}

#[derive(Debug)]
struct ProcessUsage {
    descriptors: usize,
    mappings: usize,
    /// Resident memory, in MiB.
    memory: u64,
}

fn process_usage() -> ProcessUsage {
    ProcessUsage {
        descriptors: descriptors(),
        mappings: mappings(),
        memory: resident_bytes() >> 20,
    }
}

/// Returns the number of snapshots in memory, by the descriptors of their images.
fn images() -> usize {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().contains("isola-image")).count()
}

async fn snapshot_file_is_in_memory_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.snapshot");
    for (runtime, script, other) in [
        (Runtime::JavaScript, "const main = () => 1", "const main = () => 2"),
        (Runtime::Python, "def main(): return 1", "def main(): return 2"),
    ] {
        let template = Template::builder(runtime).build().await.unwrap();
        let parent = template.sandbox().create().await.unwrap();
        parent.start().await.unwrap();
        parent.load_script(script).await.unwrap();
        parent.snapshot().await.unwrap().save(&path).await.unwrap();
        let before = images();
        let mut sandboxes = Vec::new();
        for _ in 0..5 {
            let snapshot = template.load_snapshot(&path).await.unwrap();
            sandboxes.push(snapshot.create_sandbox().await.unwrap());
        }
        assert_eq!(images(), before + 1, "{runtime}");
        // A changed file is read again.
        parent.load_script(other).await.unwrap();
        parent.snapshot().await.unwrap().save(&path).await.unwrap();
        let changed = template.load_snapshot(&path).await.unwrap().create_sandbox().await.unwrap();
        assert_eq!(changed.run("main", args![]).await.unwrap().as_str(), "2", "{runtime}");
        for sandbox in &sandboxes {
            assert_eq!(sandbox.run("main", args![]).await.unwrap().as_str(), "1", "{runtime}");
        }
        // So is a damaged one, although its old content is in use.
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = template.load_snapshot(&path).await.unwrap_err();
        assert_eq!(error.code(), "snapshot_refused", "{runtime}");
        drop((sandboxes, changed));
        assert_eq!(images(), before, "{runtime}");
    }
}

/// A process has about a thousand descriptors by default, and may have more sandboxes
/// than that.
async fn live_copies_hold_few_descriptors() {
    let template = Template::builder(Runtime::JavaScript).build().await.unwrap();
    let parent = template.sandbox().create().await.unwrap();
    parent.start().await.unwrap();
    parent.load_script("const main = () => 1").await.unwrap();
    let before = images();
    let mut children = Vec::new();
    for _ in 0..20 {
        // Each from a snapshot of its own.
        children.append(&mut parent.fork(1).await.unwrap());
    }
    assert_eq!(images(), before);
    let dir = tempfile::tempdir().unwrap();
    let snapshot = parent.snapshot().await.unwrap();
    snapshot.save(dir.path().join("0")).await.unwrap();
    drop(snapshot);
    let before = images();
    for number in 0..80 {
        let path = dir.path().join(number.to_string());
        if number > 0 {
            std::fs::copy(dir.path().join("0"), &path).unwrap();
        }
        let snapshot = template.load_snapshot(&path).await.unwrap();
        children.push(snapshot.create_sandbox().await.unwrap());
    }
    assert_eq!(images(), before + 64);
    for child in &children {
        assert_eq!(child.run("main", args![]).await.unwrap().as_str(), "1");
    }
    drop(children);
    assert_eq!(images(), before);
}

async fn ten_thousand_forks_leak_nothing() {
    for (runtime, script, forks) in [
        (Runtime::JavaScript, "let n = 0; const main = () => ++n", 9_000),
        (Runtime::Python, "n = 0\ndef main():\n    global n\n    n += 1\n    return n\n", 1_000),
    ] {
        let template = Template::builder(runtime).build().await.unwrap();
        let parent = template.sandbox().create().await.unwrap();
        parent.start().await.unwrap();
        parent.load_script(script).await.unwrap();
        let round = async |forks: usize| {
            for _ in 0..forks / 10 {
                // A new snapshot each time, and forks of it.
                let children = parent.fork(10).await.unwrap();
                let answer = children[3].run("main", args![]).await.unwrap();
                assert_eq!(answer.as_str(), "1", "{runtime}");
            }
        };
        round(forks / 10).await;
        let before = process_usage();
        round(forks).await;
        let after = process_usage();
        assert!(after.descriptors <= before.descriptors, "{runtime}: {before:?} {after:?}");
        assert!(after.mappings <= before.mappings + 16, "{runtime}: {before:?} {after:?}");
        assert!(after.memory <= before.memory + 32, "{runtime}: {before:?} {after:?}");
    }
}
