//! Locks between processes, and what work under way relies on.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::image::Digest;
use tempfile::NamedTempFile;

use super::Store;
use crate::image::error::{Error, Result};

/// A lock that the kernel lets go of when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

#[derive(Clone, Copy)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

impl Lock {
    /// Waits for a lock, without keeping a thread.
    pub(super) async fn wait(path: &Path, mode: Mode) -> Result<Self> {
        let file = open(path)?;
        let mut pause = Duration::from_millis(1);
        while !tried(&file, mode, path)? {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
        Ok(Self { _file: file })
    }
}

pub(super) fn tried(file: &File, mode: Mode, path: &Path) -> Result<bool> {
    let outcome = match mode {
        Mode::Shared => file.try_lock_shared(),
        Mode::Exclusive => file.try_lock(),
    };
    match outcome {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(Error::at("lock the image store", path)(error)),
    }
}

/// Locks what was just made. `false`: garbage collection, which takes what is
/// not locked for what a crash has left, was faster.
fn claimed(made: &File, path: &Path) -> Result<bool> {
    Ok(tried(made, Mode::Exclusive, path)?
        && made.metadata().map_err(Error::at("lock the image store", path))?.nlink() > 0)
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

/// Says what a pull or an import relies on until its image has a name, so that
/// nobody collects it. Ends when it is dropped, or its process dies.
#[derive(Debug)]
pub(crate) struct Work {
    path: PathBuf,
    _file: File,
}

impl Drop for Work {
    fn drop(&mut self) {
        // What stays is found by the collection of garbage.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Store {
    /// Announces work. From here on garbage collection spares `digests`.
    pub(crate) async fn work<'a>(
        &self,
        digests: impl IntoIterator<Item = &'a Digest>,
    ) -> Result<Work> {
        let names: Vec<&Digest> = digests.into_iter().collect();
        let text = serde_json::to_vec(&names).map_err(|error| Error::Io {
            what: "announce work on an image".to_owned(),
            path: None,
            source: error.into(),
        })?;
        let _store = self.share().await?;
        let folder = self.path("work");
        let failed = || Error::at("announce work on an image", folder.clone());
        let (mut file, path) = NamedTempFile::new_in(&folder)
            .map_err(failed())?
            .keep()
            .map_err(|error| failed()(error.error))?;
        tried(&file, Mode::Exclusive, &path)?;
        file.write_all(&text).map_err(failed())?;
        Ok(Work { path, _file: file })
    }

    /// A new file in `tmp`. While its maker lives, nobody collects it.
    pub(super) fn temporary(&self) -> Result<NamedTempFile> {
        let tmp = self.path("tmp");
        loop {
            let file = NamedTempFile::new_in(&tmp)
                .map_err(Error::at("make a file in the image store", &tmp))?;
            if claimed(file.as_file(), file.path())? {
                return Ok(file);
            }
        }
    }

    /// A new folder in `tmp`, with the lock that keeps it while its maker lives.
    pub(super) fn temporary_folder(&self) -> Result<(PathBuf, File)> {
        let tmp = self.path("tmp");
        let failed = || Error::at("make a folder in the image store", tmp.clone());
        loop {
            let folder = tempfile::Builder::new()
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(&tmp)
                .map_err(failed())?;
            let lock = match File::open(folder.path()) {
                Ok(lock) => lock,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed()(error)),
            };
            if claimed(&lock, folder.path())? {
                return Ok((folder.keep(), lock));
            }
        }
    }

    /// Keeps the collection of garbage away, for a moment.
    pub(crate) async fn share(&self) -> Result<Lock> {
        Lock::wait(&self.path("lock"), Mode::Shared).await
    }

    /// Keeps everybody else away who begins something.
    pub(super) async fn alone(&self) -> Result<Lock> {
        Lock::wait(&self.path("lock"), Mode::Exclusive).await
    }

    /// The right to make one blob or one root; others wait, and then find it.
    pub(crate) async fn making(&self, what: &str, digest: &Digest) -> Result<Lock> {
        let name = format!("{what}-{}", super::file_name(digest));
        Lock::wait(&self.path("locks").join(name), Mode::Exclusive).await
    }

    /// What all work under way relies on. Removes the notes of the dead.
    pub(super) fn relied_on(&self) -> Result<BTreeSet<String>> {
        let folder = self.path("work");
        let failed = || Error::at("read the image store", folder.clone());
        let mut names = BTreeSet::new();
        for note in std::fs::read_dir(&folder).map_err(failed())? {
            let path = note.map_err(failed())?.path();
            let Ok(mut file) = File::open(&path) else { continue };
            if tried(&file, Mode::Shared, &path)? {
                std::fs::remove_file(&path).map_err(failed())?;
                continue;
            }
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(failed())?;
            // Written under the lock that the caller has: it is whole.
            names.extend(serde_json::from_str::<Vec<String>>(&text).unwrap_or_default());
        }
        Ok(names)
    }
}
