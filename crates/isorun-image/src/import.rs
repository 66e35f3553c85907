//! Imports images from disk: an OCI layout, a docker archive, or a root filesystem.

mod archive;
mod directory;
mod layout;

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use oci_spec::image::Digest;
use serde_json::json;

use self::archive::Contents;
use super::compression::decompress;
use super::digest::{self, Hasher, HashingReader};
use super::document::{Document, ImagePlan, Platform};
use super::error::{Error, Result};
use super::limits::Limits;
use super::progress::{Progress, ProgressEvent};
use super::pull::blocking;
use super::reference::Reference;
use super::store::{Image, Store};

/// The source of an import. [`Source::find`] detects its format.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// An OCI layout: a directory, or a tar archive of one.
    Layout(PathBuf),
    /// An archive of `docker save`.
    Docker(PathBuf),
    /// A root filesystem: a directory, or a tar archive of one.
    Root(PathBuf),
}

/// The options of an import.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ImportOptions {
    /// The reference of the image; by default the one in the archive.
    pub name: Option<Reference>,
    /// The name in the archive of the image to import, if it contains several.
    pub select: Option<String>,
    /// The platform of the image; by default this machine's.
    pub platform: Platform,
    /// The resource limits.
    pub limits: Limits,
}

/// An image in a source: the digest of its top-level document, its plan, and its name
/// in the source.
struct FoundImage {
    top: Digest,
    plan: ImagePlan,
    name: Option<String>,
}

impl Source {
    /// Detects the format of a file or a directory.
    pub fn find(path: &Path) -> Result<Self> {
        let found = std::fs::metadata(path).map_err(Error::at("open the import source", path))?;
        if found.is_dir() {
            let is_layout = path.join("oci-layout").is_file() && path.join("index.json").is_file();
            return Ok(if is_layout {
                Source::Layout(path.to_owned())
            } else {
                Source::Root(path.to_owned())
            });
        }
        let limits = Limits::default();
        let mut file = open(path)?;
        let names = archive::names(&mut file, &limits)?;
        let has = |name: &str| names.iter().any(|known| known == name);
        Ok(if has("oci-layout") && has("index.json") {
            Source::Layout(path.to_owned())
        } else if has("manifest.json") {
            Source::Docker(path.to_owned())
        } else {
            Source::Root(path.to_owned())
        })
    }
}

impl Source {
    /// Reads the source, without unpacking it.
    #[cfg(feature = "fuzzing")]
    pub(super) fn fuzz_read(&self, store: &Store, options: &ImportOptions) -> Result<()> {
        match self {
            Source::Layout(path) => layout::oci(store, path, options),
            Source::Docker(path) => layout::docker(store, path, options),
            Source::Root(path) => root(store, path, options),
        }
        .map(drop)
    }
}

impl Store {
    /// Imports an image from disk.
    pub async fn import(
        &self,
        source: &Source,
        options: &ImportOptions,
        progress: &Progress,
    ) -> Result<Image> {
        // Prevents garbage collection until the image is in the index.
        let _lock = self.lock_shared().await?;
        let (store, wanted, given) = (self.clone(), source.clone(), options.clone());
        let found = blocking(move || match &wanted {
            Source::Layout(path) => layout::oci(&store, path, &given),
            Source::Docker(path) => layout::docker(&store, path, &given),
            Source::Root(path) => root(&store, path, &given),
        })
        .await?;
        let reference = match (&options.name, &found.name) {
            (Some(name), _) => name.clone(),
            (None, Some(name)) => name.parse()?,
            (None, None) => {
                return Err(Error::Reference {
                    input: String::new(),
                    reason: "the import source contains no name: specify one".to_owned(),
                });
            }
        };
        let plan = &found.plan;
        progress.report(ProgressEvent::Found { layers: plan.layers.len(), bytes: plan.bytes });
        self.finish_image(&reference, &found.top, plan, &options.limits, progress, |_| {
            Box::pin(async { Ok(()) })
        })
        .await
    }
}

/// Converts a root filesystem to an image of one layer.
fn root(store: &Store, path: &Path, options: &ImportOptions) -> Result<FoundImage> {
    let limit = options.limits.unpacked;
    let (layer, size) = if path.is_dir() {
        let mut tar = store.scratch()?;
        directory::pack(path, &mut tar, &options.limits)?;
        tar.seek(SeekFrom::Start(0)).map_err(Error::io("read a packed directory"))?;
        store.ingest(tar, limit)?
    } else {
        store.ingest(open(path)?, limit)?
    };
    let diff = plain_digest(store.open_blob(&layer)?, limit)?;
    let config = json!({
        "architecture": architecture(&options.platform),
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [diff] },
    });
    synthesize(path, options, &config.to_string(), &[(layer, size)], None)
}

/// Creates a manifest for a configuration and layers.
fn synthesize(
    path: &Path,
    options: &ImportOptions,
    config: &str,
    layers: &[(Digest, u64)],
    name: Option<String>,
) -> Result<FoundImage> {
    let layers: Vec<_> = layers
        .iter()
        .map(|(digest, size)| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest,
                "size": size,
            })
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest::of(config.as_bytes()),
            "size": config.len(),
        },
        "layers": layers,
    })
    .to_string();
    let what = path.display().to_string();
    let Document::Manifest(parsed) = Document::parse(&what, manifest.as_bytes())? else {
        return Err(Error::Malformed { what, reason: "it has no layers".to_owned() });
    };
    let top = digest::of(manifest.as_bytes());
    let plan = ImagePlan::new(
        &what,
        manifest.into_bytes(),
        top.clone(),
        &parsed,
        config.as_bytes().to_vec(),
        &options.platform,
        &options.limits,
    )?;
    Ok(FoundImage { top, plan, name })
}

/// Returns the architecture of a platform.
fn architecture(platform: &Platform) -> String {
    platform.to_string().split('/').nth(1).unwrap_or_default().to_owned()
}

/// Computes the digest of the uncompressed archive.
fn plain_digest(compressed: impl Read, limit: u64) -> Result<Digest> {
    let broken = |error: std::io::Error| Error::Malformed {
        what: "the archive".to_owned(),
        reason: format!("its compression is corrupt ({error})"),
    };
    let plain = decompress(compressed).map_err(broken)?;
    let mut hashing = HashingReader::new(plain.take(limit.saturating_add(1)), Hasher::sha256());
    let size = std::io::copy(&mut hashing, &mut std::io::sink()).map_err(broken)?;
    if size > limit {
        return Err(Error::TooLarge {
            what: "the unpacked image".to_owned(),
            limit: format!("{limit} bytes"),
        });
    }
    Ok(hashing.finish())
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(Error::at("open the import source", path))
}

/// Opens the files of a layout or an archive.
fn contents(store: &Store, path: &Path, limits: &Limits) -> Result<Contents> {
    if path.is_dir() {
        return Contents::directory(path);
    }
    Contents::archive(store, open(path)?, limits)
}
