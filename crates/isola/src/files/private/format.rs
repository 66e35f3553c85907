//! A private tree in a snapshot on disk.
//!
//! ```text
//! umask, u16 · number of inodes, u32; of each, in the order of their numbers:
//!   kind, u8 · permissions, u16 · times of access, modification, change: i64 s, u32 ns
//!   directory: parent, u32 · number of entries, u32 · of each: name, inode u32
//!   file:      size, u64 · number of blocks, u32 · of each: offset u64, length u32, bytes
//!   link:      target
//!   device:    which, u8
//! ```
//!
//! A name or target is its length, u16, and UTF-8. Numbers are little-endian. A snapshot
//! comes from anywhere, so everything that the operations on a tree rely on is checked.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    content::{Content, MAX_SIZE},
    inode::{Device, Directory, Ino, Inode, Kind, MODE_BITS},
    tree::{MAX_NAME_BYTES, ROOT, Tree},
};

const DIRECTORY: u8 = 0;
const FILE: u8 = 1;
const LINK: u8 = 2;
const DEVICE: u8 = 3;

/// The longest target of a link, in bytes.
const MAX_TARGET_BYTES: usize = 4_096;

/// The largest block that is written, in bytes.
const MAX_BLOCK_BYTES: usize = 64 << 10;

/// Writes a tree.
pub(crate) fn write(tree: &Tree, out: &mut impl Write) -> io::Result<()> {
    let numbers: HashMap<Ino, u32> = tree.inodes().map(|(ino, _)| ino).zip(0..).collect();
    let number = |ino: &Ino| {
        numbers.get(ino).copied().ok_or_else(|| io::Error::other("an entry without a file"))
    };
    out.write_all(&tree.umask().to_le_bytes())?;
    out.write_all(&length(numbers.len())?)?;
    for (_, inode) in tree.inodes() {
        let kind = match &inode.kind {
            Kind::Directory(_) => DIRECTORY,
            Kind::File(_) => FILE,
            Kind::Link(_) => LINK,
            Kind::Device(_) => DEVICE,
        };
        out.write_all(&[kind])?;
        out.write_all(&inode.mode.to_le_bytes())?;
        for time in [inode.accessed, inode.modified, inode.changed] {
            write_time(time, out)?;
        }
        match &inode.kind {
            Kind::Directory(directory) => {
                out.write_all(&number(&directory.parent)?.to_le_bytes())?;
                out.write_all(&length(directory.entries.len())?)?;
                for (name, ino) in &directory.entries {
                    write_text(name, out)?;
                    out.write_all(&number(ino)?.to_le_bytes())?;
                }
            }
            Kind::File(content) => {
                out.write_all(&content.size().to_le_bytes())?;
                out.write_all(&length(content.blocks().len())?)?;
                for (offset, bytes) in content.blocks() {
                    out.write_all(&offset.to_le_bytes())?;
                    out.write_all(&length(bytes.len())?)?;
                    out.write_all(bytes)?;
                }
            }
            Kind::Link(target) => write_text(target, out)?,
            Kind::Device(device) => out.write_all(&[*device as u8])?,
        }
    }
    Ok(())
}

fn length(count: usize) -> io::Result<[u8; 4]> {
    Ok(u32::try_from(count).map_err(io::Error::other)?.to_le_bytes())
}

fn write_text(text: &str, out: &mut impl Write) -> io::Result<()> {
    out.write_all(&u16::try_from(text.len()).map_err(io::Error::other)?.to_le_bytes())?;
    out.write_all(text.as_bytes())
}

fn write_time(time: SystemTime, out: &mut impl Write) -> io::Result<()> {
    let (seconds, nanoseconds) = since_epoch(time);
    out.write_all(&seconds.to_le_bytes())?;
    out.write_all(&nanoseconds.to_le_bytes())
}

/// Returns the seconds since 1970, rounded down, and the nanoseconds after them.
fn since_epoch(time: SystemTime) -> (i64, u32) {
    let signed = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (signed(after.as_secs()), after.subsec_nanos()),
        Err(error) => match (error.duration().as_secs(), error.duration().subsec_nanos()) {
            (seconds, 0) => (-signed(seconds), 0),
            (seconds, nanoseconds) => (-signed(seconds) - 1, 1_000_000_000 - nanoseconds),
        },
    }
}

/// Reads a tree that counts at most `max` bytes.
pub(crate) fn read(from: &mut impl Read, max: u64) -> io::Result<Tree> {
    let mut reader = TreeReader { from, tree: Tree::empty(UNIX_EPOCH, max), parents: Vec::new() };
    reader.read()?;
    reader.connect()?;
    Ok(reader.tree)
}

/// A tree that is being read.
struct TreeReader<'a, R> {
    from: &'a mut R,
    tree: Tree,
    /// The entries of each directory, by its number.
    parents: Vec<(Ino, Vec<(String, Ino)>)>,
}

impl<R: Read> TreeReader<'_, R> {
    /// Reads the inodes, without the entries that lead to them.
    fn read(&mut self) -> io::Result<()> {
        let umask = u16::from_le_bytes(self.bytes()?);
        self.tree.set_umask(umask);
        let count = self.u32()?;
        for ino in 0..count {
            let [kind] = self.bytes()?;
            let mode = u16::from_le_bytes(self.bytes()?) & MODE_BITS;
            let (accessed, modified, changed) = (self.time()?, self.time()?, self.time()?);
            let kind = match kind {
                DIRECTORY => {
                    let parent = self.u32()?;
                    let entries = self.u32()?;
                    let mut names = Vec::new();
                    for _ in 0..entries {
                        let entry = (self.text(MAX_NAME_BYTES)?, self.u32()?);
                        self.charge(super::budget::entry_charge(&entry.0))?;
                        names.push(entry);
                    }
                    self.parents.push((ino, names));
                    Kind::Directory(Directory { parent, entries: Default::default() })
                }
                FILE => Kind::File(self.content()?),
                LINK => {
                    let target = self.text(MAX_TARGET_BYTES)?;
                    self.charge(target.len() as u64)?;
                    Kind::Link(target.into())
                }
                DEVICE => Kind::Device(match self.bytes()? {
                    [0] => Device::Null,
                    [1] => Device::Zero,
                    [2] => Device::Random,
                    _ => return Err(invalid("a device is unknown")),
                }),
                _ => return Err(invalid("the kind of a file is unknown")),
            };
            // The root is counted from the start.
            if ino != ROOT {
                self.charge(super::inode::INODE_CHARGE)?;
            }
            let mut inode = Inode::new(kind, mode, accessed);
            (inode.modified, inode.changed) = (modified, changed);
            // Counted when the entries are connected.
            inode.links = 0;
            self.tree.push_inode(ino, inode);
        }
        if !self.tree.inode(ROOT).is_ok_and(Inode::is_directory) {
            return Err(invalid("the root is not a directory"));
        }
        Ok(())
    }

    fn content(&mut self) -> io::Result<Content> {
        let size = u64::from_le_bytes(self.bytes()?);
        let blocks = self.u32()?;
        let mut content = Content::default();
        let mut buffer = Vec::new();
        for _ in 0..blocks {
            let offset = u64::from_le_bytes(self.bytes()?);
            let len = self.u32()? as usize;
            if len == 0 || len > MAX_BLOCK_BYTES || offset > MAX_SIZE - len as u64 {
                return Err(invalid("a block of a file has an impossible place"));
            }
            buffer.resize(len, 0);
            self.from.read_exact(&mut buffer)?;
            let written = content.write(offset, &buffer, self.tree.budget_mut());
            if written.is_ok_and(|written| written < len) || written.is_err() {
                return Err(too_large());
            }
        }
        if size > MAX_SIZE {
            return Err(invalid("a file is larger than an offset"));
        }
        content.set_size(size, self.tree.budget_mut());
        Ok(content)
    }

    /// Adds the entries of the directories, so that each directory but the root is in
    /// exactly one, from the root down, and each file in at least one.
    fn connect(&mut self) -> io::Result<()> {
        let entries: HashMap<Ino, Vec<(String, Ino)>> = self.parents.drain(..).collect();
        let mut entered = vec![ROOT];
        let mut found = 1;
        self.tree.inode_mut(ROOT).map_err(|_| invalid("there is no root"))?.links = 2;
        self.set_parent(ROOT, ROOT)?;
        while let Some(directory) = entered.pop() {
            for (name, ino) in entries.get(&directory).into_iter().flatten() {
                if matches!(name.as_str(), "" | "." | "..") || name.contains(['/', '\0']) {
                    return Err(invalid("a file has an impossible name"));
                }
                let inode =
                    self.tree.inode_mut(*ino).map_err(|_| invalid("an entry leads nowhere"))?;
                found += usize::from(inode.links == 0);
                if inode.is_directory() {
                    if inode.links > 0 {
                        return Err(invalid("a directory is in two others"));
                    }
                    inode.links = 2;
                    self.set_parent(*ino, directory)?;
                    let above = self.tree.inode_mut(directory);
                    above.map_err(|_| invalid("a directory is missing"))?.links += 1;
                    entered.push(*ino);
                } else {
                    inode.links += 1;
                }
                if !self.tree.insert_entry(directory, name, *ino) {
                    return Err(invalid("a directory has two entries of the same name"));
                }
            }
        }
        if found == self.tree.inodes().count() {
            Ok(())
        } else {
            Err(invalid("a file is in no directory"))
        }
    }

    fn set_parent(&mut self, ino: Ino, parent: Ino) -> io::Result<()> {
        match self.tree.inode_mut(ino).map(|inode| &mut inode.kind) {
            Ok(Kind::Directory(directory)) => {
                directory.parent = parent;
                Ok(())
            }
            _ => Err(invalid("a directory is missing")),
        }
    }

    fn charge(&mut self, charge: u64) -> io::Result<()> {
        self.tree.budget_mut().change(0, charge).map_err(|_| too_large())
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn text(&mut self, max: usize) -> io::Result<String> {
        let len = usize::from(u16::from_le_bytes(self.bytes()?));
        if len > max {
            return Err(invalid("a name is too long"));
        }
        let mut text = vec![0; len];
        self.from.read_exact(&mut text)?;
        String::from_utf8(text).map_err(|_| invalid("a name is not UTF-8"))
    }

    fn time(&mut self) -> io::Result<SystemTime> {
        let seconds = i64::from_le_bytes(self.bytes()?);
        let nanoseconds = self.u32()?;
        if nanoseconds >= 1_000_000_000 {
            return Err(invalid("a time is impossible"));
        }
        let distance = Duration::from_secs(seconds.unsigned_abs());
        let second = if seconds < 0 {
            UNIX_EPOCH.checked_sub(distance)
        } else {
            UNIX_EPOCH.checked_add(distance)
        };
        second
            .and_then(|second| second.checked_add(Duration::from_nanos(nanoseconds.into())))
            .ok_or_else(|| invalid("a time is impossible"))
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::other(format!("its files are damaged: {why}"))
}

fn too_large() -> io::Error {
    io::Error::other("its files take more than its header says")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_BYTES: u64 = 1 << 20;

    /// Returns the bytes of a tree whose inodes are these: a kind and what follows the
    /// times.
    fn bytes(inodes: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = 0o022_u16.to_le_bytes().to_vec();
        bytes.extend(u32::try_from(inodes.len()).unwrap().to_le_bytes());
        for (kind, rest) in inodes {
            bytes.push(*kind);
            bytes.extend(0o755_u16.to_le_bytes());
            bytes.extend([0; 36]);
            bytes.extend(rest);
        }
        bytes
    }

    fn directory(entries: &[(&str, u32)]) -> (u8, Vec<u8>) {
        let mut rest = 0_u32.to_le_bytes().to_vec();
        rest.extend(u32::try_from(entries.len()).unwrap().to_le_bytes());
        for (name, ino) in entries {
            write_text(name, &mut rest).unwrap();
            rest.extend(ino.to_le_bytes());
        }
        (DIRECTORY, rest)
    }

    fn file(size: u64, blocks: &[(u64, u32)]) -> (u8, Vec<u8>) {
        let mut rest = size.to_le_bytes().to_vec();
        rest.extend(u32::try_from(blocks.len()).unwrap().to_le_bytes());
        for (offset, len) in blocks {
            rest.extend(offset.to_le_bytes());
            rest.extend(len.to_le_bytes());
            rest.resize(rest.len() + *len as usize, 7);
        }
        (FILE, rest)
    }

    #[test]
    fn impossible_trees_are_refused() {
        let empty = || file(0, &[]);
        let good = bytes(&[directory(&[("a", 1), ("d", 2)]), empty(), directory(&[("b", 1)])]);
        let tree = read(&mut good.as_slice(), MAX_BYTES).unwrap();
        assert_eq!(tree.inode(1).unwrap().links, 2);
        for (says, inodes) in [
            ("root is not a directory", vec![empty()]),
            ("leads nowhere", vec![directory(&[("a", 1)])]),
            ("in no directory", vec![directory(&[]), empty()]),
            ("in two others", vec![directory(&[("a", 1), ("b", 1)]), directory(&[])]),
            ("in two others", vec![directory(&[("a", 0)])]),
            ("in two others", vec![directory(&[("a", 1)]), directory(&[("b", 1)])]),
            ("in no directory", vec![directory(&[]), directory(&[("a", 1)])]),
            ("same name", vec![directory(&[("a", 1), ("a", 1)]), empty()]),
            ("impossible name", vec![directory(&[("..", 1)]), empty()]),
            ("impossible name", vec![directory(&[("a/b", 1)]), empty()]),
            ("impossible name", vec![directory(&[("", 1)]), empty()]),
            ("name is too long", vec![directory(&[(&"n".repeat(256), 1)]), empty()]),
            ("impossible place", vec![directory(&[("a", 1)]), file(1, &[(u64::MAX, 1)])]),
            ("impossible place", vec![directory(&[("a", 1)]), file(1, &[(0, 0)])]),
            ("impossible place", vec![directory(&[("a", 1)]), file(1, &[(0, 65_537)])]),
            ("larger than an offset", vec![directory(&[("a", 1)]), file(u64::MAX, &[])]),
            ("device is unknown", vec![directory(&[("a", 1)]), (DEVICE, vec![3])]),
            ("kind of a file is unknown", vec![directory(&[]), (4, vec![])]),
        ] {
            let error = read(&mut bytes(&inodes).as_slice(), MAX_BYTES).err().unwrap().to_string();
            assert!(error.contains(says), "{says}: {error}");
        }
        for end in 0..good.len() {
            assert!(read(&mut &good[..end], MAX_BYTES).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn more_than_the_header_says_is_refused() {
        let block = |number: u64| (number * 65_536, 65_536);
        let large = bytes(&[directory(&[("a", 1)]), file(1, &[block(0), block(1), block(2)])]);
        assert!(read(&mut large.as_slice(), MAX_BYTES).is_ok());
        assert!(read(&mut large.as_slice(), 150_000).err().unwrap().to_string().contains("more"));
        // A number of inodes without bytes for them takes no memory.
        let mut many = 0_u16.to_le_bytes().to_vec();
        many.extend(u32::MAX.to_le_bytes());
        assert!(read(&mut many.as_slice(), u64::MAX).is_err());
    }
}
