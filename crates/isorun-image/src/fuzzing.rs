//! Entry points of fuzz targets: each takes arbitrary bytes, and panics if an
//! invariant does not hold.
#![allow(clippy::expect_used, reason = "runs in fuzzers only, and must panic")]

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use tar::EntryType;

use super::config::{self, Configuration, ImageConfig};
use super::digest;
use super::document::{self, Document, ImagePlan, Platform};
use super::import::{ImportOptions, Source};
use super::limits::Limits;
use super::reference::Reference;
use super::registry::{Registries, Repository};
use super::store::Store;
use super::unpack::{CancelFlag, Unpacker, remove_tree};

/// Parses a manifest, index or configuration, and a configuration after a zero byte.
pub fn documents(input: &[u8]) {
    let limits = Limits::default();
    let (first, second) = halves(input);
    let platforms = ["linux/amd64", "linux/arm/v7", "linux/arm64/v8"];
    let platforms = platforms.map(|text| text.parse::<Platform>().unwrap_or_default());
    if let Ok(configuration) = Configuration::parse("it", first) {
        let config = ImageConfig::new(configuration);
        assert!(config.env.iter().all(|(name, _)| !name.is_empty()));
        let _ = config.command(&["a".to_owned()]);
    }
    match Document::parse("it", first) {
        Ok(Document::Index(index)) => {
            for platform in &platforms {
                if let Ok(chosen) = document::choose("it", &index, platform) {
                    assert!(index.manifests().contains(chosen));
                }
            }
        }
        Ok(Document::Manifest(manifest)) => {
            let _ = document::check_manifest(&manifest, &limits);
            for platform in &platforms {
                let (bytes, top) = (first.to_vec(), digest::of(first));
                let (config, what) = (second.to_vec(), "it");
                let plan = ImagePlan::new(what, bytes, top, &manifest, config, platform, &limits);
                if let Ok(plan) = plan {
                    assert!(plan.layers.len() <= limits.layers && plan.bytes <= limits.download);
                }
            }
        }
        Err(error) => assert!(!error.is_host_error(), "{error}"),
    }
}

/// Parses references of images, and platforms.
pub fn references(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string().parse::<Platform>().ok(), Some(platform));
    }
    let Ok(reference) = text.parse::<Reference>() else { return };
    let shown = reference.to_string();
    assert_eq!(shown.parse::<Reference>().ok().as_ref(), Some(&reference), "{shown}");
    let parts = reference.repository().split('/');
    assert!(parts.clone().all(|part| !part.is_empty() && part != "." && part != ".."), "{shown}");
    assert!(!shown.contains(['\n', ' ', '\0', '?', '#', '\\', '%']), "{shown:?}");
    // Requests are sent only to the registry of the reference.
    if let Ok(url) = Registries::default().url_of(&reference) {
        let host = match reference.registry() {
            "docker.io" => "registry-1.docker.io",
            registry => registry,
        };
        let named = host.rsplit_once(':').map_or(host, |(name, _)| name);
        assert!(url.username().is_empty() && url.query().is_none(), "{url}");
        assert!(url.path().starts_with("/v2/") && !url.path().contains("/../"), "{url}");
        let found = url.host_str().unwrap_or_default();
        // URLs normalize numeric addresses and letters of other scripts.
        let same = url::same_host(found, named);
        assert!(same, "requests for {shown} are sent to {url}");
    }
}

/// Parses challenges of a registry, one header per line; and responses of a token
/// server.
pub fn challenges(input: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n').take(100) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(WWW_AUTHENTICATE, value);
        }
    }
    Repository::fuzz_challenge(&headers);
    Repository::fuzz_responses(input);
}

/// Looks up a user in `/etc/passwd` and `/etc/group`; the three are separated by zero
/// bytes.
pub fn accounts(input: &[u8]) {
    let (passwd, rest) = halves(input);
    let (group, user) = halves(rest);
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let found = config::look_up(&text(passwd), &text(group), Some(&text(user)));
    if let Ok(user) = found {
        assert!(user.uid != u32::MAX && user.gid != u32::MAX && user.groups.len() <= 1024);
        assert!(user.home.is_none_or(|home| home.starts_with('/')));
    }
}

/// Unpacks layers: the bytes as they are, with corrected checksums, or an archive of
/// entries that the bytes describe. No entry is created outside of the directory, and
/// no limit is exceeded.
pub fn layers(input: &[u8]) {
    let Some((form, input)) = input.split_first() else { return };
    let home = scratch("layer");
    for name in ["root", "trash", "outside"] {
        fs::create_dir(home.join(name)).expect("creating a directory in the scratch directory");
    }
    fs::write(home.join("outside/canary"), "alive")
        .expect("writing a file in the scratch directory");
    let limits = Limits { unpacked: 1 << 20, entries: 500, ..Limits::default() };
    let (first, second) = input.split_at(input.len() / 2);
    let parts = if form & 4 == 0 { vec![input] } else { vec![first, second] };
    let unpacked = (|| {
        let mut unpacker =
            Unpacker::new(&home.join("root"), &home.join("trash"), &limits, CancelFlag::default())?;
        for part in parts {
            let layer = match form & 3 {
                0 => part.to_vec(),
                1 => with_checksums(part),
                _ => build_archive(part, &home.join("outside")),
            };
            unpacker.apply_layer("a layer", layer.as_slice(), &digest::of(b""))?;
        }
        unpacker.finish()
    })();
    match unpacked {
        Ok(summary) => {
            let (entries, bytes) = measure(&home.join("root"));
            assert!(entries <= limits.entries, "{entries} entries");
            assert!(bytes <= limits.unpacked && summary.bytes <= limits.unpacked, "{bytes} bytes");
        }
        Err(error) => assert!(!error.is_host_error(), "{error}: {error:?}"),
    }
    let left: Vec<_> = fs::read_dir(home.join("outside")).into_iter().flatten().collect();
    assert_eq!(left.len(), 1, "an entry was created outside of the root directory");
    let canary = home.join("outside/canary");
    assert_eq!(fs::read_to_string(&canary).ok().as_deref(), Some("alive"));
    assert_eq!(fs::metadata(&canary).map(|found| found.nlink()).ok(), Some(1));
    assert_eq!(
        fs::read_dir(&home).into_iter().flatten().count(),
        3,
        "an entry was created outside of the root directory"
    );
    let directory = File::open(&home).expect("opening the scratch directory");
    for name in ["root", "trash", "outside"] {
        remove_tree(directory.as_fd(), name).expect("removing the scratch tree");
    }
}

/// Imports archives: OCI layouts, docker archives, root filesystems.
pub fn archives(input: &[u8]) {
    static STORE: OnceLock<Store> = OnceLock::new();
    let store = STORE.get_or_init(|| {
        Store::open(scratch("store")).expect("opening a store in the scratch directory")
    });
    let Some((form, input)) = input.split_first() else { return };
    let path = scratch("archive").join("file");
    let bytes = match form & 3 {
        0 => input.to_vec(),
        1 => with_checksums(input),
        _ => build_archive(input, Path::new("/nowhere")),
    };
    fs::write(&path, bytes).expect("writing a file in the scratch directory");
    let mut options = ImportOptions::default();
    options.limits.unpacked = 1 << 20;
    options.limits.download = 1 << 20;
    let found = Source::find(&path).and_then(|source| source.fuzz_read(store, &options));
    if let Err(error) = found {
        assert!(!matches!(error, super::Error::Damaged { .. }), "{error}");
    }
}

/// Creates an empty directory of this process.
fn scratch(name: &str) -> PathBuf {
    let base =
        if Path::new("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() };
    let name = format!("isorun-fuzz-{}-{name}", std::process::id());
    let opened = File::open(&base).expect("opening the directory for temporary files");
    remove_tree(opened.as_fd(), &name).expect("removing the scratch tree");
    let directory = base.join(name);
    fs::create_dir(&directory).expect("creating the scratch directory");
    directory
}

fn halves(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().position(|byte| *byte == 0) {
        Some(zero) => (&input[..zero], &input[zero + 1..]),
        None => (input, &[]),
    }
}

/// Sets a valid checksum in every block, so that later checks are reached.
fn with_checksums(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for block in bytes.chunks_exact_mut(512) {
        let mut header = tar::Header::from_byte_slice(block).clone();
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
    }
    bytes
}

/// Builds an archive of entries that the bytes describe: type, path and link target,
/// composed of few names, so that they collide.
fn build_archive(input: &[u8], outside: &Path) -> Vec<u8> {
    const NAMES: [&str; 24] = [
        "a",
        "b",
        "c",
        "d",
        "a",
        "b",
        "c",
        "d",
        "x",
        "y",
        "..",
        ".",
        "",
        "etc",
        ".wh.a",
        ".wh.b",
        ".wh.x",
        ".wh..wh..opq",
        ".wh.",
        ".wh...",
        "canary",
        "passwd",
        "manifest.json",
        "index.json",
    ];
    let outside = outside.to_string_lossy();
    let mut archive = Vec::new();
    let mut bytes = input.iter().copied();
    let path = |bytes: &mut dyn Iterator<Item = u8>| -> Option<Vec<u8>> {
        let count = bytes.next()?;
        let mut parts: Vec<&str> = Vec::new();
        if count & 0x80 != 0 {
            parts.push(&outside);
        } else if count & 0x40 != 0 {
            parts.push("");
        }
        for _ in 0..count & 7 {
            parts.push(NAMES.get(usize::from(bytes.next()?) % 25).copied().unwrap_or("é\n"));
        }
        Some(parts.join("/").into_bytes())
    };
    while let Some(kind) = bytes.next() {
        let (Some(name), Some(link)) = (path(&mut bytes), path(&mut bytes)) else { break };
        let mode = bytes.next().unwrap_or(0);
        let kinds = b"000222555511113467LKxgSZ0025512";
        let kind = kinds.get(usize::from(kind) % 32).copied().unwrap_or(kind);
        let content: &[u8] = match kind {
            b'0' | b'7' => b"{\"schemaVersion\":2,\"manifests\":[],\"layers\":[]}",
            b'L' | b'K' => &name,
            b'x' => b"26 SCHILY.xattr.user.a=bc\n20 path=a/../../etc\n",
            _ => b"",
        };
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::new(kind));
        for (at, name) in [(0, &name), (157, &link)] {
            let fitting = name.len().min(100);
            header.as_mut_bytes()[at..at + fitting].copy_from_slice(&name[..fitting]);
        }
        header.set_mode(u32::from(mode) << 4 | 0o400);
        header.set_uid(u64::from(mode & 1));
        header.set_gid(0);
        header.set_mtime(u64::from(mode));
        header.set_size(content.len() as u64);
        header.set_cksum();
        archive.extend_from_slice(header.as_bytes());
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// Counts the entries below a directory, and the bytes of its files.
fn measure(root: &Path) -> (u64, u64) {
    let (mut entries, mut bytes) = (0, 0);
    let mut stack = vec![root.to_owned()];
    while let Some(directory) = stack.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(found) = fs::symlink_metadata(entry.path()) else { continue };
            entries += 1;
            if found.is_dir() {
                stack.push(entry.path());
            } else if found.is_file() {
                bytes += found.len() / found.nlink().max(1);
            }
        }
    }
    (entries, bytes)
}

mod url {
    /// Reports whether the host of a URL is the named one after normalization: lower
    /// case, and numbers as an address.
    pub(super) fn same_host(found: &str, named: &str) -> bool {
        let named = format!("https://{named}/");
        reqwest::Url::parse(&named).is_ok_and(|url| url.host_str() == Some(found))
    }
}

/// A short random run of each fuzz target; it lasts `ISORUN_RANDOM_SECONDS` seconds if
/// that variable is set.
#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// A pseudorandom number generator, xorshift64*.
    struct XorShift(u64);

    impl XorShift {
        fn next(&mut self) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap()
        }

        fn below(&mut self, bound: usize) -> usize {
            self.next() % bound.max(1)
        }
    }

    /// Mutates an input at a few positions.
    fn mutate(random: &mut XorShift, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[random.below(seeds.len())].clone();
        for _ in 0..random.below(8) {
            let at = random.below(input.len() + 1);
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len());
            let count = random.below(64).min(other.len() - from);
            match random.below(6) {
                0 => input.insert(at, random.below(256) as u8),
                1 if at < input.len() => input[at] = random.below(256) as u8,
                2 if at < input.len() => drop(input.remove(at)),
                3 => drop(input.splice(at..at, other[from..from + count].to_vec())),
                4 => input.truncate(at),
                _ => {
                    let extreme: [&[u8]; 6] =
                        [b"18446744073709551615", b"-1", b"\xff\xff\xff", b"../", b"\0", b"e999"];
                    let extreme = extreme[random.below(extreme.len())];
                    drop(input.splice(at..at, extreme.iter().copied()));
                }
            }
        }
        input
    }

    /// Removes the scratch directories with these names when it is dropped.
    struct RemoveScratch(&'static [&'static str]);

    impl Drop for RemoveScratch {
        fn drop(&mut self) {
            for name in self.0 {
                let _ = fs::remove_dir(scratch(name));
            }
        }
    }

    /// Calls a target with `count` mutated seeds, or for the configured time.
    fn run_random_inputs(target: fn(&[u8]), seeds: &[&[u8]], count: u32) {
        let seeds: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.to_vec()).collect();
        let seconds =
            std::env::var("ISORUN_RANDOM_SECONDS").ok().and_then(|text| text.parse().ok());
        let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
        let mut random = XorShift(match seconds {
            Some(_) => u64::from(std::process::id()) << 20 | 1,
            None => 0x9E37_79B9_7F4A_7C15,
        });
        let mut inputs = 0_u64;
        while inputs < u64::from(count) || Instant::now() < end {
            let input = mutate(&mut random, &seeds);
            // The panic message includes the failing input.
            if let Err(panic) = std::panic::catch_unwind(|| target(&input)) {
                panic!("{panic:?}: {:?}", String::from_utf8_lossy(&input));
            }
            inputs += 1;
        }
        println!("{inputs} inputs");
    }

    #[test]
    fn random_documents() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let layer = format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":7}}"#);
        let manifest = format!(
            "{{\"schemaVersion\":2,\"config\":{layer},\"layers\":[{layer},{layer}]}}\0{{\
             \"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{{\"diff_ids\":[\"{digest}\",\
             \"{digest}\"]}},\"config\":{{\"Env\":[\"A=b\"],\"User\":\"1:2\",\"Cmd\":[\"x\"]}}}}"
        );
        let platform = r#""platform":{"os":"linux","architecture":"arm","variant":"v7"}"#;
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"a/b","digest":"{digest}","size":7,{platform}}}]}}"#
        );
        let config = &manifest[manifest.find('\0').unwrap() + 1..];
        run_random_inputs(
            documents,
            &[manifest.as_bytes(), index.as_bytes(), config.as_bytes()],
            2000,
        );
    }

    #[test]
    fn random_references() {
        let digest = b"a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let seeds: [&[u8]; 7] = [
            b"python:3.12",
            b"ghcr.io/owner/name:tag",
            b"localhost:5000/a/b",
            b"127.1/a",
            b"[::1]:80/a",
            b"linux/arm/v7",
            digest,
        ];
        run_random_inputs(references, &seeds, 3000);
    }

    #[test]
    fn random_challenges() {
        let seeds: [&[u8]; 4] = [
            b"Bearer realm=\"https://a.example/token\",service=\"s\",scope=\"a,b\"",
            b"Basic realm=\"x\", Bearer realm=\"http://127.0.0.1/\"\nNegotiate",
            b"{\"token\":\"abc\",\"access_token\":null}",
            b"{\"errors\":[{\"code\":\"DENIED\",\"message\":\"no\"}]}",
        ];
        run_random_inputs(challenges, &seeds, 200);
    }

    #[test]
    fn random_accounts() {
        let seeds: [&[u8]; 2] = [
            b"root:x:0:0:root:/root:/bin/sh\napp:x:7:8::/app:/bin/sh\n\0app:x:8:\naudio:x:29:app,b\n\0app:audio",
            b"7:x:70:70::/:/\n#x\n\0g:x:4294967295:7\n\x004294967295:7",
        ];
        run_random_inputs(accounts, &seeds, 3000);
    }

    #[test]
    fn random_layers() {
        let script: Vec<u8> =
            (0..200_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let mut forms: Vec<Vec<u8>> =
            [2, 3, 6, 7].map(|form| [&[form][..], &script].concat()).to_vec();
        let tar = build_archive(&script, Path::new("/nowhere"));
        forms.push([&[0][..], &tar].concat());
        forms.push([&[1][..], &tar].concat());
        let forms: Vec<&[u8]> = forms.iter().map(Vec::as_slice).collect();
        let _scratch = RemoveScratch(&["layer"]);
        run_random_inputs(layers, &forms, 60);
    }

    #[test]
    fn random_archives() {
        let script: Vec<u8> =
            (0..200_u32).map(|n| (n.wrapping_mul(2_246_822_519) >> 11) as u8).collect();
        let tar = build_archive(&script, Path::new("/nowhere"));
        let forms =
            [[&[2][..], &script].concat(), [&[0][..], &tar].concat(), [&[1][..], &tar].concat()];
        let forms: Vec<&[u8]> = forms.iter().map(Vec::as_slice).collect();
        let _scratch = RemoveScratch(&["store", "archive"]);
        run_random_inputs(archives, &forms, 60);
    }
}
