//! Directories of a few large files in an object store, so that other nodes can restore
//! hibernated sandboxes and snapshots.
//!
//! A stored directory is a *tree*. Its files are split into chunks of 4 MiB. Chunks of zeros
//! are not stored, equal chunks are stored once, and everything is compressed and encrypted:
//! the store learns sizes, times and which trees are read, but neither content nor digests
//! of it. [`Blobs`] has all operations.
//!
//! ```text
//!  directory ──upload──▶ chunks, then the tree ──download──▶ directory
//!                          S3 or a directory   ──cached────▶ cache ─▶ CachedTree
//! ```
//!
//! | to change | start in |
//! |---|---|
//! | the operations | `blobs.rs` |
//! | how a directory is stored | `upload.rs`; the objects are in `objects.rs`, with their names |
//! | how it is written again | `download.rs`, `files.rs` |
//! | the format of objects | `format.rs`; encryption is in `key.rs` |
//! | requests, timeouts and retries | `store.rs` |
//! | URLs and variables | `store/connect.rs` |
//! | what the errors of a store mean | `store/failure.rs` |
//! | what is on the local disk | `cache.rs`, with the layout |
//! | garbage collection | `garbage.rs`, with the protocol |
//! | a limit | `options.rs` |
//!
//! What must stay true:
//!
//! - No plain text and no plain digest of it is in a stored object or its name.
//!   (tests `secrecy`)
//! - What is written to a directory is what was uploaded under that id with the same key,
//!   or the download fails and the directory is removed. (tests `integrity`)
//! - What the store sends is bounded in bytes, count and time. (tests `faults`; fuzz target
//!   `objects`)
//! - No chunk of a tree that exists or is being uploaded is deleted. (tests `garbage`)
//! - A tree in the cache is complete and was verified by this process, and is not removed
//!   while it is in use. (tests `cache`)
//! - No error contains credentials. (tests `faults`)
//! - It depends on no other crate of this repository. (`cargo xtask check edges`)

mod blobs;
mod cache;
mod check;
mod download;
mod error;
mod files;
mod format;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod garbage;
mod id;
mod key;
mod objects;
mod options;
mod store;
mod upload;

pub use self::blobs::Blobs;
pub use self::cache::CachedTree;
pub use self::check::{CheckReport, CheckStep};
pub use self::error::{Error, Result};
pub use self::garbage::Collected;
pub use self::id::{InvalidTreeId, TreeId};
pub use self::key::BlobKey;
pub use self::options::{AwsVariables, BlobOptions};
pub use self::upload::UploadedTree;
