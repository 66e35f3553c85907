//! The resolution of paths in a private tree, up to the mounts over it.

use std::collections::HashMap;

use crate::file_failure::FileFailure;

use super::{
    inode::{Ino, Kind},
    tree::{MAX_NAME_BYTES, ROOT, Result, Tree},
};

/// The maximum number of symbolic links in a path, as on Linux.
const MAX_LINKS: u32 = 40;

/// The directories over which there is a mount, with the index of the mount.
pub(super) type MountPoints = HashMap<Ino, usize>;

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Into a mount: its index, and the rest of the path.
    Mounted(usize, String),
    Entry(PathEntry),
}

/// The last component of a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PathEntry {
    /// The directory in which it is, or would be.
    pub(super) parent: Ino,
    /// Empty if the path ends in `.` or `..`, or is that of the root.
    pub(super) name: String,
    pub(super) ino: Option<Ino>,
    /// The path has a slash after the name.
    pub(super) directory: bool,
}

impl PathEntry {
    /// Returns the inode, or the error for an entry that does not exist.
    pub(super) fn existing(&self) -> Result<Ino> {
        self.ino.ok_or(FileFailure::NotFound)
    }

    /// Returns the entry if it has a name, by which it can be removed or moved.
    pub(super) fn named(&self) -> Result<(Ino, &str)> {
        if self.name.is_empty() { Err(FileFailure::Busy) } else { Ok((self.parent, &self.name)) }
    }
}

/// Resolves a path from a directory. If its last component is a symbolic link, `follow`
/// decides whether the link is followed.
pub(super) fn resolve(
    tree: &Tree,
    mounts: &MountPoints,
    start: Ino,
    path: &str,
    follow: bool,
) -> Result<Found> {
    let mut at = if path.starts_with('/') { ROOT } else { start };
    let mut directory = path.ends_with('/');
    // The components that are left, in reverse order.
    let mut rest = Vec::new();
    push(&mut rest, path);
    let mut links = 0;
    loop {
        if let Some(&mount) = mounts.get(&at) {
            // `..` at the root of a mount leads out of it.
            while rest.last().is_some_and(|name| name == ".") {
                rest.pop();
            }
            if rest.last().is_none_or(|name| name != "..") {
                return Ok(Found::Mounted(mount, within_mount(rest, directory)));
            }
        }
        let current = tree.directory(at)?;
        let Some(name) = rest.pop() else {
            return Ok(Found::Entry(PathEntry {
                parent: at,
                name: String::new(),
                ino: Some(at),
                directory,
            }));
        };
        match name.as_str() {
            "." => continue,
            ".." => {
                at = current.parent;
                continue;
            }
            name if name.len() > MAX_NAME_BYTES => return Err(FileFailure::NameTooLong),
            _ => {}
        }
        let last = rest.is_empty();
        let Some(&ino) = current.entries.get(name.as_str()) else {
            if last {
                return Ok(Found::Entry(PathEntry { parent: at, name, ino: None, directory }));
            }
            return Err(FileFailure::NotFound);
        };
        match &tree.inode(ino)?.kind {
            Kind::Link(target) if !last || follow || directory => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(FileFailure::Loop);
                }
                if target.starts_with('/') {
                    at = ROOT;
                }
                directory |= last && target.ends_with('/');
                push(&mut rest, target);
            }
            Kind::Directory(_) if last && !mounts.contains_key(&ino) => {
                return Ok(Found::Entry(PathEntry { parent: at, name, ino: Some(ino), directory }));
            }
            Kind::Directory(_) => at = ino,
            _ if last && !directory => {
                return Ok(Found::Entry(PathEntry { parent: at, name, ino: Some(ino), directory }));
            }
            _ => return Err(FileFailure::NotADirectory),
        }
    }
}

fn push(rest: &mut Vec<String>, path: &str) {
    let names = path.split('/').filter(|name| !name.is_empty()).map(str::to_owned);
    let from = rest.len();
    rest.extend(names);
    rest[from..].reverse();
}

/// Returns the rest of a path that led into a mount.
fn within_mount(mut rest: Vec<String>, directory: bool) -> String {
    if rest.is_empty() {
        return ".".to_owned();
    }
    rest.reverse();
    let mut path = rest.join("/");
    if directory {
        path.push('/');
    }
    path
}
