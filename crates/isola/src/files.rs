//! The implementation of `wasi:filesystem`, over the private files of a sandbox and the
//! directories that are mounted over them, within the permissions of their mounts.
//!
//! The functions are in `interface`, the private files, which are in memory, in `private`.
//! For the mounts wasmtime's own implementation is not used: it reads all entries of a
//! directory when a guest starts to read it, runs on threads whose CPU time is not
//! charged, blocks when it opens a pipe until a writer opens it, and has only read-only
//! and writable mounts. Paths are resolved beneath the mounted directory, link by link, by
//! `cap-primitives`, as in wasmtime's implementation.
//!
//! - A [`Mount`] has separate permissions for directories and for the content of
//!   files, each for reading and for writing. An opened file has the rights of the
//!   mount that it was opened below.
//! - Every operation on a mount runs on a [`Worker`]: one at a time, charged to the call.
//! - Only regular files and directories are opened.
//! - A directory is read in parts (`directory`); the buffers of streams (`work`)
//!   and the open descriptors (`descriptors`) are counted.

use std::{collections::HashMap, fs::File, io, sync::Arc};

use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::{
    filesystem::Descriptor,
    p2::{
        FsResult,
        bindings::filesystem::types::{ErrorCode, NewTimestamp, PathFlags},
    },
};

pub use self::private::embedder::{FileEntry, FileKind, FileStat, SandboxFiles};
pub(crate) use self::private::{PrivateFiles, PrivateHandle, Tree, format};
use self::{
    descriptors::{DescriptorPermit, DescriptorQuota},
    errors::{PendingError, denied, outcome},
    host::Times,
    private::{Found, PathEntry},
    work::Worker,
};
use crate::{
    cpu::CpuClock,
    error::Error,
    mount::{Mount, Permission},
};

mod calls;
mod descriptors;
mod directory;
mod errors;
mod host;
mod interface;
mod private;
mod streams;
mod work;

/// The maximum number of characters of a name that is kept for messages.
const MAX_NAME_CHARS: usize = 256;

/// The size in bytes that a path or a link's target must stay below, as on Linux.
const MAX_PATH_BYTES: usize = 4_096;

/// The private files and mounts of a guest, and the files that it has open.
pub(crate) struct GuestFiles {
    private: PrivateFiles,
    mounts: Vec<(String, Handle)>,
    /// The paths of the files that the guest opened, by descriptor.
    names: HashMap<u32, String>,
    /// The open root and mounted directories, by descriptor: libc opens all of them.
    directories: HashMap<u32, String>,
    descriptors: DescriptorQuota,
    worker: Worker,
}

impl GuestFiles {
    /// Opens the mounted directories. `max_buffers` is in bytes.
    pub(crate) fn open(
        private: PrivateFiles,
        mounts: &[Mount],
        cpu: Arc<CpuClock>,
        max_buffers: usize,
    ) -> Result<Self, Error> {
        let mut opened = Vec::with_capacity(mounts.len());
        for (index, mount) in mounts.iter().enumerate() {
            mount.validate()?;
            let file = mount.open().map_err(|error| {
                Error::InvalidArgument(format!("mount of {:?}: {error}", mount.host))
            })?;
            let rights = Rights { mount: index, dirs: mount.dirs, files: mount.files };
            let open = Arc::new(OpenFile::new(file, None));
            let (reads, writes) = (true, false);
            let handle = Handle { open, directory: true, root: true, reads, writes, rights };
            private.mount(&mount.guest, index).map_err(|failure| {
                let path = &mount.guest;
                Error::InvalidArgument(format!("cannot mount a directory at {path}: {failure}"))
            })?;
            opened.push((mount.guest.clone(), handle));
        }
        Ok(Self {
            private,
            mounts: opened,
            names: HashMap::new(),
            directories: HashMap::new(),
            descriptors: DescriptorQuota::default(),
            worker: Worker::new(cpu, max_buffers),
        })
    }

    /// Returns the private files.
    pub(crate) fn private(&self) -> &PrivateFiles {
        &self.private
    }

    /// Returns the paths of the files that the guest opened itself, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        sorted(&self.names)
    }

    /// Returns the paths of the open mounted directories, sorted.
    pub(crate) fn directories(&self) -> Vec<String> {
        sorted(&self.directories)
    }
}

fn sorted(names: &HashMap<u32, String>) -> Vec<String> {
    let mut names: Vec<_> = names.values().cloned().collect();
    names.sort();
    names
}

/// The rights below one mount.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Rights {
    /// The index of the mount: an entry cannot be moved to another mount.
    mount: usize,
    dirs: Permission,
    files: Permission,
}

/// An open file of the host.
struct OpenFile {
    file: File,
    pending_error: PendingError,
    /// The permit for the descriptor; `None` for a mounted directory, which the
    /// embedder opened.
    _permit: Option<DescriptorPermit>,
}

impl OpenFile {
    fn new(file: File, permit: Option<DescriptorPermit>) -> Self {
        Self { file, pending_error: PendingError::default(), _permit: permit }
    }
}

/// A descriptor of the guest.
#[derive(Clone)]
pub(crate) struct Handle {
    open: Arc<OpenFile>,
    directory: bool,
    /// It is the mounted directory itself, not an entry below it.
    root: bool,
    /// The access that a file was opened for.
    reads: bool,
    writes: bool,
    rights: Rights,
}

impl Handle {
    fn directory(self) -> FsResult<Self> {
        if self.directory { Ok(self) } else { Err(ErrorCode::NotDirectory.into()) }
    }

    fn file(self) -> FsResult<Self> {
        if self.directory { Err(ErrorCode::BadDescriptor.into()) } else { Ok(self) }
    }

    /// Returns the handle if it is a directory whose entries may be changed.
    fn changeable_directory(self) -> FsResult<Self> {
        let writes = self.rights.dirs.writes();
        if writes { self.directory() } else { Err(denied()) }
    }

    /// Returns the handle if the files of its mount may be changed.
    fn with_changeable_files(self) -> FsResult<Self> {
        if self.rights.files.writes() { Ok(self) } else { Err(denied()) }
    }

    /// Returns the handle if it is a file that was opened for reading.
    fn readable(self) -> FsResult<Self> {
        if self.directory {
            return Err(ErrorCode::IsDirectory.into());
        }
        match (self.reads, self.rights.files.reads()) {
            (true, true) => Ok(self),
            (false, _) => Err(ErrorCode::BadDescriptor.into()),
            (true, false) => Err(denied()),
        }
    }

    /// Returns the handle if it is a file that was opened for writing.
    fn writable(self) -> FsResult<Self> {
        let handle = self.file()?;
        match (handle.writes, handle.rights.files.writes()) {
            (true, true) => Ok(handle),
            (false, true) => Err(ErrorCode::BadDescriptor.into()),
            (_, false) => Err(denied()),
        }
    }
}

/// The file system of one guest.
pub(crate) struct Files<'a> {
    pub(crate) table: &'a mut ResourceTable,
    pub(crate) files: &'a mut GuestFiles,
}

/// A descriptor: of a file or directory of a mount, or a private one.
enum Node {
    Mounted(Handle),
    Private(PrivateHandle),
}

/// Where a path leads: to a directory of a mount and the rest of the path from there, or
/// to a private entry, which may not exist.
enum Target {
    Mounted(Handle, String),
    Private(PathEntry),
}

impl Files<'_> {
    fn node(&self, fd: &Resource<Descriptor>) -> FsResult<Node> {
        let private = self.table.get(&Resource::<PrivateHandle>::new_borrow(fd.rep()));
        if let Ok(private) = private {
            return Ok(Node::Private(private.clone()));
        }
        let handle = self.table.get(&Resource::<Handle>::new_borrow(fd.rep()))?;
        Ok(Node::Mounted(handle.clone()))
    }

    /// Follows a path until it is in a mount, or to its last component. `follow` decides
    /// whether that is followed if it is a private symbolic link.
    fn follow(&self, fd: &Resource<Descriptor>, path: String, follow: bool) -> FsResult<Target> {
        let path = check_length(path)?;
        let start = match self.node(fd)? {
            Node::Private(handle) => handle.directory_only()?.open.ino,
            Node::Mounted(handle) => match self.above(&handle, &path) {
                Some(directory) => directory,
                None => return Ok(Target::Mounted(handle, path)),
            },
        };
        Ok(match self.files.private.follow(start, &path, follow)? {
            Found::Entry(entry) => Target::Private(entry),
            Found::Mounted(mount, rest) => Target::Mounted(self.mount(mount)?, rest),
        })
    }

    /// Returns the private directory under a mount, if a path from the mounted directory
    /// leaves the mount. In any other directory of a mount the file system resolves `..`,
    /// within the mount.
    fn above(&self, handle: &Handle, path: &str) -> Option<u32> {
        let leaves = path.split('/').find(|name| !matches!(*name, "" | ".")) == Some("..");
        let mount = Some(handle.rights.mount).filter(|_| handle.root && leaves)?;
        self.files.private.mount_point(mount)
    }

    /// Returns the ends of a rename or a link of which one is in a mount at least: the
    /// other must be in the same.
    async fn ends_in_mount(&mut self, from: Target, to: Target) -> FsResult<[(Handle, String); 2]> {
        let (from, old_path) = match from {
            Target::Mounted(from, path) => (self.changeable(from, &path, None).await?, path),
            Target::Private(entry) => {
                entry.inode()?;
                self.files.private.check_writable()?;
                return Err(ErrorCode::CrossDevice.into());
            }
        };
        match to {
            Target::Mounted(to, new_path) => {
                let to = same_mount(&from, to)?;
                Ok([(from, old_path), (to, new_path)])
            }
            Target::Private(_) => {
                self.files.private.check_writable()?;
                Err(ErrorCode::CrossDevice.into())
            }
        }
    }

    fn mount(&self, index: usize) -> FsResult<Handle> {
        let mount = self.files.mounts.get(index).ok_or(ErrorCode::NoEntry)?;
        Ok(mount.1.clone())
    }

    fn push(&mut self, handle: Handle) -> FsResult<Resource<Descriptor>> {
        Ok(Resource::new_own(self.table.push(handle)?.rep()))
    }

    /// Returns the name of the entry at a path, for messages.
    fn name(&self, fd: &Resource<Descriptor>, path: &str) -> String {
        let parent =
            self.files.names.get(&fd.rep()).or_else(|| self.files.directories.get(&fd.rep()));
        let parent = parent.map_or("", String::as_str).trim_end_matches('/');
        format!("{parent}/{path}").chars().take(MAX_NAME_CHARS).collect()
    }

    /// Runs an operation on a handle.
    fn on<T: Send + 'static, O>(
        &self,
        handle: Handle,
        operation: O,
    ) -> impl Future<Output = FsResult<T>> + Send + 'static + use<T, O>
    where
        O: FnOnce(&File) -> io::Result<T> + Send + 'static,
    {
        let worker = self.files.worker.clone();
        async move { outcome(worker.run(move || operation(&handle.open.file)).await) }
    }

    /// Runs an operation on a handle; for a directory, on a new descriptor that is
    /// opened for reading.
    fn on_opened<T: Send + 'static, O>(
        &self,
        handle: Handle,
        operation: O,
    ) -> impl Future<Output = FsResult<T>> + Send + 'static + use<T, O>
    where
        O: FnOnce(&File) -> io::Result<T> + Send + 'static,
    {
        let directory = handle.directory;
        self.on(handle, move |file| {
            if directory { operation(&host::open_directory(file, ".")?) } else { operation(file) }
        })
    }

    /// Checks that an entry of a directory may be changed.
    ///
    /// As on Linux, the error for a missing entry, or for an existing one that is
    /// to be created (`exists`), takes precedence over the error for a missing
    /// permission. So `unlink(missing_ok=True)` and `mkdir(exist_ok=True)` work in
    /// all mounts.
    fn changeable(
        &self,
        parent: Handle,
        path: &str,
        exists: Option<ErrorCode>,
    ) -> impl Future<Output = FsResult<Handle>> + Send + 'static + use<> {
        let writes = parent.rights.dirs.writes();
        let start = parent.clone();
        let path = path.to_owned();
        let found = self.on(start, move |parent| host::stat_at(parent, &path, false));
        async move {
            let parent = parent.directory()?;
            if writes {
                return Ok(parent);
            }
            Err(match (found.await, exists) {
                (Ok(_), Some(exists)) => exists.into(),
                (Err(error), None) => error,
                _ => denied(),
            })
        }
    }
}

/// Checks that both ends of a rename or a link are in the same mount. Otherwise a
/// file could gain rights that it did not have.
fn same_mount(from: &Handle, to: Handle) -> FsResult<Handle> {
    let to = to.changeable_directory()?;
    if from.rights == to.rights { Ok(to) } else { Err(ErrorCode::CrossDevice.into()) }
}

fn check_length(path: String) -> FsResult<String> {
    if path.len() < MAX_PATH_BYTES { Ok(path) } else { Err(ErrorCode::NameTooLong.into()) }
}

fn follows_links(flags: PathFlags) -> bool {
    flags.contains(PathFlags::SYMLINK_FOLLOW)
}

fn times(accessed: NewTimestamp, modified: NewTimestamp) -> FsResult<Times> {
    let time = |time| match time {
        NewTimestamp::NoChange => Ok(None),
        NewTimestamp::Now => Ok(Some(std::time::SystemTime::now())),
        NewTimestamp::Timestamp(time) => host::system_time(time).map(Some),
    };
    Ok(Times { accessed: time(accessed)?, modified: time(modified)? })
}
