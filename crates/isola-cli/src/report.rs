//! Output of a run: text as it is written and values as lines of JSON, or all
//! events as lines of JSON.

use std::io::{self, Stderr, Stdout};

use isola::{Event, LogRecord, Value};
use serde::Serialize;

use crate::{
    failure::Failure,
    screen::{self, Screen},
    visible,
};

/// The printer of the events of a run.
pub struct Report {
    events: bool,
    stdout: Screen<Stdout>,
    stderr: Screen<Stderr>,
}

/// The JSON form of an event. Its names are part of the interface.
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

    /// Prints an event of the run. The value at the end of a step is returned
    /// instead, because the step may not be the last one of the run.
    pub fn event(&mut self, event: Event) -> Result<Option<Value>, Failure> {
        match event {
            Event::Result(value) => self.result(&value)?,
            Event::Stdout(text) => self.stdout(&text)?,
            Event::Stderr(text) => self.stderr(&text)?,
            Event::Log(record) => self.log(&record)?,
            Event::End(value) => return Ok(Some(value)),
            Event::Error(error) => return Err(error.into()),
            // Later versions of the library may add events.
            _ => {}
        }
        Ok(None)
    }

    /// Prints the last line of a run that succeeded.
    pub fn end(&mut self, value: &Value) -> Result<(), Failure> {
        if self.events {
            return self.json(&Line::End { data: value });
        }
        if value.is_null() { Ok(()) } else { self.value(value) }
    }

    /// Prints the last line of a run that failed.
    pub fn failure(&mut self, failure: &Failure) {
        if !self.events {
            if !failure.is_silent() {
                let _ = self.stderr.line(&screen::error_text(failure));
            }
        } else if !matches!(failure, Failure::StdoutClosed) {
            let line = Line::Error { data: &failure.to_string(), code: failure.code() };
            let _ = self.json(&line);
        }
    }

    /// Prints a warning of the command.
    pub fn warning(&mut self, text: &str) {
        let _ = self.stderr.line(&visible::message(&format!("warning: {text}")));
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
        // A closed standard error does not stop the run.
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

/// Replaces line breaks by spaces. Valid JSON has them only between its tokens,
/// where a guest could insert them to forge a separate line.
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
    fn value_is_written_on_one_line_with_all_digits() {
        let value = Value::from_json("[\n12345678901234567890.10,\r\n\"a\\nb\"]").unwrap();
        let text = serde_json::to_string(&Line::End { data: &value }).unwrap();
        assert_eq!(
            one_line(&text),
            "{\"type\":\"end\",\"data\":[ 12345678901234567890.10,  \"a\\nb\"]}"
        );
    }
}
