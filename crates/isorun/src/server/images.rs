//! Images of sandboxes. Missing images are pulled from the registries that the operator
//! allows.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use anyhow::Result;
use isorun_engine::Root;
use isorun_image::{Error, Image, Progress, PullOptions, Reference, Registries, Store};

use super::{ApiError, App, Code, config::PullPolicy};
use crate::data;

/// The name of the built-in image: the machine's own programs.
const HOST: &str = "host";

/// The files of a sandbox, and the defaults of its commands.
pub struct ImageSource {
    pub root: Root,
    /// The digest of the image; empty for `host`.
    pub digest: String,
    pub env: BTreeMap<String, String>,
    pub user: Option<String>,
    pub workdir: Option<String>,
    /// Keeps the files from being deleted until the sandbox holds them.
    image: Option<Image>,
}

/// The images of a server.
pub struct Images {
    store: Store,
    pulls: Option<PullOptions>,
}

impl Images {
    pub fn open(data_dir: &Path, pulls: &PullPolicy) -> Result<Self> {
        let store = Store::open(data::images_dir(data_dir))?;
        Ok(Self { store, pulls: options(pulls) })
    }

    /// Resolves an image. A missing image is pulled, which counts against the tenant's
    /// limits.
    pub async fn find(&self, app: &App, tenant: &str, name: &str) -> Result<ImageSource, ApiError> {
        if name == HOST {
            return Ok(ImageSource {
                root: Root::Host,
                digest: String::new(),
                env: BTreeMap::new(),
                user: None,
                workdir: None,
                image: None,
            });
        }
        let reference: Reference = name.parse().map_err(image_error)?;
        let image = match self.store.resolve(&reference).map_err(image_error)? {
            Some(image) => image,
            None => self.pull(app, tenant, &reference).await?,
        };
        Ok(ImageSource {
            root: Root::Directory(image.root.clone()),
            digest: image.digest.clone(),
            env: image.config.env.iter().cloned().collect(),
            user: image.config.user.clone(),
            workdir: image.config.workdir.clone(),
            image: Some(image),
        })
    }

    async fn pull(
        &self,
        app: &App,
        tenant: &str,
        reference: &Reference,
    ) -> Result<Image, ApiError> {
        let Some(options) = &self.pulls else {
            return Err(ApiError::new(
                Code::ImageNotFound,
                format!(
                    "the image {} does not exist on this server, which does not pull images: its \
                     operator can add it with `isorun image pull`; `host` is always available",
                    reference.short()
                ),
            ));
        };
        tracing::info!(image = %reference, "pulling");
        let pulls = &app.accounts.pulls;
        let _slot = pulls.take(tenant, 1).map_err(|exhausted| pulls.refusal(exhausted))?;
        let progress = Progress::none();
        let image = tokio::select! {
            pulled = self.store.pull(reference, options, &progress) => {
                pulled.map_err(image_error)?
            }
            () = app.guard.wait_for_low_disk() => {
                return Err(ApiError::new(
                    Code::Unavailable,
                    format!(
                        "the server's disk became nearly full while {} was pulled \
                         (--disk-reserve-mib); try again later",
                        reference.short()
                    ),
                )
                .after(Duration::from_secs(5)));
            }
        };
        app.store.add_pulled_image(tenant, &image.digest, image.size).await?;
        Ok(image)
    }

    /// Returns the digests of all local images.
    pub fn digests(&self) -> BTreeSet<String> {
        let entries = self.store.list().unwrap_or_default();
        entries.into_iter().map(|entry| entry.manifest.to_string()).collect()
    }

    /// Keeps the files of an image until they are released, even if this process exits
    /// before the sandbox.
    pub fn hold(&self, sandbox: &str, source: &ImageSource) -> Result<(), ApiError> {
        match &source.image {
            Some(image) => self.store.hold(sandbox, image).map_err(image_error),
            None => Ok(()),
        }
    }

    /// Keeps the same files as another holder, and returns their location.
    pub fn hold_also(&self, name: &str, held: &str) -> Result<Root, ApiError> {
        let root = self.store.copy_hold(name, held).map_err(image_error)?;
        Ok(root.map_or(Root::Host, Root::Directory))
    }

    /// Returns the location of the files of a holder.
    pub fn root_of(&self, held: &str) -> Result<Root, ApiError> {
        let root = self.store.held_root(held).map_err(image_error)?;
        Ok(root.map_or(Root::Host, Root::Directory))
    }

    /// Releases the files of a holder.
    pub fn release(&self, sandbox: &str) {
        if let Err(error) = self.store.release(sandbox) {
            tracing::error!(%error, sandbox, "cannot release an image");
        }
    }

    /// Releases the files of all holders that no longer exist.
    pub fn release_all_but(&self, existing: &BTreeSet<String>) -> Result<()> {
        for name in self.store.holds()? {
            if !existing.contains(&name) {
                self.store.release(&name)?;
            }
        }
        Ok(())
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

/// Converts an error of an image into one for the client.
fn image_error(error: Error) -> ApiError {
    let code = match &error {
        error if error.is_host_error() => return ApiError::internal("cannot use the image", error),
        Error::Reference { .. } => Code::InvalidRequest,
        Error::NotFound { .. } => Code::ImageNotFound,
        Error::NotAllowed { .. } => Code::ImageNotAllowed,
        Error::Registry { .. } | Error::Unreachable { .. } | Error::Timeout { .. } => {
            Code::RegistryFailure
        }
        _ => Code::ImageUnusable,
    };
    ApiError::new(code, error.to_string())
}
