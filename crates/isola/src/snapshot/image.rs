//! The memory of a guest as a file in memory, to be mapped into others.

use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom, Write as _},
    sync::OnceLock,
};

use super::format::PAGE;

/// So much is read at once.
pub(crate) const CHUNK: usize = 1 << 20;

/// The content of a linear memory. Nobody can change it any more.
pub(crate) struct Image {
    file: File,
    len: usize,
    checksum: OnceLock<u32>,
}

impl Image {
    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Reads a part of it; what is behind its end is zero.
    pub(crate) fn read(&self, at: usize, into: &mut [u8]) -> io::Result<()> {
        let there = self.len.saturating_sub(at).min(into.len());
        let (inside, behind) = into.split_at_mut(there);
        behind.fill(0);
        #[cfg(unix)]
        {
            use std::os::unix::fs::FileExt as _;
            self.file.read_exact_at(inside, at as u64)
        }
        #[cfg(not(unix))]
        {
            use std::io::Read as _;
            let mut file = self.file.try_clone()?;
            file.seek(SeekFrom::Start(at as u64))?;
            file.read_exact(inside)
        }
    }

    /// The CRC-32 of its content, which does not change.
    pub(crate) fn checksum(&self) -> io::Result<u32> {
        if let Some(sum) = self.checksum.get() {
            return Ok(*sum);
        }
        let mut buffer = vec![0; CHUNK];
        let mut digest = crc32fast::Hasher::new();
        for at in (0..self.len).step_by(CHUNK) {
            let part = &mut buffer[..CHUNK.min(self.len - at)];
            self.read(at, part)?;
            digest.update(part);
        }
        Ok(*self.checksum.get_or_init(|| digest.finalize()))
    }

    /// How many bytes of memory it takes.
    pub(crate) fn resident(&self) -> u64 {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            self.file.metadata().map_or(0, |metadata| metadata.blocks() * 512)
        }
        #[cfg(not(unix))]
        {
            self.len as u64
        }
    }
}

/// An image that is being written. What is not written is zero.
pub(crate) struct Writer {
    file: File,
    len: usize,
}

impl Writer {
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let file = create()?;
        file.set_len(len as u64)?;
        Ok(Self { file, len })
    }

    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) -> io::Result<()> {
        if at.checked_add(bytes.len()).is_none_or(|end| end > self.len) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "beyond the image's end"));
        }
        self.file.seek(SeekFrom::Start(at as u64))?;
        self.file.write_all(bytes)
    }

    /// Copies a part of a memory, from the beginning of a page on. Pages that
    /// are all zero take no room.
    pub(crate) fn copy(&mut self, from: usize, part: &[u8]) -> io::Result<()> {
        let mut start = 0;
        while start < part.len() {
            let used = |at: usize| at < part.len() && !is_empty(&part[at..page_end(at, part)]);
            if !used(start) {
                start += PAGE;
                continue;
            }
            let mut end = start;
            while used(end) {
                end = page_end(end, part);
            }
            self.write(from + start, &part[start..end])?;
            start = end;
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> io::Result<Image> {
        seal(&self.file)?;
        Ok(Image { file: self.file, len: self.len, checksum: OnceLock::new() })
    }
}

fn page_end(at: usize, memory: &[u8]) -> usize {
    (at + PAGE).min(memory.len())
}

pub(crate) fn is_empty(page: &[u8]) -> bool {
    // Most pages that are in use say so within their first bytes.
    page.iter().take(64).all(|byte| *byte == 0) && page.iter().all(|byte| *byte == 0)
}

#[cfg(target_os = "linux")]
fn create() -> io::Result<File> {
    use rustix::fs::{MemfdFlags, memfd_create};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(memfd_create("isola-image", flags)?.into())
}

/// From here on the kernel refuses to change the file.
///
/// `FUTURE_WRITE` excepts shared mappings that exist, of which there are none;
/// in return it never fails. `WRITE` does, with `EBUSY`, whenever the kernel
/// itself holds one of the pages for a moment.
#[cfg(target_os = "linux")]
fn seal(file: &File) -> io::Result<()> {
    use rustix::fs::{SealFlags, fcntl_add_seals};
    let seals = SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    Ok(fcntl_add_seals(file, seals)?)
}

/// A file without a name, which nobody but this process can open.
#[cfg(not(target_os = "linux"))]
fn create() -> io::Result<File> {
    tempfile::tempfile()
}

#[cfg(not(target_os = "linux"))]
fn seal(_: &File) -> io::Result<()> {
    Ok(())
}
