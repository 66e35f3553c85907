//! The trees of a cache: which are complete, in use, and used last.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Mutex as AsyncMutex;

use crate::error::{Error, Result};
use crate::id::TreeId;
use crate::store::random_name;

/// The trees of a cache.
pub(super) struct Entries {
    trees: PathBuf,
    tmp: PathBuf,
    max_bytes: u64,
    state: Mutex<State>,
    /// The lock of the cache, which is held while a tree is in use.
    _lock: File,
}

#[derive(Default)]
struct State {
    entries: HashMap<TreeId, Entry>,
    /// The disk space of the complete trees and of those that are being written.
    bytes: u64,
    /// Counts the uses.
    clock: u64,
}

struct Entry {
    attempts: Arc<Attempts>,
    content: Content,
    /// The number of pins.
    pins: usize,
    last_use: u64,
}

/// What the disk has of a tree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Nothing,
    /// Was found at the start.
    Unverified {
        bytes: u64,
    },
    Ready {
        bytes: u64,
    },
}

impl Content {
    fn bytes(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Unverified { bytes } | Self::Ready { bytes } => bytes,
        }
    }
}

/// The attempts to provide a tree, one at a time.
#[derive(Default)]
pub(super) struct Attempts {
    /// The number of attempts that were not cancelled.
    finished: AtomicU64,
    /// Held during an attempt; the error of the last one.
    turn: AsyncMutex<Option<Error>>,
}

impl Attempts {
    pub(super) fn finished(&self) -> u64 {
        self.finished.load(Ordering::Acquire)
    }

    pub(super) fn finish(&self) {
        self.finished.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, Option<Error>> {
        self.turn.lock().await
    }
}

/// Prevents that a tree is removed.
pub(super) struct Pin {
    entries: Arc<Entries>,
    id: TreeId,
}

/// Disk space for a tree that is being written.
pub(super) struct Reservation {
    entries: Arc<Entries>,
    bytes: u64,
}

impl Entries {
    pub(super) fn new(trees: PathBuf, tmp: PathBuf, max_bytes: u64, lock: File) -> Arc<Self> {
        Arc::new(Self { trees, tmp, max_bytes, state: Mutex::default(), _lock: lock })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a tree that was found on the disk, the least recently used first.
    pub(super) fn add(&self, id: TreeId, bytes: u64) {
        let mut state = self.lock();
        let entry = state.use_entry(id);
        entry.content = Content::Unverified { bytes };
        state.bytes += bytes;
    }

    pub(super) fn pin(self: &Arc<Self>, id: TreeId) -> Pin {
        self.lock().use_entry(id).pins += 1;
        Pin { entries: self.clone(), id }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Removes the least recently used trees while there are too many bytes, with those that
    /// are reserved.
    pub(super) fn evict(&self) {
        // In a statement of its own, so that the lock is released before the removal.
        loop {
            let victim = self.lock().next_victim(self.max_bytes);
            let Some(id) = victim else { break };
            if let Err(error) = self.forget(id) {
                tracing::warn!(%error, %id, "cannot remove a tree from the cache");
                break;
            }
        }
    }

    /// Removes a tree unless it is in use.
    pub(super) fn forget(&self, id: TreeId) -> Result<()> {
        let mut state = self.lock();
        if state.entries.get(&id).is_none_or(|entry| entry.pins > 0) {
            return Ok(());
        }
        let moved = self.move_away(id)?;
        if let Some(entry) = state.entries.remove(&id) {
            state.bytes -= entry.content.bytes();
        }
        drop(state);
        remove(moved)
    }

    /// Removes the files of a tree that is in use but not ready.
    pub(super) fn remove_content(&self, id: TreeId) -> Result<()> {
        let mut state = self.lock();
        let moved = self.move_away(id)?;
        if let Some(entry) = state.entries.get_mut(&id) {
            let bytes = std::mem::replace(&mut entry.content, Content::Nothing).bytes();
            state.bytes -= bytes;
        }
        drop(state);
        remove(moved)
    }

    /// Renames the directory of a tree to one that the next start removes.
    fn move_away(&self, id: TreeId) -> Result<Option<PathBuf>> {
        let path = self.trees.join(id.to_string());
        let target = self.tmp.join(format!("removed-{}", random_name()?));
        match fs::rename(&path, &target) {
            Ok(()) => Ok(Some(target)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::disk("remove a tree from the cache", path)(error)),
        }
    }
}

fn remove(moved: Option<PathBuf>) -> Result<()> {
    let Some(path) = moved else { return Ok(()) };
    fs::remove_dir_all(&path).map_err(Error::disk("remove a tree from the cache", path))
}

impl State {
    /// Returns the entry of a tree, which is the most recently used one now.
    fn use_entry(&mut self, id: TreeId) -> &mut Entry {
        self.clock += 1;
        let entry = self.entries.entry(id).or_insert_with(|| Entry {
            attempts: Arc::default(),
            content: Content::Nothing,
            pins: 0,
            last_use: 0,
        });
        entry.last_use = self.clock;
        entry
    }

    /// Returns the tree to remove if there are more bytes than allowed.
    fn next_victim(&self, max_bytes: u64) -> Option<TreeId> {
        if self.bytes <= max_bytes {
            return None;
        }
        let unused = self.entries.iter().filter(|(_, entry)| entry.pins == 0);
        unused.min_by_key(|(_, entry)| entry.last_use).map(|(id, _)| *id)
    }
}

impl Pin {
    fn content(&self) -> Content {
        self.entries.lock().entries.get(&self.id).map_or(Content::Nothing, |entry| entry.content)
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.content(), Content::Ready { .. })
    }

    pub(super) fn has_unverified(&self) -> bool {
        matches!(self.content(), Content::Unverified { .. })
    }

    /// Records that a tree is verified, or was written with so many bytes.
    pub(super) fn set_ready(&self, written: Option<u64>) {
        let mut state = self.entries.lock();
        let Some(entry) = state.entries.get_mut(&self.id) else { return };
        let before = entry.content.bytes();
        let bytes = written.unwrap_or(before);
        entry.content = Content::Ready { bytes };
        state.bytes = state.bytes - before + bytes;
    }

    pub(super) fn attempts(&self) -> Arc<Attempts> {
        self.entries.lock().use_entry(self.id).attempts.clone()
    }

    /// Reserves disk space.
    pub(super) fn reserve(&self, bytes: u64) -> Reservation {
        self.entries.lock().bytes += bytes;
        Reservation { entries: self.entries.clone(), bytes }
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pin").field(&self.id).finish()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.entries.lock();
        let Some(entry) = state.entries.get_mut(&self.id) else { return };
        entry.pins -= 1;
        if entry.pins == 0 && entry.content == Content::Nothing {
            state.entries.remove(&self.id);
        }
        let is_full = state.bytes > self.entries.max_bytes;
        drop(state);
        if !is_full {
            return;
        }
        // Removing many bytes takes a while.
        let entries = self.entries.clone();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || entries.evict())),
            Err(_) => entries.evict(),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.entries.lock().bytes -= self.bytes;
    }
}
