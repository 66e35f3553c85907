//! The files of a sandbox of its own: a tree in memory that no other sandbox sees.
//!
//! ```text
//!  wasi:filesystem ─▶ Files ─┬▶ PrivateFiles ─▶ resolve ─▶ Tree ─▶ Inode ─▶ Content
//!  the embedder ─▶ SandboxFiles ┘   (one lock)                       └────▶ Budget
//! ```
//!
//! - [`Tree`] has the semantics of a file system on Linux: links, renaming, files that are
//!   removed while they are open. Its operations take no time but that of copying bytes, so
//!   they run where the guest runs, and count as its CPU time.
//! - [`Budget`](budget::Budget) counts everything that the tree takes, including empty files
//!   and names.
//! - A copy of a tree shares its content until one of both changes it; so forks and
//!   snapshots of sandboxes cost nothing. `format` stores a tree in a snapshot on disk.
//! - Mounts lie over directories of the tree: `resolve` ends where a path enters one.
//!   Without private files the tree consists of the directories that lead to the mounts,
//!   and cannot be changed.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use wasmtime_wasi::p2::{FsResult, bindings::filesystem::types::DirectoryEntry};

use self::{inode::Ino, resolve::MountPoints, tree::ROOT};
pub(crate) use self::{
    resolve::{Found, PathEntry},
    tree::{HOME, Tree},
};
use super::{
    descriptors::DescriptorPermit,
    errors::{PendingError, denied},
};
use crate::file_failure::FileFailure;

mod budget;
mod content;
pub(super) mod embedder;
pub(crate) mod format;
mod inode;
pub(super) mod operations;
mod resolve;
pub(super) mod streams;
mod tree;

/// The private files of one sandbox. Cloning returns another reference to them.
#[derive(Clone)]
pub(crate) struct PrivateFiles(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// The guest may change them.
    writable: bool,
}

/// The tree, and what lies over it.
pub(super) struct State {
    pub(super) tree: Tree,
    mounts: MountPoints,
}

impl PrivateFiles {
    /// Creates the files of a sandbox: those of a state, or of a new sandbox, with at most
    /// `max` bytes. With a maximum of 0 there is nothing but the directories that lead to
    /// the mounts.
    pub(crate) fn new(state: Option<&Tree>, max: u64) -> Self {
        let now = SystemTime::now();
        let tree = match state {
            // The directories that lead to the mounts.
            _ if max == 0 => Tree::empty(now, u64::MAX),
            Some(state) => state.clone().limited(max),
            None => Tree::new().limited(max),
        };
        let state = State { tree, mounts: MountPoints::new() };
        Self(Arc::new(Shared { state: Mutex::new(state), writable: max > 0 }))
    }

    /// Returns a copy of the tree; `None` if the sandbox has no private files.
    pub(crate) fn copy(&self) -> Option<Tree> {
        self.0.writable.then(|| self.lock().tree.clone())
    }

    /// Removes all files, of which the sandbox's owner has no more use. A guest that has
    /// not stopped yet cannot add any.
    pub(crate) fn clear(&self) {
        self.lock().tree = Tree::empty(SystemTime::now(), 0);
    }

    /// Places a mount over a directory, which is created if it does not exist.
    pub(super) fn mount(&self, path: &str, index: usize) -> Result<(), FileFailure> {
        let (mut state, now) = (self.lock(), SystemTime::now());
        let mut at = ROOT;
        for name in path.split('/').filter(|name| !matches!(*name, "" | ".")) {
            at = match state.tree.child(at, name)? {
                Some(ino) => ino,
                None => state.tree.add_directory(at, name, now)?,
            };
        }
        state.tree.directory(at)?;
        state.mounts.insert(at, index);
        Ok(())
    }

    /// Returns the directory over which a mount lies.
    pub(super) fn mount_point(&self, index: usize) -> Option<Ino> {
        let state = self.lock();
        state.mounts.iter().find(|(_, mount)| **mount == index).map(|(ino, _)| *ino)
    }

    /// Follows a path from a directory.
    pub(super) fn follow(
        &self,
        start: Ino,
        path: &str,
        follow: bool,
    ) -> Result<Found, FileFailure> {
        let state = self.lock();
        resolve::resolve(&state.tree, &state.mounts, start, path, follow)
    }

    /// Returns an error unless the files may be changed.
    pub(super) fn check_writable(&self) -> FsResult<()> {
        if self.0.writable { Ok(()) } else { Err(denied()) }
    }

    /// Opens an inode. The descriptor keeps it, also if it is removed.
    pub(super) fn open(
        &self,
        ino: Ino,
        permit: Option<DescriptorPermit>,
    ) -> Result<Arc<OpenInode>, FileFailure> {
        self.lock().tree.open(ino)?;
        let (files, pending_error) = (self.clone(), PendingError::default());
        Ok(Arc::new(OpenInode { files, ino, pending_error, _permit: permit }))
    }

    /// Opens the root directory.
    pub(super) fn open_root(&self) -> Result<PrivateHandle, FileFailure> {
        let open = self.open(ROOT, None)?;
        Ok(PrivateHandle { open, directory: true, reads: true, writes: false })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Reports whether a mount lies over a directory or over one below it.
    fn has_mount_below(&self, ino: Ino) -> bool {
        self.mounts.keys().any(|mount| self.tree.is_below(*mount, ino).unwrap_or(false))
    }
}

/// An open inode.
pub(super) struct OpenInode {
    pub(super) files: PrivateFiles,
    pub(super) ino: Ino,
    pub(super) pending_error: PendingError,
    _permit: Option<DescriptorPermit>,
}

impl Drop for OpenInode {
    fn drop(&mut self) {
        self.files.lock().tree.close(self.ino);
    }
}

/// A descriptor of the guest in its private tree.
#[derive(Clone)]
pub(crate) struct PrivateHandle {
    pub(super) open: Arc<OpenInode>,
    pub(super) directory: bool,
    /// The access that a file was opened for.
    pub(super) reads: bool,
    pub(super) writes: bool,
}

/// A directory that is being read: the position is a name, so that nothing else is held.
pub(super) struct PrivateDirectory {
    open: Arc<OpenInode>,
    last: Option<String>,
}

impl PrivateDirectory {
    pub(super) fn new(open: Arc<OpenInode>) -> Self {
        Self { open, last: None }
    }

    pub(super) fn next(&mut self) -> Result<Option<DirectoryEntry>, FileFailure> {
        let state = self.open.files.lock();
        let next = state.tree.next_entry(self.open.ino, self.last.as_deref())?;
        let Some((name, ino)) = next else { return Ok(None) };
        let type_ = operations::descriptor_type(state.tree.inode(ino)?);
        drop(state);
        self.last = Some(name.clone());
        Ok(Some(DirectoryEntry { type_, name }))
    }
}
