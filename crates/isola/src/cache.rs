//! Compiled components on disk.
//!
//! Compiling an interpreter takes seconds, loading the result milliseconds.
//! An entry is two files:
//!
//! ```text
//! <key>.cwasm   machine code, mapped into memory when it is loaded
//! <key>.stamp   the digest of that file, and the file's identity on disk
//!               (device, inode, size, times) when the digest was known to hold
//! ```
//!
//! Machine code is trusted, so an entry is loaded only if its digest holds. To
//! digest it takes longer than to load it; hence the identity: a file that did
//! not change since it was digested is not digested again. Whatever touches it
//! changes its times, and then it is. A damaged entry is built anew.
//!
//! The key covers the component's bytes, the engine's version and settings,
//! and the CPU features that the code may use. Writers hold a lock and rename
//! complete files into place, so a torn entry is never seen.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, component::Component};

use crate::{error::Error, regular, runtime::user_cache, snapshot::instrument, trust};

/// Changes with the layout of the cache.
const FORMAT: &str = "2";

/// The largest size of a component, and of its machine code, in bytes.
const MAX_COMPONENT: u64 = 2 << 30;

/// The largest size of a stamp in bytes.
const MAX_STAMP: u64 = 64 << 10;

/// So many entries are kept. Beyond that the one that was not used for longest
/// goes when another is written.
const MAX_ENTRIES: usize = 16;

/// How exactly the time of an entry's last use is kept.
const USE_PRECISION: Duration = Duration::from_hours(24);

/// What the cache holds, for people.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CacheEntry {
    /// The compiled file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written.
    pub modified: Option<SystemTime>,
}

/// The folder of compiled templates that is used unless another is given:
/// `isola/compiled` in the user's cache folder.
///
/// # Errors
///
/// [`Error::InvalidArgument`] if the user has no home.
pub fn default_cache_dir() -> Result<PathBuf, Error> {
    user_cache().map(|cache| cache.join("compiled")).ok_or_else(|| {
        Error::InvalidArgument("no cache folder: set HOME, or give a cache folder".into())
    })
}

/// Lists what is in a cache folder.
///
/// # Errors
///
/// [`Error::Internal`] if the folder cannot be read. A missing one is empty.
pub fn list_cache(folder: &Path) -> Result<Vec<CacheEntry>, Error> {
    let mut entries = Vec::new();
    for path in files(folder)? {
        if path.extension().is_some_and(|extension| extension == "cwasm")
            && let Ok(metadata) = path.metadata()
        {
            let modified = metadata.modified().ok();
            entries.push(CacheEntry { path, size: metadata.len(), modified });
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// Empties a cache folder and returns the number of bytes that are free now.
/// Running sandboxes are not disturbed.
///
/// # Errors
///
/// [`Error::Internal`] if a file cannot be removed.
pub fn clear_cache(folder: &Path) -> Result<u64, Error> {
    let mut freed = 0_u64;
    for path in files(folder)? {
        let ours = path.extension().is_some_and(|extension| {
            ["cwasm", "stamp", "digest", "lock", "tmp"].iter().any(|ours| extension == *ours)
        });
        if ours {
            freed = path.metadata().map_or(0, |metadata| metadata.len()).saturating_add(freed);
            fs::remove_file(&path)
                .map_err(|error| Error::internal("cannot clear the cache", error))?;
        }
    }
    Ok(freed)
}

/// Loads a component, compiled if need be; `compiling` is told if so.
///
/// Without a folder nothing is kept.
pub(crate) fn load(
    engine: &Engine,
    component: &Path,
    folder: Option<&Path>,
    compiling: &dyn Fn(),
) -> Result<Loaded, Error> {
    let Some(folder) = folder else {
        compiling();
        let bytes = read(component)?;
        let guest = hex(&Sha256::digest(&bytes));
        let component =
            Component::new(engine, reachable(bytes)).map_err(|error| refused(component, error))?;
        return Ok(Loaded { component, guest });
    };
    trust::private_dir(folder)?;
    let guest = component_digest(component, folder)?;
    let key = key(engine, &guest);
    let entry = Entry {
        code: folder.join(format!("{key}.cwasm")),
        stamp: folder.join(format!("{key}.stamp")),
    };
    if let Some(component) = entry.load(engine) {
        return Ok(Loaded { component, guest });
    }
    // One builder at a time; the others find its result.
    let lock = File::create(folder.join(format!("{key}.lock")))
        .map_err(|error| Error::internal("cannot write to the cache folder", error))?;
    lock.lock().map_err(|error| Error::internal("cannot lock the cache", error))?;
    if let Some(component) = entry.load(engine) {
        return Ok(Loaded { component, guest });
    }
    compiling();
    let code = engine
        .precompile_component(&reachable(read(component)?))
        .map_err(|error| refused(component, error))?;
    entry
        .store(&code)
        .map_err(|error| Error::internal("cannot write to the cache folder", error))?;
    evict(folder)?;
    let loaded = entry.load(engine).ok_or_else(|| {
        Error::bug(format!("the compiled {} cannot be loaded back", component.display()))
    })?;
    Ok(Loaded { component: loaded, guest })
}

/// A component, ready to be instantiated.
pub(crate) struct Loaded {
    pub(crate) component: Component,
    /// The digest of its bytes.
    pub(crate) guest: String,
}

/// What the engine says of itself: its version and settings, and the features
/// of the CPU that it compiles for.
pub(crate) fn engine_key(engine: &Engine) -> String {
    key(engine, "")
}

/// The component with its state in reach, if it can be: else as it is, and
/// its guests cannot be copied.
fn reachable(component: Vec<u8>) -> Vec<u8> {
    instrument::instrument(&component).unwrap_or_else(|why| {
        tracing::debug!(why, "guests of this component cannot be copied");
        component
    })
}

struct Entry {
    code: PathBuf,
    stamp: PathBuf,
}

/// What is in a stamp.
#[derive(Serialize, Deserialize, PartialEq)]
struct Stamp {
    digest: String,
    identity: Identity,
}

/// What changes when a file does.
#[derive(Serialize, Deserialize, PartialEq, Clone)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Entry {
    /// `None` if there is no entry, or none that holds.
    #[allow(unsafe_code, reason = "loading machine code")]
    fn load(&self, engine: &Engine) -> Option<Component> {
        let stamp = regular::read(&self.stamp, MAX_STAMP).ok()?;
        let stamp: Stamp = serde_json::from_slice(&stamp).ok()?;
        let identity = Identity::of(&self.code).ok()?;
        let unused = fs::metadata(&self.stamp).and_then(|stamp| stamp.modified());
        let unused = unused.is_ok_and(|used| used.elapsed().is_ok_and(|age| age > USE_PRECISION));
        if identity != stamp.identity || unused {
            if digest(&self.code).ok()? != stamp.digest {
                tracing::warn!(entry = %self.code.display(), "the cache entry is damaged");
                return None;
            }
            let _ = self.write_stamp(&Stamp { identity, ..stamp });
        }
        // SAFETY: the file holds what `store` wrote, the output of
        // `Engine::precompile_component`: its digest says so, or it did not
        // change since the digest did. `private_dir` saw to it that nobody else
        // can write in this folder. Files are replaced by renaming, never
        // written in place, so the mapping stays what it is.
        unsafe { Component::deserialize_file(engine, &self.code) }
            .inspect_err(|error| tracing::warn!(%error, "the cache entry cannot be loaded"))
            .ok()
    }

    fn store(&self, code: &[u8]) -> io::Result<()> {
        write_whole(&self.code, code)?;
        let digest = hex(&Sha256::digest(code));
        self.write_stamp(&Stamp { digest, identity: Identity::of(&self.code)? })
    }

    fn write_stamp(&self, stamp: &Stamp) -> io::Result<()> {
        write_whole(&self.stamp, &serde_json::to_vec(stamp)?)
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

/// The digest of a component, remembered by its path and identity.
fn component_digest(component: &Path, folder: &Path) -> Result<String, Error> {
    let unreadable = |error| {
        Error::InvalidArgument(format!("cannot read the runtime {}: {error}", component.display()))
    };
    let path = component.canonicalize().map_err(unreadable)?;
    let identity = Identity::of(&path).map_err(unreadable)?;
    let name = hex(&Sha256::digest(path.as_os_str().as_encoded_bytes()));
    let memo = folder.join(format!("{name}.digest"));
    let known = regular::read(&memo, MAX_STAMP).ok();
    let known = known.and_then(|text| serde_json::from_slice::<Stamp>(&text).ok());
    if let Some(stamp) = known
        && stamp.identity == identity
    {
        return Ok(stamp.digest);
    }
    let digest = digest(&path).map_err(unreadable)?;
    let stamp = Stamp { digest: digest.clone(), identity };
    if let Ok(text) = serde_json::to_vec(&stamp) {
        let _ = write_whole(&memo, &text);
    }
    Ok(digest)
}

fn key(engine: &Engine, component_digest: &str) -> String {
    use std::hash::{Hash as _, Hasher};

    /// Collects what the engine says of its compatibility.
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
    collect.0.update(FORMAT);
    collect.0.update(component_digest);
    hex(&collect.0.finalize())
}

/// Removes what was not used for longest, if there is too much. A running
/// sandbox keeps its mapping of a removed file.
fn evict(folder: &Path) -> Result<(), Error> {
    let mut stamps: Vec<_> = files(folder)?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "stamp"))
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .collect();
    stamps.sort();
    for (_, stamp) in stamps.iter().rev().skip(MAX_ENTRIES) {
        for extension in ["stamp", "cwasm", "lock"] {
            let _ = fs::remove_file(stamp.with_extension(extension));
        }
    }
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::internal("cannot read the cache folder", error)),
    };
    Ok(entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect())
}

/// Writes a file such that it is seen whole or not at all.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().suffix(".tmp").tempfile_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn digest(path: &Path) -> io::Result<String> {
    let (mut file, metadata) = regular::open(path)?;
    if metadata.len() > MAX_COMPONENT {
        return Err(io::Error::other(format!(
            "it has {} bytes: at most {MAX_COMPONENT} are read",
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
    regular::read(component, MAX_COMPONENT).map_err(|error| {
        Error::InvalidArgument(format!("cannot read the runtime {}: {error}", component.display()))
    })
}

fn refused(component: &Path, error: wasmtime::Error) -> Error {
    Error::InvalidArgument(format!("{} is not a runtime: {error:#}", component.display()))
}
