//! `isola cache`: what the library keeps on disk.

use std::{
    io::{self, Write as _},
    time::{SystemTime, UNIX_EPOCH},
};

use indicatif::BinaryBytes;
use isola::{CacheEntry, clear_cache, default_cache_dir, list_cache};
use serde::Serialize;

use crate::failure::Failure;

#[derive(Serialize)]
struct Listing<'a> {
    folder: &'a str,
    /// In bytes.
    total: u64,
    entries: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    file: String,
    size: u64,
    /// Seconds since 1970.
    written: Option<u64>,
}

/// Prints the entries of the cache and their total.
pub fn list(json: bool) -> Result<(), Failure> {
    let folder = default_cache_dir()?;
    let entries = list_cache(&folder)?;
    let total = entries.iter().map(|entry| entry.size).sum();
    let folder = folder.display().to_string();
    let text = if json {
        let entries = entries.iter().map(Entry::new).collect();
        serde_json::to_string(&Listing { folder: &folder, total, entries })
            .map_err(|error| Failure::output(io::Error::other(error)))?
    } else {
        table(&folder, total, &entries)
    };
    writeln!(io::stdout(), "{text}").map_err(Failure::output)
}

/// Empties the cache.
pub fn clear() -> Result<(), Failure> {
    let folder = default_cache_dir()?;
    let freed = clear_cache(&folder)?;
    // Nobody has to read this for the cache to be empty.
    let _ = writeln!(io::stderr(), "removed {} from {}", BinaryBytes(freed), folder.display());
    Ok(())
}

impl Entry {
    fn new(entry: &CacheEntry) -> Self {
        let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).ok();
        Self {
            file: file_name(entry),
            size: entry.size,
            written: entry.modified.and_then(since).map(|time| time.as_secs()),
        }
    }
}

fn table(folder: &str, total: u64, entries: &[CacheEntry]) -> String {
    if entries.is_empty() {
        return format!("nothing in {folder}");
    }
    let mut text = format!("{:>10}  {:<20}  FILE\n", "SIZE", "WRITTEN");
    for entry in entries {
        let size = BinaryBytes(entry.size).to_string();
        let written = entry
            .modified
            .map_or_else(String::new, |time| humantime::format_rfc3339_seconds(time).to_string());
        text += &format!("{size:>10}  {written:<20}  {}\n", file_name(entry));
    }
    let size = BinaryBytes(total).to_string();
    text + &format!("{size:>10}  in {folder}")
}

fn file_name(entry: &CacheEntry) -> String {
    entry.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
