//! Removes what no name and nobody at work needs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::Path;

use super::Store;
use super::lock::{Mode, tried};
use crate::image::error::{Error, Result};
use crate::image::unpack::remove_tree;

/// What a collection of garbage has removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// Manifests, configurations and layers.
    pub blobs: u64,
    /// Unpacked folders.
    pub roots: u64,
    /// Work that was broken off.
    pub leftovers: u64,
    /// Bytes of the blobs, and of the files in the folders.
    pub bytes: u64,
    /// Folders that nobody needs but that are in use: they go next time.
    pub in_use: u64,
}

impl Store {
    /// Removes blobs and folders that no name needs, and what was broken off.
    /// What is in use, or about to be, stays. Waits while others begin or end
    /// work, not for the work itself.
    pub async fn gc(&self) -> Result<Removed> {
        let alone = self.alone().await?;
        let store = self.clone();
        let collected = tokio::task::spawn_blocking(move || {
            let removed = store.collect();
            drop(alone);
            removed
        });
        collected.await.map_err(|error| Error::Io {
            what: "collect garbage".to_owned(),
            path: None,
            source: std::io::Error::other(error),
        })?
    }

    fn collect(&self) -> Result<Removed> {
        let mut removed = Removed::default();
        let mut needed = self.relied_on()?;
        let mut chains = self.held()?;
        for entry in self.read_index()?.into_entries() {
            let digests = [&entry.digest, &entry.manifest, &entry.config];
            needed.extend(digests.into_iter().chain(&entry.layers).map(ToString::to_string));
            chains.insert(entry.chain.to_string());
        }
        chains.extend(needed.iter().cloned());
        self.collect_roots(&chains, &mut removed)?;
        self.collect_blobs(&needed, &mut removed)?;
        self.collect_leftovers(&needed, &mut removed)?;
        Ok(removed)
    }

    fn collect_roots(&self, needed: &BTreeSet<String>, removed: &mut Removed) -> Result<()> {
        for (name, path) in self.entries("roots")? {
            if needed.contains(&name.replacen('-', ":", 1)) {
                continue;
            }
            let Ok(folder) = File::open(&path) else { continue };
            if !tried(&folder, Mode::Exclusive, &path)? {
                removed.in_use += 1;
                continue;
            }
            if let Ok(text) = fs::read(path.join("root.json"))
                && let Ok(summary) = serde_json::from_slice::<crate::image::unpack::Summary>(&text)
            {
                removed.bytes += summary.bytes;
            }
            self.discard(&path)?;
            removed.roots += 1;
        }
        Ok(())
    }

    fn collect_blobs(&self, needed: &BTreeSet<String>, removed: &mut Removed) -> Result<()> {
        for (algorithm, _) in self.entries("blobs")? {
            for (name, path) in self.entries(Path::new("blobs").join(&algorithm))? {
                if !needed.contains(&format!("{algorithm}:{name}")) {
                    removed.bytes += fs::metadata(&path).map_or(0, |found| found.len());
                    fs::remove_file(&path).map_err(Error::at("remove a blob", &path))?;
                    removed.blobs += 1;
                }
            }
        }
        Ok(())
    }

    fn collect_leftovers(&self, needed: &BTreeSet<String>, removed: &mut Removed) -> Result<()> {
        for (name, path) in self.entries("partial")? {
            if !needed.contains(&name.replacen('-', ":", 1)) {
                removed.bytes += fs::metadata(&path).map_or(0, |found| found.len());
                fs::remove_file(&path).map_err(Error::at("remove a partial layer", &path))?;
                removed.leftovers += 1;
            }
        }
        let tmp = self.path("tmp");
        let folder = File::open(&tmp).map_err(Error::at("read the image store", &tmp))?;
        for (name, path) in self.entries("tmp")? {
            let Ok(file) = File::open(&path) else { continue };
            // Whoever is at it has the lock.
            if tried(&file, Mode::Exclusive, &path)? {
                remove_tree(folder.as_fd(), &name).map_err(Error::at("remove leftovers", &path))?;
                removed.leftovers += 1;
            }
        }
        for (name, path) in self.entries("locks")? {
            // Under this one's own lock, and nobody begins work meanwhile.
            let Ok(file) = File::open(&path) else { continue };
            let digest = name.split_once('-').map(|(_, name)| name.replacen('-', ":", 1));
            let idle = digest.is_none_or(|digest| !needed.contains(&digest));
            if idle && tried(&file, Mode::Exclusive, &path)? {
                fs::remove_file(&path).map_err(Error::at("remove a lock", &path))?;
            }
        }
        Ok(())
    }

    pub(super) fn entries(
        &self,
        folder: impl AsRef<Path>,
    ) -> Result<Vec<(String, std::path::PathBuf)>> {
        let folder = self.path(folder);
        let failed = || Error::at("read the image store", folder.clone());
        let mut entries = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            // Everything in the store has a name of ours.
            if let Ok(name) = entry.file_name().into_string() {
                entries.push((name, entry.path()));
            }
        }
        Ok(entries)
    }
}
