//! The parameters of a new run, and their validation. Errors name the field.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use isorun_api::{NewRun, OnIdle};
use isorun_engine::SandboxSpec;
use isorun_interpreter::{InterpreterImage, InterpreterSpec};

use super::{
    error::Error,
    live_run::UrlAccess,
    network::{self, Settings},
    validate::{env, timeout},
};
use crate::config;

/// The longest image name, in bytes.
const MAX_IMAGE_BYTES: usize = 512;

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

impl CreateParams {
    pub fn new(new: NewRun, limits: &config::Limits) -> Result<Self, Error> {
        let rules = network::network_params(new.network_profile.as_deref(), new.network.as_ref())?;
        let credentials = network::credentials(new.credentials.unwrap_or_default())?;
        let network = Settings::new(rules, credentials)?;
        let image = image(new.image)?;
        let ranges = match InterpreterImage::named(&image) {
            None => &LINUX_RANGES,
            Some(_) => &INTERPRETER_RANGES,
        };
        let urls = match InterpreterImage::named(&image) {
            None => urls(new.urls.as_deref())?,
            Some(interpreter) => match new.urls.as_deref() {
                None | Some("off") => UrlAccess::Off,
                Some(_) => {
                    return Err(Error::invalid(format!(
                        "urls: {interpreter} has no ports, so leave this out or give `off`"
                    )));
                }
            },
        };
        let [vcpus, mem_mib, disk_mib] = ranges;
        Ok(Self {
            image,
            vcpus: number("vcpus", new.vcpus, vcpus, limits.vcpus.into())?
                .try_into()
                .unwrap_or(u32::MAX),
            mem_mib: number("mem_mib", new.mem_mib, mem_mib, limits.mem_mib)?,
            disk_mib: number("disk_mib", new.disk_mib, disk_mib, limits.disk_mib)?,
            timeout: new
                .timeout
                .map_or(Ok(config::DEFAULT_IDLE_TIMEOUT), |seconds| timeout("timeout", seconds))?,
            env: new.env.map_or_else(|| Ok(BTreeMap::new()), env)?,
            network,
            urls,
            on_idle: new.on_idle.unwrap_or_default(),
            auto_resume: new.auto_resume.unwrap_or_default(),
        })
    }
}

fn urls(access: Option<&str>) -> Result<UrlAccess, Error> {
    match access {
        None | Some("open") => Ok(UrlAccess::Open),
        Some("off") => Ok(UrlAccess::Off),
        Some("token") => isorun_api::random_hex::<16>()
            .map(UrlAccess::Token)
            .map_err(|error| Error::internal("cannot create a token", error)),
        Some(_) => Err(Error::invalid("urls must be one of open, token and off")),
    }
}

fn image(image: String) -> Result<String, Error> {
    if image.trim().is_empty() {
        return Err(Error::invalid(
            "image is empty: name an OCI image, `host`, or an interpreter such as `isola:python`",
        ));
    }
    if image.len() > MAX_IMAGE_BYTES
        || image.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        return Err(Error::invalid(format!(
            "image is not a valid image name: it has spaces or control characters, or more than \
             {MAX_IMAGE_BYTES} bytes"
        )));
    }
    Ok(image)
}

/// The default of a limit, and the range that the engine supports.
type Range = (u64, RangeInclusive<u64>);

/// The ranges of CPUs, memory and disk space of a Linux sandbox.
const LINUX_RANGES: [Range; 3] = [
    (config::DEFAULT_VCPUS as u64, SandboxSpec::VCPUS),
    (config::DEFAULT_MEM_MIB, SandboxSpec::MEM_MIB),
    (config::DEFAULT_DISK_MIB, SandboxSpec::DISK_MIB),
];

/// The ranges of an interpreter, which runs on one thread.
const INTERPRETER_RANGES: [Range; 3] = [
    (1, 1..=1),
    (InterpreterSpec::DEFAULT_MEM_MIB, InterpreterSpec::MEM_MIB),
    (InterpreterSpec::DEFAULT_DISK_MIB, InterpreterSpec::DISK_MIB),
];

fn number(
    name: &str,
    requested: Option<i64>,
    (default, supported): &Range,
    allowed: u64,
) -> Result<u64, Error> {
    // The range of the engine, restricted by the limits of this server.
    let (min, max) = (*supported.start(), allowed.min(*supported.end()));
    let Some(requested) = requested else { return Ok((*default).min(max)) };
    match u64::try_from(requested) {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => {
            Err(Error::invalid(format!("{name} is {requested}: this server allows {min} to {max}")))
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_rejected() {
        assert_eq!(
            number("n", None, &(10, 1..=9), 5).unwrap(),
            5,
            "the default, restricted by the limit"
        );
        assert_eq!(number("n", Some(3), &(10, 1..=9), 5).unwrap(), 3);
        for bad in [0, -1, 6, i64::MAX, i64::MIN] {
            assert!(number("n", Some(bad), &(10, 1..=9), 5).is_err(), "{bad}");
        }
    }
}
