//! Creates the memories of guests for wasmtime.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use super::{
    image::Image,
    slot::{FREE_SLOTS, Layout, Slot},
};

/// The memory that the next guest of this task is created with.
struct Wanted {
    image: Arc<Image>,
    /// Memory may be used by several guests, one after the other.
    reuse: bool,
    /// Set if the memory had been used before.
    reused: Arc<AtomicBool>,
}

tokio::task_local! {
    static WANTED: RefCell<Option<Wanted>>;
}

/// Runs an instantiation, whose memory begins with an image. Also reports whether the
/// memory had been used before.
pub(crate) async fn create_with<T>(
    image: Option<Arc<Image>>,
    reuse: bool,
    instantiation: Pin<Box<dyn Future<Output = T> + Send + '_>>,
) -> (T, bool) {
    let reused = Arc::new(AtomicBool::new(false));
    let wanted = image.map(|image| Wanted { image, reuse, reused: Arc::clone(&reused) });
    let output = WANTED.scope(RefCell::new(wanted), instantiation).await;
    (output, reused.load(Relaxed))
}

/// Creates the memories of an engine.
pub(crate) struct Creator;

// SAFETY: the memories have the reserved addresses and guards (1). Those with an image do
// not begin with zeros, but with what the removed data of their component would write.
#[allow(unsafe_code, reason = "memory for wasmtime")]
unsafe impl MemoryCreator for Creator {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        _: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let wanted = WANTED.try_with(|wanted| wanted.borrow_mut().take()).ok().flatten();
        let reserved = reserved.unwrap_or(minimum).max(minimum);
        let layout = Layout { reserved, guard };
        let failed =
            |error: std::io::Error| format!("cannot create the memory of a guest: {error}");
        let Some(Wanted { image, reuse, reused }) = wanted else {
            let mut slot = Slot::reserve(layout).map_err(failed)?;
            slot.grow_to(minimum).map_err(failed)?;
            return Ok(Box::new(OwnMemory { slot: Some(slot), image: Weak::new() }));
        };
        if image.len() < minimum {
            return Err(format!(
                "an image of {} bytes for a memory of {minimum} bytes",
                image.len()
            ));
        }
        // The first guest of a copied state may be the only one.
        let reuse = reuse && image.expect_more_guests();
        let free = if reuse { FREE_SLOTS.take(image.number(), layout) } else { None };
        let slot = match free {
            Some(slot) => {
                reused.store(true, Relaxed);
                slot
            }
            None => Slot::mapping(layout, image.file(), image.len()).map_err(failed)?,
        };
        let image = if reuse { Arc::downgrade(&image) } else { Weak::new() };
        Ok(Box::new(OwnMemory { slot: Some(slot), image }))
    }
}

/// The memory of a guest.
struct OwnMemory {
    /// Present until the guest ends.
    slot: Option<Slot>,
    /// The image to which the memory is set back when the guest has ended, if it is to be used
    /// again. The mapping does not need it, and its file descriptor would be one for each copy.
    image: Weak<Image>,
}

impl Drop for OwnMemory {
    fn drop(&mut self) {
        // Held until the slot is in the list: the end of the image removes its slots.
        let Some((image, mut slot)) = self.image.upgrade().zip(self.slot.take()) else { return };
        match image.bytes().and_then(|bytes| slot.reset(bytes)) {
            Ok(true) => FREE_SLOTS.add(image.number(), slot),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "the memory of a guest is not used again"),
        }
    }
}

// SAFETY: a slot does not move, and only its accessible part is reported.
#[allow(unsafe_code, reason = "memory for wasmtime")]
unsafe impl LinearMemory for OwnMemory {
    fn byte_size(&self) -> usize {
        self.slot.as_ref().map_or(0, Slot::size)
    }

    fn byte_capacity(&self) -> usize {
        self.slot.as_ref().map_or(0, Slot::capacity)
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        let none = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let slot = self.slot.as_mut().ok_or_else(none)?;
        Ok(slot.grow_to(size)?)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.slot.as_ref().map_or(std::ptr::null_mut(), Slot::base)
    }
}
