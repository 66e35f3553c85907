//! The private files of a sandbox: any sequence of operations keeps the tree connected and
//! the budget exact, and any bytes in a snapshot are a tree that works, or are refused.
#![no_main]
#![allow(dead_code, reason = "the crate uses the rest")]

use std::time::UNIX_EPOCH;

use libfuzzer_sys::fuzz_target;

#[path = "../../../crates/isola/src/files/private/budget.rs"]
mod budget;
#[path = "../../../crates/isola/src/files/private/content.rs"]
mod content;
#[path = "../../../crates/isola/src/file_failure.rs"]
mod file_failure;
#[path = "../../../crates/isola/src/files/private/format.rs"]
mod format;
#[path = "../../../crates/isola/src/files/private/inode.rs"]
mod inode;
#[path = "../../../crates/isola/src/files/private/resolve.rs"]
mod resolve;
#[path = "../../../crates/isola/src/files/private/tree.rs"]
mod tree;

use resolve::{Found, MountPoints, PathEntry};
use tree::{ROOT, Tree};

/// The limit of the storage, in bytes.
const MAX_BYTES: u64 = 1 << 20;

const PATHS: [&str; 12] =
    ["a", "b", "a/b", "a/b/c", "/a/../b", "b/a/", ".", "..", "a/.", "/", "b/b", "a//a/a"];

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    let mut tree = Tree::empty(UNIX_EPOCH, MAX_BYTES);
    let mut commands = bytes;
    if kind % 2 == 1 {
        // The rest of the input are operations on the tree that it describes.
        let Ok(read) = format::read(&mut commands, MAX_BYTES) else { return };
        check(&read);
        tree = read;
    }
    let mut copies = Vec::new();
    let mut open = Vec::new();
    for command in commands.chunks_exact(4).take(500) {
        let [operation, path, other, number] = *command else { continue };
        perform(&mut tree, operation, (path, other), number, &mut open);
        if operation == 255 && copies.len() < 4 {
            copies.push((tree.clone(), listing(&tree)));
        }
        assert_eq!(tree.used(), charge(&tree), "the budget is exact");
        assert!(tree.used() <= MAX_BYTES);
    }
    for ino in open {
        tree.close(ino);
    }
    check(&tree);
    for (copy, before) in copies {
        assert_eq!(listing(&copy), before, "a copy is independent");
    }
});

fn entry(tree: &Tree, path: u8, follow: bool) -> Option<PathEntry> {
    let path = PATHS[usize::from(path) % PATHS.len()];
    match resolve::resolve(tree, &MountPoints::new(), ROOT, path, follow) {
        Ok(Found::Entry(entry)) => Some(entry),
        _ => None,
    }
}

fn perform(
    tree: &mut Tree,
    operation: u8,
    paths: (u8, u8),
    number: u8,
    open: &mut Vec<inode::Ino>,
) {
    let now = UNIX_EPOCH;
    let Some(one) = entry(tree, paths.0, number % 2 == 0) else { return };
    let size = u64::from(number) * 1_000;
    // Each may fail, and must then change nothing that the checks see.
    let _ = match operation % 12 {
        0 => tree.add_file(one.parent, &one.name, now).map(drop),
        1 => tree.add_directory(one.parent, &one.name, now).map(drop),
        2 => {
            let target = PATHS[usize::from(paths.1) % PATHS.len()];
            tree.add_link(one.parent, &one.name, target, now).map(drop)
        }
        3 => tree.unlink(one.parent, &one.name, now),
        4 => tree.remove_directory(one.parent, &one.name, now),
        5 => match entry(tree, paths.1, false) {
            Some(to) if !one.name.is_empty() && !to.name.is_empty() => {
                tree.rename((one.parent, &one.name), (to.parent, &to.name), now)
            }
            _ => Ok(()),
        },
        6 => match (one.ino, entry(tree, paths.1, false)) {
            (Some(ino), Some(to)) => tree.link(ino, to.parent, &to.name, now),
            _ => Ok(()),
        },
        7 => one.existing().and_then(|ino| {
            tree.write(ino, Some(u64::from(paths.1) * 700), &vec![number; size as usize], now)
                .map(drop)
        }),
        8 => one.existing().and_then(|ino| tree.set_size(ino, size, now)),
        9 => one.existing().and_then(|ino| tree.replace(ino, &vec![number; size as usize], now)),
        10 => one.existing().and_then(|ino| tree.open(ino)).map(|()| open.extend(one.ino)),
        _ if number % 2 == 0 => open.pop().map_or(Ok(()), |ino| {
            tree.close(ino);
            Ok(())
        }),
        _ if one.name.is_empty() => Ok(()),
        _ => tree.remove_all(one.parent, &one.name, now),
    };
}

/// Checks that a tree can be stored and read again.
fn check(tree: &Tree) {
    let mut bytes = Vec::new();
    // Fails only if a directory has an entry without an inode.
    format::write(tree, &mut bytes).unwrap();
    let read = format::read(&mut bytes.as_slice(), tree.used()).unwrap();
    assert_eq!(read.used(), tree.used());
    assert_eq!(listing(&read), listing(tree));
}

/// Returns what a tree counts, computed anew.
fn charge(tree: &Tree) -> u64 {
    let entries = |inode: &inode::Inode| match &inode.kind {
        inode::Kind::Directory(directory) => {
            directory.entries.keys().map(|name| budget::entry_charge(name)).sum()
        }
        _ => 0,
    };
    tree.inodes().map(|(_, inode)| inode.charge() + entries(inode)).sum()
}

/// Returns everything that a guest sees of a tree.
fn listing(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = vec![(ROOT, String::new())];
    while let Some((ino, path)) = rest.pop() {
        let inode = tree.inode(ino).unwrap();
        let content = match &inode.kind {
            inode::Kind::File(content) => crc32fast::hash(&content.read(0, 1 << 20)),
            _ => 0,
        };
        found.push(format!("{path} {} {} {content}", inode.size(), inode.links));
        let mut last: Option<String> = None;
        while inode.is_directory() {
            let Some((name, child)) = tree.next_entry(ino, last.as_deref()).unwrap() else { break };
            rest.push((child, format!("{path}/{name}")));
            last = Some(name);
        }
    }
    found.sort();
    found
}
