//! Addresses with the memory of a guest, and the list of those that are free.

use std::{
    fs::File,
    io,
    ptr::NonNull,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};

use super::own_pages;

/// The largest number of free slots.
const MAX_FREE_SLOTS: usize = 16;

/// The largest number of bytes that a guest has written in a slot that is kept. With them the
/// free slots take at most 64 MiB.
const MAX_KEPT_BYTES: usize = 4 << 20;

/// The sizes of a slot in bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) reserved: usize,
    /// The size of each of the two regions around it that are never accessible.
    pub(super) guard: usize,
}

impl Layout {
    fn total(self) -> Option<usize> {
        self.guard.checked_mul(2)?.checked_add(self.reserved)
    }
}

/// Reserved addresses, of which a part at the start is a memory.
pub(super) struct Slot {
    /// The address of the memory.
    base: NonNull<u8>,
    layout: Layout,
    /// The size of the memory in bytes: what is accessible.
    size: usize,
    /// The size of the image that is mapped at the start.
    image_size: usize,
}

// SAFETY: a slot is the only owner of its addresses, which are not bound to a thread.
#[allow(unsafe_code, reason = "an address of memory that is owned")]
unsafe impl Send for Slot {}
// SAFETY: shared references only tell its address and size.
#[allow(unsafe_code, reason = "an address of memory that is owned")]
unsafe impl Sync for Slot {}

impl Slot {
    /// Reserves addresses, none of which is accessible.
    #[allow(unsafe_code, reason = "a new mapping")]
    pub(super) fn reserve(layout: Layout) -> io::Result<Self> {
        let total = layout.total().ok_or(io::ErrorKind::InvalidInput)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses addresses that nothing uses.
        let start =
            unsafe { mmap_anonymous(std::ptr::null_mut(), total, ProtFlags::empty(), flags) }?;
        // SAFETY: the guard is a part of the mapping.
        let base = unsafe { start.cast::<u8>().add(layout.guard) };
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, layout, size: 0, image_size: 0 })
    }

    /// Reserves addresses, and maps the file of an image at their start. The file must not
    /// change.
    #[allow(unsafe_code, reason = "a mapping over reserved addresses")]
    pub(super) fn mapping(layout: Layout, image: &File, size: usize) -> io::Result<Self> {
        let mut slot = Self::reserve(layout)?;
        slot.check(size)?;
        if size > 0 {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            let flags = MapFlags::PRIVATE | MapFlags::FIXED;
            // SAFETY: the addresses are reserved for this slot. The image neither changes nor
            // shrinks.
            unsafe { mmap(slot.base.as_ptr().cast(), size, protection, flags, image, 0) }?;
        }
        slot.size = size;
        slot.image_size = size;
        Ok(slot)
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Returns the size to which it can grow, in bytes.
    pub(super) fn capacity(&self) -> usize {
        self.layout.reserved
    }

    /// Returns an error for a size that a memory of this slot cannot have.
    fn check(&self, size: usize) -> io::Result<()> {
        let valid = size <= self.layout.reserved && size.is_multiple_of(rustix::param::page_size());
        valid.then_some(()).ok_or_else(|| {
            let reserved = self.layout.reserved;
            io::Error::other(format!("a memory of {size} bytes in {reserved} reserved bytes"))
        })
    }

    /// Makes the memory larger. What is new is zero.
    #[allow(unsafe_code, reason = "the protection of reserved addresses")]
    pub(super) fn grow_to(&mut self, size: usize) -> io::Result<()> {
        self.check(size)?;
        if size > self.size {
            // SAFETY: the addresses are reserved for this slot, and nothing uses them yet.
            unsafe {
                let from = self.base.as_ptr().add(self.size);
                let protection = MprotectFlags::READ | MprotectFlags::WRITE;
                mprotect(from.cast(), size - self.size, protection)?;
            }
            self.size = size;
        }
        Ok(())
    }

    /// Sets the memory back to its image. Returns `false` if it is not worth it.
    pub(super) fn reset(&mut self, image: &[u8]) -> io::Result<bool> {
        if image.len() != self.image_size {
            return Err(io::Error::other("another image than the one that is mapped"));
        }
        let pages = own_pages(self.base.addr().get(), image.len())?;
        let page = rustix::param::page_size();
        let written: usize = pages.iter().map(|(_, count)| *count as usize * page).sum();
        if written > MAX_KEPT_BYTES {
            return Ok(false);
        }
        self.shrink_to(image.len())?;
        for (first, count) in pages {
            self.copy(image, first as usize * page, count as usize * page)?;
        }
        Ok(true)
    }

    /// Copies a part of an image to the same place in the memory.
    #[allow(unsafe_code, reason = "the bytes of reserved addresses")]
    fn copy(&mut self, image: &[u8], at: usize, len: usize) -> io::Result<()> {
        if at.checked_add(len).is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the range is accessible, and this slot, which is borrowed exclusively, is
        // its only owner. Any bytes are valid.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(at), len) };
        let part = image.get(at..at + len).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(part);
        Ok(())
    }

    /// Makes the memory smaller: what is beyond the size is neither accessible nor kept.
    #[allow(unsafe_code, reason = "a mapping over reserved addresses")]
    fn shrink_to(&mut self, size: usize) -> io::Result<()> {
        self.check(size)?;
        if size < self.size {
            let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
            // SAFETY: the addresses are reserved for this slot, and nothing uses them any more.
            unsafe {
                let from = self.base.as_ptr().add(size);
                mmap_anonymous(from.cast(), self.size - size, ProtFlags::empty(), flags)?;
            }
            self.size = size;
        }
        Ok(())
    }
}

impl Drop for Slot {
    #[allow(unsafe_code, reason = "unmapping owned addresses")]
    fn drop(&mut self) {
        let Some(total) = self.layout.total() else { return };
        // SAFETY: the slot is the only owner of its addresses, and ends here.
        unsafe {
            let start = self.base.as_ptr().sub(self.layout.guard);
            let _ = munmap(start.cast(), total);
        }
    }
}

/// The slots that no guest uses, in the order in which they became free, each with the number
/// of its image. They keep no image: its end removes its slots.
#[derive(Default)]
pub(super) struct FreeSlots(Mutex<Vec<(u64, Slot)>>);

/// The free slots of this process.
pub(super) static FREE_SLOTS: FreeSlots = FreeSlots(Mutex::new(Vec::new()));

impl FreeSlots {
    fn lock(&self) -> MutexGuard<'_, Vec<(u64, Slot)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot of an image from the list.
    pub(super) fn take(&self, image: u64, layout: Layout) -> Option<Slot> {
        let mut free = self.lock();
        // More of the last one is in the caches of the CPU.
        let index = free.iter().rposition(|(of, slot)| *of == image && slot.layout == layout)?;
        Some(free.remove(index).1)
    }

    /// Adds a slot that was set back to its image.
    pub(super) fn add(&self, image: u64, slot: Slot) {
        let mut free = self.lock();
        let oldest = (free.len() >= MAX_FREE_SLOTS).then(|| free.remove(0));
        free.push((image, slot));
        // Unmapping takes time.
        drop(free);
        drop(oldest);
    }

    /// Unmaps the slots of an image.
    pub(super) fn remove(&self, image: u64) {
        self.retain(|of| of != image);
    }

    fn retain(&self, wanted: impl Fn(u64) -> bool) {
        let mut free = self.lock();
        let removed: Vec<_> = free.extract_if(.., |(image, _)| !wanted(*image)).collect();
        drop(free);
        drop(removed);
    }
}

/// Unmaps all free slots.
pub(crate) fn release_all() {
    FREE_SLOTS.retain(|_| false);
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const PAGE: usize = 64 << 10;
    const LAYOUT: Layout = Layout { reserved: 1 << 30, guard: 1 << 20 };

    /// The bytes of an image: two pages of zeros and two pages of numbers.
    fn image() -> Vec<u8> {
        [[0; 2 * PAGE], [7; 2 * PAGE]].concat()
    }

    fn mapping(image: &[u8]) -> Slot {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(image).unwrap();
        Slot::mapping(LAYOUT, &file, image.len()).unwrap()
    }

    /// Returns the bytes of a memory that the tests alone use.
    #[allow(unsafe_code, reason = "the memory of no guest")]
    fn bytes(slot: &mut Slot) -> &mut [u8] {
        // SAFETY: the range is accessible, and the slot is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(slot.base(), slot.size()) }
    }

    #[test]
    fn memory_that_is_set_back_is_the_image() {
        let image = image();
        let mut slot = mapping(&image);
        for _ in 0..2 {
            assert!(bytes(&mut slot) == image);
            slot.grow_to(6 * PAGE).unwrap();
            assert!(bytes(&mut slot)[4 * PAGE..].iter().all(|byte| *byte == 0));
            bytes(&mut slot).fill(1);
            assert!(slot.reset(&image).unwrap());
            assert_eq!(slot.size(), 4 * PAGE);
        }
    }

    #[test]
    fn memory_is_set_back_only_to_its_own_image() {
        let mut slot = mapping(&image());
        assert!(slot.reset(&[0; PAGE]).is_err());
    }

    #[test]
    fn memory_goes_only_to_guests_of_its_image() {
        let free = FreeSlots::default();
        let slot = mapping(&image());
        let address = slot.base();
        free.add(1, slot);
        assert!(free.take(2, LAYOUT).is_none());
        assert!(free.take(1, Layout { guard: 2 << 20, ..LAYOUT }).is_none());
        assert_eq!(free.take(1, LAYOUT).unwrap().base(), address);
        assert!(free.take(1, LAYOUT).is_none(), "it has a user");
    }

    #[test]
    fn memory_of_an_image_that_ended_is_unmapped() {
        let free = FreeSlots::default();
        for number in [1, 2, 1] {
            free.add(number, mapping(&image()));
        }
        free.remove(1);
        assert_eq!(free.lock().len(), 1);
        assert!(free.take(2, LAYOUT).is_some());
    }

    #[test]
    fn what_is_kept_is_limited() {
        let large = vec![0; 2 * MAX_KEPT_BYTES];
        let mut slot = mapping(&large);
        bytes(&mut slot)[..MAX_KEPT_BYTES].fill(1);
        assert!(slot.reset(&large).unwrap());
        bytes(&mut slot)[..=MAX_KEPT_BYTES].fill(1);
        assert!(!slot.reset(&large).unwrap(), "it wrote too much");
        let free = FreeSlots::default();
        for number in 0..MAX_FREE_SLOTS + 5 {
            free.add(number as u64, mapping(&image()));
        }
        assert_eq!(free.lock().len(), MAX_FREE_SLOTS);
        assert!(free.take(4, LAYOUT).is_none(), "the oldest are unmapped");
        assert!(free.take(5, LAYOUT).is_some());
    }

    #[test]
    fn sizes_beyond_the_reservation_are_refused() {
        let mut slot = Slot::reserve(LAYOUT).unwrap();
        assert!(slot.grow_to(LAYOUT.reserved + PAGE).is_err());
        assert!(slot.grow_to(PAGE + 1).is_err());
        slot.grow_to(LAYOUT.reserved).unwrap();
        let small = Layout { reserved: PAGE, ..LAYOUT };
        let file = tempfile::tempfile().unwrap();
        assert!(Slot::mapping(small, &file, 2 * PAGE).is_err());
    }
}
