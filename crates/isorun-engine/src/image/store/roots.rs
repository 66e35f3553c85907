//! Unpacked layers: made aside, put into place whole, kept while in use.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::Digest;

use super::lock::{Mode, tried};
use super::{Image, Store, file_name, sync_parent};
use crate::image::error::{Error, Result};
use crate::image::limits::Limits;
use crate::image::unpack::{Stop, Summary, Unpacker, remove_tree};

/// Keeps the folder of an image. Dropping the last clone lets it go, and so
/// does the end of the process.
#[derive(Debug, Clone)]
pub struct Lease {
    _folder: Arc<File>,
}

/// A folder that is being made. Dropped before it was put into place, it goes.
pub(crate) struct Building {
    store: Store,
    chain: Digest,
    folder: PathBuf,
    /// Locked, so that it is not taken for what a crash has left.
    lock: File,
    /// There until the end, and gone if this is dropped on the way.
    unpacker: Option<Unpacker>,
    done: bool,
}

impl Store {
    fn root(&self, chain: &Digest) -> PathBuf {
        self.path("roots").join(file_name(chain))
    }

    /// Whether a root is there.
    pub(crate) fn has_root(&self, chain: &Digest) -> Result<bool> {
        Ok(self.lease_root(chain)?.is_some())
    }

    /// Takes a lease of a root, if it is there.
    pub(super) fn lease_root(&self, chain: &Digest) -> Result<Option<(Lease, PathBuf, Summary)>> {
        let path = self.root(chain);
        let failed = || Error::at("open an unpacked image", path.clone());
        // Whoever removes one takes the lock first and moves it away then: so
        // what still has its name under our lock stays.
        for _ in 0..1000 {
            let folder = match File::open(&path) {
                Ok(folder) => folder,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(failed()(error)),
            };
            if !tried(&folder, Mode::Shared, &path)? {
                std::thread::yield_now();
                continue;
            }
            let ours = folder.metadata().map_err(failed())?;
            if fs::metadata(&path).is_ok_and(|named| named.ino() == ours.ino()) {
                let text = fs::read(path.join("root.json")).map_err(failed())?;
                let summary = serde_json::from_slice(&text).map_err(|error| Error::Damaged {
                    what: format!("the note of the unpacked image {chain} ({error})"),
                })?;
                let lease = Lease { _folder: Arc::new(folder) };
                return Ok(Some((lease, path.join("root"), summary)));
            }
        }
        Ok(None)
    }

    /// Keeps an image's folder beyond the end of this process, under a name of
    /// 1 to 64 of `a-z`, `0-9` and `-`: a sandbox outlives the server that made
    /// it. [`release`](Self::release) ends it.
    pub fn hold(&self, name: &str, image: &Image) -> Result<()> {
        // The image's lease keeps the folder until the hold is written.
        self.replace(hold_path(name)?, image.chain.to_string().as_bytes())
    }

    /// Keeps what another hold keeps, under a name of its own, and gives the
    /// folder. `None`: there is no such hold.
    pub fn hold_also(&self, name: &str, held: &str) -> Result<Option<PathBuf>> {
        let Some(chain) = self.chain_of(held)? else { return Ok(None) };
        // The other hold keeps the folder until this one is written.
        self.replace(hold_path(name)?, chain.to_string().as_bytes())?;
        Ok(Some(self.root(&chain).join("root")))
    }

    /// The folder that a hold keeps. `None`: there is no such hold.
    pub fn root_of(&self, held: &str) -> Result<Option<PathBuf>> {
        Ok(self.chain_of(held)?.map(|chain| self.root(&chain).join("root")))
    }

    fn chain_of(&self, held: &str) -> Result<Option<Digest>> {
        let path = self.path(hold_path(held)?);
        let chain = match fs::read_to_string(&path) {
            Ok(chain) => chain,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::at("read a hold of an image", path)(error)),
        };
        let damaged = |_| Error::Damaged { what: format!("the hold {held}") };
        Ok(Some(chain.parse().map_err(damaged)?))
    }

    /// Ends a hold. One that is not there is no error.
    pub fn release(&self, name: &str) -> Result<()> {
        let path = self.path(hold_path(name)?);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::at("release an image", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// The names of all holds.
    pub fn holds(&self) -> Result<Vec<String>> {
        Ok(self.entries("holds")?.into_iter().map(|(name, _)| name).collect())
    }

    /// What is held.
    pub(super) fn held(&self) -> Result<BTreeSet<String>> {
        let mut chains = BTreeSet::new();
        for (_, path) in self.entries("holds")? {
            match fs::read_to_string(&path) {
                Ok(chain) => drop(chains.insert(chain)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::at("read a hold of an image", path)(error)),
            }
        }
        Ok(chains)
    }

    /// Begins to make a root. The caller has the right to make it.
    pub(crate) fn build_root(
        &self,
        chain: &Digest,
        limits: &Limits,
        stop: Stop,
    ) -> Result<Building> {
        let failed = || Error::at("make a folder to unpack to", self.path("tmp"));
        let (folder, lock) = self.temporary_folder()?;
        let mut building = Building {
            store: self.clone(),
            chain: chain.clone(),
            folder,
            lock,
            unpacker: None,
            done: false,
        };
        let (root, trash) = (building.folder.join("root"), building.folder.join("trash"));
        for path in [&root, &trash] {
            // What an image does not say about its root folder is what people
            // expect: anybody may look.
            fs::DirBuilder::new().mode(0o700).create(path).map_err(failed())?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(failed())?;
        }
        building.unpacker = Some(Unpacker::new(&root, &trash, limits, stop)?);
        Ok(building)
    }

    /// Moves something out of the way, and removes it. `path` is in the store.
    pub(super) fn discard(&self, path: &Path) -> Result<()> {
        let failed = || Error::at("remove from the image store", path);
        let (aside, folder) = self.temporary_folder()?;
        match fs::rename(path, aside.join("old")) {
            Ok(()) => remove_tree(folder.as_fd(), "old").map_err(failed())?,
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
            reason: "the name of a hold is 1 to 64 of a-z, 0-9 and -".to_owned(),
        });
    }
    Ok(Path::new("holds").join(name))
}

impl Building {
    pub(crate) fn unpacker(&mut self) -> Result<&mut Unpacker> {
        self.unpacker.as_mut().ok_or(Error::Cancelled)
    }

    /// Removes what was made, and returns when it is gone.
    pub(crate) fn discard(mut self) {
        self.unpacker = None;
        self.done = true;
        clear(&self.lock, &self.folder);
    }

    /// Completes the folder and puts it into place.
    pub(crate) fn commit(mut self) -> Result<()> {
        let unpacker = self.unpacker.take().ok_or(Error::Cancelled)?;
        let summary = unpacker.finish()?;
        let failed = || Error::at("complete an unpacked image", self.folder.clone());
        remove_tree(self.lock.as_fd(), "trash").map_err(failed())?;
        let text = serde_json::to_vec(&summary).map_err(|error| failed()(error.into()))?;
        fs::write(self.folder.join("root.json"), text).map_err(failed())?;
        // Thousands of files: one flush of the file system instead of one each.
        rustix::fs::syncfs(&self.lock).map_err(|errno| failed()(errno.into()))?;
        let path = self.store.root(&self.chain);
        match fs::rename(&self.folder, &path) {
            Ok(()) => {}
            // Something that has the name and no note: not ours, and not used.
            Err(_) if path.exists() && !path.join("root.json").exists() => {
                self.store.discard(&path)?;
                fs::rename(&self.folder, &path).map_err(failed())?;
            }
            Err(error) => return Err(failed()(error)),
        }
        self.done = true;
        sync_parent(&path)
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        self.unpacker = None;
        // The lock goes along: until the end this is no leftover of a crash.
        let Ok(lock) = self.lock.try_clone() else { return };
        let folder = std::mem::take(&mut self.folder);
        let remove = move || clear(&lock, &folder);
        // It may take long, and this may be a thread that must not wait.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

fn clear(lock: &File, folder: &Path) {
    for name in ["root", "trash", "root.json"] {
        // What cannot be removed is left to the collection of garbage.
        let _ = remove_tree(lock.as_fd(), name);
    }
    let _ = fs::remove_dir(folder);
}
