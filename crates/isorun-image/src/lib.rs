//! OCI images: pulled or imported, stored by digest, and unpacked into the root
//! directories of sandboxes.
//!
//! A [`Store`] is a directory that any number of processes share. [`Store::pull`]
//! fetches an image from a registry and [`Store::import`] reads one from disk;
//! both return an [`Image`], whose [`root`](Image::root) is a read-only directory
//! that is not removed while the `Image` or a [`Lease`] of it exists.
//!
//! ```text
//!  registry ──pull──▶ blobs, by digest ──unpack──▶ a directory per ChainID
//!  archive ──import──▶       ▲                            ▲
//!                            │ manifest, config           │ lease
//!                      index: reference ─▶ digests      Image
//! ```
//!
//! Everything from a registry or an archive is untrusted until its digest has been
//! verified, and layers remain untrusted after that: see [`Limits`], and SECURITY.md.

mod compression;
mod config;
mod digest;
mod document;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod import;
mod limits;
mod progress;
mod pull;
mod reference;
mod registry;
mod store;
mod unpack;

pub use self::config::{ImageConfig, User};
pub use self::document::Platform;
pub use self::error::{Error, Result};
pub use self::import::{ImportOptions, Source};
pub use self::limits::Limits;
pub use self::progress::{Progress, ProgressEvent};
pub use self::pull::PullOptions;
pub use self::reference::Reference;
pub use self::registry::{Registries, RegistryCredentials};
pub use self::store::{Entry, GcReport, Image, Lease, Store};
