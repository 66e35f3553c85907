//! Source distributions: downloaded by digest, unpacked and changed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use flate2::read::GzDecoder;

use super::libraries;
use super::recipe::{DIRECTORY, Recipe, Replace};
use crate::guests::{clear, copy};
use crate::setup::{GUEST_PYTHON_VERSION, PackageTools};
use crate::{digest, process, workspace};

/// Downloads a source distribution, unpacks it into a directory and changes it.
pub fn unpack(recipe: &Recipe, tools: &PackageTools, dir: &Path) -> Result<()> {
    let archive = download(recipe, tools)?;
    let unpacked = dir.with_extension("unpacked");
    let mut archive = tar::Archive::new(GzDecoder::new(&archive[..]));
    // Build systems that keep objects compare times.
    archive.set_preserve_mtime(false);
    archive.unpack(&unpacked).context("the source distribution cannot be unpacked")?;
    let mut entries = fs::read_dir(&unpacked)?;
    let top = entries.next().context("the source distribution is empty")??;
    ensure!(entries.next().is_none(), "the source distribution has more than one directory");
    fs::rename(top.path(), dir)?;
    fs::remove_dir(&unpacked)?;
    libraries::add(&recipe.crates, dir)?;
    for added in &recipe.add {
        copy(&workspace::root().join(DIRECTORY).join(&added.from), &dir.join(&added.file))?;
    }
    recipe.replace.iter().try_for_each(|change| apply(change, dir))
}

/// Downloads a source distribution, or takes the one that was downloaded before.
fn download(recipe: &Recipe, tools: &PackageTools) -> Result<Vec<u8>> {
    let downloads = workspace::tools().join("downloads");
    let kept = downloads.join(&recipe.sha256);
    if let Ok(archive) = fs::read(&kept)
        && digest::of_bytes(&archive) == recipe.sha256
    {
        return Ok(archive);
    }
    let scratch = downloads.join(format!("{}.unfinished", recipe.name));
    clear(&scratch)?;
    let mut unearth = Command::new(tools.bin.join("unearth"));
    // `pip download` would run the configuration of the package.
    unearth.args(["--no-binary", "--python-version", GUEST_PYTHON_VERSION, "--download"]);
    unearth.arg(&scratch).arg(format!("{}=={}", recipe.name, recipe.version));
    if let Some(index) = tools.index() {
        unearth.args(["--index-url", &index]);
    }
    process::run_quiet(unearth)?;
    let files = digest::files(&scratch)?;
    let [file] = &files[..] else { bail!("unearth downloaded {} files", files.len()) };
    let archive = fs::read(scratch.join(file))?;
    let found = digest::of_bytes(&archive);
    ensure!(
        found == recipe.sha256,
        "the digest of {} is {found}, and the recipe says {}",
        file.display(),
        recipe.sha256
    );
    fs::rename(scratch.join(file), &kept)?;
    fs::remove_dir_all(&scratch)?;
    Ok(archive)
}

/// Replaces a text that occurs exactly once.
fn apply(change: &Replace, dir: &Path) -> Result<()> {
    let path = dir.join(&change.file);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", change.file))?;
    let count = text.matches(&change.old).count();
    ensure!(count == 1, "{} contains this text {count} times: {}", change.file, change.old);
    fs::write(&path, text.replace(&change.old, &change.new))?;
    Ok(())
}

/// Writes the metadata of the package, which `importlib.metadata` reads.
pub fn write_metadata(recipe: &Recipe, source: &Path, files: &Path) -> Result<()> {
    let dir = files.join(format!("{}-{}.dist-info", recipe.name, recipe.version));
    fs::create_dir_all(&dir)?;
    fs::copy(source.join("PKG-INFO"), dir.join("METADATA"))
        .context("the source distribution has no PKG-INFO")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_not_there_exactly_once_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let change = |old: &str| Replace { file: "a.c".into(), old: old.into(), new: "new".into() };
        fs::write(dir.path().join("a.c"), "one two two").unwrap();
        assert!(apply(&change("three"), dir.path()).unwrap_err().to_string().contains("0 times"));
        assert!(apply(&change("two"), dir.path()).unwrap_err().to_string().contains("2 times"));
        apply(&change("one"), dir.path()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a.c")).unwrap(), "new two two");
    }
}
