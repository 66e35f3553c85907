//! Invalid snapshot files: forged, endless, or of another kind.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use isola::{Error, Runtime, SnapshotInfo, Template, args, list_snapshots};
use serde_json::{Value as Json, json};

#[cfg(unix)]
use crate::fixture::create_fifo;
use crate::fixture::{started, template};

/// Saves a valid snapshot in a temporary directory.
async fn saved() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("good.snapshot");
    let sandbox = started(Runtime::JavaScript).await;
    sandbox.load_script("let kept = 42; const main = () => kept;").await.unwrap();
    sandbox.snapshot().await.unwrap().save(&path).await.unwrap();
    (dir, path)
}

/// Returns the snapshot with a changed header and a valid checksum.
pub(crate) fn with_header(good: &[u8], change: impl FnOnce(&mut Json)) -> Vec<u8> {
    let length = u32::from_le_bytes(good[8..12].try_into().unwrap()) as usize;
    let mut header = serde_json::from_slice(&good[12..12 + length]).unwrap();
    change(&mut header);
    let header = header.to_string();
    let mut bytes = good[..8].to_vec();
    bytes.extend_from_slice(&u32::try_from(header.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&good[12 + length..good.len() - 4]);
    let sum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

async fn refused(template: &Template, path: &Path) -> String {
    match template.load_snapshot(path).await {
        Err(Error::SnapshotRefused(why)) => why,
        Err(other) => panic!("{}: {other}", path.display()),
        Ok(_) => panic!("{} was read", path.display()),
    }
}

#[tokio::test]
async fn out_of_range_numbers_are_refused() {
    let (dir, path) = saved().await;
    let template = template(Runtime::JavaScript).await;
    let good = fs::read(&path).unwrap();
    assert!(SnapshotInfo::read(&path).unwrap().created.elapsed().is_ok());
    let forgery = dir.path().join("forged.snapshot");
    for (name, value) in [
        ("created", json!(u64::MAX)),
        ("created", json!(i64::MAX)),
        ("created", json!(253_402_300_800_u64)),
        ("memory", json!(u64::MAX)),
        ("memory", json!((4_u64 << 30) + 1)),
        ("changed", json!(u64::MAX)),
    ] {
        fs::write(&forgery, with_header(&good, |header| header[name] = value.clone())).unwrap();
        let why = refused(template, &forgery).await;
        assert!(why.contains("not a snapshot or is damaged"), "{name} {value}: {why}");
        let error = SnapshotInfo::read(&forgery).unwrap_err();
        assert_eq!(error.code(), "snapshot_refused", "{name} {value}: {error}");
    }
    // Numbers that affect only the guest, and lists of another length.
    for (name, value) in [
        ("monotonic", json!(u64::MAX)),
        ("globals", json!([])),
        ("globals", json!(vec![u64::MAX; 1000])),
        ("memory", json!(0)),
        ("memory", json!(1)),
        ("base", json!([u32::MAX, u64::MAX])),
    ] {
        fs::write(&forgery, with_header(&good, |header| header[name] = value.clone())).unwrap();
        let restored = match template.load_snapshot(&forgery).await {
            Ok(snapshot) => snapshot.create_sandbox().await,
            Err(error) => Err(error),
        };
        if let Ok(sandbox) = restored {
            // The guest of a forged file is still in a sandbox.
            let _ = sandbox.run("main", args![]).await;
        }
    }
    // The process continues, and the valid snapshot can be restored.
    let sandbox = template.load_snapshot(&path).await.unwrap().create_sandbox().await.unwrap();
    assert_eq!(sandbox.run("main", args![]).await.unwrap(), json!(42));
}

#[cfg(unix)]
#[tokio::test]
async fn special_and_oversized_files_are_refused() {
    let (dir, path) = saved().await;
    let template = template(Runtime::JavaScript).await;
    let start = Instant::now();
    // A valid snapshot, followed by 8 GiB of zeros.
    let sparse = dir.path().join("sparse.snapshot");
    fs::copy(&path, &sparse).unwrap();
    File::options().write(true).open(&sparse).unwrap().set_len(8 << 30).unwrap();
    let why = refused(template, &sparse).await;
    assert!(why.contains("8589934592 bytes"), "{why}");
    assert_eq!(SnapshotInfo::read(&sparse).unwrap().size, 8 << 30);

    let empty = dir.path().join("empty.snapshot");
    File::create(&empty).unwrap().set_len(8 << 30).unwrap();
    let fifo = dir.path().join("fifo.snapshot");
    create_fifo(&fifo);
    let zero = dir.path().join("zero.snapshot");
    std::os::unix::fs::symlink("/dev/zero", &zero).unwrap();
    let directory = dir.path().join("directory.snapshot");
    fs::create_dir(&directory).unwrap();
    for path in [&empty, &fifo, &zero, &directory] {
        refused(template, path).await;
        assert!(SnapshotInfo::read(path).is_err(), "{}", path.display());
    }
    // None of them prevents a listing.
    let names: Vec<_> = list_snapshots(dir.path())
        .unwrap()
        .into_iter()
        .map(|info| info.path.file_name().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["good.snapshot", "sparse.snapshot"]);
    // Reading 8 GiB takes longer.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}
