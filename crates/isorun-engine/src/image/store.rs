//! A folder of images, shared by any number of processes.
//!
//! ```text
//! version                   of this layout
//! lock                      shared to announce work, exclusive to collect garbage
//! index.json  index.lock    names ─▶ digests; replaced whole
//! blobs/sha256/HEX          manifests, configurations, compressed layers: complete
//! partial/sha256-HEX        layers that are being fetched, to be resumed
//! roots/HEX/{root,root.json}  unpacked, per chain of layers: complete
//! tmp/XXXXXX                work that has no name yet, locked by whoever is at it
//! work/XXXXXX               what a pull or an import relies on, while it holds
//! holds/NAME                a root that somebody keeps beyond their process
//! locks/...                 one per blob or root that is being made
//! ```
//!
//! What has its final name is complete: it was written elsewhere, flushed, and
//! renamed. What a crash leaves behind has no final name, and no lock that is
//! held, since the kernel lets go of the locks of a dead process; so
//! [`Store::gc`] can tell it from work under way.

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

pub(crate) use self::blobs::Append;
pub use self::gc::Removed;
pub use self::index::Entry;
pub(crate) use self::lock::Lock;
pub(crate) use self::roots::Building;
pub use self::roots::Lease;

const VERSION: &str = "1\n";

/// The images of this machine.
#[derive(Debug, Clone)]
pub struct Store {
    dir: Arc<PathBuf>,
}

/// An image that is ready to run. Its folder stays while this, a clone or a
/// [`Lease`] of it lives.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its name.
    pub reference: Reference,
    /// The digest of its manifest.
    pub digest: String,
    /// Its files, unpacked: read-only, whatever the rights of the files say.
    pub root: PathBuf,
    /// How its programs start.
    pub config: ImageConfig,
    /// Bytes of its files.
    pub size: u64,
    chain: Digest,
    lease: Lease,
}

impl Image {
    /// Keeps the image's folder, for as long as the lease lives.
    pub fn lease(&self) -> Lease {
        self.lease.clone()
    }

    /// Finds a user of the image, by `user`, `uid`, `user:group` or `uid:gid`;
    /// by default the one that its configuration names.
    pub fn user(&self, user: Option<&str>) -> Result<User> {
        config::resolve_user(&self.root, user.or(self.config.user.as_deref()))
    }
}

impl Store {
    /// Opens a store, which is made if there is none. Only its owner gets in:
    /// images hold programs with set-user-id.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        let make = |path: &Path| {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(Error::at("make a folder of the image store", path))
        };
        make(&dir)?;
        close(&dir)?;
        for name in ["blobs", "partial", "roots", "tmp", "work", "holds", "locks"] {
            let folder = dir.join(name);
            make(&folder)?;
            close(&folder)?;
        }
        let store = Self { dir: Arc::new(dir) };
        let version = store.path("version");
        match fs::read_to_string(&version) {
            Ok(text) if text == VERSION => {}
            Ok(text) => {
                return Err(Error::Unsupported {
                    what: "this image store".to_owned(),
                    reason: format!("its layout has version {:?}, not 1", text.trim_end()),
                });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                store.replace("version", VERSION.as_bytes())?;
            }
            Err(error) => return Err(Error::at("open the image store", version)(error)),
        }
        Ok(store)
    }

    /// The image of a name, if it is here. Asks no registry.
    pub fn resolve(&self, reference: &Reference) -> Result<Option<Image>> {
        let index = self.read_index()?;
        let Some(entry) = index.find(reference) else { return Ok(None) };
        let known = entry.reference.parse()?;
        match self.image(&known, entry) {
            Err(Error::NotFound { .. }) => Ok(None),
            image => image.map(Some),
        }
    }

    /// All images, by name.
    pub fn list(&self) -> Result<Vec<Entry>> {
        Ok(self.read_index()?.into_entries())
    }

    /// Forgets a name. Its content goes with [`gc`](Self::gc), unless another
    /// image shares it or somebody holds a lease. Says whether there was one.
    pub async fn remove(&self, reference: &Reference) -> Result<bool> {
        self.change_index(|index| index.remove(reference)).await
    }

    /// The image of an entry. If its folder or its configuration is gone, it
    /// is not found: it has to be pulled again.
    pub(crate) fn image(&self, reference: &Reference, entry: &Entry) -> Result<Image> {
        let gone = || Error::NotFound {
            reference: reference.to_string(),
            place: "the image store".to_owned(),
        };
        let (lease, root, summary) = self.lease_root(&entry.chain)?.ok_or_else(gone)?;
        let what = format!("the configuration of {reference}");
        let bytes = self.document(&what, &entry.config, &Limits::default())?.ok_or_else(gone)?;
        let configuration = Configuration::parse(&what, &bytes)?;
        Ok(Image {
            reference: reference.clone(),
            digest: entry.manifest.to_string(),
            root,
            config: ImageConfig::new(configuration),
            size: summary.bytes,
            chain: entry.chain.clone(),
            lease,
        })
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a file whole: whoever reads it sees the old one or the new one,
    /// after a crash too.
    fn replace(&self, name: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
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

/// Closes a folder of ours to other users. One that they could write to is
/// refused: what is in it may be theirs.
fn close(dir: &Path) -> Result<()> {
    let failed = || Error::at("open the image store", dir);
    let found = fs::symlink_metadata(dir).map_err(failed())?;
    let mode = found.mode() & 0o7777;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() || mode & 0o022 != 0 {
        return Err(Error::Damaged {
            what: format!(
                "a folder of it has mode {mode:04o} and belongs to the user {}: it has to be this \
                 user's, and nobody else may write to it; if nobody has, `chmod -R go-w` closes it",
                found.uid()
            ),
        });
    }
    if mode & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed())?;
    }
    Ok(())
}

/// Makes a rename survive a loss of power.
fn sync_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::File::open(parent)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::at("flush the image store", parent))
}

/// A digest as the name of a file: `sha256-0123…`.
fn file_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm(), digest.digest())
}
