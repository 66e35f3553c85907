//! The linear memories of guests, on Linux.
//!
//! wasmtime asks [`Creator`] for the memory of each guest. It is a mapping of an image (the
//! initial memory of the runtime, or the memory of a copied guest) from the first moment, so
//! nothing is copied when a guest is created. When a guest ends, its memory is set back to the
//! image and kept for the next guest of the same image: mapping and unmapping memory, and the
//! page faults of a new mapping, take longer than all that a short script does.
//!
//! ```text
//!  Creator::new_memory ──▶ free memory of this image? ──yes──▶ used again
//!                                   │ no
//!                                   ▼
//!                        reserve addresses, map the image
//!
//!  a guest ends ──▶ copy the image over the pages that it wrote ──▶ free memory
//!                            (`own_pages` tells which)
//! ```
//!
//! What upholds the safety of the mappings, beside the engine's own rules:
//!
//! 1. *Addresses.* A memory has all addresses that compiled code can compute: the reservation,
//!    and the guard regions before and after it. What is not a part of the memory is not
//!    accessible, so an access beyond its end traps.
//! 2. *Images do not change or shrink*: those in memory are sealed, and those in the cache are
//!    never written in place (`cache`). So no access raises another signal, and no guest sees
//!    what another writes.
//! 3. *Nothing is left of a guest.* A memory is used again only if each page that differs from
//!    the image was found and overwritten, and what had grown was unmapped. If any step fails,
//!    the memory is unmapped instead.
//! 4. *One user.* A free memory has no other reference than the list of free ones.

#[cfg(target_os = "linux")]
mod creator;
pub(crate) mod image;
#[cfg(target_os = "linux")]
mod own_pages;
#[cfg(target_os = "linux")]
mod slot;
#[cfg(target_os = "linux")]
mod view;

#[cfg(target_os = "linux")]
pub(crate) use self::{
    creator::{Creator, create_with},
    own_pages::own_pages,
    slot::release_all,
};

/// `true` if memories are created here, so that components are compiled without their data.
pub(crate) const SUPPORTED: bool = cfg!(target_os = "linux");

/// A range of pages of a memory: the first page and the number of pages.
pub(crate) type PageRange = (u32, u32);

#[cfg(not(target_os = "linux"))]
pub(crate) fn release_all() {}
