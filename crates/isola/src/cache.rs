//! The on-disk cache of compiled components.
//!
//! Compiling an interpreter takes seconds, loading the result milliseconds.
//! An entry consists of three files:
//!
//! ```text
//! <key>.cwasm    machine code, mapped into memory when it is loaded
//! <key>.memory   the memory of a guest before any of its code runs, mapped into guests
//! <key>.stamp    the digests of these files, and their identities on disk
//!                (device, inode, size, times) when the digests were last verified
//! ```
//!
//! Machine code is trusted, so an entry is loaded only if the digests match.
//! Computing the digest takes longer than loading the file, so the stamp records
//! the file's identity: the digest of an unchanged file is not computed again.
//! Any write changes the file's times and causes a new check. A damaged entry is
//! rebuilt.
//!
//! The key covers the component's bytes, the engine's version and settings,
//! and the CPU features that the code may use. Writers hold a lock and rename
//! complete files into place, so a partly written entry is never read.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, component::Component};

use crate::{
    error::Error,
    instrument::{self, InitialMemory, Instrumented},
    linear_memory::{
        self,
        image::{Image, ImageWriter},
    },
    regular,
    runtime::user_cache_dir,
    trust,
};

/// The version of the cache layout.
const FORMAT_VERSION: &str = "3";

/// The maximum size of a component, and of its machine code, in bytes.
const MAX_COMPONENT_BYTES: u64 = 2 << 30;

/// The maximum size of a stamp in bytes.
const MAX_STAMP_BYTES: u64 = 64 << 10;

/// The maximum number of entries. Writing another one removes the least recently
/// used.
const MAX_CACHE_ENTRIES: usize = 16;

/// The resolution of the recorded time of an entry's last use.
const LAST_USE_RESOLUTION: Duration = Duration::from_hours(24);

/// An entry of the cache, for display.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CacheEntry {
    /// The path of the compiled file.
    pub path: PathBuf,
    /// The size of the entry in bytes.
    pub size: u64,
    /// The time at which it was written.
    pub modified: Option<SystemTime>,
}

/// Returns the default directory of compiled templates: `isola/compiled` in the
/// user's cache directory.
///
/// # Errors
///
/// [`Error::InvalidArgument`] if the user has no home directory.
pub fn default_cache_dir() -> Result<PathBuf, Error> {
    user_cache_dir().map(|cache| cache.join("compiled")).ok_or_else(|| {
        Error::InvalidArgument("no cache directory: set HOME, or give a cache directory".into())
    })
}

/// Lists the entries of a cache directory. A missing directory has none.
///
/// # Errors
///
/// [`Error::Internal`] if the directory cannot be read.
pub fn list_cache(dir: &Path) -> Result<Vec<CacheEntry>, Error> {
    let mut entries = Vec::new();
    for path in files(dir)? {
        if path.extension().is_some_and(|extension| extension == "cwasm")
            && let Ok(metadata) = path.metadata()
        {
            let modified = metadata.modified().ok();
            let memory = path.with_extension("memory").metadata().map_or(0, |memory| memory.len());
            entries.push(CacheEntry { path, size: metadata.len() + memory, modified });
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// Removes all entries of a cache directory and returns the number of bytes
/// freed. Running sandboxes are not affected.
///
/// # Errors
///
/// [`Error::Internal`] if a file cannot be removed.
pub fn clear_cache(dir: &Path) -> Result<u64, Error> {
    let mut freed = 0_u64;
    for path in files(dir)? {
        let ours = path.extension().is_some_and(|extension| {
            ["cwasm", "memory", "stamp", "digest", "lock", "tmp"]
                .iter()
                .any(|ours| extension == *ours)
        });
        if ours {
            freed = path.metadata().map_or(0, |metadata| metadata.len()).saturating_add(freed);
            fs::remove_file(&path)
                .map_err(|error| Error::internal("cannot clear the cache", error))?;
        }
    }
    Ok(freed)
}

/// Loads a component, and compiles it first if it is not in the cache;
/// `compiling` is called before compilation.
///
/// Without a directory the result is not cached.
pub(crate) fn load(
    engine: &Engine,
    component: &Path,
    dir: Option<&Path>,
    compiling: &dyn Fn(),
) -> Result<LoadedComponent, Error> {
    let Some(dir) = dir else {
        compiling();
        let bytes = read(component)?;
        let guest = hex(&Sha256::digest(&bytes));
        let instrumented = instrumented(&bytes);
        let code = instrumented.as_ref().map_or(bytes.as_slice(), |parts| &parts.component);
        let component =
            Component::new(engine, code).map_err(|error| invalid_component(component, error))?;
        let memory = instrumented.filter(|_| linear_memory::SUPPORTED).map(|parts| {
            let image = write_memory(&parts.memory);
            image.map_err(|error| Error::internal("cannot create a file in memory", error))
        });
        return Ok(LoadedComponent { component, memory: memory.transpose()?, guest });
    };
    trust::private_dir(dir)?;
    let guest = component_digest(component, dir)?;
    let key = key(engine, &guest);
    let file = |extension: &str| dir.join(format!("{key}.{extension}"));
    let entry = Entry { code: file("cwasm"), memory: file("memory"), stamp: file("stamp") };
    if let Some((component, memory)) = entry.load(engine) {
        return Ok(LoadedComponent { component, memory, guest });
    }
    // One process compiles; the others wait and load its result.
    let lock = File::create(file("lock"))
        .map_err(|error| Error::internal("cannot write to the cache directory", error))?;
    lock.lock().map_err(|error| Error::internal("cannot lock the cache", error))?;
    if let Some((component, memory)) = entry.load(engine) {
        return Ok(LoadedComponent { component, memory, guest });
    }
    compiling();
    let bytes = read(component)?;
    let instrumented = instrumented(&bytes);
    let code = instrumented.as_ref().map_or(bytes.as_slice(), |parts| &parts.component);
    let code =
        engine.precompile_component(code).map_err(|error| invalid_component(component, error))?;
    let memory = instrumented.as_ref().map(|parts| &parts.memory);
    entry
        .store(&code, memory.filter(|_| linear_memory::SUPPORTED))
        .map_err(|error| Error::internal("cannot write to the cache directory", error))?;
    evict(dir)?;
    let (loaded, memory) = entry.load(engine).ok_or_else(|| {
        Error::bug(format!("the compiled {} cannot be loaded back", component.display()))
    })?;
    Ok(LoadedComponent { component: loaded, memory, guest })
}

/// A component that is ready to be instantiated.
pub(crate) struct LoadedComponent {
    pub(crate) component: Component,
    /// The memory with which its guests begin, unless it is part of the component.
    pub(crate) memory: Option<Image>,
    /// The SHA-256 digest of its bytes, in hexadecimal digits.
    pub(crate) guest: String,
}

/// Returns a digest of the engine's version and settings, and of the features of
/// the CPU that it compiles for.
pub(crate) fn engine_key(engine: &Engine) -> String {
    key(engine, "")
}

/// Instruments a component so that its state can be copied. Returns `None` if that is
/// impossible; its guests then cannot be copied.
fn instrumented(component: &[u8]) -> Option<Instrumented<'_>> {
    instrument::instrument(component, !linear_memory::SUPPORTED)
        .inspect_err(|why| tracing::debug!(why, "guests of this component cannot be copied"))
        .ok()
}

/// Creates the image of an initial memory.
fn write_memory(memory: &InitialMemory<'_>) -> io::Result<Image> {
    let mut image = ImageWriter::new(memory.size)?;
    for (at, bytes) in &memory.data {
        image.write(*at, bytes)?;
    }
    image.finish()
}

struct Entry {
    code: PathBuf,
    memory: PathBuf,
    stamp: PathBuf,
}

/// The content of a stamp.
#[derive(Serialize, Deserialize, PartialEq)]
struct Stamp {
    code: VerifiedFile,
    memory: Option<VerifiedFile>,
}

/// The digest of a file, and its identity when the digest was computed.
#[derive(Serialize, Deserialize, PartialEq, Clone)]
struct VerifiedFile {
    digest: String,
    identity: Identity,
}

impl VerifiedFile {
    fn new(path: &Path, digest: String) -> io::Result<Self> {
        Ok(Self { digest, identity: Identity::of(path)? })
    }

    /// Reports whether a file has this digest, which is computed only if the file may have
    /// changed, or if `thoroughly` is set. Records the identity of the file.
    fn matches(&mut self, path: &Path, thoroughly: bool) -> io::Result<bool> {
        let identity = Identity::of(path)?;
        if identity != self.identity || thoroughly {
            if digest(path)? != self.digest {
                return Ok(false);
            }
            self.identity = identity;
        }
        Ok(true)
    }
}

/// The metadata of a file that changes whenever the file is written.
#[derive(Serialize, Deserialize, PartialEq, Clone)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Entry {
    /// Loads the entry: the component, and the memory of its guests. Returns `None` if there
    /// is none or it is damaged.
    #[allow(unsafe_code, reason = "loading machine code")]
    fn load(&self, engine: &Engine) -> Option<(Component, Option<Image>)> {
        let stamp = regular::read(&self.stamp, MAX_STAMP_BYTES).ok()?;
        let known: Stamp = serde_json::from_slice(&stamp).ok()?;
        let unused = fs::metadata(&self.stamp).and_then(|stamp| stamp.modified());
        let unused =
            unused.is_ok_and(|used| used.elapsed().is_ok_and(|age| age > LAST_USE_RESOLUTION));
        let mut code = known.code.clone();
        let mut memory = known.memory.clone();
        let intact = code.matches(&self.code, unused).ok()?
            && memory.as_mut().map_or(Ok(true), |it| it.matches(&self.memory, unused)).ok()?;
        if !intact {
            tracing::warn!(entry = %self.code.display(), "the cache entry is damaged");
            return None;
        }
        let seen = Stamp { code, memory };
        if seen != known || unused {
            let _ = self.write_stamp(&seen);
        }
        let image = seen.memory.is_some().then(|| Image::of_file(File::open(&self.memory)?));
        let image = image.transpose().ok()?;
        // SAFETY: the file holds what `store` wrote, the output of
        // `Engine::precompile_component`: its digest matches, or the file did not
        // change since the digest was checked. `private_dir` verified that no
        // other user can write to this directory. Files are replaced by renaming,
        // never written in place, so the mapped content does not change.
        let component = unsafe { Component::deserialize_file(engine, &self.code) }
            .inspect_err(|error| tracing::warn!(%error, "the cache entry cannot be loaded"))
            .ok()?;
        Some((component, image))
    }

    fn store(&self, code: &[u8], memory: Option<&InitialMemory<'_>>) -> io::Result<()> {
        write_atomically(&self.code, |file| file.write_all(code))?;
        if let Some(memory) = memory {
            write_atomically(&self.memory, |file| {
                // What is not written is a hole, which is read as zeros.
                file.set_len(memory.size as u64)?;
                for (at, bytes) in &memory.data {
                    file.seek(SeekFrom::Start(*at as u64))?;
                    file.write_all(bytes)?;
                }
                Ok(())
            })?;
        }
        let memory = memory.map(|_| VerifiedFile::new(&self.memory, digest(&self.memory)?));
        self.write_stamp(&Stamp {
            code: VerifiedFile::new(&self.code, hex(&Sha256::digest(code)))?,
            memory: memory.transpose()?,
        })
    }

    fn write_stamp(&self, stamp: &Stamp) -> io::Result<()> {
        let text = serde_json::to_vec(stamp)?;
        write_atomically(&self.stamp, |file| file.write_all(&text))
    }
}

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        Self::new(&fs::metadata(path)?)
    }

    #[cfg(unix)]
    pub(crate) fn new(metadata: &fs::Metadata) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    #[cfg(not(unix))]
    pub(crate) fn new(metadata: &fs::Metadata) -> io::Result<Self> {
        let since = metadata.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let modified = (since.as_secs().cast_signed(), i64::from(since.subsec_nanos()));
        Ok(Self { device: 0, inode: 0, size: metadata.len(), modified, changed: modified })
    }
}

/// Returns the digest of a component, cached by its path and identity.
fn component_digest(component: &Path, dir: &Path) -> Result<String, Error> {
    let unreadable = |error| {
        Error::InvalidArgument(format!("cannot read the runtime {}: {error}", component.display()))
    };
    let path = component.canonicalize().map_err(unreadable)?;
    let identity = Identity::of(&path).map_err(unreadable)?;
    let name = hex(&Sha256::digest(path.as_os_str().as_encoded_bytes()));
    let memo = dir.join(format!("{name}.digest"));
    let known = regular::read(&memo, MAX_STAMP_BYTES).ok();
    let known = known.and_then(|text| serde_json::from_slice::<VerifiedFile>(&text).ok());
    if let Some(stamp) = known
        && stamp.identity == identity
    {
        return Ok(stamp.digest);
    }
    let digest = digest(&path).map_err(unreadable)?;
    let stamp = VerifiedFile { digest: digest.clone(), identity };
    if let Ok(text) = serde_json::to_vec(&stamp) {
        let _ = write_atomically(&memo, |file| file.write_all(&text));
    }
    Ok(digest)
}

fn key(engine: &Engine, component_digest: &str) -> String {
    use std::hash::{Hash as _, Hasher};

    /// A hasher that collects the engine's compatibility data.
    struct Collect(Sha256);
    impl Hasher for Collect {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }

    let mut collect = Collect(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut collect);
    collect.0.update(FORMAT_VERSION);
    collect.0.update(component_digest);
    hex(&collect.0.finalize())
}

/// Removes the least recently used entries beyond the maximum number. A running
/// sandbox keeps its mapping of a removed file.
fn evict(dir: &Path) -> Result<(), Error> {
    let mut stamps: Vec<_> = files(dir)?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "stamp"))
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .collect();
    stamps.sort();
    for (_, stamp) in stamps.iter().rev().skip(MAX_CACHE_ENTRIES) {
        for extension in ["stamp", "cwasm", "memory", "lock"] {
            let _ = fs::remove_file(stamp.with_extension(extension));
        }
    }
    Ok(())
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::internal("cannot read the cache directory", error)),
    };
    Ok(entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect())
}

/// Writes a file atomically: readers find the complete file or none.
pub(crate) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().suffix(".tmp").tempfile_in(dir)?;
    write(file.as_file_mut())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn digest(path: &Path) -> io::Result<String> {
    let (mut file, metadata) = regular::open(path)?;
    if metadata.len() > MAX_COMPONENT_BYTES {
        return Err(io::Error::other(format!(
            "it has {} bytes: at most {MAX_COMPONENT_BYTES} are read",
            metadata.len()
        )));
    }
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&digest.finalize())),
            n => digest.update(&buffer[..n]),
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn read(component: &Path) -> Result<Vec<u8>, Error> {
    regular::read(component, MAX_COMPONENT_BYTES).map_err(|error| {
        Error::InvalidArgument(format!("cannot read the runtime {}: {error}", component.display()))
    })
}

fn invalid_component(component: &Path, error: wasmtime::Error) -> Error {
    Error::InvalidArgument(format!("{} is not a runtime: {error:#}", component.display()))
}
