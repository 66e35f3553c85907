//! The content of unpacked images.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use isorun_image::{Limits, User};
use serde_json::json;

use crate::bundle::{Bundle, Layer, TestStore, gzip, sha256, zstd};

/// Returns all paths below a directory, sorted.
fn tree(root: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    let mut stack: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(directory) = stack.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            paths.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            if std::fs::symlink_metadata(&path).unwrap().is_dir() {
                stack.push(path);
            }
        }
    }
    paths.sort();
    paths
}

fn read(root: &Path, path: &str) -> String {
    std::fs::read_to_string(root.join(path)).unwrap()
}

#[tokio::test]
async fn layers_are_applied_in_order() {
    let layer = Layer::default;
    let base = || {
        layer()
            .directory("d")
            .file("d/one", "1")
            .file("d/two", "2")
            .directory("d/sub")
            .file("d/sub/three", "3")
            .file("top", "0")
    };
    let home = TestStore::new();
    for (case, layers, expected) in [
        ("one", vec![base()], "d d/one d/sub d/sub/three d/two top"),
        (
            "a file is replaced",
            vec![base(), layer().file("top", "new")],
            "d d/one d/sub d/sub/three d/two top",
        ),
        (
            "a file is removed",
            vec![base(), layer().file(".wh.top", "")],
            "d d/one d/sub d/sub/three d/two",
        ),
        ("a directory is removed", vec![base(), layer().file(".wh.d", "")], "top"),
        (
            "missing paths are removed",
            vec![base(), layer().file(".wh.no", "").file("no/.wh.no", "")],
            "d d/one d/sub d/sub/three d/two top",
        ),
        (
            "an opaque whiteout precedes the entries",
            vec![base(), layer().directory("d").file("d/.wh..wh..opq", "").file("d/new", "n")],
            "d d/new top",
        ),
        (
            "an opaque whiteout follows the entries",
            vec![
                base(),
                layer().file("d/new", "n").file("d/sub/four", "4").file("d/.wh..wh..opq", ""),
            ],
            "d d/new d/sub d/sub/four top",
        ),
        (
            "the root directory is opaque",
            vec![base(), layer().file(".wh..wh..opq", "").file("new", "n")],
            "new",
        ),
        (
            "removed, then created again",
            vec![base(), layer().file(".wh.d", "").file("d/new", "n")],
            "d d/new top",
        ),
        (
            "created again, then removed in the lower layers",
            vec![base(), layer().file("d/new", "n").file(".wh.d", "")],
            "d d/new top",
        ),
        (
            "a whiteout does not touch its own layer",
            vec![layer().file("f", "x").file(".wh.f", "")],
            "f",
        ),
        ("a file becomes a directory", vec![base(), layer().file("top/in", "i")], ""),
        (
            "a file becomes a directory by an entry",
            vec![base(), layer().directory("top").file("top/in", "i")],
            "d d/one d/sub d/sub/three d/two top top/in",
        ),
        ("a directory becomes a file", vec![base(), layer().file("d", "file")], "d top"),
        (
            "internal files of aufs are skipped",
            vec![layer().file(".wh..wh.plnk/1.2", "").file(".wh..wh.aufs", "").file("f", "")],
            ".wh..wh.plnk .wh..wh.plnk/1.2 f",
        ),
    ] {
        let layers: Vec<_> = layers.iter().collect();
        let image = home.layers(&layers).await;
        if expected.is_empty() {
            assert_eq!(image.unwrap_err().code(), "image_layer", "{case}");
            continue;
        }
        let image = image.unwrap();
        assert_eq!(tree(&image.root).join(" "), expected, "{case}");
    }
}

#[tokio::test]
async fn file_metadata_is_preserved() {
    let layer = Layer::default()
        .directory("etc")
        .owner(0, 42, 0o2755)
        .file("bin/tool", "")
        .owner(0, 0, 0o4755)
        .pax(&[
            ("uid", b"100000"),
            ("gid", b"200000"),
            ("mtime", b"1234567890.5"),
            ("SCHILY.xattr.user.note", b"with\0nul\n"),
        ])
        .file("etc/pax", "")
        .owner(0, 0, 0o600)
        .symlink("link", "/etc/passwd")
        .owner(7, 8, 0o777)
        .entry(b'6', b"pipe", b"", 0o640, b"")
        .owner(9, 10, 0o640)
        .hardlink("etc/same", "etc/pax")
        .file("names/\u{e4}\u{1f600} \n", "odd")
        .entry(b'0', b"names/\xff\xfe", b"", 0o644, b"")
        .entry(b'7', b"contiguous", b"", 0o644, b"c")
        .entry(0, b"old", b"", 0o644, b"o");
    let home = TestStore::new();
    let image = home.layers(&[&layer]).await.unwrap();
    let root = &image.root;
    let facts = |path: &str| {
        let found = std::fs::symlink_metadata(root.join(path)).unwrap();
        (found.uid(), found.gid(), found.permissions().mode() & 0o7777)
    };
    assert_eq!(facts("etc"), (0, 42, 0o2755));
    assert_eq!(facts("bin/tool"), (0, 0, 0o4755));
    assert_eq!(facts("etc/pax"), (100_000, 200_000, 0o600));
    assert_eq!(facts("link"), (7, 8, 0o777));
    assert_eq!(facts("pipe"), (9, 10, 0o640));
    assert_eq!(facts(""), (0, 0, 0o755));
    let pax = std::fs::metadata(root.join("etc/pax")).unwrap();
    assert_eq!((pax.mtime(), pax.mtime_nsec()), (1_234_567_890, 500_000_000));
    assert_eq!(pax.nlink(), 2);
    assert_eq!(pax.ino(), std::fs::metadata(root.join("etc/same")).unwrap().ino());
    let etc = std::fs::metadata(root.join("etc")).unwrap();
    assert_eq!(etc.mtime(), 1_000_000_000, "unpacking has changed the directory's time");
    let mut value = [0; 64];
    let length = rustix::fs::getxattr(root.join("etc/pax"), "user.note", &mut value).unwrap();
    assert_eq!(&value[..length], b"with\0nul\n");
    assert_eq!(std::fs::read_link(root.join("link")).unwrap(), Path::new("/etc/passwd"));
    let pipe = std::fs::symlink_metadata(root.join("pipe")).unwrap();
    assert!(pipe.file_type().is_fifo());
    assert_eq!(read(root, "names/\u{e4}\u{1f600} \n"), "odd");
    assert_eq!(std::fs::read_dir(root.join("names")).unwrap().count(), 2);
    assert_eq!((read(root, "contiguous"), read(root, "old")), ("c".to_owned(), "o".to_owned()));
    // Only the owner of the store can access set-user-id programs.
    let store = std::fs::metadata(home.path("store")).unwrap();
    assert_eq!(store.permissions().mode() & 0o777, 0o700);
}

/// As in the base layers of Debian and others.
#[tokio::test]
async fn entries_follow_links_of_the_image() {
    let home = TestStore::new();
    let base = Layer::default()
        .directory("usr/lib")
        .symlink("lib", "usr/lib")
        .symlink("var/run", "/run")
        .symlink("var/lock", "../run/lock")
        .directory("a/b")
        .symlink("a/b/up", "../../usr");
    let next = Layer::default()
        .file("lib/libc.so", "c")
        .file("var/run/pid", "1")
        .file("var/lock/file", "l")
        .file("a/b/up/share/doc", "d");
    for layers in [vec![&base, &next], vec![&base, &next, &next]] {
        let image = home.layers(&layers).await.unwrap();
        for (path, content) in [
            ("usr/lib/libc.so", "c"),
            ("run/pid", "1"),
            ("run/lock/file", "l"),
            ("usr/share/doc", "d"),
        ] {
            assert_eq!(read(&image.root, path), content);
        }
        assert!(std::fs::symlink_metadata(image.root.join("lib")).unwrap().is_symlink());
    }
}

#[tokio::test]
async fn all_compressions_are_supported() {
    let home = TestStore::new();
    let tar = Layer::default().file("f", &"content ".repeat(10_000)).tar();
    let (front, back) = tar.split_at(5000);
    let members = [gzip(front), gzip(back)].concat();
    let frames = [zstd(front), zstd(back)].concat();
    let mut skippable = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    skippable.extend(zstd(&tar));
    let unended = tar[..tar.len() - 1024].to_vec();
    for (case, stored, plain) in [
        ("none", tar.clone(), &tar),
        ("gzip", gzip(&tar), &tar),
        ("gzip, several members", members, &tar),
        ("zstd", zstd(&tar), &tar),
        ("zstd, several frames", frames, &tar),
        ("zstd, a frame to skip", skippable, &tar),
        ("no end", gzip(&unended), &unended),
    ] {
        let bundle = Bundle::new(&[(stored, sha256(plain))]);
        let image = home.import(&bundle, &Limits::default()).await.unwrap();
        assert_eq!(read(&image.root, "f").len(), 80_000, "{case}");
        assert_eq!(image.size, 80_000, "{case}");
    }
}

#[tokio::test]
async fn image_without_layers_is_an_empty_directory() {
    let home = TestStore::new();
    let image = home.layers(&[]).await.unwrap();
    assert!(tree(&image.root).is_empty());
}

#[tokio::test]
async fn image_configuration_is_applied() {
    let home = TestStore::new();
    let tar = Layer::default()
        .file("etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:10:20::/srv:/bin/sh\n")
        .file("etc/group", "app:x:20:\nextra:x:30:app\n")
        .tar();
    let layers = [(tar.clone(), sha256(&tar))];
    let config = json!({
        "Env": ["PATH=/bin", "EMPTY=", "TWICE=1", "ODD=a=b", "TWICE=2", "=x", "BARE"],
        "User": "app", "WorkingDir": "/srv", "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["true"],
        "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}}, "Labels": {"a": "b"},
        "Healthcheck": {"Test": ["NONE"]}, "OnBuild": null, "ArgsEscaped": true,
    });
    let bundle = Bundle::with(&layers, config, "amd64");
    let image = home.import(&bundle, &Limits::default()).await.unwrap();
    let pairs: Vec<_> =
        image.config.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(pairs.join(" "), "PATH=/bin EMPTY= ODD=a=b TWICE=2 BARE=");
    assert_eq!(image.config.workdir.as_deref(), Some("/srv"));
    assert_eq!(image.config.command(&["ls".to_owned()]), ["/bin/sh", "-c", "ls"]);
    let app = User { uid: 10, gid: 20, groups: vec![30], home: Some("/srv".to_owned()) };
    assert_eq!(image.user(None).unwrap(), app);
    assert_eq!(image.user(Some("0")).unwrap().home.as_deref(), Some("/root"));
    assert_eq!(image.user(Some("nobody")).unwrap_err().code(), "image_user");

    // As docker writes unset fields.
    let config =
        json!({ "Env": null, "User": "", "WorkingDir": "", "Entrypoint": null, "Cmd": null });
    let bundle = Bundle::with(&layers, config, "amd64");
    let image = home.import(&bundle, &Limits::default()).await.unwrap();
    assert_eq!(image.config, isorun_image::ImageConfig::default());
    assert_eq!(image.user(None).unwrap().uid, 0);
}
