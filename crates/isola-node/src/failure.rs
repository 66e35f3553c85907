//! Errors on their way to JavaScript.

use isola::Error;
use napi_derive::napi;

/// What went wrong, for `npm/isola-core/lib/errors.js` to make an error of.
#[napi(object, object_from_js = false)]
#[derive(Debug)]
pub struct Failure {
    pub code: String,
    pub message: String,
    /// The guest's exception, if there is one behind it.
    pub exception: Option<Exception>,
}

#[napi(object, object_from_js = false)]
#[derive(Debug)]
pub struct Exception {
    pub name: String,
    pub message: String,
    pub traceback: String,
}

impl Failure {
    /// The caller's signal ended the call.
    pub fn aborted() -> Self {
        let message = "the call was aborted".to_owned();
        Self { code: "aborted".to_owned(), message, exception: None }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
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
