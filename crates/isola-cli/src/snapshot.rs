//! `isola snapshot`, and what a snapshot is called on the command line.

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
    screen::{say, say_json},
    visible::in_line,
};

const ENDING: &str = "snapshot";

#[derive(Serialize)]
struct Entry<'a> {
    name: String,
    runtime: &'a str,
    /// The version of isola that made it.
    version: &'a str,
    /// The file, in bytes.
    size: u64,
    /// The interpreter's memory, in bytes.
    memory: u64,
    /// Seconds since 1970.
    created: u64,
}

/// The file that is meant. What has a slash or the ending is a path, and
/// anything else a name.
fn locate(given: &str) -> Result<PathBuf, Failure> {
    let path = Path::new(given);
    if given.contains(['/', std::path::MAIN_SEPARATOR])
        || path.extension().is_some_and(|ending| ending == ENDING)
    {
        return Ok(path.to_owned());
    }
    if given.is_empty() || given.starts_with(['.', '-']) || given.contains(char::is_control) {
        return Err(Failure::usage(format!("{given:?} is no name of a snapshot"))
            .hint("give a name such as warm, or a path such as ./warm.snapshot"));
    }
    Ok(default_snapshot_dir()?.join(format!("{given}.{ENDING}")))
}

/// A snapshot that has to be there.
pub fn existing(given: &str) -> Result<PathBuf, Failure> {
    let path = locate(given)?;
    if path.is_file() {
        if let Some(folder) = path.parent().filter(|folder| is_default(folder)) {
            private_dir(folder)?;
        }
        return Ok(path);
    }
    Err(Failure::usage(format!("there is no snapshot {given}"))
        .hint("isola snapshot ls lists those that have a name"))
}

/// A place for a snapshot.
pub fn new(given: &str) -> Result<PathBuf, Failure> {
    let path = locate(given)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let Some(folder) = folder else { return Ok(path) };
    if is_default(folder) {
        private_dir(folder)?;
    } else if !folder.is_dir() {
        return Err(Failure::usage(format!("there is no folder {}", folder.display()))
            .hint("make it first, or give a name such as warm"));
    }
    Ok(path)
}

/// Whether this is the folder of the snapshots that have a name. They hold what
/// guests know, and nobody else is to put one there.
fn is_default(folder: &Path) -> bool {
    default_snapshot_dir().is_ok_and(|default| default == folder)
}

/// Prints the snapshots that have a name.
pub fn list(json: bool) -> Result<(), Failure> {
    let folder = default_snapshot_dir()?;
    let found = list_snapshots(&folder)?;
    let total = found.iter().fold(0_u64, |total, info| total.saturating_add(info.size));
    let entries: Vec<_> = found.iter().map(Entry::new).collect();
    if json {
        let listing = serde_json::json!({
            "folder": folder.display().to_string(),
            "total": total,
            "entries": entries,
        });
        return say_json(&listing);
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
    let folder = folder.display().to_string();
    text += &format!("{:>10}  in {}", BinaryBytes(total).to_string(), in_line(&folder));
    say(&text)
}

/// Prints what a snapshot is of.
pub fn show(given: &str, json: bool) -> Result<(), Failure> {
    let info =
        SnapshotInfo::read(existing(given)?).map_err(|error| Failure::usage(error.to_string()))?;
    let entry = Entry::new(&info);
    if json {
        return say_json(&entry);
    }
    say(&format!(
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
    let paths = given.iter().map(|name| existing(name)).collect::<Result<Vec<_>, _>>()?;
    for path in &paths {
        // Whatever else the file is, it is not ours to remove.
        SnapshotInfo::read(path).map_err(|error| Failure::usage(error.to_string()))?;
    }
    for path in paths {
        fs::remove_file(path)
            .map_err(|error| Failure::Io { doing: "cannot remove the snapshot", error })?;
    }
    Ok(())
}

impl<'a> Entry<'a> {
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
