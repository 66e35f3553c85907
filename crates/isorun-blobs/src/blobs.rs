//! The entry point of the crate.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cache::{Cache, CachedTree};
use crate::check::{self, CheckReport};
use crate::download;
use crate::error::Result;
use crate::garbage::{self, Collected};
use crate::id::TreeId;
use crate::key::BlobKey;
use crate::objects::{Objects, blocking, tree_object};
use crate::options::BlobOptions;
use crate::upload::{self, UploadedTree};

/// Trees in an object store, with a cache of them on the local disk. Clones share both.
///
/// Every operation can be cancelled by dropping its future.
#[derive(Clone)]
pub struct Blobs {
    shared: Arc<Shared>,
}

struct Shared {
    objects: Objects,
    cache: Cache,
    options: BlobOptions,
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blobs").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl Blobs {
    /// Opens the store of a URL, and the cache. Sends no request yet: see
    /// [`Blobs::check`].
    ///
    /// The URL is `s3://BUCKET/PREFIX`, with the variables `AWS_...` of
    /// [`BlobOptions::variables`], or `file:///ABSOLUTE/DIRECTORY`. Without TLS only
    /// endpoints of this machine are used, unless `AWS_ALLOW_HTTP` is `true`.
    pub async fn open(url: &str, key: &BlobKey, options: BlobOptions) -> Result<Self> {
        options.check()?;
        let (url, key) = (url.to_owned(), key.clone());
        let opened = blocking("open the object store", move || {
            let objects = Objects::connect(&url, &key, &options)?;
            let cache = Cache::open(&options.cache_dir, options.max_cache_bytes)?;
            Ok(Self { shared: Arc::new(Shared { objects, cache, options }) })
        });
        opened.await?
    }

    /// Stores the regular files of a directory as a tree.
    ///
    /// Refuses symbolic links, directories and special files, names that begin with a dot,
    /// and more than 1,000 files. The files must not change meanwhile. The caller refers to
    /// the tree within the grace period, so that garbage collection does not delete it.
    pub async fn upload(&self, directory: &Path) -> Result<UploadedTree> {
        upload::upload(&self.shared.objects, directory, self.shared.options.half_grace()).await
    }

    /// Writes the files of a tree to a directory, which must not exist.
    ///
    /// Chunks of zeros are holes. The directory has mode 0700, and its files have mode 0600.
    /// It is removed if the download fails or is cancelled.
    pub async fn download(&self, id: TreeId, target: impl Into<PathBuf>) -> Result<()> {
        download::download(&self.shared.objects, id, target.into()).await
    }

    /// Returns a tree in the cache, which is downloaded if it is not there, once for all
    /// tasks that ask at the same time.
    pub async fn cached(&self, id: TreeId) -> Result<CachedTree> {
        self.shared.cache.get(&self.shared.objects, id).await
    }

    /// Returns the disk space of the trees in the cache, in bytes.
    pub fn cache_bytes(&self) -> u64 {
        self.shared.cache.bytes()
    }

    /// Deletes a tree from the store, and from the cache unless it is in use there. Its
    /// chunks are deleted by [`Blobs::collect_garbage`]. Does nothing if it does not exist.
    pub async fn delete_tree(&self, id: TreeId) -> Result<()> {
        self.shared.objects.store.delete(&tree_object(id)).await?;
        self.shared.cache.forget(id).await
    }

    /// Deletes the trees that are not referenced and older than the grace period, and chunks
    /// that no tree uses.
    ///
    /// `referenced` has the trees that any node needs; it must not be older than the grace
    /// period. A run marks unused chunks older than the grace period, and deletes those that
    /// another run has marked before that time. Several runs may overlap.
    pub async fn collect_garbage(&self, referenced: &HashSet<TreeId>) -> Result<Collected> {
        let options = &self.shared.options;
        let limit = options.half_grace();
        garbage::collect(&self.shared.objects, referenced, options.grace, limit).await
    }

    /// Writes, reads, lists and deletes a small object, and reports which of these failed.
    pub async fn check(&self) -> CheckReport {
        check::check(&self.shared.objects).await
    }
}
