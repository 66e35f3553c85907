//! Calls of the tools of `isorun mcp`: they result in valid arguments, or in an error of bounded
//! length. And what a tool shows of long output has bounded length, and is its start and end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

#[path = "../../../crates/isorun/src/mcp/arguments.rs"]
#[allow(dead_code, reason = "the tools themselves are not compiled here")]
mod arguments;
#[path = "../../../crates/isorun/src/mcp/excerpt.rs"]
mod excerpt;

fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else { return };
    let tool = arguments::TOOL_NAMES.get(usize::from(*choice)).copied().unwrap_or("unknown");
    if let Ok(given) = serde_json::from_slice::<Map<String, Value>>(rest) {
        match arguments::ToolCall::read(tool, given.clone()) {
            Ok(_) => {
                for name in ["session", "new_session", "name"] {
                    if let Some(Value::String(name)) = given.get(name) {
                        assert!((1..=arguments::MAX_NAME_BYTES).contains(&name.len()));
                        assert!(!name.chars().any(char::is_control));
                    }
                }
                if let Some(seconds) = given.get("timeout").and_then(Value::as_f64) {
                    assert!(seconds > 0.0 && seconds <= arguments::MAX_TIMEOUT_SECONDS);
                }
            }
            Err(reason) => assert!(reason.len() < 4_000, "an error of {} bytes", reason.len()),
        }
    }

    let max_bytes = usize::from(*choice) + 2;
    let mut shown = excerpt::Excerpt::new(max_bytes);
    // Pieces of different lengths.
    let mut left = rest;
    while let Some(first) = left.first() {
        let (piece, others) = left.split_at((usize::from(*first) + 1).min(left.len()));
        shown.push(piece);
        left = others;
    }
    let text = shown.text();
    // An invalid byte becomes a character of three bytes.
    assert!(text.len() <= 3 * (max_bytes + 1) + 80);
    if rest.len() + 1 < max_bytes {
        assert_eq!(text, String::from_utf8_lossy(rest));
    }
});
