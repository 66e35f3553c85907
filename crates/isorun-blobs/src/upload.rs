//! Stores the files of a directory.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::{Error, Result};
use crate::files::{self, FileHasher, LocalChunk, SourceFile};
use crate::format::{ChunkName, Digest, FileRecord, Tree, chunk_count};
use crate::garbage;
use crate::id::TreeId;
use crate::objects::{Objects, blocking};
use crate::store::random_bytes;

/// The result of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UploadedTree {
    /// The id of the tree.
    pub id: TreeId,
    /// The length of all files, in bytes.
    pub bytes: u64,
    /// The size of the objects that were written: without chunks that were stored already,
    /// and compressed.
    pub stored_bytes: u64,
}

/// Stores the files of a directory within the time limit. The collector relies on it: a
/// chunk that it begins to delete is not used by an upload that has started before.
pub(crate) async fn upload(
    objects: &Objects,
    directory: &Path,
    limit: Duration,
) -> Result<UploadedTree> {
    let uploaded = tokio::time::timeout(limit, upload_files(objects, directory)).await;
    uploaded.unwrap_or(Err(Error::TooSlow { what: "the upload", limit }))
}

async fn upload_files(objects: &Objects, directory: &Path) -> Result<UploadedTree> {
    let garbage = garbage::listed_chunks(objects).await?;
    let scanned = directory.to_owned();
    let sources = blocking("read a directory", move || files::scan(&scanned)).await??;
    let mut upload = Upload {
        objects,
        garbage,
        names: HashMap::new(),
        requests: FuturesUnordered::new(),
        stored_bytes: 0,
    };
    let mut records = Vec::with_capacity(sources.len());
    for source in sources {
        records.push(upload.file(source).await?);
    }
    while let Some(stored) = upload.requests.next().await {
        upload.stored_bytes += stored?;
    }
    let tree = Tree::new(records);
    let id = TreeId::new(random_bytes()?);
    let tree_bytes = objects.put_tree(id, &tree).await?;
    Ok(UploadedTree { id, bytes: tree.bytes(), stored_bytes: upload.stored_bytes + tree_bytes })
}

/// An upload in progress. `R` is a request that stores a chunk.
struct Upload<'a, R> {
    objects: &'a Objects,
    /// The chunks that garbage collection deletes.
    garbage: HashSet<ChunkName>,
    /// The chunks of this upload.
    names: HashMap<Digest, ChunkName>,
    requests: FuturesUnordered<R>,
    stored_bytes: u64,
}

impl<'a> Upload<'a, futures_util::future::BoxFuture<'a, Result<u64>>> {
    async fn file(&mut self, source: SourceFile) -> Result<FileRecord> {
        let SourceFile { name, path, bytes } = source;
        let failed = || Error::disk("read a file", &path);
        let opened = path.clone();
        let open = blocking("open a file", move || {
            let file = files::open_regular(&opened)?;
            files::check_unchanged(&file, bytes)?;
            Ok(Arc::new(file))
        });
        let file: Arc<File> = self.run(open).await??.map_err(failed())?;
        let mut hasher = FileHasher::new(&self.objects.keys);
        let (mut chunks, count) = (Vec::new(), chunk_count(bytes));
        let mut index = 0;
        while index < count {
            let permit = self.objects.permits.clone().acquire_owned();
            let permit = self.run(permit).await?.map_err(|_| Error::internal("no permits"))?;
            let (file, keys) = (file.clone(), self.objects.keys.clone());
            let read = blocking("read a file", move || {
                let chunk = files::read_chunk(&file, bytes, index)?;
                let digest = match &chunk {
                    LocalChunk::Data(content) => Some(Digest(keys.chunk_digest(content))),
                    LocalChunk::Zeros { .. } => None,
                };
                Ok::<_, std::io::Error>((chunk, digest))
            });
            let until = match self.run(read).await??.map_err(failed())? {
                (LocalChunk::Data(content), Some(digest)) => {
                    chunks.push(Some(self.chunk(digest, content, permit)));
                    hasher.add(Some(digest));
                    index + 1
                }
                (LocalChunk::Zeros { until }, _) => {
                    (index..until).for_each(|_| hasher.add(None));
                    chunks.extend((index..until).map(|_| None));
                    until
                }
                (LocalChunk::Data(_), None) => return Err(Error::internal("no digest")),
            };
            index = until;
        }
        let check = blocking("read a file", move || files::check_unchanged(&file, bytes));
        self.run(check).await??.map_err(failed())?;
        Ok(FileRecord { name, bytes, digest: hasher.finish(bytes), chunks })
    }

    /// Begins to store a chunk, unless it is one of this upload. Returns its name.
    fn chunk(
        &mut self,
        digest: Digest,
        content: Vec<u8>,
        permit: OwnedSemaphorePermit,
    ) -> ChunkName {
        if let Some(name) = self.names.get(&digest) {
            return *name;
        }
        let mut name = ChunkName { digest, generation: 0 };
        while self.garbage.contains(&name) {
            name.generation += 1;
        }
        self.names.insert(digest, name);
        let objects = self.objects;
        self.requests.push(Box::pin(async move {
            let _permit = permit;
            if objects.has_chunk(name).await? {
                Ok(0)
            } else {
                objects.put_chunk(name, content).await
            }
        }));
        name
    }

    /// Runs a future, and the requests meanwhile.
    async fn run<T>(&mut self, future: impl Future<Output = T>) -> Result<T> {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                biased;
                Some(stored) = self.requests.next() => self.stored_bytes += stored?,
                output = &mut future => return Ok(output),
            }
        }
    }
}
