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

#[cfg(not(unix))]
pub(crate) fn fill<T: 'static>(
    _: &mut StoreContextMut<'_, T>,
    _: &WasmList<u8>,
    _: &Image,
) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "snapshots need a Unix system"))
}
