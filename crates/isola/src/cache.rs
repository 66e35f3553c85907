//! The on-disk cache of compiled components.
//!
//! Compiling an interpreter takes seconds, loading the result milliseconds.
//! An entry consists of two files:
//!
//! ```text
//! <key>.cwasm   machine code, mapped into memory when it is loaded
//! <key>.stamp   the digest of that file, and the file's identity on disk
//!               (device, inode, size, times) when the digest was last verified
//! ```
//!
//! Machine code is trusted, so an entry is loaded only if its digest matches.
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
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, component::Component};

use crate::{error::Error, instrument, regular, runtime::user_cache_dir, trust};

/// The version of the cache layout.
const FORMAT_VERSION: &str = "2";

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
    /// Its size in bytes.
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
            entries.push(CacheEntry { path, size: metadata.len(), modified });
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
        let component = Component::new(engine, instrumented(bytes))
            .map_err(|error| invalid_component(component, error))?;
        return Ok(LoadedComponent { component, guest });
    };
    trust::private_dir(dir)?;
    let guest = component_digest(component, dir)?;
    let key = key(engine, &guest);
    let entry =
        Entry { code: dir.join(format!("{key}.cwasm")), stamp: dir.join(format!("{key}.stamp")) };
    if let Some(component) = entry.load(engine) {
        return Ok(LoadedComponent { component, guest });
    }
    // One process compiles; the others wait and load its result.
    let lock = File::create(dir.join(format!("{key}.lock")))
        .map_err(|error| Error::internal("cannot write to the cache directory", error))?;
    lock.lock().map_err(|error| Error::internal("cannot lock the cache", error))?;
    if let Some(component) = entry.load(engine) {
        return Ok(LoadedComponent { component, guest });
    }
    compiling();
    let code = engine
        .precompile_component(&instrumented(read(component)?))
        .map_err(|error| invalid_component(component, error))?;
    entry
        .store(&code)
        .map_err(|error| Error::internal("cannot write to the cache directory", error))?;
    evict(dir)?;
    let loaded = entry.load(engine).ok_or_else(|| {
        Error::bug(format!("the compiled {} cannot be loaded back", component.display()))
    })?;
    Ok(LoadedComponent { component: loaded, guest })
}

/// A component that is ready to be instantiated.
pub(crate) struct LoadedComponent {
    pub(crate) component: Component,
    /// The SHA-256 digest of its bytes, in hexadecimal digits.
    pub(crate) guest: String,
}

/// Returns a digest of the engine's version and settings, and of the features of
/// the CPU that it compiles for.
pub(crate) fn engine_key(engine: &Engine) -> String {
    key(engine, "")
}

/// Instruments a component so that its state can be copied. Returns the
/// component unchanged if that is impossible; its guests then cannot be copied.
fn instrumented(component: Vec<u8>) -> Vec<u8> {
    instrument::instrument(&component).unwrap_or_else(|why| {
        tracing::debug!(why, "guests of this component cannot be copied");
        component
    })
}

struct Entry {
    code: PathBuf,
    stamp: PathBuf,
}

/// The content of a stamp.
#[derive(Serialize, Deserialize, PartialEq)]
struct Stamp {
    digest: String,
    identity: Identity,
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
    /// Loads the entry. Returns `None` if there is none or it is damaged.
    #[allow(unsafe_code, reason = "loading machine code")]
    fn load(&self, engine: &Engine) -> Option<Component> {
        let stamp = regular::read(&self.stamp, MAX_STAMP_BYTES).ok()?;
        let stamp: Stamp = serde_json::from_slice(&stamp).ok()?;
        let identity = Identity::of(&self.code).ok()?;
        let unused = fs::metadata(&self.stamp).and_then(|stamp| stamp.modified());
        let unused =
            unused.is_ok_and(|used| used.elapsed().is_ok_and(|age| age > LAST_USE_RESOLUTION));
        if identity != stamp.identity || unused {
            if digest(&self.code).ok()? != stamp.digest {
                tracing::warn!(entry = %self.code.display(), "the cache entry is damaged");
                return None;
            }
            let _ = self.write_stamp(&Stamp { identity, ..stamp });
        }
        // SAFETY: the file holds what `store` wrote, the output of
        // `Engine::precompile_component`: its digest matches, or the file did not
        // change since the digest was checked. `private_dir` verified that no
        // other user can write to this directory. Files are replaced by renaming,
        // never written in place, so the mapped content does not change.
        unsafe { Component::deserialize_file(engine, &self.code) }
            .inspect_err(|error| tracing::warn!(%error, "the cache entry cannot be loaded"))
            .ok()
    }

    fn store(&self, code: &[u8]) -> io::Result<()> {
        write_atomically(&self.code, code)?;
        let digest = hex(&Sha256::digest(code));
        self.write_stamp(&Stamp { digest, identity: Identity::of(&self.code)? })
    }

    fn write_stamp(&self, stamp: &Stamp) -> io::Result<()> {
        write_atomically(&self.stamp, &serde_json::to_vec(stamp)?)
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
    let known = known.and_then(|text| serde_json::from_slice::<Stamp>(&text).ok());
    if let Some(stamp) = known
        && stamp.identity == identity
    {
        return Ok(stamp.digest);
    }
    let digest = digest(&path).map_err(unreadable)?;
    let stamp = Stamp { digest: digest.clone(), identity };
    if let Ok(text) = serde_json::to_vec(&stamp) {
        let _ = write_atomically(&memo, &text);
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
        for extension in ["stamp", "cwasm", "lock"] {
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
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().suffix(".tmp").tempfile_in(dir)?;
    file.write_all(content)?;
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
