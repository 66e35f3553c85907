//! Garbage collection: removes what no index entry, hold, lease or running operation
//! needs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::Path;

use super::Store;
use super::lock::{LockMode, try_lock};
use crate::error::{Error, Result};
use crate::unpack::remove_tree;

/// The result of a garbage collection: numbers of removed objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GcReport {
    /// Manifests, configurations and layers.
    pub blobs: u64,
    /// Unpacked root directories.
    pub roots: u64,
    /// Unfinished files and directories of interrupted operations.
    pub leftovers: u64,
    /// The bytes of the blobs, and of the files in the directories.
    pub bytes: u64,
    /// Unreferenced directories that were not removed, because leases of them exist.
    pub in_use: u64,
}

impl Store {
    /// Removes unreferenced blobs and directories, and the leftovers of interrupted
    /// operations. What is in use, or needed by a running operation, is kept. Waits
    /// while other operations register or complete, but not while they run.
    pub async fn gc(&self) -> Result<GcReport> {
        let lock = self.lock_exclusive().await?;
        let store = self.clone();
        let collected = tokio::task::spawn_blocking(move || {
            let report = store.collect();
            drop(lock);
            report
        });
        collected.await.map_err(|error| Error::Io {
            what: "collect garbage".to_owned(),
            path: None,
            source: std::io::Error::other(error),
        })?
    }

    fn collect(&self) -> Result<GcReport> {
        let mut report = GcReport::default();
        let mut needed = self.protected_digests()?;
        let mut chain_ids = self.held_chain_ids()?;
        for entry in self.read_index()?.into_entries() {
            let digests = [&entry.digest, &entry.manifest, &entry.config];
            needed.extend(digests.into_iter().chain(&entry.layers).map(ToString::to_string));
            chain_ids.insert(entry.chain_id.to_string());
        }
        chain_ids.extend(needed.iter().cloned());
        self.collect_roots(&chain_ids, &mut report)?;
        self.collect_blobs(&needed, &mut report)?;
        self.collect_leftovers(&needed, &mut report)?;
        Ok(report)
    }

    fn collect_roots(&self, needed: &BTreeSet<String>, report: &mut GcReport) -> Result<()> {
        for (name, path) in self.entries("roots")? {
            if needed.contains(&name.replacen('-', ":", 1)) {
                continue;
            }
            let Ok(directory) = File::open(&path) else { continue };
            if !try_lock(&directory, LockMode::Exclusive, &path)? {
                report.in_use += 1;
                continue;
            }
            if let Ok(text) = fs::read(path.join("root.json"))
                && let Ok(summary) = serde_json::from_slice::<crate::unpack::UnpackSummary>(&text)
            {
                report.bytes += summary.bytes;
            }
            self.discard(&path)?;
            report.roots += 1;
        }
        Ok(())
    }

    fn collect_blobs(&self, needed: &BTreeSet<String>, report: &mut GcReport) -> Result<()> {
        for (algorithm, _) in self.entries("blobs")? {
            for (name, path) in self.entries(Path::new("blobs").join(&algorithm))? {
                if !needed.contains(&format!("{algorithm}:{name}")) {
                    report.bytes += fs::metadata(&path).map_or(0, |found| found.len());
                    fs::remove_file(&path).map_err(Error::at("remove a blob", &path))?;
                    report.blobs += 1;
                }
            }
        }
        Ok(())
    }

    fn collect_leftovers(&self, needed: &BTreeSet<String>, report: &mut GcReport) -> Result<()> {
        for (name, path) in self.entries("partial")? {
            if !needed.contains(&name.replacen('-', ":", 1)) {
                report.bytes += fs::metadata(&path).map_or(0, |found| found.len());
                fs::remove_file(&path).map_err(Error::at("remove a partial layer", &path))?;
                report.leftovers += 1;
            }
        }
        let tmp = self.path("tmp");
        let directory = File::open(&tmp).map_err(Error::at("read the image store", &tmp))?;
        for (name, path) in self.entries("tmp")? {
            let Ok(file) = File::open(&path) else { continue };
            // The operation that uses it holds the lock.
            if try_lock(&file, LockMode::Exclusive, &path)? {
                remove_tree(directory.as_fd(), &name)
                    .map_err(Error::at("remove leftovers", &path))?;
                report.leftovers += 1;
            }
        }
        for (name, path) in self.entries("locks")? {
            // Not in use: this holds its lock, and the exclusive lock of the store
            // prevents new operations.
            let Ok(file) = File::open(&path) else { continue };
            let digest = name.split_once('-').map(|(_, name)| name.replacen('-', ":", 1));
            let idle = digest.is_none_or(|digest| !needed.contains(&digest));
            if idle && try_lock(&file, LockMode::Exclusive, &path)? {
                fs::remove_file(&path).map_err(Error::at("remove a lock", &path))?;
            }
        }
        Ok(())
    }

    /// Lists the names and paths of the entries of a directory of the store.
    pub(super) fn entries(
        &self,
        directory: impl AsRef<Path>,
    ) -> Result<Vec<(String, std::path::PathBuf)>> {
        let directory = self.path(directory);
        let failed = || Error::at("read the image store", directory.clone());
        let mut entries = Vec::new();
        for entry in fs::read_dir(&directory).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            // All names that the store creates are valid UTF-8.
            if let Ok(name) = entry.file_name().into_string() {
                entries.push((name, entry.path()));
            }
        }
        Ok(entries)
    }
}
