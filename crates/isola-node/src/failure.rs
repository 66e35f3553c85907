//! The form in which errors are passed to JavaScript.

use isola::Error;
use napi_derive::napi;

/// An error, from which `npm/isola-core/lib/errors.js` creates a JavaScript error.
#[napi(object, object_from_js = false)]
#[derive(Debug)]
pub struct Failure {
    pub code: String,
    pub message: String,
    /// The guest's exception, if it caused the error.
    pub exception: Option<Exception>,
    /// What failed, if it was an operation on a file of a sandbox.
    pub file: Option<FileFailure>,
}

#[napi(object, object_from_js = false)]
#[derive(Debug)]
pub struct FileFailure {
    /// The name of the error number, such as `ENOENT`.
    pub reason: &'static str,
    pub path: String,
}

#[napi(object, object_from_js = false)]
#[derive(Debug)]
pub struct Exception {
    pub name: String,
    pub message: String,
    pub traceback: String,
}

impl Failure {
    /// Returns the failure of a call that the caller's signal aborted.
    pub fn aborted() -> Self {
        let message = "the call was aborted".to_owned();
        Self { code: "aborted".to_owned(), message, exception: None, file: None }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            file: match &error {
                Error::File(file) => {
                    Some(FileFailure { reason: file.failure.errno(), path: file.path.clone() })
                }
                _ => None,
            },
            code: error.code().to_owned(),
            message: error.to_string(),
            exception: error.exception().map(|exception| Exception {
                name: exception.name.clone(),
                message: exception.message.clone(),
                traceback: exception.traceback.clone(),
            }),
        }
    }
}
