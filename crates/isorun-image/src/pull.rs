//! Pulls an image: documents first, then layers in parallel, each unpacked as soon
//! as it and those below it are complete.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use oci_spec::image::ImageManifest;
use reqwest::StatusCode;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, spawn_blocking};

use super::digest;
use super::document::{self, Document, ImagePlan, Layer, Platform};
use super::error::{Error, Result};
use super::limits::Limits;
use super::progress::{Progress, ProgressEvent};
use super::reference::Reference;
use super::registry::{Registries, Repository, Retries};
use super::store::{Entry, Image, Lock, PartialWriter, RootBuilder, Store};
use super::unpack::CancelFlag;

/// The progress of an interrupted attempt, in bytes, that resets the retry count.
const MIN_PROGRESS_BYTES: u64 = 1 << 20;

/// The options of a pull.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PullOptions {
    /// The registries and their credentials.
    pub registries: Registries,
    /// The platform of the image; by default this machine's.
    pub platform: Platform,
    /// The resource limits.
    pub limits: Limits,
}

impl Store {
    /// Fetches the missing parts of an image and unpacks it. Dropping the future
    /// cancels the pull; a later one resumes with the bytes that were fetched.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: &Progress,
    ) -> Result<Image> {
        let limit = options.limits.pull;
        match tokio::time::timeout(limit, pull(self, reference, options, progress)).await {
            Ok(pulled) => pulled,
            Err(_) => Err(Error::Timeout { what: format!("pulling {reference}"), limit }),
        }
    }

    /// Unpacks the layers of a plan, unless they already are, and adds the image to
    /// the index. `ready` waits until a layer's blob is complete.
    pub(super) async fn finish_image<'a>(
        &'a self,
        reference: &Reference,
        top: &oci_spec::image::Digest,
        plan: &'a ImagePlan,
        limits: &Limits,
        progress: &Progress,
        ready: impl Fn(usize) -> BoxFuture<'a, Result<()>>,
    ) -> Result<Image> {
        let build_lock = self.lock_build("root", &plan.chain_id).await?;
        if self.has_root(&plan.chain_id)? {
            for at in 0..plan.layers.len() {
                ready(at).await?;
            }
        } else {
            self.unpack(plan, limits, progress, &ready).await?;
        }
        drop(build_lock);
        self.put_document(&plan.manifest_digest, &plan.manifest)?;
        self.put_document(&plan.config_digest, &plan.config)?;
        let mut entry = Entry {
            reference: reference.to_string(),
            digest: top.clone(),
            manifest: plan.manifest_digest.clone(),
            config: plan.config_digest.clone(),
            layers: plan.layers.iter().map(|layer| layer.digest.clone()).collect(),
            chain_id: plan.chain_id.clone(),
            compressed: plan.bytes,
            size: 0,
            created: 0,
        };
        let image = self.open_image(reference, &entry)?;
        entry.size = image.size;
        self.add_to_index(entry).await?;
        Ok(image)
    }
}

impl Store {
    /// Unpacks all layers into a directory, and publishes it under its ChainID.
    async fn unpack<'a>(
        &self,
        plan: &ImagePlan,
        limits: &Limits,
        progress: &Progress,
        ready: &impl Fn(usize) -> BoxFuture<'a, Result<()>>,
    ) -> Result<()> {
        let cancel = CancelFlag::default();
        let _cancel = CancelOnDrop(cancel.clone());
        let mut building = self.build_root(&plan.chain_id, limits, cancel)?;
        for (at, layer) in plan.layers.iter().enumerate() {
            let mut outcome = ready(at).await;
            if outcome.is_ok() {
                let (store, layer, progress) = (self.clone(), layer.clone(), progress.clone());
                (building, outcome) = blocking(move || {
                    progress.report(ProgressEvent::Unpacking { layer: layer.digest.to_string() });
                    let outcome = unpack(&store, &mut building, &layer);
                    progress.report(ProgressEvent::Unpacked { layer: layer.digest.to_string() });
                    Ok((building, outcome))
                })
                .await?;
            }
            if let Err(error) = outcome {
                blocking(move || {
                    building.discard();
                    Ok(())
                })
                .await?;
                return Err(error);
            }
        }
        blocking(move || building.commit()).await
    }
}

async fn pull(
    store: &Store,
    reference: &Reference,
    options: &PullOptions,
    progress: &Progress,
) -> Result<Image> {
    let limits = &options.limits;
    let repository = Arc::new(Repository::new(reference, &options.registries, limits, progress)?);
    let (top, plan) = plan(&repository, reference, options).await?;
    progress.report(ProgressEvent::Found { layers: plan.layers.len(), bytes: plan.bytes });
    let digests = plan.layers.iter().map(|layer| &layer.digest);
    let _guard = store
        .protect(digests.chain([&top, &plan.manifest_digest, &plan.config_digest, &plan.chain_id]))
        .await?;

    // A layer that is listed twice is fetched once.
    let mut fetches: Vec<Arc<FetchTask>> = Vec::new();
    let permits = Arc::new(Semaphore::new(limits.parallel.max(1)));
    for layer in &plan.layers {
        let known = fetches.iter().find(|fetch| fetch.digest == layer.digest).cloned();
        fetches.push(known.unwrap_or_else(|| {
            Arc::new(FetchTask::start(store, &repository, layer, progress, &permits))
        }));
    }
    let fetches = &fetches;
    store
        .finish_image(reference, &top, &plan, limits, progress, |at| {
            let fetch = fetches[at].clone();
            Box::pin(async move { fetch.wait().await })
        })
        .await
}

/// Fetches and validates the manifest and the configuration of an image. Returns the
/// digest that the reference stands for, too.
async fn plan(
    repository: &Repository,
    reference: &Reference,
    options: &PullOptions,
) -> Result<(oci_spec::image::Digest, ImagePlan)> {
    let what = format!("the manifest of {reference}");
    let name = reference.digest().or(reference.tag()).unwrap_or("latest");
    let bytes = repository.manifest(&what, name).await?;
    let top = match reference.digest() {
        Some(expected) => {
            let expected = digest::parse(&what, expected)?;
            digest::check(&what, &bytes, &expected)?;
            expected
        }
        None => digest::of(&bytes),
    };
    let (digest, bytes, manifest) = match Document::parse(&what, &bytes)? {
        Document::Manifest(manifest) => (top.clone(), bytes, manifest),
        Document::Index(index) => {
            let chosen = document::choose(&reference.to_string(), &index, &options.platform)?;
            let digest = chosen.digest().clone();
            let what = format!("the manifest of {reference} for {}", options.platform);
            let bytes = repository.manifest(&what, digest.as_ref()).await?;
            digest::check(&what, &bytes, &digest)?;
            match Document::parse(&what, &bytes)? {
                Document::Manifest(manifest) => (digest, bytes, manifest),
                Document::Index(_) => {
                    return Err(Error::Unsupported {
                        what,
                        reason: "it is an index nested in an index".to_owned(),
                    });
                }
            }
        }
    };
    document::check_manifest(&manifest, &options.limits)?;
    let config = config(repository, reference, &manifest, &options.limits).await?;
    let plan = ImagePlan::new(
        &reference.to_string(),
        bytes,
        digest,
        &manifest,
        config,
        &options.platform,
        &options.limits,
    )?;
    Ok((top, plan))
}

async fn config(
    repository: &Repository,
    reference: &Reference,
    manifest: &ImageManifest,
    limits: &Limits,
) -> Result<Vec<u8>> {
    let what = format!("the configuration of {reference}");
    let descriptor = manifest.config();
    if descriptor.size() > limits.document {
        return Err(Error::TooLarge { what, limit: format!("{} bytes", limits.document) });
    }
    let bytes = repository.config(&what, descriptor.digest().as_ref()).await?;
    digest::check(&what, &bytes, descriptor.digest())?;
    Ok(bytes)
}

/// A task that fetches a layer.
struct FetchTask {
    digest: oci_spec::image::Digest,
    task: tokio::sync::Mutex<FetchState>,
    abort: tokio::task::AbortHandle,
}

enum FetchState {
    Running(JoinHandle<Result<()>>),
    Done,
}

impl FetchTask {
    fn start(
        store: &Store,
        repository: &Arc<Repository>,
        layer: &Layer,
        progress: &Progress,
        permits: &Arc<Semaphore>,
    ) -> Self {
        let digest = layer.digest.clone();
        let fetcher = LayerFetcher {
            store: store.clone(),
            repository: repository.clone(),
            layer: layer.clone(),
            progress: progress.clone(),
        };
        let permits = permits.clone();
        let task = tokio::spawn(async move {
            let _permit = permits.acquire().await.map_err(|_| Error::Cancelled)?;
            fetcher.fetch().await
        });
        let abort = task.abort_handle();
        Self { digest, task: tokio::sync::Mutex::new(FetchState::Running(task)), abort }
    }

    async fn wait(&self) -> Result<()> {
        let mut state = self.task.lock().await;
        let FetchState::Running(task) = &mut *state else { return Ok(()) };
        let outcome = match task.await {
            Ok(outcome) => outcome,
            Err(error) => return Err(join_error(error)),
        };
        *state = FetchState::Done;
        outcome
    }
}

impl Drop for FetchTask {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

/// The error of one attempt to fetch a layer.
enum AttemptError {
    /// The request has exhausted its own retries.
    Final(Error),
    /// Receiving the response failed: another attempt may succeed.
    Retryable(Error),
}

/// A fetcher of one layer.
struct LayerFetcher {
    store: Store,
    repository: Arc<Repository>,
    layer: Layer,
    progress: Progress,
}

impl LayerFetcher {
    async fn fetch(&self) -> Result<()> {
        let Layer { name, digest, size, .. } = &self.layer;
        // Another process may be fetching it; then it is complete afterwards.
        let build_lock = Arc::new(self.store.lock_build("blob", digest).await?);
        let layer = digest.to_string();
        if !self.store.has_blob(digest, *size) {
            let mut retries = Retries::new(&self.repository, name);
            let partial = self.store.partial(digest);
            let mut restart = false;
            loop {
                let before = partial.len();
                let offset = if restart || before > *size { 0 } else { before };
                let error = match self.attempt(offset, &build_lock).await {
                    Ok(()) => break,
                    // The bytes of an earlier attempt may have been corrupt.
                    Err(AttemptError::Retryable(Error::Digest { .. }))
                        if offset > 0 && !restart =>
                    {
                        restart = true;
                        continue;
                    }
                    Err(AttemptError::Retryable(error)) => error,
                    Err(AttemptError::Final(error)) => return Err(error),
                };
                if matches!(error, Error::TooLarge { .. }) {
                    partial.discard();
                }
                // A bad connection that makes progress is not a failure.
                if partial.len() >= before + MIN_PROGRESS_BYTES {
                    retries = Retries::new(&self.repository, name);
                }
                retries.wait_or_fail(error, None).await?;
            }
        }
        self.progress.report(ProgressEvent::Complete { layer });
        Ok(())
    }

    async fn attempt(&self, offset: u64, build_lock: &Arc<Lock>) -> Result<(), AttemptError> {
        let Layer { name, digest, size, .. } = &self.layer;
        let layer = digest.to_string();
        let (mut response, offset) = if offset == *size {
            // All bytes are stored, but not yet verified.
            (None, offset)
        } else {
            let response = self.repository.blob(name, &layer, offset).await;
            let response = response.map_err(AttemptError::Final)?;
            let resumed = response.status() == StatusCode::PARTIAL_CONTENT;
            (Some(response), if resumed { offset } else { 0 })
        };
        self.progress.report(ProgressEvent::Fetching {
            layer: layer.clone(),
            bytes: *size,
            done: offset,
        });
        let (sender, writer) = self.spawn_writer(offset, build_lock.clone());
        let received = match &mut response {
            Some(response) => self.receive(response, offset, &sender).await,
            None => Ok(()),
        };
        drop(sender);
        let written = writer.await.map_err(|error| AttemptError::Final(join_error(error)))?;
        let append = match (received, written) {
            // A failed write also ends the download, so it is the cause.
            (_, Err(error)) | (Err(error), _) => return Err(AttemptError::Retryable(error)),
            (Ok(()), Ok(append)) => append,
        };
        if append.len() < *size {
            return Err(AttemptError::Retryable(Error::Unreachable {
                registry: self.repository.registry().to_owned(),
                what: name.clone(),
                reason: format!("the response ends after {} of {size} bytes", append.len()),
            }));
        }
        let (name, build_lock) = (name.clone(), build_lock.clone());
        blocking(move || {
            let _build_lock = build_lock;
            append.commit(&name)
        })
        .await
        .map_err(AttemptError::Retryable)
    }

    /// Writes and hashes the received bytes on a blocking thread. The written bytes
    /// are kept if the pull is cancelled.
    fn spawn_writer(
        &self,
        offset: u64,
        build_lock: Arc<Lock>,
    ) -> (mpsc::Sender<Bytes>, JoinHandle<Result<PartialWriter>>) {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(32);
        let partial = self.store.partial(&self.layer.digest);
        let writer = spawn_blocking(move || {
            let _build_lock = build_lock;
            let mut append = partial.append(offset)?;
            while let Some(bytes) = receiver.blocking_recv() {
                append.write(&bytes)?;
            }
            Ok(append)
        });
        (sender, writer)
    }

    /// Receives the body of a response and sends it to the writer.
    async fn receive(
        &self,
        response: &mut reqwest::Response,
        offset: u64,
        sender: &mpsc::Sender<Bytes>,
    ) -> Result<()> {
        let Layer { name, digest, size, .. } = &self.layer;
        let mut left = size - offset;
        let too_large = || Error::TooLarge {
            what: format!("{name}: the registry sends more than the size in the manifest, which"),
            limit: format!("{size} bytes"),
        };
        if response.content_length().is_some_and(|length| length > left) {
            return Err(too_large());
        }
        loop {
            let chunk = response.chunk().await;
            let Some(chunk) =
                chunk.map_err(|error| self.repository.transport_error(name, &error))?
            else {
                return Ok(());
            };
            let count = chunk.len() as u64;
            left = left.checked_sub(count).ok_or_else(too_large)?;
            if sender.send(chunk).await.is_err() {
                // The writer has failed, and returns the cause.
                return Ok(());
            }
            self.progress
                .report(ProgressEvent::Fetched { layer: digest.to_string(), bytes: count });
        }
    }
}

/// Unpacks one layer onto those below it, and verifies its DiffID.
fn unpack(store: &Store, building: &mut RootBuilder, layer: &Layer) -> Result<()> {
    let blob = store.open_blob(&layer.digest)?;
    let unpacked = building
        .unpacker()?
        .apply_layer(&layer.name, blob, &layer.diff_id)
        .and_then(|diff| digest::same(&layer.name, &layer.diff_id, &diff));
    match unpacked {
        Err(error @ (Error::Layer { .. } | Error::Digest { .. }))
            // Is the image invalid, or was the blob corrupted on disk?
            if !store.blob_is_intact(&layer.digest)? =>
        {
            store.remove_blob(&layer.digest)?;
            Err(Error::Damaged {
                what: format!(
                    "{} was corrupt on disk and has been removed; pull or import the image again \
                     ({error})",
                    layer.name
                ),
            })
        }
        other => other,
    }
}

/// A guard that cancels the work of another thread when it is dropped.
struct CancelOnDrop(CancelFlag);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Runs blocking work on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    spawn_blocking(work).await.map_err(join_error)?
}

/// Converts the error of a task that panicked or was cancelled.
fn join_error(error: tokio::task::JoinError) -> Error {
    if error.is_cancelled() {
        return Error::Cancelled;
    }
    Error::Io {
        what: "complete the operation on an image".to_owned(),
        path: None,
        source: std::io::Error::other(error),
    }
}
