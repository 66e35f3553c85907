//! Replaces the standard library in the builder of the Python guest.
//!
//! `componentize-py` contains the library of the interpreter that it contains, as a
//! compressed archive in its own program, and has no option for another one. The library
//! must be replaced there: the interpreter imports a part of it before the guest's own
//! code runs, and a second copy of those modules would not fit to the first.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use zstd::zstd_safe;

use crate::digest::{self, Inputs};
use crate::python_library::Library;
use crate::{setup, stamp, workspace};

/// The start of a compressed archive.
const FRAME: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The start of a frame that a decompressor skips. Its length follows.
const SKIPPED_FRAME: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
const LEVEL: i32 = 15;

/// A module that every standard library has, and nothing else in the builder.
const SIGN: &str = "encodings/__init__.py";

/// Parts of the builder's library that no script in a sandbox can use, without which the
/// new library fits into the place of the old one.
const EXCLUDED: [&str; 5] = ["ensurepip", "idlelib", "tkinter", "turtledemo", "site-packages"];

/// Installs a copy of the builder with another library. Returns the directory of its
/// Python package, and a digest of its inputs.
pub fn install(builder: &setup::PythonBuilder, library: &Library) -> Result<(PathBuf, String)> {
    let dir = workspace::tools().join("python-builder");
    let digest = Inputs::default()
        .text("builder", &builder.digest)
        .text("version", &library.version)
        .text("replacement", include_str!("builder_library.rs"))
        .tree(&library.dir)?
        .finish();
    stamp::install("the builder with the newer library", &dir, &digest, || {
        let package = dir.join("componentize_py");
        super::copy(&builder.package, &package)?;
        let program = package.join("componentize_py.abi3.so");
        let new = replace(&fs::read(&program)?, library)
            .with_context(|| format!("cannot replace the library in {}", program.display()))?;
        fs::write(&program, new)?;
        Ok(())
    })?;
    Ok((dir, digest))
}

/// Replaces the library in a program.
fn replace(program: &[u8], library: &Library) -> Result<Vec<u8>> {
    let (at, length, old) = find(program)?;
    let mut new = zstd::encode_all(Cursor::new(merge(&old, library)?), LEVEL)?;
    ensure!(new.len() <= length, "it is {} bytes too large", new.len() - length);
    let rest = length - new.len();
    if rest > 0 {
        let skipped = rest.checked_sub(8).context("the frame that fills the rest is too small")?;
        new.extend(SKIPPED_FRAME);
        new.extend(u32::try_from(skipped)?.to_le_bytes());
        new.resize(length, 0);
    }
    let mut changed = program.to_vec();
    changed[at..at + length].copy_from_slice(&new);
    Ok(changed)
}

/// Returns a file of the library in a program.
pub fn file(program: &[u8], name: &str) -> Result<Vec<u8>> {
    let (_, _, archive) = find(program)?;
    for entry in tar::Archive::new(archive.as_slice()).entries()? {
        let mut entry = entry?;
        if entry.path()? == Path::new(name) {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            return Ok(content);
        }
    }
    anyhow::bail!("the builder's library contains no {name}")
}

/// Finds the compressed library in a program: its position, its length and the archive.
fn find(program: &[u8]) -> Result<(usize, usize, Vec<u8>)> {
    let mut found = Vec::new();
    for at in (0..program.len() - FRAME.len()).filter(|at| program[*at..].starts_with(&FRAME)) {
        let Ok(length) = zstd_safe::find_frame_compressed_size(&program[at..]) else { continue };
        let mut archive = Vec::new();
        let frame = Cursor::new(&program[at..at + length]);
        if zstd::Decoder::new(frame)?.read_to_end(&mut archive).is_ok() && contains(&archive, SIGN)
        {
            found.push((at, length, archive));
        }
    }
    ensure!(found.len() == 1, "it contains {} libraries instead of one", found.len());
    found.pop().context("no library")
}

/// Reports whether an archive contains a file.
fn contains(archive: &[u8], name: &str) -> bool {
    let mut archive = tar::Archive::new(archive);
    let Ok(mut entries) = archive.entries() else { return false };
    entries.any(|entry| {
        entry.is_ok_and(|entry| entry.path().is_ok_and(|path| path == Path::new(name)))
    })
}

/// Creates an archive of the old library in which the files of the new one replace those
/// of the same names.
fn merge(old: &[u8], library: &Library) -> Result<Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(old).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let first = path.iter().next().unwrap_or_default();
        if entry.header().entry_type().is_file() && !EXCLUDED.iter().any(|name| first == *name) {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            files.insert(path, content);
        }
    }
    for path in digest::files(&library.dir)? {
        let content = fs::read(library.dir.join(&path))?;
        files.insert(path, content);
    }
    files.insert("VERSION".into(), library.version.clone().into_bytes());
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, content.as_slice())?;
    }
    Ok(archive.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn files(archive: &[u8]) -> BTreeMap<String, String> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        });
        entries.collect()
    }

    fn library() -> (tempfile::TempDir, Library) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("csv.py"), "new").unwrap();
        let library = Library { dir: dir.path().to_owned(), version: "3.14.99".into() };
        (dir, library)
    }

    #[test]
    fn only_the_library_in_the_program_is_replaced() {
        let long = "x = 1\n".repeat(100);
        let random: String =
            (0..2000_u32).map(|n| format!("{}\n", n.wrapping_mul(2_654_435_761))).collect();
        let old = archive(&[(SIGN, &long), ("csv.py", "old"), ("tkinter/font.py", &random)]);
        let other = archive(&[("other.py", "other")]);
        let mut program = b"start".to_vec();
        program.extend(zstd::encode_all(other.as_slice(), 3).unwrap());
        program.extend(FRAME);
        program.extend(b"no frame");
        let before = program.len();
        let frame = zstd::encode_all(old.as_slice(), 3).unwrap();
        program.extend(&frame);
        program.extend(b"end");

        let (_dir, library) = library();
        let changed = replace(&program, &library).unwrap();
        assert_eq!(changed.len(), program.len());
        assert_eq!(changed[..before], program[..before]);
        assert!(changed.ends_with(b"end"));
        let place = &changed[before..before + frame.len()];
        let found = files(&zstd::decode_all(place).unwrap());
        let names: Vec<_> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["VERSION", "csv.py", SIGN]);
        assert_eq!((found["csv.py"].as_str(), found["VERSION"].as_str()), ("new", "3.14.99"));
        assert_eq!(replace(&program, &library).unwrap(), changed);
    }

    #[test]
    fn a_program_without_a_place_for_the_library_is_an_error() {
        let (dir, library) = library();
        let error = replace(b"nothing in here", &library).unwrap_err();
        assert!(error.to_string().contains("0 libraries"), "{error}");
        let random: String =
            (0..9000_u32).map(|n| format!("{}\n", n.wrapping_mul(2_654_435_761))).collect();
        fs::write(dir.path().join("large.py"), random).unwrap();
        let program = zstd::encode_all(archive(&[(SIGN, "")]).as_slice(), 3).unwrap();
        let error = replace(&program, &library).unwrap_err();
        assert!(error.to_string().contains("too large"), "{error}");
    }
}
