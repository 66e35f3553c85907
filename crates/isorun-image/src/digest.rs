//! Digests of content: computed while it is read, and compared.

use std::io::{self, Read};
use std::str::FromStr as _;

use oci_spec::image::{Digest, DigestAlgorithm};
use sha2::Digest as _;

use super::error::{Error, Result};

/// An incremental digest computation.
pub(crate) enum Hasher {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// Creates a hasher of the same algorithm as `expected`.
    pub(crate) fn like(expected: &Digest, what: &str) -> Result<Self> {
        match expected.algorithm() {
            DigestAlgorithm::Sha256 => Ok(Self::sha256()),
            DigestAlgorithm::Sha512 => Ok(Hasher::Sha512(sha2::Sha512::new())),
            other => Err(Error::Unsupported {
                what: format!("the digest of {what}"),
                reason: format!("its algorithm {other} is neither sha256 nor sha512"),
            }),
        }
    }

    pub(crate) fn sha256() -> Self {
        Hasher::Sha256(sha2::Sha256::new())
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        let (name, bytes): (_, Vec<u8>) = match self {
            Hasher::Sha256(hasher) => ("sha256", hasher.finalize().to_vec()),
            Hasher::Sha512(hasher) => ("sha512", hasher.finalize().to_vec()),
        };
        let mut text = format!("{name}:");
        for byte in bytes {
            text.push_str(&format!("{byte:02x}"));
        }
        match Digest::from_str(&text) {
            Ok(digest) => digest,
            Err(_) => unreachable!("a digest that was just written is well-formed"),
        }
    }
}

/// Computes the SHA-256 digest of bytes.
pub(crate) fn of(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::sha256();
    hasher.update(bytes);
    hasher.finish()
}

/// Verifies content against its digest.
pub(crate) fn check(what: &str, bytes: &[u8], expected: &Digest) -> Result<()> {
    let mut hasher = Hasher::like(expected, what)?;
    hasher.update(bytes);
    same(what, expected, &hasher.finish())
}

/// Returns an error if two digests differ.
pub(crate) fn same(what: &str, expected: &Digest, actual: &Digest) -> Result<()> {
    if expected == actual {
        return Ok(());
    }
    Err(Error::Digest {
        what: what.to_owned(),
        expected: expected.to_string(),
        actual: actual.to_string(),
    })
}

/// Parses a digest in the document that `what` names.
pub(crate) fn parse(what: &str, text: &str) -> Result<Digest> {
    Digest::from_str(text).map_err(|error| Error::Malformed {
        what: what.to_owned(),
        reason: format!("it contains an invalid digest: {error}"),
    })
}

/// A reader that hashes all that is read through it.
pub(crate) struct HashingReader<R> {
    reader: R,
    hasher: Hasher,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(reader: R, hasher: Hasher) -> Self {
        Self { reader, hasher }
    }

    pub(crate) fn finish(self) -> Digest {
        self.hasher.finish()
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
