//! Bytes in URLs: RFC 3986, section 2.

use std::borrow::Cow;

/// A text without its escapes: `%41` is `A`. What is no escape stays as it is.
pub fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|byte| (*byte as char).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                plain.push(u8::try_from(high * 16 + low).unwrap_or_default());
                rest = &after[2..];
            }
            _ => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    Cow::Owned(plain)
}

/// Bytes as they can stand in a query: unreserved characters as they are, and each
/// other byte as `%` and two digits.
pub fn encode(bytes: &[u8]) -> String {
    let mut encoded = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(*byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_escape_stays() {
        for (text, decoded) in
            [("%41%2f%", "A/%"), ("%4", "%4"), ("%zz%2541", "%zz%41"), ("+", "+")]
        {
            assert_eq!(decode(text.as_bytes()), decoded.as_bytes(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes: Vec<u8>) {
            let encoded = encode(&bytes);
            let plain = |byte: u8| byte.is_ascii_graphic() && !b"&=+#?/".contains(&byte);
            let all_plain = encoded.bytes().all(plain);
            prop_assert!(all_plain);
            let decoded = decode(encoded.as_bytes()).into_owned();
            prop_assert_eq!(decoded, bytes);
        }
    }
}
