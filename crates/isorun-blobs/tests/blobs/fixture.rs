//! A server or a directory with stored trees, and directories to store.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use isorun_blobs::{AwsVariables, BlobKey, BlobOptions, Blobs};
use tempfile::TempDir;

use crate::server::{ACCESS_KEY, BUCKET, SECRET_KEY, Server, files_below};

pub const CHUNK: usize = 4 << 20;
/// The prefix of the URL.
const PREFIX: &str = "a/prefix";
pub const GRACE: Duration = Duration::from_secs(3600);

/// An S3 server, and a directory for caches and files.
pub struct Fixture {
    pub server: Server,
    pub dir: TempDir,
}

impl Fixture {
    pub async fn start() -> Self {
        Self { server: Server::start().await, dir: tempfile::tempdir().unwrap() }
    }

    /// Returns options with a cache of this name.
    pub fn options(&self, cache: &str) -> BlobOptions {
        let mut options = BlobOptions::new(self.path(cache));
        options.grace = GRACE;
        options.variables = variables(&self.server.endpoint, ACCESS_KEY, SECRET_KEY);
        options
    }

    pub fn url(&self) -> String {
        format!("s3://{BUCKET}/{PREFIX}")
    }

    pub async fn open(&self) -> Blobs {
        self.open_with(1, self.options("cache")).await
    }

    pub async fn open_with(&self, key: u8, options: BlobOptions) -> Blobs {
        Blobs::open(&self.url(), &BlobKey::new([key; 32]), options).await.unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Creates a directory with files.
    pub fn directory(&self, name: &str, files: &[(&str, Vec<u8>)]) -> PathBuf {
        let directory = self.path(name);
        fs::create_dir(&directory).unwrap();
        for (name, content) in files {
            fs::write(directory.join(name), content).unwrap();
        }
        directory
    }

    /// Returns the files of the objects in a directory of the store.
    pub fn objects(&self, directory: &str) -> Vec<PathBuf> {
        files_below(&self.server.bucket().join(PREFIX).join(directory))
    }

    /// Returns the only object in a directory of the store.
    pub fn object(&self, directory: &str) -> PathBuf {
        let objects = self.objects(directory);
        assert_eq!(objects.len(), 1, "{objects:?}");
        objects[0].clone()
    }

    /// Makes all objects older.
    pub fn age(&self, by: Duration) {
        for path in files_below(&self.server.bucket()) {
            age(&path, by);
        }
    }
}

/// Makes an object older.
pub fn age(path: &Path, by: Duration) {
    let file = File::options().append(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.set_modified(modified.checked_sub(by).unwrap_or(SystemTime::UNIX_EPOCH)).unwrap();
}

pub fn variables(endpoint: &str, access_key: &str, secret_key: &str) -> AwsVariables {
    [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", access_key),
        ("AWS_SECRET_ACCESS_KEY", secret_key),
        ("AWS_REGION", "us-east-1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into_iter()
    .collect()
}

/// Returns bytes that cannot be compressed, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    let mut bytes = vec![0; length];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Asserts that two directories have the same files.
pub fn assert_same(one: &Path, other: &Path) {
    let names = |directory: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(one), names(other));
    for name in names(one) {
        let (one, other) =
            (File::open(one.join(&name)).unwrap(), File::open(other.join(&name)).unwrap());
        let length = one.metadata().unwrap().len();
        assert_eq!(length, other.metadata().unwrap().len(), "{name:?}");
        for at in (0..length).step_by(CHUNK) {
            let size = usize::try_from(length - at).unwrap().min(CHUNK);
            let (mut left, mut right) = (vec![0; size], vec![0; size]);
            one.read_exact_at(&mut left, at).unwrap();
            other.read_exact_at(&mut right, at).unwrap();
            assert!(left == right, "{name:?} differs in the chunk at {at}");
        }
    }
}
