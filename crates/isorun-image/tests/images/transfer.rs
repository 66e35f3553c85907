//! Copies of images from one store to another.

use isorun_image::{Error, ImportOptions, Limits, Progress, Reference, Source};
use serde_json::json;

use crate::bundle::{Bundle, Layer, TestStore, gzip, sha256};

/// A store with an image of two layers, and the digest of the image.
async fn with_image() -> (TestStore, Reference, String) {
    let work = tempfile::tempdir().unwrap();
    let base = Layer::default().file("base", "from the base").tar();
    let next = Layer::default().file("next", "n").tar();
    // The same layer twice is one file.
    let layers = [
        (gzip(&base), sha256(&base)),
        (next.clone(), sha256(&next)),
        (next.clone(), sha256(&next)),
    ];
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let layout = Bundle::with(&layers, json!({ "Cmd": ["run"] }), architecture);
    let layout = layout.layout(&work.path().join("layout"));
    let home = TestStore::new();
    let mut options = ImportOptions::default();
    let reference: Reference = "my/image".parse().unwrap();
    options.name = Some(reference.clone());
    let source = Source::find(&layout).unwrap();
    let image = home.store.import(&source, &options, &Progress::none()).await.unwrap();
    (home, reference, image.digest)
}

#[tokio::test]
async fn an_image_is_copied_to_another_store() {
    let (home, reference, digest) = with_image().await;
    let files = home.store.files(&digest).await.unwrap().unwrap();
    assert_eq!(files.path().read_dir().unwrap().count(), 4);
    let other = TestStore::new();
    let copy =
        other.store.add_files(files.path(), &digest, &reference, &Limits::default()).await.unwrap();
    assert_eq!(copy.digest, digest);
    assert_eq!(copy.config.cmd, ["run"]);
    assert_eq!(std::fs::read_to_string(copy.root.join("base")).unwrap(), "from the base");
    assert_eq!(other.store.resolve(&reference).unwrap().unwrap().digest, digest);
    // It can be copied further.
    drop(files);
    assert!(other.store.files(&digest).await.unwrap().is_some());
}

#[tokio::test]
async fn the_files_of_an_image_exist_until_they_are_dropped() {
    let (home, reference, digest) = with_image().await;
    let files = home.store.files(&digest).await.unwrap().unwrap();
    assert!(home.store.remove(&reference).await.unwrap());
    home.store.gc().await.unwrap();
    let path = files.path().to_owned();
    assert_eq!(path.read_dir().unwrap().count(), 4);
    drop(files);
    assert!(!path.exists());
    // Its blobs were removed by the garbage collection.
    assert!(home.store.files(&digest).await.unwrap().is_none());
    assert!(matches!(home.store.files("sha256:../..").await, Err(Error::Malformed { .. })));
}

/// Every file is verified, and an image is added only if all are right.
#[tokio::test]
async fn changed_and_missing_files_are_refused() {
    let (home, reference, digest) = with_image().await;
    let files = home.store.files(&digest).await.unwrap().unwrap();
    let names: Vec<_> =
        files.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4);
    for name in &names {
        for is_missing in [false, true] {
            let copy = tempfile::tempdir().unwrap();
            for other in &names {
                std::fs::copy(files.path().join(other), copy.path().join(other)).unwrap();
            }
            let changed = copy.path().join(name);
            if is_missing {
                std::fs::remove_file(&changed).unwrap();
            } else {
                let mut bytes = std::fs::read(&changed).unwrap();
                let at = bytes.len() / 2;
                bytes[at] ^= 1;
                std::fs::write(&changed, bytes).unwrap();
            }
            let other = TestStore::new();
            let added =
                other.store.add_files(copy.path(), &digest, &reference, &Limits::default()).await;
            match added {
                Err(Error::Digest { .. }) => assert!(!is_missing, "{name:?}"),
                Err(Error::Io { .. }) => assert!(is_missing, "{name:?}"),
                other => panic!("{name:?}: {other:?}"),
            }
            assert!(other.store.list().unwrap().is_empty());
        }
    }
}
