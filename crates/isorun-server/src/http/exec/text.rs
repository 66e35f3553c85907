//! Encoding of output for JSON.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use isorun_api::Encoding;

/// A decoder of an output stream that arrives in pieces. A character that is split
/// between pieces is kept intact; bytes that are not UTF-8 become U+FFFD.
pub struct Decoder {
    encoding: Encoding,
    /// The start of an incomplete character.
    rest: Vec<u8>,
}

impl Decoder {
    pub fn new(encoding: Encoding) -> Self {
        Self { encoding, rest: Vec::new() }
    }

    /// Returns the text that is complete so far; may be empty.
    pub fn feed(&mut self, bytes: &[u8]) -> String {
        if self.encoding == Encoding::Base64 {
            return BASE64_STANDARD.encode(bytes);
        }
        self.rest.extend_from_slice(bytes);
        let complete = self.rest.len() - unfinished(&self.rest);
        let rest = self.rest.split_off(complete);
        let ready = std::mem::replace(&mut self.rest, rest);
        String::from_utf8_lossy(&ready).into_owned()
    }

    /// Returns the rest at the end of the stream.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.rest)).into_owned()
    }
}

/// Returns the number of bytes at the end that may be an incomplete character.
fn unfinished(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    for (at, byte) in bytes.iter().enumerate().skip(tail).rev() {
        let here = bytes.len() - at;
        let length = match byte {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if here < length { here } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_split_between_chunks_are_decoded() {
        let text = "a\u{e9}\u{20ac}\u{1f600}z";
        for cut in 0..=text.len() {
            let mut decoder = Decoder::new(Encoding::Text);
            let (one, two) = text.as_bytes().split_at(cut);
            let decoded = decoder.feed(one) + &decoder.feed(two) + &decoder.finish();
            assert_eq!(decoded, text, "cut at {cut}");
        }
    }

    #[test]
    fn invalid_utf8_is_replaced_and_not_held_back() {
        let mut decoder = Decoder::new(Encoding::Text);
        assert_eq!(decoder.feed(b"\xff\x80a"), "\u{fffd}\u{fffd}a");
        assert_eq!(decoder.feed(b"\xe2\x82"), "");
        assert_eq!(decoder.feed(b"\x80\x80\x80\x80"), "\u{2080}\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(decoder.feed(b"\xf0\x9f"), "");
        assert_eq!(decoder.finish(), "\u{fffd}");
    }
}
