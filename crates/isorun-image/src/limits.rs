//! Resource limits of pulls, imports and unpacking.

use std::time::Duration;

/// Limits on the resources that a registry or an archive can consume on this machine.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// The bytes of a manifest, an index, a configuration or a token: 4 MiB.
    pub document: u64,
    /// The number of layers of an image: 512.
    pub layers: usize,
    /// The bytes of all compressed layers together: 16 GiB.
    pub download: u64,
    /// The bytes of all uncompressed layers together: 32 GiB.
    pub unpacked: u64,
    /// The number of entries of all layers together: 2,000,000.
    pub entries: u64,
    /// The bytes of a path within a layer: 4096. A name in it has at most 255.
    pub path: usize,
    /// The bytes of an extension header, for long names and extended attributes:
    /// 1 MiB.
    pub extension: u64,
    /// The number of attempts of a request that fails for a transient reason: 5.
    pub tries: u32,
    /// The timeout for connecting: 10 s.
    pub connect: Duration,
    /// The timeout without received bytes: 30 s.
    pub idle: Duration,
    /// The timeout of a request for a document or a token: 60 s.
    pub request: Duration,
    /// The timeout of a complete pull: 30 min.
    pub pull: Duration,
    /// The number of layers that are fetched in parallel: 4.
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
