//! Results that take minutes to compile, kept for the other checkouts of this user: in
//! `isola-xtask/built` in the directory of caches, by the digest of their inputs.
//!
//! Only what is compiled from pinned sources is kept there, so that a fresh checkout gets
//! exactly what it would build. `ISOLA_XTASK_CACHE` names another directory; an empty value
//! turns it off. A cache that cannot be used is no error.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};

/// The level of compression: fast, since it is paid by each build.
const LEVEL: i32 = 3;

/// How long a result is kept after its last use.
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The directory of kept results.
pub struct Kept {
    dir: PathBuf,
}

impl Kept {
    /// Returns the directory of this user, or `None` if there is none.
    pub fn of_user() -> Option<Kept> {
        if let Some(dir) = env::var_os("ISOLA_XTASK_CACHE") {
            return (!dir.is_empty()).then(|| Kept { dir: dir.into() });
        }
        let caches =
            env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
        let caches = caches.or_else(|| env::home_dir().map(|home| home.join(".cache")))?;
        Some(Kept { dir: caches.join("isola-xtask/built") })
    }

    /// Puts a kept result into an empty directory. Returns whether there was one. After a
    /// failure the directory is empty again.
    pub fn restore(&self, digest: &str, to: &Path) -> bool {
        let archive = self.archive(digest);
        let Ok(file) = File::open(&archive) else { return false };
        if let Err(error) = check_private(&self.dir) {
            warn("nothing kept is used", &error);
            return false;
        }
        // Its age is that of its last use.
        let _ = file.set_modified(SystemTime::now());
        match unpack(file, to) {
            Ok(()) => true,
            Err(error) => {
                warn(&format!("{} cannot be read", archive.display()), &error);
                let _ = fs::remove_file(&archive);
                let _ = fs::remove_dir_all(to).and_then(|()| fs::create_dir_all(to));
                false
            }
        }
    }

    /// Keeps the files of a directory.
    pub fn keep(&self, digest: &str, from: &Path) {
        if let Err(error) = self.try_keep(digest, from) {
            warn(&format!("nothing is kept in {}", self.dir.display()), &error);
        }
    }

    fn try_keep(&self, digest: &str, from: &Path) -> Result<()> {
        create_private(&self.dir)?;
        self.remove_old()?;
        // Another process may write the same result.
        let unfinished = self.dir.join(format!("{digest}.{}", std::process::id()));
        let written = pack(from, &unfinished).and_then(|()| {
            fs::rename(&unfinished, self.archive(digest)).context("cannot rename the archive")
        });
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    fn archive(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}.tar.zst"))
    }

    /// Removes what was not used for long, unfinished archives among them.
    fn remove_old(&self) -> Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
            if age > LIFETIME {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Creates a directory that only this user can use: its files become programs.
fn create_private(dir: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    check_private(dir)
}

/// Fails if other users could have put files into a directory.
fn check_private(dir: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(dir)?.permissions().mode();
        ensure!(mode & 0o022 == 0, "other users can write to {}", dir.display());
    }
    Ok(())
}

fn pack(from: &Path, to: &Path) -> Result<()> {
    let file = File::create(to).with_context(|| format!("cannot create {}", to.display()))?;
    let mut compressed = zstd::Encoder::new(file, LEVEL)?;
    compressed.include_checksum(true)?;
    let mut tar = tar::Builder::new(compressed);
    tar.follow_symlinks(false);
    tar.append_dir_all("", from)?;
    tar.into_inner()?.finish()?;
    Ok(())
}

fn unpack(archive: File, to: &Path) -> Result<()> {
    let mut tar = tar::Archive::new(zstd::Decoder::new(archive)?);
    tar.unpack(to)?;
    // The checksum stands behind the last file.
    io::copy(&mut tar.into_inner(), &mut io::sink())?;
    Ok(())
}

fn warn(what: &str, error: &anyhow::Error) {
    eprintln!("    warning: {what}: {error:#}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "0123abcd";

    fn with_a_result() -> (tempfile::TempDir, Kept, PathBuf) {
        let base = tempfile::tempdir().unwrap();
        let kept = Kept { dir: base.path().join("kept") };
        let from = base.path().join("from");
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::write(from.join("sub/file"), "content").unwrap();
        kept.keep(DIGEST, &from);
        let to = base.path().join("to");
        fs::create_dir(&to).unwrap();
        (base, kept, to)
    }

    #[test]
    fn a_result_is_found_by_its_digest() {
        let (_base, kept, to) = with_a_result();
        assert!(!kept.restore("4567", &to));
        assert!(kept.restore(DIGEST, &to));
        assert_eq!(fs::read_to_string(to.join("sub/file")).unwrap(), "content");
    }

    #[test]
    fn a_damaged_result_is_removed() {
        let (_base, kept, to) = with_a_result();
        let archive = kept.archive(DIGEST);
        let mut bytes = fs::read(&archive).unwrap();
        // The checksum at the end.
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&archive, bytes).unwrap();
        assert!(!kept.restore(DIGEST, &to));
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
        assert!(!archive.exists());
    }

    #[test]
    fn what_was_not_used_for_long_is_removed() {
        let (base, kept, to) = with_a_result();
        let archive = File::options().write(true).open(kept.archive(DIGEST)).unwrap();
        archive.set_modified(SystemTime::now() - LIFETIME - LIFETIME).unwrap();
        kept.keep("4567", &base.path().join("from"));
        assert!(!kept.restore(DIGEST, &to));
        assert!(kept.restore("4567", &to));
    }

    #[cfg(unix)]
    #[test]
    fn a_directory_that_others_can_write_to_is_not_used() {
        use std::os::unix::fs::PermissionsExt as _;
        let (base, kept, to) = with_a_result();
        let mode = fs::metadata(&kept.dir).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::set_permissions(&kept.dir, fs::Permissions::from_mode(0o777)).unwrap();
        let error = kept.try_keep("4567", &base.path().join("from")).unwrap_err().to_string();
        assert!(error.starts_with("other users can write to "), "{error}");
        assert!(!kept.restore(DIGEST, &to));
    }
}
