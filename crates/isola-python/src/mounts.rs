//! Mounts, converted from Python.

use std::path::PathBuf;

use isola::{Mount, Permission};
use pyo3::prelude::*;

use crate::failure;

/// A directory of the host, a path of the guest, and the permissions on
/// directories and on files.
pub type MountOption = (PathBuf, String, String, String);

/// Converts a mount.
pub fn read_mount((host, guest, dirs, files): MountOption) -> PyResult<Mount> {
    let dirs = permission("dir_perms", &dirs)?;
    let files = permission("file_perms", &files)?;
    Ok(Mount::new(host, guest).dir_perms(dirs).file_perms(files))
}

fn permission(option: &str, name: &str) -> PyResult<Permission> {
    match name {
        "read" => Ok(Permission::Read),
        "write" => Ok(Permission::Write),
        "read-write" => Ok(Permission::ReadWrite),
        other => Err(failure::raise(
            "invalid_argument",
            &format!("{option} is {other:?}: use \"read\", \"write\" or \"read-write\""),
        )),
    }
}
