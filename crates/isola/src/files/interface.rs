//! The functions of `wasi:filesystem`.

use std::sync::Arc;

use wasmtime::component::Resource;
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

use super::{
    Files, Handle, Node, OpenFile, Target, check_length,
    directory::{DirectoryReader, DirectoryStream},
    errors::{self, denied, too_many_open},
    follows_links,
    host::{self, OpenHow, Position},
    private::{
        PrivateDirectory, PrivateHandle, operations,
        streams::{PrivateReader, PrivateWriter},
    },
    streams, times,
};

impl preopens::Host for Files<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let mut directories = Vec::with_capacity(self.files.mounts.len());
        for (name, handle) in &self.files.mounts {
            let rep = self.table.push(handle.clone())?.rep();
            self.files.directories.insert(rep, name.clone());
            directories.push((Resource::new_own(rep), name.clone()));
        }
        let root = self.files.private.open_root()?;
        let root = self.table.push(root)?.rep();
        self.files.directories.insert(root, "/".to_owned());
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
        Ok(errors::code_of_stream(self.table.get(&error)?))
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
        let how = OpenHow {
            // A file that is opened for neither is opened to read its metadata.
            read: reads || !writes,
            write: writes,
            create,
            exclusive,
            truncate,
            directory: open.contains(OpenFlags::DIRECTORY),
            follow: follows_links(path_flags),
        };
        let (parent, path) = match self.follow(&fd, path, how.follow && !exclusive)? {
            Target::Mounted(parent, path) => (parent.directory()?, path),
            Target::Private(entry) => {
                let permit = self.files.descriptors.acquire_private().ok_or_else(too_many_open)?;
                let opened = self.files.private.open_entry(&entry, how, permit)?;
                let opened = self.table.push(opened)?.rep();
                self.files.names.insert(opened, name);
                return Ok(Resource::new_own(opened));
            }
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
        if how.directory && (create || exclusive || truncate) {
            return Err(ErrorCode::Invalid.into());
        }
        // Creating it if it is missing is permitted for an existing file.
        let how = OpenHow { create: create && may_create, ..how };
        let permit = self.files.descriptors.acquire().ok_or_else(too_many_open)?;
        let opened = self
            .on(parent, move |parent| {
                let (file, directory) = host::open(parent, &path, how)?;
                Ok((OpenFile::new(file, Some(permit)), directory))
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
        self.files.names.insert(opened.rep(), name);
        Ok(opened)
    }

    async fn read_directory(
        &mut self,
        fd: Resource<Descriptor>,
    ) -> FsResult<Resource<types::DirectoryEntryStream>> {
        let directory = match self.node(&fd)? {
            Node::Mounted(handle) => handle.directory()?,
            Node::Private(handle) => {
                let directory = PrivateDirectory::new(handle.directory_only()?.open);
                return Ok(Resource::new_own(self.table.push(directory)?.rep()));
            }
        };
        if !directory.rights.dirs.reads() {
            return Err(denied());
        }
        let permit = self.files.descriptors.acquire().ok_or_else(too_many_open)?;
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
        let from = self.follow(&fd, old_path, false)?;
        let to = self.follow(&new_fd, new_path, false)?;
        if let (Target::Private(from), Target::Private(to)) = (&from, &to) {
            return self.files.private.rename(from, to);
        }
        let [(from, old_path), (to, new_path)] = self.ends_in_mount(from, to).await?;
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
        let from = self.follow(&fd, old_path, follows_links(old_path_flags))?;
        let to = self.follow(&new_fd, new_path, false)?;
        match (&from, &to) {
            (Target::Private(from), Target::Private(to)) => {
                return self.files.private.link(from, to);
            }
            // In a mount a link is not followed.
            (Target::Mounted(..), _) if follows_links(old_path_flags) => {
                return Err(ErrorCode::Invalid.into());
            }
            _ => {}
        }
        let [(from, old_path), (to, new_path)] = self.ends_in_mount(from, to).await?;
        self.on(from, move |from| host::hard_link(from, &old_path, &to.open.file, &new_path)).await
    }

    async fn create_directory_at(
        &mut self,
        fd: Resource<Descriptor>,
        path: String,
    ) -> FsResult<()> {
        let (parent, path) = match self.follow(&fd, path, false)? {
            Target::Mounted(parent, path) => (parent, path),
            Target::Private(entry) => return self.files.private.create_directory(&entry),
        };
        let parent = self.changeable(parent, &path, Some(ErrorCode::Exist)).await?;
        self.on(parent, move |parent| host::create_dir(parent, &path)).await
    }

    async fn remove_directory_at(
        &mut self,
        fd: Resource<Descriptor>,
        path: String,
    ) -> FsResult<()> {
        let (parent, path) = match self.follow(&fd, path, false)? {
            Target::Mounted(parent, path) => (parent, path),
            Target::Private(entry) => return self.files.private.remove_directory(&entry),
        };
        let parent = self.changeable(parent, &path, None).await?;
        self.on(parent, move |parent| host::remove_dir(parent, &path)).await
    }

    async fn unlink_file_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        let (parent, path) = match self.follow(&fd, path, false)? {
            Target::Mounted(parent, path) => (parent, path),
            Target::Private(entry) => return self.files.private.unlink(&entry),
        };
        let parent = self.changeable(parent, &path, None).await?;
        self.on(parent, move |parent| host::remove_file(parent, &path)).await
    }

    async fn symlink_at(
        &mut self,
        fd: Resource<Descriptor>,
        target: String,
        path: String,
    ) -> FsResult<()> {
        let target = check_length(target)?;
        let (parent, path) = match self.follow(&fd, path, false)? {
            Target::Mounted(parent, path) => (parent, path),
            Target::Private(entry) => return self.files.private.symlink(&target, &entry),
        };
        let parent = self.changeable(parent, &path, Some(ErrorCode::Exist)).await?;
        self.on(parent, move |parent| host::symlink(&target, parent, &path)).await
    }

    async fn readlink_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<String> {
        match self.follow(&fd, path, false)? {
            Target::Mounted(parent, path) => {
                let parent = parent.directory()?;
                self.on(parent, move |parent| host::read_link(parent, &path)).await
            }
            Target::Private(entry) => self.files.private.read_link(&entry),
        }
    }

    async fn set_size(&mut self, fd: Resource<Descriptor>, size: u64) -> FsResult<()> {
        let file = match self.node(&fd)? {
            Node::Mounted(handle) => handle.writable()?,
            Node::Private(handle) => return handle.writable()?.set_size(size),
        };
        self.on(file, move |file| host::set_size(file, size)).await
    }

    async fn set_times(
        &mut self,
        fd: Resource<Descriptor>,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        let times = times(accessed, modified)?;
        let handle = match self.node(&fd)? {
            Node::Mounted(handle) => handle.with_changeable_files()?,
            Node::Private(handle) => return self.files.private.set_times(handle.open.ino, times),
        };
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
        let (times, follow) = (times(accessed, modified)?, follows_links(path_flags));
        let (parent, path) = match self.follow(&fd, path, follow)? {
            Target::Mounted(parent, path) => (parent.with_changeable_files()?.directory()?, path),
            Target::Private(entry) => {
                return self.files.private.set_times(entry.inode()?, times);
            }
        };
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
        match self.node(&fd)? {
            Node::Mounted(handle) => handle.file().map(drop),
            Node::Private(handle) if handle.directory => Err(ErrorCode::BadDescriptor.into()),
            Node::Private(_) => Ok(()),
        }
    }

    async fn sync_data(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        let handle = match self.node(&fd)? {
            Node::Mounted(handle) => handle,
            Node::Private(handle) => return handle.open.pending_error.take(),
        };
        handle.open.pending_error.take()?;
        self.on_opened(handle, |file| host::sync(file, true)).await
    }

    async fn sync(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        let handle = match self.node(&fd)? {
            Node::Mounted(handle) => handle,
            Node::Private(handle) => return handle.open.pending_error.take(),
        };
        handle.open.pending_error.take()?;
        self.on_opened(handle, |file| host::sync(file, false)).await
    }

    async fn get_flags(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorFlags> {
        let mut flags = DescriptorFlags::empty();
        let handle = match self.node(&fd)? {
            Node::Mounted(handle) => handle,
            Node::Private(handle) => {
                let changes = handle.directory && self.files.private.check_writable().is_ok();
                for (has, flag) in [
                    (handle.reads, DescriptorFlags::READ),
                    (handle.writes, DescriptorFlags::WRITE),
                    (changes, DescriptorFlags::MUTATE_DIRECTORY),
                ] {
                    if has {
                        flags |= flag;
                    }
                }
                return Ok(flags);
            }
        };
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
            Node::Private(handle) => self.files.private.kind(handle.open.ino),
        }
    }

    async fn read(
        &mut self,
        fd: Resource<Descriptor>,
        length: u64,
        offset: u64,
    ) -> FsResult<(Vec<u8>, bool)> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let bytes = match self.node(&fd)? {
            Node::Mounted(handle) => {
                let file = handle.readable()?;
                self.on(file, move |file| host::read(file, offset, length)).await?
            }
            Node::Private(handle) => {
                handle.readable()?.read(offset, length.min(host::MAX_TRANSFER_BYTES))?
            }
        };
        let at_end = bytes.is_empty();
        Ok((bytes, at_end))
    }

    async fn write(
        &mut self,
        fd: Resource<Descriptor>,
        mut bytes: Vec<u8>,
        offset: u64,
    ) -> FsResult<u64> {
        bytes.truncate(host::MAX_TRANSFER_BYTES);
        let file = match self.node(&fd)? {
            Node::Mounted(handle) => handle.writable()?,
            Node::Private(handle) => return Ok(handle.writable()?.write(offset, &bytes)? as u64),
        };
        self.on(file, move |file| host::write(file, &bytes, Position::At(offset))).await
    }

    async fn stat(&mut self, fd: Resource<Descriptor>) -> FsResult<types::DescriptorStat> {
        match self.node(&fd)? {
            Node::Mounted(handle) => self.on(handle, host::stat).await,
            Node::Private(handle) => self.files.private.stat(handle.open.ino),
        }
    }

    async fn stat_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<types::DescriptorStat> {
        let follow = follows_links(path_flags);
        match self.follow(&fd, path, follow)? {
            Target::Mounted(parent, path) => {
                let parent = parent.directory()?;
                self.on(parent, move |parent| host::stat_at(parent, &path, follow)).await
            }
            Target::Private(entry) => self.files.private.stat(entry.inode()?),
        }
    }

    async fn metadata_hash(
        &mut self,
        fd: Resource<Descriptor>,
    ) -> FsResult<types::MetadataHashValue> {
        match self.node(&fd)? {
            Node::Mounted(handle) => self.on(handle, host::hash).await,
            Node::Private(handle) => Ok(operations::hash(handle.open.ino)),
        }
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<types::MetadataHashValue> {
        let follow = follows_links(path_flags);
        match self.follow(&fd, path, follow)? {
            Target::Mounted(parent, path) => {
                let parent = parent.directory()?;
                self.on(parent, move |parent| host::hash_at(parent, &path, follow)).await
            }
            Target::Private(entry) => Ok(operations::hash(entry.inode()?)),
        }
    }

    async fn is_same_object(
        &mut self,
        a: Resource<Descriptor>,
        b: Resource<Descriptor>,
    ) -> wasmtime::Result<bool> {
        let (a, b) = match (self.node(&a), self.node(&b)) {
            (Ok(Node::Mounted(a)), Ok(Node::Mounted(b))) => (a, b),
            (Ok(Node::Private(a)), Ok(Node::Private(b))) => return Ok(a.open.ino == b.open.ino),
            _ => return Ok(false),
        };
        let compare = move || host::is_same(&a.open.file, &b.open.file);
        Ok(self.files.worker.run(compare).await??)
    }

    fn read_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        offset: u64,
    ) -> FsResult<Resource<DynInputStream>> {
        let stream: DynInputStream = match self.node(&fd)? {
            Node::Mounted(handle) => {
                let (file, worker) = (handle.readable()?, self.files.worker.clone());
                Box::new(streams::FileReader::new(file.open, worker, offset))
            }
            Node::Private(handle) => Box::new(PrivateReader::new(handle.readable()?.open, offset)),
        };
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
        self.files.names.remove(&fd.rep());
        self.files.directories.remove(&fd.rep());
        if self.table.get(&Resource::<PrivateHandle>::new_borrow(fd.rep())).is_ok() {
            self.table.delete(Resource::<PrivateHandle>::new_own(fd.rep()))?;
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
        let stream: DynOutputStream = match self.node(fd)? {
            Node::Mounted(handle) => {
                let (file, worker) = (handle.writable()?, self.files.worker.clone());
                Box::new(streams::FileWriter::new(file.open, worker, position))
            }
            Node::Private(handle) => {
                Box::new(PrivateWriter::new(handle.writable()?.open, position))
            }
        };
        Ok(self.table.push(stream)?)
    }
}

impl types::HostDirectoryEntryStream for Files<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<types::DirectoryEntryStream>,
    ) -> FsResult<Option<types::DirectoryEntry>> {
        let private = Resource::<PrivateDirectory>::new_borrow(stream.rep());
        if let Ok(directory) = self.table.get_mut(&private) {
            return Ok(directory.next()?);
        }
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
            let (ready, reader) = self.files.worker.run(read).await.map_err(FsError::trap)?;
            let reading = self.table.get_mut(&stream)?;
            (reading.ready, reading.reader) = (ready, reader);
        }
    }

    fn drop(&mut self, stream: Resource<types::DirectoryEntryStream>) -> wasmtime::Result<()> {
        if self.table.get(&Resource::<PrivateDirectory>::new_borrow(stream.rep())).is_ok() {
            self.table.delete(Resource::<PrivateDirectory>::new_own(stream.rep()))?;
        } else {
            self.table.delete(Resource::<DirectoryStream>::new_own(stream.rep()))?;
        }
        Ok(())
    }
}
