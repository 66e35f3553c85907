//! The arguments of a call.

use serde::Serialize;

use crate::{error::Error, value::Value};

/// Positional and named arguments, in order.
///
/// Create them with the [`args!`](crate::args) macro or with the methods:
///
/// ```
/// use isola::Args;
///
/// let args = Args::new().push("World").named("greeting", "Hi");
/// ```
///
/// A value that JSON cannot represent is reported by the call.
#[derive(Debug, Default)]
pub struct Args {
    list: Vec<Argument>,
    /// The first error of an argument, which the call returns.
    error: Option<Error>,
}

/// One argument. Without a name it is positional.
#[derive(Debug)]
pub(crate) struct Argument {
    pub(crate) name: Option<String>,
    pub(crate) value: Value,
}

impl Args {
    /// Creates an empty list of arguments.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a positional argument.
    #[must_use]
    pub fn push<T: Serialize + ?Sized>(self, value: &T) -> Self {
        self.add(None, value)
    }

    /// Adds a named argument.
    #[must_use]
    pub fn named<T: Serialize + ?Sized>(self, name: impl Into<String>, value: &T) -> Self {
        self.add(Some(name.into()), value)
    }

    /// Adds a named or positional argument that is already a [`Value`].
    #[must_use]
    pub fn value(mut self, name: Option<String>, value: Value) -> Self {
        if self.is_unused(name.as_deref()) {
            self.list.push(Argument { name, value });
        }
        self
    }

    fn add<T: Serialize + ?Sized>(mut self, name: Option<String>, value: &T) -> Self {
        self.is_unused(name.as_deref());
        match Value::new(value) {
            Ok(value) => self.list.push(Argument { name, value }),
            Err(error) => {
                let which = name.map_or_else(
                    || format!("positional argument {}", self.list.len()),
                    |name| format!("argument {name:?}"),
                );
                self.error.get_or_insert_with(|| {
                    Error::InvalidArgument(format!("{which}: {}", error.message()))
                });
            }
        }
        self
    }

    /// Reports whether no argument has this name yet. A duplicate name fails the call.
    fn is_unused(&mut self, name: Option<&str>) -> bool {
        let Some(name) = name else { return true };
        let is_unused = self.list.iter().all(|argument| argument.name.as_deref() != Some(name));
        if !is_unused {
            self.error.get_or_insert_with(|| {
                Error::InvalidArgument(format!("the argument {name:?} is given twice"))
            });
        }
        is_unused
    }

    pub(crate) fn into_list(self) -> Result<Vec<Argument>, Error> {
        match self.error {
            None => Ok(self.list),
            Some(error) => Err(error),
        }
    }
}

/// Creates the arguments of a call: positional values, then `name = value` pairs.
///
/// ```
/// let args = isola::args!["World", 3, greeting = "Hi"];
/// ```
#[macro_export]
macro_rules! args {
    (@add $args:expr $(,)?) => { $args };
    (@add $args:expr, $name:ident = $value:expr $(, $($rest:tt)*)?) => {
        $crate::args!(@add $args.named(stringify!($name), &$value) $(, $($rest)*)?)
    };
    (@add $args:expr, $value:expr $(, $($rest:tt)*)?) => {
        $crate::args!(@add $args.push(&$value) $(, $($rest)*)?)
    };
    ($($arguments:tt)*) => { $crate::args!(@add $crate::Args::new(), $($arguments)*) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn arguments_keep_their_order() {
        let list = crate::args![1, "two", three = 3.5].into_list().unwrap();
        let shown: Vec<_> =
            list.iter().map(|a| (a.name.as_deref(), a.value.as_str().to_owned())).collect();
        assert_eq!(
            shown,
            [
                (None, "1".to_owned()),
                (None, "\"two\"".to_owned()),
                (Some("three"), "3.5".to_owned())
            ]
        );
        assert!(crate::args![].into_list().unwrap().is_empty());
    }

    #[test]
    fn duplicate_names_and_nan_are_refused() {
        let twice = crate::args![a = 1, a = 2].into_list().unwrap_err().to_string();
        assert!(twice.contains("\"a\" is given twice"), "{twice}");
        let value = crate::Value::null();
        let twice = crate::args![a = 1].value(Some("a".to_owned()), value);
        assert!(twice.into_list().unwrap_err().to_string().contains("given twice"));
        let nan = crate::args![1, [f64::NAN]].into_list().unwrap_err().to_string();
        assert!(nan.contains("positional argument 1") && nan.contains("$[0]"), "{nan}");
    }
}
