//! Copies of images for the stores of other machines: the blobs of an image as the files of one
//! directory.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use oci_spec::image::{Digest, ImageManifest};

use super::digest;
use super::document::{self, Document, ImagePlan, Platform};
use super::error::{Error, Result};
use super::limits::Limits;
use super::progress::Progress;
use super::pull::blocking;
use super::reference::Reference;
use super::store::{Image, Store, file_name};
use super::unpack::remove_tree;

/// The manifest, the configuration and the layers of an image, in a directory that is removed
/// when this is dropped. The name of each file is its digest, as in `sha256-0123…`.
#[derive(Debug)]
pub struct ImageFiles {
    directory: PathBuf,
    /// Keeps the directory from being collected as a leftover.
    lock: File,
}

impl ImageFiles {
    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.directory
    }
}

impl Drop for ImageFiles {
    fn drop(&mut self) {
        // If removing fails, garbage collection removes it later.
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if let Some(name) = entry.file_name().to_str() {
                let _ = remove_tree(self.lock.as_fd(), name);
            }
        }
        let _ = fs::remove_dir(&self.directory);
    }
}

impl Store {
    /// Returns the files of the image whose manifest has this digest, as links to those of this
    /// store. Returns `None` if one of them is missing.
    pub async fn files(&self, digest: &str) -> Result<Option<ImageFiles>> {
        let _lock = self.lock_shared().await?;
        let (store, digest) = (self.clone(), digest.to_owned());
        blocking(move || link_files(&store, &digest)).await
    }

    /// Adds an image from such files, under a reference. Everything is verified against
    /// `digest`, the digest of its manifest.
    pub async fn add_files(
        &self,
        directory: &Path,
        digest: &str,
        reference: &Reference,
        limits: &Limits,
    ) -> Result<Image> {
        let _lock = self.lock_shared().await?;
        let (store, directory) = (self.clone(), directory.to_owned());
        let (digest, bounds) = (digest::parse("a copied image", digest)?, limits.clone());
        let (what, top) = (reference.to_string(), digest.clone());
        let plan = blocking(move || copy_files(&store, &directory, digest, &what, &bounds)).await?;
        let progress = Progress::none();
        self.finish_image(reference, &top, &plan, limits, &progress, |_| Box::pin(async { Ok(()) }))
            .await
    }
}

fn link_files(store: &Store, digest: &str) -> Result<Option<ImageFiles>> {
    let what = format!("the manifest {digest}");
    let limits = Limits::default();
    let digest = digest::parse(&what, digest)?;
    let Some(bytes) = store.document(&what, &digest, &limits)? else { return Ok(None) };
    let manifest = manifest_of(&what, &bytes)?;
    let (directory, lock) = store.temporary_directory()?;
    let files = ImageFiles { directory, lock };
    let blobs = manifest.layers().iter().chain([manifest.config()]).map(|blob| blob.digest());
    for digest in blobs.chain([&digest]) {
        let target = files.directory.join(file_name(digest));
        // An image may have the same layer twice.
        if !target.exists() && !store.link_blob(digest, &target)? {
            return Ok(None);
        }
    }
    Ok(Some(files))
}

/// Copies files into the store, and verifies them.
fn copy_files(
    store: &Store,
    directory: &Path,
    digest: Digest,
    reference: &str,
    limits: &Limits,
) -> Result<ImagePlan> {
    let what = format!("the copy of {reference}");
    let document = |digest: &Digest| {
        let path = directory.join(file_name(digest));
        let failed = || Error::at("read a copied image", path.clone());
        let mut bytes = Vec::new();
        let file = File::open(&path).map_err(failed())?;
        file.take(limits.document).read_to_end(&mut bytes).map_err(failed())?;
        digest::check(&what, &bytes, digest)?;
        Ok::<_, Error>(bytes)
    };
    let bytes = document(&digest)?;
    let manifest = manifest_of(&what, &bytes)?;
    document::check_manifest(&manifest, limits)?;
    let config = document(manifest.config().digest())?;
    let platform = Platform::default();
    let plan = ImagePlan::new(reference, bytes, digest, &manifest, config, &platform, limits)?;
    for layer in &plan.layers {
        if !store.has_blob(&layer.digest, layer.size) {
            let path = directory.join(file_name(&layer.digest));
            let file = File::open(&path).map_err(Error::at("read a copied image", &path))?;
            store.ingest_verified(&layer.name, file, &layer.digest, layer.size)?;
        }
    }
    Ok(plan)
}

fn manifest_of(what: &str, bytes: &[u8]) -> Result<ImageManifest> {
    match Document::parse(what, bytes)? {
        Document::Manifest(manifest) => Ok(*manifest),
        Document::Index(_) => Err(Error::Malformed {
            what: what.to_owned(),
            reason: "it is an index of several images".to_owned(),
        }),
    }
}
