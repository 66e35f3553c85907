//! The sources of a runtime, for packages that contain or download one.

use std::{
    env, fmt,
    path::{Path, PathBuf},
};

use super::{
    ProgressCallback, RUNTIME_DIR_VARIABLE, Runtime, default_dirs, default_runtimes_dir,
    release_dirs,
};
use crate::error::Error;

/// The default base URL of releases.
const RELEASES_URL: &str = "https://github.com/isola-run/isola/releases/download";

/// A search for the component of a runtime, which downloads it if necessary.
///
/// These locations are searched in this order:
///
/// 1. the [`path`](Self::path), if one was given; then no other is searched;
/// 2. the directory in the environment variable `ISOLA_RUNTIME_DIR`;
/// 3. the directories [`shipped`](Self::shipped) with the package, and those beside
///    the program;
/// 4. the earlier downloads, `~/.cache/isola/runtimes/<version>`;
/// 5. the release at [`base_url`](Self::base_url): the archive
///    `<base>/v<version>/isola-<runtime>.tar.gz`, whose SHA-256 digest is the
///    one that was [pinned](Self::sha256), or the one in the file
///    `isola-<runtime>.tar.gz.sha256` beside it.
///
/// With a [`version`](Self::version) other than this crate's, 2 and 3 are skipped,
/// because they contain runtimes of this version.
#[must_use = "a source does nothing until `find` is called"]
pub struct RuntimeSource {
    runtime: Runtime,
    path: Option<PathBuf>,
    library: Option<PathBuf>,
    shipped: Vec<PathBuf>,
    version: Option<String>,
    runtimes_dir: Option<PathBuf>,
    base_url: String,
    sha256: Option<String>,
    progress: Option<ProgressCallback>,
}

impl RuntimeSource {
    /// Creates a source of this runtime.
    pub fn new(runtime: Runtime) -> Self {
        Self {
            runtime,
            path: None,
            library: None,
            shipped: Vec::new(),
            version: None,
            runtimes_dir: None,
            base_url: RELEASES_URL.to_owned(),
            sha256: None,
            progress: None,
        }
    }

    /// Sets the path of the component, or of the directory that contains it.
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Sets the library directory of a runtime whose library is separate. The
    /// runtimes of this project contain their library: the directory must exist,
    /// and is not read.
    pub fn library(mut self, dir: impl Into<PathBuf>) -> Self {
        self.library = Some(dir.into());
        self
    }

    /// Adds a directory with the runtime that is shipped with the package.
    pub fn shipped(mut self, dir: impl Into<PathBuf>) -> Self {
        self.shipped.push(dir.into());
        self
    }

    /// Sets the release, such as `0.1.0` or `v0.1.0`. Default: the version of this
    /// crate.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Sets the directory of downloaded runtimes. Default: `isola/runtimes` in the
    /// user's cache directory.
    pub fn runtimes_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.runtimes_dir = Some(dir.into());
        self
    }

    /// Sets the base URL of releases: `https`, or `http` on loopback or with a
    /// pinned digest.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = url.into();
        self
    }

    /// Sets the expected SHA-256 digest of the archive, in hexadecimal digits.
    pub fn sha256(mut self, digest: impl Into<String>) -> Self {
        self.sha256 = Some(digest.into());
        self
    }

    /// Sets the callback for the progress of a download: the number of received
    /// bytes, and the total if it is known.
    pub fn on_progress(
        mut self,
        progress: impl Fn(u64, Option<u64>) + Send + Sync + 'static,
    ) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Finds the component, and downloads it if necessary.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for an invalid setting,
    /// [`Error::DownloadFailed`] and [`Error::DownloadRefused`].
    pub async fn find(self) -> Result<PathBuf, Error> {
        if let Some(library) = &self.library
            && !library.is_dir()
        {
            return Err(Error::InvalidArgument(format!(
                "the library directory {} of the runtime is not a directory",
                library.display()
            )));
        }
        if let Some(path) = &self.path {
            return self.runtime.resolve(Some(path));
        }
        let own = env!("CARGO_PKG_VERSION");
        let version = match &self.version {
            Some(version) => release(version)?,
            None => own,
        };
        if version == own {
            if env::var_os(RUNTIME_DIR_VARIABLE).is_some() {
                return self.runtime.resolve(None);
            }
            let mut dirs = self.shipped.clone();
            dirs.extend(default_dirs());
            if let Some(component) = self.runtime.find_in(&dirs) {
                return Ok(component);
            }
        }
        let runtimes_dir =
            self.runtimes_dir.clone().or_else(default_runtimes_dir).ok_or_else(|| {
                Error::InvalidArgument(
                    "no cache directory: set HOME, or give a runtimes directory".into(),
                )
            })?;
        let downloaded = release_dirs(&runtimes_dir, self.runtime, version);
        self.runtime.check_download(&downloaded)?;
        if let Some(component) = self.runtime.find_in(&downloaded) {
            return Ok(component);
        }
        let version = version.to_owned();
        self.download(&runtimes_dir, &version).await
    }

    #[cfg(feature = "client")]
    async fn download(self, runtimes_dir: &Path, version: &str) -> Result<PathBuf, Error> {
        super::download::Download {
            runtime: self.runtime,
            version,
            runtimes_dir,
            base_url: &self.base_url,
            sha256: self.sha256.as_deref(),
            progress: self.progress.as_ref(),
        }
        .run()
        .await
    }

    #[cfg(not(feature = "client"))]
    async fn download(self, runtimes_dir: &Path, version: &str) -> Result<PathBuf, Error> {
        Err(Error::InvalidArgument(format!(
            "the {} runtime of version {version} was not found in {}, and this build of isola \
             cannot download it: its feature `client` is off",
            self.runtime,
            runtimes_dir.display()
        )))
    }
}

impl fmt::Debug for RuntimeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeSource")
            .field("runtime", &self.runtime)
            .field("path", &self.path)
            .field("shipped", &self.shipped)
            .field("version", &self.version)
            .field("base_url", &self.base_url)
            .finish_non_exhaustive()
    }
}

/// Returns the number of a release, which becomes a part of paths and URLs.
fn release(version: &str) -> Result<&str, Error> {
    let number = version.strip_prefix('v').unwrap_or(version);
    let is_plain = number.starts_with(|first: char| first.is_ascii_digit())
        && number.chars().all(|c| c.is_ascii_alphanumeric() || "._-+".contains(c));
    if is_plain {
        return Ok(number);
    }
    Err(Error::InvalidArgument(format!(
        "{version:?} is not the version of a release, such as \"{}\"",
        env!("CARGO_PKG_VERSION")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_a_version_number() {
        assert_eq!(release("0.1.0").unwrap(), "0.1.0");
        assert_eq!(release("v1.2.3-rc.1").unwrap(), "1.2.3-rc.1");
        for wrong in ["", "v", "../1", "1/2", "latest", "1.0 "] {
            assert!(release(wrong).unwrap_err().to_string().contains("0.1.0"), "{wrong}");
        }
    }

    #[tokio::test]
    async fn path_and_version_take_precedence() {
        let root = tempfile::tempdir().unwrap();
        let runtime_dir = |name: &str| {
            let dir = root.path().join(name);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("js.wasm"), "").unwrap();
            dir
        };
        let given = runtime_dir("given");
        let other = runtime_dir("runtimes/9.9.9/js");
        let source = || {
            RuntimeSource::new(Runtime::JavaScript)
                .shipped(given.clone())
                .runtimes_dir(root.path().join("runtimes"))
        };
        assert_eq!(source().path(&given).find().await.unwrap(), given.join("js.wasm"));
        let found = source().version("v9.9.9").find().await.unwrap();
        assert_eq!(found, other.join("js.wasm"));
        let error = source().path(&given).library("/nowhere").find().await.unwrap_err();
        assert_eq!(error.code(), "invalid_argument");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn download_writable_by_others_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let runtimes = root.path().join("runtimes");
        let dir = runtimes.join("9.9.9/js");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("js.wasm"), "").unwrap();
        let find = async || {
            let source = RuntimeSource::new(Runtime::JavaScript).version("9.9.9");
            source.runtimes_dir(&runtimes).find().await
        };
        for path in [&dir, &runtimes.join("9.9.9"), &runtimes] {
            for mode in [0o777, 0o770, 0o775] {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
                let error = find().await.unwrap_err();
                assert!(error.to_string().contains("can write there"), "{error}");
            }
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        assert_eq!(find().await.unwrap(), dir.join("js.wasm"));
    }
}
