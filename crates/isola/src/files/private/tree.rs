//! A private tree: the operations on its inodes, by number and name.
//!
//! Copies share everything until one of them changes it, so that a copy costs nothing, and
//! the first change after it a table of pointers.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, LazyLock},
    time::SystemTime,
};

use crate::file_failure::FileFailure;

use super::{
    budget::{Budget, Full, entry_charge},
    content::{Content, MAX_SIZE},
    inode::{Device, Directory, Ino, Inode, Kind, MODE_BITS},
};

/// The root directory.
pub(super) const ROOT: Ino = 0;

/// The working directory of a new sandbox, and its user's home.
pub(crate) const HOME: &str = "/root";

/// The permissions of a new file and of a new directory, without those of the umask.
const FILE_MODE: u16 = 0o666;
const DIRECTORY_MODE: u16 = 0o777;

/// The umask at the start.
const UMASK: u16 = 0o022;

/// The largest name of an entry, in bytes, as on Linux.
pub(super) const MAX_NAME_BYTES: usize = 255;

/// The largest number of links to a file.
const MAX_LINKS: u32 = 65_000;

pub(super) type Result<T, E = FileFailure> = std::result::Result<T, E>;

/// The files of one sandbox.
#[derive(Clone)]
pub(crate) struct Tree {
    inodes: Arc<Inodes>,
    budget: Budget,
    /// The bits that the permissions of new files and directories do not have.
    umask: u16,
}

/// All inodes, by number.
#[derive(Clone, Default)]
struct Inodes {
    slots: Vec<Option<Arc<Inode>>>,
    free: Vec<Ino>,
}

/// The tree of each new sandbox: its home, `/tmp` and some devices.
static NEW: LazyLock<Tree> = LazyLock::new(|| {
    let now = SystemTime::now();
    let mut tree = Tree::empty(now, u64::MAX);
    // The names are different and short, so that none of this fails.
    let _ = tree.add_directory(ROOT, &HOME[1..], now);
    if let Ok(tmp) = tree.add_directory(ROOT, "tmp", now) {
        let _ = tree.set_mode(tmp, 0o1777, now);
    }
    if let Ok(dev) = tree.add_directory(ROOT, "dev", now) {
        for (name, device) in [
            ("null", Device::Null),
            ("zero", Device::Zero),
            ("random", Device::Random),
            ("urandom", Device::Random),
        ] {
            let _ = tree.add(dev, name, Inode::new(Kind::Device(device), 0o666, now));
        }
    }
    tree
});

impl Tree {
    /// Returns the files of a new sandbox.
    pub(crate) fn new() -> Self {
        NEW.clone()
    }

    /// Returns a tree that has only the root directory, and may get so many bytes.
    pub(super) fn empty(now: SystemTime, max: u64) -> Self {
        let entries = BTreeMap::new();
        let root = Directory { parent: ROOT, entries };
        let root = Inode::new(Kind::Directory(root), DIRECTORY_MODE & !UMASK, now);
        let budget = Budget::new(root.charge(), max);
        let inodes = Inodes { slots: vec![Some(Arc::new(root))], free: Vec::new() };
        Self { inodes: Arc::new(inodes), budget, umask: UMASK }
    }

    /// Returns the tree with another limit, in bytes. It may be less than what is in use:
    /// then nothing can be added.
    pub(crate) fn limited(mut self, max: u64) -> Self {
        self.budget.set_max(max);
        self
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(super) fn budget_mut(&mut self) -> &mut Budget {
        &mut self.budget
    }

    /// Returns what all of it counts, in bytes.
    pub(crate) fn used(&self) -> u64 {
        self.budget.used()
    }

    /// Returns an inode. A number that does not exist is that of a removed directory.
    pub(super) fn inode(&self, ino: Ino) -> Result<&Inode> {
        let slot = self.inodes.slots.get(ino as usize).and_then(Option::as_deref);
        slot.ok_or(FileFailure::NotFound)
    }

    pub(super) fn inode_mut(&mut self, ino: Ino) -> Result<&mut Inode> {
        inode_mut(&mut self.inodes, ino)
    }

    pub(super) fn directory(&self, ino: Ino) -> Result<&Directory> {
        match &self.inode(ino)?.kind {
            Kind::Directory(directory) => Ok(directory),
            _ => Err(FileFailure::NotADirectory),
        }
    }

    fn directory_mut(&mut self, ino: Ino) -> Result<&mut Directory> {
        match &mut self.inode_mut(ino)?.kind {
            Kind::Directory(directory) => Ok(directory),
            _ => Err(FileFailure::NotADirectory),
        }
    }

    /// Returns the entry of a directory with a name.
    pub(super) fn child(&self, directory: Ino, name: &str) -> Result<Option<Ino>> {
        Ok(self.directory(directory)?.entries.get(name).copied())
    }

    /// Returns the first entry of a directory whose name is after `last`.
    pub(super) fn next_entry(
        &self,
        directory: Ino,
        last: Option<&str>,
    ) -> Result<Option<(String, Ino)>> {
        let entries = &self.directory(directory)?.entries;
        let start = last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = entries.range::<str, _>((start, Bound::Unbounded)).next();
        Ok(next.map(|(name, ino)| (name.to_string(), *ino)))
    }

    /// Creates a file, and returns its number.
    pub(super) fn add_file(&mut self, directory: Ino, name: &str, now: SystemTime) -> Result<Ino> {
        let mode = FILE_MODE & !self.umask;
        self.add(directory, name, Inode::new(Kind::File(Content::default()), mode, now))
    }

    /// Creates a directory, and returns its number.
    pub(super) fn add_directory(
        &mut self,
        parent: Ino,
        name: &str,
        now: SystemTime,
    ) -> Result<Ino> {
        let directory = Directory { parent, entries: BTreeMap::new() };
        let mode = DIRECTORY_MODE & !self.umask;
        let ino = self.add(parent, name, Inode::new(Kind::Directory(directory), mode, now))?;
        self.inode_mut(parent)?.links += 1;
        Ok(ino)
    }

    /// Creates a symbolic link.
    pub(super) fn add_link(
        &mut self,
        directory: Ino,
        name: &str,
        target: &str,
        now: SystemTime,
    ) -> Result<Ino> {
        self.add(directory, name, Inode::new(Kind::Link(target.into()), 0o777, now))
    }

    /// Adds an inode with an entry in a directory.
    pub(super) fn add(&mut self, directory: Ino, name: &str, inode: Inode) -> Result<Ino> {
        self.check_new_entry(directory, name)?;
        let charge = entry_charge(name) + inode.charge();
        let now = inode.changed;
        self.budget.change(0, charge).map_err(no_space)?;
        let inodes = Arc::make_mut(&mut self.inodes);
        let inode = Some(Arc::new(inode));
        let ino = match inodes.free.pop() {
            Some(ino) => {
                inodes.slots[ino as usize] = inode;
                ino
            }
            None => {
                inodes.slots.push(inode);
                // The budget permits far fewer.
                Ino::try_from(inodes.slots.len() - 1).map_err(|_| FileFailure::NoSpace)?
            }
        };
        self.set_entry(directory, name, ino, now)?;
        Ok(ino)
    }

    fn check_new_entry(&self, directory: Ino, name: &str) -> Result<()> {
        if name.len() > MAX_NAME_BYTES {
            return Err(FileFailure::NameTooLong);
        }
        if name.contains('\0') {
            return Err(FileFailure::Invalid);
        }
        if self.child(directory, name)?.is_some() || matches!(name, "" | "." | "..") {
            return Err(FileFailure::Exists);
        }
        if self.inode(directory)?.links == 0 { Err(FileFailure::NotFound) } else { Ok(()) }
    }

    fn set_entry(&mut self, directory: Ino, name: &str, ino: Ino, now: SystemTime) -> Result<()> {
        self.directory_mut(directory)?.entries.insert(name.into(), ino);
        self.inode_mut(directory)?.touch(now);
        Ok(())
    }

    /// Creates another entry for a file.
    pub(super) fn link(
        &mut self,
        ino: Ino,
        directory: Ino,
        name: &str,
        now: SystemTime,
    ) -> Result<()> {
        let inode = self.inode(ino)?;
        if inode.is_directory() {
            return Err(FileFailure::NotPermitted);
        }
        if inode.links >= MAX_LINKS {
            return Err(FileFailure::TooManyLinks);
        }
        self.check_new_entry(directory, name)?;
        self.budget.change(0, entry_charge(name)).map_err(no_space)?;
        let inode = self.inode_mut(ino)?;
        inode.links += 1;
        inode.changed = now;
        self.set_entry(directory, name, ino, now)
    }

    /// Removes an entry that is not a directory.
    pub(super) fn unlink(&mut self, directory: Ino, name: &str, now: SystemTime) -> Result<()> {
        let ino = self.child(directory, name)?.ok_or(FileFailure::NotFound)?;
        if self.inode(ino)?.is_directory() {
            return Err(FileFailure::IsADirectory);
        }
        self.remove_entry(directory, name, now)?;
        let inode = self.inode_mut(ino)?;
        inode.links -= 1;
        inode.changed = now;
        self.free_if_unused(ino);
        Ok(())
    }

    /// Removes an empty directory.
    pub(super) fn remove_directory(
        &mut self,
        parent: Ino,
        name: &str,
        now: SystemTime,
    ) -> Result<()> {
        let ino = self.child(parent, name)?.ok_or(FileFailure::NotFound)?;
        if !self.directory(ino)?.entries.is_empty() {
            return Err(FileFailure::NotEmpty);
        }
        self.remove_entry(parent, name, now)?;
        self.inode_mut(parent)?.links -= 1;
        self.inode_mut(ino)?.links = 0;
        self.free_if_unused(ino);
        Ok(())
    }

    fn remove_entry(&mut self, directory: Ino, name: &str, now: SystemTime) -> Result<()> {
        self.take_entry(directory, name, now)?;
        self.budget.release(entry_charge(name));
        Ok(())
    }

    fn take_entry(&mut self, directory: Ino, name: &str, now: SystemTime) -> Result<()> {
        self.directory_mut(directory)?.entries.remove(name);
        self.inode_mut(directory)?.touch(now);
        Ok(())
    }

    /// Moves an entry, in place of an existing one.
    pub(super) fn rename(
        &mut self,
        from: (Ino, &str),
        to: (Ino, &str),
        now: SystemTime,
    ) -> Result<()> {
        let ino = self.child(from.0, from.1)?.ok_or(FileFailure::NotFound)?;
        let existing = self.child(to.0, to.1)?;
        if existing == Some(ino) {
            return Ok(());
        }
        let moves_directory = self.inode(ino)?.is_directory();
        if moves_directory && self.is_below(to.0, ino)? {
            return Err(FileFailure::Invalid);
        }
        match existing {
            None => self.check_new_entry(to.0, to.1)?,
            Some(existing) => {
                match (moves_directory, self.inode(existing)?.is_directory()) {
                    (true, false) => return Err(FileFailure::NotADirectory),
                    (false, true) => return Err(FileFailure::IsADirectory),
                    _ => {}
                }
                if moves_directory {
                    self.remove_directory(to.0, to.1, now)?;
                } else {
                    self.unlink(to.0, to.1, now)?;
                }
            }
        }
        // If an entry was replaced, what it counted suffices.
        self.budget.change(entry_charge(from.1), entry_charge(to.1)).map_err(no_space)?;
        self.take_entry(from.0, from.1, now)?;
        self.set_entry(to.0, to.1, ino, now)?;
        if moves_directory {
            self.inode_mut(from.0)?.links -= 1;
            self.inode_mut(to.0)?.links += 1;
            self.directory_mut(ino)?.parent = to.0;
        }
        self.inode_mut(ino)?.changed = now;
        Ok(())
    }

    /// Reports whether a directory is another one or below it.
    pub(super) fn is_below(&self, directory: Ino, other: Ino) -> Result<bool> {
        let mut at = directory;
        while at != other {
            let parent = self.directory(at)?.parent;
            if parent == at {
                return Ok(false);
            }
            at = parent;
        }
        Ok(true)
    }

    /// Removes an entry and everything below it.
    pub(super) fn remove_all(&mut self, parent: Ino, name: &str, now: SystemTime) -> Result<()> {
        let ino = self.child(parent, name)?.ok_or(FileFailure::NotFound)?;
        if !self.inode(ino)?.is_directory() {
            return self.unlink(parent, name, now);
        }
        // Without recursion: the guest chooses the depth.
        let mut at = ino;
        loop {
            let first =
                self.directory(at)?.entries.iter().next().map(|(name, &ino)| (name.clone(), ino));
            match first {
                Some((_, child)) if self.has_entries(child) => at = child,
                Some((name, child)) if self.inode(child)?.is_directory() => {
                    self.remove_directory(at, &name, now)?;
                }
                Some((name, _)) => self.unlink(at, &name, now)?,
                None if at == ino => return self.remove_directory(parent, name, now),
                None => at = self.directory(at)?.parent,
            }
        }
    }

    fn has_entries(&self, ino: Ino) -> bool {
        self.directory(ino).is_ok_and(|directory| !directory.entries.is_empty())
    }

    /// Counts an open descriptor. The root cannot be removed, so it is not counted: each
    /// guest has it open, and would get a copy of the table for that.
    pub(super) fn open(&mut self, ino: Ino) -> Result<()> {
        if ino != ROOT {
            self.inode_mut(ino)?.opens += 1;
        }
        Ok(())
    }

    /// Ends what [`open`](Self::open) counted.
    pub(super) fn close(&mut self, ino: Ino) {
        if ino == ROOT {
            return;
        }
        if let Ok(inode) = self.inode_mut(ino) {
            inode.opens = inode.opens.saturating_sub(1);
            self.free_if_unused(ino);
        }
    }

    fn free_if_unused(&mut self, ino: Ino) {
        let Ok(inode) = self.inode(ino) else { return };
        if inode.links > 0 || inode.opens > 0 {
            return;
        }
        let charge = inode.charge();
        self.budget.release(charge);
        let inodes = Arc::make_mut(&mut self.inodes);
        inodes.slots[ino as usize] = None;
        inodes.free.push(ino);
    }

    /// Reads from a file.
    pub(super) fn read(
        &mut self,
        ino: Ino,
        offset: u64,
        length: usize,
        now: SystemTime,
    ) -> Result<Vec<u8>> {
        let inode = self.inode(ino)?;
        let bytes = match &inode.kind {
            Kind::File(content) => content.read(offset, length),
            Kind::Device(Device::Null) => Vec::new(),
            Kind::Device(Device::Zero) => vec![0; length],
            Kind::Device(Device::Random) => random(length)?,
            Kind::Directory(_) => return Err(FileFailure::IsADirectory),
            Kind::Link(_) => return Err(FileFailure::Invalid),
        };
        // As with `relatime` on Linux: the first read after a change is recorded.
        if inode.accessed <= inode.modified && !bytes.is_empty() {
            self.inode_mut(ino)?.accessed = now;
        }
        Ok(bytes)
    }

    /// Writes to a file at an offset, or at its end, and returns the number of bytes and
    /// the offset after them.
    pub(super) fn write(
        &mut self,
        ino: Ino,
        offset: Option<u64>,
        bytes: &[u8],
        now: SystemTime,
    ) -> Result<(usize, u64)> {
        let inode = inode_mut(&mut self.inodes, ino)?;
        let (written, end) = match &mut inode.kind {
            Kind::File(content) => {
                let offset = offset.unwrap_or(content.size());
                if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > MAX_SIZE) {
                    return Err(FileFailure::TooLarge);
                }
                let written = content.write(offset, bytes, &mut self.budget).map_err(no_space)?;
                (written, offset + written as u64)
            }
            Kind::Device(_) => return Ok((bytes.len(), offset.unwrap_or(0))),
            Kind::Directory(_) => return Err(FileFailure::IsADirectory),
            Kind::Link(_) => return Err(FileFailure::Invalid),
        };
        inode.touch(now);
        Ok((written, end))
    }

    /// Replaces the content of a file, or changes nothing if there is not enough space.
    pub(super) fn replace(&mut self, ino: Ino, bytes: &[u8], now: SystemTime) -> Result<()> {
        let inode = inode_mut(&mut self.inodes, ino)?;
        match &mut inode.kind {
            Kind::File(content) => {
                *content = content.replaced(bytes, &mut self.budget).map_err(no_space)?;
            }
            Kind::Device(_) => {}
            Kind::Directory(_) => return Err(FileFailure::IsADirectory),
            Kind::Link(_) => return Err(FileFailure::Invalid),
        }
        inode.touch(now);
        Ok(())
    }

    /// Cuts or extends a file.
    pub(super) fn set_size(&mut self, ino: Ino, size: u64, now: SystemTime) -> Result<()> {
        let inode = inode_mut(&mut self.inodes, ino)?;
        match &mut inode.kind {
            Kind::File(_) if size > MAX_SIZE => return Err(FileFailure::TooLarge),
            Kind::File(content) => content.set_size(size, &mut self.budget),
            Kind::Directory(_) => return Err(FileFailure::IsADirectory),
            Kind::Link(_) | Kind::Device(_) => return Err(FileFailure::Invalid),
        }
        inode.touch(now);
        Ok(())
    }

    /// Sets the permissions of a file.
    pub(super) fn set_mode(&mut self, ino: Ino, mode: u16, now: SystemTime) -> Result<()> {
        let inode = self.inode_mut(ino)?;
        inode.mode = mode & MODE_BITS;
        inode.changed = now;
        Ok(())
    }

    /// Sets an inode that no entry leads to yet, and whose charge was counted: the next one,
    /// or the root.
    pub(super) fn push_inode(&mut self, ino: Ino, inode: Inode) {
        let slots = &mut Arc::make_mut(&mut self.inodes).slots;
        slots.truncate(ino as usize);
        slots.push(Some(Arc::new(inode)));
    }

    /// Adds an entry whose charge was counted. Returns `false` if there is one already.
    pub(super) fn insert_entry(&mut self, directory: Ino, name: &str, ino: Ino) -> bool {
        let entries = self.directory_mut(directory).map(|found| &mut found.entries);
        entries.is_ok_and(|entries| entries.insert(name.into(), ino).is_none())
    }

    /// Sets the bits that the permissions of new files do not have.
    pub(super) fn set_umask(&mut self, mask: u16) {
        self.umask = mask & 0o777;
    }

    pub(super) fn umask(&self) -> u16 {
        self.umask
    }

    /// Returns all inodes with their numbers, for the format of snapshots.
    pub(super) fn inodes(&self) -> impl Iterator<Item = (Ino, &Inode)> {
        (0..).zip(&self.inodes.slots).filter_map(|(ino, inode)| Some((ino, inode.as_deref()?)))
    }
}

fn inode_mut(inodes: &mut Arc<Inodes>, ino: Ino) -> Result<&mut Inode> {
    let slot = Arc::make_mut(inodes).slots.get_mut(ino as usize).and_then(Option::as_mut);
    slot.map(Arc::make_mut).ok_or(FileFailure::NotFound)
}

fn no_space(_: Full) -> FileFailure {
    FileFailure::NoSpace
}

fn random(length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).map_err(|_| FileFailure::Io)?;
    Ok(bytes)
}
