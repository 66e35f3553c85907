//! Snapshots on disk, in the format of `format`.
//!
//! The content of a file is untrusted: its guest has the same restrictions as any
//! other, whatever memory the file describes. The checks only prevent the restore
//! of an incompatible or damaged state.

use std::{
    fs::{File, Metadata},
    io::{self, Seek as _, Write},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::SystemTime,
};

use super::format::{self, Header, HeaderFields, MAGIC, PAGE_BYTES, Pages};
use crate::{
    cache::{self, Identity},
    engine::engine,
    error::Error,
    files::{Tree, format as private_files},
    linear_memory::image::{CHUNK_BYTES, Image, ImageWriter, is_zero},
    regular,
    state::GuestState,
    template::Template,
};

/// The zstd compression level: the fastest, which compresses well enough.
const COMPRESSION_LEVEL: i32 = 1;

/// The extension of snapshot files.
const EXTENSION: &str = "snapshot";

/// The metadata of a snapshot file.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// The path of the file.
    pub path: PathBuf,
    /// The size of the file, in bytes.
    pub size: u64,
    /// The name of the runtime.
    pub runtime: String,
    /// The version of isola that wrote it.
    pub version: String,
    /// The time at which it was written.
    pub created: SystemTime,
    /// The size of the interpreter's memory, in bytes.
    pub memory_size: u64,
    /// The size of the part of it that is in the file, before compression, in bytes.
    pub changed_size: u64,
}

impl SnapshotInfo {
    /// Reads the metadata of a file. Its content is not checked.
    ///
    /// # Errors
    ///
    /// [`Error::SnapshotRefused`] if the file is not a snapshot or cannot be read.
    pub fn read(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let (mut file, metadata) = open(&path)?;
        let header = Header::read(&mut file).map_err(|error| damaged(&path, &error))?;
        Ok(Self {
            size: metadata.len(),
            created: header.created(),
            runtime: header.runtime,
            version: header.isola,
            memory_size: header.memory,
            changed_size: header.changed,
            path,
        })
    }
}

/// Returns the directory of the named snapshots of the `isola` command:
/// `isola/snapshots` in the user's data directory.
///
/// # Errors
///
/// [`Error::InvalidArgument`] if the user has no home directory.
pub fn default_snapshot_dir() -> Result<PathBuf, Error> {
    use etcetera::BaseStrategy as _;
    let base = etcetera::choose_base_strategy().map_err(|_| {
        Error::InvalidArgument("no directory for snapshots: set HOME, or pass a path".into())
    })?;
    Ok(base.data_dir().join("isola").join("snapshots"))
}

/// Lists the snapshots in a directory, sorted by name: files whose names end in
/// `.snapshot`. The list is empty if the directory does not exist. Files that are
/// not snapshots are omitted.
///
/// # Errors
///
/// [`Error::InvalidArgument`] if the directory cannot be read.
pub fn list_snapshots(dir: &Path) -> Result<Vec<SnapshotInfo>, Error> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(Error::InvalidArgument(format!(
                "cannot read the directory {}: {error}",
                dir.display()
            )));
        }
    };
    let mut paths: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION))
        .collect();
    paths.sort();
    Ok(paths.into_iter().filter_map(|path| SnapshotInfo::read(path).ok()).collect())
}

/// Writes a state to a file. `base` is the memory of a newly created guest.
pub(crate) fn save(
    path: &Path,
    template: &Template,
    state: &GuestState,
    base: &Image,
) -> Result<u64, Error> {
    write(path, template, state, base).map_err(|error| match error {
        SaveError::Io(error) => Error::InvalidArgument(format!(
            "cannot write the snapshot to {}: {error}",
            path.display()
        )),
        SaveError::Other(error) => error,
    })
}

/// Returns the state of a file, which is not read if the state is in use and the file
/// unchanged.
pub(crate) fn load(
    path: &Path,
    template: &Template,
    base: &Image,
) -> Result<Arc<GuestState>, Error> {
    let broken = |error: io::Error| damaged(path, &error);
    let (mut file, metadata) = open(path)?;
    let before = Identity::new(&metadata).map_err(broken)?;
    let shared_states = &template.component().shared_states;
    if let Some(state) = shared_states.find(&before) {
        let files = state.files.as_ref().map_or(0, Tree::used);
        within_limits(path, template, state.image.len() as u64, files)?;
        return Ok(state);
    }
    // The header is checked before the rest is read, and limits its size.
    let header = Header::read(&mut file).map_err(broken)?;
    check(path, &header, template, base)?;
    file.rewind().map_err(broken)?;
    let bytes =
        regular::read_rest(&file, metadata.len(), header.max_file_size()).map_err(broken)?;
    let state = parse(path, &bytes, template, base)?;
    // A file that was written to in the meantime may be neither the old nor the new one.
    let after = file.metadata().and_then(|found| Identity::new(&found)).map_err(broken)?;
    let unchanged = after == before;
    Ok(if unchanged { shared_states.share(before, state) } else { Arc::new(state) })
}

fn parse(
    path: &Path,
    bytes: &[u8],
    template: &Template,
    base: &Image,
) -> Result<GuestState, Error> {
    let broken = |error: io::Error| damaged(path, &error);
    let mut rest = bytes;
    let header = Header::read(&mut rest).map_err(broken)?;
    check(path, &header, template, base)?;
    let body = format::body(bytes, rest.len()).map_err(broken)?;
    let (image, files) = read_body(body, &header, base).map_err(broken)?;
    Ok(GuestState {
        image: Arc::new(image),
        files,
        globals: header.globals,
        monotonic: header.monotonic,
        hot_pages: OnceLock::new(),
        resumed: AtomicBool::new(false),
        shared: false,
    })
}

/// An error of [`save`], without the path of the file for I/O errors.
enum SaveError {
    Io(io::Error),
    Other(Error),
}

impl From<io::Error> for SaveError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for SaveError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

fn write(
    path: &Path,
    template: &Template,
    state: &GuestState,
    base: &Image,
) -> Result<u64, SaveError> {
    let runs = differences(&state.image, base)?;
    let pages: u64 = runs.iter().map(|run| u64::from(run.1)).sum();
    let header = Header::new(HeaderFields {
        runtime: template.runtime().name().to_owned(),
        guest: template.component().digest.clone(),
        engine: cache::engine_key(engine()?),
        memory: state.image.len() as u64,
        changed: pages * PAGE_BYTES as u64,
        base: (base.checksum()?, base.len() as u64),
        globals: state.globals.clone(),
        monotonic: state.monotonic,
        files: state.files.as_ref().map(Tree::used),
    });
    let header = serde_json::to_vec(&header).map_err(io::Error::other)?;
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    // A temporary file is readable by its owner only.
    let mut file = tempfile::Builder::new().suffix(".tmp").tempfile_in(dir)?;
    let mut out =
        ChecksumWriter { inner: file.as_file_mut(), sum: crc32fast::Hasher::new(), len: 0 };
    out.write_all(MAGIC)?;
    out.write_all(&u32::try_from(header.len()).map_err(io::Error::other)?.to_le_bytes())?;
    out.write_all(&header)?;
    let mut body = zstd::Encoder::new(&mut out, COMPRESSION_LEVEL)?;
    body.write_all(&u32::try_from(runs.len()).map_err(io::Error::other)?.to_le_bytes())?;
    for (first, count) in &runs {
        body.write_all(&first.to_le_bytes())?;
        body.write_all(&count.to_le_bytes())?;
    }
    let mut buffer = vec![0; CHUNK_BYTES];
    for (first, count) in &runs {
        let (mut at, end) = (*first as usize * PAGE_BYTES, (*first + *count) as usize * PAGE_BYTES);
        while at < end {
            let part = &mut buffer[..CHUNK_BYTES.min(end - at)];
            state.image.read(at, part)?;
            body.write_all(part)?;
            at += part.len();
        }
    }
    if let Some(files) = &state.files {
        private_files::write(files, &mut body)?;
    }
    body.finish()?;
    let sum = out.sum.clone().finalize();
    out.write_all(&sum.to_le_bytes())?;
    let len = out.len;
    file.persist(path).map_err(|error| error.error)?;
    Ok(len)
}

/// Returns the runs of pages in which an image differs from another: the first page
/// and the number of pages of each.
fn differences(image: &Image, base: &Image) -> io::Result<Vec<(u32, u32)>> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    let (mut ours, mut theirs) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    for at in (0..image.len()).step_by(CHUNK_BYTES) {
        image.read(at, &mut ours)?;
        base.read(at, &mut theirs)?;
        for (number, (our, their)) in
            (at / PAGE_BYTES..).zip(ours.chunks(PAGE_BYTES).zip(theirs.chunks(PAGE_BYTES)))
        {
            if our == their {
                continue;
            }
            let number = u32::try_from(number).map_err(io::Error::other)?;
            match runs.last_mut() {
                Some((first, count)) if *first + *count == number => *count += 1,
                _ => runs.push((number, 1)),
            }
        }
    }
    Ok(runs)
}

fn open(path: &Path) -> Result<(File, Metadata), Error> {
    regular::open(path).map_err(|error| {
        Error::SnapshotRefused(format!("cannot read the snapshot {}: {error}", path.display()))
    })
}

/// Checks that a snapshot is compatible with a template.
fn check(path: &Path, header: &Header, template: &Template, base: &Image) -> Result<(), Error> {
    let refuse =
        |why: String| Err(Error::SnapshotRefused(format!("the snapshot {} {why}", path.display())));
    let runtime = template.runtime();
    if header.runtime != runtime.name() {
        return refuse(format!("is for the runtime {}, not {runtime}", header.runtime));
    }
    if header.guest != template.component().digest {
        return refuse(format!(
            "is for a different build of the {runtime} runtime, written by isola {}",
            header.isola
        ));
    }
    if header.engine != cache::engine_key(engine()?) {
        return refuse(format!(
            "was written with a different engine version or configuration, or for a different CPU \
             (by isola {}, this is {})",
            header.isola,
            env!("CARGO_PKG_VERSION")
        ));
    }
    let sum = base.checksum().map_err(|error| Error::internal("reading an image", error))?;
    if header.base != (sum, base.len() as u64) {
        return refuse("is based on a different initial memory than that of this runtime".into());
    }
    within_limits(path, template, header.memory, header.files.unwrap_or(0))
}

fn within_limits(path: &Path, template: &Template, memory: u64, files: u64) -> Result<(), Error> {
    let limits = &template.defaults().limits;
    for (needed, what, limit, name) in [
        (memory, "memory", limits.max_memory, "max_memory"),
        (files, "files", limits.max_storage, "max_storage"),
    ] {
        if needed > limit as u64 {
            return Err(Error::SnapshotRefused(format!(
                "the snapshot {} needs {needed} bytes of {what}, more than the template's {name} \
                 of {limit}",
                path.display()
            )));
        }
    }
    Ok(())
}

fn read_body(body: &[u8], header: &Header, base: &Image) -> io::Result<(Image, Option<Tree>)> {
    let mut pages = Pages::read(body, header.memory, base.len())?;
    let len = pages.len();
    let mut image = ImageWriter::new(len)?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = 0;
    for (first, length) in pages.runs().into_iter().chain([(len, 0)]) {
        copy(base, &mut image, at, first, &mut buffer)?;
        let mut left = length;
        at = first;
        while left > 0 {
            let part = &mut buffer[..CHUNK_BYTES.min(left)];
            pages.fill(part)?;
            image.write(at, part)?;
            at += part.len();
            left -= part.len();
        }
    }
    let files = match header.files {
        Some(size) => Some(private_files::read(pages.rest(), size)?),
        None => None,
    };
    pages.end()?;
    Ok((image.finish()?, files))
}

/// Copies the range from `at` to `end` of an image.
fn copy(
    from: &Image,
    to: &mut ImageWriter,
    mut at: usize,
    end: usize,
    buffer: &mut [u8],
) -> io::Result<()> {
    let end = end.min(from.len());
    while at < end {
        let part = &mut buffer[..CHUNK_BYTES.min(end - at)];
        from.read(at, part)?;
        if !is_zero(part) {
            to.write(at, part)?;
        }
        at += part.len();
    }
    Ok(())
}

fn damaged(path: &Path, error: &io::Error) -> Error {
    let why = match error.kind() {
        io::ErrorKind::UnexpectedEof => "the file is truncated".to_owned(),
        _ => error.to_string(),
    };
    Error::SnapshotRefused(format!("{} is not a snapshot or is damaged: {why}", path.display()))
}

/// A writer that counts the bytes and computes their checksum.
struct ChecksumWriter<W> {
    inner: W,
    sum: crc32fast::Hasher,
    len: u64,
}

impl<W: Write> Write for ChecksumWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sum.update(&bytes[..written]);
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
