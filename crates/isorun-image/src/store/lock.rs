//! Locks between processes, and the digests that running operations need.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::image::Digest;
use tempfile::NamedTempFile;

use super::Store;
use crate::error::{Error, Result};

/// A file lock, which the kernel releases when the process terminates.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

#[derive(Clone, Copy)]
pub(super) enum LockMode {
    Shared,
    Exclusive,
}

impl Lock {
    /// Waits for a lock, without blocking a thread.
    pub(super) async fn wait(path: &Path, mode: LockMode) -> Result<Self> {
        let file = open(path)?;
        let mut pause = Duration::from_millis(1);
        while !try_lock(&file, mode, path)? {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
        Ok(Self { _file: file })
    }
}

/// Tries to lock a file. Returns `false` if it is locked.
pub(super) fn try_lock(file: &File, mode: LockMode, path: &Path) -> Result<bool> {
    let outcome = match mode {
        LockMode::Shared => file.try_lock_shared(),
        LockMode::Exclusive => file.try_lock(),
    };
    match outcome {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(Error::at("lock the image store", path)(error)),
    }
}

/// Locks a new file or directory. Returns `false` if garbage collection, which treats
/// unlocked ones as leftovers of a crash, has locked or removed it first.
fn try_lock_new(new: &File, path: &Path) -> Result<bool> {
    Ok(try_lock(new, LockMode::Exclusive, path)?
        && new.metadata().map_err(Error::at("lock the image store", path))?.nlink() > 0)
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::at("lock the image store", path))
}

/// A guard that protects the digests of a running operation from garbage collection
/// until its image is in the index. The protection ends when it is dropped, or its
/// process terminates.
#[derive(Debug)]
pub(crate) struct GcGuard {
    path: PathBuf,
    _file: File,
}

impl Drop for GcGuard {
    fn drop(&mut self) {
        // If removing fails, garbage collection removes the file.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Store {
    /// Protects `digests` from garbage collection while the guard exists.
    pub(crate) async fn protect<'a>(
        &self,
        digests: impl IntoIterator<Item = &'a Digest>,
    ) -> Result<GcGuard> {
        let names: Vec<&Digest> = digests.into_iter().collect();
        let text = serde_json::to_vec(&names).map_err(|error| Error::Io {
            what: "register an operation on an image".to_owned(),
            path: None,
            source: error.into(),
        })?;
        let _store = self.lock_shared().await?;
        let directory = self.path("work");
        let failed = || Error::at("register an operation on an image", directory.clone());
        let (mut file, path) = NamedTempFile::new_in(&directory)
            .map_err(failed())?
            .keep()
            .map_err(|error| failed()(error.error))?;
        try_lock(&file, LockMode::Exclusive, &path)?;
        file.write_all(&text).map_err(failed())?;
        Ok(GcGuard { path, _file: file })
    }

    /// Creates a file in `tmp`, locked against garbage collection.
    pub(super) fn temporary(&self) -> Result<NamedTempFile> {
        let tmp = self.path("tmp");
        loop {
            let file = NamedTempFile::new_in(&tmp)
                .map_err(Error::at("create a file in the image store", &tmp))?;
            if try_lock_new(file.as_file(), file.path())? {
                return Ok(file);
            }
        }
    }

    /// Creates a directory in `tmp`, and returns it with its lock against garbage
    /// collection.
    pub(crate) fn temporary_directory(&self) -> Result<(PathBuf, File)> {
        let tmp = self.path("tmp");
        let failed = || Error::at("create a directory in the image store", tmp.clone());
        loop {
            let directory = tempfile::Builder::new()
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(&tmp)
                .map_err(failed())?;
            let lock = match File::open(directory.path()) {
                Ok(lock) => lock,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed()(error)),
            };
            if try_lock_new(&lock, directory.path())? {
                return Ok((directory.keep(), lock));
            }
        }
    }

    /// Takes the shared lock of the store, which prevents garbage collection.
    pub(crate) async fn lock_shared(&self) -> Result<Lock> {
        Lock::wait(&self.path("lock"), LockMode::Shared).await
    }

    /// Takes the exclusive lock of the store, which prevents new operations.
    pub(super) async fn lock_exclusive(&self) -> Result<Lock> {
        Lock::wait(&self.path("lock"), LockMode::Exclusive).await
    }

    /// Takes the lock for creating one blob or one root. Others wait, and then find
    /// it complete.
    pub(crate) async fn lock_build(&self, kind: &str, digest: &Digest) -> Result<Lock> {
        let name = format!("{kind}-{}", super::file_name(digest));
        Lock::wait(&self.path("locks").join(name), LockMode::Exclusive).await
    }

    /// Returns the digests that running operations need. Removes the files of
    /// terminated processes.
    pub(super) fn protected_digests(&self) -> Result<BTreeSet<String>> {
        let directory = self.path("work");
        let failed = || Error::at("read the image store", directory.clone());
        let mut names = BTreeSet::new();
        for note in std::fs::read_dir(&directory).map_err(failed())? {
            let path = note.map_err(failed())?.path();
            let Ok(mut file) = File::open(&path) else { continue };
            if try_lock(&file, LockMode::Shared, &path)? {
                std::fs::remove_file(&path).map_err(failed())?;
                continue;
            }
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(failed())?;
            // Complete: it was written under the store's lock, which the caller holds.
            names.extend(serde_json::from_str::<Vec<String>>(&text).unwrap_or_default());
        }
        Ok(names)
    }
}
