//! The index of images, by reference.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use oci_spec::image::Digest;
use serde::{Deserialize, Serialize};

use super::Store;
use super::lock::{Lock, LockMode};
use crate::error::{Error, Result};
use crate::reference::Reference;

/// An image in the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Entry {
    /// The full reference.
    #[serde(skip)]
    pub reference: String,
    /// The digest of the reference at its registry: of a manifest, or of an index of
    /// manifests for several platforms.
    pub digest: Digest,
    /// The digest of the manifest of the selected platform.
    pub manifest: Digest,
    /// The digest of its configuration.
    pub config: Digest,
    /// The digests of the compressed layers.
    pub layers: Vec<Digest>,
    /// The ChainID, which names the directory of the unpacked layers.
    #[serde(rename = "chain")]
    pub chain_id: Digest,
    /// The bytes of the compressed layers.
    pub compressed: u64,
    /// The bytes of the unpacked files.
    pub size: u64,
    /// The time of the pull or import, in seconds since 1970.
    pub created: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Index {
    images: BTreeMap<String, Entry>,
}

impl Index {
    /// Returns the entry of a reference. A reference by digest also matches an image
    /// of the same repository that was pulled by tag.
    pub(super) fn find(&self, reference: &Reference) -> Option<&Entry> {
        if let Some(entry) = self.images.get(&reference.to_string()) {
            return Some(entry);
        }
        let digest = reference.digest()?;
        self.images.values().find(|entry| {
            (entry.digest.as_ref() == digest || entry.manifest.as_ref() == digest)
                && entry.reference.parse::<Reference>().is_ok_and(|known| {
                    known.registry() == reference.registry()
                        && known.repository() == reference.repository()
                })
        })
    }

    pub(super) fn remove(&mut self, reference: &Reference) -> bool {
        self.images.remove(&reference.to_string()).is_some()
    }

    pub(super) fn into_entries(self) -> Vec<Entry> {
        self.images.into_values().collect()
    }
}

impl Store {
    pub(super) fn read_index(&self) -> Result<Index> {
        let path = self.path("index.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Index::default());
            }
            Err(error) => return Err(Error::at("read the list of images", path)(error)),
        };
        let mut index: Index = serde_json::from_slice(&text).map_err(|error| Error::Damaged {
            what: format!(
                "its index.json is invalid ({error}); remove that file, \
                 and pull or import the images again"
            ),
        })?;
        for (reference, entry) in &mut index.images {
            entry.reference.clone_from(reference);
        }
        Ok(index)
    }

    /// Changes the index under its lock.
    pub(super) async fn change_index<T>(&self, change: impl FnOnce(&mut Index) -> T) -> Result<T> {
        let _lock = Lock::wait(&self.path("index.lock"), LockMode::Exclusive).await?;
        let mut index = self.read_index()?;
        let result = change(&mut index);
        let text = serde_json::to_vec_pretty(&index).map_err(|error| Error::Io {
            what: "write the list of images".to_owned(),
            path: None,
            source: error.into(),
        })?;
        self.write_atomic("index.json", &text)?;
        Ok(result)
    }

    /// Adds an image to the index. Its content must be complete.
    pub(crate) async fn add_to_index(&self, mut entry: Entry) -> Result<()> {
        entry.created =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        self.change_index(|index| index.images.insert(entry.reference.clone(), entry)).await?;
        Ok(())
    }
}
