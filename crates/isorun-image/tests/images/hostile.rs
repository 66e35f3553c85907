//! Malicious layers: path traversal, resource exhaustion, and corrupt archives.

use isorun_image::Limits;

use crate::bundle::{Bundle, ESCAPE_PATH, Layer, TestStore, gzip, sha256, zstd};

/// The expected outcome of a case.
enum Expected {
    /// An error with this code, whose message contains this text.
    Error(&'static str, &'static str),
    /// An image whose file has this content.
    File(String, &'static str),
    /// An image without this file.
    Absent(&'static str),
}
use Expected::{Absent, Error, File};

#[tokio::test]
async fn layers_do_not_write_outside_of_their_directory() {
    let layer = Layer::default;
    let long = "d/".repeat(3000) + "f";
    let wide = "n".repeat(256);
    let home = TestStore::new();
    let outside = home.path("outside");
    let outside = outside.to_str().unwrap();
    let up = "../".repeat(30);
    let cases: Vec<(&str, Vec<Layer>, Expected)> = vec![
        ("a path with ..", vec![layer().file("../../escape", "x")], Error("image_layer", "`..`")),
        (
            "a path with .. within",
            vec![layer().file("a/../../x", "x")],
            Error("image_layer", "`..`"),
        ),
        (
            "a path that ends in ..",
            vec![layer().directory("a").entry(b'5', b"a/..", b"", 0o777, b"")],
            Error("image_layer", "`..`"),
        ),
        (
            "an absolute path",
            vec![layer().file(ESCAPE_PATH, "x")],
            File("isorun-test-escape".to_owned(), "x"),
        ),
        (
            "a path with many slashes",
            vec![layer().file("//./a//./b", "x")],
            File("a/b".to_owned(), "x"),
        ),
        (
            "through an absolute link to a directory outside",
            vec![layer().symlink("out", outside).file("out/canary", "dead")],
            File(format!("{}/canary", &outside[1..]), "dead"),
        ),
        (
            "through a relative link to a directory outside",
            vec![layer().symlink("out", &format!("{up}{outside}")).file("out/x", "dead")],
            Absent("x"),
        ),
        (
            "through a link, in the next layer",
            vec![layer().symlink("out", outside), layer().file("out/canary", "dead")],
            Absent("canary"),
        ),
        (
            "through a link of a link",
            vec![layer().symlink("a", "b").symlink("b", outside).file("a/canary", "dead")],
            Absent("canary"),
        ),
        (
            "over a link to a file outside",
            vec![layer().symlink("f", &format!("{outside}/canary")).file("f", "dead")],
            File("f".to_owned(), "dead"),
        ),
        (
            "over a link to a file outside, in the next layer",
            vec![layer().symlink("f", &format!("{outside}/canary")), layer().file("f", "dead")],
            File("f".to_owned(), "dead"),
        ),
        (
            "a directory over a link to a directory outside",
            vec![layer().symlink("d", outside), layer().directory("d").file("d/canary", "mine")],
            File("d/canary".to_owned(), "mine"),
        ),
        (
            "a hard link to a file outside",
            vec![layer().hardlink("h", &format!("{outside}/canary"))],
            Error("image_layer", "does not exist"),
        ),
        (
            "a hard link with ..",
            vec![layer().hardlink("h", &format!("{up}etc/passwd"))],
            Error("image_layer", "`..`"),
        ),
        (
            "a hard link through a link to a directory outside",
            vec![layer().symlink("out", outside).hardlink("h", "out/canary")],
            Error("image_layer", "does not exist"),
        ),
        (
            "a hard link to a link to a file outside, written to",
            vec![
                layer()
                    .symlink("s", &format!("{outside}/canary"))
                    .hardlink("h", "s")
                    .file("h", "mine"),
            ],
            File("h".to_owned(), "mine"),
        ),
        (
            "a hard link to a directory",
            vec![layer().directory("d").hardlink("h", "d")],
            Error("image_layer", "directory"),
        ),
        ("a hard link to the root", vec![layer().hardlink("h", "/")], Error("image_layer", "root")),
        (
            "a hard link to itself",
            vec![layer().file("f", "x").hardlink("f", "./f")],
            File("f".to_owned(), "x"),
        ),
        (
            "a hard link to its own other name",
            vec![layer().file("f", "x").hardlink("g", "f").hardlink("f", "g")],
            File("f".to_owned(), "x"),
        ),
        ("a whiteout of ..", vec![layer().file("d/.wh...", "")], Error("image_layer", "whiteout")),
        ("a whiteout of .", vec![layer().file("d/.wh..", "")], Error("image_layer", "whiteout")),
        ("a whiteout of nothing", vec![layer().file(".wh.", "")], Error("image_layer", "whiteout")),
        (
            "a whiteout through a link outside",
            vec![layer().symlink("out", outside), layer().file("out/.wh.canary", "")],
            Absent("canary"),
        ),
        (
            "an opaque whiteout through a link outside",
            vec![layer().symlink("out", outside), layer().file("out/.wh..wh..opq", "")],
            Absent("canary"),
        ),
        (
            "a whiteout of a link to a directory outside",
            vec![layer().symlink("out", outside), layer().file(".wh.out", "")],
            Absent("out"),
        ),
        ("a device node", vec![layer().entry(b'4', b"sda", b"", 0o666, b"")], Absent("sda")),
        ("another device", vec![layer().entry(b'3', b"mem", b"", 0o666, b"")], Absent("mem")),
        (
            "a file over the root directory",
            vec![layer().entry(b'0', b".", b"", 0o644, b"x")],
            Error("image_layer", "root directory"),
        ),
        (
            "a link over the root directory",
            vec![layer().symlink("./", "/")],
            Error("image_layer", "root"),
        ),
        ("a path beyond the limit", vec![layer().file(&long, "x")], Error("image_layer", "limit")),
        ("a name beyond the limit", vec![layer().file(&wide, "x")], Error("image_layer", "255")),
        (
            "a link with a long target",
            vec![layer().symlink("l", &"t".repeat(5000))],
            Error("image_layer", "target"),
        ),
        ("a link without a target", vec![layer().symlink("l", "")], Error("image_layer", "target")),
        (
            "links in a circle",
            vec![layer().symlink("a", "b").symlink("b", "a").file("a/f", "x")],
            Error("image_layer", "loop"),
        ),
        (
            "a file below a file",
            vec![layer().file("f", "x").file("f/g", "x")],
            Error("image_layer", "not a directory"),
        ),
        (
            "a path in a pax header",
            vec![layer().pax(&[("path", b"../../escape")]).file("ok", "x")],
            Error("image_layer", "`..`"),
        ),
        (
            "a NUL in a pax header",
            vec![layer().pax(&[("path", b"a\0/../../b")]).file("ok", "x")],
            Error("image_layer", "NUL"),
        ),
        (
            "a user that means unchanged",
            vec![layer().pax(&[("uid", b"4294967295")]).file("ok", "x")],
            Error("image_layer", "out of range"),
        ),
        (
            "attributes that steer overlays",
            vec![
                layer()
                    .pax(&[
                        ("SCHILY.xattr.trusted.overlay.redirect", b"/"),
                        ("SCHILY.xattr.user.overlay.opaque", b"y"),
                        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                    ])
                    .directory("d"),
            ],
            Absent("d/x"),
        ),
        (
            "a sparse file",
            vec![layer().entry(b'S', b"s", b"", 0o644, b"")],
            Error("image_layer", "sparse"),
        ),
        (
            "an entry of no known type",
            vec![layer().entry(b'Z', b"z", b"", 0o644, b"")],
            Error("image_layer", "not supported"),
        ),
    ];
    for (case, layers, expected) in cases {
        let layers: Vec<_> = layers.iter().collect();
        let outcome = home.layers(&layers).await;
        home.check(case);
        match (outcome, expected) {
            (Err(error), Error(code, part)) => {
                assert_eq!(error.code(), code, "{case}: {error}");
                assert!(error.to_string().contains(part), "{case}: {error}");
            }
            (Ok(image), File(path, content)) => {
                let path = image.root.join(path);
                assert!(std::fs::symlink_metadata(&path).unwrap().is_file(), "{case}");
                assert_eq!(std::fs::read_to_string(path).unwrap(), content, "{case}");
            }
            (Ok(image), Absent(path)) => {
                assert!(std::fs::symlink_metadata(image.root.join(path)).is_err(), "{case}");
            }
            (outcome, _) => panic!("{case}: {outcome:?}"),
        }
    }
    // Failed cases leave no temporary files.
    let left: Vec<_> = std::fs::read_dir(home.path("store/tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn unpacking_limits_are_enforced() {
    let home = TestStore::new();
    let mut limits = Limits::default();
    limits.unpacked = 1 << 20;
    limits.entries = 100;
    limits.layers = 5;
    limits.download = 1 << 20;
    let zeroes = "0".repeat(2 << 20);
    let big = Layer::default().file("zeroes", &zeroes).tar();
    let padding = vec![0; 2 << 20];
    let mut header = tar::Header::new_gnu();
    header.set_path("endless").unwrap();
    header.set_size(1 << 50);
    header.set_mode(0o644);
    header.set_cksum();
    let endless = Layer::default().header(&header, b"short").tar();
    let mut extension = tar::Header::new_gnu();
    extension.set_entry_type(tar::EntryType::XHeader);
    extension.set_size(1 << 40);
    extension.set_cksum();
    let extension = Layer::default().header(&extension, b"short").tar();
    let many = (0..200).fold(Layer::default(), |layer, at| layer.file(&format!("f{at}"), ""));
    let same = (0..200).fold(Layer::default(), |layer, _| layer.file("f", ""));
    let headers = (0..100).fold(Layer::default(), |layer, _| layer.pax(&[("path", b"a")]));
    let small = Layer::default().file("a", "a").tar();
    let one = |stored: Vec<u8>, plain: &[u8]| Bundle::new(&[(stored, sha256(plain))]);
    for (case, bundle, code) in [
        ("a gzip bomb", one(gzip(&big), &big), "image_too_large"),
        ("a zstd bomb", one(zstd(&big), &big), "image_too_large"),
        ("a bomb behind the archive's end", one(gzip(&padding), &padding), "image_too_large"),
        (
            "two halves",
            {
                let half = Layer::default().file("h", &zeroes[..700_000]).tar();
                Bundle::new(&[(gzip(&half), sha256(&half)), (gzip(&half), sha256(&half))])
            },
            "image_too_large",
        ),
        ("a file that claims a petabyte", one(endless.clone(), &endless), "image_layer"),
        ("an extension header of a terabyte", one(extension.clone(), &extension), "image_layer"),
        ("many entries", Bundle::of(&[&many]), "image_too_large"),
        ("one entry many times", Bundle::of(&[&same]), "image_too_large"),
        ("extension headers without end", Bundle::of(&[&headers]), "image_layer"),
        ("many layers", Bundle::new(&vec![(small.clone(), sha256(&small)); 6]), "image_too_large"),
        ("a large layer", one(vec![7; 2 << 20], b""), "image_too_large"),
    ] {
        let error = home.import(&bundle, &limits).await.unwrap_err();
        assert_eq!(error.code(), code, "{case}: {error}");
        home.check(case);
    }
    let left: Vec<_> = std::fs::read_dir(home.path("store/tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn broken_layers_are_reported() {
    let home = TestStore::new();
    let good = Layer::default().file("a", "content of a").tar();
    let cut = &good[..600];
    let zipped = gzip(&good);
    let cut_zip = &zipped[..zipped.len() - 9];
    let mut flipped = good.clone();
    flipped[0] ^= 1;
    let mut crc = zipped.clone();
    let at = crc.len() - 6;
    crc[at] ^= 1;
    for (case, stored, diff, code, part) in [
        ("cut off", cut, sha256(cut), "image_layer", "truncated"),
        ("cut gzip", cut_zip, sha256(&good), "image_layer", "layer 1 of 1"),
        (
            "no archive",
            &b"<html>no such layer</html>".repeat(40),
            sha256(b""),
            "image_layer",
            "not a tar",
        ),
        ("a wrong checksum", &flipped, sha256(&flipped), "image_layer", "not a tar"),
        ("a wrong crc", &crc, sha256(&good), "image_layer", "compression"),
        ("a wrong diff id", &good, sha256(b"other"), "image_digest", "layer 1 of 1"),
    ] {
        let bundle = Bundle::new(&[(stored.to_vec(), diff)]);
        let error = home.import(&bundle, &Limits::default()).await.unwrap_err();
        assert_eq!(error.code(), code, "{case}: {error}");
        assert!(error.to_string().contains(part), "{case}: {error}");
        assert!(home.store.resolve(&"test".parse().unwrap()).unwrap().is_none(), "{case}");
    }
}

/// Deeper than the stack of a recursion, or the limit of open files, allows; and it is
/// removed again.
#[tokio::test]
async fn deep_trees_are_unpacked_and_removed() {
    let home = TestStore::new();
    let part = "d/".repeat(200);
    // Each link points 200 directories deeper than the one before.
    let mut layer = Layer::default().directory("d0");
    for at in 0..20 {
        layer = layer
            .directory(&format!("d{at}/{part}"))
            .symlink(&format!("d{}", at + 1), &format!("d{at}/{part}"));
    }
    layer = layer.file("d20/bottom", "x");
    let image = home.layers(&[&layer, &Layer::default().file(".wh.d0", "")]).await.unwrap();
    assert!(!image.root.join("d0").exists());
    drop(image);
    let image = home.layers(&[&layer]).await.unwrap();
    drop(image);
    home.store.remove(&"test".parse().unwrap()).await.unwrap();
    let removed = home.store.gc().await.unwrap();
    assert_eq!(removed.roots, 2);
    home.check("deep trees");
}
