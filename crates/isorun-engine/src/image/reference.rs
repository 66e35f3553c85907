//! The name of an image, in full.

use std::fmt;
use std::str::FromStr;

use super::error::{Error, Result};

/// Names are shorter than this, digest included.
const LONGEST: usize = 512;

/// Which image: registry, repository, and a tag or a digest or both.
///
/// What is left out is filled in as everywhere: `python` is
/// `docker.io/library/python:latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Reference {
    /// The host, and perhaps the port, of the registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path of the image within its registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; if there is a digest, too, it decides.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that the image must have.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// As short as people write it: `python:3.12`.
    pub fn short(&self) -> String {
        let full = self.to_string();
        let short = full.strip_prefix("docker.io/").unwrap_or(&full);
        short.strip_prefix("library/").unwrap_or(short).to_owned()
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(input: &str) -> Result<Self> {
        let wrong = |reason: &str| Error::Reference {
            input: input.chars().take(100).flat_map(char::escape_debug).collect(),
            reason: reason.to_owned(),
        };
        if input.len() > LONGEST {
            return Err(wrong("it is too long"));
        }
        if input.bytes().any(|byte| byte.is_ascii_uppercase())
            && input.split(['/', ':', '@']).next().is_some_and(|name| {
                name.bytes().any(|byte| byte.is_ascii_uppercase()) && !name.contains('.')
            })
        {
            return Err(wrong("names of images are lower case"));
        }
        let parsed = oci_spec::distribution::Reference::from_str(input)
            .map_err(|error| wrong(&format!("{error}; an example: ghcr.io/owner/name:tag")))?;
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
    fn what_is_left_out_is_filled_in() {
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
    fn what_is_no_name_is_refused() {
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
