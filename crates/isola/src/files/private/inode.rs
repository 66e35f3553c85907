//! The files, directories, links and devices of a private tree.

use std::{collections::BTreeMap, time::SystemTime};

use super::content::Content;

/// The number of an inode.
pub(crate) type Ino = u32;

/// What an inode counts in addition to its content, in bytes.
pub(super) const INODE_CHARGE: u64 = 512;

/// The bits of a mode that can be set.
pub(super) const MODE_BITS: u16 = 0o7777;

#[derive(Clone)]
pub(super) struct Inode {
    pub(super) kind: Kind,
    /// The permissions, which are recorded but not enforced: the guest is the owner, and
    /// root.
    pub(super) mode: u16,
    /// The number of directory entries that lead to it; for a directory also its own and
    /// those of its subdirectories, as on Linux. 0 if it was removed.
    pub(super) links: u32,
    /// The number of open descriptors.
    pub(super) opens: u32,
    pub(super) accessed: SystemTime,
    pub(super) modified: SystemTime,
    pub(super) changed: SystemTime,
}

#[derive(Clone)]
pub(super) enum Kind {
    Directory(Directory),
    File(Content),
    Link(Box<str>),
    Device(Device),
}

#[derive(Clone)]
pub(super) struct Directory {
    /// The directory above it; its own number for the root.
    pub(super) parent: Ino,
    pub(super) entries: BTreeMap<Box<str>, Ino>,
}

/// A file whose content is not stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Device {
    /// Is empty, and discards what is written.
    Null = 0,
    /// Is endlessly zero, and discards what is written.
    Zero = 1,
    /// Is endlessly random, and discards what is written.
    Random = 2,
}

impl Inode {
    pub(super) fn new(kind: Kind, mode: u16, now: SystemTime) -> Self {
        let links = if matches!(kind, Kind::Directory(_)) { 2 } else { 1 };
        Self { kind, mode, links, opens: 0, accessed: now, modified: now, changed: now }
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory(_))
    }

    /// Records a change of the content.
    pub(super) fn touch(&mut self, now: SystemTime) {
        (self.modified, self.changed) = (now, now);
    }

    pub(super) fn size(&self) -> u64 {
        match &self.kind {
            Kind::File(content) => content.size(),
            Kind::Link(target) => target.len() as u64,
            Kind::Directory(_) | Kind::Device(_) => 0,
        }
    }

    /// What it counts in all, without the entries that lead to it, in bytes.
    pub(super) fn charge(&self) -> u64 {
        let content = match &self.kind {
            Kind::File(content) => content.charged(),
            Kind::Link(target) => target.len() as u64,
            Kind::Directory(_) | Kind::Device(_) => 0,
        };
        INODE_CHARGE + content
    }
}
