//! Archives of runtimes: files and folders, and nothing that leads out.

use std::{
    fs::{self, File},
    io,
    path::{Component, Path},
};

use flate2::read::GzDecoder;
use tar::{Archive, EntryType};

/// An archive may hold this much.
const MAX_UNPACKED: u64 = 2 << 30;

/// Unpacks an archive into a folder that is empty. The error says what is wrong
/// with the archive, or with the disk.
pub(super) fn unpack(archive: &Path, folder: &Path) -> Result<(), String> {
    let file = File::open(archive).map_err(|error| format!("it cannot be read: {error}"))?;
    let mut archive = Archive::new(GzDecoder::new(io::BufReader::new(file)));
    let damaged = |error: io::Error| format!("it is damaged: {error}");
    let mut left = MAX_UNPACKED;
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let path = entry.path().map_err(damaged)?.into_owned();
        let shown = path.display();
        // Not even one that is within: nobody has to look where it leads.
        let is_plain =
            path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !is_plain {
            return Err(format!("its entry {shown} leads out of its folder"));
        }
        let target = folder.join(&path);
        match entry.header().entry_type() {
            EntryType::Directory => {
                fs::create_dir_all(&target).map_err(|error| format!("{shown}: {error}"))?;
            }
            EntryType::Regular => {
                left = left
                    .checked_sub(entry.size())
                    .ok_or_else(|| format!("it unpacks to more than {MAX_UNPACKED} bytes"))?;
                if let Some(parent) = target.parent() {
                    fs::create_dir_all(parent).map_err(|error| format!("{shown}: {error}"))?;
                }
                // `create_new`: an entry that comes twice is no honest archive.
                let mut file = File::options()
                    .write(true)
                    .create_new(true)
                    .open(&target)
                    .map_err(|error| format!("{shown}: {error}"))?;
                io::copy(&mut entry, &mut file).map_err(|error| format!("{shown}: {error}"))?;
                file.sync_all().map_err(|error| format!("{shown}: {error}"))?;
            }
            EntryType::XGlobalHeader => {}
            _ => return Err(format!("its entry {shown} is neither a file nor a folder")),
        }
    }
    Ok(())
}
