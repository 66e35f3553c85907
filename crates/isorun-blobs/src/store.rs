//! Objects by name, in S3 or in a directory: with timeouts, retries and bounded responses.

mod connect;
mod failure;
mod http;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

use self::failure::Failure;
use crate::error::{Error, Result};

/// The number of attempts to read an object whose response breaks off.
const MAX_READS: u32 = 3;
/// The delay before the second attempt, which doubles with each.
const FIRST_DELAY: Duration = Duration::from_millis(200);

/// A store of objects, each with a name below the prefix of the URL.
pub(crate) struct Store {
    inner: Arc<dyn ObjectStore>,
    /// The prefix of all objects, empty or with a slash at its end.
    prefix: String,
    /// Added to messages when the store cannot be reached.
    hint: &'static str,
    operation_timeout: Duration,
}

/// An object in a list.
pub(crate) struct Listed {
    /// The name, below the prefix of the store.
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// The time of the last change by the store's clock, in milliseconds since 1970.
    pub(crate) modified_ms: i64,
}

impl Store {
    fn path(&self, name: &str) -> Path {
        Path::from(format!("{}{name}", self.prefix))
    }

    /// Runs an operation with the timeout.
    async fn bounded<T>(
        &self,
        action: &str,
        name: &str,
        operation: impl Future<Output = Result<T, Failure>>,
    ) -> Result<Option<T>> {
        match tokio::time::timeout(self.operation_timeout, operation).await {
            Ok(Ok(value)) => Ok(Some(value)),
            Ok(Err(Failure::NotFound)) => Ok(None),
            Ok(Err(Failure::Error(error))) => Err(error),
            Err(_) => Err(Error::Unavailable {
                why: format!("cannot {action} {name} within {:?}", self.operation_timeout),
                retry: true,
            }),
        }
    }

    /// Returns a function that describes a failure of an operation.
    fn failed(&self, action: &str, name: &str) -> impl Fn(object_store::Error) -> Failure + use<> {
        let (what, hint) = (format!("cannot {action} {name}"), self.hint);
        move |error| Failure::new(&what, hint, &error)
    }

    /// Reads an object of at most `max_bytes`. Returns `None` if it does not exist.
    pub(crate) async fn get(&self, name: &str, max_bytes: usize) -> Result<Option<Vec<u8>>> {
        let failed = self.failed("read", name);
        self.bounded("read", name, async {
            let mut attempt = 1;
            loop {
                let found = self.inner.get(&self.path(name)).await.map_err(&failed)?;
                let too_large =
                    || Error::damaged(format!("{name} has more than {max_bytes} bytes"));
                if found.meta.size > max_bytes as u64 {
                    return Err(too_large().into());
                }
                match found.bytes().await {
                    Ok(bytes) if bytes.len() > max_bytes => return Err(too_large().into()),
                    Ok(bytes) => return Ok(bytes.into()),
                    Err(error) if attempt == MAX_READS => return Err(failed(error)),
                    Err(error) => tracing::debug!(%error, name, "a response broke off"),
                }
                tokio::time::sleep(FIRST_DELAY * 2_u32.pow(attempt - 1)).await;
                attempt += 1;
            }
        })
        .await
    }

    /// Writes an object, replacing one of the same name.
    pub(crate) async fn put(&self, name: &str, content: Vec<u8>) -> Result<()> {
        let failed = self.failed("write", name);
        let written = self
            .bounded("write", name, async {
                let path = self.path(name);
                self.inner.put(&path, content.into()).await.map_err(&failed)
            })
            .await?;
        written.map(|_| ()).ok_or_else(|| Error::Config {
            what: format!(
                "cannot write {name} to the object store: the bucket or directory of its URL does \
                 not exist; create it, or change the URL"
            ),
        })
    }

    /// Returns the time of an object's last change by the store's clock, in milliseconds
    /// since 1970, or `None` if it does not exist.
    pub(crate) async fn modified_ms(&self, name: &str) -> Result<Option<i64>> {
        let failed = self.failed("look up", name);
        self.bounded("look up", name, async {
            let meta = self.inner.head(&self.path(name)).await.map_err(&failed)?;
            Ok(meta.last_modified.timestamp_millis())
        })
        .await
    }

    /// Reports whether an object exists.
    pub(crate) async fn exists(&self, name: &str) -> Result<bool> {
        Ok(self.modified_ms(name).await?.is_some())
    }

    /// Lists all objects whose names begin with `directory` and a slash.
    pub(crate) fn list(&self, directory: &str) -> impl Stream<Item = Result<Listed>> + Send {
        let failed = self.failed("list", directory);
        let limit = self.operation_timeout;
        let why = format!("cannot list {directory} within {limit:?}");
        let prefix = self.prefix.clone();
        let objects = self.inner.list(Some(&self.path(directory)));
        stream::unfold(Some(objects), move |objects| next_within(objects, limit, why.clone()))
            .filter_map(move |next| {
                let listed = match next {
                    Ok(Ok(meta)) => {
                        meta.location.as_ref().strip_prefix(prefix.as_str()).map(|name| {
                            Ok(Listed {
                                name: name.to_owned(),
                                bytes: meta.size,
                                modified_ms: meta.last_modified.timestamp_millis(),
                            })
                        })
                    }
                    Ok(Err(error)) => match failed(error) {
                        Failure::NotFound => None,
                        Failure::Error(error) => Some(Err(error)),
                    },
                    Err(error) => Some(Err(error)),
                };
                std::future::ready(listed)
            })
    }

    /// Deletes an object. Does nothing if it does not exist.
    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        self.delete_all(vec![name.to_owned()]).await
    }

    /// Deletes objects, as many as possible. Returns the first error.
    pub(crate) async fn delete_all(&self, names: Vec<String>) -> Result<()> {
        let Some(first) = names.first().cloned() else { return Ok(()) };
        let failed = self.failed("delete", &format!("{first} and others"));
        let paths: Vec<_> = names.iter().map(|name| Ok(self.path(name))).collect();
        let mut deleted = self.inner.delete_stream(stream::iter(paths).boxed());
        let mut outcome = Ok(());
        loop {
            // Each step deletes at most 1,000 objects.
            let step = async { Ok(deleted.next().await) };
            let Some(next) = self.bounded("delete", &first, step).await? else { break };
            match next.map(|result| result.map_err(&failed)) {
                None => break,
                Some(Ok(_) | Err(Failure::NotFound)) => {}
                Some(Err(Failure::Error(error))) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    /// Returns the time of the store's clock, in milliseconds since 1970: that of the last
    /// change of an object which it writes for this purpose.
    pub(crate) async fn now_ms(&self) -> Result<i64> {
        let name = format!("clock/{}", random_name()?);
        self.put(&name, Vec::new()).await?;
        let now = self.modified_ms(&name).await;
        self.delete(&name).await?;
        now?.ok_or_else(|| Error::Unavailable {
            why: format!("{name} does not exist after it was written"),
            retry: true,
        })
    }
}

type ObjectStream = BoxStream<'static, object_store::Result<object_store::ObjectMeta>>;
type NextObject = Result<object_store::Result<object_store::ObjectMeta>>;

/// Returns the next object of a list, which ends after an error.
async fn next_within(
    objects: Option<ObjectStream>,
    limit: Duration,
    why: String,
) -> Option<(NextObject, Option<ObjectStream>)> {
    let mut objects = objects?;
    match tokio::time::timeout(limit, objects.next()).await {
        Ok(None) => None,
        Ok(Some(Ok(meta))) => Some((Ok(Ok(meta)), Some(objects))),
        Ok(Some(Err(error))) => Some((Ok(Err(error)), None)),
        Err(_) => Some((Err(Error::Unavailable { why, retry: true }), None)),
    }
}

/// Returns a random name of 32 hexadecimal digits.
pub(crate) fn random_name() -> Result<String> {
    Ok(hex::encode(random_bytes()?))
}

/// Returns 16 random bytes.
pub(crate) fn random_bytes() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| Error::internal("the system has no random numbers"))?;
    Ok(bytes)
}
