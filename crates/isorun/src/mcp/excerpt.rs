//! Output of bounded size, of which the middle is left out.

use std::collections::VecDeque;

/// The start and the end of a stream of bytes.
pub struct Excerpt {
    start: Vec<u8>,
    end: VecDeque<u8>,
    omitted: u64,
    /// The maximum number of bytes of each of the two.
    half: usize,
}

impl Excerpt {
    pub fn new(max_bytes: usize) -> Self {
        Self { start: Vec::new(), end: VecDeque::new(), omitted: 0, half: max_bytes.div_ceil(2) }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        let room = self.half - self.start.len();
        let (start, rest) = bytes.split_at(room.min(bytes.len()));
        self.start.extend_from_slice(start);
        // Only the last bytes can be kept.
        let skipped = rest.len().saturating_sub(self.half);
        let rest = rest.get(skipped..).unwrap_or_default();
        let excess = (self.end.len() + rest.len()).saturating_sub(self.half);
        self.end.drain(..excess);
        self.end.extend(rest);
        self.omitted += (skipped + excess) as u64;
    }

    /// Returns the text, in which bytes that are not UTF-8 are replaced, with a note in place
    /// of what is left out.
    pub fn text(mut self) -> String {
        if self.omitted == 0 {
            self.start.extend(self.end);
            return String::from_utf8_lossy(&self.start).into_owned();
        }
        // The cuts may be inside of a character.
        let start = String::from_utf8_lossy(&self.start);
        let end = self.end.make_contiguous();
        let end = String::from_utf8_lossy(end);
        let start = start.trim_end_matches('\u{fffd}');
        let end = end.trim_start_matches('\u{fffd}');
        format!("{start}\n[... {} bytes are left out ...]\n{end}", self.omitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(max_bytes: usize, pieces: &[&str]) -> String {
        let mut excerpt = Excerpt::new(max_bytes);
        pieces.iter().for_each(|piece| excerpt.push(piece.as_bytes()));
        excerpt.text()
    }

    #[test]
    fn short_output_is_complete() {
        assert_eq!(excerpt(10, &[]), "");
        assert_eq!(excerpt(10, &["01234", "56789"]), "0123456789");
        assert_eq!(excerpt(10, &["0123456789"]), "0123456789");
    }

    #[test]
    fn the_middle_of_long_output_is_left_out() {
        let expected = "ab\n[... 22 bytes are left out ...]\nyz";
        assert_eq!(excerpt(4, &["abcdefghijklmnopqrstuvwxyz"]), expected);
        let letters: Vec<String> = ('a'..='z').map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        assert_eq!(excerpt(4, &letters), expected);
        assert_eq!(excerpt(4, &["abc", "defghijklmnopqrstuvw", "xyz"]), expected);
    }

    #[test]
    fn characters_are_not_split() {
        let text = "\u{e9}".repeat(10);
        assert_eq!(excerpt(6, &[&text]), "\u{e9}\n[... 14 bytes are left out ...]\n\u{e9}");
    }
}
