//! Detection of secrets that must not reach a guest in text from a client: API keys, also
//! escaped or encoded, and ids of runs. No I/O.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use percent_encoding::percent_decode;

/// The prefix of every API key.
const KEY_PREFIX: &[u8] = b"isorun_live_";
/// The maximum number of levels of percent-encoding that are decoded.
const MAX_ESCAPE_DEPTH: usize = 3;
/// The prefix of every id of a run, and the number of hex digits after it.
const RUN_ID_PREFIX: &[u8] = b"run";
const RUN_ID_DIGITS: usize = 16;

/// Reports whether a text contains an API key: in plain text in letters of any case,
/// percent-encoded, or in base64, as in `Authorization: Basic`.
pub fn contains_api_key(text: &[u8]) -> bool {
    let mut text = Cow::Borrowed(text);
    for _ in 0..=MAX_ESCAPE_DEPTH {
        if contains_ignore_case(&text, KEY_PREFIX) || contains_encoded_key(&text) {
            return true;
        }
        match percent_decode(&text).into() {
            Cow::Owned(plain) if *plain != *text => text = Cow::Owned(plain),
            _ => return false,
        }
    }
    // So many levels of encoding can only be an attempt to hide something.
    true
}

/// Reports whether a text contains the id of any run.
pub fn contains_run_id(text: &[u8]) -> bool {
    text.windows(RUN_ID_PREFIX.len() + RUN_ID_DIGITS).any(|part| {
        let (name, digits) = part.split_at(RUN_ID_PREFIX.len());
        name.eq_ignore_ascii_case(RUN_ID_PREFIX) && digits.iter().all(u8::is_ascii_hexdigit)
    })
}

/// Reports whether a text contains another, in letters of any case.
pub fn contains_ignore_case(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part))
}

/// Reports whether a word of the text is base64 of a text that contains an API key.
fn contains_encoded_key(text: &[u8]) -> bool {
    let digit = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte);
    let contains_key = |plain: Vec<u8>| contains_ignore_case(&plain, KEY_PREFIX);
    let words = text.split(|byte| !digit(*byte));
    words.filter(|word| word.len() * 3 / 4 >= KEY_PREFIX.len()).any(|word| {
        let word: Vec<u8> = word
            .iter()
            .map(|byte| match byte {
                b'-' => b'+',
                b'_' => b'/',
                byte => *byte,
            })
            .collect();
        // The alignment is unknown if other characters precede the encoded text.
        (0..4).any(|start| {
            let part = &word[start..];
            let groups = &part[..part.len() / 4 * 4];
            STANDARD_NO_PAD.decode(groups).is_ok_and(contains_key)
                // The last, incomplete group of four characters.
                || STANDARD_NO_PAD.decode(part).is_ok_and(contains_key)
        })
    })
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    #[test]
    fn encoded_api_keys_are_found() {
        let key = "isorun_live_local_0123456789abcdef_00ff";
        for text in [
            key.to_owned(),
            format!("Bearer {key}"),
            key.to_uppercase(),
            "IsOrUn_LiVe_x".to_owned(),
            format!("isorun_live_{key}"),
            format!("isorun_isorun_live_live_{key}"),
            key.replace('_', "%5F"),
            key.replace('_', "%255f"),
            key.bytes().map(|byte| format!("%{byte:02x}")).collect(),
            format!("Basic {}", STANDARD.encode(format!("user:{key}"))),
            format!("Basic {}", STANDARD.encode(format!("{key}:"))),
            format!("Basic {}", STANDARD.encode(format!("{key}:"))).replace('=', "%3D"),
            format!("base64url.bearer.authorization.k8s.io.{}", URL_SAFE_NO_PAD.encode(key)),
            format!("a{}", URL_SAFE_NO_PAD.encode(key)),
        ] {
            assert!(contains_api_key(text.as_bytes()), "{text}");
        }
        for text in ["", "isorun", "isorun_live", "Bearer sk-isorun-proxy-managed", "100%", "%zz%4"]
        {
            assert!(!contains_api_key(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn run_ids_are_found() {
        for text in ["run0123456789abcdef", "/sb/RUN0123456789ABCDEF/p", "xrun0123456789abcdef0"] {
            assert!(contains_run_id(text.as_bytes()), "{text}");
        }
        for text in ["", "run", "run0123456789abcde", "run0123456789abcdeg", "sandbox-0123456789ab"]
        {
            assert!(!contains_run_id(text.as_bytes()), "{text}");
        }
    }
}
