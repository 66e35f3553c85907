//! The work of unpacking is linear in the size of a layer. The tests compare counts,
//! not times.

use tar::EntryType;

use super::*;
use crate::digest;

/// A builder of an uncompressed layer.
#[derive(Default)]
struct TestLayer(Vec<u8>);

impl TestLayer {
    fn entry(&mut self, kind: EntryType, path: &str, link: &str) {
        for (kind, name) in [(b'L', path), (b'K', link)] {
            if name.len() > 100 {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(EntryType::new(kind));
                header.set_size(name.len() as u64);
                header.set_cksum();
                self.0.extend_from_slice(header.as_bytes());
                self.0.extend_from_slice(name.as_bytes());
                self.0.resize(self.0.len().next_multiple_of(512), 0);
            }
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        for (field, name) in [(0, path), (157, link)] {
            let name = &name.as_bytes()[..name.len().min(100)];
            header.as_mut_bytes()[field..field + name.len()].copy_from_slice(name);
        }
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
    }

    fn file(&mut self, path: &str) {
        self.entry(EntryType::Regular, path, "");
    }

    fn directory(&mut self, path: &str) {
        self.entry(EntryType::Directory, path, "");
    }
}

/// The work of unpacking an image, in counts.
struct WorkDone {
    scanned_entries: u64,
    steps: u64,
    entries: u64,
    /// The number of entries read to remove the image.
    removed: u64,
}

fn unpack(layers: &[TestLayer], limits: &Limits) -> Result<WorkDone> {
    let home = tempfile::tempdir().unwrap();
    for name in ["root", "trash"] {
        std::fs::create_dir(home.path().join(name)).unwrap();
    }
    let (root, trash) = (home.path().join("root"), home.path().join("trash"));
    let mut unpacker = Unpacker::new(&root, &trash, limits, CancelFlag::default())?;
    let before = unpacker.root.steps_left();
    for layer in layers {
        let tar = [layer.0.as_slice(), &[0; 1024]].concat();
        unpacker.apply_layer("a layer", tar.as_slice(), &digest::of(b""))?;
    }
    let (scanned_entries, after) = (unpacker.scanned_entries, unpacker.root.steps_left());
    let allowed = before + 16 * unpacker.summary.entries;
    let entries = unpacker.finish()?.entries;
    let directory = std::fs::File::open(home.path()).unwrap();
    let removed = ["root", "trash"]
        .map(|name| remove::remove_counted(directory.as_fd(), name).unwrap())
        .iter()
        .sum();
    Ok(WorkDone { scanned_entries, steps: allowed.saturating_sub(after), entries, removed })
}

/// Unpacks layers of a size and of four times that, and compares the work.
fn is_linear(what: &str, count: usize, layers: impl Fn(usize) -> Vec<TestLayer>) {
    let work = |count| unpack(&layers(count), &Limits::default()).unwrap();
    let (small, large) = (work(count), work(4 * count));
    for (name, small, large) in [
        ("scanned entries", small.scanned_entries, large.scanned_entries),
        ("steps", small.steps, large.steps),
        ("removed", small.removed, large.removed),
    ] {
        assert!(large <= 6 * small + 200, "{what}: {name}: {small} becomes {large}");
    }
    assert!(large.scanned_entries <= 4 * large.entries, "{what}: {}", large.scanned_entries);
}

#[test]
fn whiteouts_take_linear_time() {
    let files = |layer: &mut TestLayer, directory: &str, count: usize| {
        layer.directory(directory);
        (0..count).for_each(|at| layer.file(&format!("{directory}/f{at}")));
    };
    is_linear("one directory is removed repeatedly", 100, |count| {
        let mut layer = TestLayer::default();
        files(&mut layer, "d", count);
        (0..count).for_each(|_| layer.file(".wh.d"));
        vec![layer]
    });
    is_linear("a directory is opaque repeatedly, and the files are of both layers", 100, |count| {
        let (mut below, mut layer) = (TestLayer::default(), TestLayer::default());
        files(&mut below, "d", count);
        for at in 0..count {
            layer.file(&format!("d/g{at}"));
            layer.file("d/.wh..wh..opq");
        }
        vec![below, layer]
    });
    is_linear("in each of many layers", 20, |count| {
        (0..count)
            .map(|number| {
                let mut layer = TestLayer::default();
                (0..20).for_each(|at| layer.file(&format!("d/{number}-{at}")));
                (0..20).for_each(|_| layer.file("d/.wh..wh..opq"));
                layer
            })
            .collect()
    });
    is_linear("by many names of the parent directory", 100, |count| {
        let mut layer = TestLayer::default();
        files(&mut layer, "real/d", count);
        for at in 0..count {
            layer.entry(EntryType::Symlink, &format!("l{at}"), "real");
            // Each of these is a path that this layer has not used before.
            layer.file(&format!("l{at}/d/.wh..wh..opq"));
        }
        vec![layer]
    });
    for (what, upwards) in [("from the top down", false), ("from the bottom up", true)] {
        is_linear(&format!("at each level of a deep tree, {what}"), 50, |count| {
            let mut layer = TestLayer::default();
            layer.file(&format!("{}f", "d/".repeat(count)));
            let mut depths: Vec<usize> = (1..=count).collect();
            if upwards {
                depths.reverse();
            }
            for depth in depths {
                layer.file(&format!("{}.wh..wh..opq", "d/".repeat(depth)));
            }
            vec![layer]
        });
    }
    is_linear("each file of a lower layer by its name", 100, |count| {
        let (mut below, mut layer) = (TestLayer::default(), TestLayer::default());
        files(&mut below, "d", count);
        (0..count).for_each(|at| layer.file(&format!("d/.wh.f{at}")));
        vec![below, layer]
    });
}

#[test]
fn whiteouts_keep_entries_of_their_own_layer() {
    let home = tempfile::tempdir().unwrap();
    let (root, trash) = (home.path().join("root"), home.path().join("trash"));
    std::fs::create_dir(&root).unwrap();
    std::fs::create_dir(&trash).unwrap();
    let mut unpacker =
        Unpacker::new(&root, &trash, &Limits::default(), CancelFlag::default()).unwrap();
    let (mut below, mut layer) = (TestLayer::default(), TestLayer::default());
    for path in ["a/old", "a/b/old", "a/b/c/old", "x/old", "y"] {
        below.file(path);
    }
    for path in ["a/b/c/new", "a/.wh..wh..opq", "a/later", ".wh.a", "x/.wh.old", "x/new", ".wh.y"] {
        layer.file(path);
    }
    for layer in [below, layer] {
        let tar = [layer.0.as_slice(), &[0; 1024]].concat();
        unpacker.apply_layer("a layer", tar.as_slice(), &digest::of(b"")).unwrap();
    }
    unpacker.finish().unwrap();
    for (path, there) in [
        ("a/b/c/new", true),
        ("a/later", true),
        ("x/new", true),
        ("a/old", false),
        ("a/b/old", false),
        ("a/b/c/old", false),
        ("x/old", false),
        ("y", false),
    ] {
        assert_eq!(root.join(path).exists(), there, "{path}");
    }
}

#[test]
fn steps_through_links_are_limited() {
    // Each link has a long target, which ends in the next link: 40 of them are
    // 40,000 components, and each file there has another path.
    let chain = |files: usize| {
        let mut layer = TestLayer::default();
        let long = "./../d/".repeat(500);
        layer.directory("d");
        layer.entry(EntryType::Symlink, "d/l0", &format!("{long}."));
        for at in 1..39 {
            layer.entry(EntryType::Symlink, &format!("d/l{at}"), &format!("{long}l{}", at - 1));
        }
        for at in 0..files {
            layer.file(&format!("d/l38/s{at}/f"));
        }
        layer
    };
    let few = unpack(&[chain(3)], &Limits::default()).unwrap();
    assert!(few.steps > 39_000, "{}", few.steps);
    let error = unpack(&[chain(4_000)], &Limits::default()).err().unwrap();
    assert_eq!(error.code(), "image_too_large");
    assert!(error.to_string().contains("symbolic links"), "{error}");
    // Ordinary images, with one or two links, do not reach the limit.
    is_linear("a merged /usr", 100, |count| {
        let mut layer = TestLayer::default();
        layer.directory("usr/lib");
        layer.entry(EntryType::Symlink, "lib", "usr/lib");
        (0..count).for_each(|at| layer.file(&format!("lib/p{at}/f")));
        vec![layer]
    });
}

#[test]
fn implied_directories_count_as_entries() {
    let limits = Limits { entries: 3_000, ..Limits::default() };
    let deep = |count: usize| {
        let mut layer = TestLayer::default();
        (0..count).for_each(|at| layer.file(&format!("{at}/{}f", "d/".repeat(1000))));
        layer
    };
    assert_eq!(unpack(&[deep(2)], &limits).unwrap().entries, 2 * 1002);
    let error = unpack(&[deep(3)], &limits).err().unwrap();
    assert_eq!(error.code(), "image_too_large");
}

#[test]
fn removal_takes_linear_time() {
    is_linear("wide", 150, |count| {
        let mut layer = TestLayer::default();
        (0..count).for_each(|at| layer.file(&format!("d{at}/e/f")));
        vec![layer]
    });
    is_linear("deep, beside a wide one", 40, |count| {
        let mut layer = TestLayer::default();
        layer.file(&format!("{}f", "d/".repeat(4 * count)));
        (0..count).for_each(|at| layer.file(&format!("w{at}/f")));
        vec![layer]
    });
}

#[test]
fn extended_attributes_are_bounded() {
    let with = |attributes: usize, value: usize, headers: usize| {
        let mut layer = TestLayer::default();
        for header in 0..headers {
            let mut records = Vec::new();
            for at in 0..attributes {
                let text = format!("SCHILY.xattr.user.{header}-{at}={}\n", "v".repeat(value));
                let mut length = text.len() + 2;
                while format!("{length} {text}").len() != length {
                    length += 1;
                }
                records.extend_from_slice(format!("{length} {text}").as_bytes());
            }
            let mut pax = tar::Header::new_ustar();
            pax.set_entry_type(EntryType::XHeader);
            pax.set_size(records.len() as u64);
            pax.set_cksum();
            layer.0.extend_from_slice(pax.as_bytes());
            layer.0.extend_from_slice(&records);
            layer.0.resize(layer.0.len().next_multiple_of(512), 0);
        }
        layer.file("f");
        layer
    };
    assert!(unpack(&[with(20, 10, 2)], &Limits::default()).is_ok());
    for layer in [with(20_000, 1, 1), with(500, 1, 40), with(3, 300_000, 2)] {
        let error = unpack(&[layer], &Limits::default()).err().unwrap();
        assert_eq!(error.code(), "image_layer");
        assert!(error.to_string().contains("extended attributes"), "{error}");
    }
}
