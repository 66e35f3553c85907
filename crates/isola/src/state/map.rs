//! Maps an image over the linear memory of a guest: the only unsafe step of a
//! fork.
//!
//! wasmtime reserves 4 GiB of addresses for each linear memory and makes the
//! first part accessible, up to the current size of the memory. A private mapping
//! of an image replaces exactly that part: reads go to the image until the guest
//! writes to a page, which creates a private copy of it.
//!
//! The invariants, and what upholds them:
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
//! 4. *The image cannot change or shrink*: it is sealed (`image.rs`). So no
//!    access beyond its end raises a signal, and no guest sees another's write.

use std::io;

use wasmtime::{StoreContextMut, component::WasmList};

use super::image::Image;

/// A range of pages of a memory: the first page and the number of pages.
pub(crate) type PageRange = (u32, u32);

/// Replaces the content of a memory by an image of the same size.
#[cfg(unix)]
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

/// Returns the pages of a memory that the guest has written since an image was
/// mapped over it. Empty if the kernel does not provide the information.
#[cfg(target_os = "linux")]
pub(crate) fn written<T: 'static>(
    store: &StoreContextMut<'_, T>,
    memory: &WasmList<u8>,
) -> Vec<PageRange> {
    use std::os::unix::fs::FileExt as _;

    /// Bits of a page's 64-bit entry in `/proc/self/pagemap`: the page is present,
    /// and it is a page of a file.
    const PRESENT: u64 = 1 << 63;
    const OF_A_FILE: u64 = 1 << 61;

    let bytes = memory.as_le_slice(store);
    let size = rustix::param::page_size();
    let mut raw = vec![0; bytes.len() / size * 8];
    let from = (bytes.as_ptr().addr() / size * 8) as u64;
    let read = std::fs::File::open("/proc/self/pagemap")
        .and_then(|pagemap| pagemap.read_exact_at(&mut raw, from));
    if read.is_err() {
        return Vec::new();
    }
    let (entries, _) = raw.as_chunks::<8>();
    let mut pages: Vec<PageRange> = Vec::new();
    for (number, entry) in (0..).zip(entries) {
        if u64::from_ne_bytes(*entry) & (PRESENT | OF_A_FILE) != PRESENT {
            continue;
        }
        match pages.last_mut() {
            Some((first, count)) if *first + *count == number => *count += 1,
            _ => pages.push((number, 1)),
        }
    }
    pages
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
