//! Pulls an image: documents first, then layers side by side, each unpacked as
//! soon as it and those below it are there.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use oci_spec::image::ImageManifest;
use reqwest::StatusCode;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, spawn_blocking};

use super::digest;
use super::document::{self, Document, Layer, Plan, Platform};
use super::error::{Error, Result};
use super::limits::Limits;
use super::progress::{Event, Progress};
use super::reference::Reference;
use super::registry::{Registries, Repository, Tries};
use super::store::{Append, Building, Entry, Image, Lock, Store};
use super::unpack::Stop;

/// Bytes of a layer by which a broken connection has got somewhere.
const PROGRESS: u64 = 1 << 20;

/// How an image is pulled.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PullOptions {
    /// Where from.
    pub registries: Registries,
    /// What for; by default this machine.
    pub platform: Platform,
    /// How much at most.
    pub limits: Limits,
}

impl Store {
    /// Fetches an image, or what is missing of it, and unpacks it. Dropping the
    /// future ends the work; what was fetched until then is not fetched again.
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

    /// Unpacks the layers of a plan, unless that was done before, and gives the
    /// image its name. `ready` waits for a layer's blob to be there.
    pub(super) async fn complete<'a>(
        &'a self,
        reference: &Reference,
        top: &oci_spec::image::Digest,
        plan: &'a Plan,
        limits: &Limits,
        progress: &Progress,
        ready: impl Fn(usize) -> BoxFuture<'a, Result<()>>,
    ) -> Result<Image> {
        let making = self.making("root", &plan.chain).await?;
        if self.has_root(&plan.chain)? {
            for at in 0..plan.layers.len() {
                ready(at).await?;
            }
        } else {
            self.unpack(plan, limits, progress, &ready).await?;
        }
        drop(making);
        self.keep_document(&plan.manifest_digest, &plan.manifest)?;
        self.keep_document(&plan.config_digest, &plan.config)?;
        let mut entry = Entry {
            reference: reference.to_string(),
            digest: top.clone(),
            manifest: plan.manifest_digest.clone(),
            config: plan.config_digest.clone(),
            layers: plan.layers.iter().map(|layer| layer.digest.clone()).collect(),
            chain: plan.chain.clone(),
            compressed: plan.bytes,
            size: 0,
            created: 0,
        };
        let image = self.image(reference, &entry)?;
        entry.size = image.size;
        self.name(entry).await?;
        Ok(image)
    }
}

impl Store {
    /// Unpacks all layers into a folder, and puts it into place.
    async fn unpack<'a>(
        &self,
        plan: &Plan,
        limits: &Limits,
        progress: &Progress,
        ready: &impl Fn(usize) -> BoxFuture<'a, Result<()>>,
    ) -> Result<()> {
        let stop = Stop::default();
        let _stop = StopOnDrop(stop.clone());
        let mut building = self.build_root(&plan.chain, limits, stop)?;
        for (at, layer) in plan.layers.iter().enumerate() {
            let mut outcome = ready(at).await;
            if outcome.is_ok() {
                let (store, layer, progress) = (self.clone(), layer.clone(), progress.clone());
                (building, outcome) = blocking(move || {
                    progress.tell(Event::Unpacking { layer: layer.digest.to_string() });
                    let outcome = unpack(&store, &mut building, &layer);
                    progress.tell(Event::Unpacked { layer: layer.digest.to_string() });
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
    progress.tell(Event::Found { layers: plan.layers.len(), bytes: plan.bytes });
    let digests = plan.layers.iter().map(|layer| &layer.digest);
    let _work = store
        .work(digests.chain([&top, &plan.manifest_digest, &plan.config_digest, &plan.chain]))
        .await?;

    // A layer that comes twice is fetched once.
    let mut fetches: Vec<Arc<Fetch>> = Vec::new();
    let turns = Arc::new(Semaphore::new(limits.parallel.max(1)));
    for layer in &plan.layers {
        let known = fetches.iter().find(|fetch| fetch.digest == layer.digest).cloned();
        fetches.push(known.unwrap_or_else(|| {
            Arc::new(Fetch::begin(store, &repository, layer, progress, &turns))
        }));
    }
    let fetches = &fetches;
    store
        .complete(reference, &top, &plan, limits, progress, |at| {
            let fetch = fetches[at].clone();
            Box::pin(async move { fetch.wait().await })
        })
        .await
}

/// Finds out what an image consists of.
async fn plan(
    repository: &Repository,
    reference: &Reference,
    options: &PullOptions,
) -> Result<(oci_spec::image::Digest, Plan)> {
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
                        reason: "it is an index within an index".to_owned(),
                    });
                }
            }
        }
    };
    document::check_manifest(&manifest, &options.limits)?;
    let config = config(repository, reference, &manifest, &options.limits).await?;
    let plan = Plan::new(
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

/// A layer on its way.
struct Fetch {
    digest: oci_spec::image::Digest,
    task: tokio::sync::Mutex<State>,
    abort: tokio::task::AbortHandle,
}

enum State {
    Running(JoinHandle<Result<()>>),
    Done,
}

impl Fetch {
    fn begin(
        store: &Store,
        repository: &Arc<Repository>,
        layer: &Layer,
        progress: &Progress,
        turns: &Arc<Semaphore>,
    ) -> Self {
        let digest = layer.digest.clone();
        let job = Job {
            store: store.clone(),
            repository: repository.clone(),
            layer: layer.clone(),
            progress: progress.clone(),
        };
        let turns = turns.clone();
        let task = tokio::spawn(async move {
            let _turn = turns.acquire().await.map_err(|_| Error::Cancelled)?;
            job.fetch().await
        });
        let abort = task.abort_handle();
        Self { digest, task: tokio::sync::Mutex::new(State::Running(task)), abort }
    }

    async fn wait(&self) -> Result<()> {
        let mut state = self.task.lock().await;
        let State::Running(task) = &mut *state else { return Ok(()) };
        let outcome = match task.await {
            Ok(outcome) => outcome,
            Err(error) => return Err(crashed(error)),
        };
        *state = State::Done;
        outcome
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

/// How an attempt to fetch a layer fails.
enum Failed {
    /// The request has been repeated as often as it may.
    Finally(Error),
    /// What came in answer to it: the next attempt may fare better.
    Here(Error),
}

/// Fetches one layer.
struct Job {
    store: Store,
    repository: Arc<Repository>,
    layer: Layer,
    progress: Progress,
}

impl Job {
    async fn fetch(&self) -> Result<()> {
        let Layer { name, digest, size, .. } = &self.layer;
        // Somebody else may be at it; then it is there in the end.
        let making = Arc::new(self.store.making("blob", digest).await?);
        let layer = digest.to_string();
        if !self.store.has_blob(digest, *size) {
            let mut tries = Tries::new(&self.repository, name);
            let partial = self.store.partial(digest);
            let mut anew = false;
            loop {
                let before = partial.len();
                let offset = if anew || before > *size { 0 } else { before };
                let error = match self.attempt(offset, &making).await {
                    Ok(()) => break,
                    // What was there from before may have been damaged.
                    Err(Failed::Here(Error::Digest { .. })) if offset > 0 && !anew => {
                        anew = true;
                        continue;
                    }
                    Err(Failed::Here(error)) => error,
                    Err(Failed::Finally(error)) => return Err(error),
                };
                if matches!(error, Error::TooLarge { .. }) {
                    partial.discard();
                }
                // A bad connection that gets somewhere is good enough.
                if partial.len() >= before + PROGRESS {
                    tries = Tries::new(&self.repository, name);
                }
                tries.again(error, None).await?;
            }
        }
        self.progress.tell(Event::Complete { layer });
        Ok(())
    }

    async fn attempt(&self, offset: u64, making: &Arc<Lock>) -> Result<(), Failed> {
        let Layer { name, digest, size, .. } = &self.layer;
        let layer = digest.to_string();
        let (mut response, offset) = if offset == *size {
            // All of it is there but for the check.
            (None, offset)
        } else {
            let response = self.repository.blob(name, &layer, offset).await;
            let response = response.map_err(Failed::Finally)?;
            let resumed = response.status() == StatusCode::PARTIAL_CONTENT;
            (Some(response), if resumed { offset } else { 0 })
        };
        self.progress.tell(Event::Fetching { layer: layer.clone(), bytes: *size, done: offset });
        let (sender, writer) = self.writer(offset, making.clone());
        let fed = match &mut response {
            Some(response) => self.feed(response, offset, &sender).await,
            None => Ok(()),
        };
        drop(sender);
        let written = writer.await.map_err(|error| Failed::Finally(crashed(error)))?;
        let append = match (fed, written) {
            // The disk's trouble is the cause of the other one.
            (_, Err(error)) | (Err(error), _) => return Err(Failed::Here(error)),
            (Ok(()), Ok(append)) => append,
        };
        if append.len() < *size {
            return Err(Failed::Here(Error::Unreachable {
                registry: self.repository.registry().to_owned(),
                what: name.clone(),
                reason: format!("it ends after {} of {size} bytes", append.len()),
            }));
        }
        let (name, making) = (name.clone(), making.clone());
        blocking(move || {
            let _making = making;
            append.commit(&name)
        })
        .await
        .map_err(Failed::Here)
    }

    /// Writes and hashes on a thread of its own. What was written stays there,
    /// also if this pull ends.
    fn writer(
        &self,
        offset: u64,
        making: Arc<Lock>,
    ) -> (mpsc::Sender<Bytes>, JoinHandle<Result<Append>>) {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(32);
        let partial = self.store.partial(&self.layer.digest);
        let writer = spawn_blocking(move || {
            let _making = making;
            let mut append = partial.append(offset)?;
            while let Some(bytes) = receiver.blocking_recv() {
                append.write(&bytes)?;
            }
            Ok(append)
        });
        (sender, writer)
    }

    async fn feed(
        &self,
        response: &mut reqwest::Response,
        offset: u64,
        sender: &mpsc::Sender<Bytes>,
    ) -> Result<()> {
        let Layer { name, digest, size, .. } = &self.layer;
        let mut left = size - offset;
        let longer = || Error::TooLarge {
            what: format!("{name}: the registry sends more than the manifest says, which"),
            limit: format!("{size} bytes"),
        };
        if response.content_length().is_some_and(|length| length > left) {
            return Err(longer());
        }
        loop {
            let chunk = response.chunk().await;
            let Some(chunk) = chunk.map_err(|error| self.repository.unreachable(name, &error))?
            else {
                return Ok(());
            };
            let count = chunk.len() as u64;
            left = left.checked_sub(count).ok_or_else(longer)?;
            if sender.send(chunk).await.is_err() {
                // The writer has failed, and says why.
                return Ok(());
            }
            self.progress.tell(Event::Fetched { layer: digest.to_string(), bytes: count });
        }
    }
}

/// Unpacks one layer onto those below it, and checks that it was that layer.
fn unpack(store: &Store, building: &mut Building, layer: &Layer) -> Result<()> {
    let blob = store.open_blob(&layer.digest)?;
    let unpacked = building
        .unpacker()?
        .layer(&layer.name, blob, &layer.diff)
        .and_then(|diff| digest::same(&layer.name, &layer.diff, &diff));
    match unpacked {
        Err(error @ (Error::Layer { .. } | Error::Digest { .. }))
            // The image's fault, or the disk's?
            if !store.blob_holds(&layer.digest)? =>
        {
            store.drop_blob(&layer.digest)?;
            Err(Error::Damaged {
                what: format!(
                    "{} was damaged on disk and is removed; pull or import the image again \
                     ({error})",
                    layer.name
                ),
            })
        }
        other => other,
    }
}

/// Stops what runs on another thread when nobody waits for it any more.
struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.now();
    }
}

/// Runs what blocks on a thread for that.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    spawn_blocking(work).await.map_err(crashed)?
}

fn crashed(error: tokio::task::JoinError) -> Error {
    if error.is_cancelled() {
        return Error::Cancelled;
    }
    Error::Io {
        what: "finish work on an image".to_owned(),
        path: None,
        source: std::io::Error::other(error),
    }
}
