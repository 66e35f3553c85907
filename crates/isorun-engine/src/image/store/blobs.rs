//! Content by its digest.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use oci_spec::image::Digest;

use super::{Store, file_name, sync_parent};
use crate::image::digest::{self, Hasher};
use crate::image::error::{Error, Result};
use crate::image::limits::Limits;

impl Store {
    fn blob(&self, digest: &Digest) -> PathBuf {
        // An algorithm and hexadecimal digits, or a name of `Hasher::like`'s
        // refusal: `Digest` has no other characters than these.
        self.path("blobs").join(digest.algorithm().as_ref()).join(digest.digest())
    }

    /// Whether a blob is there. What is not of the right size is not.
    pub(crate) fn has_blob(&self, digest: &Digest, size: u64) -> bool {
        fs::metadata(self.blob(digest)).is_ok_and(|found| found.is_file() && found.len() == size)
    }

    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.blob(digest);
        File::open(&path).map_err(Error::at("open a layer in the image store", path))
    }

    /// Removes a blob that is not what its name says.
    pub(crate) fn drop_blob(&self, digest: &Digest) -> Result<()> {
        let path = self.blob(digest);
        fs::remove_file(&path).map_err(Error::at("remove a damaged blob", path))
    }

    /// Reads a blob again and compares it with its name.
    pub(crate) fn blob_holds(&self, digest: &Digest) -> Result<bool> {
        let mut hasher = Hasher::like(digest, "a blob")?;
        hash(&mut self.open_blob(digest)?, u64::MAX, &mut hasher)?;
        Ok(hasher.finish() == *digest)
    }

    /// A small document, checked, or `None` if it is not there.
    pub(crate) fn document(
        &self,
        what: &str,
        digest: &Digest,
        limits: &Limits,
    ) -> Result<Option<Vec<u8>>> {
        let path = self.blob(digest);
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

    /// Keeps a small document, whose digest was checked.
    pub(crate) fn keep_document(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        if self.has_blob(digest, bytes.len() as u64) {
            return Ok(());
        }
        let path = self.blob(digest);
        self.make_parent(&path)?;
        self.replace(path, bytes)
    }

    /// Keeps what a reader gives, and tells its digest and size. The caller
    /// keeps the collection of garbage away.
    pub(crate) fn ingest(&self, reader: impl std::io::Read, limit: u64) -> Result<(Digest, u64)> {
        self.take_in(reader, limit, Hasher::sha256(), |_, _| Ok(()))
    }

    /// Keeps what a reader gives if it has this digest.
    pub(crate) fn ingest_as(
        &self,
        what: &str,
        reader: impl std::io::Read,
        expected: &Digest,
        size: u64,
    ) -> Result<()> {
        let hasher = Hasher::like(expected, what)?;
        self.take_in(reader, size, hasher, |actual, _| digest::same(what, expected, actual))
            .map(drop)
    }

    fn take_in(
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
            let path = self.blob(&digest);
            self.make_parent(&path)?;
            file.persist(&path).map_err(|error| failed()(error.error))?;
            sync_parent(&path)?;
        }
        Ok((digest, size))
    }

    /// A file without a name, for what is needed for a moment.
    pub(crate) fn scratch(&self) -> Result<File> {
        tempfile::tempfile_in(self.path("tmp"))
            .map_err(Error::at("make a temporary file", self.path("tmp")))
    }

    /// What was fetched of a blob before. The caller has the right to make it.
    pub(crate) fn partial(&self, digest: &Digest) -> Partial {
        Partial { store: self.clone(), digest: digest.clone() }
    }

    fn make_parent(&self, path: &std::path::Path) -> Result<()> {
        match path.parent() {
            Some(parent) => fs::create_dir_all(parent)
                .map_err(Error::at("make a folder of the image store", parent)),
            None => Ok(()),
        }
    }
}

/// The beginning of a blob.
#[derive(Clone)]
pub(crate) struct Partial {
    store: Store,
    digest: Digest,
}

impl Partial {
    fn path(&self) -> PathBuf {
        self.store.path("partial").join(file_name(&self.digest))
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> u64 {
        fs::metadata(self.path()).map_or(0, |found| found.len())
    }

    pub(crate) fn discard(&self) {
        // If it stays, its digest will not hold, and it is discarded again.
        let _ = fs::remove_file(self.path());
    }

    /// Opens it for appending after the first `offset` bytes, which are hashed.
    pub(crate) fn append(&self, offset: u64) -> Result<Append> {
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
        Ok(Append { partial: self.clone(), file, hasher, len: offset })
    }
}

/// A blob that grows.
pub(crate) struct Append {
    partial: Partial,
    file: File,
    hasher: Hasher,
    len: u64,
}

impl Append {
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

    /// Compares the digest, and gives the blob its name.
    pub(crate) fn commit(self, what: &str) -> Result<()> {
        let Append { partial, file, hasher, .. } = self;
        let outcome = digest::same(what, &partial.digest, &hasher.finish());
        if outcome.is_err() {
            partial.discard();
            return outcome;
        }
        let failed = || Error::at("write a layer to the image store", partial.path());
        file.sync_data().map_err(failed())?;
        let path = partial.store.blob(&partial.digest);
        partial.store.make_parent(&path)?;
        fs::rename(partial.path(), &path).map_err(failed())?;
        sync_parent(&path)
    }
}

/// Feeds the next `most` bytes of a file to a hasher.
fn hash(file: &mut File, most: u64, hasher: &mut Hasher) -> Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut reader = file.take(most);
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read a layer in the image store")(error)),
        }
    }
}
