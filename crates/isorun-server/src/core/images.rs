//! Images of sandboxes. A missing image is taken from the object store of the cluster, or pulled
//! from the registries that the operator allows.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use isorun_api::random_hex;
use isorun_engine::Root;
use isorun_image::{Image, ImageFiles, Progress, PullOptions, Reference, Registries};
use isorun_interpreter::InterpreterImage;

use super::{
    accounts::{Accounts, ledger::Ledger},
    engines::SandboxBase,
    error::{Error, ErrorKind},
    guard::Guard,
    shared_images::{SharedImages, WantedImage},
};
use crate::{
    config::{Config, PullPolicy},
    data_dir,
    store::{Postgres, RunSettings, Store},
};

/// The name of the built-in image: the machine's own programs.
pub const HOST: &str = "host";

/// What a sandbox is made from, and the defaults of its commands.
pub struct ImageSource {
    pub base: SandboxBase,
    /// The digest of the image; empty for `host`.
    pub digest: String,
    pub env: BTreeMap<String, String>,
    pub user: Option<String>,
    pub workdir: Option<String>,
    /// Keeps the files from being deleted until the sandbox holds them.
    image: Option<Image>,
}

impl ImageSource {
    /// Creates the source of a built-in image, which has no files in the store.
    fn built_in(base: SandboxBase) -> Self {
        Self {
            base,
            digest: String::new(),
            env: BTreeMap::new(),
            user: None,
            workdir: None,
            image: None,
        }
    }
}

/// The images of a server.
pub struct Images {
    local: isorun_image::Store,
    /// `None` if images are not pulled.
    pull_options: Option<PullOptions>,
    /// Pulls in progress.
    pulls: Arc<Ledger>,
    guard: Arc<Guard>,
    /// Records which tenant pulled an image.
    store: Store,
    /// Those of the other nodes of the cluster, if it has an object store.
    shared: Option<SharedImages>,
    /// The images that the other nodes know of, by reference.
    announced: Mutex<Option<BTreeMap<String, String>>>,
}

impl Images {
    pub fn open(
        config: &Config,
        store: &Store,
        accounts: &Accounts,
        guard: &Arc<Guard>,
        shared: Option<SharedImages>,
    ) -> Result<Self> {
        Ok(Self {
            local: isorun_image::Store::open(data_dir::images_dir(&config.data_dir))?,
            pull_options: options(&config.pulls),
            pulls: Arc::clone(&accounts.pulls),
            guard: Arc::clone(guard),
            store: store.clone(),
            shared,
            announced: Mutex::default(),
        })
    }

    /// Resolves an image. A missing image is added, which counts against the tenant's limits.
    pub async fn find(&self, tenant: &str, name: &str) -> Result<ImageSource, Error> {
        if name == HOST {
            return Ok(ImageSource::built_in(SandboxBase::Linux(Root::Host)));
        }
        if let Some(interpreter) = InterpreterImage::named(name) {
            return Ok(ImageSource::built_in(SandboxBase::Interpreter { interpreter }));
        }
        if name.starts_with(InterpreterImage::PREFIX) {
            let known = InterpreterImage::ALL.map(InterpreterImage::name).join(", ");
            return Err(Error::new(
                ErrorKind::ImageNotFound,
                format!(
                    "there is no interpreter {name}: the interpreters are {known}. For an image \
                     of that name in a registry, write the registry, as in docker.io/library/{name}"
                ),
            ));
        }
        let reference: Reference = name.parse().map_err(Error::image)?;
        self.find_or_add(tenant, WantedImage::Named(&reference)).await.map(source)
    }

    async fn find_or_add(&self, tenant: &str, wanted: WantedImage<'_>) -> Result<Image, Error> {
        match self.local.resolve(wanted.reference()).map_err(Error::image)? {
            Some(image) => Ok(image),
            None => self.add(tenant, wanted).await,
        }
    }

    /// Adds an image to those of this server.
    async fn add(&self, tenant: &str, wanted: WantedImage<'_>) -> Result<Image, Error> {
        let slot = self.pulls.take(tenant, 1);
        let _slot = slot.map_err(|exhausted| self.pulls.refusal(exhausted))?;
        let image = tokio::select! {
            added = self.fetch_or_pull(wanted) => added?,
            () = self.guard.wait_for_low_disk() => {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!(
                        "the server's disk became nearly full while {} was pulled \
                         (--disk-reserve-mib); try again later",
                        wanted.reference().short()
                    ),
                )
                .after(Duration::from_secs(5)));
            }
        };
        self.store.add_pulled_image(tenant, &image.digest, image.size).await?;
        Ok(image)
    }

    async fn fetch_or_pull(&self, wanted: WantedImage<'_>) -> Result<Image, Error> {
        let reference = wanted.reference();
        if let Some(shared) = &self.shared {
            match shared.fetch(&self.local, wanted).await {
                Ok(Some(image)) => return Ok(image),
                Ok(None) => {}
                // The registry may have it.
                Err(error) if self.pull_options.is_some() => {
                    tracing::warn!(error = error.message, image = %reference, "cannot copy");
                }
                Err(error) => return Err(error),
            }
        }
        let Some(options) = &self.pull_options else {
            return Err(Error::new(
                ErrorKind::ImageNotFound,
                format!(
                    "the image {} does not exist on this server, which does not pull images: its \
                     operator can add it with `isorun image pull`; `host` is always available",
                    reference.short()
                ),
            ));
        };
        tracing::info!(image = %reference, "pulling");
        let pulled = self.local.pull(reference, options, &Progress::none()).await;
        pulled.map_err(Error::image)
    }

    /// Tells the other nodes of the cluster which images this one has, if that has changed.
    pub async fn announce(&self, database: &Postgres) -> Result<(), Error> {
        let entries = self.local.list().map_err(Error::image)?.into_iter();
        let images: BTreeMap<String, String> =
            entries.map(|entry| (entry.reference, entry.manifest.to_string())).collect();
        let announced = || self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        if announced().as_ref() != Some(&images) {
            database.set_node_images(&images).await?;
            *announced() = Some(images);
        }
        Ok(())
    }

    /// Returns the files of an image, to copy them.
    pub async fn files(&self, digest: &str) -> Result<Option<ImageFiles>, Error> {
        self.local.files(digest).await.map_err(Error::image)
    }

    /// Returns the digests of all local images.
    pub fn digests(&self) -> BTreeSet<String> {
        let entries = self.local.list().unwrap_or_default();
        entries.into_iter().map(|entry| entry.manifest.to_string()).collect()
    }

    /// Keeps the files of an image until they are released, even if this process exits
    /// before the sandbox.
    pub fn hold(&self, sandbox: &str, source: &ImageSource) -> Result<(), Error> {
        match &source.image {
            Some(image) => self.local.hold(sandbox, image).map_err(Error::image),
            None => Ok(()),
        }
    }

    /// Keeps the files of an image of a checkpoint from another server, unless the holder keeps
    /// them already. One that is missing here is added.
    pub async fn hold_digest(
        &self,
        holder: &str,
        tenant: &str,
        name: &str,
        digest: &str,
    ) -> Result<(), Error> {
        if digest.is_empty() || self.local.held_root(holder).map_err(Error::image)?.is_some() {
            return Ok(());
        }
        let reference: Reference = name.parse().map_err(Error::image)?;
        let reference = match reference.digest() {
            Some(_) => reference,
            None => format!("{reference}@{digest}").parse().map_err(Error::image)?,
        };
        let image = self.find_or_add(tenant, WantedImage::Exactly(&reference, digest)).await?;
        if image.digest != digest {
            return Err(Error::new(
                ErrorKind::SnapshotIncompatible,
                format!(
                    "the sandbox was created from the image {name} with the digest {digest}, which \
                     this server has not: add it here"
                ),
            ));
        }
        self.local.hold(holder, &image).map_err(Error::image)
    }

    /// Keeps the files of an image in use like [`Self::hold_digest`], by a new holder, until the
    /// result is dropped.
    pub async fn hold_briefly(&self, row: &RunSettings) -> Result<ImageHold<'_>, Error> {
        let digits = random_hex::<8>();
        let digits = digits.map_err(|error| Error::internal("cannot name a holder", error))?;
        let hold = ImageHold { images: self, name: format!("restore-{digits}") };
        self.hold_digest(&hold.name, &row.tenant, &row.image, &row.digest).await?;
        Ok(hold)
    }

    /// Keeps the same files of an image as another holder, and returns their location.
    pub fn copy_hold(&self, image: &str, name: &str, held: &str) -> Result<Root, Error> {
        root(image, self.local.copy_hold(name, held).map_err(Error::image)?)
    }

    /// Returns the location of the files of an image that a holder keeps.
    pub fn root_of(&self, image: &str, held: &str) -> Result<Root, Error> {
        root(image, self.local.held_root(held).map_err(Error::image)?)
    }

    /// Releases the files of a holder.
    pub fn release(&self, sandbox: &str) {
        if let Err(error) = self.local.release(sandbox) {
            tracing::error!(%error, sandbox, "cannot release an image");
        }
    }

    /// Releases the files of all holders that no longer exist.
    pub fn release_all_but(&self, existing: &BTreeSet<String>) -> Result<()> {
        for name in self.local.holds()? {
            if !existing.contains(&name) {
                self.local.release(&name)?;
            }
        }
        Ok(())
    }
}

/// Keeps the files of an image in use until it is dropped.
pub struct ImageHold<'a> {
    images: &'a Images,
    pub name: String,
}

impl Drop for ImageHold<'_> {
    fn drop(&mut self) {
        self.images.release(&self.name);
    }
}

/// Returns the root of a sandbox, from the files that its holder keeps. Only the built-in image
/// has none: without them, a sandbox of another image would get the machine's own.
fn root(image: &str, held: Option<PathBuf>) -> Result<Root, Error> {
    match held {
        Some(directory) => Ok(Root::Directory(directory)),
        None if image == HOST => Ok(Root::Host),
        None => Err(Error::internal("cannot find the image of the sandbox", "it is not held")),
    }
}

/// Returns what a sandbox of an image is made from.
fn source(image: Image) -> ImageSource {
    ImageSource {
        base: SandboxBase::Linux(Root::Directory(image.root.clone())),
        digest: image.digest.clone(),
        env: image.config.env.iter().cloned().collect(),
        user: image.config.user.clone(),
        workdir: image.config.workdir.clone(),
        image: Some(image),
    }
}

fn options(pulls: &PullPolicy) -> Option<PullOptions> {
    let mut registries = Registries::default();
    match pulls {
        PullPolicy::Never => return None,
        PullPolicy::Anywhere => {}
        PullPolicy::From(allowed) => {
            for registry in allowed {
                registries = registries.allow(registry);
            }
        }
    }
    if let Some(host) = std::env::var("ISORUN_REGISTRY").ok().filter(|host| !host.is_empty()) {
        registries = registries.mirror("docker.io", &host);
    }
    let mut options = PullOptions::default();
    options.registries = registries;
    Some(options)
}
