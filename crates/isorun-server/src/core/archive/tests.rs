//! Only complete archives of the right owner are accepted.

use std::os::unix::fs::symlink;

use isorun_engine::Root;

use super::*;

struct Sample {
    dir: tempfile::TempDir,
    secret: Secret,
    manifest: Manifest,
}

fn owner() -> Owner {
    let (id, tenant) = ("run0123456789abcdef".to_owned(), "ours".to_owned());
    Owner { kind: Kind::Hibernation, id, tenant, generation: 3 }
}

fn secret() -> Secret {
    Secret::open(tempfile::tempdir().unwrap().path()).unwrap()
}

fn sample_of(secret: Secret, owner: Owner, pages: u8) -> Sample {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("pages.img"), vec![pages; 100_000]).unwrap();
    fs::write(dir.path().join("checkpoint.img"), b"state").unwrap();
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        owner,
        created_at: 1,
        engine: "e".to_owned(),
        root: SandboxBase::Linux(Root::Host),
        pids: 5,
        files: digest_files(dir.path()).unwrap(),
    };
    write_manifest(dir.path(), &manifest, &secret).unwrap();
    Sample { dir, secret, manifest }
}

fn sample() -> Sample {
    sample_of(secret(), owner(), 7)
}

impl Sample {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn open(&self) -> Result<Manifest, ArchiveError> {
        let manifest = read_manifest(self.path(), &owner(), &self.secret)?;
        verify_files(self.path(), &manifest)?;
        Ok(manifest)
    }

    #[track_caller]
    fn assert_refused(&self, text: &str) {
        let Err(error) = self.open() else { panic!("{text}: accepted") };
        assert!(matches!(error, ArchiveError::Damaged(_) | ArchiveError::Io(_)), "{error:?}");
        assert!(error.to_string().contains(text), "{error} does not contain {text}");
    }
}

#[test]
fn complete_archives_are_accepted() {
    let sample = sample();
    assert_eq!(sample.open().unwrap(), sample.manifest);
    // Hard links with the manifest of another owner.
    let draft = tempfile::tempdir().unwrap();
    for file in &sample.manifest.files {
        fs::hard_link(sample.path().join(&file.name), draft.path().join(&file.name)).unwrap();
    }
    let owner = Owner::snapshot("snap0123456789abcdef", "ours");
    let copy = Manifest { owner: owner.clone(), ..sample.manifest.clone() };
    write_manifest(draft.path(), &copy, &sample.secret).unwrap();
    assert_eq!(read_manifest(draft.path(), &owner, &sample.secret).unwrap(), copy);
    verify_files(draft.path(), &copy).unwrap();
}

#[test]
fn archives_are_accessible_to_their_owner_only() {
    let sample = sample();
    for entry in fs::read_dir(sample.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", entry.file_name());
    }
    let target = sample.path().with_extension("placed");
    fs::set_permissions(sample.path(), Permissions::from_mode(0o755)).unwrap();
    publish_dir(sample.path(), &target).unwrap();
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o700);
    fs::rename(target, sample.path()).unwrap();
}

#[test]
fn incomplete_manifests_are_overwritten() {
    let sample = sample();
    File::create(sample.path().join(MANIFEST_FILE)).unwrap();
    let again = Manifest { files: digest_files(sample.path()).unwrap(), ..sample.manifest.clone() };
    assert_eq!(again, sample.manifest);
    write_manifest(sample.path(), &again, &sample.secret).unwrap();
    sample.open().unwrap();
}

#[test]
fn damaged_archives_are_refused() {
    type Damage = fn(&Path) -> io::Result<()>;
    let cases: [(&str, Damage); 13] = [
        ("pages.img is missing", |dir| fs::remove_file(dir.join("pages.img"))),
        ("99999 bytes", |dir| {
            File::options().write(true).open(dir.join("pages.img"))?.set_len(99_999)
        }),
        ("was changed", |dir| {
            let mut bytes = fs::read(dir.join("pages.img"))?;
            bytes[50_000] ^= 1;
            fs::write(dir.join("pages.img"), bytes)
        }),
        ("cannot be read", |dir| {
            fs::rename(dir.join("pages.img"), dir.with_extension("away"))?;
            symlink(dir.with_extension("away"), dir.join("pages.img"))
        }),
        ("not a regular file", |dir| {
            fs::remove_file(dir.join("pages.img"))?;
            fs::create_dir(dir.join("pages.img"))
        }),
        ("not a regular file", |dir| {
            fs::remove_file(dir.join("pages.img"))?;
            let (path, mode) = (dir.join("pages.img"), rustix::fs::Mode::from_raw_mode(0o600));
            Ok(rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)?)
        }),
        ("does not belong to it", |dir| fs::write(dir.join("more.img"), "x")),
        ("manifest is missing", |dir| fs::remove_file(dir.join(MANIFEST_FILE))),
        ("manifest is not valid", |dir| {
            File::options().write(true).open(dir.join(MANIFEST_FILE))?.set_len(50)
        }),
        ("manifest was changed", |dir| {
            let text =
                fs::read_to_string(dir.join(MANIFEST_FILE))?.replace("\"pids\":5", "\"pids\":6");
            fs::write(dir.join(MANIFEST_FILE), text)
        }),
        ("manifest was changed", |dir| {
            let text =
                fs::read_to_string(dir.join(MANIFEST_FILE))?.replace("\"bytes\":5", "\"bytes\":6");
            fs::write(dir.join(MANIFEST_FILE), text)
        }),
        ("has no signature", |dir| {
            let text =
                fs::read_to_string(dir.join(MANIFEST_FILE))?.replace("signature", "Signature");
            fs::write(dir.join(MANIFEST_FILE), text)
        }),
        // Must not be read into memory.
        ("more than", |dir| {
            File::options().write(true).open(dir.join(MANIFEST_FILE))?.set_len(8 << 30)
        }),
    ];
    for (text, apply) in cases {
        let sample = sample();
        apply(sample.path()).unwrap();
        sample.assert_refused(text);
        let _ = fs::remove_file(sample.path().with_extension("away"));
    }
}

#[test]
fn archives_of_other_owners_and_servers_are_refused() {
    let another = "belongs to another";
    for (text, other) in [
        (another, Owner { id: "run0000000000000000".to_owned(), ..owner() }),
        (another, Owner { tenant: "theirs".to_owned(), ..owner() }),
        (another, Owner { kind: Kind::Snapshot, ..owner() }),
        (another, Owner { kind: Kind::Snapshot, generation: 0, ..owner() }),
        ("not the latest", Owner { generation: 2, ..owner() }),
        ("not the latest", Owner { generation: 4, ..owner() }),
    ] {
        // Complete, signed by this server, and in the directory of `owner()`.
        sample_of(secret(), other, 7).assert_refused(text);
    }
    // Signed by another server, and otherwise the same.
    let mut moved = sample();
    moved.secret = secret();
    moved.assert_refused("made by another server");
    // The manifest of one and the files of another.
    let secret = secret();
    let (one, two) = (sample_of(secret.clone(), owner(), 1), sample_of(secret, owner(), 2));
    fs::copy(two.path().join("pages.img"), one.path().join("pages.img")).unwrap();
    one.assert_refused("pages.img was changed");
    fs::copy(two.path().join(MANIFEST_FILE), one.path().join(MANIFEST_FILE)).unwrap();
    one.open().unwrap();
}

#[test]
fn other_manifest_formats_are_refused_by_version() {
    let sample = sample();
    let text = serde_json::to_string(&sample.manifest).unwrap();
    let blake3 = blake3::hash(text.as_bytes()).to_hex().to_string();
    let old = format!("{{\"blake3\":\"{blake3}\",\"manifest\":{text}}}");
    fs::write(sample.path().join(MANIFEST_FILE), old).unwrap();
    let Err(ArchiveError::Incompatible { found, .. }) = sample.open() else {
        panic!("it is not refused")
    };
    assert!(found.contains("earlier version"), "{found}");
    let later = Manifest { format: 9, ..sample.manifest.clone() };
    write_manifest(sample.path(), &later, &sample.secret).unwrap();
    let Err(ArchiveError::Incompatible { found, .. }) = sample.open() else {
        panic!("it is not refused")
    };
    assert!(found.contains("format 9"), "{found}");
}

#[test]
fn file_names_outside_the_archive_are_refused() {
    for name in ["../pages.img", "/etc/passwd", "", "."] {
        let sample = sample();
        let mut manifest = sample.manifest.clone();
        manifest.files[0].name = name.to_owned();
        write_manifest(sample.path(), &manifest, &sample.secret).unwrap();
        sample.assert_refused("invalid file names");
    }
}
