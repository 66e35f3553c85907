//! The implementation of `wasi:filesystem` over the mounted directories, within
//! the permissions of their mounts.
//!
//! wasmtime's own implementation is not used: it reads all entries of a directory
//! when a guest starts to read it, runs on threads whose CPU time is not charged,
//! blocks when it opens a pipe until a writer opens it, and has only read-only
//! and writable mounts. Paths are resolved beneath the mounted directory, link by
//! link, by `cap-primitives`, as in wasmtime's implementation.
//!
//! - A [`Mount`] has separate permissions for directories and for the content of
//!   files, each for reading and for writing. An opened file has the rights of the
//!   mount that it was opened below.
//! - Every operation runs on a [`Worker`]: one at a time, charged to the call.
//! - Only regular files and directories are opened.
//! - The directories above the mounts, including `/`, are virtual (`tree`).
//! - A directory is read in parts (`directory`); the buffers of streams (`work`)
//!   and the open descriptors (`descriptors`) are counted.

use std::{collections::HashMap, fs::File, io, sync::Arc};

use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::{
    filesystem::Descriptor,
    p2::{
        DynInputStream, DynOutputStream, FsError, FsResult,
        bindings::filesystem::{
            preopens,
            types::{self, DescriptorFlags, ErrorCode, NewTimestamp, OpenFlags, PathFlags},
        },
    },
};

pub(crate) use self::tree::VirtualDir;
use self::{
    descriptors::{DescriptorPermit, DescriptorQuota},
    directory::{DirectoryReader, DirectoryStream},
    errors::{denied, outcome, too_many_open},
    host::{OpenHow, Position, Times},
    tree::{Node, Target, Tree},
    work::Worker,
};
use crate::{
    cpu::CpuClock,
    error::Error,
    mount::{Mount, Permission},
};

mod descriptors;
mod directory;
mod errors;
mod host;
mod streams;
mod tree;
mod work;

/// The maximum number of characters of a name that is kept for messages.
const MAX_NAME_CHARS: usize = 256;

/// The size in bytes that a path or a link's target must stay below, as on Linux.
const MAX_PATH_BYTES: usize = 4_096;

/// The mounts of a guest, and the files that it has open below them.
pub(crate) struct MountedFiles {
    mounts: Vec<(String, Handle)>,
    tree: Tree,
    /// The paths of the files that the guest opened, by descriptor.
    names: HashMap<u32, String>,
    /// The open mounted directories, by descriptor: libc opens all of them.
    directories: HashMap<u32, String>,
    descriptors: DescriptorQuota,
    worker: Worker,
}

impl MountedFiles {
    /// Opens the mounted directories. `max_buffers` is in bytes.
    pub(crate) fn open(
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
            let open = Arc::new(OpenFile { file, _permit: None });
            let (reads, writes) = (true, false);
            let handle = Handle { open, directory: true, root: true, reads, writes, rights };
            opened.push((mount.guest.clone(), handle));
        }
        Ok(Self {
            tree: Tree::new(opened.iter().map(|(path, handle)| (path.as_str(), handle))),
            mounts: opened,
            names: HashMap::new(),
            directories: HashMap::new(),
            descriptors: DescriptorQuota::default(),
            worker: Worker::new(cpu, max_buffers),
        })
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
    /// The permit for the descriptor; `None` for a mounted directory, which the
    /// embedder opened.
    _permit: Option<DescriptorPermit>,
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
    pub(crate) mounted: &'a mut MountedFiles,
}

impl Files<'_> {
    fn node(&self, fd: &Resource<Descriptor>) -> FsResult<Node> {
        let virtual_dir = self.table.get(&Resource::<VirtualDir>::new_borrow(fd.rep()));
        if let Ok(virtual_dir) = virtual_dir {
            return Ok(Node::Virtual(virtual_dir.clone()));
        }
        let handle = self.table.get(&Resource::<Handle>::new_borrow(fd.rep()))?;
        Ok(Node::Mounted(handle.clone()))
    }

    /// Returns the handle of a descriptor in a mount. A virtual directory is an
    /// error: the caller's operation applies to files.
    fn handle(&self, fd: &Resource<Descriptor>) -> FsResult<Handle> {
        match self.node(fd)? {
            Node::Mounted(handle) => Ok(handle),
            Node::Virtual(_) => Err(ErrorCode::IsDirectory.into()),
        }
    }

    /// Follows a path until it is in a mount.
    fn follow(&self, fd: &Resource<Descriptor>, path: String) -> FsResult<Target> {
        let node = self.node(fd)?;
        Ok(self.mounted.tree.follow(node, &check_length(path)?))
    }

    /// Follows the path of an entry that is to be changed.
    fn entry(&self, fd: &Resource<Descriptor>, path: String) -> FsResult<(Handle, String)> {
        match self.follow(fd, path)? {
            Target::Mounted(handle, path) => Ok((handle, path)),
            Target::Missing { .. } => Err(ErrorCode::NoEntry.into()),
            Target::Virtual(_) => Err(denied()),
        }
    }

    /// Follows the path of an entry that is to be created.
    fn new_entry(&self, fd: &Resource<Descriptor>, path: String) -> FsResult<(Handle, String)> {
        match self.follow(fd, path)? {
            Target::Mounted(handle, path) => Ok((handle, path)),
            Target::Missing { last: true } => Err(denied()),
            Target::Missing { last: false } => Err(ErrorCode::NoEntry.into()),
            Target::Virtual(_) => Err(ErrorCode::Exist.into()),
        }
    }

    fn push(&mut self, handle: Handle) -> FsResult<Resource<Descriptor>> {
        Ok(Resource::new_own(self.table.push(handle)?.rep()))
    }

    /// Returns the name of the entry at a path, for messages.
    fn name(&self, fd: &Resource<Descriptor>, path: &str) -> String {
        let parent =
            self.mounted.names.get(&fd.rep()).or_else(|| self.mounted.directories.get(&fd.rep()));
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
        let worker = self.mounted.worker.clone();
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

impl preopens::Host for Files<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let mut directories = Vec::with_capacity(self.mounted.mounts.len());
        for (name, handle) in &self.mounted.mounts {
            let rep = self.table.push(handle.clone())?.rep();
            self.mounted.directories.insert(rep, name.clone());
            directories.push((Resource::new_own(rep), name.clone()));
        }
        let root = self.table.push(Tree::root())?.rep();
        self.mounted.directories.insert(root, "/".to_owned());
        directories.push((Resource::new_own(root), "/".to_owned()));
        Ok(directories)
    }
}

impl types::Host for Files<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        Ok(self.table.get(&error)?.downcast_ref::<io::Error>().map(errors::code))
    }
}

impl types::HostDescriptor for Files<'_> {
    async fn open_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        open: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        let (reads, writes) =
            (flags.contains(DescriptorFlags::READ), flags.contains(DescriptorFlags::WRITE));
        let truncate = open.contains(OpenFlags::TRUNCATE);
        let (create, exclusive) =
            (open.contains(OpenFlags::CREATE), open.contains(OpenFlags::EXCLUSIVE));
        let name = self.name(&fd, &path);
        let (parent, path) = match self.follow(&fd, path)? {
            Target::Mounted(parent, path) => (parent.directory()?, path),
            Target::Virtual(_) if create && exclusive => return Err(ErrorCode::Exist.into()),
            Target::Virtual(_) if writes || truncate => return Err(ErrorCode::IsDirectory.into()),
            Target::Virtual(virtual_dir) => {
                let opened = self.table.push(virtual_dir)?.rep();
                self.mounted.names.insert(opened, name);
                return Ok(Resource::new_own(opened));
            }
            Target::Missing { last } if create && last => return Err(denied()),
            Target::Missing { .. } => return Err(ErrorCode::NoEntry.into()),
        };
        let rights = parent.rights;
        let root = parent.root && path == ".";
        let may_create = rights.dirs.writes();
        if (writes || truncate) && !rights.files.writes() || create && exclusive && !may_create {
            return Err(denied());
        }
        let synchronous = DescriptorFlags::FILE_INTEGRITY_SYNC
            | DescriptorFlags::DATA_INTEGRITY_SYNC
            | DescriptorFlags::REQUESTED_WRITE_SYNC;
        if flags.intersects(synchronous) {
            return Err(ErrorCode::Unsupported.into());
        }
        let directory = open.contains(OpenFlags::DIRECTORY);
        if directory && (create || exclusive || truncate) {
            return Err(ErrorCode::Invalid.into());
        }
        let how = OpenHow {
            // A file that is opened for neither is opened to read its metadata.
            read: reads || !writes,
            write: writes,
            // Creating it if it is missing is permitted for an existing file.
            create: create && may_create,
            exclusive,
            truncate,
            directory,
            follow: follows_links(path_flags),
        };
        let permit = self.mounted.descriptors.acquire().ok_or_else(too_many_open)?;
        let opened = self
            .on(parent, move |parent| {
                let (file, directory) = host::open(parent, &path, how)?;
                Ok((OpenFile { file, _permit: Some(permit) }, directory))
            })
            .await;
        let (file, directory) = match opened {
            Err(error) if create && !may_create => {
                return Err(match error.downcast_ref() {
                    Some(ErrorCode::NoEntry) => denied(),
                    _ => error,
                });
            }
            opened => opened?,
        };
        if reads && !directory && !rights.files.reads() {
            return Err(denied());
        }
        let open = Arc::new(file);
        let opened = self.push(Handle { open, directory, root, reads, writes, rights })?;
        self.mounted.names.insert(opened.rep(), name);
        Ok(opened)
    }

    async fn read_directory(
        &mut self,
        fd: Resource<Descriptor>,
    ) -> FsResult<Resource<types::DirectoryEntryStream>> {
        let directory = match self.node(&fd)? {
            Node::Mounted(handle) => handle.directory()?,
            Node::Virtual(virtual_dir) => {
                let entries = self.mounted.tree.list(&virtual_dir);
                return Ok(Resource::new_own(self.table.push(entries)?.rep()));
            }
        };
        if !directory.rights.dirs.reads() {
            return Err(denied());
        }
        let permit = self.mounted.descriptors.acquire().ok_or_else(too_many_open)?;
        let reader = self.on(directory, |file| DirectoryReader::open(file, permit)).await?;
        Ok(Resource::new_own(self.table.push(DirectoryStream::new(reader))?.rep()))
    }

    async fn rename_at(
        &mut self,
        fd: Resource<Descriptor>,
        old_path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        let (from, old_path) = self.entry(&fd, old_path)?;
        let from = self.changeable(from, &old_path, None).await?;
        let (to, new_path) = self.new_entry(&new_fd, new_path)?;
        let to = same_mount(&from, to)?;
        self.on(from, move |from| host::rename(from, &old_path, &to.open.file, &new_path)).await
    }

    async fn link_at(
        &mut self,
        fd: Resource<Descriptor>,
        old_path_flags: PathFlags,
        old_path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        if follows_links(old_path_flags) {
            return Err(ErrorCode::Invalid.into());
        }
        let (from, old_path) = self.entry(&fd, old_path)?;
        let from = self.changeable(from, &old_path, None).await?;
        let (to, new_path) = self.new_entry(&new_fd, new_path)?;
        let to = same_mount(&from, to)?;
        self.on(from, move |from| host::hard_link(from, &old_path, &to.open.file, &new_path)).await
    }

    async fn create_directory_at(
        &mut self,
        fd: Resource<Descriptor>,
        path: String,
    ) -> FsResult<()> {
        let (parent, path) = self.new_entry(&fd, path)?;
        let parent = self.changeable(parent, &path, Some(ErrorCode::Exist)).await?;
        self.on(parent, move |parent| host::create_dir(parent, &path)).await
    }

    async fn remove_directory_at(
        &mut self,
        fd: Resource<Descriptor>,
        path: String,
    ) -> FsResult<()> {
        let (parent, path) = self.entry(&fd, path)?;
        let parent = self.changeable(parent, &path, None).await?;
        self.on(parent, move |parent| host::remove_dir(parent, &path)).await
    }

    async fn unlink_file_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        let (parent, path) = self.entry(&fd, path)?;
        let parent = self.changeable(parent, &path, None).await?;
        self.on(parent, move |parent| host::remove_file(parent, &path)).await
    }

    async fn symlink_at(
        &mut self,
        fd: Resource<Descriptor>,
        target: String,
        path: String,
    ) -> FsResult<()> {
        let (parent, path) = self.new_entry(&fd, path)?;
        let parent = self.changeable(parent, &path, Some(ErrorCode::Exist)).await?;
        let target = check_length(target)?;
        self.on(parent, move |parent| host::symlink(&target, parent, &path)).await
    }

    async fn readlink_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<String> {
        match self.follow(&fd, path)? {
            Target::Mounted(parent, path) => {
                let parent = parent.directory()?;
                self.on(parent, move |parent| host::read_link(parent, &path)).await
            }
            // It is not a link.
            Target::Virtual(_) => Err(ErrorCode::Invalid.into()),
            Target::Missing { .. } => Err(ErrorCode::NoEntry.into()),
        }
    }

    async fn set_size(&mut self, fd: Resource<Descriptor>, size: u64) -> FsResult<()> {
        let file = self.handle(&fd)?.writable()?;
        self.on(file, move |file| host::set_size(file, size)).await
    }

    async fn set_times(
        &mut self,
        fd: Resource<Descriptor>,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        let handle = self.handle(&fd)?.with_changeable_files()?;
        let times = times(accessed, modified)?;
        self.on_opened(handle, move |file| host::set_times(file, times)).await
    }

    async fn set_times_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        let (parent, path) = match self.follow(&fd, path)? {
            Target::Mounted(parent, path) => (parent.with_changeable_files()?.directory()?, path),
            Target::Virtual(_) => return Err(denied()),
            Target::Missing { .. } => return Err(ErrorCode::NoEntry.into()),
        };
        let (times, follow) = (times(accessed, modified)?, follows_links(path_flags));
        self.on(parent, move |parent| host::set_times_at(parent, &path, follow, times)).await
    }

    /// Does nothing: reading ahead on the guest's advice would not be charged to
    /// the call.
    async fn advise(
        &mut self,
        fd: Resource<Descriptor>,
        _: u64,
        _: u64,
        _: types::Advice,
    ) -> FsResult<()> {
        self.handle(&fd)?.file().map(drop)
    }

    async fn sync_data(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        let Node::Mounted(handle) = self.node(&fd)? else { return Ok(()) };
        self.on_opened(handle, |file| host::sync(file, true)).await
    }

    async fn sync(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        let Node::Mounted(handle) = self.node(&fd)? else { return Ok(()) };
        self.on_opened(handle, |file| host::sync(file, false)).await
    }

    async fn get_flags(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorFlags> {
        let Node::Mounted(handle) = self.node(&fd)? else { return Ok(DescriptorFlags::READ) };
        let mut flags = DescriptorFlags::empty();
        if handle.reads {
            flags |= DescriptorFlags::READ;
        }
        if handle.writes && !handle.directory {
            flags |= DescriptorFlags::WRITE;
        }
        if handle.directory && handle.rights.dirs.writes() {
            flags |= DescriptorFlags::MUTATE_DIRECTORY;
        }
        Ok(flags)
    }

    async fn get_type(&mut self, fd: Resource<Descriptor>) -> FsResult<types::DescriptorType> {
        match self.node(&fd)? {
            Node::Mounted(handle) => self.on(handle, host::kind).await,
            Node::Virtual(_) => Ok(types::DescriptorType::Directory),
        }
    }

    async fn read(
        &mut self,
        fd: Resource<Descriptor>,
        length: u64,
        offset: u64,
    ) -> FsResult<(Vec<u8>, bool)> {
        let file = self.handle(&fd)?.readable()?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let bytes = self.on(file, move |file| host::read(file, offset, length)).await?;
        let at_end = bytes.is_empty();
        Ok((bytes, at_end))
    }

    async fn write(
        &mut self,
        fd: Resource<Descriptor>,
        mut bytes: Vec<u8>,
        offset: u64,
    ) -> FsResult<u64> {
        let file = self.handle(&fd)?.writable()?;
        bytes.truncate(host::MAX_TRANSFER_BYTES);
        self.on(file, move |file| host::write(file, &bytes, Position::At(offset))).await
    }

    async fn stat(&mut self, fd: Resource<Descriptor>) -> FsResult<types::DescriptorStat> {
        match self.node(&fd)? {
            Node::Mounted(handle) => self.on(handle, host::stat).await,
            Node::Virtual(_) => Ok(VirtualDir::stat()),
        }
    }

    async fn stat_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<types::DescriptorStat> {
        match self.follow(&fd, path)? {
            Target::Mounted(parent, path) => {
                let (parent, follow) = (parent.directory()?, follows_links(path_flags));
                self.on(parent, move |parent| host::stat_at(parent, &path, follow)).await
            }
            Target::Virtual(_) => Ok(VirtualDir::stat()),
            Target::Missing { .. } => Err(ErrorCode::NoEntry.into()),
        }
    }

    async fn metadata_hash(
        &mut self,
        fd: Resource<Descriptor>,
    ) -> FsResult<types::MetadataHashValue> {
        match self.node(&fd)? {
            Node::Mounted(handle) => self.on(handle, host::hash).await,
            Node::Virtual(virtual_dir) => Ok(virtual_dir.hash()),
        }
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<types::MetadataHashValue> {
        match self.follow(&fd, path)? {
            Target::Mounted(parent, path) => {
                let (parent, follow) = (parent.directory()?, follows_links(path_flags));
                self.on(parent, move |parent| host::hash_at(parent, &path, follow)).await
            }
            Target::Virtual(virtual_dir) => Ok(virtual_dir.hash()),
            Target::Missing { .. } => Err(ErrorCode::NoEntry.into()),
        }
    }

    async fn is_same_object(
        &mut self,
        a: Resource<Descriptor>,
        b: Resource<Descriptor>,
    ) -> wasmtime::Result<bool> {
        let (a, b) = match (self.node(&a), self.node(&b)) {
            (Ok(Node::Mounted(a)), Ok(Node::Mounted(b))) => (a, b),
            (Ok(Node::Virtual(a)), Ok(Node::Virtual(b))) => return Ok(a == b),
            _ => return Ok(false),
        };
        let compare = move || host::is_same(&a.open.file, &b.open.file);
        Ok(self.mounted.worker.run(compare).await??)
    }

    fn read_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        offset: u64,
    ) -> FsResult<Resource<DynInputStream>> {
        let file = self.handle(&fd)?.readable()?;
        let worker = self.mounted.worker.clone();
        let stream: DynInputStream = Box::new(streams::FileReader::new(file.open, worker, offset));
        Ok(self.table.push(stream)?)
    }

    fn write_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        offset: u64,
    ) -> FsResult<Resource<DynOutputStream>> {
        self.writer(&fd, Position::At(offset))
    }

    fn append_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
    ) -> FsResult<Resource<DynOutputStream>> {
        self.writer(&fd, Position::End)
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        self.mounted.names.remove(&fd.rep());
        self.mounted.directories.remove(&fd.rep());
        if self.table.get(&Resource::<VirtualDir>::new_borrow(fd.rep())).is_ok() {
            self.table.delete(Resource::<VirtualDir>::new_own(fd.rep()))?;
        } else {
            self.table.delete(Resource::<Handle>::new_own(fd.rep()))?;
        }
        Ok(())
    }
}

impl Files<'_> {
    fn writer(
        &mut self,
        fd: &Resource<Descriptor>,
        position: Position,
    ) -> FsResult<Resource<DynOutputStream>> {
        let file = self.handle(fd)?.writable()?;
        let worker = self.mounted.worker.clone();
        let stream: DynOutputStream =
            Box::new(streams::FileWriter::new(file.open, worker, position));
        Ok(self.table.push(stream)?)
    }
}

impl types::HostDirectoryEntryStream for Files<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<types::DirectoryEntryStream>,
    ) -> FsResult<Option<types::DirectoryEntry>> {
        let stream = Resource::<DirectoryStream>::new_borrow(stream.rep());
        loop {
            let reading = self.table.get_mut(&stream)?;
            if let Some(entry) = reading.ready.pop_front() {
                return Ok(Some(entry?));
            }
            let Some(mut reader) = reading.reader.take() else { return Ok(None) };
            let read = move || {
                let (ready, more) = reader.next();
                (ready, more.then_some(reader))
            };
            let (ready, reader) = self.mounted.worker.run(read).await.map_err(FsError::trap)?;
            let reading = self.table.get_mut(&stream)?;
            (reading.ready, reading.reader) = (ready, reader);
        }
    }

    fn drop(&mut self, stream: Resource<types::DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<DirectoryStream>::new_own(stream.rep()))?;
        Ok(())
    }
}
