//! Host directories that are mounted in a guest.

use std::path::PathBuf;

use crate::error::Error;

/// A host directory that is visible in the guest, read-only by default.
///
/// ```
/// use isola::{Mount, Permission};
///
/// let mount = Mount::new("./data", "/data")
///     .dir_perms(Permission::ReadWrite)
///     .file_perms(Permission::ReadWrite);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub(crate) host: PathBuf,
    pub(crate) guest: String,
    pub(crate) dirs: Permission,
    pub(crate) files: Permission,
}

impl Mount {
    /// Mounts the host directory `host` at the absolute path `guest`, read-only.
    pub fn new(host: impl Into<PathBuf>, guest: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            guest: guest.into(),
            dirs: Permission::Read,
            files: Permission::Read,
        }
    }

    /// Sets the permission for directories: listing them requires `Read`;
    /// creating, renaming and removing entries requires `Write`.
    #[must_use]
    pub fn dir_perms(mut self, permission: Permission) -> Self {
        self.dirs = permission;
        self
    }

    /// Sets the permission for the content of files.
    #[must_use]
    pub fn file_perms(mut self, permission: Permission) -> Self {
        self.files = permission;
        self
    }

    /// Opens the directory.
    pub(crate) fn open(&self) -> std::io::Result<std::fs::File> {
        use cap_primitives::{ambient_authority, fs::open_ambient_dir};
        open_ambient_dir(&self.host, ambient_authority())
    }

    /// Checks the paths of the mount.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let refuse = |why: &str| {
            Err(Error::InvalidArgument(format!(
                "mount of {:?} at {:?}: {why}",
                self.host, self.guest
            )))
        };
        if !self.guest.starts_with('/') || self.guest.len() < 2 {
            return refuse("the guest path must be absolute, and not the root");
        }
        if self.guest.split('/').any(|part| part == "..") || self.guest.contains('\0') {
            return refuse("the guest path must not contain `..` or a NUL");
        }
        match std::fs::metadata(&self.host) {
            Ok(metadata) if metadata.is_dir() => Ok(()),
            Ok(_) => refuse("the host path is not a directory"),
            Err(error) => refuse(&format!("the host directory cannot be read: {error}")),
        }
    }
}

/// The permitted access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Permission {
    /// Reading only.
    #[default]
    Read,
    /// Writing only.
    Write,
    /// Reading and writing.
    ReadWrite,
}

impl Permission {
    pub(crate) fn reads(self) -> bool {
        self != Self::Write
    }

    pub(crate) fn writes(self) -> bool {
        self != Self::Read
    }
}

impl std::str::FromStr for Permission {
    type Err = Error;

    /// Parses `read`, `write` or `read-write`.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "read" => Ok(Self::Read),
            "write" => Ok(Self::Write),
            "read-write" => Ok(Self::ReadWrite),
            other => Err(Error::InvalidArgument(format!(
                "unknown permission {other:?}: use \"read\", \"write\" or \"read-write\""
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_mounts_are_refused() {
        let here = env!("CARGO_MANIFEST_DIR");
        assert!(Mount::new(here, "/data").validate().is_ok());
        for (host, guest, why) in [
            (here, "data", "absolute"),
            (here, "/", "absolute"),
            (here, "/a/../b", ".."),
            ("/nowhere/at/all", "/data", "cannot be read"),
            (concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "/data", "not a directory"),
        ] {
            let error = Mount::new(host, guest).validate().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn permission_names_are_parsed() {
        assert_eq!("read-write".parse::<Permission>().unwrap(), Permission::ReadWrite);
        assert!("rw".parse::<Permission>().unwrap_err().to_string().contains("read-write"));
    }
}
