//! Events of code that a guest sends: parsed or refused, and what is accepted has valid
//! names and data.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../crates/isola/src/code_event.rs"]
#[allow(dead_code, reason = "the crate uses the rest")]
mod code_event;

use code_event::ParsedEvent;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let first_line = text.lines().next().unwrap_or_default();
    let is_id = code_event::is_context_id(first_line);
    assert!(!is_id || (first_line.is_ascii() && first_line.len() <= 64));
    // Whatever it is, the same text twice has the same outcome.
    let parsed = code_event::parse(text);
    assert_eq!(parsed.is_ok(), code_event::parse(text).is_ok());
    if let Ok(ParsedEvent::Result { data, .. }) = parsed {
        assert!(data.len() <= code_event::MAX_ENTRIES);
        for (mime, entry) in data {
            assert!(mime.is_ascii() && mime.matches('/').count() == 1);
            assert!(serde_json::from_str::<&serde_json::value::RawValue>(entry.get()).is_ok());
            if mime == "image/png" {
                let base64: String = serde_json::from_str(entry.get()).unwrap();
                assert!(base64.len() % 4 == 0 && base64.is_ascii());
            }
        }
    }
});
