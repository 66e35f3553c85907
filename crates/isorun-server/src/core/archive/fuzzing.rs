//! Fuzzing of manifests: only manifests that the server signed are accepted, and only
//! unchanged.

use std::{
    path::{Component, Path},
    sync::LazyLock,
};

use isorun_engine::Root;

use super::{
    ArchiveError, FileDigest, Kind, MANIFEST_FORMAT, MAX_FILES, Manifest, Owner, SandboxBase,
    Secret, parse_manifest, sign,
};

/// The secret of the server that reads the manifests.
static THIS_SERVER: LazyLock<Secret> = LazyLock::new(|| Secret::from_bytes([7; 32]));
/// The secret of another server.
static OTHER_SERVER: LazyLock<Secret> = LazyLock::new(|| Secret::from_bytes([8; 32]));
/// The only manifest that this server signed, its text, and the bytes of its file.
static SIGNED: LazyLock<(Manifest, String, Vec<u8>)> = LazyLock::new(|| {
    let file =
        |name: &str, bytes| FileDigest { name: name.to_owned(), bytes, blake3: "0f".repeat(32) };
    let (id, tenant) = ("run0123456789abcdef".to_owned(), "ours".to_owned());
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        owner: Owner { kind: Kind::Hibernation, id, tenant, generation: 3 },
        created_at: 1_700_000_000_000,
        engine: "gvisor".to_owned(),
        root: SandboxBase::Linux(Root::Host),
        pids: 64,
        files: vec![file("checkpoint.img", 5), file("pages.img", 100_000)],
    };
    let text = serde_json::to_string(&manifest).unwrap_or_else(|error| panic!("{error}"));
    let bytes = signed(&text).unwrap_or_else(|| panic!("{text} is not JSON"));
    assert_eq!(parse_manifest(&bytes, &THIS_SERVER).ok().as_ref(), Some(&manifest));
    (manifest, text, bytes)
});

/// Checks the invariants of parsing arbitrary bytes as a manifest.
///
/// The first byte selects the meaning of the others: a complete file; changes of four
/// bytes each to the file of a signed manifest; or a manifest's text, which is then
/// signed, as another version of the server might have done.
pub fn fuzz_manifests(input: &[u8]) {
    let Some((form, bytes)) = input.split_first() else { return };
    match form % 3 {
        0 => check_unsigned(bytes),
        1 => check_unsigned(&changed(&SIGNED.2, bytes)),
        _ => check_signed(bytes),
    }
}

/// Checks that bytes without a new signature are refused, unless they hold the text
/// of [`SIGNED`] unchanged.
fn check_unsigned(bytes: &[u8]) {
    let (manifest, text, _) = &*SIGNED;
    match parse_manifest(bytes, &THIS_SERVER) {
        Ok(found) => {
            assert_eq!(found, *manifest);
            let is_text = |part: &[u8]| part == text.as_bytes();
            assert!(bytes.windows(text.len()).any(is_text), "a changed text is accepted");
        }
        Err(error) => check_error(&error),
    }
    assert!(parse_manifest(bytes, &OTHER_SERVER).is_err(), "another server's manifest is accepted");
}

/// Checks that a signed text is accepted only if its files have plain names, and only if
/// no byte of it is changed.
fn check_signed(text: &[u8]) {
    let Some(bytes) = str::from_utf8(text).ok().and_then(signed) else { return };
    assert!(
        matches!(parse_manifest(&bytes, &OTHER_SERVER), Err(ArchiveError::Damaged(_))),
        "another server's manifest is accepted"
    );
    let manifest = match parse_manifest(&bytes, &THIS_SERVER) {
        Ok(manifest) => manifest,
        Err(error) => return check_error(&error),
    };
    assert!(manifest.format == MANIFEST_FORMAT && manifest.files.len() <= MAX_FILES);
    for file in &manifest.files {
        let mut parts = Path::new(&file.name).components();
        assert!(
            matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)),
            "{:?} is not a plain file name",
            file.name
        );
    }
    let written = serde_json::to_string(&manifest).ok().and_then(|text| signed(&text));
    let again = written.and_then(|bytes| parse_manifest(&bytes, &THIS_SERVER).ok());
    assert_eq!(again.as_ref(), Some(&manifest));
    // Flips one bit at offsets spread over the text.
    let end = bytes.len() - 1;
    let start = end - text.trim_ascii().len();
    for offset in (start..end).step_by((end - start).div_ceil(16)) {
        let mut bytes = bytes.clone();
        bytes[offset] ^= 1 << (offset % 8);
        assert!(parse_manifest(&bytes, &THIS_SERVER).is_err(), "a changed manifest is accepted");
    }
}

fn check_error(error: &ArchiveError) {
    let shown = error.to_string();
    assert!(!matches!(error, ArchiveError::Io(_)), "{shown}");
    assert!(shown.len() < 200, "{shown}");
}

/// Returns the file of a manifest with this text, if it is JSON.
fn signed(text: &str) -> Option<Vec<u8>> {
    sign(text.to_owned(), &THIS_SERVER).ok()
}

/// Applies changes of four bytes each: an action, an offset and a value.
fn changed(bytes: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let (changes, _) = changes.as_chunks::<4>();
    for [action, low, high, value] in changes {
        let offset = usize::from(u16::from_le_bytes([*low, *high])) % (bytes.len() + 1);
        let end = bytes.len().min(offset + usize::from(*value));
        match action % 6 {
            0 if offset < bytes.len() => bytes[offset] = *value,
            1 if offset < bytes.len() => bytes[offset] ^= 1 << (value % 8),
            2 => bytes.insert(offset, *value),
            3 => drop(bytes.drain(offset..end)),
            // Duplicate fields, or a manifest in a manifest.
            4 => {
                let piece = bytes[offset..end].to_vec();
                bytes.splice(offset..offset, piece);
            }
            _ => bytes.truncate(offset),
        }
        if bytes.len() > 1 << 16 {
            break;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_is_a_valid_manifest() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"));
        let seed = std::fs::read(path.join("../../fuzz/isorun/seeds/manifests/whole")).unwrap();
        assert_eq!(seed[1..].escape_ascii().to_string(), SIGNED.2.escape_ascii().to_string());
        let kept = changed(&SIGNED.2, &[2, 0, 0, b' ']);
        assert_eq!(parse_manifest(&kept, &THIS_SERVER).ok().as_ref(), Some(&SIGNED.0));
        assert!(parse_manifest(&changed(&SIGNED.2, &[1, 100, 0, 0]), &THIS_SERVER).is_err());
    }
}
