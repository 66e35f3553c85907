//! Checkpoints on disk, with a signed manifest of their content and owner.
//!
//! Beside the engine's files is `manifest.json`: the root file system of the sandbox,
//! the fingerprint of the engine, the length and digest of each file, and the owner
//! (a run or a snapshot of a tenant); and a signature of all that with the server's
//! secret. It is verified before a restore. A checkpoint that is damaged, was made
//! by another server, belongs to another run or tenant, or is not the latest one is
//! refused as damaged; one of another engine as incompatible.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::task::spawn_blocking;

#[cfg(any(test, feature = "fuzzing"))]
pub use self::fuzzing::fuzz_manifests;
use super::{
    engines::{Engines, SandboxBase},
    error::{Error, ErrorKind},
};
use crate::{clock, secret::Secret};

const MANIFEST_FILE: &str = "manifest.json";
/// The version of the manifest's format. Version 1 was not signed.
const MANIFEST_FORMAT: u32 = 2;
/// The largest manifest that is read, in bytes.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// The maximum number of files in a checkpoint; the engine writes four.
const MAX_FILES: usize = 1000;

/// The content and owner of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    owner: Owner,
    /// The time of its creation, in milliseconds since 1970.
    created_at: i64,
    /// The engine's fingerprint.
    engine: String,
    pub root: SandboxBase,
    pub pids: u32,
    files: Vec<FileDigest>,
}

/// The owner of an archive, which is restored for no other owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub kind: Kind,
    /// The id of the hibernated run, or of the snapshot.
    pub id: String,
    pub tenant: String,
    /// The number of the hibernation: an earlier one is not restored. 0 for
    /// snapshots, which do not change.
    pub generation: u64,
}

/// The purpose of an archive.
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

/// The length and digest of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileDigest {
    name: String,
    bytes: u64,
    blake3: String,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    /// The HMAC of the manifest's text.
    #[serde(default)]
    signature: Option<String>,
    /// The digest in manifests of format 1, which were not signed.
    #[serde(default, skip_serializing)]
    blake3: Option<String>,
    manifest: Box<RawValue>,
}

/// The reason why an archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("{0}")]
    Damaged(String),
    #[error("it was made by {found}, and this is {expected}")]
    Incompatible { found: String, expected: String },
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Writes and reads archives.
pub struct Archives {
    engines: Arc<Engines>,
    secret: Secret,
}

impl Archives {
    pub fn new(engines: Arc<Engines>, secret: Secret) -> Self {
        Self { engines, secret }
    }

    /// Signs the files that the engine has written to `draft`, and renames it to `target`.
    /// Returns the disk space of the archive, in bytes.
    pub async fn publish(
        &self,
        owner: Owner,
        draft: &Path,
        target: PathBuf,
        root: SandboxBase,
        pids: u32,
    ) -> Result<u64, Error> {
        let engine = self.fingerprint(&root)?;
        let (draft, secret) = (draft.to_owned(), self.secret.clone());
        let published = spawn_blocking(move || {
            let files = digest_files(&draft)?;
            let created_at = clock::now_ms();
            let manifest =
                Manifest { format: MANIFEST_FORMAT, owner, created_at, engine, root, pids, files };
            write_manifest(&draft, &manifest, &secret)?;
            publish_dir(&draft, &target)
        });
        let bytes =
            published.await.map_err(|error| Error::internal("cannot sign a checkpoint", error))?;
        bytes.map_err(|error| Error::internal("cannot write a checkpoint to the disk", error))
    }

    /// Reads the manifest of an archive. Fails unless it belongs to this owner and was made
    /// by the same engine. The files are checked by [`Self::verify`].
    pub async fn read(&self, owner: Owner, dir: &Path) -> Result<Manifest, Error> {
        let (dir, secret) = (dir.to_owned(), self.secret.clone());
        let manifest = spawn_blocking(move || read_manifest(&dir, &owner, &secret))
            .await
            .map_err(|error| Error::internal("cannot read a manifest", error))?
            .map_err(Error::from)?;
        let expected = self.fingerprint(&manifest.root)?;
        if manifest.engine != expected {
            return Err(ArchiveError::Incompatible { found: manifest.engine, expected }.into());
        }
        Ok(manifest)
    }

    /// Reports whether an archive is of an earlier generation of its owner.
    pub async fn is_outdated(&self, owner: Owner, dir: &Path) -> Result<bool, Error> {
        let (dir, secret) = (dir.to_owned(), self.secret.clone());
        let reading = spawn_blocking(move || {
            load_manifest(&dir, &secret).is_ok_and(|manifest| {
                let generation = manifest.owner.generation;
                generation < owner.generation && manifest.owner == Owner { generation, ..owner }
            })
        });
        reading.await.map_err(|error| Error::internal("cannot read a manifest", error))
    }

    fn fingerprint(&self, base: &SandboxBase) -> Result<String, Error> {
        let fingerprint = self.engines.fingerprint(base);
        fingerprint.map_err(|error| Error::engine("cannot use a checkpoint", error))
    }

    /// Checks the length and digest of every file of an archive.
    pub async fn verify(dir: &Path, manifest: &Manifest) -> Result<(), Error> {
        let (dir, manifest) = (dir.to_owned(), manifest.clone());
        spawn_blocking(move || verify_files(&dir, &manifest))
            .await
            .map_err(|error| Error::internal("cannot check a checkpoint", error))?
            .map_err(Error::from)
    }

    /// Creates an archive of another owner from hard links to the same files, which takes
    /// no more disk space.
    pub async fn link(
        &self,
        from: (Owner, PathBuf),
        owner: Owner,
        draft: PathBuf,
        target: PathBuf,
    ) -> Result<u64, Error> {
        let secret = self.secret.clone();
        let linked = spawn_blocking(move || {
            let (from_owner, from) = from;
            let manifest = read_manifest(&from, &from_owner, &secret)?;
            for file in &manifest.files {
                fs::hard_link(from.join(&file.name), draft.join(&file.name))?;
            }
            write_manifest(&draft, &Manifest { owner, ..manifest }, &secret)?;
            Ok::<_, ArchiveError>(publish_dir(&draft, &target)?)
        });
        let bytes = linked.await.map_err(|error| Error::internal("cannot link", error))?;
        bytes.map_err(|error| match error {
            ArchiveError::Io(error) => Error::internal("cannot copy a checkpoint", error),
            error => error.into(),
        })
    }
}

/// Renames a complete directory to its final name. Returns its disk space, in bytes.
fn publish_dir(draft: &Path, target: &Path) -> io::Result<u64> {
    fs::set_permissions(draft, Permissions::from_mode(0o700))?;
    let bytes = disk_usage(draft)?;
    File::open(draft)?.sync_all()?;
    fs::rename(draft, target)?;
    if let Some(parent) = target.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(bytes)
}

impl From<ArchiveError> for Error {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Incompatible { .. } => Self::new(
                ErrorKind::SnapshotIncompatible,
                format!(
                    "this checkpoint cannot be restored here: {error}. Restore it with the \
                     version that made it, or create a new one"
                ),
            ),
            ArchiveError::Damaged(_) | ArchiveError::Io(_) => {
                tracing::error!(%error, "a checkpoint is damaged");
                Self::new(
                    ErrorKind::SnapshotDamaged,
                    format!("this checkpoint is damaged and was not restored: {error}"),
                )
            }
        }
    }
}

/// Makes the files of a checkpoint private to the server's user, and returns their digests.
fn digest_files(dir: &Path) -> io::Result<Vec<FileDigest>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().into_string();
        let name =
            name.map_err(|_| io::Error::other("the name of a checkpoint's file is not UTF-8"))?;
        // Left by a server that was killed while writing it: it is written again.
        if name == MANIFEST_FILE {
            continue;
        }
        if files.len() >= MAX_FILES {
            let message = format!("a checkpoint has more than {MAX_FILES} files");
            return Err(io::Error::other(message));
        }
        let file = open_regular(&entry.path())?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        let (bytes, blake3) = digest(&file)?;
        file.sync_all()?;
        files.push(FileDigest { name, bytes, blake3 });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Opens a regular file. Follows no symbolic link, and does not block on a FIFO.
fn open_regular(path: &Path) -> io::Result<File> {
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

fn write_manifest(dir: &Path, manifest: &Manifest, secret: &Secret) -> io::Result<()> {
    let bytes = sign(serde_json::to_string(manifest)?, secret)?;
    let path = dir.join(MANIFEST_FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&bytes)?;
    file.sync_all()
}

/// Returns the content of `manifest.json`: a manifest's text with its signature.
fn sign(text: String, secret: &Secret) -> io::Result<Vec<u8>> {
    let manifest = RawValue::from_string(text)?;
    let signature = Some(secret.sign_checkpoint(manifest.get()));
    Ok(serde_json::to_vec(&Envelope { signature, blake3: None, manifest })?)
}

fn load_manifest(dir: &Path, secret: &Secret) -> Result<Manifest, ArchiveError> {
    let damaged = |what: &str| ArchiveError::Damaged(format!("its manifest {what}"));
    if !fs::symlink_metadata(dir).is_ok_and(|found| found.is_dir()) {
        return Err(ArchiveError::Damaged("its directory is missing".to_owned()));
    }
    let file = match open_regular(&dir.join(MANIFEST_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged("is missing")),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(damaged(&format!("has more than {MAX_MANIFEST_BYTES} bytes")));
    }
    parse_manifest(&bytes, secret)
}

fn read_manifest(dir: &Path, owner: &Owner, secret: &Secret) -> Result<Manifest, ArchiveError> {
    let manifest = load_manifest(dir, secret)?;
    if manifest.owner != *owner {
        tracing::error!(found = ?manifest.owner, wanted = ?owner, "a checkpoint of another owner");
        let what = match (&manifest.owner, owner) {
            (Owner { generation: found, .. }, Owner { generation: expected, .. })
                if found != expected
                    && manifest.owner == (Owner { generation: *found, ..owner.clone() }) =>
            {
                "is not the latest one of this run"
            }
            _ => "belongs to another run, snapshot or tenant",
        };
        return Err(ArchiveError::Damaged(format!("its manifest {what}")));
    }
    Ok(manifest)
}

/// Parses the content of `manifest.json`, and verifies its signature.
pub fn parse_manifest(bytes: &[u8], secret: &Secret) -> Result<Manifest, ArchiveError> {
    let damaged = |what: &str| ArchiveError::Damaged(format!("its manifest {what}"));
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(|_| damaged("is not valid"))?;
    let text = envelope.manifest.get();
    let Some(signature) = envelope.signature else {
        return Err(match envelope.blake3 {
            Some(_) => ArchiveError::Incompatible {
                found: "an earlier version of isorun, which did not sign checkpoints".to_owned(),
                expected: format!(
                    "one that restores only what it has signed (format {MANIFEST_FORMAT})"
                ),
            },
            None => damaged("has no signature"),
        });
    };
    if !secret.verify_checkpoint(text, &signature) {
        return Err(damaged("was changed, or was made by another server"));
    }
    #[derive(Deserialize)]
    struct FormatOnly {
        format: u32,
    }
    let FormatOnly { format } = serde_json::from_str(text).map_err(|_| damaged("is not valid"))?;
    if format != MANIFEST_FORMAT {
        return Err(ArchiveError::Incompatible {
            found: format!("another version of isorun (format {format})"),
            expected: format!("one that reads format {MANIFEST_FORMAT}"),
        });
    }
    let manifest: Manifest = serde_json::from_str(text).map_err(|_| damaged("is not valid"))?;
    let is_plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    if manifest.files.len() > MAX_FILES || !manifest.files.iter().all(|file| is_plain(&file.name)) {
        return Err(damaged("has too many files or invalid file names"));
    }
    Ok(manifest)
}

fn verify_files(dir: &Path, manifest: &Manifest) -> Result<(), ArchiveError> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if name != MANIFEST_FILE && !manifest.files.iter().any(|file| name == *file.name) {
            return Err(ArchiveError::Damaged(format!("the file {name:?} does not belong to it")));
        }
    }
    for recorded in &manifest.files {
        let name = &recorded.name;
        let file = match open_regular(&dir.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ArchiveError::Damaged(format!("its file {name} is missing")));
            }
            other => other?,
        };
        let length = file.metadata()?.len();
        if length != recorded.bytes {
            return Err(ArchiveError::Damaged(format!(
                "its file {name} has {length} bytes instead of {}",
                recorded.bytes
            )));
        }
        if digest(&file)?.1 != recorded.blake3 {
            return Err(ArchiveError::Damaged(format!("its file {name} was changed")));
        }
    }
    Ok(())
}

fn disk_usage(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        bytes += entry?.metadata()?.blocks() * 512;
    }
    Ok(bytes)
}

#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
#[cfg(test)]
mod tests;
