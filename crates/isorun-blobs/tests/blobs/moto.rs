//! The same with the S3 server of moto, which was written independently of our client and of the
//! other server: its signatures, its policies, the texts of its errors, and lists in pages.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdout, Command, Stdio};

use isorun_blobs::{AwsVariables, BlobKey, BlobOptions, Blobs, CheckReport, Error, TreeId};
use serde_json::Value;
use tempfile::TempDir;
use test_support::process::KillOnDrop;

use crate::fixture::{GRACE, assert_same, noise, variables};

/// A tree has at most 1,000 files, and a list 1,000 objects in a page.
const FILES: usize = 600;

/// A server with users that lack one permission each, and a directory for caches and files.
struct Moto {
    process: KillOnDrop,
    output: BufReader<ChildStdout>,
    description: Value,
    dir: TempDir,
}

impl Moto {
    fn start() -> Self {
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/blobs/moto_server.py");
        let python = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/moto/bin/python");
        let mut command = Command::new(python);
        command.arg(here).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process =
            KillOnDrop(command.spawn().expect("`cargo xtask setup` installs the server"));
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut moto =
            Self { process, output, description: Value::Null, dir: tempfile::tempdir().unwrap() };
        moto.description = serde_json::from_str(&moto.line()).unwrap();
        moto
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    /// Makes all objects older than the grace period. Returns their number.
    fn age(&mut self) -> usize {
        let mut input = self.process.stdin.as_ref().unwrap();
        writeln!(input, "{}", GRACE.as_secs() * 2).unwrap();
        self.line().trim().parse().unwrap()
    }

    /// Returns the key of a user, `all` or without one operation, and its secret.
    fn key(&self, user: &str) -> [&str; 2] {
        [0, 1].map(|at| self.description["users"][user][at].as_str().unwrap())
    }

    fn variables(&self, [id, secret]: [&str; 2]) -> AwsVariables {
        variables(self.description["endpoint"].as_str().unwrap(), id, secret)
    }

    async fn open(&self, bucket: &str, variables: AwsVariables) -> Blobs {
        let mut options = BlobOptions::new(self.dir.path().join("cache"));
        options.grace = GRACE;
        options.variables = variables;
        Blobs::open(&format!("s3://{bucket}/a"), &BlobKey::new([1; 32]), options).await.unwrap()
    }

    async fn check(&self, bucket: &str, key: [&str; 2]) -> CheckReport {
        self.open(bucket, self.variables(key)).await.check().await
    }

    /// Deletes the chunks of one tree, after the run that only marks them.
    async fn collect(&mut self, blobs: &Blobs, referenced: HashSet<TreeId>) {
        self.age();
        let collected = blobs.collect_garbage(&referenced).await.unwrap();
        assert_eq!((collected.trees, collected.marked), (1, FILES as u64), "{collected:?}");
        self.age();
        let collected = blobs.collect_garbage(&referenced).await.unwrap();
        assert_eq!(collected.chunks, FILES as u64, "{collected:?}");
    }
}

#[tokio::test]
async fn trees_are_stored_and_collected_in_pages() {
    let mut moto = Moto::start();
    let blobs = moto.open("bucket", moto.variables(moto.key("all"))).await;
    assert!(blobs.check().await.is_ok());
    let mut trees = Vec::new();
    for tree in 0..2 {
        let source = moto.dir.path().join(format!("source{tree}"));
        std::fs::create_dir(&source).unwrap();
        for file in 0..FILES {
            let content = noise((tree * FILES + file) as u64, 100);
            std::fs::write(source.join(format!("file{file}")), content).unwrap();
        }
        trees.push((source.clone(), blobs.upload(&source).await.unwrap().id));
    }
    moto.collect(&blobs, HashSet::from([trees[1].1])).await;
    let target = moto.dir.path().join("target");
    blobs.download(trees[1].1, &target).await.unwrap();
    assert_same(&trees[1].0, &target);
    let gone = blobs.download(trees[0].1, moto.dir.path().join("gone")).await.unwrap_err();
    assert!(matches!(gone, Error::NotFound { .. }), "{gone}");
    moto.collect(&blobs, HashSet::new()).await;
    assert!(moto.age() <= 2, "only lists of garbage are left");
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let moto = Moto::start();
    for (missing, operation) in [
        ("PutObject", "write"),
        ("GetObject", "read"),
        ("ListBucket", "list"),
        ("DeleteObject", "delete"),
    ] {
        let report = moto.check("bucket", moto.key(missing)).await;
        let failed: Vec<_> = report.steps.iter().filter(|step| step.error.is_some()).collect();
        assert_eq!(failed.len(), 1, "{missing}: {report:?}");
        assert_eq!(failed[0].operation, operation);
        assert!(matches!(failed[0].error, Some(Error::Denied { .. })), "{report:?}");
        assert!(failed[0].advice.unwrap().contains(missing), "{report:?}");
    }
}

#[tokio::test]
async fn wrong_keys_and_buckets_are_named() {
    let moto = Moto::start();
    let error_of = |report: CheckReport| report.steps[0].error.clone().unwrap();
    let [id, secret] = moto.key("all");
    let error = error_of(moto.check("bucket", [id, "wrong-secret"]).await);
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(error.to_string().contains("AWS_SECRET_ACCESS_KEY"), "{error}");
    let error = error_of(moto.check("bucket", ["AKIAUNKNOWN", secret]).await);
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
    let error = error_of(moto.check("no-bucket", [id, secret]).await);
    assert!(matches!(error, Error::Config { .. }), "{error}");
    assert!(error.to_string().contains("create the bucket"), "{error}");
}
