//! What a guest may do with the folders that are mounted.
//!
//! WASI's implementation knows two kinds of folder, read-only and writable. A
//! [`Mount`](crate::Mount) says more: what may be done with directories and
//! what with the content of files, each for reading and for writing. So every
//! call is checked here before it is handed on. A descriptor inherits the
//! rights of the mount that it was opened below.

use std::collections::HashMap;

use wasmtime::component::Resource;
use wasmtime_wasi::{
    filesystem::{Descriptor, WasiFilesystemCtxView},
    p2::{
        DynInputStream, DynOutputStream, FsError, FsResult,
        bindings::filesystem::{
            preopens,
            types::{self, DescriptorFlags, ErrorCode, OpenFlags},
        },
    },
};

use crate::mount::{Mount, Permission};

/// So much is kept of a name, in characters. It is for people.
const MAX_NAME: usize = 256;

/// The rights of a guest's mounts and of its open descriptors.
#[derive(Default)]
pub(crate) struct Granted {
    mounts: Vec<Rights>,
    open: HashMap<u32, Rights>,
    /// What is open, by the guest's own names.
    names: HashMap<u32, String>,
    /// Mounted folders that are open: libc opens them all.
    folders: HashMap<u32, String>,
}

/// The rights below one mount.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Rights {
    /// Which mount this is: an entry does not move from one to another.
    mount: usize,
    dirs: Permission,
    files: Permission,
}

impl Granted {
    /// The rights of the mounts, in the order in which they are preopened.
    pub(crate) fn new(mounts: &[Mount]) -> Self {
        let rights =
            |(mount, of): (usize, &Mount)| Rights { mount, dirs: of.dirs, files: of.files };
        Self { mounts: mounts.iter().enumerate().map(rights).collect(), ..Self::default() }
    }

    /// What the guest has opened itself, sorted.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = self.names.values().cloned().collect();
        names.sort();
        names
    }

    /// The mounted folders that are open, sorted.
    pub(crate) fn folders(&self) -> Vec<String> {
        let mut names: Vec<_> = self.folders.values().cloned().collect();
        names.sort();
        names
    }
}

/// The file system as one guest sees it.
pub(crate) struct Files<'a> {
    pub(crate) inner: WasiFilesystemCtxView<'a>,
    pub(crate) granted: &'a mut Granted,
}

impl Files<'_> {
    /// The rights of a descriptor. One that nobody granted has none.
    fn rights(&self, fd: &Resource<Descriptor>) -> FsResult<Rights> {
        self.granted.open.get(&fd.rep()).copied().ok_or_else(denied)
    }

    fn change_directory(&self, fd: &Resource<Descriptor>) -> FsResult<Rights> {
        let rights = self.rights(fd)?;
        if rights.dirs.writes() { Ok(rights) } else { Err(denied()) }
    }

    fn change_file(&self, fd: &Resource<Descriptor>) -> FsResult<()> {
        if self.rights(fd)?.files.writes() { Ok(()) } else { Err(denied()) }
    }

    /// Both ends of a rename or a link are in the same mount. Elsewhere a file
    /// could get rights that it did not have.
    fn move_entry(&self, from: &Resource<Descriptor>, to: &Resource<Descriptor>) -> FsResult<()> {
        if self.change_directory(from)? == self.change_directory(to)? {
            Ok(())
        } else {
            Err(ErrorCode::CrossDevice.into())
        }
    }
}

fn denied() -> FsError {
    ErrorCode::NotPermitted.into()
}

impl preopens::Host for Files<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let folders = preopens::Host::get_directories(&mut self.inner)?;
        for ((fd, name), rights) in folders.iter().zip(&self.granted.mounts) {
            self.granted.open.insert(fd.rep(), *rights);
            self.granted.folders.insert(fd.rep(), name.clone());
        }
        Ok(folders)
    }
}

impl types::Host for Files<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        self.inner.convert_error_code(error)
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        self.inner.filesystem_error_code(error)
    }
}

/// Calls that need a right, and go on as they are if it is there.
macro_rules! checked {
    ($(
        $check:ident: $method:ident($($name:ident: $type:ty),*) -> $result:ty;
    )*) => {$(
        async fn $method(&mut self, fd: Resource<Descriptor>, $($name: $type),*) -> FsResult<$result> {
            self.$check(&fd)?;
            types::HostDescriptor::$method(&mut self.inner, fd, $($name),*).await
        }
    )*};
}

impl types::HostDescriptor for Files<'_> {
    async fn open_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: types::PathFlags,
        path: String,
        mut open: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        let rights = self.rights(&fd)?;
        let changes_file =
            flags.contains(DescriptorFlags::WRITE) || open.contains(OpenFlags::TRUNCATE);
        let creates = open.contains(OpenFlags::CREATE | OpenFlags::EXCLUSIVE);
        if changes_file && !rights.files.writes() || creates && !rights.dirs.writes() {
            return Err(denied());
        }
        // "Open it, and create it if need be" is fine for what is there.
        let Granted { names, folders, .. } = &*self.granted;
        let folder = names.get(&fd.rep()).or_else(|| folders.get(&fd.rep()));
        let folder = folder.map_or("", String::as_str);
        let name = format!("{folder}/{path}").chars().take(MAX_NAME).collect();
        let may_not_create = open.contains(OpenFlags::CREATE) && !rights.dirs.writes();
        if may_not_create {
            open &= !OpenFlags::CREATE;
        }
        let opened =
            types::HostDescriptor::open_at(&mut self.inner, fd, path_flags, path, open, flags)
                .await;
        let opened = match opened {
            Err(error) if may_not_create => {
                return Err(match error.downcast_ref() {
                    Some(ErrorCode::NoEntry) => denied(),
                    _ => error,
                });
            }
            opened => opened?,
        };
        let borrowed = Resource::new_borrow(opened.rep());
        let kind = types::HostDescriptor::get_type(&mut self.inner, borrowed).await?;
        let is_directory = kind == types::DescriptorType::Directory;
        if flags.contains(DescriptorFlags::READ) && !is_directory && !rights.files.reads() {
            types::HostDescriptor::drop(&mut self.inner, opened).map_err(FsError::trap)?;
            return Err(denied());
        }
        self.granted.open.insert(opened.rep(), rights);
        self.granted.names.insert(opened.rep(), name);
        Ok(opened)
    }

    async fn read_directory(
        &mut self,
        fd: Resource<Descriptor>,
    ) -> FsResult<Resource<types::DirectoryEntryStream>> {
        if !self.rights(&fd)?.dirs.reads() {
            return Err(denied());
        }
        types::HostDescriptor::read_directory(&mut self.inner, fd).await
    }

    async fn rename_at(
        &mut self,
        fd: Resource<Descriptor>,
        old_path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        self.move_entry(&fd, &new_fd)?;
        types::HostDescriptor::rename_at(&mut self.inner, fd, old_path, new_fd, new_path).await
    }

    async fn link_at(
        &mut self,
        fd: Resource<Descriptor>,
        old_path_flags: types::PathFlags,
        old_path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        self.move_entry(&fd, &new_fd)?;
        types::HostDescriptor::link_at(
            &mut self.inner,
            fd,
            old_path_flags,
            old_path,
            new_fd,
            new_path,
        )
        .await
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        self.granted.open.remove(&fd.rep());
        self.granted.names.remove(&fd.rep());
        self.granted.folders.remove(&fd.rep());
        types::HostDescriptor::drop(&mut self.inner, fd)
    }

    checked! {
        change_directory: create_directory_at(path: String) -> ();
        change_directory: remove_directory_at(path: String) -> ();
        change_directory: unlink_file_at(path: String) -> ();
        change_directory: symlink_at(target: String, path: String) -> ();
        change_file: set_size(size: u64) -> ();
        change_file: set_times(
            accessed: types::NewTimestamp,
            modified: types::NewTimestamp
        ) -> ();
        change_file: set_times_at(
            path_flags: types::PathFlags,
            path: String,
            accessed: types::NewTimestamp,
            modified: types::NewTimestamp
        ) -> ();
        // A descriptor was opened for reading, for writing or both, within its
        // rights, and WASI itself holds it to that.
        rights: advise(offset: u64, length: u64, advice: types::Advice) -> ();
        rights: sync_data() -> ();
        rights: sync() -> ();
        rights: get_flags() -> DescriptorFlags;
        rights: get_type() -> types::DescriptorType;
        rights: read(length: u64, offset: u64) -> (Vec<u8>, bool);
        rights: write(buffer: Vec<u8>, offset: u64) -> u64;
        rights: stat() -> types::DescriptorStat;
        rights: stat_at(path_flags: types::PathFlags, path: String) -> types::DescriptorStat;
        rights: readlink_at(path: String) -> String;
        rights: metadata_hash() -> types::MetadataHashValue;
        rights: metadata_hash_at(
            path_flags: types::PathFlags,
            path: String
        ) -> types::MetadataHashValue;
    }

    fn read_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        offset: u64,
    ) -> FsResult<Resource<DynInputStream>> {
        types::HostDescriptor::read_via_stream(&mut self.inner, fd, offset)
    }

    fn write_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        offset: u64,
    ) -> FsResult<Resource<DynOutputStream>> {
        types::HostDescriptor::write_via_stream(&mut self.inner, fd, offset)
    }

    fn append_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
    ) -> FsResult<Resource<DynOutputStream>> {
        types::HostDescriptor::append_via_stream(&mut self.inner, fd)
    }

    async fn is_same_object(
        &mut self,
        a: Resource<Descriptor>,
        b: Resource<Descriptor>,
    ) -> wasmtime::Result<bool> {
        types::HostDescriptor::is_same_object(&mut self.inner, a, b).await
    }
}

impl types::HostDirectoryEntryStream for Files<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<types::DirectoryEntryStream>,
    ) -> FsResult<Option<types::DirectoryEntry>> {
        types::HostDirectoryEntryStream::read_directory_entry(&mut self.inner, stream).await
    }

    fn drop(&mut self, stream: Resource<types::DirectoryEntryStream>) -> wasmtime::Result<()> {
        types::HostDirectoryEntryStream::drop(&mut self.inner, stream)
    }
}
