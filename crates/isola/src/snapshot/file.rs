//! Snapshots on disk, in the format of `format`.
//!
//! Nothing in a file is trusted: whatever memory it describes, its guest is in
//! the same sandbox as any other. What is checked keeps a restore from being a
//! wrong one.

use std::{
    fs::{File, Metadata},
    io::{self, Seek as _, Write},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::SystemTime,
};

use super::{
    format::{self, Header, MAGIC, PAGE, Pages, Parts},
    image::{CHUNK, Image, Writer, is_empty},
    state::State,
};
use crate::{
    cache::{self, Identity},
    engine::engine,
    error::Error,
    regular,
    template::Template,
};

/// Fast, and small enough.
const LEVEL: i32 = 1;

/// The ending of the names of snapshots in a folder.
const ENDING: &str = "snapshot";

/// What a file says of the snapshot in it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// The runtime, by name.
    pub runtime: String,
    /// The version of isola that wrote it.
    pub version: String,
    /// When it was taken to disk.
    pub created: SystemTime,
    /// The size of the interpreter's memory, in bytes.
    pub memory_size: u64,
    /// How much of that is in the file, before compression.
    pub changed_size: u64,
}

impl SnapshotInfo {
    /// Reads what a file says. Its content is not checked.
    ///
    /// # Errors
    ///
    /// [`Error::SnapshotRefused`] if it is no snapshot, or cannot be read.
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

/// The folder where the `isola` command keeps snapshots that have a name:
/// `isola/snapshots` in the user's data folder.
///
/// # Errors
///
/// [`Error::InvalidArgument`] if the user has no home.
pub fn default_snapshot_dir() -> Result<PathBuf, Error> {
    use etcetera::BaseStrategy as _;
    let base = etcetera::choose_base_strategy().map_err(|_| {
        Error::InvalidArgument("no folder for snapshots: set HOME, or give a path".into())
    })?;
    Ok(base.data_dir().join("isola").join("snapshots"))
}

/// The snapshots in a folder, by name: files whose names end in `.snapshot`. A
/// missing folder is an empty one. Files that are no snapshots are left out.
///
/// # Errors
///
/// [`Error::InvalidArgument`] if the folder cannot be read.
pub fn list_snapshots(folder: &Path) -> Result<Vec<SnapshotInfo>, Error> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(Error::InvalidArgument(format!(
                "cannot read the folder {}: {error}",
                folder.display()
            )));
        }
    };
    let mut paths: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == ENDING))
        .collect();
    paths.sort();
    Ok(paths.into_iter().filter_map(|path| SnapshotInfo::read(path).ok()).collect())
}

/// Writes a state; `base` is the memory of a fresh guest.
pub(crate) fn save(
    path: &Path,
    template: &Template,
    state: &State,
    base: &Image,
) -> Result<u64, Error> {
    write(path, template, state, base).map_err(|error| match error {
        Trouble::Io(error) => Error::InvalidArgument(format!(
            "the snapshot cannot be written to {}: {error}",
            path.display()
        )),
        Trouble::Other(error) => error,
    })
}

/// Reads a state, unless it is in use and its file is as it was.
pub(crate) fn load(path: &Path, template: &Template, base: &Image) -> Result<Arc<State>, Error> {
    let broken = |error: io::Error| damaged(path, &error);
    let (mut file, metadata) = open(path)?;
    let before = Identity::new(&metadata).map_err(broken)?;
    let in_use = &template.component().in_use;
    if let Some(state) = in_use.find(&before) {
        within_limit(path, template, state.image.len() as u64)?;
        return Ok(state);
    }
    // What the header says is known to fit before the rest is read, and how much
    // that may be.
    let header = Header::read(&mut file).map_err(broken)?;
    check(path, &header, template, base)?;
    file.rewind().map_err(broken)?;
    let bytes =
        regular::read_rest(&file, metadata.len(), header.max_file_size()).map_err(broken)?;
    let state = parse(path, &bytes, template, base)?;
    // What was written while it was read may be neither the old nor the new.
    let after = file.metadata().and_then(|found| Identity::new(&found)).map_err(broken)?;
    let steady = after == before;
    Ok(if steady { in_use.share(before, state) } else { Arc::new(state) })
}

fn parse(path: &Path, bytes: &[u8], template: &Template, base: &Image) -> Result<State, Error> {
    let broken = |error: io::Error| damaged(path, &error);
    let mut rest = bytes;
    let header = Header::read(&mut rest).map_err(broken)?;
    check(path, &header, template, base)?;
    let body = format::body(bytes, rest.len()).map_err(broken)?;
    let image = read_body(body, &header, base).map_err(broken)?;
    Ok(State {
        image,
        globals: header.globals,
        monotonic: header.monotonic,
        evaluates: header.evaluates,
        hot: OnceLock::new(),
        used: AtomicBool::new(false),
        shared: false,
    })
}

enum Trouble {
    Io(io::Error),
    Other(Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

fn write(path: &Path, template: &Template, state: &State, base: &Image) -> Result<u64, Trouble> {
    let runs = differences(&state.image, base)?;
    let pages: u64 = runs.iter().map(|run| u64::from(run.1)).sum();
    let header = Header::new(Parts {
        runtime: template.runtime().name().to_owned(),
        guest: template.component().guest.clone(),
        engine: cache::engine_key(engine()?),
        memory: state.image.len() as u64,
        changed: pages * PAGE as u64,
        base: (base.checksum()?, base.len() as u64),
        globals: state.globals.clone(),
        monotonic: state.monotonic,
        evaluates: state.evaluates,
    });
    let header = serde_json::to_vec(&header).map_err(io::Error::other)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // A file of this kind is readable by its owner only.
    let mut file = tempfile::Builder::new().suffix(".tmp").tempfile_in(folder)?;
    let mut out = Summed { inner: file.as_file_mut(), sum: crc32fast::Hasher::new(), len: 0 };
    out.write_all(MAGIC)?;
    out.write_all(&u32::try_from(header.len()).map_err(io::Error::other)?.to_le_bytes())?;
    out.write_all(&header)?;
    let mut body = zstd::Encoder::new(&mut out, LEVEL)?;
    body.write_all(&u32::try_from(runs.len()).map_err(io::Error::other)?.to_le_bytes())?;
    for (first, count) in &runs {
        body.write_all(&first.to_le_bytes())?;
        body.write_all(&count.to_le_bytes())?;
    }
    let mut buffer = vec![0; CHUNK];
    for (first, count) in &runs {
        let (mut at, end) = (*first as usize * PAGE, (*first + *count) as usize * PAGE);
        while at < end {
            let part = &mut buffer[..CHUNK.min(end - at)];
            state.image.read(at, part)?;
            body.write_all(part)?;
            at += part.len();
        }
    }
    body.finish()?;
    let sum = out.sum.clone().finalize();
    out.write_all(&sum.to_le_bytes())?;
    let len = out.len;
    file.persist(path).map_err(|error| error.error)?;
    Ok(len)
}

/// The pages in which an image differs from another: the first and their
/// number.
fn differences(image: &Image, base: &Image) -> io::Result<Vec<(u32, u32)>> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    let (mut ours, mut theirs) = (vec![0; CHUNK], vec![0; CHUNK]);
    for at in (0..image.len()).step_by(CHUNK) {
        image.read(at, &mut ours)?;
        base.read(at, &mut theirs)?;
        for (number, (our, their)) in (at / PAGE..).zip(ours.chunks(PAGE).zip(theirs.chunks(PAGE)))
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

/// Says what does not fit.
fn check(path: &Path, header: &Header, template: &Template, base: &Image) -> Result<(), Error> {
    let refuse =
        |why: String| Err(Error::SnapshotRefused(format!("the snapshot {} {why}", path.display())));
    let runtime = template.runtime();
    if header.runtime != runtime.name() {
        return refuse(format!("is of the runtime {}, not {runtime}", header.runtime));
    }
    if header.guest != template.component().guest {
        return refuse(format!(
            "is of another build of the {runtime} runtime, by isola {}",
            header.isola
        ));
    }
    if header.engine != cache::engine_key(engine()?) {
        return refuse(format!(
            "was made by another engine version or configuration, or for another CPU (isola {}, \
             this is {})",
            header.isola,
            env!("CARGO_PKG_VERSION")
        ));
    }
    let sum = base.checksum().map_err(|error| Error::internal("reading an image", error))?;
    if header.base != (sum, base.len() as u64) {
        return refuse("builds on another memory than this runtime begins with".into());
    }
    within_limit(path, template, header.memory)
}

fn within_limit(path: &Path, template: &Template, memory: u64) -> Result<(), Error> {
    let limit = template.defaults().limits.max_memory as u64;
    if memory > limit {
        return Err(Error::SnapshotRefused(format!(
            "the snapshot {} needs {memory} bytes of memory, more than the template's max_memory \
             of {limit}",
            path.display()
        )));
    }
    Ok(())
}

fn read_body(body: &[u8], header: &Header, base: &Image) -> io::Result<Image> {
    let mut pages = Pages::read(body, header.memory, base.len())?;
    let len = pages.len();
    let mut image = Writer::new(len)?;
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    for (first, length) in pages.runs().into_iter().chain([(len, 0)]) {
        copy(base, &mut image, at, first, &mut buffer)?;
        let mut left = length;
        at = first;
        while left > 0 {
            let part = &mut buffer[..CHUNK.min(left)];
            pages.fill(part)?;
            image.write(at, part)?;
            at += part.len();
            left -= part.len();
        }
    }
    pages.end()?;
    image.finish()
}

/// Copies what an image has from one place up to another.
fn copy(
    from: &Image,
    to: &mut Writer,
    mut at: usize,
    end: usize,
    buffer: &mut [u8],
) -> io::Result<()> {
    let end = end.min(from.len());
    while at < end {
        let part = &mut buffer[..CHUNK.min(end - at)];
        from.read(at, part)?;
        if !is_empty(part) {
            to.write(at, part)?;
        }
        at += part.len();
    }
    Ok(())
}

fn damaged(path: &Path, error: &io::Error) -> Error {
    let why = match error.kind() {
        io::ErrorKind::UnexpectedEof => "it is cut off".to_owned(),
        _ => error.to_string(),
    };
    Error::SnapshotRefused(format!("{} is no snapshot, or damaged: {why}", path.display()))
}

/// Counts and sums what is written.
struct Summed<W> {
    inner: W,
    sum: crc32fast::Hasher,
    len: u64,
}

impl<W: Write> Write for Summed<W> {
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
