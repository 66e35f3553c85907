//! The key of a store, and encryption with it.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

/// The first bytes of every object, with the version of the format.
const MAGIC: &[u8; 4] = b"ISB1";
/// The length of the authentication tag, in bytes.
const TAG_LEN: usize = 16;
/// The bytes that encryption adds to an object.
pub(crate) const SEAL_OVERHEAD: usize = MAGIC.len() + NONCE_LEN + TAG_LEN;

/// The secret of a store: 32 bytes, which are erased from memory when it is dropped.
///
/// Separate keys are derived from it for encryption, for the names of chunks and for the
/// digests of files. Every node of a cluster needs the same one; what was stored with
/// another key cannot be read.
#[derive(Clone)]
pub struct BlobKey(Zeroizing<[u8; 32]>);

impl BlobKey {
    /// Creates a key of 32 secret random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlobKey(..)")
    }
}

/// The keys that are derived from a [`BlobKey`].
pub(crate) struct Keys {
    encryption: RandomizedNonceKey,
    names: Zeroizing<[u8; 32]>,
    files: Zeroizing<[u8; 32]>,
}

/// An error of the cryptographic library, which gives no reason.
#[derive(Debug)]
pub(crate) struct CryptoError;

impl Keys {
    pub(crate) fn new(key: &BlobKey) -> Result<Self, CryptoError> {
        let derive = |purpose: &str| {
            let context = format!("isorun-blobs 2026-11-30 {purpose}");
            Zeroizing::new(blake3::derive_key(&context, &key.0[..]))
        };
        let encryption = RandomizedNonceKey::new(&AES_256_GCM, &derive("encryption")[..]);
        Ok(Self {
            encryption: encryption.map_err(|_| CryptoError)?,
            names: derive("names of chunks"),
            files: derive("digests of files"),
        })
    }

    /// Returns the name of a chunk with this content.
    pub(crate) fn chunk_digest(&self, plain: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.names, plain).as_bytes()
    }

    /// Returns a hasher for the content of a file.
    pub(crate) fn file_hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.files)
    }

    /// Encrypts the content of the object `name`, which is authenticated with it.
    pub(crate) fn seal(&self, name: &str, plain: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let mut object = Vec::with_capacity(plain.len() + SEAL_OVERHEAD);
        object.extend_from_slice(MAGIC);
        object.extend_from_slice(&[0; NONCE_LEN]);
        object.extend_from_slice(plain);
        let (header, content) = object.split_at_mut(MAGIC.len() + NONCE_LEN);
        let sealed = self.encryption.seal_in_place_separate_tag(Aad::from(name), content);
        let (nonce, tag) = sealed.map_err(|_| CryptoError)?;
        header[MAGIC.len()..].copy_from_slice(nonce.as_ref());
        object.extend_from_slice(tag.as_ref());
        Ok(object)
    }

    /// Decrypts an object. Returns `None` if it was changed, has another name, or was
    /// encrypted with another key.
    pub(crate) fn open<'a>(&self, name: &str, object: &'a mut [u8]) -> Option<&'a [u8]> {
        let (magic, rest) = object.split_at_mut_checked(MAGIC.len())?;
        let (nonce, sealed) = rest.split_at_mut_checked(NONCE_LEN)?;
        if magic != MAGIC {
            return None;
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self.encryption.open_in_place(nonce, Aad::from(name), sealed);
        opened.ok().map(|plain| &*plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(byte: u8) -> Keys {
        Keys::new(&BlobKey::new([byte; 32])).unwrap()
    }

    #[test]
    fn a_sealed_object_opens_with_its_name_and_key_only() {
        let mut object = keys(1).seal("chunk:a", b"secret").unwrap();
        assert_eq!(object.len(), 6 + SEAL_OVERHEAD);
        assert_eq!(keys(1).open("chunk:a", &mut object.clone()), Some(&b"secret"[..]));
        assert_eq!(keys(1).open("chunk:b", &mut object.clone()), None);
        assert_eq!(keys(2).open("chunk:a", &mut object.clone()), None);
        for at in 0..object.len() {
            object[at] ^= 1;
            assert_eq!(keys(1).open("chunk:a", &mut object.clone()), None, "byte {at}");
            assert_eq!(keys(1).open("chunk:a", &mut object[..at]), None, "length {at}");
            object[at] ^= 1;
        }
    }

    #[test]
    fn the_same_content_is_sealed_differently_each_time() {
        let keys = keys(1);
        assert_ne!(keys.seal("a", b"secret").unwrap(), keys.seal("a", b"secret").unwrap());
    }

    #[test]
    fn digests_depend_on_the_key_and_the_purpose() {
        let plain = blake3::hash(b"secret");
        let named = keys(1).chunk_digest(b"secret");
        assert_ne!(named, *plain.as_bytes());
        assert_ne!(named, keys(2).chunk_digest(b"secret"));
        let mut hasher = keys(1).file_hasher();
        assert_ne!(named, *hasher.update(b"secret").finalize().as_bytes());
    }

    #[test]
    fn debug_output_has_no_secret() {
        assert_eq!(format!("{:?}", BlobKey::new([7; 32])), "BlobKey(..)");
    }
}
