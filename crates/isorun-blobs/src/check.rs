//! Checks that a store can be used.

use crate::error::{Error, Result};
use crate::objects::Objects;
use crate::store::random_name;

/// The result of [`Blobs::check`](crate::Blobs::check).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CheckReport {
    /// The operations in their order. After one has failed, those that need it are absent.
    pub steps: Vec<CheckStep>,
}

/// An operation of a check.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CheckStep {
    /// The operation: `write`, `read`, `list` or `delete`.
    pub operation: &'static str,
    /// The error if it failed.
    pub error: Option<Error>,
    /// What to do if it failed.
    pub advice: Option<&'static str>,
}

impl CheckReport {
    /// Reports whether all operations succeeded.
    pub fn is_ok(&self) -> bool {
        self.steps.iter().all(|step| step.error.is_none())
    }
}

/// Writes, reads, lists and deletes a small object.
pub(crate) async fn check(objects: &Objects) -> CheckReport {
    let mut steps = Vec::new();
    let mut step = |operation, outcome: Result<()>| {
        let error = outcome.err();
        let advice = error.as_ref().map(|error| advice(operation, error));
        let is_ok = error.is_none();
        steps.push(CheckStep { operation, error, advice });
        is_ok
    };
    let name = match random_name() {
        Ok(name) => format!("check/{name}"),
        Err(error) => {
            step("write", Err(error));
            return CheckReport { steps };
        }
    };
    // The content is of no use to others, but the keys must work.
    let content = objects.keys.seal(&name, b"check");
    let content = content.map_err(|_| Error::internal("cannot encrypt"));
    let written = match content {
        Ok(content) => objects.store.put(&name, content).await,
        Err(error) => Err(error),
    };
    if step("write", written) {
        step("read", read(objects, &name).await);
        step("list", list(objects, &name).await);
        step("delete", delete(objects, &name).await);
    }
    CheckReport { steps }
}

async fn read(objects: &Objects, name: &str) -> Result<()> {
    let mut content = objects.store.get(name, 1024).await?.ok_or_else(|| absent(name, "read"))?;
    match objects.keys.open(name, &mut content) {
        Some(b"check") => Ok(()),
        _ => Err(Error::damaged(format!("{name} is not what was written"))),
    }
}

async fn list(objects: &Objects, name: &str) -> Result<()> {
    let mut listed = std::pin::pin!(objects.store.list("check"));
    while let Some(object) = futures_util::StreamExt::next(&mut listed).await {
        if object?.name == name {
            return Ok(());
        }
    }
    Err(absent(name, "listed"))
}

async fn delete(objects: &Objects, name: &str) -> Result<()> {
    objects.store.delete(name).await?;
    match objects.store.exists(name).await {
        Ok(true) => {
            let why = format!("{name} exists after it was deleted");
            Err(Error::Unavailable { why, retry: false })
        }
        // Without the permission to read, which is a step of its own, this is not known.
        Ok(false) | Err(Error::Denied { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn absent(name: &str, operation: &str) -> Error {
    let why = format!("{name} was written, but cannot be {operation}");
    Error::Unavailable { why, retry: false }
}

/// Returns what to do about a failed operation.
fn advice(operation: &str, error: &Error) -> &'static str {
    match (error, operation) {
        (Error::Denied { .. }, "write") => {
            "check the credentials, and allow them to write objects (s3:PutObject)"
        }
        (Error::Denied { .. }, "read") => "allow the credentials to read objects (s3:GetObject)",
        (Error::Denied { .. }, "list") => {
            "allow the credentials to list the bucket (s3:ListBucket)"
        }
        (Error::Denied { .. }, _) => "allow the credentials to delete objects (s3:DeleteObject)",
        (Error::Config { .. }, _) => "correct the URL or the variables AWS_...",
        (Error::Unavailable { retry: true, .. }, _) => {
            "check that the endpoint can be reached from this machine, and repeat the check"
        }
        (Error::Damaged { .. }, _) => {
            "check that no proxy or gateway in front of the store changes objects"
        }
        _ => {
            "check that the store is compatible with S3 and strongly consistent: an object must \
             be readable and listed when it was written"
        }
    }
}
