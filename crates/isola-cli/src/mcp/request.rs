//! What a client asks of a tool: its arguments, checked.
//!
//! Nothing here needs the rest of the crate: the fuzzer compiles this file
//! alone.

use serde_json::{Map, Value};

/// The largest length of a session's name in bytes.
pub const MAX_SESSION_NAME: usize = 100;

/// The number of characters of an unknown name that an error message quotes.
const MAX_QUOTED_CHARS: usize = 100;

/// The arguments of a tool, checked.
pub struct Wanted {
    pub source: String,
    pub session: String,
    pub restart: bool,
}

impl Wanted {
    /// Reads the arguments. The error says which one is wrong.
    pub fn read(mut arguments: Map<String, Value>) -> Result<Self, String> {
        let source = match arguments.remove("source") {
            Some(Value::String(source)) => source,
            Some(_) => return Err("source is not a string".to_owned()),
            None => return Err("source is missing: give the code to run".to_owned()),
        };
        let session = match arguments.remove("session") {
            None => "default".to_owned(),
            Some(Value::String(name)) if (1..=MAX_SESSION_NAME).contains(&name.len()) => name,
            Some(_) => {
                return Err(format!("session is not a name of 1 to {MAX_SESSION_NAME} bytes"));
            }
        };
        let restart = match arguments.remove("restart") {
            None => false,
            Some(Value::Bool(restart)) => restart,
            Some(_) => return Err("restart is neither true nor false".to_owned()),
        };
        match arguments.keys().next() {
            None => Ok(Self { source, session, restart }),
            Some(name) => {
                let name: String = name.chars().take(MAX_QUOTED_CHARS).collect();
                Err(format!("unknown argument {name:?}: there are source, session and restart"))
            }
        }
    }
}
