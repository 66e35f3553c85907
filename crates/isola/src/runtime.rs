//! The interpreters, and where their components are found.

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

/// The environment variable with the folder of all runtimes.
const RUNTIME_DIR: &str = "ISOLA_RUNTIME_DIR";

/// An interpreter that runs inside a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// CPython 3.14 with its standard library.
    Python,
    /// JavaScript, on SpiderMonkey.
    JavaScript,
}

impl Runtime {
    /// The name: `python` or `js`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::JavaScript => "js",
        }
    }

    /// The name of a script whose author gave it none.
    pub(crate) fn script_name(self) -> &'static str {
        match self {
            Self::Python => "script.py",
            Self::JavaScript => "script.js",
        }
    }

    fn file_name(self) -> &'static str {
        match self {
            Self::Python => "python.wasm",
            Self::JavaScript => "js.wasm",
        }
    }

    /// Refuses a runtime that was downloaded into a directory that others can
    /// write to.
    fn check_download(self, places: &[PathBuf]) -> Result<(), Error> {
        match self.find_in(places).as_deref().and_then(Path::parent) {
            Some(folder) => trust::trusted(folder, Rule::Private),
            None => Ok(()),
        }
    }

    fn find_in(self, folders: &[PathBuf]) -> Option<PathBuf> {
        let components = folders.iter().map(|folder| folder.join(self.file_name()));
        components.into_iter().find(|component| component.is_file())
    }

    /// Finds the component of this runtime.
    ///
    /// `path` is the component itself or a folder that holds it under its
    /// usual name, `python.wasm` or `js.wasm`. Without one, these folders are
    /// looked at: the environment variable `ISOLA_RUNTIME_DIR`; `guests`
    /// beside the running program or one folder up; `../lib/isola` from it;
    /// `isola/runtimes/<version>` in the user's cache folder. Nothing is
    /// downloaded: that is what [`RuntimeSource`] does.
    ///
    /// The folder in `ISOLA_RUNTIME_DIR`, and those above it, must not be
    /// writable by everybody; those in the user's cache folder by nobody but
    /// the user and root.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] says where it was looked for, or which folder
    /// others can write to.
    pub fn resolve(self, path: Option<&Path>) -> Result<PathBuf, Error> {
        let candidates = match path {
            Some(path) if path.is_file() => return Ok(path.to_owned()),
            Some(path) => vec![path.to_owned()],
            None => {
                let mut folders = default_folders();
                match env::var_os(RUNTIME_DIR) {
                    Some(folder) => trust::trusted(Path::new(&folder), Rule::NotOpen)?,
                    None => {
                        if let Some(runtimes) = default_runtimes_dir() {
                            let version = env!("CARGO_PKG_VERSION");
                            let places = release_folders(&runtimes, self, version);
                            if let Some(component) = self.find_in(&folders) {
                                return Ok(component);
                            }
                            self.check_download(&places)?;
                            folders.extend(places);
                        }
                    }
                }
                folders
            }
        };
        self.find_in(&candidates).ok_or_else(|| {
            let places: Vec<_> =
                candidates.iter().map(|folder| folder.display().to_string()).collect();
            Error::InvalidArgument(format!(
                "the {self} runtime ({}) was not found in {}; give its path, or set \
                 ISOLA_RUNTIME_DIR to the folder that holds it",
                self.file_name(),
                places.join(", ")
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
        match name {
            "python" => Ok(Self::Python),
            "js" => Ok(Self::JavaScript),
            other => Err(Error::InvalidArgument(format!(
                "unknown runtime {other:?}: use \"python\" or \"js\""
            ))),
        }
    }
}

/// The folder where isola keeps what it can make or fetch again.
pub(crate) fn user_cache() -> Option<PathBuf> {
    use etcetera::BaseStrategy as _;
    etcetera::choose_base_strategy().ok().map(|base| base.cache_dir().join("isola"))
}

fn default_folders() -> Vec<PathBuf> {
    if let Some(folder) = env::var_os(RUNTIME_DIR) {
        return vec![folder.into()];
    }
    let mut folders = Vec::new();
    if let Some(bin) = env::current_exe().ok().as_deref().and_then(Path::parent) {
        folders.extend(["guests", "../guests", "../lib/isola"].map(|place| bin.join(place)));
    }
    folders
}

/// Where downloaded runtimes are kept, unless another folder is given.
fn default_runtimes_dir() -> Option<PathBuf> {
    user_cache().map(|cache| cache.join("runtimes"))
}

/// Where a runtime of a release is in a folder of runtimes.
fn release_folders(runtimes: &Path, runtime: Runtime, version: &str) -> [PathBuf; 2] {
    let release = runtimes.join(version);
    [release.join(runtime.name()), release]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_runtime_says_where_it_was_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let error = Runtime::Python.resolve(Some(folder.path())).unwrap_err().to_string();
        assert!(error.contains("python.wasm"), "{error}");
        assert!(error.contains(folder.path().to_str().unwrap()), "{error}");
        assert!(error.contains("ISOLA_RUNTIME_DIR"), "{error}");

        let component = folder.path().join("js.wasm");
        std::fs::write(&component, "").unwrap();
        assert_eq!(Runtime::JavaScript.resolve(Some(folder.path())).unwrap(), component);
        assert_eq!(Runtime::JavaScript.resolve(Some(&component)).unwrap(), component);
    }

    #[test]
    fn names_round_trip() {
        for runtime in [Runtime::Python, Runtime::JavaScript] {
            assert_eq!(runtime.name().parse::<Runtime>().unwrap(), runtime);
        }
        assert!("ruby".parse::<Runtime>().unwrap_err().to_string().contains("python"));
    }
}
