//! The files of a sandbox.

use std::time::{SystemTime, UNIX_EPOCH};

use isola::{Error, FileStat, SandboxFiles};
use napi::bindgen_prelude::{Buffer, Either};
use napi_derive::napi;

use crate::{failure::Failure, sandbox::Sandbox};

/// The files of a sandbox. The operations do not wait.
#[napi]
pub struct Files {
    inner: SandboxFiles,
}

/// A file, and its name if it was listed.
#[napi(object, object_from_js = false)]
pub struct FileRecord {
    pub name: Option<String>,
    pub kind: &'static str,
    pub size: f64,
    pub mode: u32,
    pub modified_ms: f64,
}

#[napi]
impl Files {
    #[napi]
    pub fn read(&self, path: String) -> Either<Buffer, Failure> {
        either(self.inner.read(&path).map(Buffer::from))
    }

    #[napi]
    pub fn write(&self, path: String, content: &[u8]) -> Option<Failure> {
        failure(self.inner.write(&path, content))
    }

    #[napi]
    pub fn list(&self, path: String) -> Either<Vec<FileRecord>, Failure> {
        let entries = self.inner.list(&path);
        let record = |entry: isola::FileEntry| describe(Some(entry.name), &entry.stat);
        either(entries.map(|entries| entries.into_iter().map(record).collect()))
    }

    #[napi]
    pub fn stat(&self, path: String) -> Either<FileRecord, Failure> {
        either(self.inner.stat(&path).map(|stat| describe(None, &stat)))
    }

    #[napi]
    pub fn exists(&self, path: String) -> bool {
        self.inner.exists(&path)
    }

    #[napi]
    pub fn make_dir(&self, path: String) -> Option<Failure> {
        failure(self.inner.make_dir(&path))
    }

    #[napi]
    pub fn remove(&self, path: String) -> Option<Failure> {
        failure(self.inner.remove(&path))
    }

    #[napi]
    pub fn rename(&self, from: String, to: String) -> Option<Failure> {
        failure(self.inner.rename(&from, &to))
    }
}

#[napi]
impl Sandbox {
    /// Returns the sandbox's files.
    #[napi]
    pub fn files(&self) -> Either<Files, Failure> {
        either(self.inner().map(|sandbox| Files { inner: sandbox.files() }))
    }
}

fn either<T>(outcome: Result<T, Error>) -> Either<T, Failure> {
    outcome.map_or_else(|error| Either::B(error.into()), Either::A)
}

fn failure(outcome: Result<(), Error>) -> Option<Failure> {
    outcome.err().map(Failure::from)
}

fn describe(name: Option<String>, stat: &FileStat) -> FileRecord {
    FileRecord {
        name,
        kind: stat.kind.name(),
        size: stat.size as f64,
        mode: stat.mode,
        modified_ms: milliseconds(stat.modified),
    }
}

/// Returns a time in milliseconds since 1970. A guest may set any time.
fn milliseconds(time: SystemTime) -> f64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64() * 1000.0,
        Err(before) => -before.duration().as_secs_f64() * 1000.0,
    }
}
