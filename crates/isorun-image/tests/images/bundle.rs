//! Builders of layers and images, valid and invalid.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use isorun_image::{Error, Image, ImportOptions, Limits, Progress, Source, Store};
use serde_json::{Value, json};
use sha2::Digest as _;

pub fn sha256(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in sha2::Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// A builder of a layer: entries in any order and with any names.
#[derive(Clone, Default)]
pub struct Layer {
    bytes: Vec<u8>,
}

impl Layer {
    pub fn entry(mut self, kind: u8, path: &[u8], link: &[u8], mode: u32, content: &[u8]) -> Self {
        self.push(kind, path, link, mode, content);
        self
    }

    fn push(&mut self, kind: u8, path: &[u8], link: &[u8], mode: u32, content: &[u8]) {
        if path.len() > 100 {
            self.raw(b'L', b"././@LongLink", b"", 0, path);
        }
        if link.len() > 100 {
            self.raw(b'K', b"././@LongLink", b"", 0, link);
        }
        let (path, link) = (&path[..path.len().min(100)], &link[..link.len().min(100)]);
        self.raw(kind, path, link, mode, content);
    }

    fn raw(&mut self, kind: u8, path: &[u8], link: &[u8], mode: u32, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(kind));
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.content(content);
    }

    /// Appends a given header, and content.
    pub fn header(mut self, header: &tar::Header, content: &[u8]) -> Self {
        self.bytes.extend_from_slice(header.as_bytes());
        self.content(content);
        self
    }

    fn content(&mut self, content: &[u8]) {
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
    }

    pub fn file(self, path: &str, content: &str) -> Self {
        self.entry(b'0', path.as_bytes(), b"", 0o644, content.as_bytes())
    }

    pub fn directory(self, path: &str) -> Self {
        self.entry(b'5', path.as_bytes(), b"", 0o755, b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(b'2', path.as_bytes(), target.as_bytes(), 0o777, b"")
    }

    pub fn hardlink(self, path: &str, target: &str) -> Self {
        self.entry(b'1', path.as_bytes(), target.as_bytes(), 0o644, b"")
    }

    /// Appends a pax header for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            content.extend_from_slice(format!("{length} {key}=").as_bytes());
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.entry(b'x', b"pax", b"", 0o644, &content)
    }

    pub fn owner(mut self, uid: u64, gid: u64, mode: u32) -> Self {
        // The header of the last entry, if it has no content.
        let at = self.bytes.len() - 512;
        let mut header = tar::Header::from_byte_slice(&self.bytes[at..]).clone();
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mode(mode);
        header.set_cksum();
        self.bytes[at..].copy_from_slice(header.as_bytes());
        self
    }

    /// Returns the archive, with the blocks of zeroes at its end.
    pub fn tar(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// An image: documents and blobs, by digest.
#[derive(Clone)]
pub struct Bundle {
    pub manifest: Vec<u8>,
    pub blobs: Vec<Vec<u8>>,
}

impl Bundle {
    /// Creates an image of compressed layers, each with its DiffID.
    pub fn new(layers: &[(Vec<u8>, String)]) -> Self {
        Self::with(layers, json!({}), "amd64")
    }

    pub fn of(layers: &[&Layer]) -> Self {
        let layers: Vec<_> =
            layers.iter().map(|layer| (layer.tar(), sha256(&layer.tar()))).collect();
        Self::new(&layers)
    }

    pub fn with(layers: &[(Vec<u8>, String)], config: Value, architecture: &str) -> Self {
        let diffs: Vec<_> = layers.iter().map(|(_, diff)| diff.clone()).collect();
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": diffs },
        })
        .to_string()
        .into_bytes();
        let kind = |bytes: &[u8]| match bytes {
            [0x1f, 0x8b, ..] => "application/vnd.oci.image.layer.v1.tar+gzip",
            [0x28, 0xb5, ..] => "application/vnd.oci.image.layer.v1.tar+zstd",
            _ => "application/vnd.oci.image.layer.v1.tar",
        };
        let described: Vec<_> =
            layers.iter().map(|(bytes, _)| descriptor(kind(bytes), bytes)).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": described,
        })
        .to_string()
        .into_bytes();
        let mut blobs: Vec<_> = layers.iter().map(|(bytes, _)| bytes.clone()).collect();
        blobs.push(config);
        Self { manifest, blobs }
    }

    /// Writes an OCI layout with this as its only image.
    pub fn layout(&self, directory: &Path) -> PathBuf {
        let mut entry = descriptor(MANIFEST, &self.manifest);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "test" });
        let mut blobs = self.blobs.clone();
        blobs.push(self.manifest.clone());
        write_layout(directory, &json!([entry]), &blobs)
    }
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": sha256(bytes), "size": bytes.len() })
}

pub fn write_layout(directory: &Path, manifests: &Value, blobs: &[Vec<u8>]) -> PathBuf {
    let blob_dir = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blob_dir).unwrap();
    std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    std::fs::write(directory.join("index.json"), index.to_string()).unwrap();
    for blob in blobs {
        std::fs::write(blob_dir.join(sha256(blob).replace("sha256:", "")), blob).unwrap();
    }
    directory.to_owned()
}

/// A store in a temporary directory, beside a canary file that must not change.
pub struct TestStore {
    pub directory: tempfile::TempDir,
    pub store: Store,
}

impl TestStore {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("canary"), "alive").unwrap();
        let store = Store::open(directory.path().join("store")).unwrap();
        Self { directory, store }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub async fn import(&self, bundle: &Bundle, limits: &Limits) -> Result<Image, Error> {
        let layout = tempfile::tempdir_in(self.directory.path()).unwrap();
        let source = Source::Layout(bundle.layout(layout.path()));
        let mut options = ImportOptions::default();
        options.name = Some("test".parse().unwrap());
        options.platform = "linux/amd64".parse().unwrap();
        options.limits = limits.clone();
        self.store.import(&source, &options, &Progress::none()).await
    }

    pub async fn layers(&self, layers: &[&Layer]) -> Result<Image, Error> {
        self.import(&Bundle::of(layers), &Limits::default()).await
    }

    /// Asserts that only the store has changed.
    pub fn check(&self, case: &str) {
        let mut names: Vec<_> = std::fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with(".tmp"))
            .collect();
        names.sort();
        assert_eq!(names, ["outside", "store"], "{case}");
        let outside: Vec<_> = std::fs::read_dir(self.path("outside")).unwrap().collect();
        assert_eq!(outside.len(), 1, "{case}");
        let canary = self.path("outside/canary");
        assert_eq!(std::fs::read_to_string(&canary).unwrap(), "alive", "{case}");
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!(std::fs::metadata(canary).unwrap().nlink(), 1, "{case}");
        assert!(!Path::new(ESCAPE_PATH).exists(), "{case}");
        let mut inside: Vec<_> = std::fs::read_dir(self.path("store"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        inside.retain(|name| !["index.json", "index.lock", "lock"].contains(&name.as_str()));
        inside.sort();
        let known = ["blobs", "holds", "locks", "partial", "roots", "tmp", "version", "work"];
        assert_eq!(inside, known, "{case}");
    }
}

/// A path outside of the store that malicious layers try to create.
pub const ESCAPE_PATH: &str = "/isorun-test-escape";
