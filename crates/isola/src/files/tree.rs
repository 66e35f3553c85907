//! The root directory of a guest, and the directories that lead to its mounts.
//!
//! They are virtual: with a mount at `/data/in` there are `/`, which lists `data`,
//! and `/data`, which lists `in`. They can be listed and entered, but nothing can
//! be created, changed or removed in them.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorStat, DescriptorType, DirectoryEntry, MetadataHashValue,
};

use super::{Handle, directory::DirectoryStream};

/// The components of a path, starting at the root.
type Names = Arc<[String]>;

/// A virtual directory that leads to a mount; a descriptor of the guest like
/// [`Handle`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VirtualDir(Names);

/// A directory or file at which a path starts or ends.
#[derive(Clone)]
pub(super) enum Node {
    /// In a mount.
    Mounted(Handle),
    /// VirtualDir the mounts.
    Virtual(VirtualDir),
}

/// The result of following a path until it enters a mount.
pub(super) enum Target {
    /// A directory of a mount, and the rest of the path from there.
    Mounted(Handle, String),
    Virtual(VirtualDir),
    /// There is no such entry above the mounts. `last` is true for the last
    /// component of the path, which elsewhere could be created.
    Missing {
        last: bool,
    },
}

/// The mounts and their paths.
pub(super) struct Tree {
    mounts: Vec<(Names, Handle)>,
}

impl Tree {
    pub(super) fn new<'a>(mounts: impl Iterator<Item = (&'a str, &'a Handle)>) -> Self {
        Self { mounts: mounts.map(|(path, handle)| (names(path), handle.clone())).collect() }
    }

    pub(super) fn root() -> VirtualDir {
        VirtualDir(Arc::default())
    }

    /// Follows a path until it enters a mount.
    ///
    /// At the root of a mount, `..` leads to the virtual directory above it. In any
    /// other directory of a mount the file system resolves it, within the mount.
    pub(super) fn follow(&self, node: Node, path: &str) -> Target {
        let mut node = node;
        let mut rest = path;
        loop {
            let (name, after) = split_first(rest);
            node = match (node, name) {
                (Node::Virtual(virtual_dir), "") => return Target::Virtual(virtual_dir),
                (Node::Mounted(handle), "") => {
                    let rest = if rest.is_empty() && !path.is_empty() { "." } else { rest };
                    return Target::Mounted(handle, rest.to_owned());
                }
                (node @ Node::Virtual(_), ".") => node,
                (Node::Virtual(virtual_dir), "..") => Node::Virtual(virtual_dir.parent()),
                (Node::Virtual(virtual_dir), name) => match self.child(&virtual_dir, name) {
                    Some(node) => node,
                    None => return Target::Missing { last: split_first(after).0.is_empty() },
                },
                (Node::Mounted(handle), "..") => match self.root_of(&handle) {
                    Some(root) => Node::Virtual(root.parent()),
                    None => return Target::Mounted(handle, rest.to_owned()),
                },
                (Node::Mounted(handle), _) => return Target::Mounted(handle, rest.to_owned()),
            };
            rest = after.trim_start_matches('/');
        }
    }

    /// Lists a virtual directory.
    pub(super) fn list(&self, virtual_dir: &VirtualDir) -> DirectoryStream {
        let mut entries = BTreeMap::new();
        for (names, _) in &self.mounts {
            if let Some(name) = names.strip_prefix(&*virtual_dir.0).and_then(<[String]>::first) {
                entries.insert(name, DescriptorType::Directory);
            }
        }
        let entries = entries
            .into_iter()
            .map(|(name, type_)| Ok(DirectoryEntry { type_, name: name.clone() }));
        DirectoryStream { ready: entries.collect::<VecDeque<_>>(), reader: None }
    }

    fn child(&self, virtual_dir: &VirtualDir, name: &str) -> Option<Node> {
        let mut path = virtual_dir.0.to_vec();
        path.push(name.to_owned());
        // If several mounts have the same path, libc also uses the last one.
        if let Some((_, handle)) = self.mounts.iter().rev().find(|(names, _)| **names == *path) {
            return Some(Node::Mounted(handle.clone()));
        }
        let leads = self.mounts.iter().any(|(names, _)| names.starts_with(&path));
        leads.then(|| Node::Virtual(VirtualDir(path.into())))
    }

    /// Returns the path of the mount of which this is the root.
    fn root_of(&self, handle: &Handle) -> Option<VirtualDir> {
        let (names, _) = self.mounts.get(handle.rights.mount).filter(|_| handle.root)?;
        Some(VirtualDir(Arc::clone(names)))
    }
}

impl VirtualDir {
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

    /// Returns a number that identifies this directory.
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

/// Splits a path into its first component and the rest.
fn split_first(path: &str) -> (&str, &str) {
    let path = path.trim_start_matches('/');
    path.split_once('/').unwrap_or((path, ""))
}
