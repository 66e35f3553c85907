//! OCI images: pulled or imported, kept by digest, unpacked into folders that
//! sandboxes start from.
//!
//! A [`Store`] is a folder that any number of processes share. [`Store::pull`]
//! fetches an image from a registry and [`Store::import`] takes one from disk;
//! both give an [`Image`], whose [`root`](Image::root) is a read-only folder
//! that stays at least as long as the `Image` or a [`Lease`] of it lives.
//!
//! ```text
//!  registry ──pull──▶ blobs, by digest ──unpack──▶ a folder per chain of layers
//!  archive ──import──▶       ▲                            ▲
//!                            │ manifest, config           │ lease
//!                       index: name ─▶ digests          Image
//! ```
//!
//! Everything out of a registry or an archive is hostile until its digest was
//! checked, and its layers are after that, too: see [`Limits`], and SECURITY.md.

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
pub use self::progress::{Event, Progress};
pub use self::pull::PullOptions;
pub use self::reference::Reference;
pub use self::registry::{Credentials, Registries};
pub use self::store::{Entry, Image, Lease, Removed, Store};
