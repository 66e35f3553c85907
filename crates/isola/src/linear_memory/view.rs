//! A read-only mapping of an image, from which parts of it are copied.

use std::{fs::File, io, ptr::NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A mapping of a file that does not change or shrink.
pub(super) struct View {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is read-only, and belongs to this value.
#[allow(unsafe_code, reason = "an address of memory that is owned")]
unsafe impl Send for View {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "an address of memory that is owned")]
unsafe impl Sync for View {}

impl View {
    #[allow(unsafe_code, reason = "a new mapping")]
    pub(super) fn of(file: &File, len: usize) -> io::Result<Self> {
        // SAFETY: the kernel chooses addresses that nothing uses.
        let start = unsafe {
            mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::PRIVATE, file, 0)
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    #[allow(unsafe_code, reason = "the bytes of a mapping")]
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped as long as this value exists, and nothing writes to it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for View {
    #[allow(unsafe_code, reason = "unmapping owned addresses")]
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to this value, which ends here.
        unsafe {
            let _ = munmap(self.start.as_ptr().cast(), self.len);
        }
    }
}
