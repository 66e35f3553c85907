//! The allowed registries, their mirrors and their credentials.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use base64::Engine as _;
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use super::is_loopback;
use crate::error::{Error, Result};
use crate::reference::Reference;

/// The registries that images are pulled from.
///
/// By default every registry is allowed, by https only; those on the loopback
/// interface by http.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    mirrors: BTreeMap<String, String>,
    insecure: BTreeSet<String>,
    allowed: Option<BTreeSet<String>>,
    credentials: BTreeMap<String, RegistryCredentials>,
}

/// The credentials for a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum RegistryCredentials {
    /// A user and a password, or an access token in place of a password.
    User {
        /// The name of the user.
        name: String,
        /// The password.
        password: String,
    },
    /// A bearer token for the registry.
    Token(String),
    /// An identity token, which is exchanged for access tokens, as `docker login`
    /// may store it.
    Identity(String),
}

impl fmt::Debug for RegistryCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RegistryCredentials::User { .. } => "User",
            RegistryCredentials::Token(_) => "Token",
            RegistryCredentials::Identity(_) => "Identity",
        })
    }
}

impl Registries {
    /// Fetches the images of `registry` from another host. `docker.io` is the
    /// registry of references without one.
    #[must_use]
    pub fn mirror(mut self, registry: &str, host: &str) -> Self {
        self.mirrors.insert(registry.to_owned(), host.trim_end_matches('/').to_owned());
        self
    }

    /// Connects to a host by http.
    #[must_use]
    pub fn insecure(mut self, host: &str) -> Self {
        self.insecure.insert(host.to_owned());
        self
    }

    /// Adds a registry to the list of allowed ones. Without the list all are allowed.
    #[must_use]
    pub fn allow(mut self, registry: &str) -> Self {
        self.allowed.get_or_insert_default().insert(registry.to_owned());
        self
    }

    /// Uses credentials for a host.
    #[must_use]
    pub fn credentials(mut self, host: &str, credentials: RegistryCredentials) -> Self {
        self.credentials.insert(canonical_host(host), credentials);
        self
    }

    /// Uses the credentials that `docker login` or `podman login` has written to a
    /// file. A missing file has none. Credential helpers are not executed.
    pub fn docker_config(mut self, path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct DockerConfig {
            #[serde(default)]
            auths: BTreeMap<String, DockerAuth>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        struct DockerAuth {
            auth: Option<String>,
            username: Option<String>,
            password: Option<String>,
            identitytoken: Option<String>,
            registrytoken: Option<String>,
        }
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(self),
            Err(error) => {
                return Err(Error::at("read the credentials for registries", path)(error));
            }
        };
        let malformed =
            |reason: String| Error::Malformed { what: format!("{}", path.display()), reason };
        let config: DockerConfig = serde_json::from_slice(&text)
            .map_err(|error| malformed(format!("it is not a configuration of docker ({error})")))?;
        for (host, auth) in config.auths {
            let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
            let found = if let Some(token) = filled(auth.identitytoken) {
                RegistryCredentials::Identity(token)
            } else if let Some(token) = filled(auth.registrytoken) {
                RegistryCredentials::Token(token)
            } else if let Some(both) = filled(auth.auth) {
                let both = base64::engine::general_purpose::STANDARD
                    .decode(both.trim())
                    .ok()
                    .and_then(|bytes| String::from_utf8(bytes).ok());
                match both.as_deref().and_then(|both| both.split_once(':')) {
                    Some((name, password)) => RegistryCredentials::User {
                        name: name.to_owned(),
                        password: password.trim_end_matches('\0').to_owned(),
                    },
                    None => {
                        return Err(malformed(format!(
                            "the credentials for {host} are not base64 of user:password"
                        )));
                    }
                }
            } else if let (Some(name), Some(password)) = (auth.username, auth.password) {
                RegistryCredentials::User { name, password }
            } else {
                // A credential helper stores them.
                continue;
            };
            self.credentials.entry(canonical_host(&host)).or_insert(found);
        }
        Ok(self)
    }

    /// Returns the URL of an image's manifest.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn url_of(&self, reference: &Reference) -> Result<Url> {
        let endpoint = self.endpoint(reference)?;
        let name = reference.digest().or(reference.tag()).unwrap_or("latest");
        endpoint.url(&format!("{}/manifests/{name}", endpoint.repository))
    }

    /// Returns the endpoint that an image is fetched from.
    pub(super) fn endpoint(&self, reference: &Reference) -> Result<Endpoint> {
        let registry = reference.registry();
        if let Some(allowed) = &self.allowed
            && !allowed.contains(registry)
        {
            return Err(Error::NotAllowed {
                registry: registry.to_owned(),
                allowed: match allowed.len() {
                    0 => "none".to_owned(),
                    _ => allowed.iter().cloned().collect::<Vec<_>>().join(", "),
                },
            });
        }
        let name = match self.mirrors.get(registry) {
            Some(mirror) => mirror.as_str(),
            None if registry == "docker.io" => "registry-1.docker.io",
            None => registry,
        };
        let invalid = || Error::Reference {
            input: name.to_owned(),
            reason: "its registry is not a valid host, such as ghcr.io or localhost:5000"
                .to_owned(),
        };
        // A host with a port, and a path for mirrors that have one.
        let (host, prefix) = name.split_once('/').unwrap_or((name, ""));
        let https = Url::parse(&format!("https://{host}/")).map_err(|_| invalid())?;
        if https.username() != "" || https.path() != "/" || https.host_str().is_none() {
            return Err(invalid());
        }
        let plain = self.insecure.contains(host) || is_loopback(&https);
        let scheme = if plain { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|_| invalid())?;
        let repository = match prefix {
            "" => reference.repository().to_owned(),
            prefix => format!("{prefix}/{}", reference.repository()),
        };
        let keys = [canonical_host(host), canonical_host(registry)];
        // The credentials for a registry are not sent to its mirror.
        let mirrored = self.mirrors.contains_key(registry);
        let keys = if mirrored { &keys[..1] } else { &keys[..] };
        let credentials = keys.iter().find_map(|key| self.credentials.get(key)).cloned();
        Ok(Endpoint { name: host.to_owned(), base, repository, plain, credentials })
    }
}

/// Returns the canonical name of the host that credentials are for: without scheme
/// and path, and `docker.io` for `https://index.docker.io/v1/`.
fn canonical_host(host: &str) -> String {
    let host = host.split_once("://").map_or(host, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or(host);
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

/// The location of one repository.
pub(super) struct Endpoint {
    pub(super) name: String,
    base: Url,
    pub(super) repository: String,
    /// True if the connection is by http.
    pub(super) plain: bool,
    pub(super) credentials: Option<RegistryCredentials>,
}

impl Endpoint {
    /// Returns a URL below `/v2/`. All parts of `path` have been validated.
    pub(super) fn url(&self, path: &str) -> Result<Url> {
        self.base.join(path).map_err(|error| Error::Malformed {
            what: "the URL of an image".to_owned(),
            reason: error.to_string(),
        })
    }

    pub(super) fn host(&self) -> Option<&str> {
        self.base.host_str()
    }

    /// Returns the `Authorization` header for a bearer token, if the credentials
    /// are one.
    pub(super) fn bearer(&self) -> Result<Option<HeaderValue>> {
        match &self.credentials {
            Some(RegistryCredentials::Token(token)) => sensitive_header("Bearer", token).map(Some),
            _ => Ok(None),
        }
    }
}

/// Creates an `Authorization` header that is marked as sensitive, so that logs do
/// not contain it.
pub(super) fn sensitive_header(scheme: &str, token: &str) -> Result<HeaderValue> {
    let mut value =
        HeaderValue::from_str(&format!("{scheme} {token}")).map_err(|_| Error::Malformed {
            what: "a token".to_owned(),
            reason: "it has characters that are not allowed in a header".to_owned(),
        })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(
        registries: &Registries,
        name: &str,
    ) -> Result<(String, Option<RegistryCredentials>)> {
        let endpoint = registries.endpoint(&name.parse()?)?;
        let url = endpoint.url(&format!("{}/x", endpoint.repository))?;
        Ok((url.to_string(), endpoint.credentials))
    }

    #[test]
    fn http_is_used_on_loopback_or_on_request() {
        let registries = Registries::default()
            .insecure("plain.example:5000")
            .mirror("docker.io", "mirror.example")
            .mirror("gcr.io", "cache.example/gcr");
        for (name, url) in [
            ("localhost:5000/a", "http://localhost:5000/v2/a/x"),
            ("127.0.0.1:5000/a", "http://127.0.0.1:5000/v2/a/x"),
            ("plain.example:5000/a", "http://plain.example:5000/v2/a/x"),
            ("plain.example/a", "https://plain.example/v2/a/x"),
            ("127.example/a", "https://127.example/v2/a/x"),
            ("python:3", "https://mirror.example/v2/library/python/x"),
            ("gcr.io/a/b", "https://cache.example/v2/gcr/a/b/x"),
        ] {
            assert_eq!(endpoint(&registries, name).unwrap().0, url, "{name}");
        }
        let (url, _) = endpoint(&Registries::default(), "python").unwrap();
        assert_eq!(url, "https://registry-1.docker.io/v2/library/python/x");
    }

    #[test]
    fn only_allowed_registries_are_contacted() {
        let registries = Registries::default().allow("ghcr.io");
        assert!(endpoint(&registries, "ghcr.io/a/b").is_ok());
        let error = endpoint(&registries, "localhost:5000/a").unwrap_err();
        assert_eq!(error.code(), "image_not_allowed");
        assert!(error.to_string().contains("ghcr.io"), "{error}");
    }

    #[test]
    fn credentials_are_sent_to_their_host_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // "user:pass" and "me:secret:with:colons"
        std::fs::write(
            file.path(),
            r#"{"auths": {
                "https://index.docker.io/v1/": {"auth": "dXNlcjpwYXNz"},
                "ghcr.io": {"auth": "bWU6c2VjcmV0OndpdGg6Y29sb25z"},
                "kept.example": {},
                "token.example": {"auth": "", "identitytoken": "abc"}
            }, "credsStore": "pass", "other": [1]}"#,
        )
        .unwrap();
        let registries = Registries::default().docker_config(file.path()).unwrap();
        let user = |name: &str, password: &str| {
            Some(RegistryCredentials::User { name: name.to_owned(), password: password.to_owned() })
        };
        for (name, expected) in [
            ("python", user("user", "pass")),
            ("ghcr.io/a/b", user("me", "secret:with:colons")),
            ("kept.example/a", None),
            ("other.example/a", None),
            ("token.example/a", Some(RegistryCredentials::Identity("abc".to_owned()))),
        ] {
            assert_eq!(endpoint(&registries, name).unwrap().1, expected, "{name}");
        }
        let mirrored = registries.mirror("docker.io", "mirror.example");
        assert_eq!(endpoint(&mirrored, "python").unwrap().1, None);
        let shown = format!("{mirrored:?}");
        assert!(!shown.contains("pass"), "{shown}");

        for damaged in ["", "7", r#"{"auths": {"a": {"auth": "!!!"}}}"#] {
            std::fs::write(file.path(), damaged).unwrap();
            assert!(Registries::default().docker_config(file.path()).is_err(), "{damaged}");
        }
        assert!(Registries::default().docker_config(Path::new("no such file")).is_ok());
    }
}
