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
//! | to change | start in |
//! |---|---|
//! | how an image is pulled | `pull.rs`; requests and tokens are in `registry.rs` |
//! | which registries are allowed | `registry/settings.rs` |
//! | how an image is imported | `import.rs` |
//! | how an image is copied to another machine | `transfer.rs` |
//! | what a manifest or configuration may contain | `document.rs`, `config.rs` |
//! | how layers become a directory | `unpack.rs` |
//! | what is on disk, locks, garbage collection | `store.rs`, with the layout |
//! | a limit | `limits.rs` |
//!
//! What must stay true:
//!
//! - Everything from a registry or an archive is untrusted until its digest has been
//!   verified, and layers remain untrusted after that. (tests `garbage`, `pull`)
//! - No entry of a layer is created outside of the root directory. (tests `hostile`,
//!   `properties`; fuzz target `layers`)
//! - What is read is bounded by [`Limits`], in memory and on disk. (tests `hostile`;
//!   fuzz targets `documents`, `archives`)
//! - A file or directory with its final name is complete, whenever a process is killed.
//!   (tests `shared`)
//! - What an [`Image`], a [`Lease`] or a hold needs is not removed. (tests `shared`)
//! - It depends on no other crate of this repository. (`cargo xtask check edges`)

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
mod transfer;
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
pub use self::transfer::ImageFiles;
