//! What a run prints: text as it comes, values as lines of JSON; or everything
//! as lines of JSON.

use std::io::{self, Stderr, Stdout};

use isola::{Event, LogRecord, Value};
use serde::Serialize;

use crate::{
    failure::Failure,
    screen::{self, Screen},
};

pub struct Report {
    events: bool,
    stdout: Screen<Stdout>,
    stderr: Screen<Stderr>,
}

/// An event as it is printed. Its names are part of the interface.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Result { data: &'a Value },
    End { data: &'a Value },
    Stdout { data: &'a str },
    Stderr { data: &'a str },
    Log { data: &'a str, level: &'static str },
    Error { data: &'a str, code: &'static str },
}

impl Report {
    pub fn new(events: bool) -> Self {
        Self { events, stdout: Screen::new(io::stdout()), stderr: Screen::new(io::stderr()) }
    }

    /// Prints an event of the run. The end of a step is given back instead:
    /// it may not be that of the run.
    pub fn event(&mut self, event: Event) -> Result<Option<Value>, Failure> {
        match event {
            Event::Result(value) => self.result(&value)?,
            Event::Stdout(text) => self.stdout(&text)?,
            Event::Stderr(text) => self.stderr(&text)?,
            Event::Log(record) => self.log(&record)?,
            Event::End(value) => return Ok(Some(value)),
            Event::Error(error) => return Err(error.into()),
            // The library may learn to tell more than this command can show.
            _ => {}
        }
        Ok(None)
    }

    /// The last line of a run that ended well.
    pub fn end(&mut self, value: &Value) -> Result<(), Failure> {
        if self.events {
            return self.json(&Line::End { data: value });
        }
        if value.is_null() { Ok(()) } else { self.value(value) }
    }

    /// The last line of a run that did not.
    pub fn failure(&mut self, failure: &Failure) {
        if !self.events {
            if !failure.is_silent() {
                let _ = self.stderr.line(&screen::complaint(failure));
            }
        } else if !matches!(failure, Failure::Unread) {
            let line = Line::Error { data: &failure.to_string(), code: failure.code() };
            let _ = self.json(&line);
        }
    }

    fn stdout(&mut self, text: &str) -> Result<(), Failure> {
        if self.events {
            return self.json(&Line::Stdout { data: text });
        }
        self.stdout.text(text).map_err(Failure::output)
    }

    fn stderr(&mut self, text: &str) -> Result<(), Failure> {
        if self.events {
            return self.json(&Line::Stderr { data: text });
        }
        // That nobody reads it is no reason to stop.
        let _ = self.stderr.text(text);
        Ok(())
    }

    fn log(&mut self, record: &LogRecord) -> Result<(), Failure> {
        let LogRecord { level, message, .. } = record;
        if self.events {
            return self.json(&Line::Log { data: message, level: level.as_str() });
        }
        let _ = self.stderr.line(&format!("{level}: {message}"));
        Ok(())
    }

    fn result(&mut self, value: &Value) -> Result<(), Failure> {
        if self.events {
            return self.json(&Line::Result { data: value });
        }
        self.value(value)
    }

    fn value(&mut self, value: &Value) -> Result<(), Failure> {
        self.stdout.line(&one_line(value.as_str())).map_err(Failure::output)
    }

    fn json(&mut self, line: &Line<'_>) -> Result<(), Failure> {
        let text = serde_json::to_string(line)
            .map_err(|error| Failure::output(io::Error::other(error)))?;
        self.stdout.line(&one_line(&text)).map_err(Failure::output)
    }
}

/// Valid JSON has line breaks only between its tokens. A guest that put some
/// there could forge a line of its own.
fn one_line(json: &str) -> std::borrow::Cow<'_, str> {
    if json.contains(['\n', '\r']) {
        return json.replace(['\n', '\r'], " ").into();
    }
    json.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_line_and_keeps_its_digits() {
        let value = Value::from_json("[\n12345678901234567890.10,\r\n\"a\\nb\"]").unwrap();
        let text = serde_json::to_string(&Line::End { data: &value }).unwrap();
        assert_eq!(
            one_line(&text),
            "{\"type\":\"end\",\"data\":[ 12345678901234567890.10,  \"a\\nb\"]}"
        );
    }
}
