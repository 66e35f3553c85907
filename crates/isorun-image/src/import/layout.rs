//! OCI layouts and docker archives.

use std::path::Path;

use oci_spec::image::{Descriptor, Digest, ImageIndex, ImageManifest};
use serde::Deserialize;

use super::{FoundImage, ImportOptions, contents, synthesize};
use crate::digest;
use crate::document::{self, Document, ImagePlan};
use crate::error::{Error, Result};
use crate::import::archive::Contents;
use crate::store::Store;

/// The annotations that contain the names of images.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const IMAGE_NAME: &str = "io.containerd.image.name";

/// Reads an OCI layout.
pub(super) fn oci(store: &Store, path: &Path, options: &ImportOptions) -> Result<FoundImage> {
    let limits = &options.limits;
    let what = path.display().to_string();
    let contents = contents(store, path, limits)?;
    let index = contents.document("index.json", limits)?;
    let Document::Index(index) = Document::parse(&format!("the index of {what}"), &index)? else {
        return Err(Error::Malformed { what, reason: "its index.json lists no images".to_owned() });
    };
    let chosen = select(&what, &index, options)?;
    let name = name(chosen);
    let top = chosen.digest().clone();
    let (digest, bytes, manifest) = manifest(&contents, &what, chosen, options, 0)?;
    document::check_manifest(&manifest, limits)?;
    let config = blob(&contents, &what, manifest.config(), options)?;
    let plan = ImagePlan::new(&what, bytes, digest, &manifest, config, &options.platform, limits)?;
    for layer in &plan.layers {
        copy_layer(store, &contents, layer)?;
    }
    Ok(FoundImage { top, plan, name })
}

/// Selects the entry of the index to import.
fn select<'a>(
    what: &str,
    index: &'a ImageIndex,
    options: &ImportOptions,
) -> Result<&'a Descriptor> {
    let entries = index.manifests();
    if let Some(wanted) = &options.select {
        let named = entries.iter().find(|entry| {
            entry.digest().as_ref() == wanted || annotations(entry).any(|name| name == wanted)
        });
        return named.ok_or_else(|| Error::NotFound {
            reference: wanted.clone(),
            location: what.to_owned(),
        });
    }
    match entries.as_slice() {
        [] => Err(Error::Malformed {
            what: what.to_owned(),
            reason: "it contains no image".to_owned(),
        }),
        [only] => Ok(only),
        _ if entries.iter().all(|entry| entry.platform().is_some()) => {
            document::choose(what, index, &options.platform)
        }
        _ => Err(Error::Malformed {
            what: what.to_owned(),
            reason: format!(
                "it contains several images: choose one of {}",
                entries
                    .iter()
                    .map(|entry| {
                        annotations(entry)
                            .next()
                            .map_or_else(|| entry.digest().to_string(), str::to_owned)
                    })
                    .take(20)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        }),
    }
}

fn annotations(entry: &Descriptor) -> impl Iterator<Item = &str> {
    [IMAGE_NAME, REF_NAME]
        .into_iter()
        .filter_map(|key| entry.annotations().as_ref()?.get(key).map(String::as_str))
}

/// Returns the full name of an entry. A tag alone, as many tools write it, is not
/// sufficient.
fn name(entry: &Descriptor) -> Option<String> {
    annotations(entry).find(|name| name.contains(['/', ':'])).map(str::to_owned)
}

/// Reads the manifest of a descriptor, or the manifest for the platform if the
/// descriptor is of an index.
fn manifest(
    contents: &Contents,
    what: &str,
    descriptor: &Descriptor,
    options: &ImportOptions,
    depth: u32,
) -> Result<(Digest, Vec<u8>, ImageManifest)> {
    let bytes = blob(contents, what, descriptor, options)?;
    match Document::parse(&format!("a manifest in {what}"), &bytes)? {
        Document::Manifest(manifest) => Ok((descriptor.digest().clone(), bytes, *manifest)),
        Document::Index(_) if depth > 0 => Err(Error::Unsupported {
            what: what.to_owned(),
            reason: "its index nests two further indexes".to_owned(),
        }),
        Document::Index(index) => {
            let chosen = document::choose(what, &index, &options.platform)?;
            manifest(contents, what, chosen, options, depth + 1)
        }
    }
}

/// Reads and verifies a document.
fn blob(
    contents: &Contents,
    what: &str,
    descriptor: &Descriptor,
    options: &ImportOptions,
) -> Result<Vec<u8>> {
    let digest = descriptor.digest();
    let bytes = contents.document(&blob_name(digest), &options.limits)?;
    digest::check(&format!("a document in {what}"), &bytes, digest)?;
    Ok(bytes)
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.digest())
}

/// Copies a layer into the store, and verifies its digest.
fn copy_layer(store: &Store, contents: &Contents, layer: &document::Layer) -> Result<()> {
    if store.has_blob(&layer.digest, layer.size) {
        return Ok(());
    }
    let reader = contents.open(&blob_name(&layer.digest))?;
    store.ingest_verified(&layer.name, reader, &layer.digest, layer.size)
}

/// Reads an archive of `docker save`, in which `manifest.json` lists a configuration
/// and layers as files of the archive.
pub(super) fn docker(store: &Store, path: &Path, options: &ImportOptions) -> Result<FoundImage> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Saved {
        config: String,
        repo_tags: Option<Vec<String>>,
        layers: Vec<String>,
    }
    let limits = &options.limits;
    let what = path.display().to_string();
    let malformed = |reason: String| Error::Malformed { what: what.clone(), reason };
    let contents = contents(store, path, limits)?;
    let saved: Vec<Saved> = serde_json::from_slice(&contents.document("manifest.json", limits)?)
        .map_err(|error| malformed(format!("its manifest.json is not one of docker ({error})")))?;
    let tags = |image: &Saved| image.repo_tags.clone().unwrap_or_default();
    let chosen = match (&options.select, saved.as_slice()) {
        (Some(wanted), _) => saved
            .iter()
            .find(|image| tags(image).contains(wanted))
            .ok_or_else(|| Error::NotFound { reference: wanted.clone(), location: what.clone() })?,
        (None, [only]) => only,
        (None, []) => return Err(malformed("it contains no image".to_owned())),
        (None, _) => {
            let names: Vec<_> = saved.iter().flat_map(tags).take(20).collect();
            return Err(malformed(format!(
                "it contains several images: choose one of {}",
                names.join(", ")
            )));
        }
    };
    if chosen.layers.len() > limits.layers {
        return Err(Error::TooLarge {
            what: format!("an image of {} layers", chosen.layers.len()),
            limit: limits.layers.to_string(),
        });
    }
    let config = String::from_utf8(contents.document(&chosen.config, limits)?)
        .map_err(|_| malformed("its configuration is not valid UTF-8".to_owned()))?;
    let mut layers = Vec::new();
    let mut left = limits.download;
    for layer in &chosen.layers {
        let (digest, size) = store.ingest(contents.open(layer)?, left)?;
        left = left.saturating_sub(size);
        layers.push((digest, size));
    }
    let name = options.select.clone().or_else(|| tags(chosen).into_iter().next());
    synthesize(path, options, &config, &layers, name)
}
