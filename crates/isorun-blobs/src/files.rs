//! Local files: read and written chunk by chunk, and verified.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::format::{Digest, FileRecord, Tree, chunk_count, chunk_len, is_valid_name};
use crate::key::Keys;
use crate::options::{CHUNK_BYTES, MAX_CHUNKS, MAX_FILES};

/// A chunk of zeros.
static ZEROS: [u8; CHUNK_BYTES] = [0; CHUNK_BYTES];

/// A file that is uploaded.
pub(crate) struct SourceFile {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// Reports whether a chunk contains only zeros.
fn is_zero(chunk: &[u8]) -> bool {
    // A comparison of slices is a single call, which is fast without optimization too.
    ZEROS.get(..chunk.len()).is_some_and(|zeros| zeros == chunk)
}

/// The digest of a file: a keyed digest of those of its chunks, and of its length. Chunks of
/// zeros take no time, and the others are hashed once for their names too.
pub(crate) struct FileHasher(blake3::Hasher);

impl FileHasher {
    pub(crate) fn new(keys: &Keys) -> Self {
        Self(keys.file_hasher())
    }

    /// Adds a chunk; `None` is one of zeros.
    pub(crate) fn add(&mut self, chunk: Option<Digest>) {
        match chunk {
            None => self.0.update(&[0]),
            Some(digest) => self.0.update(&[1]).update(&digest.0),
        };
    }

    pub(crate) fn finish(mut self, bytes: u64) -> Digest {
        Digest(*self.0.update(&bytes.to_le_bytes()).finalize().as_bytes())
    }
}

/// Opens a regular file. Follows no symbolic link, and does not block on a FIFO.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

/// Returns the files of a directory that can be stored, sorted by name.
pub(crate) fn scan(directory: &Path) -> Result<Vec<SourceFile>> {
    let failed = || Error::disk("read the directory", directory);
    let refused = |what: String| Err(Error::Unsupported { what });
    let mut files = Vec::new();
    let mut chunks = 0_u64;
    for entry in fs::read_dir(directory).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| is_valid_name(name)) else {
            return refused(format!(
                "the name {:?} is not valid: use UTF-8 without a dot at its beginning",
                entry.file_name()
            ));
        };
        let metadata = entry.metadata().map_err(failed())?;
        if !metadata.is_file() {
            return refused(format!("{name:?} is not a regular file; no other kind is stored"));
        }
        if files.len() >= MAX_FILES {
            return refused(format!("it has more than {MAX_FILES} files"));
        }
        let bytes = metadata.len();
        chunks = chunks.saturating_add(chunk_count(bytes));
        if chunks > MAX_CHUNKS {
            let limit = MAX_CHUNKS * CHUNK_BYTES as u64;
            return refused(format!("its files have more than {limit} bytes"));
        }
        files.push(SourceFile { name: name.to_owned(), path: entry.path(), bytes });
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(files)
}

/// A chunk of a local file, or several.
pub(crate) enum LocalChunk {
    Data(Vec<u8>),
    /// Zeros from this chunk to the one before `until`.
    Zeros {
        until: u64,
    },
}

/// Reads the chunk with this index. Does not read holes.
pub(crate) fn read_chunk(file: &File, file_bytes: u64, index: u64) -> io::Result<LocalChunk> {
    let start = index * CHUNK_BYTES as u64;
    let length = chunk_len(file_bytes, index);
    let count = chunk_count(file_bytes);
    match rustix::fs::seek(file, SeekFrom::Data(start)) {
        // The rest of the file is a hole.
        Err(Errno::NXIO) => return Ok(LocalChunk::Zeros { until: count }),
        Ok(data) if data >= start + length as u64 => {
            let until = (data / CHUNK_BYTES as u64).clamp(index + 1, count);
            return Ok(LocalChunk::Zeros { until });
        }
        // It has data, or the file system has no holes.
        Ok(_) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let mut chunk = vec![0; length];
    file.read_exact_at(&mut chunk, start)?;
    Ok(if is_zero(&chunk) {
        LocalChunk::Zeros { until: index + 1 }
    } else {
        LocalChunk::Data(chunk)
    })
}

/// Fails unless a file has the length that it had when it was opened.
pub(crate) fn check_unchanged(file: &File, bytes: u64) -> io::Result<()> {
    match file.metadata()?.len() {
        length if length == bytes => Ok(()),
        length => {
            let text = format!("its length changed from {bytes} to {length} bytes meanwhile");
            Err(io::Error::other(text))
        }
    }
}

/// A new directory that is removed when it is dropped, unless it is kept.
pub(crate) struct NewDirectory {
    path: PathBuf,
    keep: AtomicBool,
}

impl NewDirectory {
    /// Creates a directory, which must not exist, for its owner only.
    pub(crate) fn create(path: PathBuf) -> Result<Arc<Self>> {
        let failed = || Error::disk("create the directory", &path);
        DirBuilder::new().mode(0o700).create(&path).map_err(failed())?;
        let new = Arc::new(Self { path, keep: AtomicBool::new(false) });
        // The umask does not matter.
        let failed = Error::disk("set the mode of the directory", &new.path);
        fs::set_permissions(&new.path, Permissions::from_mode(0o700)).map_err(failed)?;
        Ok(new)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the directory.
    pub(crate) fn keep(&self) {
        self.keep.store(true, Ordering::Release);
    }

    /// Creates a sparse file of this length, for its owner only.
    pub(crate) fn create_file(&self, record: &FileRecord) -> Result<File> {
        let path = self.path.join(&record.name);
        let failed = || Error::disk("create a file", &path);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(failed())?;
        file.set_permissions(Permissions::from_mode(0o600)).map_err(failed())?;
        file.set_len(record.bytes).map_err(failed())?;
        Ok(file)
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Acquire)
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove a directory");
        }
    }
}

/// Writes the chunk with this index. Chunks of zeros are not written.
pub(crate) fn write_chunk(file: &File, index: u64, chunk: &[u8]) -> io::Result<()> {
    file.write_all_at(chunk, index * CHUNK_BYTES as u64)
}

/// Verifies that a directory has exactly the files of a tree, with their lengths and
/// digests. Returns what is wrong otherwise. Stops when `cancelled` is set.
pub(crate) fn verify(
    directory: &Path,
    tree: &Tree,
    keys: &Keys,
    cancelled: &AtomicBool,
) -> Result<(), String> {
    let entries = fs::read_dir(directory).map_err(|error| format!("it cannot be read: {error}"))?;
    for entry in entries.take(MAX_FILES + 1) {
        let name = entry.map_err(|error| format!("it cannot be read: {error}"))?.file_name();
        if !tree.files.iter().any(|file| *file.name == name) {
            return Err(format!("the file {name:?} does not belong to it"));
        }
    }
    for record in &tree.files {
        let name = &record.name;
        let wrong = |error: io::Error| format!("its file {name} cannot be read: {error}");
        let file = open_regular(&directory.join(name)).map_err(wrong)?;
        check_unchanged(&file, record.bytes).map_err(wrong)?;
        let mut hasher = FileHasher::new(keys);
        let count = chunk_count(record.bytes);
        let mut index = 0;
        while index < count {
            if cancelled.load(Ordering::Relaxed) {
                return Err("the verification was cancelled".to_owned());
            }
            match read_chunk(&file, record.bytes, index).map_err(wrong)? {
                LocalChunk::Data(chunk) => {
                    hasher.add(Some(Digest(keys.chunk_digest(&chunk))));
                    index += 1;
                }
                LocalChunk::Zeros { until } => {
                    (index..until).for_each(|_| hasher.add(None));
                    index = until;
                }
            }
        }
        if hasher.finish(record.bytes) != record.digest {
            return Err(format!("its file {name} was changed"));
        }
    }
    Ok(())
}
