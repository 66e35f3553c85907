//! Images from disk: an OCI layout, a docker archive, or a root filesystem.

mod archive;
mod folder;
mod layout;

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use oci_spec::image::Digest;
use serde_json::json;

use self::archive::Contents;
use super::compression::decompress;
use super::digest::{self, Hasher, Hashing};
use super::document::{Document, Plan, Platform};
use super::error::{Error, Result};
use super::limits::Limits;
use super::progress::{Event, Progress};
use super::pull::blocking;
use super::reference::Reference;
use super::store::{Image, Store};

/// What is imported. [`Source::find`] looks at it to find out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// An OCI layout: a folder, or a tar archive of one.
    Layout(PathBuf),
    /// What `docker save` writes.
    Docker(PathBuf),
    /// A root filesystem: a folder, or a tar archive of one.
    Root(PathBuf),
}

/// How an image is imported.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ImportOptions {
    /// What it is called; by default what the archive calls it.
    pub name: Option<Reference>,
    /// Which one, if there are several: its name in the archive.
    pub select: Option<String>,
    /// What for; by default this machine.
    pub platform: Platform,
    /// How much at most.
    pub limits: Limits,
}

/// What was found: the top document, the image, and what it calls itself.
struct Found {
    top: Digest,
    plan: Plan,
    name: Option<String>,
}

impl Source {
    /// Finds out what a file or a folder is.
    pub fn find(path: &Path) -> Result<Self> {
        let found =
            std::fs::metadata(path).map_err(Error::at("open what is to be imported", path))?;
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
    /// Reads what is to be imported, without unpacking it.
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
    /// Takes an image from disk.
    pub async fn import(
        &self,
        source: &Source,
        options: &ImportOptions,
        progress: &Progress,
    ) -> Result<Image> {
        // Nothing of this is collected until the image has its name.
        let _share = self.share().await?;
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
                    reason: "what is imported has no name of its own: give one".to_owned(),
                });
            }
        };
        let plan = &found.plan;
        progress.tell(Event::Found { layers: plan.layers.len(), bytes: plan.bytes });
        self.complete(&reference, &found.top, plan, &options.limits, progress, |_| {
            Box::pin(async { Ok(()) })
        })
        .await
    }
}

/// A root filesystem becomes an image of one layer.
fn root(store: &Store, path: &Path, options: &ImportOptions) -> Result<Found> {
    let limit = options.limits.unpacked;
    let (layer, size) = if path.is_dir() {
        let mut tar = store.scratch()?;
        folder::pack(path, &mut tar, &options.limits)?;
        tar.seek(SeekFrom::Start(0)).map_err(Error::io("read a packed folder"))?;
        store.ingest(tar, limit)?
    } else {
        store.ingest(open(path)?, limit)?
    };
    let diff = plain_digest(store.open_blob(&layer)?, limit)?;
    let config = json!({
        "architecture": machine(&options.platform),
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [diff] },
    });
    synthesize(path, options, &config.to_string(), &[(layer, size)], None)
}

/// Makes a manifest for a configuration and layers that have none.
fn synthesize(
    path: &Path,
    options: &ImportOptions,
    config: &str,
    layers: &[(Digest, u64)],
    name: Option<String>,
) -> Result<Found> {
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
    let plan = Plan::new(
        &what,
        manifest.into_bytes(),
        top.clone(),
        &parsed,
        config.as_bytes().to_vec(),
        &options.platform,
        &options.limits,
    )?;
    Ok(Found { top, plan, name })
}

fn machine(platform: &Platform) -> String {
    platform.to_string().split('/').nth(1).unwrap_or_default().to_owned()
}

/// The digest of an archive without its compression.
fn plain_digest(compressed: impl Read, limit: u64) -> Result<Digest> {
    let broken = |error: std::io::Error| Error::Malformed {
        what: "the archive".to_owned(),
        reason: format!("its compression is broken ({error})"),
    };
    let plain = decompress(compressed).map_err(broken)?;
    let mut hashing = Hashing::new(plain.take(limit.saturating_add(1)), Hasher::sha256());
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
    File::open(path).map_err(Error::at("open what is to be imported", path))
}

/// Where the files of a layout or an archive are read from.
fn contents(store: &Store, path: &Path, limits: &Limits) -> Result<Contents> {
    if path.is_dir() {
        return Contents::folder(path);
    }
    Contents::archive(store, open(path)?, limits)
}
