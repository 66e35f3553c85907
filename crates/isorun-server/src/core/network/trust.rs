//! The environment of a sandbox with credentials: placeholders, base URLs, and the
//! certificate of its own authority in the usual trust stores.

use std::{collections::BTreeMap, path::Path};

use isorun_agent::{client, protocol::WriteFile};
use isorun_egress::{Credentials, credentials::PLACEHOLDER, intercept::GATEWAY};
use isorun_engine::SandboxId;

use crate::core::{engines::Engines, error::Error};

/// The path in the sandbox of the authority's certificate.
const CA_CERT_PATH: &str = "/etc/isorun/ca.pem";
/// The path in the sandbox of the bundle of all trusted certificates.
const CA_BUNDLE_PATH: &str = "/etc/isorun/ca-bundle.pem";
/// The usual paths of trusted certificates; the first that exists is used.
const SYSTEM_BUNDLE_PATHS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// The maximum size of a bundle that is read, in bytes.
const MAX_BUNDLE_BYTES: usize = 4 << 20;

/// Adds the placeholders of credentials to the environment of an interpreter, whose
/// requests need no base URL and no certificate: the server sends them. Variables that
/// are already set stay unchanged.
pub fn placeholders(credentials: &Credentials, env: &mut BTreeMap<String, String>) {
    for credential in credentials.list() {
        env.entry(credential.name.clone()).or_insert_with(|| PLACEHOLDER.to_owned());
    }
}

/// Adds the environment variables of a run with these credentials. Variables that are
/// already set stay unchanged.
pub fn environment(credentials: &Credentials, env: &mut BTreeMap<String, String>) {
    if credentials.list().is_empty() {
        return;
    }
    let gateway = format!("http://{}", GATEWAY.ip());
    let mut set = |name: &str, value: String| {
        env.entry(name.to_owned()).or_insert(value);
    };
    for credential in credentials.list() {
        set(&credential.name, PLACEHOLDER.to_owned());
        if let Some((variable, path)) = &credential.base {
            set(variable, format!("{gateway}/{}{path}", credential.host));
        }
    }
    set("ISORUN_PROXY_URL", gateway);
    set("NODE_EXTRA_CA_CERTS", CA_CERT_PATH.to_owned());
    for name in [
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "PIP_CERT",
        "AWS_CA_BUNDLE",
    ] {
        set(name, CA_BUNDLE_PATH.to_owned());
    }
}

/// Writes the certificate to the trust stores of a sandbox.
pub async fn install(
    engines: &Engines,
    sandbox: &SandboxId,
    credentials: &Credentials,
) -> Result<(), Error> {
    let Some(authority) = credentials.authority() else { return Ok(()) };
    let own = authority.certificate();
    let mut files = vec![(CA_CERT_PATH, own.to_owned())];
    let mut system_bundle = None;
    for path in SYSTEM_BUNDLE_PATHS {
        let reading = async {
            let stream = engines.connect(sandbox).await.ok()?;
            client::read_file(stream, path.into())
                .await
                .ok()?
                .read_to_end(MAX_BUNDLE_BYTES)
                .await
                .ok()
        };
        if let Some(bytes) = reading.await {
            system_bundle = Some((path, bytes));
            break;
        }
    }
    let bundle = match &system_bundle {
        Some((_, bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        // An image without certificates gets those of the machine, which are public.
        None => {
            SYSTEM_BUNDLE_PATHS.iter().find_map(|path| read(Path::new(path))).unwrap_or_default()
        }
    };
    let bundle = format!("{}\n{own}", bundle.trim_end());
    if let Some((path, _)) = system_bundle {
        files.push((path, bundle.clone()));
    }
    files.push((CA_BUNDLE_PATH, bundle));
    for (path, text) in files {
        let stream = engines.connect(sandbox).await;
        let stream = stream.map_err(|error| Error::engine("cannot reach the sandbox", error))?;
        let request = WriteFile { path: path.into(), ..WriteFile::default() };
        client::write_file(stream, request, text.as_bytes()).await.map_err(|error| {
            Error::internal("cannot write the certificate to the sandbox", error)
        })?;
    }
    Ok(())
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}
