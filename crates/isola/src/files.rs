//! `wasi:filesystem`: the directories that are mounted, within the permissions
//! of their mounts.
//!
//! wasmtime's own implementation reads a directory as a whole when a guest
//! begins to read it, works on threads whose CPU time nobody charges, waits in
//! the opening of a pipe until somebody writes to it, and knows two kinds of
//! mount, read-only and writable. So this is one of our own. Paths are resolved
//! beneath the mounted directory, link by link, by `cap-primitives`, which is
//! what wasmtime's does it with.
//!
//! - A [`Mount`] says what may be done with directories and what with the
//!   content of files, each for reading and for writing. What is opened has the
//!   rights of the mount that it was opened below.
//! - Every operation runs on a [`Worker`]: one at a time, charged to the call.
//! - Only regular files and directories are opened.
//! - The directories above the mounts, `/` first of all, are made up (`tree`).
//! - A directory is read a piece at a time (`directory`), buffers of streams are
//!   counted (`work`), and so is what is open (`descriptors`).

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

pub(crate) use self::tree::Above;
use self::{
    descriptors::Descriptors,
    directory::DirectoryStream,
    errors::{denied, outcome, too_many_open},
    host::{Open, Position, Times},
    tree::{Place, Target, Tree},
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

/// Characters of a name that are kept, for messages to people.
const MAX_KEPT_NAME: usize = 256;

/// Bytes of a path or of a link's target, as on Linux.
const MAX_PATH: usize = 4_096;

/// The mounts of a guest and what it has open below them.
pub(crate) struct MountedFiles {
    mounts: Vec<(String, Handle)>,
    tree: Tree,
    /// What the guest opened, by its own names.
    names: HashMap<u32, String>,
    /// Mounted directories that are open: libc opens them all.
    directories: HashMap<u32, String>,
    descriptors: Descriptors,
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
            let open = Arc::new(OpenFile { file, _descriptor: None });
            let (reads, writes) = (true, false);
            let handle = Handle { open, directory: true, root: true, reads, writes, rights };
            opened.push((mount.guest.clone(), handle));
        }
        Ok(Self {
            tree: Tree::new(opened.iter().map(|(path, handle)| (path.as_str(), handle))),
            mounts: opened,
            names: HashMap::new(),
            directories: HashMap::new(),
            descriptors: Descriptors::default(),
            worker: Worker::new(cpu, max_buffers),
        })
    }

    /// Returns what the guest has opened itself, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        sorted(&self.names)
    }

    /// Returns the mounted directories that are open, sorted.
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
    /// The index of the mount: an entry does not move from one to another.
    mount: usize,
    dirs: Permission,
    files: Permission,
}

/// An open file of the host.
struct OpenFile {
    file: File,
    /// `None` for a mounted directory, which the embedder opened.
    _descriptor: Option<descriptors::Descriptor>,
}

/// A descriptor of the guest.
#[derive(Clone)]
pub(crate) struct Handle {
    open: Arc<OpenFile>,
    directory: bool,
    /// It is what was mounted, and not something below that.
    root: bool,
    /// What it was opened for, if it is a file.
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

    /// A directory whose entries may be changed.
    fn changeable_directory(self) -> FsResult<Self> {
        let writes = self.rights.dirs.writes();
        if writes { self.directory() } else { Err(denied()) }
    }

    /// Something below a mount whose files may be changed.
    fn with_changeable_files(self) -> FsResult<Self> {
        if self.rights.files.writes() { Ok(self) } else { Err(denied()) }
    }

    /// A file that was opened for reading.
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

    /// A file that was opened for writing.
    fn writable(self) -> FsResult<Self> {
        let handle = self.file()?;
        match (handle.writes, handle.rights.files.writes()) {
            (true, true) => Ok(handle),
            (false, true) => Err(ErrorCode::BadDescriptor.into()),
            (_, false) => Err(denied()),
        }
    }
}

/// The file system as one guest sees it.
pub(crate) struct Files<'a> {
    pub(crate) table: &'a mut ResourceTable,
    pub(crate) mounted: &'a mut MountedFiles,
}

impl Files<'_> {
    fn place(&self, fd: &Resource<Descriptor>) -> FsResult<Place> {
        let above = self.table.get(&Resource::<Above>::new_borrow(fd.rep()));
        if let Ok(above) = above {
            return Ok(Place::Above(above.clone()));
        }
        let handle = self.table.get(&Resource::<Handle>::new_borrow(fd.rep()))?;
        Ok(Place::Mounted(handle.clone()))
    }

    /// The descriptor of a file in a mount. One of a directory above the mounts is an
    /// error: the caller's operation is one of files.
    fn handle(&self, fd: &Resource<Descriptor>) -> FsResult<Handle> {
        match self.place(fd)? {
            Place::Mounted(handle) => Ok(handle),
            Place::Above(_) => Err(ErrorCode::IsDirectory.into()),
        }
    }

    /// Follows a path until it is in a mount.
    fn follow(&self, fd: &Resource<Descriptor>, path: String) -> FsResult<Target> {
        let place = self.place(fd)?;
        Ok(self.mounted.tree.follow(place, &checked(path)?))
    }

    /// Follows the path of an entry that is to be changed.
    fn entry(&self, fd: &Resource<Descriptor>, path: String) -> FsResult<(Handle, String)> {
        match self.follow(fd, path)? {
            Target::Mounted(handle, path) => Ok((handle, path)),
            Target::Missing { .. } => Err(ErrorCode::NoEntry.into()),
            Target::Above(_) => Err(denied()),
        }
    }

    /// Follows the path of an entry that is to be made.
    fn new_entry(&self, fd: &Resource<Descriptor>, path: String) -> FsResult<(Handle, String)> {
        match self.follow(fd, path)? {
            Target::Mounted(handle, path) => Ok((handle, path)),
            Target::Missing { last: true } => Err(denied()),
            Target::Missing { last: false } => Err(ErrorCode::NoEntry.into()),
            Target::Above(_) => Err(ErrorCode::Exist.into()),
        }
    }

    fn push(&mut self, handle: Handle) -> FsResult<Resource<Descriptor>> {
        Ok(Resource::new_own(self.table.push(handle)?.rep()))
    }

    /// The name of what is at a path, for messages to people.
    fn name(&self, fd: &Resource<Descriptor>, path: &str) -> String {
        let parent =
            self.mounted.names.get(&fd.rep()).or_else(|| self.mounted.directories.get(&fd.rep()));
        let parent = parent.map_or("", String::as_str).trim_end_matches('/');
        format!("{parent}/{path}").chars().take(MAX_KEPT_NAME).collect()
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

    /// Runs an operation on a handle; if it is a directory, on a descriptor
    /// that was opened for reading.
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
    /// As on Linux, that there is no such entry, or for one that is to be made
    /// that there is one (`exists`), counts for more than the permission: so
    /// `unlink(missing_ok=True)` and `mkdir(exist_ok=True)` work in all mounts.
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

/// Both ends of a rename or a link are in the same mount. Elsewhere a file could
/// get rights that it did not have.
fn same_mount(from: &Handle, to: Handle) -> FsResult<Handle> {
    let to = to.changeable_directory()?;
    if from.rights == to.rights { Ok(to) } else { Err(ErrorCode::CrossDevice.into()) }
}

fn checked(path: String) -> FsResult<String> {
    if path.len() < MAX_PATH { Ok(path) } else { Err(ErrorCode::NameTooLong.into()) }
}

fn links(flags: PathFlags) -> bool {
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
            Target::Above(_) if create && exclusive => return Err(ErrorCode::Exist.into()),
            Target::Above(_) if writes || truncate => return Err(ErrorCode::IsDirectory.into()),
            Target::Above(above) => {
                let opened = self.table.push(above)?.rep();
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
        let how = Open {
            // A file that is opened for neither is asked for what it is.
            read: reads || !writes,
            write: writes,
            // "Open it, and create it if need be" is fine for what is there.
            create: create && may_create,
            exclusive,
            truncate,
            directory,
            follow: links(path_flags),
        };
        let descriptor = self.mounted.descriptors.take().ok_or_else(too_many_open)?;
        let opened = self
            .on(parent, move |parent| {
                let (file, directory) = host::open(parent, &path, how)?;
                Ok((OpenFile { file, _descriptor: Some(descriptor) }, directory))
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
        let directory = match self.place(&fd)? {
            Place::Mounted(handle) => handle.directory()?,
            Place::Above(above) => {
                let entries = self.mounted.tree.list(&above);
                return Ok(Resource::new_own(self.table.push(entries)?.rep()));
            }
        };
        if !directory.rights.dirs.reads() {
            return Err(denied());
        }
        let descriptor = self.mounted.descriptors.take().ok_or_else(too_many_open)?;
        let reader = self.on(directory, |file| directory::Reader::open(file, descriptor)).await?;
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
        if links(old_path_flags) {
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
        let target = checked(target)?;
        self.on(parent, move |parent| host::symlink(&target, parent, &path)).await
    }

    async fn readlink_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<String> {
        match self.follow(&fd, path)? {
            Target::Mounted(parent, path) => {
                let parent = parent.directory()?;
                self.on(parent, move |parent| host::read_link(parent, &path)).await
            }
            // It is no link.
            Target::Above(_) => Err(ErrorCode::Invalid.into()),
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
            Target::Above(_) => return Err(denied()),
            Target::Missing { .. } => return Err(ErrorCode::NoEntry.into()),
        };
        let (times, links) = (times(accessed, modified)?, links(path_flags));
        self.on(parent, move |parent| host::set_times_at(parent, &path, links, times)).await
    }

    /// Does nothing: how a guest means to read is no concern of the host, and
    /// reading ahead on its advice would be work that it does not pay for.
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
        let Place::Mounted(handle) = self.place(&fd)? else { return Ok(()) };
        self.on_opened(handle, |file| host::sync(file, true)).await
    }

    async fn sync(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        let Place::Mounted(handle) = self.place(&fd)? else { return Ok(()) };
        self.on_opened(handle, |file| host::sync(file, false)).await
    }

    async fn get_flags(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorFlags> {
        let Place::Mounted(handle) = self.place(&fd)? else { return Ok(DescriptorFlags::READ) };
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
        match self.place(&fd)? {
            Place::Mounted(handle) => self.on(handle, host::kind).await,
            Place::Above(_) => Ok(types::DescriptorType::Directory),
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
        bytes.truncate(host::MAX_TRANSFER);
        self.on(file, move |file| host::write(file, &bytes, Position::At(offset))).await
    }

    async fn stat(&mut self, fd: Resource<Descriptor>) -> FsResult<types::DescriptorStat> {
        match self.place(&fd)? {
            Place::Mounted(handle) => self.on(handle, host::stat).await,
            Place::Above(_) => Ok(Above::stat()),
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
                let (parent, links) = (parent.directory()?, links(path_flags));
                self.on(parent, move |parent| host::stat_at(parent, &path, links)).await
            }
            Target::Above(_) => Ok(Above::stat()),
            Target::Missing { .. } => Err(ErrorCode::NoEntry.into()),
        }
    }

    async fn metadata_hash(
        &mut self,
        fd: Resource<Descriptor>,
    ) -> FsResult<types::MetadataHashValue> {
        match self.place(&fd)? {
            Place::Mounted(handle) => self.on(handle, host::hash).await,
            Place::Above(above) => Ok(above.hash()),
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
                let (parent, links) = (parent.directory()?, links(path_flags));
                self.on(parent, move |parent| host::hash_at(parent, &path, links)).await
            }
            Target::Above(above) => Ok(above.hash()),
            Target::Missing { .. } => Err(ErrorCode::NoEntry.into()),
        }
    }

    async fn is_same_object(
        &mut self,
        a: Resource<Descriptor>,
        b: Resource<Descriptor>,
    ) -> wasmtime::Result<bool> {
        let (a, b) = match (self.place(&a), self.place(&b)) {
            (Ok(Place::Mounted(a)), Ok(Place::Mounted(b))) => (a, b),
            (Ok(Place::Above(a)), Ok(Place::Above(b))) => return Ok(a == b),
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
        let stream: DynInputStream = Box::new(streams::Reader::new(file.open, worker, offset));
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
        if self.table.get(&Resource::<Above>::new_borrow(fd.rep())).is_ok() {
            self.table.delete(Resource::<Above>::new_own(fd.rep()))?;
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
        let stream: DynOutputStream = Box::new(streams::Writer::new(file.open, worker, position));
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
