//! Options, as `npm/isola-core/lib/options.js` passes them. Their types are
//! checked, their values are not.

use std::time::Duration;

use isola::{Error, Limits, Mount, SandboxBuilder};
use napi_derive::napi;

use crate::{
    exchange::HttpArgs,
    host::{Callback, HostcallArgs, JsHost},
};

#[napi(object, object_to_js = false)]
#[derive(Default)]
pub struct TemplateOptions {
    pub runtime: String,
    pub sources: SourceOptions,
    pub cache_dir: Option<String>,
    pub no_cache: bool,
    pub reuse_memory: bool,
    pub prelude: Option<String>,
    pub limits: LimitOptions,
    pub mounts: Vec<MountOptions>,
    pub env: Vec<Variable>,
}

/// The source of the runtime: see `isola::RuntimeSource`.
#[napi(object, object_to_js = false)]
#[derive(Default)]
pub struct SourceOptions {
    pub path: Option<String>,
    pub library: Option<String>,
    pub shipped: Vec<String>,
    pub version: Option<String>,
    pub runtimes_dir: Option<String>,
    pub base_url: Option<String>,
    pub sha256: Option<String>,
}

#[napi(object, object_to_js = false)]
#[derive(Default)]
pub struct SandboxOptions {
    pub limits: LimitOptions,
    pub mounts: Vec<MountOptions>,
    pub env: Vec<Variable>,
    pub arguments: Option<Vec<String>>,
    /// The hostcalls that have a handler.
    pub hostcalls: Vec<String>,
    pub http: bool,
}

impl SandboxOptions {
    /// Applies the options to the builder of a sandbox. `limits` are those of its
    /// template or snapshot.
    pub fn apply(
        self,
        builder: SandboxBuilder,
        mut limits: Limits,
        hostcall: Option<Callback<HostcallArgs>>,
        http: Option<Callback<HttpArgs>>,
    ) -> Result<SandboxBuilder, Error> {
        self.limits.apply(&mut limits);
        let names = self.hostcalls.into_iter().collect();
        let http = http.filter(|_| self.http);
        let mut builder = builder.limits(limits).host(JsHost { names, hostcall, http });
        for mount in &self.mounts {
            builder = builder.mount(mount.mount()?);
        }
        for variable in self.env {
            builder = builder.env(variable.name, variable.value);
        }
        if let Some(arguments) = self.arguments {
            builder = builder.arguments(arguments);
        }
        Ok(builder)
    }
}

#[napi(object, object_to_js = false)]
pub struct MountOptions {
    pub host: String,
    pub guest: String,
    pub dir_perms: String,
    pub file_perms: String,
}

#[napi(object, object_to_js = false)]
pub struct Variable {
    pub name: String,
    pub value: String,
}

/// Limits to change; those left out keep their value. An infinite time means no limit.
#[napi(object, object_to_js = false)]
#[derive(Default)]
pub struct LimitOptions {
    pub max_memory: Option<f64>,
    pub cpu_timeout_ms: Option<f64>,
    pub timeout_ms: Option<f64>,
    pub max_value_size: Option<f64>,
    pub max_output_size: Option<f64>,
    pub max_recursion: Option<f64>,
    pub max_pending_hostcalls: Option<f64>,
    pub max_held_memory: Option<f64>,
    pub max_storage: Option<f64>,
    pub max_handles: Option<f64>,
    pub max_requests: Option<f64>,
}

impl LimitOptions {
    pub fn apply(&self, limits: &mut Limits) {
        for (given, limit) in [
            (self.max_memory, &mut limits.max_memory),
            (self.max_value_size, &mut limits.max_value_size),
            (self.max_output_size, &mut limits.max_output_size),
            (self.max_pending_hostcalls, &mut limits.max_pending_hostcalls),
            (self.max_held_memory, &mut limits.max_held_memory),
            (self.max_storage, &mut limits.max_storage),
            (self.max_handles, &mut limits.max_handles),
            (self.max_requests, &mut limits.max_requests),
        ] {
            if let Some(number) = given {
                // The conversion saturates: out-of-range floats become the nearest integer.
                *limit = number as usize;
            }
        }
        if let Some(number) = self.max_recursion {
            limits.max_recursion = number as u32;
        }
        for (given, limit) in
            [(self.cpu_timeout_ms, &mut limits.cpu_timeout), (self.timeout_ms, &mut limits.timeout)]
        {
            if let Some(time) = given {
                *limit = milliseconds(time);
            }
        }
    }
}

/// Converts milliseconds to a duration; `None` means no limit.
pub fn milliseconds(time: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(time / 1000.0).ok()
}

impl MountOptions {
    pub fn mount(&self) -> Result<Mount, Error> {
        Ok(Mount::new(&self.host, &self.guest)
            .dir_perms(self.dir_perms.parse()?)
            .file_perms(self.file_perms.parse()?))
    }
}
