//! A checkpoint on disk that proves that it is whole, and whose it is.
//!
//! Beside the engine's files lies `manifest.json`: what the sandbox was made of,
//! under which engine, the length and digest of each file, and which run or
//! snapshot of which tenant it is; and a signature of all that with the server's
//! secret. Whoever restores checks it first. One that is damaged, was made
//! elsewhere, belongs to another run or tenant, or was followed by a later one
//! is refused as damaged; one of another engine as that.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use isorun_engine::Root;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::task::spawn_blocking;

#[cfg(any(test, feature = "fuzzing"))]
pub use self::fuzzing::fuzz_manifests;
use crate::{
    clock,
    secret::Secret,
    server::{ApiError, App, Code},
};

const FILE: &str = "manifest.json";
/// The version of the manifest. In the first one it was not signed.
const FORMAT: u32 = 2;
/// Bytes of a manifest that are read.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// Files of a checkpoint; the engine writes four.
const MAX_FILES: usize = 1000;

/// What an archive says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    owner: Owner,
    /// When it was made, in milliseconds since 1970.
    created_at: i64,
    /// The engine's fingerprint.
    engine: String,
    pub root: Root,
    pub pids: u32,
    files: Vec<Sealed>,
}

/// Whose an archive is: it is restored as nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub kind: Kind,
    /// Of the run that hibernates, or of the snapshot.
    pub id: String,
    pub tenant: String,
    /// Of what the run has on disk: an earlier one is not restored. 0 for
    /// snapshots, which do not change.
    pub generation: u64,
}

/// What an archive is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Hibernation,
    Snapshot,
}

impl Owner {
    pub fn snapshot(id: &str, tenant: &str) -> Self {
        let (id, tenant) = (id.to_owned(), tenant.to_owned());
        Self { kind: Kind::Snapshot, id, tenant, generation: 0 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sealed {
    name: String,
    bytes: u64,
    blake3: String,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    /// The HMAC of the manifest's text.
    #[serde(default)]
    signature: Option<String>,
    /// What stood here before manifests were signed.
    #[serde(default, skip_serializing)]
    blake3: Option<String>,
    manifest: Box<RawValue>,
}

/// Why an archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("{0}")]
    Broken(String),
    #[error("it was made by {then}, and this is {now}")]
    Foreign { then: String, now: String },
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Signs what the engine has put into a folder, and gives the folder its final
/// name. Returns what it takes on disk.
pub async fn seal(
    app: &App,
    owner: Owner,
    draft: &Path,
    place: PathBuf,
    root: Root,
    pids: u32,
) -> Result<u64, ApiError> {
    let engine = app.engine.fingerprint(&root);
    let (draft, secret) = (draft.to_owned(), app.secret.clone());
    let sealed = spawn_blocking(move || {
        let files = measure(&draft)?;
        let created_at = clock::now_ms();
        let manifest = Manifest { format: FORMAT, owner, created_at, engine, root, pids, files };
        write_manifest(&draft, &manifest, &secret)?;
        place_folder(&draft, &place)
    });
    let bytes = sealed.await.map_err(|error| ApiError::internal("cannot seal", error))?;
    bytes.map_err(|error| ApiError::internal("cannot write a checkpoint to the disk", error))
}

/// Reads what an archive says, if it is this owner's and can be restored by this
/// engine as far as that says. Its files are checked by [`check`].
pub async fn read(app: &App, owner: Owner, folder: &Path) -> Result<Manifest, ApiError> {
    let (place, secret) = (folder.to_owned(), app.secret.clone());
    let manifest = spawn_blocking(move || read_manifest(&place, &owner, &secret))
        .await
        .map_err(|error| ApiError::internal("cannot read a manifest", error))?
        .map_err(refusal)?;
    let now = app.engine.fingerprint(&manifest.root);
    if manifest.engine != now {
        return Err(refusal(Damage::Foreign { then: manifest.engine, now }));
    }
    Ok(manifest)
}

/// Checks that every byte of an archive is what it was.
pub async fn check(folder: &Path, manifest: &Manifest) -> Result<(), ApiError> {
    let (folder, manifest) = (folder.to_owned(), manifest.clone());
    spawn_blocking(move || check_files(&folder, &manifest))
        .await
        .map_err(|error| ApiError::internal("cannot check a checkpoint", error))?
        .map_err(refusal)
}

/// Makes an archive of another owner from the same files, which takes no more
/// room.
pub async fn link(
    app: &App,
    from: (Owner, PathBuf),
    owner: Owner,
    draft: PathBuf,
    place: PathBuf,
) -> Result<u64, ApiError> {
    let secret = app.secret.clone();
    let linked = spawn_blocking(move || {
        let (from_owner, from) = from;
        let manifest = read_manifest(&from, &from_owner, &secret)?;
        for file in &manifest.files {
            fs::hard_link(from.join(&file.name), draft.join(&file.name))?;
        }
        write_manifest(&draft, &Manifest { owner, ..manifest }, &secret)?;
        Ok::<_, Damage>(place_folder(&draft, &place)?)
    });
    let bytes = linked.await.map_err(|error| ApiError::internal("cannot link", error))?;
    bytes.map_err(|damage| match damage {
        Damage::Io(error) => ApiError::internal("cannot copy a checkpoint", error),
        damage => refusal(damage),
    })
}

/// Gives a folder that is complete its final name. Returns what it takes on disk.
fn place_folder(draft: &Path, place: &Path) -> io::Result<u64> {
    fs::set_permissions(draft, Permissions::from_mode(0o700))?;
    let bytes = size(draft)?;
    File::open(draft)?.sync_all()?;
    fs::rename(draft, place)?;
    if let Some(above) = place.parent() {
        File::open(above)?.sync_all()?;
    }
    Ok(bytes)
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

/// Closes the files of a checkpoint to other users, and takes their digests.
fn measure(folder: &Path) -> io::Result<Vec<Sealed>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().into_string();
        let name =
            name.map_err(|_| io::Error::other("a file of a checkpoint has a strange name"))?;
        // Of a server that was killed while it wrote it: it is written anew.
        if name == FILE {
            continue;
        }
        if files.len() >= MAX_FILES {
            return Err(io::Error::other("a checkpoint of too many files"));
        }
        let file = open_plain(&entry.path())?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        let (bytes, blake3) = digest(&file)?;
        file.sync_all()?;
        files.push(Sealed { name, bytes, blake3 });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Opens a regular file, and nothing that a link leads to or that one would wait
/// for.
fn open_plain(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

fn digest(file: &File) -> io::Result<(u64, String)> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok((hasher.count(), hasher.finalize().to_hex().to_string()))
}

fn write_manifest(folder: &Path, manifest: &Manifest, secret: &Secret) -> io::Result<()> {
    let bytes = sign(serde_json::to_string(manifest)?, secret)?;
    let path = folder.join(FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&bytes)?;
    file.sync_all()
}

/// Writes the bytes of `manifest.json`: a manifest's text with its signature.
fn sign(text: String, secret: &Secret) -> io::Result<Vec<u8>> {
    let manifest = RawValue::from_string(text)?;
    let signature = Some(secret.sign_checkpoint(manifest.get()));
    Ok(serde_json::to_vec(&Envelope { signature, blake3: None, manifest })?)
}

fn read_manifest(folder: &Path, owner: &Owner, secret: &Secret) -> Result<Manifest, Damage> {
    let broken = |what: &str| Damage::Broken(format!("its manifest {what}"));
    if !fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir()) {
        return Err(Damage::Broken("its folder is missing".to_owned()));
    }
    let file = match open_plain(&folder.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(broken("is missing")),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(broken(&format!("has more than {MAX_MANIFEST_BYTES} bytes")));
    }
    let manifest = parse_manifest(&bytes, secret)?;
    if manifest.owner != *owner {
        tracing::error!(found = ?manifest.owner, wanted = ?owner, "a checkpoint in a wrong place");
        let what = match (&manifest.owner, owner) {
            (Owner { generation: then, .. }, Owner { generation: now, .. })
                if then != now
                    && manifest.owner == (Owner { generation: *then, ..owner.clone() }) =>
            {
                "is not the latest one of this run"
            }
            _ => "belongs to another run, snapshot or tenant",
        };
        return Err(broken(what));
    }
    Ok(manifest)
}

/// Reads the bytes of `manifest.json`, and checks their signature.
pub fn parse_manifest(bytes: &[u8], secret: &Secret) -> Result<Manifest, Damage> {
    let broken = |what: &str| Damage::Broken(format!("its manifest {what}"));
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(|_| broken("is no manifest"))?;
    let text = envelope.manifest.get();
    let Some(signature) = envelope.signature else {
        return Err(match envelope.blake3 {
            Some(_) => Damage::Foreign {
                then: "an earlier version of isorun, which did not sign checkpoints".to_owned(),
                now: format!("one that restores only what it has signed (format {FORMAT})"),
            },
            None => broken("has no signature"),
        });
    };
    if !secret.signed_checkpoint(text, &signature) {
        return Err(broken("was changed, or was made by another server"));
    }
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = serde_json::from_str(text).map_err(|_| broken("is no manifest"))?;
    if format != FORMAT {
        return Err(Damage::Foreign {
            then: format!("another version of isorun (format {format})"),
            now: format!("one that knows format {FORMAT}"),
        });
    }
    let manifest: Manifest = serde_json::from_str(text).map_err(|_| broken("is no manifest"))?;
    let plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    if manifest.files.len() > MAX_FILES || !manifest.files.iter().all(|file| plain(&file.name)) {
        return Err(broken("names files that cannot be"));
    }
    Ok(manifest)
}

fn check_files(folder: &Path, manifest: &Manifest) -> Result<(), Damage> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if name != FILE && !manifest.files.iter().any(|file| name == *file.name) {
            return Err(Damage::Broken(format!("the file {name:?} does not belong to it")));
        }
    }
    for sealed in &manifest.files {
        let name = &sealed.name;
        let file = match open_plain(&folder.join(name)) {
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

#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
#[cfg(test)]
mod tests;
