//! `isola cache`: lists and removes the compiled runtimes on disk.

use std::{
    io::{self, Write as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use indicatif::BinaryBytes;
use isola::{CacheEntry, clear_cache, default_cache_dir, list_cache};
use serde::Serialize;

use crate::{
    failure::Failure,
    screen::{print_json, print_text},
    visible::in_line,
};

#[derive(Serialize)]
struct Listing<'a> {
    #[serde(rename = "folder")]
    dir: &'a str,
    /// Size of all entries in bytes.
    total: u64,
    entries: Vec<CacheRow>,
}

#[derive(Serialize)]
struct CacheRow {
    file: String,
    /// Size in bytes.
    size: u64,
    /// Modification time in seconds since 1970.
    written: Option<u64>,
}

/// Prints the entries of the cache and their total size.
pub fn list(json: bool) -> Result<(), Failure> {
    let dir = default_cache_dir()?;
    let entries = list_cache(&dir)?;
    let total = entries.iter().fold(0_u64, |total, entry| total.saturating_add(entry.size));
    let dir = dir.display().to_string();
    if json {
        let entries = entries.iter().map(CacheRow::new).collect();
        return print_json(&Listing { dir: &dir, total, entries });
    }
    print_text(&table(&dir, total, &entries))
}

/// Empties the cache.
pub fn clear() -> Result<(), Failure> {
    let dir = default_cache_dir()?;
    let freed = clear_cache(&dir)?;
    // The cache is empty even if this message cannot be written.
    let dir = dir.display().to_string();
    let _ = writeln!(io::stderr(), "removed {} from {}", BinaryBytes(freed), in_line(&dir));
    Ok(())
}

impl CacheRow {
    fn new(entry: &CacheEntry) -> Self {
        Self {
            file: file_name(entry),
            size: entry.size,
            written: entry.modified.and_then(since_1970).map(|time| time.as_secs()),
        }
    }
}

fn table(dir: &str, total: u64, entries: &[CacheEntry]) -> String {
    if entries.is_empty() {
        return format!("no compiled runtimes in {}", in_line(dir));
    }
    let mut text = format!("{:>10}  {:<20}  FILE\n", "SIZE", "WRITTEN");
    for entry in entries {
        let size = BinaryBytes(entry.size).to_string();
        let written = entry.modified.and_then(date).unwrap_or_default();
        text += &format!("{size:>10}  {written:<20}  {}\n", in_line(&file_name(entry)));
    }
    let size = BinaryBytes(total).to_string();
    text + &format!("{size:>10}  in {}", in_line(dir))
}

/// Formats a time. Returns `None` for a time outside the years 1970 to 9999: the
/// modification time of a file may be set to any value.
fn date(time: SystemTime) -> Option<String> {
    /// The end of the year 9999, in seconds since 1970.
    const MAX: Duration = Duration::from_secs(253_402_300_799);
    let shown = since_1970(time).filter(|since| *since <= MAX);
    shown.map(|_| humantime::format_rfc3339_seconds(time).to_string())
}

fn since_1970(time: SystemTime) -> Option<Duration> {
    time.duration_since(UNIX_EPOCH).ok()
}

fn file_name(entry: &CacheEntry) -> String {
    entry.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_without_a_date_are_omitted() {
        let at = |seconds: u64| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap();
        assert_eq!(date(at(0)).unwrap(), "1970-01-01T00:00:00Z");
        assert_eq!(date(at(253_402_300_799)).unwrap(), "9999-12-31T23:59:59Z");
        assert_eq!(date(at(253_402_300_800)), None);
        assert_eq!(date(at(1 << 62)), None);
        let before = UNIX_EPOCH.checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!(date(before), None);
    }
}
