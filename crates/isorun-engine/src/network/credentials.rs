//! Secrets that a sandbox uses and never has: what each is, and for which
//! requests. No I/O.
//!
//! Inside there is a placeholder. Outside, on the way to its own host and to no
//! other, the placeholder becomes the secret.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Authority;

/// What programs see in place of a secret.
pub const PLACEHOLDER: &str = "sk-isorun-proxy-managed";

/// Services that are known by the names of their variables: host, header, what
/// stands before the secret there, the variable of the base URL and its path.
const KNOWN: [(&str, &str, &str, &str, &str, &str); 6] = [
    ("OPENAI_API_KEY", "api.openai.com", "authorization", "Bearer ", "OPENAI_BASE_URL", "/v1"),
    ("ANTHROPIC_API_KEY", "api.anthropic.com", "x-api-key", "", "ANTHROPIC_BASE_URL", ""),
    ("GEMINI_API_KEY", "generativelanguage.googleapis.com", "x-goog-api-key", "", "", ""),
    ("GROQ_API_KEY", "api.groq.com", "authorization", "Bearer ", "GROQ_BASE_URL", ""),
    ("MISTRAL_API_KEY", "api.mistral.ai", "authorization", "Bearer ", "", ""),
    ("OPENROUTER_API_KEY", "openrouter.ai", "authorization", "Bearer ", "", ""),
];

/// One secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// The variable that programs read the placeholder from.
    pub name: String,
    /// The only host that it goes to.
    pub host: String,
    /// And its port.
    pub port: u16,
    /// The header that it stands in.
    pub header: String,
    /// What stands before it there.
    pub prefix: String,
    /// The secret.
    pub secret: Secret,
    /// The methods that may use it; all if empty.
    pub methods: Vec<String>,
    /// The paths that may use it, each exact or with `*` at its end; all if
    /// empty.
    pub paths: Vec<String>,
    /// A variable for the base URL of the proxy, and the path behind it.
    pub base: Option<(String, String)>,
}

/// A text that is wiped from memory, and that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// As it is sent.
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

impl std::fmt::Debug for Secret {
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
    /// That of a service which is known by the name of its variable.
    #[must_use]
    pub fn known(name: &str, secret: Secret) -> Option<Self> {
        let (name, host, header, prefix, variable, path) =
            KNOWN.into_iter().find(|known| known.0 == name)?;
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

    /// The names of services that are known.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KNOWN.into_iter().map(|known| known.0)
    }

    /// Whether a request may use it.
    #[must_use]
    pub fn serves(&self, method: &Method, path: &str) -> bool {
        let method_good = self.methods.is_empty()
            || self.methods.iter().any(|good| good.eq_ignore_ascii_case(method.as_str()));
        // What a server makes of dots and escapes is not known here.
        let plain = !path.contains("..") && !path.contains("//") && !path.contains('%');
        let path_good = self.paths.is_empty()
            || plain
                && self.paths.iter().any(|good| match good.strip_suffix('*') {
                    Some(start) => path.starts_with(start),
                    None => path == good,
                });
        method_good && path_good
    }

    /// Puts the secret in place of its placeholder.
    pub fn apply(&self, headers: &mut HeaderMap) {
        let Ok(name) = self.header.parse::<HeaderName>() else { return };
        let text = match headers.get(&name).map(|value| value.to_str().unwrap_or_default()) {
            // Nothing there: programs that were told no key send none.
            None => Zeroizing::new(format!("{}{}", self.prefix, *self.secret.0)),
            Some(value) if value.contains(PLACEHOLDER) => {
                Zeroizing::new(value.replace(PLACEHOLDER, &self.secret.0))
            }
            // A key of its own.
            Some(_) => return,
        };
        if let Ok(mut value) = HeaderValue::from_str(&text) {
            value.set_sensitive(true);
            // Without room for it, it goes without.
            let _ = headers.try_insert(name, value);
        }
    }

    /// Takes the secret out of what a server says, if it repeats it.
    pub fn hide(&self, headers: &mut HeaderMap) {
        let secret = self.secret.0.as_bytes();
        for value in headers.values_mut() {
            // Not every value is a text.
            let (mut hidden, mut rest) = (Vec::new(), value.as_bytes());
            while let Some(at) = rest.windows(secret.len().max(1)).position(|part| part == secret) {
                let (before, found) = rest.split_at(at);
                hidden.extend_from_slice(before);
                hidden.extend_from_slice(PLACEHOLDER.as_bytes());
                rest = found.get(secret.len()..).unwrap_or_default();
            }
            if rest.len() < value.len() {
                hidden.extend_from_slice(rest);
                // It is as good as the one before; if not, nothing is said.
                let empty = HeaderValue::from_static("");
                *value = HeaderValue::from_bytes(&hidden).unwrap_or(empty);
            }
        }
    }
}

/// All secrets of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    list: Vec<Credential>,
    authority: Option<Arc<Authority>>,
}

impl Credentials {
    /// These, with the authority that vouches for their hosts.
    #[must_use]
    pub fn new(list: Vec<Credential>, authority: Arc<Authority>) -> Self {
        Self { list, authority: Some(authority) }
    }

    /// Each of them.
    #[must_use]
    pub fn list(&self) -> &[Credential] {
        &self.list
    }

    /// Who vouches for their hosts.
    #[must_use]
    pub fn authority(&self) -> Option<&Arc<Authority>> {
        self.authority.as_ref()
    }

    /// Whether one is for a host.
    #[must_use]
    pub fn has_host(&self, name: &str) -> bool {
        self.list.iter().any(|credential| credential.host == name)
    }

    /// Whether one is for a port of a host.
    #[must_use]
    pub fn has(&self, name: &str, port: u16) -> bool {
        self.of(name).any(|credential| credential.port == port)
    }

    /// Whether a connection under one of these names may need one.
    #[must_use]
    pub fn wants(&self, names: &[String], port: u16) -> bool {
        names.iter().any(|name| self.has(name, port))
    }

    /// Those for a host.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Credential> {
        self.list.iter().filter(move |credential| credential.host == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Secret {
        Secret::from("sk-real".to_owned())
    }

    #[test]
    fn the_placeholder_becomes_the_secret() {
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
        openai.hide(&mut headers);
        assert_eq!(headers["x-echo"], "key=sk-isorun-proxy-managed;");
        for (value, hidden) in [
            (&b"sk-real"[..], &b"sk-isorun-proxy-managed"[..]),
            (b"\xe9 sk-realsk-real", b"\xe9 sk-isorun-proxy-managedsk-isorun-proxy-managed"),
            (b"sk-rea", b"sk-rea"),
            (b"", b""),
        ] {
            headers.insert("x-echo", HeaderValue::from_bytes(value).unwrap());
            openai.hide(&mut headers);
            assert_eq!(headers["x-echo"].as_bytes(), hidden);
        }
        assert!(!format!("{openai:?} {:?}", openai.secret).contains("sk-real"));
    }

    #[test]
    fn methods_and_paths() {
        let mut credential = Credential::known("OPENAI_API_KEY", secret()).unwrap();
        credential.methods = vec!["get".to_owned()];
        credential.paths = vec!["/v1/models".to_owned(), "/v1/files/*".to_owned()];
        for (method, path, good) in [
            (Method::GET, "/v1/models", true),
            (Method::GET, "/v1/files/a", true),
            (Method::POST, "/v1/models", false),
            (Method::GET, "/v1/models/x", false),
            (Method::GET, "/v1/files/../keys", false),
            (Method::GET, "/v1/files/%2e%2e/keys", false),
            (Method::GET, "//v1/models", false),
        ] {
            assert_eq!(credential.serves(&method, path), good, "{method} {path}");
        }
    }
}
