//! Encodes Python values as JSON texts.
//!
//! `json.dumps` is not used because it writes NaN, converts keys that are not
//! strings, and does not report the path of an invalid part of a value.

use std::fmt::Write as _;

use pyo3::{
    PyTypeInfo as _,
    prelude::*,
    types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple},
};

use crate::failure;

/// The maximum depth of a value. A deeper one probably contains itself, and the
/// JSON decoders of the interpreters fail at about a thousand levels.
const MAX_DEPTH: usize = 500;

/// Returns the JSON text of a value.
#[pyfunction]
pub fn encode(value: &Bound<'_, PyAny>) -> PyResult<String> {
    let mut encoder = Encoder { text: String::new(), path: Vec::new() };
    encoder.value(value)?;
    Ok(encoder.text)
}

struct Encoder<'py> {
    text: String,
    /// The path of the current value, from the outermost value inwards.
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
            return Err(self.invalid(&format!("{kind} is not a JSON value")));
        }
        Ok(())
    }

    fn string(&mut self, text: &Bound<'py, PyString>) -> PyResult<()> {
        let Ok(text) = text.to_cow() else {
            return Err(
                self.invalid("the string contains a lone surrogate, which UTF-8 cannot encode")
            );
        };
        match serde_json::to_string(&text) {
            Ok(quoted) => self.text.push_str(&quoted),
            Err(error) => return Err(self.invalid(&error.to_string())),
        }
        Ok(())
    }

    fn integer(&mut self, number: &Bound<'py, PyInt>) -> PyResult<()> {
        if let Ok(small) = number.extract::<i64>() {
            let _ = write!(self.text, "{small}");
            return Ok(());
        }
        // `int.__repr__`, because the `repr` of an enumeration member is its name.
        let digits = PyInt::type_object(number.py())
            .call_method1("__repr__", (number,))
            .map_err(|error| self.invalid(&error.value(number.py()).to_string()))?;
        self.text.push_str(digits.cast::<PyString>()?.to_str()?);
        Ok(())
    }

    fn float(&mut self, number: &Bound<'py, PyFloat>) -> PyResult<()> {
        let number = number.value();
        if !number.is_finite() {
            let name = if number.is_nan() { "NaN" } else { "an infinity" };
            return Err(self.invalid(&format!("{name} is not a JSON value")));
        }
        // `{:?}` keeps the decimal point of an integral number, so that it remains a float.
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
                return Err(self.invalid("a key is not a string"));
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
            return Err(self.invalid(&format!(
                "the value is nested deeper than {MAX_DEPTH} levels, or contains itself"
            )));
        }
        Ok(())
    }

    fn invalid(&self, why: &str) -> PyErr {
        let mut path = String::from("$");
        for step in &self.path {
            let _ = match step {
                Step::Index(index) => write!(path, "[{index}]"),
                Step::Key(key) => write!(path, ".{}", key.to_string_lossy()),
            };
        }
        failure::raise("invalid_argument", &format!("at {path}: {why}"))
    }
}
