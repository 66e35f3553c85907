//! The state of an interpreter on disk.
//!
//! ```text
//! state.snapshot      a snapshot of isola: memory and files
//! interpreter.json    the image; written last, so that its presence marks a complete state
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    image::InterpreterImage,
};

const STATE_FILE: &str = "state.snapshot";
const MARK_FILE: &str = "interpreter.json";
/// The version of the format.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Mark {
    format: u32,
    /// The name of its runtime. The field is called as in states of earlier servers.
    #[serde(rename = "language")]
    image: InterpreterImage,
}

/// Returns the path of the snapshot in a directory.
pub(crate) fn state_file(dir: &Path) -> PathBuf {
    dir.join(STATE_FILE)
}

/// Marks the state in a directory as complete.
pub(crate) fn mark_complete(dir: &Path, image: InterpreterImage) -> Result<()> {
    let mark = serde_json::to_vec(&Mark { format: FORMAT, image })
        .map_err(|error| Error::Failed(format!("cannot describe an interpreter: {error}")))?;
    fs::write(dir.join(MARK_FILE), mark).map_err(Error::io("cannot write a checkpoint"))
}

/// Reports whether a directory has the complete state of an interpreter.
pub(crate) fn is_complete(dir: &Path) -> bool {
    let read = || serde_json::from_slice::<Mark>(&fs::read(dir.join(MARK_FILE)).ok()?).ok();
    read().is_some_and(|mark| mark.format == FORMAT) && state_file(dir).is_file()
}

/// Returns a fingerprint of everything that a state depends on, apart from its files. The
/// snapshot itself names the build of the runtime, which isola compares.
pub(crate) fn fingerprint(image: InterpreterImage) -> String {
    format!("isola {} {}, format {FORMAT}", env!("CARGO_PKG_VERSION"), image.runtime())
}
