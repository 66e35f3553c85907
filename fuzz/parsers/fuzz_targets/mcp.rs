//! Arguments of a tool call to `isola mcp`: they result in code for a session with a
//! name of bounded length, or in an error of bounded length.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

#[path = "../../../crates/isola-cli/src/mcp/request.rs"]
mod request;

fuzz_target!(|input: &[u8]| {
    // A complete JSON object, or the values of the known arguments.
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
    let given = arguments.clone();
    match request::ToolArguments::read(arguments) {
        Ok(wanted) => {
            assert_eq!(given["source"], wanted.source);
            assert!((1..=request::MAX_SESSION_NAME_BYTES).contains(&wanted.session.len()));
            assert_eq!(given.get("restart").is_some_and(|it| *it == true), wanted.restart);
            assert!(given.len() <= 3);
        }
        Err(reason) => assert!(reason.len() < 2_000, "an error of {} bytes", reason.len()),
    }
});
