//! The pages of a private mapping that differ from its file: those that were written.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use rustix::{
    ioctl::{self, Ioctl, Opcode},
    param::page_size,
};

use super::PageRange;

/// Returns the pages of a range of addresses that are not pages of a file: a write has made
/// private copies of them. The range begins at a page.
pub(crate) fn own_pages(start: usize, len: usize) -> io::Result<Vec<PageRange>> {
    match scan(start, len) {
        // An older kernel than Linux 6.7.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOTTY.raw_os_error()) => {
            read_pagemap(start, len)
        }
        result => result,
    }
}

/// Flags of a page, as the kernel defines them for `PAGEMAP_SCAN`.
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;

/// A range of pages with the same flags: `struct page_region` of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of the kernel.
#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// The request `PAGEMAP_SCAN`.
struct Scan<'a>(&'a mut ScanArgument);

// SAFETY: the kernel reads and writes the argument, whose layout is that of the kernel, and
// writes at most `vec_len` regions to `vec`, which `scan` points to an array of that length.
#[allow(unsafe_code, reason = "a request that rustix does not have")]
unsafe impl Ioctl for Scan<'_> {
    type Output = usize;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        ioctl::opcode::read_write::<ScanArgument>(b'f', 16)
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::from_mut::<ScanArgument>(self.0).cast()
    }

    #[allow(unsafe_code, reason = "declared so by rustix")]
    unsafe fn output_from_ptr(
        regions: ioctl::IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<usize> {
        usize::try_from(regions).map_err(|_| rustix::io::Errno::INVAL)
    }
}

fn scan(start: usize, len: usize) -> io::Result<Vec<PageRange>> {
    const REGIONS: usize = 512;
    let pagemap = File::open("/proc/self/pagemap")?;
    let mut regions = [PageRegion::default(); REGIONS];
    let mut pages = Vec::new();
    let end = (start + len) as u64;
    let mut from = start as u64;
    while from < end {
        let mut argument = ScanArgument {
            size: size_of::<ScanArgument>() as u64,
            start: from,
            end,
            vec: regions.as_mut_ptr().addr() as u64,
            vec_len: REGIONS as u64,
            // Not of a file, and either present or swapped.
            category_inverted: PAGE_IS_FILE,
            category_mask: PAGE_IS_FILE,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            ..ScanArgument::default()
        };
        // SAFETY: see `Scan`.
        #[allow(unsafe_code, reason = "a request that rustix does not have")]
        let count = unsafe { ioctl::ioctl(&pagemap, Scan(&mut argument)) }?;
        for region in regions.iter().take(count) {
            push(&mut pages, start, region.start, region.end)?;
        }
        if argument.walk_end <= from {
            return Err(io::Error::other("the kernel does not scan the pages"));
        }
        from = argument.walk_end;
    }
    Ok(pages)
}

/// Adds a range of addresses.
fn push(pages: &mut Vec<PageRange>, start: usize, from: u64, to: u64) -> io::Result<()> {
    let page = |address: u64| {
        let offset = address.checked_sub(start as u64).map(|offset| offset / page_size() as u64);
        u32::try_from(offset.unwrap_or(u64::MAX)).map_err(io::Error::other)
    };
    let (first, end) = (page(from)?, page(to)?);
    match pages.last_mut() {
        Some((last, count)) if *last + *count == first => *count += end - first,
        _ => pages.push((first, end - first)),
    }
    Ok(())
}

/// Finds the pages in the table that every kernel has.
fn read_pagemap(start: usize, len: usize) -> io::Result<Vec<PageRange>> {
    /// Bits of a page's entry: it is present, it is in the swap, it is a page of a file.
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const OF_A_FILE: u64 = 1 << 61;

    let size = page_size();
    let mut raw = vec![0; len / size * 8];
    File::open("/proc/self/pagemap")?.read_exact_at(&mut raw, (start / size * 8) as u64)?;
    let (entries, _) = raw.as_chunks::<8>();
    let mut pages = Vec::new();
    for (address, entry) in (start..).step_by(size).zip(entries) {
        let entry = u64::from_ne_bytes(*entry);
        if entry & (PRESENT | SWAPPED) != 0 && entry & OF_A_FILE == 0 {
            push(&mut pages, start, address as u64, (address + size) as u64)?;
        }
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

    use super::*;

    #[test]
    #[allow(unsafe_code, reason = "a mapping to look at")]
    fn both_ways_find_the_written_pages() {
        let size = page_size();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 64 * size]).unwrap();
        // SAFETY: a new mapping, which is unmapped at the end, of a file that does not change.
        unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            let map =
                mmap(std::ptr::null_mut(), 64 * size, protection, MapFlags::PRIVATE, &file, 0);
            let map = map.unwrap();
            let bytes = std::slice::from_raw_parts_mut(map.cast::<u8>(), 64 * size);
            assert_eq!(bytes[9 * size], 7);
            for page in [3, 4, 63] {
                bytes[page * size] = 1;
            }
            let expected = vec![(3, 2), (63, 1)];
            assert_eq!(own_pages(map.addr(), 64 * size).unwrap(), expected);
            assert_eq!(read_pagemap(map.addr(), 64 * size).unwrap(), expected);
            munmap(map, 64 * size).unwrap();
        }
    }
}
