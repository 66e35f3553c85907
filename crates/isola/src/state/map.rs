//! The image of a guest's memory, and the pages that the guest has written.
//!
//! On Linux the memory is a mapping of the image from the start (`linear_memory`). On other
//! Unix systems a private mapping of the image replaces the memory that wasmtime has created:
//! reads go to the image until the guest writes to a page, which creates a private copy of it.
//!
//! The invariants of that replacement, and what upholds them:
//!
//! 1. *The range is exactly the memory of this guest.* It is the slice that
//!    wasmtime returns for the list `(0, memory.size)` that our accessor passed
//!    (`instrument/accessor.rs`); no other code can call the function that takes
//!    it. wasmtime finally unmaps the complete reservation, whatever is mapped
//!    within.
//! 2. *The protection is unchanged*, readable and writable only, so wasmtime's
//!    record of the accessible part stays true. Growth continues after it.
//! 3. *No other code accesses the memory's bytes.* The store is borrowed
//!    exclusively and the borrow of the slice has ended; the guest's code that
//!    runs is the accessor, which keeps no part of the memory in registers.
//! 4. *The image cannot change or shrink*: it is sealed (`linear_memory/image.rs`). So no
//!    access beyond its end raises a signal, and no guest sees another's write.

use std::io;

use wasmtime::{StoreContextMut, component::WasmList};

#[cfg(target_os = "linux")]
use crate::linear_memory::own_pages;
use crate::linear_memory::{PageRange, image::Image};

/// Verifies that a memory has the size of the image that it is a mapping of.
#[cfg(target_os = "linux")]
pub(crate) fn fill<T: 'static>(
    store: &mut StoreContextMut<'_, T>,
    memory: &WasmList<u8>,
    image: &Image,
) -> io::Result<()> {
    let len = memory.as_le_slice(&*store).len();
    if len != image.len() {
        let image = image.len();
        return Err(io::Error::other(format!("a memory of {len} bytes for an image of {image}")));
    }
    Ok(())
}

/// Replaces the content of a memory by an image of the same size.
#[cfg(all(unix, not(target_os = "linux")))]
#[allow(unsafe_code, reason = "mapping over a memory that wasmtime owns")]
pub(crate) fn fill<T: 'static>(
    store: &mut StoreContextMut<'_, T>,
    memory: &WasmList<u8>,
    image: &Image,
) -> io::Result<()> {
    use rustix::mm::{MapFlags, ProtFlags, mmap};

    let bytes = memory.as_le_slice(&*store);
    let (start, len) = (bytes.as_ptr().cast_mut(), bytes.len());
    if len != image.len() {
        return Err(io::Error::other(format!(
            "cannot map an image of {} bytes over a memory of {len} bytes",
            image.len()
        )));
    }
    if len == 0 {
        return Ok(());
    }
    if !start.addr().is_multiple_of(rustix::param::page_size()) {
        return Err(io::Error::other("the memory does not start at a page boundary"));
    }
    // SAFETY: the range is a complete linear memory (1), which `store` keeps mapped
    // and borrows exclusively (3). Its pages are replaced by pages of the same
    // protection (2) that stay accessible as long as they are mapped (4). The
    // bytes are plain data, of which every value is valid.
    unsafe {
        mmap(
            start.cast(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::FIXED,
            image.file(),
            0,
        )?;
    }
    Ok(())
}

/// Creates private copies of pages that the guest is expected to write: in one
/// system call for each range, instead of one page fault for each page. If the
/// kernel does not support it, the guest is only slower.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "advice about a memory that wasmtime owns")]
pub(crate) fn populate<T: 'static>(
    store: &mut StoreContextMut<'_, T>,
    memory: &WasmList<u8>,
    pages: &[PageRange],
) {
    use rustix::mm::{Advice, madvise};

    let bytes = memory.as_le_slice(&*store);
    let size = rustix::param::page_size();
    for (first, count) in pages {
        let (from, len) = (*first as usize * size, *count as usize * size);
        let Some(part) = bytes.get(from..from.saturating_add(len)) else { return };
        // SAFETY: the range is within the memory (1), and the advice changes
        // neither its content nor its protection (2).
        let done =
            unsafe { madvise(part.as_ptr().cast_mut().cast(), len, Advice::LinuxPopulateWrite) };
        if done.is_err() {
            return;
        }
    }
}

/// Returns the pages of a memory that differ from its image, or did when an earlier guest had
/// this memory. Empty if the kernel does not provide the information.
#[cfg(target_os = "linux")]
pub(crate) fn written<T: 'static>(
    store: &StoreContextMut<'_, T>,
    memory: &WasmList<u8>,
) -> Vec<PageRange> {
    let bytes = memory.as_le_slice(store);
    own_pages(bytes.as_ptr().addr(), bytes.len()).unwrap_or_default()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn populate<T: 'static>(
    _: &mut StoreContextMut<'_, T>,
    _: &WasmList<u8>,
    _: &[PageRange],
) {
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn written<T: 'static>(_: &StoreContextMut<'_, T>, _: &WasmList<u8>) -> Vec<PageRange> {
    Vec::new()
}

#[cfg(not(unix))]
pub(crate) fn fill<T: 'static>(
    _: &mut StoreContextMut<'_, T>,
    _: &WasmList<u8>,
    _: &Image,
) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "snapshots require a Unix system"))
}
