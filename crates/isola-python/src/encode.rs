//! Python values as JSON texts.
//!
//! `json.dumps` would do, but it writes NaN, turns keys that are no strings
//! into strings, and does not say where in a value the trouble is.

use std::fmt::Write as _;

use pyo3::{
    PyTypeInfo as _,
    prelude::*,
    types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple},
};

use crate::failure;

/// Deeper than this a value contains itself, or might as well: an interpreter's
/// own decoder gives up at about a thousand levels.
const MAX_DEPTH: usize = 500;

/// The JSON text of a value.
#[pyfunction]
pub fn encode(value: &Bound<'_, PyAny>) -> PyResult<String> {
    let mut encoder = Encoder { text: String::new(), path: Vec::new() };
    encoder.value(value)?;
    Ok(encoder.text)
}

struct Encoder<'py> {
    text: String,
    /// Where the value is, from the outside in.
    path: Vec<Step<'py>>,
}

enum Step<'py> {
    Index(usize),
    Key(Bound<'py, PyString>),
}

impl<'py> Encoder<'py> {
    fn value(&mut self, value: &Bound<'py, PyAny>) -> PyResult<()> {
        if value.is_none() {
            self.text.push_str("null");
        } else if let Ok(text) = value.cast::<PyString>() {
            self.string(text)?;
        } else if let Ok(truth) = value.cast::<PyBool>() {
            self.text.push_str(if truth.is_true() { "true" } else { "false" });
        } else if let Ok(number) = value.cast::<PyInt>() {
            self.integer(number)?;
        } else if let Ok(number) = value.cast::<PyFloat>() {
            self.float(number)?;
        } else if let Ok(items) = value.cast::<PyList>() {
            self.array(items.iter())?;
        } else if let Ok(items) = value.cast::<PyTuple>() {
            self.array(items.iter())?;
        } else if let Ok(entries) = value.cast::<PyDict>() {
            self.object(entries)?;
        } else {
            let kind = value.get_type().name()?;
            return Err(self.refuse(&format!("{kind} is not a JSON value")));
        }
        Ok(())
    }

    fn string(&mut self, text: &Bound<'py, PyString>) -> PyResult<()> {
        let Ok(text) = text.to_cow() else {
            return Err(self.refuse("the string holds a lone surrogate, which UTF-8 cannot"));
        };
        match serde_json::to_string(&text) {
            Ok(quoted) => self.text.push_str(&quoted),
            Err(error) => return Err(self.refuse(&error.to_string())),
        }
        Ok(())
    }

    fn integer(&mut self, number: &Bound<'py, PyInt>) -> PyResult<()> {
        if let Ok(small) = number.extract::<i64>() {
            let _ = write!(self.text, "{small}");
            return Ok(());
        }
        // An enumeration prints its name; the integer under it, its digits.
        let digits = PyInt::type_object(number.py())
            .call_method1("__repr__", (number,))
            .map_err(|error| self.refuse(&error.value(number.py()).to_string()))?;
        self.text.push_str(digits.cast::<PyString>()?.to_str()?);
        Ok(())
    }

    fn float(&mut self, number: &Bound<'py, PyFloat>) -> PyResult<()> {
        let number = number.value();
        if !number.is_finite() {
            let name = if number.is_nan() { "NaN" } else { "an infinity" };
            return Err(self.refuse(&format!("{name} is not a JSON value")));
        }
        // Keeps the point of a whole number, so that it stays a float.
        let _ = write!(self.text, "{number:?}");
        Ok(())
    }

    fn array(&mut self, items: impl Iterator<Item = Bound<'py, PyAny>>) -> PyResult<()> {
        self.text.push('[');
        for (index, item) in items.enumerate() {
            if index > 0 {
                self.text.push(',');
            }
            self.enter(Step::Index(index))?;
            self.value(&item)?;
            self.path.pop();
        }
        self.text.push(']');
        Ok(())
    }

    fn object(&mut self, entries: &Bound<'py, PyDict>) -> PyResult<()> {
        self.text.push('{');
        for (index, (key, value)) in entries.iter().enumerate() {
            if index > 0 {
                self.text.push(',');
            }
            let Ok(key) = key.cast_into::<PyString>() else {
                return Err(self.refuse("a key is not a string"));
            };
            self.string(&key)?;
            self.text.push(':');
            self.enter(Step::Key(key))?;
            self.value(&value)?;
            self.path.pop();
        }
        self.text.push('}');
        Ok(())
    }

    fn enter(&mut self, step: Step<'py>) -> PyResult<()> {
        self.path.push(step);
        if self.path.len() > MAX_DEPTH {
            self.path.truncate(3);
            return Err(self
                .refuse(&format!("nested deeper than {MAX_DEPTH} levels, or it contains itself")));
        }
        Ok(())
    }

    fn refuse(&self, why: &str) -> PyErr {
        let mut place = String::from("$");
        for step in &self.path {
            let _ = match step {
                Step::Index(index) => write!(place, "[{index}]"),
                Step::Key(key) => write!(place, ".{}", key.to_string_lossy()),
            };
        }
        failure::raise("invalid_argument", &format!("at {place}: {why}"))
    }
}
