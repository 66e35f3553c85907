//! The encrypted objects of a store: chunks, trees and garbage lists.
//!
//! ```text
//! PREFIX/chunks/ab/ab12…      a chunk, by the keyed digest of its plain text
//!                  ab12…-1    the same content, when the former is on a garbage list
//! PREFIX/trees/tree12…        a tree
//! PREFIX/garbage/12…          chunks that garbage collection deletes
//! PREFIX/clock/12…, check/12… exist for the duration of a request
//! ```

use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use tokio::sync::Semaphore;

use crate::error::{Error, Result};
use crate::format::{
    self, ChunkName, Digest, GarbageList, MAX_JSON_BYTES, PACK_OVERHEAD, Tree, chunk_len,
};
use crate::id::TreeId;
use crate::key::{BlobKey, Keys, SEAL_OVERHEAD};
use crate::options::{BlobOptions, CHUNK_BYTES, MAX_CHUNKS_IN_FLIGHT};
use crate::store::{Listed, Store};

pub(crate) const TREES: &str = "trees";
pub(crate) const CHUNKS: &str = "chunks";
pub(crate) const GARBAGE: &str = "garbage";

/// The maximum size of a chunk's object, in bytes.
const MAX_CHUNK_OBJECT: usize = CHUNK_BYTES + PACK_OVERHEAD + SEAL_OVERHEAD;
/// The maximum size of the object of a tree or a garbage list, in bytes.
const MAX_JSON_OBJECT: usize = MAX_JSON_BYTES + PACK_OVERHEAD + SEAL_OVERHEAD;

/// The objects of a store.
pub(crate) struct Objects {
    pub(crate) store: Store,
    pub(crate) keys: Arc<Keys>,
    /// A permit for each chunk in memory.
    pub(crate) permits: Arc<Semaphore>,
}

impl Objects {
    pub(crate) fn connect(url: &str, key: &BlobKey, options: &BlobOptions) -> Result<Self> {
        let keys = Keys::new(key).map_err(|_| Error::internal("cannot derive the keys"))?;
        Ok(Self {
            store: Store::connect(url, options)?,
            keys: Arc::new(keys),
            permits: Arc::new(Semaphore::new(MAX_CHUNKS_IN_FLIGHT)),
        })
    }

    pub(crate) async fn has_chunk(&self, name: ChunkName) -> Result<bool> {
        self.store.exists(&chunk_object(name)).await
    }

    /// Stores a chunk. Returns the size of its object.
    pub(crate) async fn put_chunk(&self, name: ChunkName, plain: Vec<u8>) -> Result<u64> {
        let object = self.seal(sealed_chunk_name(name.digest), plain).await?;
        let bytes = object.len() as u64;
        self.store.put(&chunk_object(name), object).await?;
        Ok(bytes)
    }

    /// Reads the chunk with this index of a file and verifies its name and length. Returns
    /// `None` if it does not exist.
    pub(crate) async fn get_chunk(
        &self,
        name: ChunkName,
        file_bytes: u64,
        index: u64,
    ) -> Result<Option<Vec<u8>>> {
        let object_name = chunk_object(name);
        let object = self.store.get(&object_name, MAX_CHUNK_OBJECT).await?;
        let Some(object) = object else { return Ok(None) };
        let keys = self.keys.clone();
        let verified = blocking("verify a chunk", move || {
            let damaged = |what: &str| Error::damaged(format!("the chunk {object_name} {what}"));
            let plain = open(&keys, &sealed_chunk_name(name.digest), object, CHUNK_BYTES)
                .map_err(|what| damaged(&what))?;
            if keys.chunk_digest(&plain) != name.digest.0 {
                return Err(damaged("does not match its name"));
            }
            if plain.len() != chunk_len(file_bytes, index) {
                return Err(damaged("has a wrong length"));
            }
            Ok(plain)
        });
        verified.await?.map(Some)
    }

    /// Stores a tree, whose chunks are stored already. Returns the size of its object.
    pub(crate) async fn put_tree(&self, id: TreeId, tree: &Tree) -> Result<u64> {
        let json = tree.to_json().map_err(|error| Error::internal(&error.to_string()))?;
        if json.len() > MAX_JSON_BYTES {
            let what = format!("its list of chunks has more than {MAX_JSON_BYTES} bytes");
            return Err(Error::Unsupported { what });
        }
        let object = self.seal(tree_object(id), json).await?;
        let bytes = object.len() as u64;
        self.store.put(&tree_object(id), object).await?;
        Ok(bytes)
    }

    /// Returns the object of a tree.
    pub(crate) async fn get_tree_object(&self, id: TreeId) -> Result<Option<Vec<u8>>> {
        self.store.get(&tree_object(id), MAX_JSON_OBJECT).await
    }

    /// Reads a tree. Returns `None` if it does not exist.
    pub(crate) async fn get_tree(&self, id: TreeId) -> Result<Option<Tree>> {
        let Some(object) = self.get_tree_object(id).await? else { return Ok(None) };
        let keys = self.keys.clone();
        blocking("read a tree", move || open_tree(&keys, id, object)).await?.map(Some)
    }

    pub(crate) async fn put_garbage_list(&self, name: &str, list: &GarbageList) -> Result<()> {
        let json = list.to_json().map_err(|error| Error::internal(&error.to_string()))?;
        let object = self.seal(name.to_owned(), json).await?;
        self.store.put(name, object).await
    }

    /// Reads a garbage list. Returns `None` if it does not exist.
    pub(crate) async fn get_garbage_list(&self, name: &str) -> Result<Option<GarbageList>> {
        let object = self.store.get(name, MAX_JSON_OBJECT).await?;
        let Some(object) = object else { return Ok(None) };
        let (keys, name) = (self.keys.clone(), name.to_owned());
        let read = blocking("read a garbage list", move || {
            let damaged = |what: &str| Error::damaged(format!("the object {name} {what}"));
            let json = open(&keys, &name, object, MAX_JSON_BYTES).map_err(|what| damaged(&what))?;
            GarbageList::parse(&json).map_err(|error| damaged(&format!("is not valid: {error}")))
        });
        read.await?.map(Some)
    }

    /// Lists the trees. Other objects in their directory are left out.
    pub(crate) fn list_trees(&self) -> impl Stream<Item = Result<(TreeId, Listed)>> + Send {
        self.store.list(TREES).filter_map(|listed| {
            std::future::ready(match listed {
                Ok(listed) => {
                    let id = listed.name.strip_prefix("trees/").and_then(|id| id.parse().ok());
                    id.map(|id| Ok((id, listed)))
                }
                Err(error) => Some(Err(error)),
            })
        })
    }

    /// Compresses and encrypts the content of an object.
    async fn seal(&self, name: String, plain: Vec<u8>) -> Result<Vec<u8>> {
        let keys = self.keys.clone();
        blocking("encrypt an object", move || {
            let packed = format::pack(&plain)
                .map_err(|error| Error::internal(&format!("cannot compress: {error}")))?;
            drop(plain);
            keys.seal(&name, &packed).map_err(|_| Error::internal("cannot encrypt"))
        })
        .await?
    }
}

/// Decrypts and validates the object of a tree.
pub(crate) fn open_tree(keys: &Keys, id: TreeId, object: Vec<u8>) -> Result<Tree> {
    let damaged = |what: &str| Error::damaged(format!("the tree {id} {what}"));
    let json =
        open(keys, &tree_object(id), object, MAX_JSON_BYTES).map_err(|what| damaged(&what))?;
    Tree::parse(&json).map_err(|error| damaged(&format!("cannot be read: {error}")))
}

/// Decrypts and decompresses an object. Returns what is wrong with it otherwise.
fn open(keys: &Keys, name: &str, mut object: Vec<u8>, max_bytes: usize) -> Result<Vec<u8>, String> {
    let Some(packed) = keys.open(name, &mut object) else {
        return Err(
            "cannot be decrypted: it was changed or truncated, or was stored with another \
                    key"
            .to_owned(),
        );
    };
    format::unpack(packed, max_bytes).map_err(|error| format!("cannot be read: {error}"))
}

pub(crate) fn tree_object(id: TreeId) -> String {
    format!("{TREES}/{id}")
}

/// Returns the name of a chunk's object. Directories of 256 names keep file systems quick.
pub(crate) fn chunk_object(name: ChunkName) -> String {
    let text = String::from(name);
    format!("{CHUNKS}/{}/{text}", &text[..2])
}

/// Returns the chunk with this name of an object.
pub(crate) fn parse_chunk_object(object: &str) -> Option<ChunkName> {
    let text = object.rsplit_once('/')?.1;
    let name = ChunkName::try_from(text.to_owned()).ok()?;
    (chunk_object(name) == object).then_some(name)
}

/// Returns the name with which a chunk is authenticated: objects with the same content can
/// replace each other.
fn sealed_chunk_name(digest: Digest) -> String {
    format!("{CHUNKS}/{}", String::from(digest))
}

/// Runs a function that uses the CPU or the disk on a thread for this purpose.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &str,
    function: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let joined = tokio::task::spawn_blocking(function).await;
    joined.map_err(|error| Error::internal(&format!("cannot {what}: {error}")))
}
