//! What a registry wants to be shown, and where that is had.

use http_auth::parser::ChallengeParser;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::settings::{Credentials, secret};
use super::{Repository, Tries, bounded, is_loopback};
use crate::image::error::{Error, Result};
#[cfg(feature = "fuzzing")]
use crate::image::{Limits, Progress, Registries};

/// Bytes of an answer with a token.
const TOKEN: u64 = 1 << 20;

/// What a registry said that it wants.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

impl Repository {
    /// Answers a challenge: gives what the next request has to carry.
    pub(super) async fn authenticate(&self, headers: &HeaderMap) -> Result<HeaderValue> {
        let credentials = self.endpoint.credentials.as_ref();
        if let Some(Credentials::Token(_)) = credentials {
            return Err(self.no_access("it does not take the token"));
        }
        match challenge(headers) {
            Some(Challenge::Bearer { realm, service }) => {
                let realm = self.realm(&realm)?;
                let token = self.token(&realm, service.as_deref()).await?;
                secret("Bearer", &token)
            }
            Some(Challenge::Basic) => match credentials {
                Some(Credentials::User { name, password }) => {
                    use base64::Engine as _;
                    let both = format!("{name}:{password}");
                    secret("Basic", &base64::engine::general_purpose::STANDARD.encode(both))
                }
                _ => Err(self.no_access("it wants a user and a password")),
            },
            None => Err(self.no_access("it does not say what it wants to be shown")),
        }
    }

    /// Where tokens are had. Credentials go there, so it must be as safe as the
    /// registry is.
    fn realm(&self, realm: &str) -> Result<Url> {
        let refused = || self.no_access("the address that it names for tokens is not safe");
        let realm = Url::parse(realm).map_err(|_| refused())?;
        let safe = match realm.scheme() {
            "https" => true,
            // Something on this machine may only be named by its neighbour.
            "http" if self.endpoint.plain => {
                is_loopback(&realm) || realm.host_str() == self.endpoint.host()
            }
            _ => false,
        };
        if safe { Ok(realm) } else { Err(refused()) }
    }

    async fn token(&self, realm: &Url, service: Option<&str>) -> Result<String> {
        let scope = format!("repository:{}:pull", self.endpoint.repository);
        let mut fields = vec![("scope", scope.as_str())];
        if let Some(service) = service {
            fields.push(("service", service));
        }
        let what = "a token";
        let mut tries = Tries::new(self, what);
        loop {
            let request = match &self.endpoint.credentials {
                Some(Credentials::Identity(token)) => {
                    let mut fields = fields.clone();
                    fields.extend([
                        ("grant_type", "refresh_token"),
                        ("refresh_token", token.as_str()),
                        ("client_id", "isorun"),
                    ]);
                    self.http.post(realm.clone()).form(&fields)
                }
                Some(Credentials::User { name, password }) => {
                    self.http.get(realm.clone()).query(&fields).basic_auth(name, Some(password))
                }
                _ => self.http.get(realm.clone()).query(&fields),
            };
            let exchange = async {
                let response = request.send().await.map_err(|e| self.unreachable(what, &e))?;
                let status = response.status();
                if !status.is_success() {
                    return Err(match status.as_u16() {
                        401 | 403 | 400 => self.no_access("it does not take the credentials"),
                        status => Error::Registry {
                            registry: self.endpoint.name.clone(),
                            status,
                            what: what.to_owned(),
                            message: String::new(),
                        },
                    });
                }
                bounded(response, TOKEN).await.map_err(|e| self.unreachable(what, &e))
            };
            let answer = match tokio::time::timeout(self.limits.request, exchange).await {
                Ok(answer) => answer,
                Err(_) => Err(self.timeout(what)),
            };
            match answer {
                Ok(Some(bytes)) => return self.read_token(&bytes),
                Ok(None) => return Err(self.no_access("its token is over the limit of 1 MiB")),
                Err(error) => tries.again(error, None).await?,
            }
        }
    }

    fn read_token(&self, bytes: &[u8]) -> Result<String> {
        parse_token(bytes).ok_or_else(|| self.no_access("its answer has no token in it"))
    }
}

fn parse_token(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(bytes).ok()?;
    answer.token.or(answer.access_token).filter(|token| !token.is_empty())
}

#[cfg(feature = "fuzzing")]
impl Repository {
    /// Reads a challenge. Credentials go nowhere without `https` but to this
    /// machine and the registry's own host.
    pub(crate) fn fuzz_challenge(headers: &HeaderMap) {
        let found = challenge(headers);
        let Some(Challenge::Bearer { realm, service }) = found else { return };
        let reference = "registry.example/a/b".parse();
        let repository = reference.and_then(|reference| {
            let (settings, limits) = (Registries::default(), Limits::default());
            Repository::new(&reference, &settings, &limits, &Progress::none())
        });
        if let Ok(repository) = repository
            && let Ok(url) = repository.realm(&realm)
        {
            assert_eq!(url.scheme(), "https", "{url}");
            let fields = [("service", service.unwrap_or_default())];
            let _ = repository.http.get(url).query(&fields).build();
        }
    }

    /// Reads an answer with a token, and a page with errors.
    pub(crate) fn fuzz_answers(bytes: &[u8]) {
        let codes = super::codes(bytes);
        assert!(codes.len() <= 5 * 42, "{codes}");
        if let Some(token) = parse_token(bytes) {
            let _ = secret("Bearer", &token);
        }
    }
}

/// The challenge that can be answered best.
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
    fn challenges_are_read() {
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
