//! Values that are passed between host and guest, as JSON texts.

use std::fmt;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::error::Error;

mod finite;

/// A JSON value, kept as its text.
///
/// The text preserves the exact value, for example an integer of a hundred digits
/// that Python returned. Use [`Value::to`] to convert it to a Rust type.
///
/// ```
/// use isola::Value;
///
/// let value = Value::new(&serde_json::json!({ "answer": 42 }))?;
/// assert_eq!(value.as_str(), r#"{"answer":42}"#);
///
/// #[derive(serde::Deserialize)]
/// struct Reply { answer: u32 }
/// assert_eq!(value.to::<Reply>()?.answer, 42);
/// # Ok::<(), isola::Error>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Value(Box<RawValue>);

impl Value {
    /// Creates a value from anything that serde can serialize.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] with the path of a part that JSON cannot represent:
    /// a NaN, an infinity, or a map key that is not a string.
    pub fn new<T: Serialize + ?Sized>(value: &T) -> Result<Self, Error> {
        finite::check(value)?;
        serde_json::value::to_raw_value(value)
            .map(Self)
            .map_err(|error| Error::InvalidArgument(format!("not a JSON value: {error}")))
    }

    /// Creates a value from its JSON text.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the text is not one JSON value.
    pub fn from_json(text: impl Into<String>) -> Result<Self, Error> {
        RawValue::from_string(text.into())
            .map(Self)
            .map_err(|error| Error::InvalidArgument(format!("not a JSON text: {error}")))
    }

    /// Creates a value from a text that was parsed.
    pub(crate) fn from_raw(text: Box<RawValue>) -> Self {
        Self(text)
    }

    /// Returns the value `null`.
    #[must_use]
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned())
    }

    /// Returns the JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Reports whether this is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.as_str() == "null"
    }

    /// Converts the value to a Rust type.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the value does not fit the type.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_str(self.as_str())
            .map_err(|error| Error::InvalidArgument(format!("unexpected value: {error}")))
    }

    /// Returns the JSON text as a `String`.
    pub fn into_text(self) -> String {
        Box::<str>::from(self.0).into_string()
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Two values are equal if they are the same JSON value, independent of formatting.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        if self.as_str() == other.as_str() {
            return true;
        }
        let parse = |value: &Self| serde_json::from_str::<serde_json::Value>(value.as_str());
        matches!((parse(self), parse(other)), (Ok(a), Ok(b)) if a == b)
    }
}

impl PartialEq<serde_json::Value> for Value {
    fn eq(&self, other: &serde_json::Value) -> bool {
        serde_json::from_str::<serde_json::Value>(self.as_str()).is_ok_and(|value| value == *other)
    }
}

impl From<serde_json::Value> for Value {
    fn from(value: serde_json::Value) -> Self {
        // The text of a `serde_json::Value` is JSON by construction.
        RawValue::from_string(value.to_string()).map_or_else(|_| Self::null(), Self)
    }
}
