//! Validates the arguments of a tool call.
//!
//! This file does not depend on the rest of the crate, because the fuzzer
//! compiles it alone.

use serde_json::{Map, Value};

/// The maximum length of a session's name in bytes.
pub const MAX_SESSION_NAME_BYTES: usize = 100;

/// The maximum number of characters of an unknown name that an error message
/// quotes.
const MAX_QUOTED_CHARS: usize = 100;

/// The validated arguments of a tool call.
pub struct ToolArguments {
    pub source: String,
    pub session: String,
    pub restart: bool,
}

impl ToolArguments {
    /// Validates the arguments. The error names the invalid one.
    pub fn read(mut arguments: Map<String, Value>) -> Result<Self, String> {
        let source = match arguments.remove("source") {
            Some(Value::String(source)) => source,
            Some(_) => return Err("source is not a string".to_owned()),
            None => return Err("source is missing: give the code to run".to_owned()),
        };
        let session = match arguments.remove("session") {
            None => "default".to_owned(),
            Some(Value::String(name)) if (1..=MAX_SESSION_NAME_BYTES).contains(&name.len()) => name,
            Some(_) => {
                return Err(format!(
                    "session must be a string of 1 to {MAX_SESSION_NAME_BYTES} bytes"
                ));
            }
        };
        let restart = match arguments.remove("restart") {
            None => false,
            Some(Value::Bool(restart)) => restart,
            Some(_) => return Err("restart must be true or false".to_owned()),
        };
        match arguments.keys().next() {
            None => Ok(Self { source, session, restart }),
            Some(name) => {
                let name: String = name.chars().take(MAX_QUOTED_CHARS).collect();
                Err(format!("unknown argument {name:?}: valid are source, session and restart"))
            }
        }
    }
}
