//! The image of the server, in the layout of the OCI, as one archive.
//!
//! Its first layer is a minimal Debian with what the server starts (`nft`), the second has the
//! files of isorun. The first is kept, so that it is the same in repeated
//! runs; remove `target/tools/debian-image` to get the newest packages.

use std::fs::{self, File};
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::debian_root::{self, Network};
use super::tree::{Tree, gzip};
use crate::digest::{self, Inputs};
use crate::{process, stamp, workspace};

/// What is installed in the first layer.
const PACKAGES: [&str; 2] = ["nftables", "ca-certificates"];

/// What is not part of the first layer: files that the kernel or a container's engine
/// provides, and those that tell when and where the layer was made.
const EXCLUDED: [&str; 14] = [
    "./dev/*",
    "./proc/*",
    "./sys/*",
    "./run/*",
    "./tmp/*",
    "./mnt/*",
    "./etc/hostname",
    "./etc/machine-id",
    "./etc/resolv.conf",
    "./var/cache/*",
    "./var/log/*",
    "./var/lib/apt/lists/*",
    // The mirror of the machine that made the layer, and how it reaches it.
    "./etc/apt/apt.conf.d/*",
    "./etc/apt/sources.list",
];

/// The first layer.
pub struct Base {
    layer: PathBuf,
    /// The SHA-256 of the uncompressed layer.
    diff_id: String,
    /// The packages of Debian: a line `NAME VERSION` of each.
    pub packages: String,
}

/// Creates the first layer, unless it is there.
pub fn base() -> Result<Base> {
    let dir = workspace::tools().join("debian-image");
    let digest = Inputs::default()
        .text(debian_root::SUITE, &PACKAGES.join(" "))
        .text("excluded", &EXCLUDED.join(" "))
        .finish();
    let file = |name: &str| dir.join(name);
    stamp::install("the Debian of the server's image", &dir, &digest, || {
        let debian = debian_root::fresh(debian_root::SUITE)?;
        let root = debian_root::RootCopy::of(&debian, dir.join("root"))?;
        let install = format!(
            "apt-get install -qy --no-download --no-install-recommends {}",
            PACKAGES.join(" ")
        );
        root.run(&install, Network::Loopback)?;
        let query = "dpkg-query -W -f '${Package} ${Version}\\n'";
        fs::write(file("packages"), root.output(query, Network::Loopback)?)?;
        let diff_id = archive(&root.dir, &file("layer.tar.gz"))?;
        fs::write(file("diff-id"), diff_id)?;
        Ok(())
    })?;
    Ok(Base {
        layer: file("layer.tar.gz"),
        diff_id: fs::read_to_string(file("diff-id"))?,
        packages: fs::read_to_string(file("packages"))?,
    })
}

/// Archives a root. Returns the SHA-256 of the uncompressed archive.
fn archive(root: &Path, layer: &Path) -> Result<String> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--format=gnu", "--sort=name", "--numeric-owner", "--mtime=@0"]);
    tar.args(EXCLUDED.map(|pattern| format!("--exclude={pattern}")));
    tar.arg("--directory").arg(root).arg(".").stdout(Stdio::piped());
    let mut child = tar.spawn().context("cannot start tar")?;
    let mut output = child.stdout.take().context("tar has no output")?;
    let mut hash = Sha256::new();
    let mut encoder = gzip(File::create(layer)?, 6);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = output.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
        hash.update(bytes);
        encoder.write_all(bytes)?;
    }
    encoder.finish()?;
    if !child.wait()?.success() {
        bail!("tar cannot archive {}", root.display());
    }
    Ok(digest::hex(&hash.finalize()))
}

/// The names and the time of an image.
pub struct Labels<'a> {
    pub version: &'a str,
    pub revision: &'a str,
    pub repository: &'a str,
    /// The time of the commit as RFC 3339.
    pub created: &'a str,
    /// The same in seconds since 1970.
    pub time: u64,
}

/// Writes the image. `level` is that of gzip.
pub fn write(
    archive: &Path,
    base: &Base,
    files: &Tree,
    labels: &Labels<'_>,
    level: u32,
) -> Result<()> {
    let added = files.write_tar(Vec::new(), "", true, labels.time)?;
    let added_id = digest::of_bytes(&added);
    let mut encoder = gzip(Vec::new(), level);
    encoder.write_all(&added)?;
    let mut blobs = Blobs::default();
    let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    let layers = [blobs.add_file(layer, &base.layer)?, blobs.add(layer, encoder.finish()?)];
    let config = json!({
        "created": labels.created,
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                format!("HOME={}", debian_root::HOME),
            ],
            "Entrypoint": ["/usr/bin/isorun", "serve"],
            "Volumes": { "/var/lib/isorun": {} },
            "Labels": annotations(labels),
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": [format!("sha256:{}", base.diff_id), format!("sha256:{added_id}")],
        },
        "history": [
            { "created": labels.created, "created_by": "debootstrap" },
            { "created": labels.created, "created_by": "cargo xtask release" },
        ],
    });
    let config = blobs.add("application/vnd.oci.image.config.v1+json", bytes(&config)?);
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": config,
        "layers": layers,
        "annotations": annotations(labels),
    });
    let mut manifest = blobs.add(manifest_type, bytes(&manifest)?);
    manifest["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": labels.version });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    let mut layout = blobs.0;
    layout.bytes("index.json", 0o644, bytes(&index)?);
    layout.bytes("oci-layout", 0o644, bytes(&json!({ "imageLayoutVersion": "1.0.0" }))?);
    let file =
        File::create(archive).with_context(|| format!("cannot create {}", archive.display()))?;
    layout.write_tar(file, "", true, labels.time)?;
    Ok(())
}

fn annotations(labels: &Labels<'_>) -> Value {
    json!({
        "org.opencontainers.image.title": "isorun",
        "org.opencontainers.image.version": labels.version,
        "org.opencontainers.image.revision": labels.revision,
        "org.opencontainers.image.source": labels.repository,
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.base.name": format!("debian:{}", debian_root::SUITE),
    })
}

fn bytes(value: &Value) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}

/// The blobs of a layout.
#[derive(Default)]
struct Blobs(Tree);

impl Blobs {
    /// Adds a blob, and returns its descriptor.
    fn add(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let digest = digest::of_bytes(&content);
        let descriptor = describe(media_type, &digest, content.len() as u64);
        self.0.bytes(format!("blobs/sha256/{digest}"), 0o644, content);
        descriptor
    }

    fn add_file(&mut self, media_type: &str, path: &Path) -> Result<Value> {
        let digest = digest::of_file(path)?;
        self.0.file(format!("blobs/sha256/{digest}"), 0o644, path);
        Ok(describe(media_type, &digest, fs::metadata(path)?.len()))
    }
}

fn describe(media_type: &str, digest: &str, size: u64) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size })
}

/// Reads an image with skopeo, which verifies every digest, and returns its configuration.
pub fn inspect(archive: &Path, version: &str, scratch: &Path) -> Result<Value> {
    let source = format!("oci-archive:{}:{version}", archive.display());
    let dir = scratch.join("skopeo");
    let mut copy = Command::new("skopeo");
    copy.args(["--insecure-policy", "copy", "--quiet", &source]);
    copy.arg(format!("dir:{}", dir.display()));
    process::run_quiet(copy)?;
    let text = process::stdout_of("skopeo", &["inspect", "--config", &source])
        .context("skopeo cannot read the configuration of the image")?;
    serde_json::from_str(&text).context("the configuration of the image is not JSON")
}

/// Unpacks an image with umoci. Returns the directory of its files.
pub fn unpack(archive: &Path, version: &str, scratch: &Path) -> Result<PathBuf> {
    let layout = scratch.join("layout");
    fs::create_dir_all(&layout)?;
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(archive).arg("-C").arg(&layout);
    process::run_quiet(tar)?;
    let root = scratch.join("image");
    let mut umoci = Command::new("umoci");
    umoci.args(["raw", "unpack", "--image"]);
    umoci.arg(format!("{}:{version}", layout.display())).arg(&root);
    process::run_quiet(umoci)?;
    Ok(root)
}
