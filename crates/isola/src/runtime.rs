//! The interpreters, and the search for their components.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::{
    error::Error,
    trust::{self, Rule},
};

#[cfg(feature = "client")]
mod archive;
#[cfg(feature = "client")]
mod download;
mod source;

pub use source::RuntimeSource;

/// A callback for the number of received bytes, and the total if it is known.
type ProgressCallback = Box<dyn Fn(u64, Option<u64>) + Send + Sync>;

/// The environment variable that names the directory of all runtimes.
const RUNTIME_DIR_VARIABLE: &str = "ISOLA_RUNTIME_DIR";

/// A language of programs in sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Language {
    /// Python.
    Python,
    /// JavaScript.
    JavaScript,
}

/// An interpreter that runs inside a sandbox, with the packages that it contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// CPython 3.14 with its standard library.
    Python,
    /// The same with packages for data, among them numpy and pandas. Its component is larger.
    PythonData,
    /// JavaScript, on SpiderMonkey.
    JavaScript,
}

impl Runtime {
    /// All runtimes.
    pub const ALL: [Self; 3] = [Self::Python, Self::PythonData, Self::JavaScript];

    /// Returns the name: `python`, `python-data` or `js`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::PythonData => "python-data",
            Self::JavaScript => "js",
        }
    }

    /// Returns the language of its programs.
    #[must_use]
    pub fn language(self) -> Language {
        match self {
            Self::Python | Self::PythonData => Language::Python,
            Self::JavaScript => Language::JavaScript,
        }
    }

    /// Returns the default name of a script.
    pub(crate) fn script_name(self) -> &'static str {
        match self.language() {
            Language::Python => "script.py",
            Language::JavaScript => "script.js",
        }
    }

    fn file_name(self) -> &'static str {
        match self {
            Self::Python => "python.wasm",
            Self::PythonData => "python-data.wasm",
            Self::JavaScript => "js.wasm",
        }
    }

    /// Refuses a runtime that was downloaded into a directory that others can
    /// write to.
    fn check_download(self, downloaded: &[PathBuf]) -> Result<(), Error> {
        match self.find_in(downloaded).as_deref().and_then(Path::parent) {
            Some(dir) => trust::check_trusted(dir, Rule::Private),
            None => Ok(()),
        }
    }

    fn find_in(self, dirs: &[PathBuf]) -> Option<PathBuf> {
        let components = dirs.iter().map(|dir| dir.join(self.file_name()));
        components.into_iter().find(|component| component.is_file())
    }

    /// Finds the component of this runtime.
    ///
    /// `path` is the component itself or a directory that contains it under its
    /// usual name, such as `python.wasm`. Without a path, these directories
    /// are searched: the one in the environment variable `ISOLA_RUNTIME_DIR`, or
    /// else `guests` in the directory of the running program or one level up,
    /// `../lib/isola` from there, and `isola/runtimes/<version>` in the user's cache
    /// directory. Nothing is downloaded; for that see [`RuntimeSource`].
    ///
    /// The directory in `ISOLA_RUNTIME_DIR`, and those above it, must not be
    /// world-writable. Those in the user's cache directory must be writable only by
    /// the user and root.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] with the directories that were searched, or with
    /// the one that other users can write to.
    pub fn resolve(self, path: Option<&Path>) -> Result<PathBuf, Error> {
        let candidates = match path {
            Some(path) if path.is_file() => return Ok(path.to_owned()),
            Some(path) => vec![path.to_owned()],
            None => {
                let mut dirs = default_dirs();
                match env::var_os(RUNTIME_DIR_VARIABLE) {
                    Some(dir) => trust::check_trusted(Path::new(&dir), Rule::NotWorldWritable)?,
                    None => {
                        if let Some(runtimes) = default_runtimes_dir() {
                            let version = env!("CARGO_PKG_VERSION");
                            let downloaded = release_dirs(&runtimes, self, version);
                            if let Some(component) = self.find_in(&dirs) {
                                return Ok(component);
                            }
                            self.check_download(&downloaded)?;
                            dirs.extend(downloaded);
                        }
                    }
                }
                dirs
            }
        };
        self.find_in(&candidates).ok_or_else(|| {
            let searched: Vec<_> = candidates.iter().map(|dir| dir.display().to_string()).collect();
            Error::InvalidArgument(format!(
                "the {self} runtime ({}) was not found in {}; give its path, or set \
                 ISOLA_RUNTIME_DIR to the directory that contains it",
                self.file_name(),
                searched.join(", ")
            ))
        })
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Runtime {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|runtime| runtime.name() == name).ok_or_else(|| {
            Error::InvalidArgument(format!(
                "unknown runtime {name:?}: use \"python\", \"python-data\" or \"js\""
            ))
        })
    }
}

/// Returns the directory of data that isola can recreate or download again.
pub(crate) fn user_cache_dir() -> Option<PathBuf> {
    use etcetera::BaseStrategy as _;
    etcetera::choose_base_strategy().ok().map(|base| base.cache_dir().join("isola"))
}

fn default_dirs() -> Vec<PathBuf> {
    if let Some(dir) = env::var_os(RUNTIME_DIR_VARIABLE) {
        return vec![dir.into()];
    }
    let mut dirs = Vec::new();
    if let Some(bin) = env::current_exe().ok().as_deref().and_then(Path::parent) {
        dirs.extend(["guests", "../guests", "../lib/isola"].map(|path| bin.join(path)));
    }
    dirs
}

/// Returns the default directory of downloaded runtimes.
fn default_runtimes_dir() -> Option<PathBuf> {
    user_cache_dir().map(|cache| cache.join("runtimes"))
}

/// Returns the directories that may contain a runtime of a release, below a
/// directory of runtimes.
fn release_dirs(runtimes: &Path, runtime: Runtime, version: &str) -> [PathBuf; 2] {
    let release = runtimes.join(version);
    [release.join(runtime.name()), release]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_runtime_error_contains_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let error = Runtime::Python.resolve(Some(dir.path())).unwrap_err().to_string();
        assert!(error.contains("python.wasm"), "{error}");
        assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
        assert!(error.contains("ISOLA_RUNTIME_DIR"), "{error}");

        let component = dir.path().join("js.wasm");
        std::fs::write(&component, "").unwrap();
        assert_eq!(Runtime::JavaScript.resolve(Some(dir.path())).unwrap(), component);
        assert_eq!(Runtime::JavaScript.resolve(Some(&component)).unwrap(), component);
    }

    #[test]
    fn names_round_trip() {
        for runtime in Runtime::ALL {
            assert_eq!(runtime.name().parse::<Runtime>().unwrap(), runtime);
        }
        assert!("ruby".parse::<Runtime>().unwrap_err().to_string().contains("python"));
    }
}
