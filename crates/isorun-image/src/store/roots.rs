//! Unpacked layers: built under a temporary name, renamed when complete, and kept while
//! in use.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::Digest;

use super::lock::{LockMode, try_lock};
use super::{Image, Store, file_name, sync_parent};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::unpack::{CancelFlag, UnpackSummary, Unpacker, remove_tree};

/// A lease, which keeps the directory of an image until the last clone is dropped or
/// the process terminates.
#[derive(Debug, Clone)]
pub struct Lease {
    _directory: Arc<File>,
}

/// A root directory under construction. It is removed if this is dropped before
/// [`commit`](Self::commit).
pub(crate) struct RootBuilder {
    store: Store,
    chain_id: Digest,
    directory: PathBuf,
    /// The lock, so that garbage collection does not treat it as a leftover of a crash.
    lock: File,
    /// The unpacker; `None` once committed or discarded.
    unpacker: Option<Unpacker>,
    done: bool,
}

impl Store {
    fn root_path(&self, chain_id: &Digest) -> PathBuf {
        self.path("roots").join(file_name(chain_id))
    }

    /// Reports whether a root exists.
    pub(crate) fn has_root(&self, chain_id: &Digest) -> Result<bool> {
        Ok(self.lease_root(chain_id)?.is_some())
    }

    /// Takes a lease of a root, if it exists.
    pub(super) fn lease_root(
        &self,
        chain_id: &Digest,
    ) -> Result<Option<(Lease, PathBuf, UnpackSummary)>> {
        let path = self.root_path(chain_id);
        let failed = || Error::at("open an unpacked image", path.clone());
        // A root is removed by locking it first and renaming it then: so one that
        // still has its name while this holds the lock is kept.
        for _ in 0..1000 {
            let directory = match File::open(&path) {
                Ok(directory) => directory,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(failed()(error)),
            };
            if !try_lock(&directory, LockMode::Shared, &path)? {
                std::thread::yield_now();
                continue;
            }
            let opened = directory.metadata().map_err(failed())?;
            if fs::metadata(&path).is_ok_and(|named| named.ino() == opened.ino()) {
                let text = fs::read(path.join("root.json")).map_err(failed())?;
                let summary = serde_json::from_slice(&text).map_err(|error| Error::Damaged {
                    what: format!(
                        "root.json of the unpacked image {chain_id} is invalid ({error})"
                    ),
                })?;
                let lease = Lease { _directory: Arc::new(directory) };
                return Ok(Some((lease, path.join("root"), summary)));
            }
        }
        Ok(None)
    }

    /// Creates a hold, which keeps an image's directory beyond the end of this
    /// process, since sandboxes outlive the server. The name has 1 to 64 of `a-z`,
    /// `0-9` and `-`. [`release`](Self::release) removes the hold.
    pub fn hold(&self, name: &str, image: &Image) -> Result<()> {
        // The image's lease keeps the directory until the hold is written.
        self.write_atomic(hold_path(name)?, image.chain_id.to_string().as_bytes())
    }

    /// Creates a hold of the directory that the hold `from` keeps, and returns the
    /// directory. Returns `None` if `from` does not exist.
    pub fn copy_hold(&self, name: &str, from: &str) -> Result<Option<PathBuf>> {
        let Some(chain_id) = self.held_chain_id(from)? else { return Ok(None) };
        // The other hold keeps the directory until this one is written.
        self.write_atomic(hold_path(name)?, chain_id.to_string().as_bytes())?;
        Ok(Some(self.root_path(&chain_id).join("root")))
    }

    /// Returns the directory that a hold keeps, or `None` if the hold does not exist.
    pub fn held_root(&self, name: &str) -> Result<Option<PathBuf>> {
        Ok(self.held_chain_id(name)?.map(|chain_id| self.root_path(&chain_id).join("root")))
    }

    fn held_chain_id(&self, name: &str) -> Result<Option<Digest>> {
        let path = self.path(hold_path(name)?);
        let chain_id = match fs::read_to_string(&path) {
            Ok(chain_id) => chain_id,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::at("read a hold of an image", path)(error)),
        };
        let damaged = |_| Error::Damaged { what: format!("the hold {name} is not a digest") };
        Ok(Some(chain_id.parse().map_err(damaged)?))
    }

    /// Removes a hold. A missing one is not an error.
    pub fn release(&self, name: &str) -> Result<()> {
        let path = self.path(hold_path(name)?);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::at("release an image", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Lists the names of all holds.
    pub fn holds(&self) -> Result<Vec<String>> {
        Ok(self.entries("holds")?.into_iter().map(|(name, _)| name).collect())
    }

    /// Returns the ChainIDs of all holds.
    pub(super) fn held_chain_ids(&self) -> Result<BTreeSet<String>> {
        let mut chain_ids = BTreeSet::new();
        for (_, path) in self.entries("holds")? {
            match fs::read_to_string(&path) {
                Ok(chain_id) => drop(chain_ids.insert(chain_id)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::at("read a hold of an image", path)(error)),
            }
        }
        Ok(chain_ids)
    }

    /// Starts building a root. The caller must hold its build lock.
    pub(crate) fn build_root(
        &self,
        chain_id: &Digest,
        limits: &Limits,
        cancel: CancelFlag,
    ) -> Result<RootBuilder> {
        let failed = || Error::at("create a directory to unpack to", self.path("tmp"));
        let (directory, lock) = self.temporary_directory()?;
        let mut building = RootBuilder {
            store: self.clone(),
            chain_id: chain_id.clone(),
            directory,
            lock,
            unpacker: None,
            done: false,
        };
        let (root, trash) = (building.directory.join("root"), building.directory.join("trash"));
        for path in [&root, &trash] {
            // The default mode of a root directory that the image does not describe
            // is 0755, whatever the umask.
            fs::DirBuilder::new().mode(0o700).create(path).map_err(failed())?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(failed())?;
        }
        building.unpacker = Some(Unpacker::new(&root, &trash, limits, cancel)?);
        Ok(building)
    }

    /// Renames a path of the store to a temporary name, and removes it.
    pub(super) fn discard(&self, path: &Path) -> Result<()> {
        let failed = || Error::at("remove from the image store", path);
        let (aside, directory) = self.temporary_directory()?;
        match fs::rename(path, aside.join("old")) {
            Ok(()) => remove_tree(directory.as_fd(), "old").map_err(failed())?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed()(error)),
        }
        fs::remove_dir(&aside).map_err(failed())
    }
}

fn hold_path(name: &str) -> Result<PathBuf> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(allowed) {
        return Err(Error::Reference {
            input: name.chars().take(80).flat_map(char::escape_debug).collect(),
            reason: "the name of a hold has 1 to 64 characters of a-z, 0-9 and -".to_owned(),
        });
    }
    Ok(Path::new("holds").join(name))
}

impl RootBuilder {
    pub(crate) fn unpacker(&mut self) -> Result<&mut Unpacker> {
        self.unpacker.as_mut().ok_or(Error::Cancelled)
    }

    /// Removes the directory, and returns when it is removed.
    pub(crate) fn discard(mut self) {
        self.unpacker = None;
        self.done = true;
        remove_unfinished(&self.lock, &self.directory);
    }

    /// Completes the directory and renames it to its final name.
    pub(crate) fn commit(mut self) -> Result<()> {
        let unpacker = self.unpacker.take().ok_or(Error::Cancelled)?;
        let summary = unpacker.finish()?;
        let failed = || Error::at("complete an unpacked image", self.directory.clone());
        remove_tree(self.lock.as_fd(), "trash").map_err(failed())?;
        let text = serde_json::to_vec(&summary).map_err(|error| failed()(error.into()))?;
        fs::write(self.directory.join("root.json"), text).map_err(failed())?;
        // Thousands of files: one flush of the file system instead of one each.
        rustix::fs::syncfs(&self.lock).map_err(|errno| failed()(errno.into()))?;
        let path = self.store.root_path(&self.chain_id);
        match fs::rename(&self.directory, &path) {
            Ok(()) => {}
            // A directory with the name but without root.json is not a complete root,
            // and not in use.
            Err(_) if path.exists() && !path.join("root.json").exists() => {
                self.store.discard(&path)?;
                fs::rename(&self.directory, &path).map_err(failed())?;
            }
            Err(error) => return Err(failed()(error)),
        }
        self.done = true;
        sync_parent(&path)
    }
}

impl Drop for RootBuilder {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        self.unpacker = None;
        // The lock is kept until the removal is complete, so that this is not treated
        // as a leftover of a crash.
        let Ok(lock) = self.lock.try_clone() else { return };
        let directory = std::mem::take(&mut self.directory);
        let remove = move || remove_unfinished(&lock, &directory);
        // Removing may take long, and must not block an async worker thread.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

fn remove_unfinished(lock: &File, directory: &Path) {
    for name in ["root", "trash", "root.json"] {
        // If removing fails, garbage collection removes it.
        let _ = remove_tree(lock.as_fd(), name);
    }
    let _ = fs::remove_dir(directory);
}
