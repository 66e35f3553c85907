//! Maps an image over the linear memory of a guest: the one unsafe step of a
//! fork.
//!
//! wasmtime reserves 4 GiB of addresses for each linear memory and makes its
//! first part accessible, as far as the memory has grown. A private mapping of
//! an image takes the place of exactly that part: reads go to the image until
//! the guest writes to a page, and then it has a copy of its own.
//!
//! What has to hold, and who upholds it:
//!
//! 1. *The range is the memory of this guest, all of it and nothing else.* It
//!    is the slice that wasmtime gives for the list `(0, memory.size)` which
//!    our accessor handed over (`instrument/accessor.rs`); no other code has
//!    the function that takes it. wasmtime unmaps the whole reservation at its
//!    end, whatever is mapped within.
//! 2. *Protection stays as it was*, readable and writable and nothing beyond,
//!    so what wasmtime knows of the accessible part stays true. Growth goes on
//!    behind it.
//! 3. *Nobody else looks at the memory's bytes.* The store is borrowed
//!    exclusively and the slice has ended; the guest's code that runs is the
//!    accessor, which keeps nothing of the memory in registers.
//! 4. *The image cannot change or shrink*: it is sealed (`image.rs`). So no
//!    access behind its end raises a signal, and no guest sees another's write.

use std::io;

use wasmtime::{StoreContextMut, component::WasmList};

use super::image::Image;

/// Pages of a memory one after the other: the first, and their number.
pub(crate) type Pages = (u32, u32);

/// Puts an image in the place of a memory's content. Both are of one size.
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
            "a memory of {len} bytes cannot take an image of {}",
            image.len()
        )));
    }
    if len == 0 {
        return Ok(());
    }
    if !start.addr().is_multiple_of(rustix::param::page_size()) {
        return Err(io::Error::other("the memory does not begin at a page"));
    }
    // SAFETY: the range is a whole linear memory (1), which `store` keeps alive
    // and keeps others from (3). Its pages are replaced by pages of the same
    // protection (2) that stay accessible as long as they are mapped (4). The
    // bytes are plain data, of which every value is fine.
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

/// Gives a guest its own copy of pages that it is going to write anyway: all at
/// once in the kernel, instead of with a page fault each. Where that cannot be
/// had, nothing is lost but time.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "advice about a memory that wasmtime owns")]
pub(crate) fn populate<T: 'static>(
    store: &mut StoreContextMut<'_, T>,
    memory: &WasmList<u8>,
    pages: &[Pages],
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

/// The pages of a memory that the guest has written since an image was mapped
/// there. None if the kernel does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn written<T: 'static>(
    store: &StoreContextMut<'_, T>,
    memory: &WasmList<u8>,
) -> Vec<Pages> {
    use std::os::unix::fs::FileExt as _;

    /// What the kernel says of each page: 64 bits, of which two tell that it is
    /// there, and that it is one of a file.
    const PRESENT: u64 = 1 << 63;
    const OF_A_FILE: u64 = 1 << 61;

    let bytes = memory.as_le_slice(store);
    let size = rustix::param::page_size();
    let mut told = vec![0; bytes.len() / size * 8];
    let from = (bytes.as_ptr().addr() / size * 8) as u64;
    let read = std::fs::File::open("/proc/self/pagemap")
        .and_then(|pagemap| pagemap.read_exact_at(&mut told, from));
    if read.is_err() {
        return Vec::new();
    }
    let (entries, _) = told.as_chunks::<8>();
    let mut pages: Vec<Pages> = Vec::new();
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
pub(crate) fn populate<T: 'static>(_: &mut StoreContextMut<'_, T>, _: &WasmList<u8>, _: &[Pages]) {}

#[cfg(not(target_os = "linux"))]
pub(crate) fn written<T: 'static>(_: &StoreContextMut<'_, T>, _: &WasmList<u8>) -> Vec<Pages> {
    Vec::new()
}

#[cfg(not(unix))]
pub(crate) fn fill<T: 'static>(
    _: &mut StoreContextMut<'_, T>,
    _: &WasmList<u8>,
    _: &Image,
) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "snapshots need a Unix system"))
}
