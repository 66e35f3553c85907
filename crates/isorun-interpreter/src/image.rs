//! The images of interpreters.

use std::fmt;

use isola::{Language, Runtime};
use serde::{Deserialize, Serialize};

/// The image of an interpreter. It names the runtime; two of them can have one language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum InterpreterImage {
    /// CPython.
    #[serde(rename = "python")]
    Python,
    /// CPython with packages for data, among them numpy and pandas.
    #[serde(rename = "python-data")]
    PythonData,
    /// JavaScript, on SpiderMonkey.
    #[serde(rename = "js")]
    JavaScript,
}

impl InterpreterImage {
    /// All images. The first one of a language is its default.
    pub const ALL: [Self; 3] = [Self::Python, Self::PythonData, Self::JavaScript];

    /// The beginning of the names of all images of interpreters.
    pub const PREFIX: &'static str = "isola:";

    /// Returns the image with this name, such as `isola:python`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|image| image.name() == name)
    }

    /// Returns the name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "isola:python",
            Self::PythonData => "isola:python-data",
            Self::JavaScript => "isola:js",
        }
    }

    /// Returns the name of the language in requests to run code.
    #[must_use]
    pub fn language(self) -> &'static str {
        match self.runtime().language() {
            Language::Python => "python",
            Language::JavaScript => "javascript",
        }
    }

    /// Reports whether a request's name of a language means the one of this image.
    #[must_use]
    pub fn has_language(self, name: &str) -> bool {
        name == self.language() || self == Self::JavaScript && name == "js"
    }

    /// Reports whether a server loads the runtime when it starts. The first use of a large
    /// one takes long, and many servers never use it.
    #[must_use]
    pub fn is_preloaded(self) -> bool {
        self != Self::PythonData
    }

    /// Returns how the runtime is installed if it is not there.
    #[must_use]
    pub fn installation(self) -> &'static str {
        match self {
            Self::PythonData => {
                "It is installed separately: unpack isola-python-data.tar.gz of the release into \
                 lib/isola below the prefix of the server's program, such as /usr/lib/isola, and \
                 start the server again; in a checkout, run `cargo xtask guests python-data`"
            }
            Self::Python | Self::JavaScript => {
                "A release of isola has the runtimes, and `isola` downloads none by itself; in a \
                 checkout, run `cargo xtask guests`"
            }
        }
    }

    pub(crate) fn runtime(self) -> Runtime {
        match self {
            Self::Python => Runtime::Python,
            Self::PythonData => Runtime::PythonData,
            Self::JavaScript => Runtime::JavaScript,
        }
    }
}

impl fmt::Display for InterpreterImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_have_names_and_languages() {
        for image in InterpreterImage::ALL {
            assert_eq!(InterpreterImage::named(image.name()), Some(image));
            assert_eq!(image.name(), format!("{}{}", InterpreterImage::PREFIX, image.runtime()));
            assert!(image.has_language(image.language()));
        }
        for other in ["isola:", "isola:ruby", "python", "docker.io/library/isola:python", "host"] {
            assert_eq!(InterpreterImage::named(other), None, "{other}");
        }
        assert!(!InterpreterImage::Python.has_language("js"));
        assert_eq!(InterpreterImage::PythonData.language(), "python");
        assert!(!InterpreterImage::PythonData.has_language("python-data"));
    }
}
