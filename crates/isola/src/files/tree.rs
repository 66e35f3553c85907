//! The root directory of a guest, and the directories that lead to its mounts.
//!
//! They exist on no disk: with a mount at `/data/in` there are `/`, which lists
//! `data`, and `/data`, which lists `in`. They can be listed and entered, and
//! nothing can be created, changed or removed in them.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorStat, DescriptorType, DirectoryEntry, MetadataHashValue,
};

use super::{Handle, directory::DirectoryStream};

/// The names of a path, from the root on.
type Names = Arc<[String]>;

/// A directory that leads to a mount; a descriptor of the guest like [`Handle`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Above(Names);

/// A directory or file that a path begins at or leads to.
#[derive(Clone)]
pub(super) enum Place {
    /// In a mount.
    Mounted(Handle),
    /// Above all mounts.
    Above(Above),
}

/// The result of following a path as far as it is not in a mount.
pub(super) enum Target {
    /// The rest of the path, from a directory of a mount.
    Mounted(Handle, String),
    Above(Above),
    /// There is no such entry above the mounts. `last`: it would be the last
    /// one of the path, so that the path could be created elsewhere.
    Missing {
        last: bool,
    },
}

/// Where the mounts are.
pub(super) struct Tree {
    mounts: Vec<(Names, Handle)>,
}

impl Tree {
    pub(super) fn new<'a>(mounts: impl Iterator<Item = (&'a str, &'a Handle)>) -> Self {
        Self { mounts: mounts.map(|(path, handle)| (names(path), handle.clone())).collect() }
    }

    pub(super) fn root() -> Above {
        Above(Arc::default())
    }

    /// Follows a path until it is in a mount.
    ///
    /// From the root of a mount `..` leads above it; from any other directory of
    /// a mount that is for the file system to resolve, which does not leave it.
    pub(super) fn follow(&self, place: Place, path: &str) -> Target {
        let mut place = place;
        let mut rest = path;
        loop {
            let (name, after) = first(rest);
            place = match (place, name) {
                (Place::Above(above), "") => return Target::Above(above),
                (Place::Mounted(handle), "") => {
                    let rest = if rest.is_empty() && !path.is_empty() { "." } else { rest };
                    return Target::Mounted(handle, rest.to_owned());
                }
                (place @ Place::Above(_), ".") => place,
                (Place::Above(above), "..") => Place::Above(above.parent()),
                (Place::Above(above), name) => match self.child(&above, name) {
                    Some(place) => place,
                    None => return Target::Missing { last: first(after).0.is_empty() },
                },
                (Place::Mounted(handle), "..") => match self.root_of(&handle) {
                    Some(root) => Place::Above(root.parent()),
                    None => return Target::Mounted(handle, rest.to_owned()),
                },
                (Place::Mounted(handle), _) => return Target::Mounted(handle, rest.to_owned()),
            };
            rest = after.trim_start_matches('/');
        }
    }

    /// The entries of a directory.
    pub(super) fn list(&self, above: &Above) -> DirectoryStream {
        let mut entries = BTreeMap::new();
        for (names, _) in &self.mounts {
            if let Some(name) = names.strip_prefix(&*above.0).and_then(<[String]>::first) {
                entries.insert(name, DescriptorType::Directory);
            }
        }
        let entries = entries
            .into_iter()
            .map(|(name, type_)| Ok(DirectoryEntry { type_, name: name.clone() }));
        DirectoryStream { ready: entries.collect::<VecDeque<_>>(), reader: None }
    }

    fn child(&self, above: &Above, name: &str) -> Option<Place> {
        let mut path = above.0.to_vec();
        path.push(name.to_owned());
        // The last mount at a path is the one that libc uses, too.
        if let Some((_, handle)) = self.mounts.iter().rev().find(|(names, _)| **names == *path) {
            return Some(Place::Mounted(handle.clone()));
        }
        let leads = self.mounts.iter().any(|(names, _)| names.starts_with(&path));
        leads.then(|| Place::Above(Above(path.into())))
    }

    /// The path of the mount of which this is the root.
    fn root_of(&self, handle: &Handle) -> Option<Above> {
        let (names, _) = self.mounts.get(handle.rights.mount).filter(|_| handle.root)?;
        Some(Above(Arc::clone(names)))
    }
}

impl Above {
    fn parent(&self) -> Self {
        let parents = self.0.split_last().map_or(&[][..], |(_, parents)| parents);
        Self(parents.into())
    }

    pub(super) fn stat() -> DescriptorStat {
        DescriptorStat {
            type_: DescriptorType::Directory,
            link_count: 1,
            size: 0,
            data_access_timestamp: None,
            data_modification_timestamp: None,
            status_change_timestamp: None,
        }
    }

    /// A number for each of these directories.
    pub(super) fn hash(&self) -> MetadataHashValue {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        let lower = hasher.finish();
        0x6973_6f6c_6100_0002_u64.hash(&mut hasher);
        MetadataHashValue { lower, upper: hasher.finish() }
    }
}

fn names(path: &str) -> Names {
    path.split('/').filter(|name| !name.is_empty() && *name != ".").map(str::to_owned).collect()
}

/// The first name of a path, and what comes after it.
fn first(path: &str) -> (&str, &str) {
    let path = path.trim_start_matches('/');
    path.split_once('/').unwrap_or((path, ""))
}
