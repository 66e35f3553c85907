//! Creation of runs from images.

use std::{sync::Arc, time::Instant};

use isorun_interpreter::InterpreterImage;

use super::{
    Core,
    create_params::CreateParams,
    destroy_on_drop::DestroyOnDrop,
    error::{Error, ErrorKind},
    live_run::{Defaults, LiveRun},
    network,
    new_sandbox::{self, Origin},
    runs::Reservation,
};
use crate::{clock::millis, store::RunSettings};

/// Creates a run. If the caller is cancelled meanwhile, the run is destroyed, since no
/// client would know its id.
pub async fn create(
    core: &Arc<Core>,
    tenant: &str,
    params: CreateParams,
) -> Result<Arc<LiveRun>, Error> {
    core.admit_run(tenant)?;
    let creation = {
        let (core, tenant) = (Arc::clone(core), tenant.to_owned());
        async move {
            let reservation = core.runs.reserve(&tenant, 1)?;
            let created = create_from_image(&core, &reservation, tenant.clone(), params).await;
            if let Err(error) = &created {
                core.metrics.failed_creates.inc();
                // A tenant could fill the log with what it is refused.
                if error.kind == ErrorKind::TooManyRuns {
                    tracing::debug!(error = error.message, "cannot create a run");
                } else {
                    tracing::warn!(error = error.message, "cannot create a run");
                }
            }
            created
        }
    };
    DestroyOnDrop::create_one(core, "cannot create the run", creation).await
}

async fn create_from_image(
    core: &Arc<Core>,
    reservation: &Reservation<'_>,
    tenant: String,
    params: CreateParams,
) -> Result<Arc<LiveRun>, Error> {
    let started = Instant::now();
    let is_interpreter = InterpreterImage::named(&params.image).is_some();
    if !is_interpreter && !params.image.starts_with(InterpreterImage::PREFIX) {
        // Before the image is pulled.
        let linux = core.engines.linux();
        linux.map_err(|error| Error::engine("cannot create the sandbox", error))?;
    }
    let source = core.images.find(&tenant, &params.image).await?;
    let mut env = source.env.clone();
    env.extend(params.env);
    if is_interpreter {
        network::placeholders(&params.network.credentials, &mut env);
    } else {
        network::environment(&params.network.credentials, &mut env);
    }
    let defaults = Defaults {
        env,
        user: source.user.clone(),
        workdir: source.workdir.clone(),
        urls: params.urls,
    };
    let settings = RunSettings {
        tenant,
        image: params.image,
        digest: source.digest.clone(),
        vcpus: params.vcpus,
        mem_mib: params.mem_mib,
        disk_mib: params.disk_mib,
        timeout_ms: millis(params.timeout),
        defaults: serde_json::to_string(&defaults).unwrap_or_default(),
        network: params.network.store(&core.secret)?,
        on_idle: params.on_idle,
        auto_resume: params.auto_resume,
    };
    let run =
        new_sandbox::make(core, reservation, settings, Origin::Image(&source), started).await?;
    core.metrics.create_seconds.observe(started.elapsed().as_secs_f64());
    Ok(run)
}
