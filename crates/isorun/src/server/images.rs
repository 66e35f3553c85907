//! From the name of an image to the files of a sandbox. What is not here yet is
//! pulled, from registries that the operator allows.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use anyhow::Result;
use isorun_engine::{
    Root,
    image::{Error, Image, Progress, PullOptions, Reference, Registries, Store},
};

use super::{ApiError, App, Code, config::Pulls};
use crate::data;

/// The machine's own programs, which need no registry.
const HOST: &str = "host";

/// Where a sandbox's files come from, and what its commands start with.
pub struct Source {
    pub root: Root,
    /// Of the image; empty for `host`.
    pub digest: String,
    pub env: BTreeMap<String, String>,
    pub user: Option<String>,
    pub workdir: Option<String>,
    /// Keeps the files until the sandbox has them.
    image: Option<Image>,
}

/// The images of a server.
pub struct Images {
    store: Store,
    pulls: Option<PullOptions>,
}

impl Images {
    pub fn open(data_dir: &Path, pulls: &Pulls) -> Result<Self> {
        let store = Store::open(data::images(data_dir))?;
        Ok(Self { store, pulls: options(pulls) })
    }

    /// Finds the files of an image. One that is not here is pulled on behalf of a
    /// tenant.
    pub async fn find(&self, app: &App, tenant: &str, name: &str) -> Result<Source, ApiError> {
        if name == HOST {
            return Ok(Source {
                root: Root::Host,
                digest: String::new(),
                env: BTreeMap::new(),
                user: None,
                workdir: None,
                image: None,
            });
        }
        let reference: Reference = name.parse().map_err(refusal)?;
        let image = match self.store.resolve(&reference).map_err(refusal)? {
            Some(image) => image,
            None => self.pull(app, tenant, &reference).await?,
        };
        Ok(Source {
            root: Root::Folder(image.root.clone()),
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
                    "there is no image {} on this server, and it pulls none: its operator adds \
                     images with `isorun image pull`, and `host` is always there",
                    reference.short()
                ),
            ));
        };
        tracing::info!(image = %reference, "pulling");
        let pulls = &app.accounts.pulls;
        let _place = pulls.take(tenant, 1).map_err(|exhausted| pulls.refusal(exhausted))?;
        let progress = Progress::none();
        let image = tokio::select! {
            pulled = self.store.pull(reference, options, &progress) => {
                pulled.map_err(refusal)?
            }
            () = app.guard.disk_is_low() => {
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

    /// The digests of all images that are here.
    pub fn digests(&self) -> BTreeSet<String> {
        let entries = self.store.list().unwrap_or_default();
        entries.into_iter().map(|entry| entry.manifest.to_string()).collect()
    }

    /// Keeps a source's files until they are released, even if this process
    /// ends before the sandbox does.
    pub fn hold(&self, sandbox: &str, source: &Source) -> Result<(), ApiError> {
        match &source.image {
            Some(image) => self.store.hold(sandbox, image).map_err(refusal),
            None => Ok(()),
        }
    }

    /// Keeps what another one keeps. Gives where its files are.
    pub fn hold_also(&self, name: &str, held: &str) -> Result<Root, ApiError> {
        let root = self.store.hold_also(name, held).map_err(refusal)?;
        Ok(root.map_or(Root::Host, Root::Folder))
    }

    /// Where the files are that somebody keeps.
    pub fn root_of(&self, held: &str) -> Result<Root, ApiError> {
        let root = self.store.root_of(held).map_err(refusal)?;
        Ok(root.map_or(Root::Host, Root::Folder))
    }

    pub fn release(&self, sandbox: &str) {
        if let Err(error) = self.store.release(sandbox) {
            tracing::error!(%error, sandbox, "cannot release an image");
        }
    }

    /// Releases what sandboxes held that are gone.
    pub fn release_all_but(&self, alive: &BTreeSet<String>) -> Result<()> {
        for name in self.store.holds()? {
            if !alive.contains(&name) {
                self.store.release(&name)?;
            }
        }
        Ok(())
    }
}

fn options(pulls: &Pulls) -> Option<PullOptions> {
    let mut registries = Registries::default();
    match pulls {
        Pulls::Never => return None,
        Pulls::Anywhere => {}
        Pulls::From(allowed) => {
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

/// What the caller is told of an image's trouble.
fn refusal(error: Error) -> ApiError {
    let code = match &error {
        error if error.is_ours() => return ApiError::internal("cannot use the image", error),
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
