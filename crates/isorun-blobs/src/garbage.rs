//! Deletes trees that nothing refers to, and chunks that no tree uses.
//!
//! An object store has no transactions, so that a chunk could be deleted just after an
//! upload has found it. Therefore chunks are deleted in two steps, at least a grace period
//! apart:
//!
//! 1. A run *marks* chunks that no tree uses and that are older than the grace period: it
//!    writes their names to a garbage list. An upload that starts later reads the list, and
//!    uses none of these objects; it stores the same content under another name.
//! 2. A run that finds a list older than the grace period *sweeps* it: it reads all trees
//!    again and deletes the chunks of the list that none uses. Every upload that did not see
//!    the list has written its tree by now, or has failed: an upload takes at most half of
//!    the grace period.
//!
//! A swept list is kept for another grace period: until the end of every other run that is
//! deleting the same chunks, their names are not used again.
//!
//! All ages are those by the store's clock.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::error::{Error, Result};
use crate::format::{ChunkName, GarbageList};
use crate::id::TreeId;
use crate::objects::{self, CHUNKS, GARBAGE, Objects};
use crate::store::{Listed, random_name};

/// The maximum number of garbage lists that are read.
const MAX_LISTS: usize = 1024;
/// The number of garbage lists at which no further chunks are marked.
const ENOUGH_LISTS: usize = 64;
/// The maximum number of chunks in a garbage list: 1.5 MB of JSON.
const MAX_LISTED_CHUNKS: usize = 20_000;
/// The maximum number of trees in a store.
const MAX_TREES: usize = 1_000_000;
/// The number of trees that are read at the same time.
const CONCURRENT_READS: usize = 8;

/// The result of a garbage collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// The number of deleted trees.
    pub trees: u64,
    /// The number of deleted chunks.
    pub chunks: u64,
    /// The size of the deleted objects, in bytes.
    pub bytes: u64,
    /// The number of chunks that a later run deletes.
    pub marked: u64,
}

/// A garbage list with its object.
struct FoundList {
    object: Listed,
    list: GarbageList,
}

/// Returns the chunks of all garbage lists.
pub(crate) async fn listed_chunks(objects: &Objects) -> Result<HashSet<ChunkName>> {
    let lists = read_lists(objects).await?;
    Ok(lists.into_iter().flat_map(|found| found.list.chunks).collect())
}

async fn read_lists(objects: &Objects) -> Result<Vec<FoundList>> {
    let listed: Vec<Listed> = objects.store.list(GARBAGE).take(MAX_LISTS + 1).try_collect().await?;
    if listed.len() > MAX_LISTS {
        let what = format!("there are more than {MAX_LISTS} garbage lists");
        return Err(Error::damaged(what));
    }
    let mut lists = Vec::new();
    for object in listed {
        // A list that was removed meanwhile is one whose chunks were deleted long ago.
        if let Some(list) = objects.get_garbage_list(&object.name).await? {
            lists.push(FoundList { object, list });
        }
    }
    Ok(lists)
}

/// Collects garbage within half of the grace period.
pub(crate) async fn collect(
    objects: &Objects,
    referenced: &HashSet<TreeId>,
    grace: Duration,
    limit: Duration,
) -> Result<Collected> {
    let collected = tokio::time::timeout(limit, collect_all(objects, referenced, grace)).await;
    collected.unwrap_or(Err(Error::TooSlow { what: "the garbage collection", limit }))
}

async fn collect_all(
    objects: &Objects,
    referenced: &HashSet<TreeId>,
    grace: Duration,
) -> Result<Collected> {
    let grace_ms = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
    // Older than the grace period, by the store's clock before anything is listed.
    let limit_ms = objects.store.now_ms().await?.saturating_sub(grace_ms);
    let mut collected = Collected::default();
    delete_trees(objects, referenced, limit_ms, &mut collected).await?;
    let lists = read_lists(objects).await?;
    let used = used_chunks(objects).await?;
    let found = find_unused(objects, &used, &lists, limit_ms).await?;
    for mut list in lists {
        if list.object.modified_ms >= limit_ms {
            continue;
        }
        if list.list.swept {
            objects.store.delete(&list.object.name).await?;
            continue;
        }
        sweep(objects, &list.list, &found.listed, &mut collected).await?;
        list.list.swept = true;
        objects.put_garbage_list(&list.object.name, &list.list).await?;
    }
    for chunks in found.unmarked.chunks(MAX_LISTED_CHUNKS) {
        let name = format!("{GARBAGE}/{}", random_name()?);
        objects.put_garbage_list(&name, &GarbageList::new(chunks.to_vec())).await?;
        collected.marked += chunks.len() as u64;
    }
    delete_leftovers(objects, limit_ms).await?;
    Ok(collected)
}

async fn delete_trees(
    objects: &Objects,
    referenced: &HashSet<TreeId>,
    limit_ms: i64,
    collected: &mut Collected,
) -> Result<()> {
    let unreferenced = objects
        .list_trees()
        .try_filter(|(id, object)| {
            std::future::ready(!referenced.contains(id) && object.modified_ms < limit_ms)
        })
        .try_chunks(1000);
    let mut unreferenced = std::pin::pin!(unreferenced);
    while let Some(trees) = unreferenced.next().await {
        let trees = trees.map_err(|error| error.1)?;
        collected.trees += trees.len() as u64;
        collected.bytes += trees.iter().map(|(_, object)| object.bytes).sum::<u64>();
        let names = trees.into_iter().map(|(_, object)| object.name).collect();
        objects.store.delete_all(names).await?;
    }
    Ok(())
}

/// Returns the chunks of all trees. Fails if a tree cannot be read, since its chunks are not
/// known then.
async fn used_chunks(objects: &Objects) -> Result<HashSet<ChunkName>> {
    let trees: Vec<TreeId> =
        objects.list_trees().map_ok(|(id, _)| id).take(MAX_TREES + 1).try_collect().await?;
    if trees.len() > MAX_TREES {
        let why = format!("it has more than {MAX_TREES} trees");
        return Err(Error::Unavailable { why, retry: false });
    }
    let mut used = HashSet::new();
    let read =
        stream::iter(trees).map(|id| objects.get_tree(id)).buffer_unordered(CONCURRENT_READS);
    let mut read = std::pin::pin!(read);
    while let Some(tree) = read.next().await {
        // A tree that was deleted meanwhile uses nothing.
        used.extend(tree?.iter().flat_map(|tree| tree.chunks()));
    }
    Ok(used)
}

/// The chunks that no tree uses.
struct Unused {
    /// Those of garbage lists, with their sizes.
    listed: Vec<(ChunkName, u64)>,
    /// Those that are old, and on no garbage list yet.
    unmarked: Vec<ChunkName>,
}

async fn find_unused(
    objects: &Objects,
    used: &HashSet<ChunkName>,
    lists: &[FoundList],
    limit_ms: i64,
) -> Result<Unused> {
    let marked: HashSet<ChunkName> =
        lists.iter().flat_map(|found| found.list.chunks.iter().copied()).collect();
    // The others are marked in a later run.
    let max_unmarked = ENOUGH_LISTS.saturating_sub(lists.len()) * MAX_LISTED_CHUNKS;
    let mut unused = Unused { listed: Vec::new(), unmarked: Vec::new() };
    let mut listed = std::pin::pin!(objects.store.list(CHUNKS));
    while let Some(object) = listed.next().await {
        let object = object?;
        let Some(name) = objects::parse_chunk_object(&object.name) else { continue };
        if used.contains(&name) {
            continue;
        }
        if marked.contains(&name) {
            unused.listed.push((name, object.bytes));
        } else if object.modified_ms < limit_ms && unused.unmarked.len() < max_unmarked {
            unused.unmarked.push(name);
        }
    }
    Ok(unused)
}

/// Deletes the chunks of a list that no tree uses.
async fn sweep(
    objects: &Objects,
    list: &GarbageList,
    unused: &[(ChunkName, u64)],
    collected: &mut Collected,
) -> Result<()> {
    let marked: HashSet<&ChunkName> = list.chunks.iter().collect();
    let unused: Vec<_> = unused.iter().filter(|(name, _)| marked.contains(name)).collect();
    for chunks in unused.chunks(1000) {
        let names = chunks.iter().map(|(name, _)| objects::chunk_object(*name)).collect();
        objects.store.delete_all(names).await?;
        collected.chunks += chunks.len() as u64;
        collected.bytes += chunks.iter().map(|(_, bytes)| bytes).sum::<u64>();
    }
    Ok(())
}

/// Deletes objects that exist for the duration of a request, if a process was killed then.
async fn delete_leftovers(objects: &Objects, limit_ms: i64) -> Result<()> {
    for directory in ["clock", "check"] {
        let old = objects
            .store
            .list(directory)
            .try_filter(|object| std::future::ready(object.modified_ms < limit_ms))
            .map_ok(|object| object.name)
            .take(1000);
        objects.store.delete_all(old.try_collect().await?).await?;
    }
    Ok(())
}
