//! Writes the files of a stored tree, and verifies them.

use std::fs::File;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};

use crate::error::{Error, Result};
use crate::files::{self, FileHasher, NewDirectory};
use crate::format::{ChunkName, FileRecord, Tree};
use crate::id::TreeId;
use crate::objects::{Objects, blocking};
use crate::options::MAX_CHUNKS_IN_FLIGHT;

/// Writes the files of a tree to a new directory, which is removed if that fails or the
/// future is dropped.
pub(crate) async fn download(objects: &Objects, id: TreeId, target: PathBuf) -> Result<()> {
    let tree = objects.get_tree(id).await?.ok_or(Error::NotFound { id })?;
    write(objects, id, tree, target).await
}

/// Writes the files of a tree that was read already.
pub(crate) async fn write(
    objects: &Objects,
    id: TreeId,
    tree: Tree,
    target: PathBuf,
) -> Result<()> {
    let directory = blocking("create a directory", || NewDirectory::create(target)).await??;
    let written = write_files(objects, id, tree, &directory).await;
    if written.is_ok() {
        directory.keep();
        return Ok(());
    }
    // Removing many bytes takes a while.
    blocking("remove a directory", move || drop(directory)).await?;
    written
}

async fn write_files(
    objects: &Objects,
    id: TreeId,
    tree: Tree,
    directory: &Arc<NewDirectory>,
) -> Result<()> {
    let positions: Vec<(ChunkName, u64, u64)> = tree
        .files
        .iter()
        .flat_map(|file| {
            let numbered = (0..).zip(&file.chunks);
            numbered.filter_map(|(index, name)| Some(((*name)?, file.bytes, index)))
        })
        .collect();
    // The permits are taken in the order of the chunks, and held until these are written.
    // So the chunk that is awaited always has one, and downloads cannot block each other.
    let chunks = stream::iter(positions)
        .then(|position| {
            let permit = objects.permits.clone().acquire_owned();
            async move { (position, permit.await) }
        })
        .map(async |((name, file_bytes, index), permit)| {
            let permit = permit.map_err(|_| Error::internal("no permits"))?;
            match objects.get_chunk(name, file_bytes, index).await? {
                Some(chunk) => Ok((chunk, permit)),
                None => Err(missing_chunk(objects, id, name).await),
            }
        })
        .buffered(MAX_CHUNKS_IN_FLIGHT);
    let mut chunks = pin!(chunks);
    for record in tree.files {
        let mut target = TargetFile::create(objects, directory, record).await?;
        for index in 0..target.record.chunks.len() {
            // The digest of a chunk was verified when it was read.
            let name = target.record.chunks[index];
            target.hasher.add(name.map(|name| name.digest));
            if name.is_none() {
                continue;
            }
            let chunk = chunks.next().await.ok_or_else(|| Error::internal("too few chunks"))?;
            let (chunk, _permit) = chunk?;
            target = target.write(index as u64, chunk).await?;
        }
        target.finish(id).await?;
    }
    Ok(())
}

/// Returns the error for a chunk that does not exist: the tree may have been deleted since
/// the download started.
async fn missing_chunk(objects: &Objects, id: TreeId, name: ChunkName) -> Error {
    match objects.get_tree_object(id).await {
        Ok(Some(_)) => {
            Error::damaged(format!("the chunk {} of the tree {id} is missing", String::from(name)))
        }
        Ok(None) => Error::NotFound { id },
        Err(error) => error,
    }
}

/// A file that is being written.
struct TargetFile {
    file: File,
    path: PathBuf,
    record: FileRecord,
    /// Hashes the chunks that were written.
    hasher: FileHasher,
    /// Keeps the directory until a write that cannot be cancelled has ended.
    directory: Arc<NewDirectory>,
}

impl TargetFile {
    async fn create(
        objects: &Objects,
        directory: &Arc<NewDirectory>,
        record: FileRecord,
    ) -> Result<Self> {
        let hasher = FileHasher::new(&objects.keys);
        let directory = directory.clone();
        blocking("create a file", move || {
            let path = directory.path().join(&record.name);
            let file = directory.create_file(&record)?;
            Ok(Self { file, path, record, hasher, directory })
        })
        .await?
    }

    async fn write(self, index: u64, chunk: Vec<u8>) -> Result<Self> {
        blocking("write a file", move || {
            files::write_chunk(&self.file, index, &chunk)
                .map_err(Error::disk("write a file", &self.path))?;
            Ok(self)
        })
        .await?
    }

    /// Verifies the length and the digest.
    async fn finish(self, id: TreeId) -> Result<()> {
        blocking("verify a file", move || {
            let FileRecord { name, bytes, digest, .. } = &self.record;
            files::check_unchanged(&self.file, *bytes)
                .map_err(Error::disk("write a file", &self.path))?;
            if self.hasher.finish(*bytes) != *digest {
                let what = format!("the file {name} of the tree {id} does not match its digest");
                return Err(Error::damaged(what));
            }
            drop(self.directory);
            Ok(())
        })
        .await?
    }
}
