//! What a sandbox with credentials has inside: placeholders, base URLs, and the
//! certificate of its own authority where programs look for such.

use std::{collections::BTreeMap, path::Path};

use isorun_agent::{client, protocol::WriteFile};
use isorun_engine::{
    SandboxId,
    network::{Credentials, credentials::PLACEHOLDER, intercept::GATEWAY},
};

use crate::server::{ApiError, App, lifecycle::engine_error};

/// The certificate alone, and all that are trusted.
const OWN: &str = "/etc/isorun/ca.pem";
const ALL: &str = "/etc/isorun/ca-bundle.pem";
/// Where systems keep what they trust; the first that is there is taken.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
const MAX_BUNDLE: usize = 4 << 20;

/// The variables of a run with these credentials. What its owner says goes first.
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
    set("NODE_EXTRA_CA_CERTS", OWN.to_owned());
    for name in [
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "PIP_CERT",
        "AWS_CA_BUNDLE",
    ] {
        set(name, ALL.to_owned());
    }
}

/// Puts the certificate into the files of a sandbox.
pub async fn install(
    app: &App,
    sandbox: &SandboxId,
    credentials: &Credentials,
) -> Result<(), ApiError> {
    let Some(authority) = credentials.authority() else { return Ok(()) };
    let own = authority.certificate();
    let mut places = vec![(OWN, own.to_owned())];
    let mut all = None;
    for path in BUNDLES {
        let reading = async {
            let stream = app.engine.connect(sandbox).await.ok()?;
            client::read_file(stream, path.into()).await.ok()?.read_to_end(MAX_BUNDLE).await.ok()
        };
        if let Some(bytes) = reading.await {
            all = Some((path, bytes));
            break;
        }
    }
    let bundle = match &all {
        Some((_, bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        // An image without any: those of the machine, which everybody may know.
        None => BUNDLES.iter().find_map(|path| read(Path::new(path))).unwrap_or_default(),
    };
    let bundle = format!("{}\n{own}", bundle.trim_end());
    if let Some((path, _)) = all {
        places.push((path, bundle.clone()));
    }
    places.push((ALL, bundle));
    for (path, text) in places {
        let stream = app.engine.connect(sandbox).await;
        let stream = stream.map_err(|error| engine_error("cannot reach the sandbox", error))?;
        let request = WriteFile { path: path.into(), ..WriteFile::default() };
        client::write_file(stream, request, text.as_bytes()).await.map_err(|error| {
            ApiError::internal("cannot give the sandbox its certificate", error)
        })?;
    }
    Ok(())
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}
