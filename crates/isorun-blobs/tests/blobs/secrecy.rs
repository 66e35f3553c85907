//! What can be read in the store.

use crate::fixture::{CHUNK, Fixture, noise};
use crate::server::files_below;

#[tokio::test]
async fn no_plain_text_and_no_plain_digest_is_in_the_store() {
    let fixture = Fixture::start().await;
    let blobs = fixture.open().await;
    let secret = noise(1, 2 * CHUNK);
    let text = b"the password of the guest is hunter2";
    let source = fixture.directory(
        "source",
        &[("memory-of-tenant", secret.clone()), ("manifest.json", text.to_vec())],
    );
    let id = blobs.upload(&source).await.unwrap().id;
    fixture.age(crate::fixture::GRACE * 2);
    blobs.delete_tree(id).await.unwrap();
    // Garbage lists are objects too.
    assert_eq!(blobs.collect_garbage(&[].into()).await.unwrap().marked, 3);
    blobs.upload(&source).await.unwrap();
    let mut needles: Vec<Vec<u8>> = vec![
        b"hunter2".to_vec(),
        b"memory-of-tenant".to_vec(),
        b"manifest.json".to_vec(),
        secret[1000..1016].to_vec(),
        secret[CHUNK..CHUNK + 16].to_vec(),
    ];
    for content in [&text[..], &secret, &secret[..CHUNK], &secret[CHUNK..]] {
        let digest = blake3::hash(content);
        needles.push(digest.as_bytes()[..8].to_vec());
        needles.push(digest.to_hex()[..16].as_bytes().to_vec());
    }
    let objects = files_below(&fixture.server.bucket());
    assert!(objects.len() >= 8, "{objects:?}");
    for path in objects {
        let mut content = std::fs::read(&path).unwrap();
        content.extend_from_slice(path.to_str().unwrap().as_bytes());
        for needle in &needles {
            let found = content.windows(needle.len()).any(|window| window == &needle[..]);
            assert!(!found, "{path:?} contains {:?}", String::from_utf8_lossy(needle));
        }
    }
}

#[tokio::test]
async fn stores_with_different_keys_share_no_names() {
    let fixture = Fixture::start().await;
    let source = fixture.directory("source", &[("memory", noise(1, CHUNK))]);
    for key in [1, 2] {
        let blobs = fixture.open_with(key, fixture.options(&format!("cache{key}"))).await;
        blobs.upload(&source).await.unwrap();
    }
    assert_eq!(fixture.objects("chunks").len(), 2);
}
