//! From the name of an image to the files of a sandbox.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use isorun_engine::Root;

use super::{ApiError, Code};

/// Where a sandbox's files come from, and what its commands start with.
pub struct Source {
    pub root: Root,
    /// Of the image; empty for `host`.
    pub digest: String,
    pub env: BTreeMap<String, String>,
    pub user: Option<String>,
    pub workdir: Option<String>,
}

/// The images of a server.
pub struct Images {}

impl Images {
    pub fn open(_data_dir: &Path) -> Result<Self> {
        Ok(Self {})
    }

    pub async fn find(&self, name: &str) -> Result<Source, ApiError> {
        if name == "host" {
            return Ok(Source {
                root: Root::Host,
                digest: String::new(),
                env: BTreeMap::new(),
                user: None,
                workdir: None,
            });
        }
        Err(ApiError::new(
            Code::ImageNotFound,
            format!("there is no image {name:?} on this server: the one that it has is `host`"),
        ))
    }
}
