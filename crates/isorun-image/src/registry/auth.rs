//! Authentication with a registry: challenges and tokens.

use http_auth::parser::ChallengeParser;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::settings::{RegistryCredentials, sensitive_header};
use super::{Repository, Retries, is_loopback, read_bounded};
use crate::error::{Error, Result};
#[cfg(feature = "fuzzing")]
use crate::{Limits, Progress, Registries};

/// The largest response of a token server, in bytes.
const MAX_TOKEN_RESPONSE_BYTES: u64 = 1 << 20;

/// A challenge of a registry.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

impl Repository {
    /// Responds to a challenge: returns the `Authorization` header of the next
    /// request.
    pub(super) async fn authenticate(&self, headers: &HeaderMap) -> Result<HeaderValue> {
        let credentials = self.endpoint.credentials.as_ref();
        if let Some(RegistryCredentials::Token(_)) = credentials {
            return Err(self.auth_error("it does not accept the token"));
        }
        match challenge(headers) {
            Some(Challenge::Bearer { realm, service }) => {
                let realm = self.token_url(&realm)?;
                let token = self.fetch_token(&realm, service.as_deref()).await?;
                sensitive_header("Bearer", &token)
            }
            Some(Challenge::Basic) => match credentials {
                Some(RegistryCredentials::User { name, password }) => {
                    use base64::Engine as _;
                    let both = format!("{name}:{password}");
                    sensitive_header(
                        "Basic",
                        &base64::engine::general_purpose::STANDARD.encode(both),
                    )
                }
                _ => Err(self.auth_error("it requires a user and a password")),
            },
            None => {
                Err(self.auth_error("its challenge names no supported scheme (Basic or Bearer)"))
            }
        }
    }

    /// Validates the URL of the token server. Credentials are sent there, so the
    /// connection must be as secure as the one to the registry.
    fn token_url(&self, realm: &str) -> Result<Url> {
        let refused =
            || self.auth_error("the URL of its token server is not secure: it must be https");
        let realm = Url::parse(realm).map_err(|_| refused())?;
        let safe = match realm.scheme() {
            "https" => true,
            // Only a registry without https may name a token server without
            // https, on loopback or on its own host.
            "http" if self.endpoint.plain => {
                is_loopback(&realm) || realm.host_str() == self.endpoint.host()
            }
            _ => false,
        };
        if safe { Ok(realm) } else { Err(refused()) }
    }

    /// Requests a token for pulling from the repository.
    async fn fetch_token(&self, realm: &Url, service: Option<&str>) -> Result<String> {
        let scope = format!("repository:{}:pull", self.endpoint.repository);
        let mut fields = vec![("scope", scope.as_str())];
        if let Some(service) = service {
            fields.push(("service", service));
        }
        let what = "a token";
        let mut retries = Retries::new(self, what);
        loop {
            let request = match &self.endpoint.credentials {
                Some(RegistryCredentials::Identity(token)) => {
                    let mut fields = fields.clone();
                    fields.extend([
                        ("grant_type", "refresh_token"),
                        ("refresh_token", token.as_str()),
                        ("client_id", "isorun"),
                    ]);
                    self.http.post(realm.clone()).form(&fields)
                }
                Some(RegistryCredentials::User { name, password }) => {
                    self.http.get(realm.clone()).query(&fields).basic_auth(name, Some(password))
                }
                _ => self.http.get(realm.clone()).query(&fields),
            };
            let exchange = async {
                let response = request.send().await.map_err(|e| self.transport_error(what, &e))?;
                let status = response.status();
                if !status.is_success() {
                    return Err(match status.as_u16() {
                        401 | 403 | 400 => self.auth_error("it does not accept the credentials"),
                        status => Error::Registry {
                            registry: self.endpoint.name.clone(),
                            status,
                            what: what.to_owned(),
                            message: String::new(),
                        },
                    });
                }
                read_bounded(response, MAX_TOKEN_RESPONSE_BYTES)
                    .await
                    .map_err(|e| self.transport_error(what, &e))
            };
            let response = match tokio::time::timeout(self.limits.request, exchange).await {
                Ok(response) => response,
                Err(_) => Err(self.timeout_error(what)),
            };
            match response {
                Ok(Some(bytes)) => return self.read_token(&bytes),
                Ok(None) => {
                    return Err(self.auth_error(
                        "the response of its token server is over the limit of 1 MiB",
                    ));
                }
                Err(error) => retries.wait_or_fail(error, None).await?,
            }
        }
    }

    fn read_token(&self, bytes: &[u8]) -> Result<String> {
        parse_token(bytes)
            .ok_or_else(|| self.auth_error("the response of its token server has no token"))
    }
}

fn parse_token(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct TokenResponse {
        token: Option<String>,
        access_token: Option<String>,
    }
    let response: TokenResponse = serde_json::from_slice(bytes).ok()?;
    response.token.or(response.access_token).filter(|token| !token.is_empty())
}

#[cfg(feature = "fuzzing")]
impl Repository {
    /// Parses a challenge. Credentials are not sent without `https` except to
    /// loopback and to the registry's own host.
    pub(crate) fn fuzz_challenge(headers: &HeaderMap) {
        let found = challenge(headers);
        let Some(Challenge::Bearer { realm, service }) = found else { return };
        let reference = "registry.example/a/b".parse();
        let repository = reference.and_then(|reference| {
            let (settings, limits) = (Registries::default(), Limits::default());
            Repository::new(&reference, &settings, &limits, &Progress::none())
        });
        if let Ok(repository) = repository
            && let Ok(url) = repository.token_url(&realm)
        {
            assert_eq!(url.scheme(), "https", "{url}");
            let fields = [("service", service.unwrap_or_default())];
            let _ = repository.http.get(url).query(&fields).build();
        }
    }

    /// Parses the response of a token server, and an error response.
    pub(crate) fn fuzz_responses(bytes: &[u8]) {
        let codes = super::error_codes(bytes);
        assert!(codes.len() <= 5 * 42, "{codes}");
        if let Some(token) = parse_token(bytes) {
            let _ = sensitive_header("Bearer", &token);
        }
    }
}

/// Selects the preferred challenge: Bearer over Basic.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut best = None;
    for header in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = header.to_str() else { continue };
        for challenge in ChallengeParser::new(text) {
            let Ok(challenge) = challenge else { break };
            let parameter = |name: &str| {
                challenge
                    .params
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = parameter("realm") {
                    return Some(Challenge::Bearer { realm, service: parameter("service") });
                }
            } else if challenge.scheme.eq_ignore_ascii_case("basic") {
                best = Some(Challenge::Basic);
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_parsed() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
        };
        for (header, expected) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://auth.example/token\",service=\"r.example\",scope=\"a,b\"",
                bearer("https://auth.example/token", Some("r.example")),
            ),
            ("Basic realm=\"x\", Bearer realm=\"https://a\"", bearer("https://a", None)),
            ("Bearer", None),
            ("Negotiate", None),
            ("=,=,=", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(header));
            assert_eq!(challenge(&headers), expected, "{header}");
        }
    }
}
