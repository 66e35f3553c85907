//! A store of images in a directory, shared by any number of processes.
//!
//! ```text
//! version                   of this layout
//! lock                      shared to register work, exclusive to collect garbage
//! index.json  index.lock    references ─▶ digests; replaced atomically
//! blobs/sha256/HEX          manifests, configurations, compressed layers: complete
//! partial/sha256-HEX        layers that are being fetched, to be resumed
//! roots/HEX/{root,root.json}  unpacked layers, per ChainID: complete
//! tmp/XXXXXX                unfinished files and directories, locked by their owner
//! work/XXXXXX               digests that a running pull needs, locked by its process
//! holds/NAME                ChainID of a root that is kept beyond its process
//! locks/...                 one per blob or root that is being created
//! ```
//!
//! A file or directory with its final name is complete: it was written under a
//! temporary name, flushed, and renamed. A leftover of a crash has no final name, and
//! its lock is not held, since the kernel releases the locks of a terminated process;
//! so [`Store::gc`] can distinguish it from work in progress.

mod blobs;
mod gc;
mod index;
mod lock;
mod roots;

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::Digest;

use super::config::{self, Configuration, ImageConfig, User};
use super::error::{Error, Result};
use super::limits::Limits;
use super::reference::Reference;

pub(crate) use self::blobs::PartialWriter;
pub use self::gc::GcReport;
pub use self::index::Entry;
pub(crate) use self::lock::Lock;
pub use self::roots::Lease;
pub(crate) use self::roots::RootBuilder;

/// The version of the store's layout.
const LAYOUT_VERSION: &str = "1\n";

/// A store of images.
#[derive(Debug, Clone)]
pub struct Store {
    dir: Arc<PathBuf>,
}

/// An unpacked image. Its directory is not removed while this, a clone or a [`Lease`]
/// of it exists.
#[derive(Debug, Clone)]
pub struct Image {
    /// The reference.
    pub reference: Reference,
    /// The digest of the manifest.
    pub digest: String,
    /// The directory of the unpacked files: read-only, whatever their permissions
    /// allow.
    pub root: PathBuf,
    /// The execution defaults.
    pub config: ImageConfig,
    /// The size of the unpacked files, in bytes.
    pub size: u64,
    chain_id: Digest,
    lease: Lease,
}

impl Image {
    /// Returns a lease, which keeps the image's directory as long as it exists.
    pub fn lease(&self) -> Lease {
        self.lease.clone()
    }

    /// Resolves a user of the image, by `user`, `uid`, `user:group` or `uid:gid`; by
    /// default the user of its configuration.
    pub fn user(&self, user: Option<&str>) -> Result<User> {
        config::resolve_user(&self.root, user.or(self.config.user.as_deref()))
    }
}

impl Store {
    /// Opens a store, and creates it if it does not exist. Only its owner has access,
    /// because images contain set-user-id programs.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        let create = |path: &Path| {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(Error::at("create a directory of the image store", path))
        };
        create(&dir)?;
        restrict_to_owner(&dir)?;
        for name in ["blobs", "partial", "roots", "tmp", "work", "holds", "locks"] {
            let directory = dir.join(name);
            create(&directory)?;
            restrict_to_owner(&directory)?;
        }
        let store = Self { dir: Arc::new(dir) };
        let version = store.path("version");
        match fs::read_to_string(&version) {
            Ok(text) if text == LAYOUT_VERSION => {}
            Ok(text) => {
                return Err(Error::Unsupported {
                    what: "this image store".to_owned(),
                    reason: format!("its layout has version {:?}, expected 1", text.trim_end()),
                });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                store.write_atomic("version", LAYOUT_VERSION.as_bytes())?;
            }
            Err(error) => return Err(Error::at("open the image store", version)(error)),
        }
        Ok(store)
    }

    /// Returns the image of a reference, if it is in the store. Sends no requests to
    /// registries.
    pub fn resolve(&self, reference: &Reference) -> Result<Option<Image>> {
        let index = self.read_index()?;
        let Some(entry) = index.find(reference) else { return Ok(None) };
        let known = entry.reference.parse()?;
        match self.open_image(&known, entry) {
            Err(Error::NotFound { .. }) => Ok(None),
            image => image.map(Some),
        }
    }

    /// Lists all images, sorted by reference.
    pub fn list(&self) -> Result<Vec<Entry>> {
        Ok(self.read_index()?.into_entries())
    }

    /// Removes a reference from the index. Its content is removed by
    /// [`gc`](Self::gc), unless another image shares it or a lease of it exists.
    /// Reports whether the reference existed.
    pub async fn remove(&self, reference: &Reference) -> Result<bool> {
        self.change_index(|index| index.remove(reference)).await
    }

    /// Opens the image of an entry. Returns [`Error::NotFound`] if its directory or
    /// its configuration is missing, so that it is pulled again.
    pub(crate) fn open_image(&self, reference: &Reference, entry: &Entry) -> Result<Image> {
        let missing = || Error::NotFound {
            reference: reference.to_string(),
            location: "the image store".to_owned(),
        };
        let (lease, root, summary) = self.lease_root(&entry.chain_id)?.ok_or_else(missing)?;
        let what = format!("the configuration of {reference}");
        let bytes = self.document(&what, &entry.config, &Limits::default())?.ok_or_else(missing)?;
        let configuration = Configuration::parse(&what, &bytes)?;
        Ok(Image {
            reference: reference.clone(),
            digest: entry.manifest.to_string(),
            root,
            config: ImageConfig::new(configuration),
            size: summary.bytes,
            chain_id: entry.chain_id.clone(),
            lease,
        })
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// Replaces a file atomically: readers see the old or the new content, after a
    /// crash too.
    fn write_atomic(&self, name: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
        use std::io::Write as _;
        let path = self.path(name);
        let failed = || Error::at("write to the image store", path.clone());
        let mut file = self.temporary()?;
        file.write_all(bytes).map_err(failed())?;
        file.as_file().sync_all().map_err(failed())?;
        file.persist(&path).map_err(|error| failed()(error.error))?;
        sync_parent(&path)
    }
}

/// Restricts access to a directory of the store to its owner. A directory that other
/// users can write to is refused, since they may have put files into it.
fn restrict_to_owner(dir: &Path) -> Result<()> {
    let failed = || Error::at("open the image store", dir);
    let found = fs::symlink_metadata(dir).map_err(failed())?;
    let mode = found.mode() & 0o7777;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() || mode & 0o022 != 0 {
        return Err(Error::Damaged {
            what: format!(
                "a directory in it has mode {mode:04o} and owner {}: it must be owned by this user, \
                 and not be writable by others; if others have written nothing to it, run \
                 `chmod -R go-w`",
                found.uid()
            ),
        });
    }
    if mode & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed())?;
    }
    Ok(())
}

/// Flushes the parent directory, so that a rename survives a loss of power.
fn sync_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(Error::at("flush the image store", parent))
}

/// Returns a digest in the form of a file name: `sha256-0123…`.
pub(crate) fn file_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm(), digest.digest())
}
