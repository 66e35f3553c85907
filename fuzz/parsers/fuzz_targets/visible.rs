//! Text of guests, files and servers that is written to a terminal: all control
//! characters are replaced, and JSON keeps its meaning.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../crates/isola-cli/src/visible.rs"]
mod visible;

/// Reports whether a terminal interprets a character: it starts a control sequence, or
/// changes the direction of text. Independent of the tested code.
fn is_control(c: char) -> bool {
    matches!(u32::from(c),
        0..=8 | 0xb | 0xc | 0xe..=0x1f | 0x7f..=0x9f
        | 0x61c | 0x200e | 0x200f | 0x2028..=0x202e | 0x2066..=0x206f)
}

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    let output = visible::output(&text);
    assert!(!output.chars().any(is_control));
    assert_eq!(output.chars().count(), text.chars().count());
    // Text without such characters is unchanged.
    if !text.chars().any(|c| is_control(c) || (0xfff9..=0xfffb).contains(&u32::from(c))) {
        assert_eq!(output, text);
    }
    let message = visible::message(&text);
    assert!(!message.chars().any(|c| is_control(c) || c == '\r'));
    assert_eq!(message.matches('\n').count(), text.matches('\n').count());
    let line = visible::in_line(&text);
    assert!(!line.chars().any(|c| is_control(c) || matches!(c, '\r' | '\n' | '\t')));
    let written = serde_json::to_string(&text).unwrap_or_default();
    let json = visible::json(&written);
    assert!(!json.chars().any(is_control));
    assert_eq!(serde_json::from_str::<String>(&json).ok().as_deref(), Some(&*text));
});
