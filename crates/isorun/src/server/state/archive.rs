//! A checkpoint on disk that proves that it is whole.
//!
//! Beside the engine's files lies `manifest.json`: what the sandbox was made of,
//! under which engine, and the length and digest of each file; and a digest of
//! all that. Whoever restores checks it first: a damaged one, or one of another
//! engine, is refused.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use isorun_engine::Root;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::task::spawn_blocking;

use crate::server::{ApiError, App, Code};

const FILE: &str = "manifest.json";
const FORMAT: u32 = 1;

/// What an archive says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// The engine's fingerprint.
    engine: String,
    pub root: Root,
    pub pids: u32,
    files: Vec<Sealed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sealed {
    name: String,
    bytes: u64,
    blake3: String,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    blake3: String,
    manifest: Box<RawValue>,
}

/// Why an archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("{0}")]
    Broken(String),
    #[error("it was made by {then}, and this is {now}")]
    Foreign { then: String, now: String },
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
}

/// Writes the manifest of what the engine has put into a folder, and gives the
/// folder its final name. Returns what it takes on disk.
pub async fn seal(
    app: &App,
    draft: &Path,
    place: PathBuf,
    root: Root,
    pids: u32,
) -> Result<u64, ApiError> {
    let engine = app.engine.fingerprint(&root);
    let draft = draft.to_owned();
    let sealed = spawn_blocking(move || {
        let files = measure(&draft)?;
        let manifest = Manifest { format: FORMAT, engine, root, pids, files };
        write_manifest(&draft, &manifest)?;
        let bytes = size(&draft)?;
        File::open(&draft)?.sync_all()?;
        fs::rename(&draft, &place)?;
        if let Some(above) = place.parent() {
            File::open(above)?.sync_all()?;
        }
        Ok::<_, io::Error>(bytes)
    });
    let bytes = sealed.await.map_err(|error| ApiError::internal("cannot seal", error))?;
    bytes.map_err(|error| ApiError::internal("cannot write a checkpoint to the disk", error))
}

/// What an archive says, if it can be restored by this engine as far as that
/// says. Its files are checked by [`check`].
pub async fn read(app: &App, folder: &Path) -> Result<Manifest, ApiError> {
    let place = folder.to_owned();
    let manifest = spawn_blocking(move || read_manifest(&place))
        .await
        .map_err(|error| ApiError::internal("cannot read a manifest", error))?
        .map_err(refusal)?;
    let now = app.engine.fingerprint(&manifest.root);
    if manifest.engine != now {
        return Err(refusal(Damage::Foreign { then: manifest.engine, now }));
    }
    Ok(manifest)
}

/// Whether every byte of an archive is what it was.
pub async fn check(folder: &Path, manifest: &Manifest) -> Result<(), ApiError> {
    let (folder, manifest) = (folder.to_owned(), manifest.clone());
    spawn_blocking(move || check_files(&folder, &manifest))
        .await
        .map_err(|error| ApiError::internal("cannot check a checkpoint", error))?
        .map_err(refusal)
}

/// Another name for the same archive, which takes no more room.
pub async fn link(from: PathBuf, draft: PathBuf, place: PathBuf) -> Result<u64, ApiError> {
    let linked = spawn_blocking(move || {
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            fs::hard_link(entry.path(), draft.join(entry.file_name()))?;
        }
        let bytes = size(&draft)?;
        fs::rename(draft, place)?;
        Ok::<_, io::Error>(bytes)
    });
    let bytes = linked.await.map_err(|error| ApiError::internal("cannot link", error))?;
    bytes.map_err(|error| ApiError::internal("cannot copy a checkpoint", error))
}

fn refusal(damage: Damage) -> ApiError {
    match damage {
        Damage::Foreign { .. } => ApiError::new(
            Code::SnapshotForeign,
            format!(
                "this checkpoint cannot be restored here: {damage}. Run the version that made it, \
                 or make a new one"
            ),
        ),
        Damage::Broken(_) | Damage::Io(_) => {
            tracing::error!(%damage, "a damaged checkpoint");
            ApiError::new(
                Code::SnapshotDamaged,
                format!("this checkpoint is damaged, and is not restored: {damage}"),
            )
        }
    }
}

fn measure(folder: &Path) -> io::Result<Vec<Sealed>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Of a server that was killed while it wrote it: it is written anew.
        if name == FILE {
            continue;
        }
        let file = File::open(entry.path())?;
        let (bytes, blake3) = digest(&file)?;
        file.sync_all()?;
        files.push(Sealed { name, bytes, blake3 });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn digest(file: &File) -> io::Result<(u64, String)> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok((hasher.count(), hasher.finalize().to_hex().to_string()))
}

fn write_manifest(folder: &Path, manifest: &Manifest) -> io::Result<()> {
    let text = serde_json::to_string(manifest)?;
    let blake3 = blake3::hash(text.as_bytes()).to_hex().to_string();
    let envelope = Envelope { blake3, manifest: RawValue::from_string(text)? };
    let mut file = File::create(folder.join(FILE))?;
    file.write_all(&serde_json::to_vec(&envelope)?)?;
    file.sync_all()
}

fn read_manifest(folder: &Path) -> Result<Manifest, Damage> {
    let broken = |what: &str| Damage::Broken(format!("its manifest {what}"));
    let bytes = match fs::read(folder.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(broken("is missing")),
        other => other?,
    };
    let envelope: Envelope =
        serde_json::from_slice(&bytes).map_err(|_| broken("is no manifest"))?;
    let text = envelope.manifest.get();
    if blake3::hash(text.as_bytes()).to_hex().as_str() != envelope.blake3 {
        return Err(broken("was changed"));
    }
    let manifest: Manifest = serde_json::from_str(text).map_err(|_| broken("is no manifest"))?;
    if manifest.format != FORMAT {
        return Err(Damage::Foreign {
            then: format!("another version of isorun (format {})", manifest.format),
            now: format!("one that knows format {FORMAT}"),
        });
    }
    Ok(manifest)
}

fn check_files(folder: &Path, manifest: &Manifest) -> Result<(), Damage> {
    for sealed in &manifest.files {
        let name = &sealed.name;
        let file = match File::open(folder.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Damage::Broken(format!("its file {name} is missing")));
            }
            other => other?,
        };
        let length = file.metadata()?.len();
        if length != sealed.bytes {
            return Err(Damage::Broken(format!(
                "its file {name} has {length} bytes instead of {}",
                sealed.bytes
            )));
        }
        if digest(&file)?.1 != sealed.blake3 {
            return Err(Damage::Broken(format!("its file {name} was changed")));
        }
    }
    Ok(())
}

fn size(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        bytes += entry?.metadata()?.blocks() * 512;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (tempfile::TempDir, Manifest) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("pages.img"), vec![7; 100_000]).unwrap();
        fs::write(folder.path().join("checkpoint.img"), b"state").unwrap();
        let files = measure(folder.path()).unwrap();
        let manifest =
            Manifest { format: FORMAT, engine: "e".to_owned(), root: Root::Host, pids: 5, files };
        write_manifest(folder.path(), &manifest).unwrap();
        (folder, manifest)
    }

    #[test]
    fn what_is_whole_is_accepted() {
        let (folder, manifest) = sample();
        let found = read_manifest(folder.path()).unwrap();
        assert_eq!(found, manifest);
        check_files(folder.path(), &found).unwrap();
    }

    #[test]
    fn a_sealing_that_was_broken_off_is_done_again() {
        let (folder, manifest) = sample();
        File::create(folder.path().join(FILE)).unwrap();
        let again = Manifest { files: measure(folder.path()).unwrap(), ..manifest.clone() };
        assert_eq!(again, manifest);
        write_manifest(folder.path(), &again).unwrap();
        check_files(folder.path(), &read_manifest(folder.path()).unwrap()).unwrap();
    }

    #[test]
    fn every_damage_is_found() {
        for (what, damage) in [
            ("is missing", (|folder| fs::remove_file(folder.join("pages.img"))) as fn(&Path) -> _),
            ("99999 bytes", |folder| {
                File::options().write(true).open(folder.join("pages.img"))?.set_len(99_999)
            }),
            ("was changed", |folder| {
                let mut bytes = fs::read(folder.join("pages.img"))?;
                bytes[50_000] ^= 1;
                fs::write(folder.join("pages.img"), bytes)
            }),
            ("manifest is missing", |folder| fs::remove_file(folder.join(FILE))),
            ("manifest is no manifest", |folder| {
                File::options().write(true).open(folder.join(FILE))?.set_len(50)
            }),
            ("manifest was changed", |folder| {
                let text =
                    fs::read_to_string(folder.join(FILE))?.replace("\"pids\":5", "\"pids\":6");
                fs::write(folder.join(FILE), text)
            }),
        ] {
            let (folder, _) = sample();
            damage(folder.path()).unwrap();
            let found = read_manifest(folder.path())
                .and_then(|manifest| check_files(folder.path(), &manifest));
            let Err(found) = found else { panic!("{what}: accepted") };
            assert!(found.to_string().contains(what), "{found} does not say {what}");
        }
    }
}
