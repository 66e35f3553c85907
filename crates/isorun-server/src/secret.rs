//! The server's secret, and the API keys, audit logs and checkpoints signed with it.
//!
//! An API key is `isorun_live_<region>_<id>_<hmac>`. The HMAC covers the region and
//! the id with the server's secret, so that a key is verified in constant time
//! without a database query; only a valid key is looked up there, to check whether
//! it was revoked.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use anyhow::{Context, Result, bail};
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use hmac::{Hmac, KeyInit, Mac};
use rustix::fs::OFlags;
use sha2::Sha256;
use zeroize::Zeroizing;

use isorun_api::random_hex;
use isorun_blobs::BlobKey;

const KEY_PREFIX: &str = "isorun_live_";
const SECRET_FILE: &str = "secret";
/// The largest number of bytes read from the file: 64 digits, and some whitespace.
const MAX_SECRET_BYTES: u64 = 1024;

/// The secret: 32 random bytes that only the server's user can read.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Reads the secret of a data directory, creating it if there is none.
    pub fn open(data_dir: &Path) -> Result<Self> {
        let path = data_dir.join(SECRET_FILE);
        if let Some(secret) = Self::read(&path)? {
            return Ok(secret);
        }
        let text = random_hex::<32>().context("cannot get random numbers from the system")?;
        // Written under a temporary name and then linked: of two processes that start
        // at the same time one wins, and a partial secret is never read.
        let draft = data_dir.join(format!(".{SECRET_FILE}.{}", random_hex::<8>()?));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
            .with_context(|| format!("cannot write {}", draft.display()))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        let linked = fs::hard_link(&draft, &path);
        fs::remove_file(&draft)?;
        match linked {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                Err(error).with_context(|| format!("cannot write {}", path.display()))
            }
            _ => Self::read(&path)?
                .context("the secret of the server was removed meanwhile: start the server again"),
        }
    }

    /// Creates the secret of a new cluster, as text.
    pub fn generate() -> Result<Zeroizing<String>> {
        Ok(Zeroizing::new(random_hex::<32>()?))
    }

    /// Parses the text of a cluster's secret.
    pub fn parse(text: &str) -> Result<Self> {
        let mut bytes = [0; 32];
        if hex::decode_to_slice(text.trim(), &mut bytes).is_err() {
            bail!("the secret of the cluster is not 64 hex digits: restore its database");
        }
        Ok(Self(bytes))
    }

    /// Creates a secret from fixed bytes, for reproducible tests.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    fn read(path: &Path) -> Result<Option<Self>> {
        // A link could lead to another user's file, and opening a pipe would block.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened =
            OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let metadata = file.metadata()?;
        let mode = metadata.permissions().mode() & 0o7777;
        if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
            bail!("{} is not a regular file of this user: remove it", path.display());
        }
        if mode & 0o077 != 0 {
            bail!(
                "{0} has mode {mode:04o}: other users may have read the secret that every API key \
                 is derived from. If none did, run `chmod 600 {0}`; otherwise remove it and create \
                 new API keys: the server creates a new secret, which invalidates the old keys",
                path.display()
            );
        }
        let mut text = String::new();
        file.take(MAX_SECRET_BYTES)
            .read_to_string(&mut text)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let mut bytes = [0; 32];
        if hex::decode_to_slice(text.trim(), &mut bytes).is_err() {
            bail!(
                "{} is corrupted: it must contain 64 hex digits. Restore it from a backup; a new \
                 secret makes every API key and audit log invalid",
                path.display()
            );
        }
        Ok(Some(Self(bytes)))
    }

    /// Returns the text of an API key.
    pub fn key(&self, region: &str, id: &str) -> String {
        let mac = self.key_mac(region, id).finalize().into_bytes();
        format!("{KEY_PREFIX}{region}_{id}_{}", hex::encode(mac))
    }

    /// Returns the id of a valid API key, or `None` for any other text.
    pub fn verify_key(&self, text: &str) -> Option<String> {
        let (rest, mac) = text.strip_prefix(KEY_PREFIX)?.rsplit_once('_')?;
        let (region, id) = rest.rsplit_once('_')?;
        let mac = hex::decode(mac).ok()?;
        // Compares in constant time.
        self.key_mac(region, id).verify_slice(&mac).ok()?;
        Some(id.to_owned())
    }

    /// Returns the HMAC of an audit entry, chained to that of the previous entry.
    pub fn chain(&self, previous: &str, fields: &[&str]) -> String {
        let mut mac = self.mac("audit");
        update_field(&mut mac, previous);
        for field in fields {
            update_field(&mut mac, field);
        }
        hex::encode(mac.finalize().into_bytes())
    }

    /// Signs the manifest of a checkpoint.
    pub fn sign_checkpoint(&self, manifest: &str) -> String {
        hex::encode(self.checkpoint_mac(manifest).finalize().into_bytes())
    }

    /// Reports whether this server signed the manifest of a checkpoint. Compares in
    /// constant time.
    pub fn verify_checkpoint(&self, manifest: &str, signature: &str) -> bool {
        hex::decode(signature)
            .is_ok_and(|mac| self.checkpoint_mac(manifest).verify_slice(&mac).is_ok())
    }

    fn checkpoint_mac(&self, manifest: &str) -> Hmac<Sha256> {
        let mut mac = self.mac("checkpoint");
        update_field(&mut mac, manifest);
        mac
    }

    /// Returns the key of the cluster's object store.
    pub fn blob_key(&self) -> BlobKey {
        BlobKey::new(self.mac("blobs").finalize().into_bytes().into())
    }

    /// Returns the hostname of a run's sandbox. It stays the same for the lifetime of
    /// the run, and does not reveal the run's id without this secret.
    pub fn hostname(&self, run: &str) -> String {
        let mut mac = self.mac("hostname");
        update_field(&mut mac, run);
        let digits = hex::encode(mac.finalize().into_bytes());
        format!("sandbox-{}", &digits[..12])
    }

    /// Encrypts data that is stored in the database.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, String> {
        let mut bytes = Zeroizing::new(plain.to_vec());
        let failed = |_| "the text cannot be encrypted".to_owned();
        let nonce = self.sealing_key().seal_in_place_append_tag(Aad::empty(), &mut *bytes);
        let nonce = nonce.map_err(failed)?;
        Ok([nonce.as_ref().as_slice(), &bytes].concat())
    }

    /// Decrypts data that was encrypted with this secret; `None` for any other data.
    pub fn open_sealed(&self, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut bytes = Zeroizing::new(text.to_vec());
        let length = self.sealing_key().open_in_place(nonce, Aad::empty(), &mut bytes).ok()?.len();
        bytes.truncate(length);
        Some(bytes)
    }

    /// Returns the encryption key, used with random nonces of 96 bits. A server uses far
    /// fewer nonces than a collision would need.
    fn sealing_key(&self) -> RandomizedNonceKey {
        let key = self.mac("seal").finalize().into_bytes();
        // A key of 32 bytes is one for AES-256.
        RandomizedNonceKey::new(&AES_256_GCM, &key).unwrap_or_else(|_| unreachable!())
    }

    fn key_mac(&self, region: &str, id: &str) -> Hmac<Sha256> {
        let mut mac = self.mac("key");
        update_field(&mut mac, region);
        update_field(&mut mac, id);
        mac
    }

    /// Starts an HMAC for one purpose, so that it is not valid for another.
    fn mac(&self, purpose: &str) -> Hmac<Sha256> {
        // HMAC pads short keys with zeros to the block size of the hash.
        let mut block = [0; 64];
        block[..32].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        update_field(&mut mac, purpose);
        mac
    }
}

/// Adds a field with its length, so that the boundaries of fields are unambiguous.
fn update_field(mac: &mut Hmac<Sha256>, field: &str) {
    mac.update(&(field.len() as u64).to_be_bytes());
    mac.update(field.as_bytes());
}

/// Parses a region. Underscores are not allowed, since they separate the parts of a key.
pub fn region(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !text.is_empty() && text.len() <= 32 && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("not a valid region: use 1 to 32 lower-case letters, digits and hyphens".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_genuine_keys_are_verified() {
        let dir = tempfile::tempdir().unwrap();
        let secret = Secret::open(dir.path()).unwrap();
        let key = secret.key("eu-1", "a1b2c3");
        assert!(key.starts_with("isorun_live_eu-1_a1b2c3_"), "{key}");
        assert_eq!(secret.verify_key(&key).as_deref(), Some("a1b2c3"));
        let mut changed = key.clone();
        changed.pop();
        changed.push(if key.ends_with('0') { '1' } else { '0' });
        for wrong in [
            changed,
            key.replace("a1b2c3", "a1b2c4"),
            key.replace("eu-1", "eu-2"),
            key.replace("live", "test"),
            key[..key.len() - 2].to_owned(),
            String::new(),
            "isorun_live_".to_owned(),
            "isorun_live_eu-1_a1b2c3_".to_owned(),
        ] {
            assert_eq!(secret.verify_key(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_secret_persists_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let key = Secret::open(dir.path()).unwrap().key("local", "k");
        assert_eq!(Secret::open(dir.path()).unwrap().key("local", "k"), key);
        let mode = fs::metadata(dir.path().join(SECRET_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SECRET_FILE);
        assert!(Secret::open(dir.path()).is_ok());
        for mode in [0o644, 0o640, 0o606, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = Secret::open(dir.path()).err().unwrap().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Secret::open(dir.path()).is_ok());
        // A secret of another user, through a link.
        let other = tempfile::tempdir().unwrap();
        fs::rename(&path, other.path().join(SECRET_FILE)).unwrap();
        std::os::unix::fs::symlink(other.path().join(SECRET_FILE), &path).unwrap();
        assert!(Secret::open(dir.path()).is_err());
    }

    #[test]
    fn signatures_are_bound_to_manifest_and_server() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [one, two] = dirs.each_ref().map(|dir| Secret::open(dir.path()).unwrap());
        let signature = one.sign_checkpoint("{}");
        assert!(one.verify_checkpoint("{}", &signature));
        assert!(!two.verify_checkpoint("{}", &signature));
        for (manifest, signature) in
            [("{ }", signature.as_str()), ("{}", ""), ("{}", "00"), ("{}", &signature[2..])]
        {
            assert!(!one.verify_checkpoint(manifest, signature), "{manifest} {signature}");
        }
    }

    #[test]
    fn chain_hmac_separates_its_fields() {
        let dir = tempfile::tempdir().unwrap();
        let secret = Secret::open(dir.path()).unwrap();
        assert_ne!(secret.chain("", &["ab", "c"]), secret.chain("", &["a", "bc"]));
        assert_ne!(secret.chain("x", &["ab"]), secret.chain("", &["ab"]));
    }
}
