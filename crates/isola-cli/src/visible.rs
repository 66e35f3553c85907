//! Replaces control characters in untrusted text before it reaches a terminal.
//!
//! A terminal executes control characters: they can set its title, fill the
//! clipboard, or hide earlier output. Characters that change the direction of
//! writing display a text in another order than it has. Text of guests, files and
//! servers is not trusted, so such characters are replaced by visible ones.
//!
//! This file does not depend on the rest of the crate, because the fuzzer
//! compiles it alone.

use std::borrow::Cow;

/// Replaces control characters in output of a guest, except tab, newline and
/// carriage return.
pub fn output(text: &str) -> Cow<'_, str> {
    replace(text, &['\t', '\n', '\r'])
}

/// Replaces control characters in a message, except tab and newline. Carriage
/// returns are replaced, so that no line can be overwritten.
pub fn message(text: &str) -> Cow<'_, str> {
    replace(text, &['\t', '\n'])
}

/// Replaces all control characters in a part of a line, such as a name.
pub fn in_line(text: &str) -> Cow<'_, str> {
    replace(text, &[])
}

/// Escapes control characters in a JSON text without line breaks. They occur only
/// within strings there, so that the value stays the same.
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
    Cow::Owned(text.chars().map(|c| if harmless(c) { c } else { visible_char(c) }).collect())
}

/// Reports whether a terminal may execute the character, or display the following
/// text in another order. All such characters fit into 16 bits.
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

/// Returns the visible replacement of a character.
fn visible_char(c: char) -> char {
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
    fn control_characters_are_replaced() {
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
    fn messages_keep_line_breaks_and_names_do_not() {
        let text = "one\r\n\ttwo\x1bP";
        assert_eq!(message(text), "one␍\n\ttwo␛P");
        assert_eq!(in_line(text), "one␍␊␉two␛P");
    }

    #[test]
    fn escaped_json_has_the_same_value() {
        for text in ["\u{9b}2J", "\u{7f}", "\u{202e}a", "é🦀", "\x1b]0;x\x07\n"] {
            let written = serde_json::to_string(text).unwrap();
            let shown = json(&written);
            assert!(!shown.chars().any(is_harmful), "{shown:?}");
            assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }
    }
}
