//! Manifests that a fuzzer made: only what a server signed is accepted, and only as
//! it was signed.

use std::{
    path::{Component, Path},
    sync::LazyLock,
};

use isorun_engine::Root;

use super::{
    Damage, FORMAT, Kind, MAX_FILES, Manifest, Owner, Sealed, Secret, parse_manifest, sign,
};

/// The secret of the server that reads.
static OURS: LazyLock<Secret> = LazyLock::new(|| Secret::of([7; 32]));
/// The secret of another server.
static OTHER: LazyLock<Secret> = LazyLock::new(|| Secret::of([8; 32]));
/// The only manifest that our server signed, its text, and the bytes of its file.
static SIGNED: LazyLock<(Manifest, String, Vec<u8>)> = LazyLock::new(|| {
    let file = |name: &str, bytes| Sealed { name: name.to_owned(), bytes, blake3: "0f".repeat(32) };
    let (id, tenant) = ("run0123456789abcdef".to_owned(), "ours".to_owned());
    let manifest = Manifest {
        format: FORMAT,
        owner: Owner { kind: Kind::Hibernation, id, tenant, generation: 3 },
        created_at: 1_700_000_000_000,
        engine: "gvisor".to_owned(),
        root: Root::Host,
        pids: 64,
        files: vec![file("checkpoint.img", 5), file("pages.img", 100_000)],
    };
    let text = serde_json::to_string(&manifest).unwrap_or_else(|error| panic!("{error}"));
    let bytes = signed(&text).unwrap_or_else(|| panic!("{text} is no JSON"));
    assert_eq!(parse_manifest(&bytes, &OURS).ok().as_ref(), Some(&manifest));
    (manifest, text, bytes)
});

/// Checks what has to hold of any bytes in the place of a manifest.
///
/// The first byte says what the others are: a whole file; changes of the file of a
/// manifest that was signed, of four bytes each; or a manifest's text, which is
/// then signed, as another version of the server might have done.
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
    match parse_manifest(bytes, &OURS) {
        Ok(found) => {
            assert_eq!(found, *manifest);
            let is_text = |part: &[u8]| part == text.as_bytes();
            assert!(bytes.windows(text.len()).any(is_text), "a changed text is accepted");
        }
        Err(damage) => check_damage(&damage),
    }
    assert!(parse_manifest(bytes, &OTHER).is_err(), "another server's manifest is accepted");
}

/// Checks that what is signed is accepted only if its files are plain names, and
/// only with no byte of it changed.
fn check_signed(text: &[u8]) {
    let Some(bytes) = str::from_utf8(text).ok().and_then(signed) else { return };
    assert!(
        matches!(parse_manifest(&bytes, &OTHER), Err(Damage::Broken(_))),
        "another server's manifest is accepted"
    );
    let manifest = match parse_manifest(&bytes, &OURS) {
        Ok(manifest) => manifest,
        Err(damage) => return check_damage(&damage),
    };
    assert!(manifest.format == FORMAT && manifest.files.len() <= MAX_FILES);
    for file in &manifest.files {
        let mut parts = Path::new(&file.name).components();
        assert!(
            matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)),
            "{:?} is the name of a file elsewhere",
            file.name
        );
    }
    let written = serde_json::to_string(&manifest).ok().and_then(|text| signed(&text));
    let again = written.and_then(|bytes| parse_manifest(&bytes, &OURS).ok());
    assert_eq!(again.as_ref(), Some(&manifest));
    // Each bit of a byte in turn, at places all over the text.
    let end = bytes.len() - 1;
    let start = end - text.trim_ascii().len();
    for place in (start..end).step_by((end - start).div_ceil(16)) {
        let mut bytes = bytes.clone();
        bytes[place] ^= 1 << (place % 8);
        assert!(parse_manifest(&bytes, &OURS).is_err(), "a changed manifest is accepted");
    }
}

fn check_damage(damage: &Damage) {
    let shown = damage.to_string();
    assert!(!matches!(damage, Damage::Io(_)), "{shown}");
    assert!(shown.len() < 200, "{shown}");
}

/// Makes the file of a manifest with this text, if it is JSON.
fn signed(text: &str) -> Option<Vec<u8>> {
    sign(text.to_owned(), &OURS).ok()
}

/// Applies changes of four bytes each: what to do, a place and a value.
fn changed(bytes: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let (changes, _) = changes.as_chunks::<4>();
    for [what, low, high, value] in changes {
        let place = usize::from(u16::from_le_bytes([*low, *high])) % (bytes.len() + 1);
        let end = bytes.len().min(place + usize::from(*value));
        match what % 6 {
            0 if place < bytes.len() => bytes[place] = *value,
            1 if place < bytes.len() => bytes[place] ^= 1 << (value % 8),
            2 => bytes.insert(place, *value),
            3 => drop(bytes.drain(place..end)),
            // Twice the same field, or a manifest in a manifest.
            4 => {
                let piece = bytes[place..end].to_vec();
                bytes.splice(place..place, piece);
            }
            _ => bytes.truncate(place),
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
    fn the_fuzzer_begins_with_a_manifest_that_is_accepted() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"));
        let seed = std::fs::read(path.join("../../fuzz/isorun/seeds/manifests/whole")).unwrap();
        assert_eq!(seed[1..].escape_ascii().to_string(), SIGNED.2.escape_ascii().to_string());
        let kept = changed(&SIGNED.2, &[2, 0, 0, b' ']);
        assert_eq!(parse_manifest(&kept, &OURS).ok().as_ref(), Some(&SIGNED.0));
        assert!(parse_manifest(&changed(&SIGNED.2, &[1, 100, 0, 0]), &OURS).is_err());
    }
}
