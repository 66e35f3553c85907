//! The operations on files that are functions of the contract, for a guest without a C
//! library. They consist of those of `wasi:filesystem`, and so have the same rights and
//! limits.

use wasmtime::{Result, component::Resource};
use wasmtime_wasi::{
    filesystem::Descriptor,
    p2::{
        FsError, FsResult,
        bindings::filesystem::types::{
            DescriptorFlags, DescriptorType, ErrorCode, HostDescriptor, HostDirectoryEntryStream,
            OpenFlags, PathFlags,
        },
    },
};

use super::{
    Files,
    errors::{message, posix_name},
    private::{HOME, operations},
};
use crate::contract::{FileEntry, FileFailure, FileKind};

/// The largest number of entries of a directory that are listed.
const MAX_ENTRIES: usize = 100_000;

/// The result of an operation; the outer error ends the guest.
type Outcome<T> = Result<Result<T, FileFailure>>;

impl Files<'_> {
    /// Returns the content of a file, of at most `max` bytes.
    pub(crate) async fn read_file(&mut self, path: &str, max: usize) -> Outcome<Vec<u8>> {
        let content = self.read_all(path, max).await;
        outcome(content, path)
    }

    async fn read_all(&mut self, path: &str, max: usize) -> FsResult<Vec<u8>> {
        let file = self.open_path(path, OpenFlags::empty(), DescriptorFlags::READ).await?;
        let content = self.read_to_end(&file, max).await;
        HostDescriptor::drop(self, file).map_err(FsError::trap)?;
        content
    }

    async fn read_to_end(&mut self, file: &Resource<Descriptor>, max: usize) -> FsResult<Vec<u8>> {
        let mut content = Vec::new();
        loop {
            let (part, end) = self.read(borrow(file), u64::MAX, content.len() as u64).await?;
            content.extend_from_slice(&part);
            if content.len() > max {
                return Err(ErrorCode::FileTooLarge.into());
            }
            if end {
                return Ok(content);
            }
        }
    }

    /// Writes a file, and creates it and the missing directories above it.
    pub(crate) async fn write_file(
        &mut self,
        path: &str,
        content: Vec<u8>,
        append: bool,
    ) -> Outcome<()> {
        let written = self.write_all(path, content, append).await;
        outcome(written, path)
    }

    async fn write_all(&mut self, path: &str, content: Vec<u8>, append: bool) -> FsResult<()> {
        let how = if append { OpenFlags::CREATE } else { OpenFlags::CREATE | OpenFlags::TRUNCATE };
        let file = match self.open_path(path, how, DescriptorFlags::WRITE).await {
            Err(error) if is(&error, ErrorCode::NoEntry) => {
                self.create_parents(path).await?;
                self.open_path(path, how, DescriptorFlags::WRITE).await?
            }
            opened => opened?,
        };
        let written = self.write_to(&file, &content, append).await;
        HostDescriptor::drop(self, file).map_err(FsError::trap)?;
        written
    }

    async fn write_to(
        &mut self,
        file: &Resource<Descriptor>,
        content: &[u8],
        append: bool,
    ) -> FsResult<()> {
        let start = if append { self.stat(borrow(file)).await?.size } else { 0 };
        let mut at = 0;
        while at < content.len() {
            let part = &content[at..content.len().min(at + super::host::MAX_TRANSFER_BYTES)];
            let written = self.write(borrow(file), part.to_vec(), start + at as u64).await?;
            at += written as usize;
        }
        Ok(())
    }

    async fn create_parents(&mut self, path: &str) -> FsResult<()> {
        let path = path.trim_end_matches('/');
        for (end, _) in path.match_indices('/').filter(|(end, _)| *end > 0) {
            let (start, relative) = self.start(&path[..end]).await?;
            let created = self.create_directory_at(borrow(&start), relative).await;
            HostDescriptor::drop(self, start).map_err(FsError::trap)?;
            match created {
                Err(error) if !is(&error, ErrorCode::Exist) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the entries of a directory, sorted by name.
    pub(crate) async fn list_files(&mut self, path: &str) -> Outcome<Vec<FileEntry>> {
        let entries = self.list_all(path).await;
        outcome(entries, path)
    }

    async fn list_all(&mut self, path: &str) -> FsResult<Vec<FileEntry>> {
        let directory = self.open_path(path, OpenFlags::DIRECTORY, DescriptorFlags::READ).await?;
        let entries = self.entries(&directory).await;
        HostDescriptor::drop(self, directory).map_err(FsError::trap)?;
        let mut entries = entries?;
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    async fn entries(&mut self, directory: &Resource<Descriptor>) -> FsResult<Vec<FileEntry>> {
        let stream = self.read_directory(borrow(directory)).await?;
        let mut entries = Vec::new();
        let ended = loop {
            match self.read_directory_entry(Resource::new_borrow(stream.rep())).await {
                Ok(Some(_)) if entries.len() == MAX_ENTRIES => {
                    break Err(ErrorCode::InsufficientMemory.into());
                }
                Ok(Some(entry)) => entries.push(entry),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        HostDirectoryEntryStream::drop(self, stream).map_err(FsError::trap)?;
        ended?;
        let mut found = Vec::with_capacity(entries.len());
        for entry in entries {
            let name = entry.name.clone();
            let stat = match self.stat_at(borrow(directory), PathFlags::empty(), name).await {
                // It was removed in the meantime.
                Err(error) if is(&error, ErrorCode::NoEntry) => continue,
                stat => stat?,
            };
            let modified = stat.data_modification_timestamp.map_or(0.0, |time| {
                time.seconds.cast_signed() as f64 * 1e3 + f64::from(time.nanoseconds) / 1e6
            });
            let kind = match entry.type_ {
                DescriptorType::RegularFile => FileKind::File,
                DescriptorType::Directory => FileKind::Directory,
                DescriptorType::SymbolicLink => FileKind::Link,
                _ => FileKind::Other,
            };
            let size = if kind == FileKind::File { stat.size } else { 0 };
            found.push(FileEntry { name: entry.name, kind, size, modified });
        }
        Ok(found)
    }

    /// Removes a file, or an empty directory.
    pub(crate) async fn remove_file(&mut self, path: &str) -> Outcome<()> {
        let removed = self.remove(path).await;
        outcome(removed, path)
    }

    async fn remove(&mut self, path: &str) -> FsResult<()> {
        let (start, relative) = self.start(path).await?;
        let removed = match self.unlink_file_at(borrow(&start), relative.clone()).await {
            // The error for a directory: the first by this implementation and Linux, the
            // second by POSIX.
            Err(error)
                if is(&error, ErrorCode::IsDirectory) || is(&error, ErrorCode::NotPermitted) =>
            {
                match self.remove_directory_at(borrow(&start), relative).await {
                    Err(other) if is(&other, ErrorCode::NotDirectory) => Err(error),
                    removed => removed,
                }
            }
            removed => removed,
        };
        HostDescriptor::drop(self, start).map_err(FsError::trap)?;
        removed
    }

    /// Sets the permissions of the private file that a hash identifies. Returns `false` if
    /// there is none.
    pub(crate) fn set_mode(&mut self, file: u64, mode: u32) -> bool {
        let ino = operations::ino_of(file);
        ino.is_some_and(|ino| self.files.private.set_mode(ino, mode as u16).is_ok())
    }

    /// Sets the bits that the permissions of new private files do not have.
    pub(crate) fn set_umask(&mut self, mask: u32) {
        self.files.private.set_umask(mask as u16);
    }

    async fn open_path(
        &mut self,
        path: &str,
        how: OpenFlags,
        access: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        let (start, relative) = self.start(path).await?;
        let follow = PathFlags::SYMLINK_FOLLOW;
        let opened = self.open_at(borrow(&start), follow, relative, how, access).await;
        HostDescriptor::drop(self, start).map_err(FsError::trap)?;
        opened
    }

    /// Opens the directory in which a path starts, and returns the path from there.
    async fn start(&mut self, path: &str) -> FsResult<(Resource<Descriptor>, String)> {
        if path.is_empty() {
            return Err(ErrorCode::NoEntry.into());
        }
        let root = self.files.private.open_root()?;
        let root = Resource::new_own(self.table.push(root)?.rep());
        let absolute = path.starts_with('/') || self.files.private.check_writable().is_err();
        if absolute {
            let relative = path.trim_start_matches('/');
            return Ok((root, if relative.is_empty() { "." } else { relative }.to_owned()));
        }
        // The guest may have removed its home.
        let home = HOME.trim_start_matches('/').to_owned();
        let how = (PathFlags::SYMLINK_FOLLOW, OpenFlags::DIRECTORY, DescriptorFlags::READ);
        let home = self.open_at(borrow(&root), how.0, home, how.1, how.2).await;
        HostDescriptor::drop(self, root).map_err(FsError::trap)?;
        Ok((home?, path.to_owned()))
    }
}

fn borrow(descriptor: &Resource<Descriptor>) -> Resource<Descriptor> {
    Resource::new_borrow(descriptor.rep())
}

fn is(error: &FsError, code: ErrorCode) -> bool {
    error.downcast_ref() == Some(&code)
}

fn outcome<T>(result: FsResult<T>, path: &str) -> Outcome<T> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) => {
            let code = error.downcast()?;
            let (code, why) = (posix_name(code), message(code));
            Ok(Err(FileFailure { code: code.to_owned(), message: format!("{why}: {path:?}") }))
        }
    }
}
