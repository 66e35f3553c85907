//! Credentials that a sandbox can use but not read: their values, and the requests that
//! may use them. No I/O.
//!
//! The sandbox has a placeholder. In requests to the credential's own host, and to no
//! other, the proxy replaces the placeholder with the secret.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Authority;

/// The placeholder that programs in the sandbox see instead of a secret.
pub const PLACEHOLDER: &str = "sk-isorun-proxy-managed";

/// Services that are identified by the name of their environment variable: variable,
/// host, header, prefix of the header's value, variable of the base URL, path of the
/// base URL.
const WELL_KNOWN_SERVICES: [(&str, &str, &str, &str, &str, &str); 6] = [
    ("OPENAI_API_KEY", "api.openai.com", "authorization", "Bearer ", "OPENAI_BASE_URL", "/v1"),
    ("ANTHROPIC_API_KEY", "api.anthropic.com", "x-api-key", "", "ANTHROPIC_BASE_URL", ""),
    ("GEMINI_API_KEY", "generativelanguage.googleapis.com", "x-goog-api-key", "", "", ""),
    ("GROQ_API_KEY", "api.groq.com", "authorization", "Bearer ", "GROQ_BASE_URL", ""),
    ("MISTRAL_API_KEY", "api.mistral.ai", "authorization", "Bearer ", "", ""),
    ("OPENROUTER_API_KEY", "openrouter.ai", "authorization", "Bearer ", "", ""),
];

/// A secret, and the requests that may use it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// The environment variable from which programs read the placeholder.
    pub name: String,
    /// The only host that it is sent to.
    pub host: String,
    /// The port of that host.
    pub port: u16,
    /// The header that contains it.
    pub header: String,
    /// The text before it in the header's value.
    pub prefix: String,
    /// The secret.
    pub secret: SecretValue,
    /// The methods that may use it; all if empty.
    pub methods: Vec<String>,
    /// The paths that may use it, each exact or with `*` at its end; all if
    /// empty.
    pub paths: Vec<String>,
    /// The environment variable for the base URL at the proxy, and the path of that URL.
    pub base: Option<(String, String)>,
}

/// A text that is wiped from memory on drop and does not appear in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Zeroizing<String>);

impl SecretValue {
    /// Returns the plain text.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretValue {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl Serialize for SecretValue {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({} for {})", self.name, self.host)
    }
}

impl Credential {
    /// Creates the credential of a service that is identified by its environment variable.
    #[must_use]
    pub fn known(name: &str, secret: SecretValue) -> Option<Self> {
        let (name, host, header, prefix, variable, path) =
            WELL_KNOWN_SERVICES.into_iter().find(|known| known.0 == name)?;
        Some(Self {
            name: name.to_owned(),
            host: host.to_owned(),
            port: 443,
            header: header.to_owned(),
            prefix: prefix.to_owned(),
            secret,
            methods: Vec::new(),
            paths: Vec::new(),
            base: (!variable.is_empty()).then(|| (variable.to_owned(), path.to_owned())),
        })
    }

    /// Returns the environment variables of the services in the built-in list.
    pub fn names() -> impl Iterator<Item = &'static str> {
        WELL_KNOWN_SERVICES.into_iter().map(|known| known.0)
    }

    /// Reports whether a request may use the credential.
    #[must_use]
    pub fn permits(&self, method: &Method, path: &str) -> bool {
        let method_allowed = self.methods.is_empty()
            || self.methods.iter().any(|allowed| allowed.eq_ignore_ascii_case(method.as_str()));
        // Servers interpret dots, empty segments and escapes in different ways.
        let is_plain = !path.contains("..") && !path.contains("//") && !path.contains('%');
        let path_allowed = self.paths.is_empty()
            || is_plain
                && self.paths.iter().any(|allowed| match allowed.strip_suffix('*') {
                    Some(start) => path.starts_with(start),
                    None => path == allowed,
                });
        method_allowed && path_allowed
    }

    /// Replaces the placeholder in the headers of a request with the secret.
    pub fn apply(&self, headers: &mut HeaderMap) {
        let Ok(name) = self.header.parse::<HeaderName>() else { return };
        let text = match headers.get(&name).map(|value| value.to_str().unwrap_or_default()) {
            // No such header: programs without a key send none.
            None => Zeroizing::new(format!("{}{}", self.prefix, *self.secret.0)),
            Some(value) if value.contains(PLACEHOLDER) => {
                Zeroizing::new(value.replace(PLACEHOLDER, &self.secret.0))
            }
            // The program sends a key of its own.
            Some(_) => return,
        };
        if let Ok(mut value) = HeaderValue::from_str(&text) {
            value.set_sensitive(true);
            // If there are too many headers, the request is sent without the secret.
            let _ = headers.try_insert(name, value);
        }
    }

    /// Replaces the secret in the headers of a response, if the server repeats it.
    pub fn redact(&self, headers: &mut HeaderMap) {
        let secret = self.secret.0.as_bytes();
        for value in headers.values_mut() {
            // A value need not be valid UTF-8.
            let (mut redacted, mut rest) = (Vec::new(), value.as_bytes());
            while let Some(at) = rest.windows(secret.len().max(1)).position(|part| part == secret) {
                let (before, found) = rest.split_at(at);
                redacted.extend_from_slice(before);
                redacted.extend_from_slice(PLACEHOLDER.as_bytes());
                rest = found.get(secret.len()..).unwrap_or_default();
            }
            if rest.len() < value.len() {
                redacted.extend_from_slice(rest);
                // The new value is as valid as the old one; if not, it is left empty.
                let empty = HeaderValue::from_static("");
                *value = HeaderValue::from_bytes(&redacted).unwrap_or(empty);
            }
        }
    }
}

/// All credentials of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    list: Vec<Credential>,
    authority: Option<Arc<Authority>>,
}

impl Credentials {
    /// Creates a set of credentials. `authority` issues certificates for their hosts.
    #[must_use]
    pub fn new(list: Vec<Credential>, authority: Arc<Authority>) -> Self {
        Self { list, authority: Some(authority) }
    }

    /// Returns all credentials.
    #[must_use]
    pub fn list(&self) -> &[Credential] {
        &self.list
    }

    /// Returns the authority that issues certificates for their hosts.
    #[must_use]
    pub fn authority(&self) -> Option<&Arc<Authority>> {
        self.authority.as_ref()
    }

    /// Reports whether there is a credential for a host.
    #[must_use]
    pub fn has_host(&self, name: &str) -> bool {
        self.list.iter().any(|credential| credential.host == name)
    }

    /// Reports whether there is a credential for a port of a host.
    #[must_use]
    pub fn has_host_port(&self, name: &str, port: u16) -> bool {
        self.for_host(name).any(|credential| credential.port == port)
    }

    /// Reports whether there is a credential for a port of one of these hosts.
    #[must_use]
    pub fn has_any_host_port(&self, names: &[String], port: u16) -> bool {
        names.iter().any(|name| self.has_host_port(name, port))
    }

    /// Returns the credentials for a host.
    pub fn for_host<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Credential> {
        self.list.iter().filter(move |credential| credential.host == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> SecretValue {
        SecretValue::from("sk-real".to_owned())
    }

    #[test]
    fn placeholder_is_replaced_by_the_secret() {
        let openai = Credential::known("OPENAI_API_KEY", secret()).unwrap();
        for (before, after) in [
            (None, "Bearer sk-real"),
            (Some("Bearer sk-isorun-proxy-managed"), "Bearer sk-real"),
            (Some("Bearer sk-own"), "Bearer sk-own"),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(before) = before {
                headers.insert("authorization", before.parse().unwrap());
            }
            openai.apply(&mut headers);
            assert_eq!(headers["authorization"], after);
        }
        let mut headers = HeaderMap::new();
        Credential::known("ANTHROPIC_API_KEY", secret()).unwrap().apply(&mut headers);
        assert_eq!(headers["x-api-key"], "sk-real");
        headers.insert("x-echo", "key=sk-real;".parse().unwrap());
        openai.redact(&mut headers);
        assert_eq!(headers["x-echo"], "key=sk-isorun-proxy-managed;");
        for (value, redacted) in [
            (&b"sk-real"[..], &b"sk-isorun-proxy-managed"[..]),
            (b"\xe9 sk-realsk-real", b"\xe9 sk-isorun-proxy-managedsk-isorun-proxy-managed"),
            (b"sk-rea", b"sk-rea"),
            (b"", b""),
        ] {
            headers.insert("x-echo", HeaderValue::from_bytes(value).unwrap());
            openai.redact(&mut headers);
            assert_eq!(headers["x-echo"].as_bytes(), redacted);
        }
        assert!(!format!("{openai:?} {:?}", openai.secret).contains("sk-real"));
    }

    #[test]
    fn only_permitted_methods_and_paths_match() {
        let mut credential = Credential::known("OPENAI_API_KEY", secret()).unwrap();
        credential.methods = vec!["get".to_owned()];
        credential.paths = vec!["/v1/models".to_owned(), "/v1/files/*".to_owned()];
        for (method, path, allowed) in [
            (Method::GET, "/v1/models", true),
            (Method::GET, "/v1/files/a", true),
            (Method::POST, "/v1/models", false),
            (Method::GET, "/v1/models/x", false),
            (Method::GET, "/v1/files/../keys", false),
            (Method::GET, "/v1/files/%2e%2e/keys", false),
            (Method::GET, "//v1/models", false),
        ] {
            assert_eq!(credential.permits(&method, path), allowed, "{method} {path}");
        }
    }
}
