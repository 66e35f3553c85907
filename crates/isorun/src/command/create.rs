//! `isorun create`: creates a sandbox.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use super::table;
use crate::{client::Client, failure::Failure};
use isorun_api::NewRun;

#[derive(clap::Args)]
pub struct CreateArgs {
    #[command(flatten)]
    sandbox: SandboxArgs,

    /// Destroy it after this time without activity; 0 for never
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5m")]
    idle: Duration,

    /// Print the sandbox as JSON, instead of its id
    #[arg(long)]
    json: bool,
}

/// The parameters of a new sandbox.
#[derive(clap::Args)]
pub struct SandboxArgs {
    /// An OCI image, or `host`: this machine's own programs, read-only
    pub image: String,

    /// Virtual CPUs [default: 1]
    #[arg(long, value_name = "NUMBER", help_heading = "Limits")]
    vcpus: Option<i64>,

    /// Memory, such as 512M or 2G [default: 1G]
    #[arg(long, value_name = "SIZE", value_parser = mebibytes, help_heading = "Limits")]
    mem: Option<i64>,

    /// Disk space, such as 512M or 20G [default: 10G]
    #[arg(long, value_name = "SIZE", value_parser = mebibytes, help_heading = "Limits")]
    disk: Option<i64>,

    #[command(flatten)]
    rules: super::net::RuleArgs,

    /// Access to the URLs of its ports: open (anyone who knows its id), token (only with a token)
    /// or off (only with an API key)
    #[arg(long, value_name = "WHO", default_value = "open", value_parser = ["open", "token", "off"], help_heading = "Network")]
    urls: String,

    /// Set an environment variable of its commands; repeat it for more
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = env_variable)]
    env: Vec<(String, String)>,
}

impl SandboxArgs {
    pub fn request(&self, idle: Duration) -> NewRun {
        let network = self.rules.clone().change();
        let env: BTreeMap<_, _> = self.env.iter().cloned().collect();
        NewRun {
            image: self.image.clone(),
            vcpus: self.vcpus,
            mem_mib: self.mem,
            disk_mib: self.disk,
            timeout: Some(idle.as_secs_f64()),
            env: (!env.is_empty()).then_some(env),
            urls: (self.urls != "open").then(|| self.urls.clone()),
            network: network.network,
            network_profile: network.network_profile,
            ..NewRun::default()
        }
    }
}

pub async fn run(args: CreateArgs, client: Client) -> Result<ExitCode, Failure> {
    let run = client.create(&args.sandbox.request(args.idle)).await?;
    if args.json { table::json(&run) } else { table::line(run.id.as_str()) }
}

pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|_| {
        "specify a number and a unit, such as 5s, 500ms or 1m, or 0 for none".to_owned()
    })
}

fn mebibytes(text: &str) -> Result<i64, String> {
    let invalid = || "specify a positive integer and a unit, such as 512M or 2G".to_owned();
    let text = text.trim_end_matches("iB");
    let (number, factor) = match text.split_at_checked(text.len().saturating_sub(1)) {
        Some((number, "M" | "m")) => (number, 1),
        Some((number, "G" | "g")) => (number, 1024),
        Some((number, "T" | "t")) => (number, 1024 * 1024),
        _ => return Err(invalid()),
    };
    let number: i64 = number.parse().map_err(|_| invalid())?;
    number.checked_mul(factor).filter(|size| *size > 0).ok_or_else(invalid)
}

pub fn env_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("specify NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed_to_mebibytes() {
        for (text, size) in
            [("512M", 512), ("2G", 2048), ("1GiB", 1024), ("3m", 3), ("1T", 1 << 20)]
        {
            assert_eq!(mebibytes(text), Ok(size), "{text}");
        }
        for text in ["", "M", "512", "-1M", "1.5G", "0M", "9999999999999T", "1K", "\u{e9}"] {
            assert!(mebibytes(text).is_err(), "{text}");
        }
    }
}
