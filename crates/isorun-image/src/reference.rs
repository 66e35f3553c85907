//! Image references.

use std::fmt;
use std::str::FromStr;

use super::error::{Error, Result};

/// The largest length of a reference, digest included, in bytes.
const MAX_REFERENCE_BYTES: usize = 512;

/// A reference to an image: registry, repository, and a tag or a digest or both.
///
/// Omitted parts have the usual defaults: `python` is
/// `docker.io/library/python:latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Reference {
    /// Returns the host, and the port if there is one, of the registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the path of the image within its registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the tag. A digest, if there is one, takes precedence.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest that the image must have.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Returns the familiar form, without the default registry: `python:3.12`.
    pub fn short(&self) -> String {
        let full = self.to_string();
        let short = full.strip_prefix("docker.io/").unwrap_or(&full);
        short.strip_prefix("library/").unwrap_or(short).to_owned()
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(input: &str) -> Result<Self> {
        let invalid = |reason: &str| Error::Reference {
            input: input.chars().take(100).flat_map(char::escape_debug).collect(),
            reason: reason.to_owned(),
        };
        if input.len() > MAX_REFERENCE_BYTES {
            return Err(invalid(&format!(
                "it has {} bytes, over the limit of {MAX_REFERENCE_BYTES}",
                input.len()
            )));
        }
        if input.bytes().any(|byte| byte.is_ascii_uppercase())
            && input.split(['/', ':', '@']).next().is_some_and(|name| {
                name.bytes().any(|byte| byte.is_ascii_uppercase()) && !name.contains('.')
            })
        {
            return Err(invalid("image references are lower case"));
        }
        let parsed = oci_spec::distribution::Reference::from_str(input)
            .map_err(|error| invalid(&format!("{error}; an example: ghcr.io/owner/name:tag")))?;
        Ok(Self {
            registry: parsed.registry().to_owned(),
            repository: parsed.repository().to_owned(),
            tag: parsed.tag().map(str::to_owned),
            digest: parsed.digest().map(str::to_owned),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_parts_of_references_are_filled_in() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (input, full, short) in [
            ("python", "docker.io/library/python:latest", "python:latest"),
            ("python:3.12", "docker.io/library/python:3.12", "python:3.12"),
            ("owner/name", "docker.io/owner/name:latest", "owner/name:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("ghcr.io/a/b", "ghcr.io/a/b:latest", "ghcr.io/a/b:latest"),
            (
                &format!("python@{digest}"),
                &format!("docker.io/library/python@{digest}"),
                &format!("python@{digest}"),
            ),
            (
                &format!("python:3@{digest}"),
                &format!("docker.io/library/python:3@{digest}"),
                &format!("python:3@{digest}"),
            ),
        ] {
            let reference: Reference = input.parse().unwrap();
            assert_eq!(reference.to_string(), full, "{input}");
            assert_eq!(reference.short(), short, "{input}");
            assert_eq!(full.parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn invalid_references_are_refused() {
        let long = "a".repeat(2000);
        for input in [
            "",
            " ",
            "Python",
            "a b",
            "../etc",
            "/etc/passwd",
            "a/../b",
            "http://host/a",
            "a:",
            "a@",
            "a@sha256:12",
            "a@md5:d41d8cd98f00b204e9800998ecf8427e",
            "a\0b",
            "-a",
            &long,
        ] {
            let error = input.parse::<Reference>().unwrap_err();
            assert_eq!(error.code(), "image_name", "{input}");
        }
    }
}
