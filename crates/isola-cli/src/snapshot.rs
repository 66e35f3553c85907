//! `isola snapshot`, and the resolution of snapshot names to files.

use std::{
    fs,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use indicatif::BinaryBytes;
use isola::{SnapshotInfo, default_snapshot_dir, list_snapshots, private_dir};
use serde::Serialize;

use crate::{
    failure::Failure,
    screen::{print_json, print_text},
    visible::in_line,
};

const EXTENSION: &str = "snapshot";

#[derive(Serialize)]
struct SnapshotRow<'a> {
    name: String,
    runtime: &'a str,
    /// The version of isola that created it.
    version: &'a str,
    /// Size of the file in bytes.
    size: u64,
    /// Size of the interpreter's memory in bytes.
    memory: u64,
    /// Creation time in seconds since 1970.
    created: u64,
}

/// Returns the path of a snapshot. An argument with a slash or the extension is a
/// path, any other is a name.
fn locate(given: &str) -> Result<PathBuf, Failure> {
    let path = Path::new(given);
    if given.contains(['/', std::path::MAIN_SEPARATOR])
        || path.extension().is_some_and(|extension| extension == EXTENSION)
    {
        return Ok(path.to_owned());
    }
    if given.is_empty() || given.starts_with(['.', '-']) || given.contains(char::is_control) {
        return Err(Failure::usage(format!("not a valid snapshot name: {given:?}"))
            .hint("give a name such as warm, or a path such as ./warm.snapshot"));
    }
    Ok(default_snapshot_dir()?.join(format!("{given}.{EXTENSION}")))
}

/// Returns the path of a snapshot, which must exist.
pub fn existing_path(given: &str) -> Result<PathBuf, Failure> {
    let path = locate(given)?;
    if path.is_file() {
        if let Some(dir) = path.parent().filter(|dir| is_default(dir)) {
            private_dir(dir)?;
        }
        return Ok(path);
    }
    Err(Failure::usage(format!("there is no snapshot {given}"))
        .hint("`isola snapshot ls` lists the named snapshots"))
}

/// Returns the path for a new snapshot. Its directory must exist.
pub fn new_path(given: &str) -> Result<PathBuf, Failure> {
    let path = locate(given)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let Some(dir) = dir else { return Ok(path) };
    if is_default(dir) {
        private_dir(dir)?;
    } else if !dir.is_dir() {
        return Err(Failure::usage(format!("there is no directory {}", dir.display()))
            .hint("create it first, or give a name such as warm"));
    }
    Ok(path)
}

/// Reports whether this is the directory of the named snapshots. It is private to
/// the user: snapshots contain data of guests, and no other user may add one.
fn is_default(dir: &Path) -> bool {
    default_snapshot_dir().is_ok_and(|default| default == dir)
}

/// Prints the named snapshots and their sizes.
pub fn list(json: bool) -> Result<(), Failure> {
    let dir = default_snapshot_dir()?;
    let found = list_snapshots(&dir)?;
    let total = found.iter().fold(0_u64, |total, info| total.saturating_add(info.size));
    let entries: Vec<_> = found.iter().map(SnapshotRow::new).collect();
    if json {
        let listing = serde_json::json!({
            "folder": dir.display().to_string(),
            "total": total,
            "entries": entries,
        });
        return print_json(&listing);
    }
    let mut text = format!("{:>10}  {:>10}  {:<7}  NAME\n", "SIZE", "MEMORY", "RUNTIME");
    for entry in &entries {
        text += &format!(
            "{:>10}  {:>10}  {:<7}  {}\n",
            BinaryBytes(entry.size).to_string(),
            BinaryBytes(entry.memory).to_string(),
            in_line(entry.runtime),
            in_line(&entry.name)
        );
    }
    let dir = dir.display().to_string();
    text += &format!("{:>10}  in {}", BinaryBytes(total).to_string(), in_line(&dir));
    print_text(&text)
}

/// Prints the runtime, version and sizes of a snapshot.
pub fn show(given: &str, json: bool) -> Result<(), Failure> {
    let info = SnapshotInfo::read(existing_path(given)?)
        .map_err(|error| Failure::usage(error.to_string()))?;
    let entry = SnapshotRow::new(&info);
    if json {
        return print_json(&entry);
    }
    print_text(&format!(
        "{}\n  runtime  {}, of isola {}\n  file     {}\n  memory   {}, of which {} changed",
        in_line(&info.path.display().to_string()),
        in_line(entry.runtime),
        in_line(entry.version),
        BinaryBytes(entry.size),
        BinaryBytes(entry.memory),
        BinaryBytes(info.changed_size),
    ))
}

/// Removes snapshots, all or none.
pub fn remove(given: &[String]) -> Result<(), Failure> {
    let paths = given.iter().map(|name| existing_path(name)).collect::<Result<Vec<_>, _>>()?;
    for path in &paths {
        // Only snapshots are removed, and no other files.
        SnapshotInfo::read(path).map_err(|error| Failure::usage(error.to_string()))?;
    }
    for path in paths {
        fs::remove_file(path)
            .map_err(|error| Failure::Io { context: "cannot remove the snapshot", error })?;
    }
    Ok(())
}

impl<'a> SnapshotRow<'a> {
    fn new(info: &'a SnapshotInfo) -> Self {
        let name = info.path.file_stem().unwrap_or(info.path.as_os_str());
        Self {
            name: name.to_string_lossy().into_owned(),
            runtime: &info.runtime,
            version: &info.version,
            size: info.size,
            memory: info.memory_size,
            created: info.created.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        }
    }
}
