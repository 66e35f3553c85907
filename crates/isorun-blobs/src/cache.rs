//! A bounded cache of trees on the local disk.
//!
//! ```text
//! CACHE/lock                 locked by the process that uses the cache
//!       trees/tree12…/tree   the object of the tree, encrypted as in the store
//!                     files  its files
//!       tmp/                 incomplete and removed trees, emptied at the start
//! ```

mod entries;

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use self::entries::{Entries, Pin};
use crate::download;
use crate::error::{Error, Result};
use crate::files::{self, NewDirectory};
use crate::format::Tree;
use crate::id::TreeId;
use crate::key::Keys;
use crate::objects::{Objects, blocking, open_tree};
use crate::store::random_name;

/// A cache of trees.
pub(crate) struct Cache {
    directory: PathBuf,
    entries: Arc<Entries>,
}

/// A tree in the cache, which is not removed while this exists.
#[derive(Debug)]
pub struct CachedTree {
    path: PathBuf,
    _pin: Pin,
}

impl CachedTree {
    /// Returns the directory with the files of the tree. They must not be changed.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Cache {
    /// Opens a cache and finds its complete trees. Uses the disk.
    pub(crate) fn open(directory: &Path, max_bytes: u64) -> Result<Self> {
        let failed = || Error::disk("open the cache", directory);
        let create = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
        create(directory).map_err(failed())?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join("lock"))
            .map_err(failed())?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let what = format!(
                    "the cache {} is used by another process: stop it, or choose another \
                     directory",
                    directory.display()
                );
                return Err(Error::Config { what });
            }
            Err(TryLockError::Error(error)) => return Err(failed()(error)),
        }
        let (trees, tmp) = (directory.join("trees"), directory.join("tmp"));
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed()(error)),
            _ => {}
        }
        create(&trees).map_err(failed())?;
        create(&tmp).map_err(failed())?;
        let entries = Entries::new(trees.clone(), tmp, max_bytes, lock);
        let mut found = Vec::new();
        for entry in fs::read_dir(&trees).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            let id = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            let read = id.map(|id| Ok((last_use(&path)?, id, disk_usage(&path)?)));
            match read.transpose() {
                Ok(Some(entry)) => found.push(entry),
                Ok(None) => tracing::warn!(path = %path.display(), "not a tree of the cache"),
                Err::<_, io::Error>(error) => {
                    tracing::warn!(%error, path = %path.display(), "a tree cannot be read");
                    remove_any(&path).map_err(failed())?;
                }
            }
        }
        found.sort();
        for (_, id, bytes) in found {
            entries.add(id, bytes);
        }
        entries.evict();
        Ok(Self { directory: directory.to_owned(), entries })
    }

    fn tree_directory(&self, id: TreeId) -> PathBuf {
        self.directory.join("trees").join(id.to_string())
    }

    /// Returns a tree, which is downloaded unless the cache has it.
    pub(crate) async fn get(&self, objects: &Objects, id: TreeId) -> Result<CachedTree> {
        let pin = self.entries.pin(id);
        let path = self.tree_directory(id).join("files");
        if !pin.is_ready() {
            let attempts = pin.attempts();
            // One task downloads, and the others wait. If it is cancelled, the next one
            // continues; if it fails, those that waited have the same error.
            let begun = attempts.finished();
            let mut turn = attempts.turn().await;
            if !pin.is_ready() {
                if attempts.finished() != begun
                    && let Some(error) = &*turn
                {
                    return Err(error.clone());
                }
                let outcome = self.provide(objects, id, &pin).await;
                *turn = outcome.as_ref().err().cloned();
                attempts.finish();
                outcome?;
            }
        }
        self.touch(id).await?;
        Ok(CachedTree { path, _pin: pin })
    }

    /// Verifies a tree of an earlier process, or downloads it.
    async fn provide(&self, objects: &Objects, id: TreeId, pin: &Pin) -> Result<()> {
        if pin.has_unverified() {
            let (directory, keys) = (self.tree_directory(id), objects.keys.clone());
            let cancelled = Arc::new(AtomicBool::new(false));
            let _cancel = SetOnDrop(cancelled.clone());
            let verified =
                blocking("verify a tree", move || verify(&directory, id, &keys, &cancelled));
            match verified.await? {
                Ok(()) => {
                    pin.set_ready(None);
                    return Ok(());
                }
                Err(reason) => {
                    tracing::warn!(%id, reason, "a tree of the cache is damaged");
                    let entries = self.entries.clone();
                    blocking("remove a tree", move || entries.remove_content(id)).await??;
                }
            }
        }
        let bytes = self.download(objects, id, pin).await?;
        pin.set_ready(Some(bytes));
        Ok(())
    }

    /// Downloads a tree under a temporary name, and renames it. Returns its disk space.
    async fn download(&self, objects: &Objects, id: TreeId, pin: &Pin) -> Result<u64> {
        let object = objects.get_tree_object(id).await?.ok_or(Error::NotFound { id })?;
        let (keys, sealed) = (objects.keys.clone(), object.clone());
        let tree: Tree = blocking("read a tree", move || open_tree(&keys, id, sealed)).await??;
        let draft = self.directory.join("tmp").join(format!("{id}-{}", random_name()?));
        let _room = pin.reserve(tree.disk_bytes());
        let entries = self.entries.clone();
        blocking("make room in the cache", move || entries.evict()).await?;
        let draft = blocking("create a directory", || NewDirectory::create(draft)).await??;
        let written = async {
            let files = draft.path().join("files");
            download::write(objects, id, tree, files).await?;
            let (draft, target) = (draft.clone(), self.tree_directory(id));
            blocking("publish a tree", move || {
                let failed = || Error::disk("write a tree to the cache", &target);
                fs::write(draft.path().join("tree"), object).map_err(failed())?;
                let bytes = disk_usage(draft.path()).map_err(failed())?;
                fs::rename(draft.path(), &target).map_err(failed())?;
                draft.keep();
                Ok(bytes)
            })
            .await?
        };
        let written = written.await;
        blocking("remove a directory", move || drop(draft)).await?;
        written
    }

    /// Records the time of the use for the next process.
    async fn touch(&self, id: TreeId) -> Result<()> {
        let path = self.tree_directory(id).join("tree");
        let touched = blocking("touch a tree", move || {
            File::options().append(true).open(path)?.set_modified(SystemTime::now())
        });
        if let Err(error) = touched.await? {
            tracing::warn!(%error, %id, "cannot record the use of a tree");
        }
        Ok(())
    }

    /// Removes a tree unless it is in use.
    pub(crate) async fn forget(&self, id: TreeId) -> Result<()> {
        let entries = self.entries.clone();
        blocking("remove a tree", move || entries.forget(id)).await?
    }

    /// Returns the disk space of the trees in the cache, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.entries.bytes()
    }
}

/// Sets a flag when it is dropped.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn verify(
    directory: &Path,
    id: TreeId,
    keys: &Keys,
    cancelled: &AtomicBool,
) -> std::result::Result<(), String> {
    let read = || -> io::Result<Vec<u8>> {
        let file = files::open_regular(&directory.join("tree"))?;
        let mut object = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, 64 << 20), &mut object)?;
        Ok(object)
    };
    let object = read().map_err(|error| format!("its record cannot be read: {error}"))?;
    let tree = open_tree(keys, id, object).map_err(|error| error.to_string())?;
    files::verify(&directory.join("files"), &tree, keys, cancelled)
}

fn last_use(directory: &Path) -> io::Result<SystemTime> {
    fs::symlink_metadata(directory.join("tree"))?.modified()
}

/// Returns the disk space of a tree in the cache, in bytes.
fn disk_usage(directory: &Path) -> io::Result<u64> {
    let mut bytes = fs::symlink_metadata(directory.join("tree"))?.blocks() * 512;
    for entry in fs::read_dir(directory.join("files"))? {
        bytes += entry?.metadata()?.blocks() * 512;
    }
    Ok(bytes)
}

fn remove_any(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}
