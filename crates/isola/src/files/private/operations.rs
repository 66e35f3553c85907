//! The operations of a guest on its private files, by the results of `resolve`.

use std::time::SystemTime;

use wasmtime_wasi::p2::{
    FsError, FsResult,
    bindings::filesystem::types::{DescriptorStat, DescriptorType, ErrorCode, MetadataHashValue},
};

use super::{
    PathEntry, PrivateFiles, PrivateHandle,
    inode::{Ino, Inode, Kind},
};
use crate::{
    file_failure::FileFailure,
    files::{
        descriptors::DescriptorPermit,
        host::{OpenHow, Times, timestamp},
    },
};

impl PrivateFiles {
    /// Opens an entry, and creates it if `how` says so.
    pub(in crate::files) fn open_entry(
        &self,
        entry: &PathEntry,
        how: OpenHow,
        permit: DescriptorPermit,
    ) -> FsResult<PrivateHandle> {
        let (ino, directory) = match entry.ino {
            None if how.create => (self.create_file(entry, how)?, false),
            None => return Err(FileFailure::NotFound.into()),
            Some(_) if how.create && how.exclusive => return Err(FileFailure::Exists.into()),
            Some(ino) => (ino, self.check_existing(ino, how)?),
        };
        let open = self.open(ino, Some(permit))?;
        Ok(PrivateHandle { open, directory, reads: how.read, writes: how.write })
    }

    fn create_file(&self, entry: &PathEntry, how: OpenHow) -> FsResult<Ino> {
        self.check_writable()?;
        if entry.directory || how.directory {
            return Err(FileFailure::IsADirectory.into());
        }
        Ok(self.lock().tree.add_file(entry.parent, &entry.name, SystemTime::now())?)
    }

    /// Checks that an existing inode can be opened, empties it if `how` says so, and
    /// reports whether it is a directory.
    fn check_existing(&self, ino: Ino, how: OpenHow) -> FsResult<bool> {
        let mut state = self.lock();
        let directory = match &state.tree.inode(ino)?.kind {
            Kind::Directory(_) if how.write || how.truncate || how.create => {
                return Err(FileFailure::IsADirectory.into());
            }
            Kind::Directory(_) => true,
            Kind::Link(_) => return Err(FileFailure::Loop.into()),
            Kind::File(_) | Kind::Device(_) if how.directory => {
                return Err(FileFailure::NotADirectory.into());
            }
            Kind::File(_) if how.truncate => {
                state.tree.set_size(ino, 0, SystemTime::now())?;
                false
            }
            Kind::File(_) | Kind::Device(_) => false,
        };
        Ok(directory)
    }

    pub(in crate::files) fn create_directory(&self, entry: &PathEntry) -> FsResult<()> {
        if entry.ino.is_some() {
            return Err(FileFailure::Exists.into());
        }
        self.check_writable()?;
        let mut state = self.lock();
        state.tree.add_directory(entry.parent, &entry.name, SystemTime::now())?;
        Ok(())
    }

    pub(in crate::files) fn remove_directory(&self, entry: &PathEntry) -> FsResult<()> {
        let ino = entry.existing()?;
        self.check_writable()?;
        let mut state = self.lock();
        state.tree.directory(ino)?;
        let (parent, name) = entry.named()?;
        Ok(state.tree.remove_directory(parent, name, SystemTime::now())?)
    }

    pub(in crate::files) fn unlink(&self, entry: &PathEntry) -> FsResult<()> {
        entry.existing()?;
        self.check_writable()?;
        if entry.directory || entry.name.is_empty() {
            return Err(FileFailure::IsADirectory.into());
        }
        Ok(self.lock().tree.unlink(entry.parent, &entry.name, SystemTime::now())?)
    }

    pub(in crate::files) fn rename(&self, from: &PathEntry, to: &PathEntry) -> FsResult<()> {
        let ino = from.existing()?;
        self.check_writable()?;
        let (from_name, to_name) = (from.named()?, to.named()?);
        let mut state = self.lock();
        if (from.directory || to.directory) && !state.tree.inode(ino)?.is_directory() {
            return Err(FileFailure::NotADirectory.into());
        }
        Ok(state.tree.rename(from_name, to_name, SystemTime::now())?)
    }

    pub(in crate::files) fn link(&self, from: &PathEntry, to: &PathEntry) -> FsResult<()> {
        let ino = from.existing()?;
        if to.ino.is_some() {
            return Err(FileFailure::Exists.into());
        }
        self.check_writable()?;
        if to.directory {
            return Err(FileFailure::NotFound.into());
        }
        Ok(self.lock().tree.link(ino, to.parent, &to.name, SystemTime::now())?)
    }

    pub(in crate::files) fn symlink(&self, target: &str, entry: &PathEntry) -> FsResult<()> {
        if entry.ino.is_some() {
            return Err(FileFailure::Exists.into());
        }
        self.check_writable()?;
        if target.is_empty() || entry.directory {
            return Err(FileFailure::NotFound.into());
        }
        let (mut state, now) = (self.lock(), SystemTime::now());
        state.tree.add_link(entry.parent, &entry.name, target, now)?;
        Ok(())
    }

    pub(in crate::files) fn read_link(&self, entry: &PathEntry) -> FsResult<String> {
        match &self.lock().tree.inode(entry.existing()?)?.kind {
            Kind::Link(target) => Ok(target.to_string()),
            _ => Err(FileFailure::Invalid.into()),
        }
    }

    pub(in crate::files) fn stat(&self, ino: Ino) -> FsResult<DescriptorStat> {
        Ok(stat(self.lock().tree.inode(ino)?))
    }

    pub(in crate::files) fn kind(&self, ino: Ino) -> FsResult<DescriptorType> {
        Ok(descriptor_type(self.lock().tree.inode(ino)?))
    }

    pub(in crate::files) fn set_times(&self, ino: Ino, times: Times) -> FsResult<()> {
        self.check_writable()?;
        let mut state = self.lock();
        let inode = state.tree.inode_mut(ino)?;
        inode.accessed = times.accessed.unwrap_or(inode.accessed);
        inode.modified = times.modified.unwrap_or(inode.modified);
        inode.changed = SystemTime::now();
        Ok(())
    }

    pub(in crate::files) fn set_mode(&self, ino: Ino, mode: u16) -> FsResult<()> {
        self.check_writable()?;
        Ok(self.lock().tree.set_mode(ino, mode, SystemTime::now())?)
    }

    /// Sets the bits that the permissions of new files do not have.
    pub(in crate::files) fn set_umask(&self, mask: u16) {
        self.lock().tree.set_umask(mask);
    }
}

/// Returns the number that identifies an inode to the guest. In the mounts it is the hash
/// of a number of the machine, here it is that of the inode.
pub(in crate::files) fn hash(ino: Ino) -> MetadataHashValue {
    MetadataHashValue { lower: u64::from(ino) + 1, upper: 0x6973_6f6c_6100_0002 }
}

/// Returns the inode of the lower half of a [`hash`].
pub(in crate::files) fn ino_of(lower: u64) -> Option<Ino> {
    lower.checked_sub(1).and_then(|ino| Ino::try_from(ino).ok())
}

/// The bit beside the permissions in the number of links.
const MODE_PRESENT: u32 = 0x8000_0000;

fn stat(inode: &Inode) -> DescriptorStat {
    DescriptorStat {
        type_: descriptor_type(inode),
        // WASI has no permissions: see `set-mode` in the contract.
        link_count: u64::from(MODE_PRESENT | u32::from(inode.mode)) << 32 | u64::from(inode.links),
        size: inode.size(),
        data_access_timestamp: timestamp(inode.accessed),
        data_modification_timestamp: timestamp(inode.modified),
        status_change_timestamp: timestamp(inode.changed),
    }
}

/// Returns the kind of a file in the terms of WASI.
pub(super) fn descriptor_type(inode: &Inode) -> DescriptorType {
    match inode.kind {
        Kind::Directory(_) => DescriptorType::Directory,
        Kind::File(_) => DescriptorType::RegularFile,
        Kind::Link(_) => DescriptorType::SymbolicLink,
        Kind::Device(_) => DescriptorType::CharacterDevice,
    }
}

impl From<FileFailure> for ErrorCode {
    fn from(failure: FileFailure) -> Self {
        match failure {
            FileFailure::NotFound => Self::NoEntry,
            FileFailure::Exists => Self::Exist,
            FileFailure::NotEmpty => Self::NotEmpty,
            FileFailure::NotADirectory => Self::NotDirectory,
            FileFailure::IsADirectory => Self::IsDirectory,
            FileFailure::NoSpace => Self::InsufficientSpace,
            FileFailure::TooLarge => Self::FileTooLarge,
            FileFailure::TooManyLinks => Self::TooManyLinks,
            FileFailure::Mounted => Self::CrossDevice,
            FileFailure::Loop => Self::Loop,
            FileFailure::NameTooLong => Self::NameTooLong,
            FileFailure::Busy => Self::Busy,
            FileFailure::NotPermitted => Self::NotPermitted,
            FileFailure::ReadOnly => Self::ReadOnly,
            FileFailure::Invalid => Self::Invalid,
            FileFailure::Io => Self::Io,
        }
    }
}

impl From<FileFailure> for FsError {
    fn from(failure: FileFailure) -> Self {
        ErrorCode::from(failure).into()
    }
}

impl PathEntry {
    /// Returns the inode, or the error for an entry that does not exist.
    pub(in crate::files) fn inode(&self) -> FsResult<Ino> {
        Ok(self.existing()?)
    }
}

impl PrivateHandle {
    /// Returns the handle if it is a directory.
    pub(in crate::files) fn directory_only(self) -> FsResult<Self> {
        if self.directory { Ok(self) } else { Err(FileFailure::NotADirectory.into()) }
    }

    /// Returns the handle if it is a file that was opened for reading.
    pub(in crate::files) fn readable(self) -> FsResult<Self> {
        match (self.directory, self.reads) {
            (true, _) => Err(FileFailure::IsADirectory.into()),
            (false, false) => Err(ErrorCode::BadDescriptor.into()),
            (false, true) => Ok(self),
        }
    }

    /// Returns the handle if it is a file that was opened for writing.
    pub(in crate::files) fn writable(self) -> FsResult<Self> {
        match (self.directory, self.writes) {
            (true, _) => Err(FileFailure::IsADirectory.into()),
            (false, false) => Err(ErrorCode::BadDescriptor.into()),
            (false, true) => Ok(self),
        }
    }

    pub(in crate::files) fn read(&self, offset: u64, length: usize) -> FsResult<Vec<u8>> {
        let mut state = self.open.files.lock();
        Ok(state.tree.read(self.open.ino, offset, length, SystemTime::now())?)
    }

    pub(in crate::files) fn write(&self, offset: u64, bytes: &[u8]) -> FsResult<usize> {
        let mut state = self.open.files.lock();
        Ok(state.tree.write(self.open.ino, Some(offset), bytes, SystemTime::now())?.0)
    }

    pub(in crate::files) fn set_size(&self, size: u64) -> FsResult<()> {
        Ok(self.open.files.lock().tree.set_size(self.open.ino, size, SystemTime::now())?)
    }
}
