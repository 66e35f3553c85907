//! How much of an image is accepted.

use std::time::Duration;

/// Bounds on what a registry or an archive may make this machine do.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of a manifest, an index, a configuration or a token: 4 MiB.
    pub document: u64,
    /// Layers of an image: 512.
    pub layers: usize,
    /// Bytes of all compressed layers together: 16 GiB.
    pub download: u64,
    /// Bytes of all layers together once decompressed: 32 GiB.
    pub unpacked: u64,
    /// Entries of all layers together: 2,000,000.
    pub entries: u64,
    /// Bytes of a path within a layer: 4096. A name in it has at most 255.
    pub path: usize,
    /// Bytes of an extension header: long names, extended attributes: 1 MiB.
    pub extension: u64,
    /// Tries of one request that failed for a reason that may pass: 5.
    pub tries: u32,
    /// Time until a connection stands: 10 s.
    pub connect: Duration,
    /// Time without a byte: 30 s.
    pub idle: Duration,
    /// Time for a document or a token: 60 s.
    pub request: Duration,
    /// Time for all of a pull: 30 min.
    pub pull: Duration,
    /// Layers that are fetched at once: 4.
    pub parallel: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const GIB: u64 = 1 << 30;
        Self {
            document: 4 << 20,
            layers: 512,
            download: 16 * GIB,
            unpacked: 32 * GIB,
            entries: 2_000_000,
            path: 4096,
            extension: 1 << 20,
            tries: 5,
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            request: Duration::from_secs(60),
            pull: Duration::from_secs(30 * 60),
            parallel: 4,
        }
    }
}
