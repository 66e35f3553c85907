//! Imports of images from disk, in each format.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use isorun_image::{Error, Image, ImportOptions, Progress, Source, Store};
use serde_json::json;

use crate::bundle::{
    Bundle, Layer, MANIFEST, TestStore, descriptor, gzip, sha256, write_layout, zstd,
};

fn bundle() -> Bundle {
    let base = Layer::default().file("base", "b").file("gone", "g").tar();
    let next = Layer::default().file("next", "n").file(".wh.gone", "").tar();
    let layers = [(gzip(&base), sha256(&base)), (next.clone(), sha256(&next))];
    Bundle::with(&layers, json!({ "Cmd": ["run"] }), "amd64")
}

async fn import(home: &TestStore, path: &Path, name: Option<&str>) -> Result<Image, Error> {
    let mut options = ImportOptions::default();
    options.platform = "linux/amd64".parse().unwrap();
    options.name = name.map(|name| name.parse().unwrap());
    home.store.import(&Source::find(path)?, &options, &Progress::none()).await
}

fn check(image: &Image, case: &str) {
    let names = |root: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&image.root), ["base", "next"], "{case}");
}

fn tar(directory: &Path, to: &Path, flags: &str) {
    let output = Command::new("tar")
        .args([flags, to.to_str().unwrap(), "-C", directory.to_str().unwrap(), "."])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn layouts_and_archives_are_distinguished() {
    let home = TestStore::new();
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().join(name);
    let layout = bundle().layout(&at("layout"));
    tar(&layout, &at("layout.tar"), "-cf");
    tar(&layout, &at("layout.tgz"), "-czf");
    let compressed = zstd(&std::fs::read(at("layout.tar")).unwrap());
    std::fs::write(at("layout.tar.zst"), compressed).unwrap();
    for (name, format) in [("docker.tar", "docker-archive"), ("skopeo.tar", "oci-archive")] {
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet"])
            .arg(format!("oci:{}:test", layout.display()))
            .arg(format!("{format}:{}:example.org/saved:1", at(name).display()))
            .output()
            .expect("skopeo must be installed: run cargo xtask setup");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    for (name, is_docker) in [
        ("layout", false),
        ("layout.tar", false),
        ("layout.tgz", false),
        ("layout.tar.zst", false),
        ("skopeo.tar", false),
        ("docker.tar", true),
    ] {
        let found = Source::find(&at(name)).unwrap();
        let expected = if is_docker { Source::Docker(at(name)) } else { Source::Layout(at(name)) };
        assert_eq!(found, expected, "{name}");
        let image = import(&home, &at(name), Some("local/image:1")).await.unwrap();
        check(&image, name);
        assert_eq!(image.config.cmd, ["run"], "{name}");
        assert_eq!(image.reference.to_string(), "docker.io/local/image:1");
    }
    // An archive that contains its name needs no other.
    let image = import(&home, &at("docker.tar"), None).await.unwrap();
    assert_eq!(image.reference.to_string(), "example.org/saved:1");
    let error = import(&home, &at("layout"), None).await.unwrap_err();
    assert_eq!(error.code(), "image_name");
    home.check("archives");
}

#[tokio::test]
async fn root_file_system_is_imported() {
    let home = TestStore::new();
    let work = tempfile::tempdir().unwrap();
    let root = work.path().join("root");
    let at = |name: &str| root.join(name);
    std::fs::create_dir_all(at("deep/er")).unwrap();
    std::fs::write(at("deep/er/file"), "content").unwrap();
    std::fs::hard_link(at("deep/er/file"), at("hard")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
    let long: PathBuf = std::iter::repeat_n("long-name", 20).collect();
    std::fs::create_dir_all(at("x").join(&long)).unwrap();
    std::fs::write(at("x").join(&long).join("end"), "e").unwrap();
    std::os::unix::fs::symlink(at("x").join(&long), at("long-link")).unwrap();
    std::fs::write(at("tool"), "#!").unwrap();
    std::os::unix::fs::chown(at("tool"), Some(5), Some(6)).unwrap();
    std::fs::set_permissions(at("tool"), std::fs::Permissions::from_mode(0o4750)).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(at("hard"), "user.note", b"a\nb", flags).unwrap();
    std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o711)).unwrap();

    let image = import(&home, &root, Some("rootfs")).await.unwrap();
    let inside = |name: &str| image.root.join(name);
    assert_eq!(std::fs::read_to_string(inside("deep/er/file")).unwrap(), "content");
    let (one, two) = (inside("hard"), inside("deep/er/file"));
    assert_eq!(one.metadata().unwrap().ino(), two.metadata().unwrap().ino());
    assert_eq!(std::fs::read_link(inside("link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(std::fs::read_link(inside("long-link")).unwrap(), at("x").join(&long));
    assert!(inside("x").join(&long).join("end").exists());
    let tool = inside("tool").metadata().unwrap();
    assert_eq!((tool.uid(), tool.gid(), tool.mode() & 0o7777), (5, 6, 0o4750));
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(inside("hard"), "user.note", &mut value).unwrap();
    assert_eq!(&value[..length], b"a\nb");
    assert!(!inside("socket").exists());
    assert_eq!(image.root.metadata().unwrap().mode() & 0o777, 0o711);

    // The same directory is the same image, and so is an archive's content.
    let again = import(&home, &root, Some("again")).await.unwrap();
    assert_eq!((&again.digest, &again.root), (&image.digest, &image.root));
    std::fs::remove_file(at("socket")).unwrap();
    for (name, flags) in [("root.tar", "-cf"), ("root.tgz", "-czf")] {
        tar(&root, &work.path().join(name), flags);
        let image = import(&home, &work.path().join(name), Some("archive")).await.unwrap();
        assert_eq!(std::fs::read_to_string(image.root.join("hard")).unwrap(), "content", "{name}");
    }
}

#[tokio::test]
async fn one_of_several_images_is_selected() {
    let home = TestStore::new();
    let work = tempfile::tempdir().unwrap();
    let mut entries = Vec::new();
    let mut blobs = Vec::new();
    for name in ["one", "two"] {
        let bundle = Bundle::of(&[&Layer::default().file(name, name)]);
        let mut entry = descriptor(MANIFEST, &bundle.manifest);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        entries.push(entry);
        blobs.extend(bundle.blobs);
        blobs.push(bundle.manifest);
    }
    let layout = write_layout(&work.path().join("l"), &json!(entries), &blobs);
    let error = import(&home, &layout, Some("x")).await.unwrap_err();
    assert!(error.to_string().contains("one, two"), "{error}");
    let mut options = ImportOptions::default();
    options.platform = "linux/amd64".parse().unwrap();
    options.name = Some("x".parse().unwrap());
    options.select = Some("two".to_owned());
    let source = Source::find(&layout).unwrap();
    let image = home.store.import(&source, &options, &Progress::none()).await.unwrap();
    assert!(image.root.join("two").exists());
    options.select = Some("three".to_owned());
    let error = home.store.import(&source, &options, &Progress::none()).await.unwrap_err();
    assert_eq!(error.code(), "image_not_found");
}

#[tokio::test]
async fn invalid_images_are_refused() {
    let home = TestStore::new();
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().join(name);
    std::fs::write(at("text"), "this is no archive\n".repeat(100)).unwrap();
    std::fs::write(at("empty"), "").unwrap();
    let good = std::fs::read(bundle().layout(&at("layout")).join("index.json")).unwrap();
    assert!(!good.is_empty());
    // A layout whose blobs are links to other paths, have other content, or are
    // missing.
    let layout = |name: &str, change: &dyn Fn(&Path)| {
        let layout = bundle().layout(&at(name));
        change(&layout);
        layout
    };
    let blob = |layout: &Path, at: usize| {
        layout.join("blobs/sha256").join(sha256(&bundle().blobs[at]).replace("sha256:", ""))
    };
    let missing = layout("missing", &|layout| std::fs::remove_file(blob(layout, 0)).unwrap());
    let other = layout("other", &|layout| std::fs::write(blob(layout, 0), "other").unwrap());
    let config = layout("config", &|layout| std::fs::write(blob(layout, 2), "{}").unwrap());
    let leads = layout("leads", &|layout| {
        let secret = at("secret");
        std::fs::rename(blob(layout, 0), &secret).unwrap();
        std::os::unix::fs::symlink(secret, blob(layout, 0)).unwrap();
    });
    let pipe = layout("pipe", &|layout| {
        let path = blob(layout, 0);
        std::fs::remove_file(&path).unwrap();
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    });
    let hostile = at("hostile.tar");
    let names = json!([{ "Config": "../../../../etc/passwd", "RepoTags": null, "Layers": [] }]);
    let archive = Layer::default().file("manifest.json", &names.to_string());
    std::fs::write(&hostile, archive.tar()).unwrap();
    let circle = at("circle.tar");
    let names = json!([{ "Config": "a", "RepoTags": null, "Layers": ["a"] }]).to_string();
    let archive =
        Layer::default().file("manifest.json", &names).symlink("a", "b").symlink("b", "a");
    std::fs::write(&circle, archive.tar()).unwrap();
    for (path, code) in [
        (at("nowhere"), "image_io"),
        (at("text"), "image_malformed"),
        (missing, "image_malformed"),
        (other, "image_digest"),
        (config, "image_digest"),
        (leads, "image_malformed"),
        (pipe, "image_malformed"),
        (hostile, "image_malformed"),
        (circle, "image_malformed"),
    ] {
        let error = import(&home, &path, Some("x")).await.unwrap_err();
        assert_eq!(error.code(), code, "{}: {error}", path.display());
    }
    assert!(home.store.list().unwrap().is_empty());
    home.check("no image");
}

#[tokio::test]
async fn store_is_accessible_to_its_owner_only() {
    let work = tempfile::tempdir().unwrap();
    let dir = work.path().join("store");
    Store::open(&dir).unwrap();
    Store::open(&dir).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    for path in [dir.clone(), dir.join("roots"), dir.join("blobs")] {
        for open in [0o777, 0o770, 0o1777] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(open)).unwrap();
            assert_eq!(Store::open(&dir).unwrap_err().code(), "image_store_damaged", "{open:o}");
        }
        for readable in [0o755, 0o750, 0o711] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(readable)).unwrap();
            Store::open(&dir).unwrap();
            assert_eq!(mode(&path), 0o700, "{readable:o}");
        }
    }
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(dir.join("version"), "2\n").unwrap();
    assert_eq!(Store::open(&dir).unwrap_err().code(), "image_unsupported");
    std::fs::write(dir.join("version"), "1\n").unwrap();
    std::fs::write(dir.join("index.json"), "{").unwrap();
    let store = Store::open(&dir).unwrap();
    let error = store.list().unwrap_err();
    assert_eq!(error.code(), "image_store_damaged");
    assert!(error.to_string().contains("index.json"), "{error}");
}
