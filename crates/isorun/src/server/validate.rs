//! Validation of requests: parameters of new runs, timeouts, environment variables and
//! paths. Errors name the field.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use isorun_engine::SandboxSpec;

use super::{
    ApiError, config,
    network::{self, Settings},
    proxy::UrlAccess,
};
use isorun_api::{NewRun, OnIdle};

/// The validated parameters of a new run.
#[derive(Clone, Debug)]
pub struct CreateParams {
    pub image: String,
    pub vcpus: u32,
    pub mem_mib: u64,
    pub disk_mib: u64,
    /// The idle timeout; zero for none.
    pub timeout: Duration,
    pub env: BTreeMap<String, String>,
    /// The access to its anonymous URLs.
    pub urls: UrlAccess,
    pub network: Settings,
    pub on_idle: OnIdle,
    pub auto_resume: bool,
}

/// The longest image name, in bytes.
const MAX_IMAGE_BYTES: usize = 512;
/// The longest path, in bytes.
const MAX_PATH_BYTES: usize = 4096;
/// The largest environment, in bytes.
const MAX_ENV_BYTES: usize = 128 << 10;

impl CreateParams {
    pub fn new(new: NewRun, limits: &config::Limits) -> Result<Self, ApiError> {
        let rules = network::network_params(new.network_profile.as_deref(), new.network.as_ref())?;
        let credentials = network::credentials(new.credentials.unwrap_or_default())?;
        let network = Settings::new(rules, credentials)?;
        Ok(Self {
            image: image(new.image)?,
            vcpus: number(
                "vcpus",
                new.vcpus,
                config::DEFAULT_VCPUS.into(),
                &SandboxSpec::VCPUS,
                limits.vcpus.into(),
            )?
            .try_into()
            .unwrap_or(u32::MAX),
            mem_mib: number(
                "mem_mib",
                new.mem_mib,
                config::DEFAULT_MEM_MIB,
                &SandboxSpec::MEM_MIB,
                limits.mem_mib,
            )?,
            disk_mib: number(
                "disk_mib",
                new.disk_mib,
                config::DEFAULT_DISK_MIB,
                &SandboxSpec::DISK_MIB,
                limits.disk_mib,
            )?,
            timeout: new
                .timeout
                .map_or(Ok(config::DEFAULT_IDLE_TIMEOUT), |seconds| timeout("timeout", seconds))?,
            env: new.env.map_or_else(|| Ok(BTreeMap::new()), env)?,
            network,
            urls: urls(new.urls.as_deref())?,
            on_idle: new.on_idle.unwrap_or_default(),
            auto_resume: new.auto_resume.unwrap_or_default(),
        })
    }
}

fn urls(access: Option<&str>) -> Result<UrlAccess, ApiError> {
    match access {
        None | Some("open") => Ok(UrlAccess::Open),
        Some("off") => Ok(UrlAccess::Off),
        Some("token") => isorun_api::random_hex::<16>()
            .map(UrlAccess::Token)
            .map_err(|error| ApiError::internal("cannot create a token", error)),
        Some(_) => Err(ApiError::invalid("urls must be one of open, token and off")),
    }
}

fn image(image: String) -> Result<String, ApiError> {
    if image.trim().is_empty() {
        return Err(ApiError::invalid("image is empty: name an OCI image, or `host`"));
    }
    if image.len() > MAX_IMAGE_BYTES
        || image.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        return Err(ApiError::invalid(format!(
            "image is not a valid image name: it has spaces or control characters, or more than \
             {MAX_IMAGE_BYTES} bytes"
        )));
    }
    Ok(image)
}

fn number(
    name: &str,
    requested: Option<i64>,
    default: u64,
    supported: &RangeInclusive<u64>,
    allowed: u64,
) -> Result<u64, ApiError> {
    // The range of the engine, restricted by the limits of this server.
    let (min, max) = (*supported.start(), allowed.min(*supported.end()));
    let Some(requested) = requested else { return Ok(default.min(max)) };
    match u64::try_from(requested) {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(ApiError::invalid(format!(
            "{name} is {requested}: this server allows {min} to {max}"
        ))),
    }
}

/// Converts a timeout in seconds, where 0 and -1 mean none.
pub fn timeout(name: &str, seconds: f64) -> Result<Duration, ApiError> {
    if seconds == 0.0 || seconds == -1.0 {
        return Ok(Duration::ZERO);
    }
    // NaN fails here as well.
    if !(0.001..=config::MAX_TIMEOUT_SECS).contains(&seconds) {
        return Err(ApiError::invalid(format!(
            "{name} is {seconds}: give seconds, at least 0.001 and at most a year, or 0 or -1 for never"
        )));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Validates environment variables.
pub fn env(env: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, ApiError> {
    for (name, value) in &env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(ApiError::invalid(format!(
                "env: {name:?} is not a valid name of a variable: it is empty, or contains `=` or a NUL byte"
            )));
        }
        no_nul(&format!("env: the value of {name}"), value)?;
    }
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    if bytes > MAX_ENV_BYTES {
        return Err(ApiError::invalid(format!(
            "env has {bytes} bytes: at most {MAX_ENV_BYTES} are allowed"
        )));
    }
    Ok(env)
}

/// Validates a path in a sandbox. It cannot reach files of this machine, since the agent
/// resolves it inside of the sandbox. `..` is refused nevertheless, since its meaning
/// depends on links that the guest controls.
pub fn path(name: &str, path: &str) -> Result<String, ApiError> {
    path_of_bytes(name, path.as_bytes())?;
    Ok(path.to_owned())
}

/// Validates a path that need not be UTF-8, since file names are bytes.
pub fn path_of_bytes(name: &str, path: &[u8]) -> Result<(), ApiError> {
    let text = || String::from_utf8_lossy(path);
    if let Some(at) = path.iter().position(|byte| *byte == 0) {
        return Err(nul_at(name, at));
    }
    if path.first() != Some(&b'/') {
        return Err(ApiError::invalid(format!(
            "{name} is {:?}: give an absolute path in the sandbox",
            text()
        )));
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(ApiError::invalid(format!(
            "{name} has {} bytes: at most {MAX_PATH_BYTES} are allowed",
            path.len()
        )));
    }
    if path.split(|byte| *byte == b'/').any(|part| part == b"..") {
        return Err(ApiError::invalid(format!(
            "{name} is {:?}: `..` is not allowed in it",
            text()
        )));
    }
    Ok(())
}

/// Checks the validation of a request of the fuzzer.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_new_run(new: NewRun) {
    let limits = config::Config::embedded(std::path::PathBuf::new()).limits;
    if let Ok(params) = CreateParams::new(new, &limits) {
        assert!(
            params.vcpus >= 1
                && params.mem_mib >= *SandboxSpec::MEM_MIB.start()
                && params.disk_mib >= 1
        );
        assert!(env(params.env).is_ok());
    }
}

/// Validates that a text contains no NUL byte, which cannot be passed to a program.
pub fn no_nul(name: &str, text: &str) -> Result<(), ApiError> {
    text.find('\0').map_or(Ok(()), |at| Err(nul_at(name, at)))
}

fn nul_at(name: &str, at: usize) -> ApiError {
    ApiError::invalid(format!(
        "{name} has a NUL byte at offset {at}, which cannot be passed to a program"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Code;

    #[test]
    fn paths() {
        for good in ["/", "/a", "/a/b c/", "/a..b/..c", "/\u{e9}"] {
            assert_eq!(path("path", good).unwrap(), good);
        }
        for bad in
            ["", "a", "./a", "/..", "/a/../b", "../a", "/a\0b", &format!("/{}", "a".repeat(5000))]
        {
            assert_eq!(path("path", bad).unwrap_err().code, Code::InvalidRequest, "{bad}");
        }
    }

    #[test]
    fn timeouts() {
        assert_eq!(timeout("t", 0.0).unwrap(), Duration::ZERO);
        assert_eq!(timeout("t", -1.0).unwrap(), Duration::ZERO);
        assert_eq!(timeout("t", 1.5).unwrap(), Duration::from_millis(1500));
        for bad in [-2.0, f64::NAN, f64::INFINITY, 1e300, 1e-9] {
            assert!(timeout("t", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(
            number("n", None, 10, &(1..=9), 5).unwrap(),
            5,
            "the default, if that is allowed"
        );
        assert_eq!(number("n", Some(3), 10, &(1..=9), 5).unwrap(), 3);
        for bad in [0, -1, 6, i64::MAX, i64::MIN] {
            assert!(number("n", Some(bad), 10, &(1..=9), 5).is_err(), "{bad}");
        }
    }
}
