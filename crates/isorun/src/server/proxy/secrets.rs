//! Finds what must not reach a guest in texts that a client sent: API keys, also
//! escaped or encoded, and ids of runs. No I/O.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use percent_encoding::percent_decode;

/// What every API key begins with.
const KEY: &[u8] = b"isorun_live_";
/// How often a text may have been escaped.
const MAX_ESCAPES: usize = 3;
/// What every id of a run begins with, and how many hex digits follow.
const ID: &[u8] = b"run";
const ID_DIGITS: usize = 16;

/// Whether a text has an API key in it: as it is in letters of any case, escaped
/// as in URLs, or encoded as base64, as in `Authorization: Basic`.
pub fn has_key(text: &[u8]) -> bool {
    let mut text = Cow::Borrowed(text);
    for _ in 0..=MAX_ESCAPES {
        if contains(&text, KEY) || in_base64(&text) {
            return true;
        }
        match percent_decode(&text).into() {
            Cow::Owned(plain) if *plain != *text => text = Cow::Owned(plain),
            _ => return false,
        }
    }
    // Nothing but an attempt to hide something is escaped so often.
    true
}

/// Whether a text has the id of any run in it.
pub fn has_id(text: &[u8]) -> bool {
    text.windows(ID.len() + ID_DIGITS).any(|part| {
        let (name, digits) = part.split_at(ID.len());
        name.eq_ignore_ascii_case(ID) && digits.iter().all(u8::is_ascii_hexdigit)
    })
}

/// Whether a text has another in it, in letters of any case.
pub fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part))
}

/// Whether a word of the text is base64 of a text with an API key in it.
fn in_base64(text: &[u8]) -> bool {
    let digit = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte);
    text.split(|byte| !digit(*byte)).filter(|word| word.len() * 3 / 4 >= KEY.len()).any(|word| {
        let word: Vec<u8> = word
            .iter()
            .map(|byte| match byte {
                b'-' => b'+',
                b'_' => b'/',
                byte => *byte,
            })
            .collect();
        // Where it begins is not known if something stands before it.
        (0..4).any(|start| {
            let part = &word[start..];
            let whole = &part[..part.len() / 4 * 4];
            STANDARD_NO_PAD.decode(whole).is_ok_and(|plain| contains(&plain, KEY))
                // The last characters, of which there are no four.
                || STANDARD_NO_PAD.decode(part).is_ok_and(|plain| contains(&plain, KEY))
        })
    })
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    #[test]
    fn keys_are_found_in_every_disguise() {
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
            assert!(has_key(text.as_bytes()), "{text}");
        }
        for text in ["", "isorun", "isorun_live", "Bearer sk-isorun-proxy-managed", "100%", "%zz%4"]
        {
            assert!(!has_key(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn ids_are_found() {
        for text in ["run0123456789abcdef", "/sb/RUN0123456789ABCDEF/p", "xrun0123456789abcdef0"] {
            assert!(has_id(text.as_bytes()), "{text}");
        }
        for text in ["", "run", "run0123456789abcde", "run0123456789abcdeg", "sandbox-0123456789ab"]
        {
            assert!(!has_id(text.as_bytes()), "{text}");
        }
    }
}
