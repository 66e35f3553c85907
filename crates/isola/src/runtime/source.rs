//! Where a runtime comes from, for packages that bring their own or download
//! one.

use std::{
    env, fmt,
    path::{Path, PathBuf},
};

use super::{RUNTIME_DIR, Runtime, default_folders, default_runtimes_dir, release_folders};
use crate::error::Error;

/// Where releases are, unless another place is given.
const RELEASES: &str = "https://github.com/isola-run/isola/releases/download";

/// Finds the component of a runtime, and downloads it if it is nowhere.
///
/// It is looked for in this order:
///
/// 1. the [`path`](Self::path) that was given, and nowhere else then;
/// 2. the folder in the environment variable `ISOLA_RUNTIME_DIR`;
/// 3. the folders that came with the package, [`shipped`](Self::shipped), and
///    those beside the program;
/// 4. what was downloaded before, `~/.cache/isola/runtimes/<version>`;
/// 5. the release at [`base_url`](Self::base_url): the archive
///    `<base>/v<version>/isola-<runtime>.tar.gz`, whose SHA-256 digest is the
///    one that was [pinned](Self::sha256), or stands beside it in
///    `isola-<runtime>.tar.gz.sha256`.
///
/// With a [`version`](Self::version) other than this crate's, 2 and 3 are left
/// out: what they hold is of this version.
#[must_use = "a source does nothing until `find`"]
pub struct RuntimeSource {
    runtime: Runtime,
    path: Option<PathBuf>,
    library: Option<PathBuf>,
    shipped: Vec<PathBuf>,
    version: Option<String>,
    folder: Option<PathBuf>,
    base_url: String,
    sha256: Option<String>,
    progress: Option<Progress>,
}

/// Is told how many bytes have arrived, and of how many if that is known.
pub(super) type Progress = Box<dyn Fn(u64, Option<u64>) + Send + Sync>;

impl RuntimeSource {
    /// A source of this runtime.
    pub fn new(runtime: Runtime) -> Self {
        Self {
            runtime,
            path: None,
            library: None,
            shipped: Vec::new(),
            version: None,
            folder: None,
            base_url: RELEASES.to_owned(),
            sha256: None,
            progress: None,
        }
    }

    /// The component, or the folder that holds it.
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// The library folder of a runtime that has one outside of itself. The
    /// runtimes of this project have their library inside: the folder has to
    /// be there, and is not read.
    pub fn library(mut self, folder: impl Into<PathBuf>) -> Self {
        self.library = Some(folder.into());
        self
    }

    /// A folder with the runtime, that came with the package.
    pub fn shipped(mut self, folder: impl Into<PathBuf>) -> Self {
        self.shipped.push(folder.into());
        self
    }

    /// The release, such as `0.1.0` or `v0.1.0`. Default: that of this crate.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Where downloaded runtimes are kept. Default: `isola/runtimes` in the
    /// user's cache folder.
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Where releases are downloaded from: `https`, or `http` on loopback or
    /// with a digest that is pinned.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = url.into();
        self
    }

    /// The digest that the archive must have, in hexadecimal digits.
    pub fn sha256(mut self, digest: impl Into<String>) -> Self {
        self.sha256 = Some(digest.into());
        self
    }

    /// Is told of a download: how many bytes have arrived, and of how many.
    pub fn on_progress(
        mut self,
        progress: impl Fn(u64, Option<u64>) + Send + Sync + 'static,
    ) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Finds the component.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for what cannot be,
    /// [`Error::DownloadFailed`] and [`Error::DownloadRefused`].
    pub async fn find(self) -> Result<PathBuf, Error> {
        if let Some(library) = &self.library
            && !library.is_dir()
        {
            return Err(Error::InvalidArgument(format!(
                "the library folder {} of the runtime is not a folder",
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
            if env::var_os(RUNTIME_DIR).is_some() {
                return self.runtime.resolve(None);
            }
            let mut folders = self.shipped.clone();
            folders.extend(default_folders());
            if let Some(component) = self.runtime.find_in(&folders) {
                return Ok(component);
            }
        }
        let folder = self.folder.clone().or_else(default_runtimes_dir).ok_or_else(|| {
            Error::InvalidArgument("no cache folder: set HOME, or give a runtimes folder".into())
        })?;
        let places = release_folders(&folder, self.runtime, version);
        self.runtime.check_download(&places)?;
        if let Some(component) = self.runtime.find_in(&places) {
            return Ok(component);
        }
        let version = version.to_owned();
        self.download(&folder, &version).await
    }

    #[cfg(feature = "client")]
    async fn download(self, folder: &Path, version: &str) -> Result<PathBuf, Error> {
        super::download::Download {
            runtime: self.runtime,
            version,
            folder,
            base_url: &self.base_url,
            sha256: self.sha256.as_deref(),
            progress: self.progress.as_ref(),
        }
        .run()
        .await
    }

    #[cfg(not(feature = "client"))]
    async fn download(self, folder: &Path, version: &str) -> Result<PathBuf, Error> {
        Err(Error::InvalidArgument(format!(
            "the {} runtime of version {version} was not found in {}, and this build of isola \
             cannot download it: its feature `client` is off",
            self.runtime,
            folder.display()
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

/// The number of a release. It becomes a part of paths and URLs.
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
    fn a_version_is_a_number_and_no_path() {
        assert_eq!(release("0.1.0").unwrap(), "0.1.0");
        assert_eq!(release("v1.2.3-rc.1").unwrap(), "1.2.3-rc.1");
        for wrong in ["", "v", "../1", "1/2", "latest", "1.0 "] {
            assert!(release(wrong).unwrap_err().to_string().contains("0.1.0"), "{wrong}");
        }
    }

    #[tokio::test]
    async fn the_order_of_places() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            let place = folder.path().join(name);
            std::fs::create_dir_all(&place).unwrap();
            std::fs::write(place.join("js.wasm"), "").unwrap();
            place
        };
        let given = place("given");
        let other = place("runtimes/9.9.9/js");
        let source = || {
            RuntimeSource::new(Runtime::JavaScript)
                .shipped(given.clone())
                .folder(folder.path().join("runtimes"))
        };
        assert_eq!(source().path(&given).find().await.unwrap(), given.join("js.wasm"));
        let found = source().version("v9.9.9").find().await.unwrap();
        assert_eq!(found, other.join("js.wasm"));
        let error = source().path(&given).library("/nowhere").find().await.unwrap_err();
        assert_eq!(error.code(), "invalid_argument");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn what_was_downloaded_must_be_the_users_own() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let runtimes = folder.path().join("runtimes");
        let place = runtimes.join("9.9.9/js");
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("js.wasm"), "").unwrap();
        let find = async || {
            let source = RuntimeSource::new(Runtime::JavaScript).version("9.9.9");
            source.folder(&runtimes).find().await
        };
        for path in [&place, &runtimes.join("9.9.9"), &runtimes] {
            for mode in [0o777, 0o770, 0o775] {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
                let error = find().await.unwrap_err();
                assert!(error.to_string().contains("can write there"), "{error}");
            }
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        assert_eq!(find().await.unwrap(), place.join("js.wasm"));
    }
}
