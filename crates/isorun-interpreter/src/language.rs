//! The languages of interpreters, and the images that name them.

use std::fmt;

use isola::Runtime;
use serde::{Deserialize, Serialize};

/// The language of an interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Language {
    /// CPython.
    #[serde(rename = "python")]
    Python,
    /// JavaScript, on SpiderMonkey.
    #[serde(rename = "js")]
    JavaScript,
}

impl Language {
    /// All languages.
    pub const ALL: [Self; 2] = [Self::Python, Self::JavaScript];

    /// The beginning of the names of all images of interpreters.
    pub const IMAGE_PREFIX: &'static str = "isola:";

    /// Returns the language of an image, such as `isola:python`.
    #[must_use]
    pub fn of_image(image: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|language| language.image() == image)
    }

    /// Returns the name of its image.
    #[must_use]
    pub fn image(self) -> &'static str {
        match self {
            Self::Python => "isola:python",
            Self::JavaScript => "isola:js",
        }
    }

    /// Returns the name in requests to run code.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::JavaScript => "javascript",
        }
    }

    /// Reports whether a request's name of a language means this one.
    #[must_use]
    pub fn is_named(self, name: &str) -> bool {
        name == self.name() || self == Self::JavaScript && name == "js"
    }

    pub(crate) fn runtime(self) -> Runtime {
        match self {
            Self::Python => Runtime::Python,
            Self::JavaScript => Runtime::JavaScript,
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.image())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_name_languages() {
        for language in Language::ALL {
            assert_eq!(Language::of_image(language.image()), Some(language));
            assert!(language.image().starts_with(Language::IMAGE_PREFIX));
            assert!(language.is_named(language.name()));
        }
        for other in ["isola:", "isola:ruby", "python", "docker.io/library/isola:python", "host"] {
            assert_eq!(Language::of_image(other), None, "{other}");
        }
        assert!(!Language::Python.is_named("js"));
    }
}
