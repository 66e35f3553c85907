//! What a caller asks for, checked: a request for a run becomes an order, one
//! for a command becomes a task, and what cannot be is refused by name.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use isorun_engine::SandboxSpec;

use super::{
    ApiError, config,
    network::{self, Settings},
    proxy::UrlAccess,
};
use crate::api::{NewRun, OnIdle};

/// A run that can be made.
#[derive(Clone, Debug)]
pub struct Order {
    pub image: String,
    pub vcpus: u32,
    pub mem_mib: u64,
    pub disk_mib: u64,
    /// Zero for never.
    pub timeout: Duration,
    pub env: BTreeMap<String, String>,
    /// Who may use its anonymous URLs.
    pub urls: UrlAccess,
    pub network: Settings,
    pub on_idle: OnIdle,
    pub auto_resume: bool,
}

const MAX_IMAGE: usize = 512;
const MAX_PATH: usize = 4096;
const MAX_ENV_BYTES: usize = 128 << 10;

impl Order {
    pub fn new(new: NewRun, limits: &config::Limits) -> Result<Self, ApiError> {
        let rules = network::order(new.network_profile.as_deref(), new.network.as_ref())?;
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
                .map_or(Ok(config::DEFAULT_IDLE), |seconds| timeout("timeout", seconds))?,
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
        Some("token") => crate::id::random_hex::<16>()
            .map(UrlAccess::Token)
            .map_err(|error| ApiError::internal("cannot draw a token", error)),
        Some(_) => Err(ApiError::invalid("urls is one of open, token and off")),
    }
}

fn image(image: String) -> Result<String, ApiError> {
    if image.trim().is_empty() {
        return Err(ApiError::invalid("image is empty: name an OCI image, or `host`"));
    }
    if image.len() > MAX_IMAGE || image.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(ApiError::invalid(format!(
            "image is no name of an image: it has spaces or control characters, or more than \
             {MAX_IMAGE} bytes"
        )));
    }
    Ok(image)
}

fn number(
    name: &str,
    asked: Option<i64>,
    usual: u64,
    possible: &RangeInclusive<u64>,
    allowed: u64,
) -> Result<u64, ApiError> {
    // What the engine can make, as far as this server allows it.
    let (least, most) = (*possible.start(), allowed.min(*possible.end()));
    let Some(asked) = asked else { return Ok(usual.min(most)) };
    match u64::try_from(asked) {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(ApiError::invalid(format!(
            "{name} is {asked}: this server allows {least} to {most}"
        ))),
    }
}

/// Seconds, of which 0 and -1 mean never.
pub fn timeout(name: &str, seconds: f64) -> Result<Duration, ApiError> {
    if seconds == 0.0 || seconds == -1.0 {
        return Ok(Duration::ZERO);
    }
    // Not a number fails here as well.
    if !(0.001..=config::MAX_SECONDS).contains(&seconds) {
        return Err(ApiError::invalid(format!(
            "{name} is {seconds}: give seconds, at least 0.001 and at most a year, or 0 or -1 for never"
        )));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Environment variables as a program can have them.
pub fn env(env: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, ApiError> {
    for (name, value) in &env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(ApiError::invalid(format!(
                "env: {name:?} is no name of a variable: it is empty, or has `=` or a NUL byte in it"
            )));
        }
        no_nul(&format!("env: the value of {name}"), value)?;
    }
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    if bytes > MAX_ENV_BYTES {
        return Err(ApiError::invalid(format!(
            "env has {bytes} bytes: {MAX_ENV_BYTES} are allowed"
        )));
    }
    Ok(env)
}

/// A path inside of a sandbox. Nothing on this machine is reached by it: it is
/// resolved by the agent, inside. `..` is refused all the same, since what it
/// means there depends on links that a guest chose.
pub fn path(name: &str, path: &str) -> Result<String, ApiError> {
    path_of_bytes(name, path.as_bytes())?;
    Ok(path.to_owned())
}

/// The same for a path that need not be UTF-8: names of files are bytes.
pub fn path_of_bytes(name: &str, path: &[u8]) -> Result<(), ApiError> {
    let text = || String::from_utf8_lossy(path);
    if let Some(at) = path.iter().position(|byte| *byte == 0) {
        return Err(nul_at(name, at));
    }
    if path.first() != Some(&b'/') {
        return Err(ApiError::invalid(format!(
            "{name} is {:?}: give an absolute path inside of the sandbox",
            text()
        )));
    }
    if path.len() > MAX_PATH {
        return Err(ApiError::invalid(format!(
            "{name} has {} bytes: {MAX_PATH} are allowed",
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

/// Checks a request for a run that the fuzzer made.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_new_run(new: NewRun) {
    let limits = config::Config::embedded(std::path::PathBuf::new()).limits;
    if let Ok(order) = Order::new(new, &limits) {
        assert!(
            order.vcpus >= 1
                && order.mem_mib >= *SandboxSpec::MEM_MIB.start()
                && order.disk_mib >= 1
        );
        assert!(env(order.env).is_ok());
    }
}

/// A text that can be handed to a program.
pub fn no_nul(name: &str, text: &str) -> Result<(), ApiError> {
    text.find('\0').map_or(Ok(()), |at| Err(nul_at(name, at)))
}

fn nul_at(name: &str, at: usize) -> ApiError {
    ApiError::invalid(format!("{name} has a NUL byte at offset {at}: no program can be given one"))
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
        assert_eq!(number("n", None, 10, &(1..=9), 5).unwrap(), 5, "the usual, if that is allowed");
        assert_eq!(number("n", Some(3), 10, &(1..=9), 5).unwrap(), 3);
        for bad in [0, -1, 6, i64::MAX, i64::MIN] {
            assert!(number("n", Some(bad), 10, &(1..=9), 5).is_err(), "{bad}");
        }
    }
}
