//! What is whole is restored, and nothing else.

use std::os::unix::fs::symlink;

use super::*;

struct Sample {
    folder: tempfile::TempDir,
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
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pages.img"), vec![pages; 100_000]).unwrap();
    fs::write(folder.path().join("checkpoint.img"), b"state").unwrap();
    let manifest = Manifest {
        format: FORMAT,
        owner,
        created_at: 1,
        engine: "e".to_owned(),
        root: Root::Host,
        pids: 5,
        files: measure(folder.path()).unwrap(),
    };
    write_manifest(folder.path(), &manifest, &secret).unwrap();
    Sample { folder, secret, manifest }
}

fn sample() -> Sample {
    sample_of(secret(), owner(), 7)
}

impl Sample {
    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn open(&self) -> Result<Manifest, Damage> {
        let manifest = read_manifest(self.path(), &owner(), &self.secret)?;
        check_files(self.path(), &manifest)?;
        Ok(manifest)
    }

    #[track_caller]
    fn is_refused(&self, what: &str) {
        let Err(found) = self.open() else { panic!("{what}: accepted") };
        assert!(matches!(found, Damage::Broken(_) | Damage::Io(_)), "{found:?}");
        assert!(found.to_string().contains(what), "{found} does not say {what}");
    }
}

#[test]
fn what_is_whole_is_accepted() {
    let sample = sample();
    assert_eq!(sample.open().unwrap(), sample.manifest);
    // Under another name the files are the same.
    let draft = tempfile::tempdir().unwrap();
    for file in &sample.manifest.files {
        fs::hard_link(sample.path().join(&file.name), draft.path().join(&file.name)).unwrap();
    }
    let owner = Owner::snapshot("snap0123456789abcdef", "ours");
    let copy = Manifest { owner: owner.clone(), ..sample.manifest.clone() };
    write_manifest(draft.path(), &copy, &sample.secret).unwrap();
    assert_eq!(read_manifest(draft.path(), &owner, &sample.secret).unwrap(), copy);
    check_files(draft.path(), &copy).unwrap();
}

#[test]
fn other_users_read_none_of_it() {
    let sample = sample();
    for entry in fs::read_dir(sample.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", entry.file_name());
    }
    let place = sample.path().with_extension("placed");
    fs::set_permissions(sample.path(), Permissions::from_mode(0o755)).unwrap();
    place_folder(sample.path(), &place).unwrap();
    assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o700);
    fs::rename(place, sample.path()).unwrap();
}

#[test]
fn a_sealing_that_was_broken_off_is_done_again() {
    let sample = sample();
    File::create(sample.path().join(FILE)).unwrap();
    let again = Manifest { files: measure(sample.path()).unwrap(), ..sample.manifest.clone() };
    assert_eq!(again, sample.manifest);
    write_manifest(sample.path(), &again, &sample.secret).unwrap();
    sample.open().unwrap();
}

#[test]
fn every_damage_is_found() {
    type Damaging = fn(&Path) -> io::Result<()>;
    let cases: [(&str, Damaging); 13] = [
        ("pages.img is missing", |folder| fs::remove_file(folder.join("pages.img"))),
        ("99999 bytes", |folder| {
            File::options().write(true).open(folder.join("pages.img"))?.set_len(99_999)
        }),
        ("was changed", |folder| {
            let mut bytes = fs::read(folder.join("pages.img"))?;
            bytes[50_000] ^= 1;
            fs::write(folder.join("pages.img"), bytes)
        }),
        ("cannot be read", |folder| {
            fs::rename(folder.join("pages.img"), folder.with_extension("away"))?;
            symlink(folder.with_extension("away"), folder.join("pages.img"))
        }),
        ("not a regular file", |folder| {
            fs::remove_file(folder.join("pages.img"))?;
            fs::create_dir(folder.join("pages.img"))
        }),
        ("not a regular file", |folder| {
            fs::remove_file(folder.join("pages.img"))?;
            let (path, mode) = (folder.join("pages.img"), rustix::fs::Mode::from_raw_mode(0o600));
            Ok(rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)?)
        }),
        ("does not belong to it", |folder| fs::write(folder.join("more.img"), "x")),
        ("manifest is missing", |folder| fs::remove_file(folder.join(FILE))),
        ("manifest is no manifest", |folder| {
            File::options().write(true).open(folder.join(FILE))?.set_len(50)
        }),
        ("manifest was changed", |folder| {
            let text = fs::read_to_string(folder.join(FILE))?.replace("\"pids\":5", "\"pids\":6");
            fs::write(folder.join(FILE), text)
        }),
        ("manifest was changed", |folder| {
            let text = fs::read_to_string(folder.join(FILE))?.replace("\"bytes\":5", "\"bytes\":6");
            fs::write(folder.join(FILE), text)
        }),
        ("has no signature", |folder| {
            let text = fs::read_to_string(folder.join(FILE))?.replace("signature", "Signature");
            fs::write(folder.join(FILE), text)
        }),
        // Not read into memory.
        ("more than", |folder| {
            File::options().write(true).open(folder.join(FILE))?.set_len(8 << 30)
        }),
    ];
    for (what, damage) in cases {
        let sample = sample();
        damage(sample.path()).unwrap();
        sample.is_refused(what);
        let _ = fs::remove_file(sample.path().with_extension("away"));
    }
}

#[test]
fn what_is_somebody_elses_is_refused() {
    let another = "belongs to another";
    for (what, other) in [
        (another, Owner { id: "run0000000000000000".to_owned(), ..owner() }),
        (another, Owner { tenant: "theirs".to_owned(), ..owner() }),
        (another, Owner { kind: Kind::Snapshot, ..owner() }),
        (another, Owner { kind: Kind::Snapshot, generation: 0, ..owner() }),
        ("not the latest", Owner { generation: 2, ..owner() }),
        ("not the latest", Owner { generation: 4, ..owner() }),
    ] {
        // Whole, signed by this server, and in the place of ours.
        sample_of(secret(), other, 7).is_refused(what);
    }
    // Of another server, and otherwise the same.
    let mut moved = sample();
    moved.secret = secret();
    moved.is_refused("made by another server");
    // The manifest of one and the files of another.
    let secret = secret();
    let (one, two) = (sample_of(secret.clone(), owner(), 1), sample_of(secret, owner(), 2));
    fs::copy(two.path().join("pages.img"), one.path().join("pages.img")).unwrap();
    one.is_refused("pages.img was changed");
    fs::copy(two.path().join(FILE), one.path().join(FILE)).unwrap();
    one.open().unwrap();
}

#[test]
fn what_an_earlier_version_made_is_refused_by_name() {
    let sample = sample();
    let text = serde_json::to_string(&sample.manifest).unwrap();
    let blake3 = blake3::hash(text.as_bytes()).to_hex().to_string();
    let old = format!("{{\"blake3\":\"{blake3}\",\"manifest\":{text}}}");
    fs::write(sample.path().join(FILE), old).unwrap();
    let Err(Damage::Foreign { then, .. }) = sample.open() else { panic!("it is not refused") };
    assert!(then.contains("earlier version"), "{then}");
    let later = Manifest { format: 9, ..sample.manifest.clone() };
    write_manifest(sample.path(), &later, &sample.secret).unwrap();
    let Err(Damage::Foreign { then, .. }) = sample.open() else { panic!("it is not refused") };
    assert!(then.contains("format 9"), "{then}");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in ["../pages.img", "/etc/passwd", "", "."] {
        let sample = sample();
        let mut manifest = sample.manifest.clone();
        manifest.files[0].name = name.to_owned();
        write_manifest(sample.path(), &manifest, &sample.secret).unwrap();
        sample.is_refused("names files that cannot be");
    }
}
