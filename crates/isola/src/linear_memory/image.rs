//! The memory of a guest as a file, which is mapped into other guests.

use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom, Write as _},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

#[cfg(target_os = "linux")]
use super::{slot::FREE_SLOTS, view::View};

/// The granularity at which zero memory is omitted, in bytes.
const PAGE_BYTES: usize = 4096;

/// The size of one read, in bytes.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// The content of a linear memory, which is immutable.
pub(crate) struct Image {
    file: File,
    len: usize,
    checksum: OnceLock<u32>,
    /// No other image of this process has the same.
    number: u64,
    /// `true` if more than one guest is created with it, as far as that is known.
    has_more_guests: AtomicBool,
    /// Present after it was copied over the memory of a guest that had ended.
    #[cfg(target_os = "linux")]
    view: OnceLock<View>,
}

#[cfg(target_os = "linux")]
impl Drop for Image {
    fn drop(&mut self) {
        FREE_SLOTS.remove(self.number);
    }
}

impl Image {
    /// Returns the image that a file contains. The file must not change any more.
    pub(crate) fn of_file(file: File) -> io::Result<Self> {
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        Ok(Self::new(file, len))
    }

    fn new(file: File, len: usize) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self {
            file,
            len,
            number: LAST.fetch_add(1, Relaxed),
            checksum: OnceLock::new(),
            has_more_guests: AtomicBool::new(false),
            #[cfg(target_os = "linux")]
            view: OnceLock::new(),
        }
    }

    /// Returns its content.
    #[cfg(target_os = "linux")]
    pub(crate) fn bytes(&self) -> io::Result<&[u8]> {
        if let Some(view) = self.view.get() {
            return Ok(view.bytes());
        }
        let view = View::of(&self.file, self.len)?;
        Ok(self.view.get_or_init(|| view).bytes())
    }

    /// Returns the number of this image in this process.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Records that guests will be created with it again, and reports whether that was known.
    pub(crate) fn expect_more_guests(&self) -> bool {
        self.has_more_guests.swap(true, Relaxed)
    }

    /// Returns its length, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Reads a part of it. Bytes beyond its end are zero.
    pub(crate) fn read(&self, at: usize, into: &mut [u8]) -> io::Result<()> {
        let available = self.len.saturating_sub(at).min(into.len());
        let (inside, beyond) = into.split_at_mut(available);
        beyond.fill(0);
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

    /// Returns the CRC-32 of its content, which is computed once.
    pub(crate) fn checksum(&self) -> io::Result<u32> {
        if let Some(sum) = self.checksum.get() {
            return Ok(*sum);
        }
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut digest = crc32fast::Hasher::new();
        for at in (0..self.len).step_by(CHUNK_BYTES) {
            let part = &mut buffer[..CHUNK_BYTES.min(self.len - at)];
            self.read(at, part)?;
            digest.update(part);
        }
        Ok(*self.checksum.get_or_init(|| digest.finalize()))
    }

    /// Returns the memory that it takes, in bytes.
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

/// An image that is being written. Bytes that are not written are zero.
pub(crate) struct ImageWriter {
    file: File,
    len: usize,
}

impl ImageWriter {
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

    /// Copies a part of a memory that starts at a page. Pages that are zero take no
    /// memory.
    pub(crate) fn copy(&mut self, from: usize, part: &[u8]) -> io::Result<()> {
        let mut start = 0;
        while start < part.len() {
            let used = |at: usize| at < part.len() && !is_zero(&part[at..page_end(at, part)]);
            if !used(start) {
                start += PAGE_BYTES;
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
        Ok(Image::new(self.file, self.len))
    }
}

fn page_end(at: usize, memory: &[u8]) -> usize {
    (at + PAGE_BYTES).min(memory.len())
}

pub(crate) fn is_zero(page: &[u8]) -> bool {
    // Most pages that are not zero differ within their first bytes.
    page.iter().take(64).all(|byte| *byte == 0) && page.iter().all(|byte| *byte == 0)
}

#[cfg(target_os = "linux")]
fn create() -> io::Result<File> {
    use rustix::fs::{MemfdFlags, memfd_create};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(memfd_create("isola-image", flags)?.into())
}

/// Seals the file, so that the kernel rejects any change of it.
///
/// `FUTURE_WRITE` excludes existing shared mappings, of which there are none, and
/// never fails. `WRITE` fails with `EBUSY` whenever the kernel itself holds a
/// reference to one of the pages.
#[cfg(target_os = "linux")]
fn seal(file: &File) -> io::Result<()> {
    use rustix::fs::{SealFlags, fcntl_add_seals};
    let seals = SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    Ok(fcntl_add_seals(file, seals)?)
}

/// Creates a file without a name, which no other process can open.
#[cfg(not(target_os = "linux"))]
fn create() -> io::Result<File> {
    tempfile::tempfile()
}

#[cfg(not(target_os = "linux"))]
fn seal(_: &File) -> io::Result<()> {
    Ok(())
}
