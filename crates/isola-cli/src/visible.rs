//! Text of others, made harmless for a terminal.
//!
//! A terminal obeys control characters: they can set its title, fill the
//! clipboard, or hide what was shown before. Characters that change the
//! direction of writing show a text in another order than it has. Nobody trusts
//! a guest, a file or a server with that, so such characters are shown instead.
//!
//! Nothing here needs the rest of the crate: the fuzzer compiles this file
//! alone.

use std::borrow::Cow;

/// Output of a guest: only what moves within the text is left as it is, which is
/// tab, newline and carriage return.
pub fn output(text: &str) -> Cow<'_, str> {
    replace(text, &['\t', '\n', '\r'])
}

/// A message of several lines. No line of it can be written over.
pub fn message(text: &str) -> Cow<'_, str> {
    replace(text, &['\t', '\n'])
}

/// A part of a line, such as a name.
pub fn in_line(text: &str) -> Cow<'_, str> {
    replace(text, &[])
}

/// A JSON text without line breaks, in which such characters stand only within
/// strings: they become escapes, and its meaning stays.
pub fn json(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) {
            shown += &format!("\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

fn replace<'a>(text: &'a str, kept: &[char]) -> Cow<'a, str> {
    let harmless = |c: char| !is_harmful(c) || kept.contains(&c);
    if text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if harmless(c) { c } else { picture(c) }).collect())
}

/// Whether a terminal might obey it, or show what follows in another order. All
/// of them are within 16 bits.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Marks, embeddings, overrides and isolates of direction.
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
            // Breaks of lines and paragraphs.
            | '\u{2028}' | '\u{2029}'
            // Annotations, which hide text.
            | '\u{fff9}'..='\u{fffb}')
}

fn picture(c: char) -> char {
    match c {
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)),
        '\x7f' => Some('\u{2421}'),
        _ => None,
    }
    .unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown() {
        for (text, shown) in [
            ("plain\ttext\r\n", "plain\ttext\r\n"),
            ("\x1b[2J", "␛[2J"),
            ("\x1b]52;c;eA==\x07", "␛]52;c;eA==␇"),
            ("a\x7fb\u{9b}31m\0", "a␡b\u{fffd}31m␀"),
            ("\u{9d}0;title\u{9c}", "\u{fffd}0;title\u{fffd}"),
            ("\u{202e}gpj.exe", "\u{fffd}gpj.exe"),
            ("\u{2066}a\u{2069}\u{2028}b", "\u{fffd}a\u{fffd}\u{fffd}b"),
            ("héllo 🦀 שלום 👩‍🚀", "héllo 🦀 שלום 👩‍🚀"),
        ] {
            assert_eq!(output(text), shown);
        }
    }

    #[test]
    fn a_message_keeps_its_lines_and_a_name_is_in_one() {
        let text = "one\r\n\ttwo\x1bP";
        assert_eq!(message(text), "one␍\n\ttwo␛P");
        assert_eq!(in_line(text), "one␍␊␉two␛P");
    }

    #[test]
    fn json_keeps_its_meaning() {
        for text in ["\u{9b}2J", "\u{7f}", "\u{202e}a", "é🦀", "\x1b]0;x\x07\n"] {
            let written = serde_json::to_string(text).unwrap();
            let shown = json(&written);
            assert!(!shown.chars().any(is_harmful), "{shown:?}");
            assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }
    }
}
