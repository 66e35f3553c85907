//! What a client of `isola mcp` sends as the arguments of a tool: code for a
//! session with a name of bounded length, or an error that is short.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

#[path = "../../../crates/isola-cli/src/mcp/request.rs"]
mod request;

fuzz_target!(|input: &[u8]| {
    // Whole, or the values of the arguments that there are.
    let arguments = serde_json::from_slice::<Map<String, Value>>(input).unwrap_or_else(|_| {
        let mut parts = input.split(|byte| *byte == b'\n');
        let mut arguments = Map::new();
        for name in ["source", "session", "restart"] {
            if let Some(value) = parts.next().and_then(|part| serde_json::from_slice(part).ok()) {
                arguments.insert(name.to_owned(), value);
            }
        }
        for name in parts {
            arguments.insert(String::from_utf8_lossy(name).into_owned(), Value::Null);
        }
        arguments
    });
    let had = arguments.clone();
    match request::Wanted::read(arguments) {
        Ok(wanted) => {
            assert_eq!(had["source"], wanted.source);
            assert!((1..=request::MAX_SESSION_NAME).contains(&wanted.session.len()));
            assert_eq!(had.get("restart").is_some_and(|it| *it == true), wanted.restart);
            assert!(had.len() <= 3);
        }
        Err(why) => assert!(why.len() < 2_000, "an error of {} bytes", why.len()),
    }
});
