//! Content-addressed blobs.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use oci_spec::image::Digest;

use super::{Store, file_name, sync_parent};
use crate::digest::{self, Hasher};
use crate::error::{Error, Result};
use crate::limits::Limits;

impl Store {
    fn blob_path(&self, digest: &Digest) -> PathBuf {
        // Safe as a path: `Digest` contains no characters but those of an algorithm
        // and hexadecimal digits.
        self.path("blobs").join(digest.algorithm().as_ref()).join(digest.digest())
    }

    /// Reports whether a blob of the right size exists.
    pub(crate) fn has_blob(&self, digest: &Digest, size: u64) -> bool {
        fs::metadata(self.blob_path(digest))
            .is_ok_and(|found| found.is_file() && found.len() == size)
    }

    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(Error::at("open a layer in the image store", path))
    }

    /// Creates a link to a blob. Reports whether the blob exists.
    pub(crate) fn link_blob(&self, digest: &Digest, target: &Path) -> Result<bool> {
        let path = self.blob_path(digest);
        match fs::hard_link(&path, target) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::at("link a blob of the image store", path)(error)),
        }
    }

    /// Removes a blob that does not match its digest.
    pub(crate) fn remove_blob(&self, digest: &Digest) -> Result<()> {
        let path = self.blob_path(digest);
        fs::remove_file(&path).map_err(Error::at("remove a damaged blob", path))
    }

    /// Verifies a blob on disk against its digest.
    pub(crate) fn blob_is_intact(&self, digest: &Digest) -> Result<bool> {
        let mut hasher = Hasher::like(digest, "a blob")?;
        hash(&mut self.open_blob(digest)?, u64::MAX, &mut hasher)?;
        Ok(hasher.finish() == *digest)
    }

    /// Reads and verifies a document. Returns `None` if it does not exist.
    pub(crate) fn document(
        &self,
        what: &str,
        digest: &Digest,
        limits: &Limits,
    ) -> Result<Option<Vec<u8>>> {
        let path = self.blob_path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::at("open a document of an image", path)(error)),
        };
        let mut bytes = Vec::new();
        file.take(limits.document)
            .read_to_end(&mut bytes)
            .map_err(Error::at("read a document of an image", path))?;
        digest::check(what, &bytes, digest)?;
        Ok(Some(bytes))
    }

    /// Stores a document, whose digest has been verified.
    pub(crate) fn put_document(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        if self.has_blob(digest, bytes.len() as u64) {
            return Ok(());
        }
        let path = self.blob_path(digest);
        self.create_parent(&path)?;
        self.write_atomic(path, bytes)
    }

    /// Stores the content of a reader, and returns its digest and size. The caller
    /// must hold the shared lock, so that it is not collected.
    pub(crate) fn ingest(&self, reader: impl std::io::Read, limit: u64) -> Result<(Digest, u64)> {
        self.write_blob(reader, limit, Hasher::sha256(), |_, _| Ok(()))
    }

    /// Stores the content of a reader if it has the expected digest.
    pub(crate) fn ingest_verified(
        &self,
        what: &str,
        reader: impl std::io::Read,
        expected: &Digest,
        size: u64,
    ) -> Result<()> {
        let hasher = Hasher::like(expected, what)?;
        self.write_blob(reader, size, hasher, |actual, _| digest::same(what, expected, actual))
            .map(drop)
    }

    fn write_blob(
        &self,
        mut reader: impl std::io::Read,
        limit: u64,
        mut hasher: Hasher,
        check: impl FnOnce(&Digest, u64) -> Result<()>,
    ) -> Result<(Digest, u64)> {
        let failed = || Error::at("write a layer to the image store", self.path("tmp"));
        let mut file = self.temporary()?;
        let mut buffer = vec![0; 256 << 10];
        let mut size = 0_u64;
        loop {
            let count = reader.read(&mut buffer).map_err(Error::io("read a layer"))?;
            if count == 0 {
                break;
            }
            size += count as u64;
            if size > limit {
                return Err(Error::TooLarge {
                    what: "a layer".to_owned(),
                    limit: format!("{limit} bytes"),
                });
            }
            hasher.update(&buffer[..count]);
            file.write_all(&buffer[..count]).map_err(failed())?;
        }
        let digest = hasher.finish();
        check(&digest, size)?;
        if !self.has_blob(&digest, size) {
            file.as_file().sync_data().map_err(failed())?;
            let path = self.blob_path(&digest);
            self.create_parent(&path)?;
            file.persist(&path).map_err(|error| failed()(error.error))?;
            sync_parent(&path)?;
        }
        Ok((digest, size))
    }

    /// Creates a temporary file without a name.
    pub(crate) fn scratch(&self) -> Result<File> {
        tempfile::tempfile_in(self.path("tmp"))
            .map_err(Error::at("create a temporary file", self.path("tmp")))
    }

    /// Returns the partially fetched blob. The caller must hold its build lock.
    pub(crate) fn partial(&self, digest: &Digest) -> PartialBlob {
        PartialBlob { store: self.clone(), digest: digest.clone() }
    }

    fn create_parent(&self, path: &Path) -> Result<()> {
        match path.parent() {
            Some(parent) => fs::create_dir_all(parent)
                .map_err(Error::at("create a directory of the image store", parent)),
            None => Ok(()),
        }
    }
}

/// The fetched start of a blob.
#[derive(Clone)]
pub(crate) struct PartialBlob {
    store: Store,
    digest: Digest,
}

impl PartialBlob {
    fn path(&self) -> PathBuf {
        self.store.path("partial").join(file_name(&self.digest))
    }

    /// Returns the number of bytes on disk.
    pub(crate) fn len(&self) -> u64 {
        fs::metadata(self.path()).map_or(0, |found| found.len())
    }

    pub(crate) fn discard(&self) {
        // If removing fails, verifying the digest fails later, and it is discarded
        // again.
        let _ = fs::remove_file(self.path());
    }

    /// Opens the blob for appending after the first `offset` bytes, which are hashed.
    pub(crate) fn append(&self, offset: u64) -> Result<PartialWriter> {
        let path = self.path();
        let failed = || Error::at("write a layer to the image store", path.clone());
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed())?;
        let mut hasher = Hasher::like(&self.digest, "a layer")?;
        hash(&mut file, offset, &mut hasher)?;
        file.set_len(offset).map_err(failed())?;
        file.seek(SeekFrom::Start(offset)).map_err(failed())?;
        Ok(PartialWriter { partial: self.clone(), file, hasher, len: offset })
    }
}

/// A writer that appends to a partial blob.
pub(crate) struct PartialWriter {
    partial: PartialBlob,
    file: File,
    hasher: Hasher,
    len: u64,
}

impl PartialWriter {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(Error::at("write a layer to the image store", self.partial.path()))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Verifies the digest, and moves the blob to its final name.
    pub(crate) fn commit(self, what: &str) -> Result<()> {
        let PartialWriter { partial, file, hasher, .. } = self;
        let outcome = digest::same(what, &partial.digest, &hasher.finish());
        if outcome.is_err() {
            partial.discard();
            return outcome;
        }
        let failed = || Error::at("write a layer to the image store", partial.path());
        file.sync_data().map_err(failed())?;
        let path = partial.store.blob_path(&partial.digest);
        partial.store.create_parent(&path)?;
        fs::rename(partial.path(), &path).map_err(failed())?;
        sync_parent(&path)
    }
}

/// Hashes the next `max_bytes` bytes of a file.
fn hash(file: &mut File, max_bytes: u64, hasher: &mut Hasher) -> Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut reader = file.take(max_bytes);
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read a layer in the image store")(error)),
        }
    }
}
