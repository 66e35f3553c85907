//! The URL and API key that a client uses. In order of precedence: the options, the environment,
//! the file that the user's own server wrote, and the default address.
//!
//! The Python package reads the same file: `sdk/python/src/isorun/_config.py`.

use std::{
    env,
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use etcetera::BaseStrategy;
use serde::{Deserialize, Serialize};

use isorun_api::DEFAULT_ADDRESS;

const URL_VARIABLE: &str = "ISORUN_API_URL";
const KEY_VARIABLE: &str = "ISORUN_API_KEY";

/// The client configuration that `isorun serve` writes for its own user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientConfig {
    pub api_url: String,
    pub api_key: String,
}

impl ClientConfig {
    fn path() -> Result<PathBuf> {
        let base = etcetera::choose_base_strategy().context("cannot find the home directory")?;
        Ok(base.config_dir().join("isorun/client.json"))
    }

    /// Reads the file, if it exists.
    pub fn load() -> Result<Option<Self>> {
        let path = Self::path()?;
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        restrict(&file, &path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let config = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is not a valid client configuration: remove it, and start the server again",
                path.display()
            )
        })?;
        Ok(Some(config))
    }

    /// Writes the file, readable by this user only. Returns its path.
    pub fn store(&self) -> Result<PathBuf> {
        let path = Self::path()?;
        let directory = path.parent().context("the configuration file has no parent directory")?;
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        // The temporary file is readable by its owner only, and renamed when it is complete.
        let mut temporary = tempfile::NamedTempFile::new_in(directory)
            .with_context(|| format!("cannot write to {}", directory.display()))?;
        temporary.as_file().set_permissions(fs::Permissions::from_mode(0o600))?;
        serde_json::to_writer_pretty(&mut temporary, self)?;
        temporary.write_all(b"\n")?;
        temporary.persist(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// Refuses a configuration file that another user could have written, since it
/// names the server that the key is sent to. Removes the permissions of other
/// users to read it.
fn restrict(file: &File, path: &Path) -> Result<()> {
    let metadata = file.metadata().with_context(|| format!("cannot read {}", path.display()))?;
    let mode = metadata.permissions().mode() & 0o7777;
    let user = rustix::process::geteuid().as_raw();
    ensure!(
        mode & 0o022 == 0 && (metadata.uid() == user || metadata.uid() == 0),
        "{} can be written by other users (mode {mode:04o}, owner {}), who could have changed the \
         address or the key in it: check it, then run `chmod 600 {0}` as its owner",
        path.display(),
        metadata.uid(),
    );
    if mode & 0o077 != 0 && metadata.uid() == user {
        // A read-only file system keeps the mode as it is.
        let _ = file.set_permissions(fs::Permissions::from_mode(mode & 0o700));
    }
    Ok(())
}

/// A server, and the key for it.
#[derive(Clone, Debug)]
pub struct Target {
    pub url: String,
    pub key: Option<String>,
    /// True if the URL was specified by an option or the environment. Otherwise a server may not
    /// be running there.
    pub explicit: bool,
}

impl Target {
    /// Determines the server and the key from the options, the environment and the configuration.
    pub fn find(url: Option<String>, key: Option<String>) -> Result<Self> {
        let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let (url, key) = (url.or_else(|| set(URL_VARIABLE)), key.or_else(|| set(KEY_VARIABLE)));
        let explicit = url.is_some();
        let config = match (&url, &key) {
            (Some(_), Some(_)) => None,
            _ => ClientConfig::load()?,
        };
        let default = || format!("http://{DEFAULT_ADDRESS}");
        let (local_url, local_key) =
            config.map_or((None, None), |config| (Some(config.api_url), Some(config.api_key)));
        // The key of this machine's server is never sent to another machine.
        let is_local = url.as_ref().is_none_or(|url| {
            local_url.as_ref() == Some(url)
                || (is_loopback(url) && local_url.as_deref().is_some_and(is_loopback))
        });
        Ok(Self {
            key: key.or(local_key.filter(|_| is_local)),
            url: url.or(local_url).unwrap_or_else(default).trim_end_matches('/').to_owned(),
            explicit,
        })
    }
}

fn is_loopback(url: &str) -> bool {
    let host = reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    host.is_some_and(|host| {
        host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse()
                .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readable_configurations_are_restricted_and_writable_ones_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("client.json");
        for (before, after) in [
            (0o600, Some(0o600)),
            (0o400, Some(0o400)),
            (0o644, Some(0o600)),
            (0o640, Some(0o600)),
            (0o604, Some(0o600)),
            (0o620, None),
            (0o666, None),
            (0o602, None),
        ] {
            fs::write(&path, "{}").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(before)).unwrap();
            match (restrict(&File::open(&path).unwrap(), &path), after) {
                (Ok(()), Some(after)) => {
                    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
                    assert_eq!(mode, after, "{before:o}");
                }
                (Err(error), None) => {
                    let text = error.to_string();
                    assert!(text.contains("chmod 600") && text.contains("client.json"), "{text}");
                }
                (outcome, _) => panic!("{before:o}: {outcome:?}"),
            }
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn loopback_urls_are_recognized() {
        for url in
            ["http://127.0.0.1:7676", "https://localhost", "http://[::1]:1/", "http://127.9.9.9"]
        {
            assert!(is_loopback(url), "{url}");
        }
        for url in [
            "http://example.com",
            "http://10.0.0.1",
            "http://localhost.example.com",
            "127.0.0.1",
            "",
        ] {
            assert!(!is_loopback(url), "{url}");
        }
    }
}
