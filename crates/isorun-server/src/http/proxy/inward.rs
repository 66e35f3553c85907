//! Rewrites the head of a request for the server in the sandbox: removes the client's
//! credentials for isorun, and the id of the run, which gives access to its URLs.

use axum::http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{self, Entry},
    uri::Authority,
};
use isorun_egress::hop_by_hop;

use super::{
    access::{self, TOKEN_NAME},
    port_url::{PortUrl, UrlForm},
    secrets::{contains_api_key, contains_ignore_case, contains_run_id},
};
use crate::http::error::ApiError;
use isorun_api::RunId;

/// The replacement of the id of the run in a host name.
const HOST_PLACEHOLDER: &str = "sandbox";
/// The prefix of isorun's own headers, which clients of the proxy send.
const INTERNAL_HEADER_PREFIX: &str = "x-isorun-";
/// Headers with the original address of a request.
const FORWARDED_HEADERS: [&str; 3] = ["forwarded", "x-forwarded-prefix", "x-forwarded-host"];

/// The host names of the server: the one that the client uses, and the one that the
/// sandbox sees instead.
#[derive(Clone, Debug, Default)]
pub struct HostNames {
    pub external: String,
    pub internal: String,
}

impl HostNames {
    /// Returns the host names for a request.
    pub fn of(uri: &Uri, headers: &HeaderMap) -> Self {
        let authority = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok()?.parse::<Authority>().ok())
            .or_else(|| uri.authority().cloned());
        let Some(authority) = authority else { return Self::default() };
        let port = authority.port().map(|port| format!(":{port}")).unwrap_or_default();
        let host = authority.host();
        let internal = match host.split_once('.') {
            Some((run, domain)) if run.to_ascii_lowercase().parse::<RunId>().is_ok() => {
                format!("{HOST_PLACEHOLDER}.{domain}{port}")
            }
            _ => format!("{host}{port}"),
        };
        let is_secret =
            contains_run_id(internal.as_bytes()) || contains_api_key(internal.as_bytes());
        let internal = if is_secret { HOST_PLACEHOLDER.to_owned() } else { internal };
        Self { external: format!("{host}{port}"), internal }
    }
}

/// Removes the headers that are not for the sandbox, and replaces the host names by those
/// that the sandbox sees.
pub fn rewrite(url: &PortUrl, names: &HostNames, headers: &mut HeaderMap) {
    hop_by_hop::strip(headers);
    headers.remove(header::TRAILER);
    if url.form == UrlForm::Key {
        headers.remove(header::AUTHORIZATION);
    }
    let cookies = cookies(url, headers);
    let protocols = protocols(headers);
    let referer = headers.get(header::REFERER).and_then(|value| referer(url, names, value));
    let origin = headers.get(header::ORIGIN).map(|value| origin(names, value));
    let header_names: Vec<HeaderName> = headers.keys().cloned().collect();
    for name in header_names {
        let text = name.as_str();
        let is_removed =
            [header::COOKIE, header::SEC_WEBSOCKET_PROTOCOL, header::REFERER, header::ORIGIN]
                .contains(&name)
                || FORWARDED_HEADERS.contains(&text)
                || text.starts_with(INTERNAL_HEADER_PREFIX)
                || contains_api_key(text.as_bytes())
                || contains_run_id(text.as_bytes());
        if is_removed {
            headers.remove(name);
            continue;
        }
        if let Entry::Occupied(entry) = headers.entry(name) {
            let is_secret = |value: &HeaderValue| {
                contains_api_key(value.as_bytes())
                    || contains_ignore_case(value.as_bytes(), url.run.as_str().as_bytes())
            };
            if entry.iter().any(is_secret) {
                entry.remove_entry_mult().1.for_each(drop);
            }
        }
    }
    for (name, value) in [
        (header::COOKIE, cookies),
        (header::SEC_WEBSOCKET_PROTOCOL, protocols),
        (header::REFERER, referer),
        (header::ORIGIN, origin),
        (header::HOST, HeaderValue::from_str(&names.internal).ok()),
        (HeaderName::from_static("x-forwarded-host"), HeaderValue::from_str(&names.internal).ok()),
        (HeaderName::from_static("x-forwarded-prefix"), prefix(url)),
    ] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            headers.insert(name, value);
        }
    }
}

/// Returns the prefix of the URL, if it does not contain the id of the run.
fn prefix(url: &PortUrl) -> Option<HeaderValue> {
    let has_no_id = url.form == UrlForm::Name;
    has_no_id.then(|| HeaderValue::from_str(&url.prefix).ok()).flatten()
}

/// Returns the path and query of the request to the sandbox.
pub fn target(url: &PortUrl, query: Option<&str>) -> Result<Uri, ApiError> {
    if contains_api_key(url.path.as_bytes()) {
        return Err(ApiError::invalid(
            "the path contains an API key, which must not reach a sandbox: send the key as \
             `Authorization: Bearer`, and only to /v1",
        ));
    }
    let (_, query) = access::split_query(query.unwrap_or_default());
    let kept: Vec<&str> =
        query.split('&').filter(|pair| !contains_api_key(pair.as_bytes())).collect();
    let query = kept.join("&");
    // Joined parameters may contain a key that no single one contains.
    let query = if query.is_empty() || contains_api_key(query.as_bytes()) {
        String::new()
    } else {
        format!("?{query}")
    };
    format!("{}{query}", url.path)
        .parse()
        .map_err(|error| ApiError::invalid(format!("the path is not a valid path: {error}")))
}

/// Returns the cookies for the sandbox, without the token, keys and the id of the run.
fn cookies(url: &PortUrl, headers: &HeaderMap) -> Option<HeaderValue> {
    let mut kept: Vec<u8> = Vec::new();
    for (name, value) in access::cookies(headers) {
        let pair = [name, b"=", value].concat();
        let is_secret =
            contains_api_key(&pair) || contains_ignore_case(&pair, url.run.as_str().as_bytes());
        if name.eq_ignore_ascii_case(TOKEN_NAME.as_bytes()) || is_secret {
            continue;
        }
        // A cookie without a name must not pass for the token.
        if name.is_empty() && contains_ignore_case(value, TOKEN_NAME.as_bytes()) {
            continue;
        }
        if !kept.is_empty() {
            kept.extend_from_slice(b"; ");
        }
        kept.extend_from_slice(if name.is_empty() { value } else { &pair });
    }
    HeaderValue::from_bytes(&kept).ok()
}

/// Returns the requested WebSocket subprotocols, without those that contain secrets:
/// browsers cannot set other headers, so programs put keys there.
fn protocols(headers: &HeaderMap) -> Option<HeaderValue> {
    let all = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    let kept: Vec<&[u8]> = all
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|protocol| {
            !protocol.is_empty() && !contains_api_key(protocol) && !contains_run_id(protocol)
        })
        .collect();
    HeaderValue::from_bytes(&kept.join(&b", "[..])).ok()
}

/// Returns the `Referer` for the sandbox. `None` if it is a page of another port or run,
/// or contains a secret.
fn referer(url: &PortUrl, names: &HostNames, value: &HeaderValue) -> Option<HeaderValue> {
    let text = value.to_str().ok()?;
    let rest = text.split_once("://").and_then(|(scheme, rest)| {
        let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        authority.eq_ignore_ascii_case(&names.external).then_some((scheme, path))
    });
    let rewritten = match rest {
        Some((_, path)) if path.is_empty() || path == "/" => text.to_owned(),
        Some((scheme, path)) => {
            let path = path.strip_prefix(&url.prefix).filter(|path| path.starts_with('/'))?;
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            let (_, query) = access::split_query(query);
            let query = if query.is_empty() { query } else { format!("?{query}") };
            format!("{scheme}://{}{path}{query}", names.internal)
        }
        None => text.to_owned(),
    };
    let rewritten = rewritten.replace(&names.external, &names.internal);
    let has_secret =
        contains_api_key(rewritten.as_bytes()) || contains_run_id(rewritten.as_bytes());
    let has_token = contains_ignore_case(rewritten.as_bytes(), TOKEN_NAME.as_bytes());
    if has_secret || has_token { None } else { HeaderValue::try_from(rewritten).ok() }
}

/// Returns the `Origin` for the sandbox: the external host name is replaced by the
/// internal one, and an origin with a secret or the id of a run by `null`.
fn origin(names: &HostNames, value: &HeaderValue) -> HeaderValue {
    let text = value.to_str().unwrap_or_default();
    let rewritten = match text.split_once("://") {
        Some((scheme, authority)) if authority.eq_ignore_ascii_case(&names.external) => {
            format!("{scheme}://{}", names.internal)
        }
        _ => text.to_owned(),
    };
    let has_secret = rewritten.is_empty()
        || contains_api_key(rewritten.as_bytes())
        || contains_run_id(rewritten.as_bytes());
    let null = HeaderValue::from_static("null");
    if has_secret { null } else { HeaderValue::try_from(rewritten).unwrap_or(null) }
}

#[cfg(test)]
mod tests {
    use axum::http::header::HeaderName;

    use super::*;

    const RUN: &str = "run0123456789abcdef";
    const OTHER: &str = "runfedcba9876543210";
    const KEY: &str = "isorun_live_local_0123456789abcdef_00ff";

    fn url(form: UrlForm) -> (PortUrl, String) {
        let (host, url) = match form {
            UrlForm::Key => (
                "127.0.0.1:7676".to_owned(),
                PortUrl::parse_keyed(&format!("/v1/runs/{RUN}/proxy/80/x")),
            ),
            UrlForm::Path => (
                "127.0.0.1:7676".to_owned(),
                PortUrl::parse_anonymous(None, None, &format!("/sb/{RUN}/p/80/x")),
            ),
            UrlForm::Name => {
                let host = format!("{RUN}.sb.test");
                (
                    format!("{host}:7676"),
                    PortUrl::parse_anonymous(Some(&host), Some("sb.test"), "/sb/p/80/x"),
                )
            }
        };
        (url.unwrap(), host)
    }

    /// Returns the head that the sandbox receives.
    fn rewritten(form: UrlForm, given: &[(&str, &str)]) -> Vec<(String, String)> {
        let (url, host) = url(form);
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        for (name, value) in given {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let names = HostNames::of(&Uri::from_static("/"), &headers);
        rewrite(&url, &names, &mut headers);
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    fn rewritten_header(form: UrlForm, name: &str, value: &str) -> Option<String> {
        let found = rewritten(form, &[(name, value)]);
        found.into_iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    #[test]
    fn keys_tokens_and_run_ids_are_removed() {
        let twice = format!("Bearer isorun_live_{KEY}");
        let basic = "Basic dXNlcjppc29ydW5fbGl2ZV94X3lfeg==";
        let own = format!("/sb/{RUN}/p/80/x");
        let lower = format!("bearer {}", KEY.to_uppercase());
        let bearer = format!("Bearer {KEY}");
        for form in [UrlForm::Key, UrlForm::Path, UrlForm::Name] {
            for (name, value) in [
                ("authorization", bearer.as_str()),
                ("authorization", &lower),
                ("authorization", &twice),
                ("authorization", basic),
                ("proxy-authorization", &bearer),
                ("x-api-key", KEY),
                ("x-isorun-token", "0011"),
                ("x-isorun-anything", "1"),
                ("cookie", "isorun_token=0011"),
                ("cookie", "Isorun_Token=0011"),
                ("cookie", &format!("key={KEY}")),
                ("cookie", "=isorun_token=0011"),
                ("sec-websocket-protocol", &format!("bearer.{KEY}")),
                ("referer", &format!("http://elsewhere.test/?key={KEY}")),
                ("referer", &format!("http://127.0.0.1:7676/sb/{OTHER}/p/80/")),
                ("referer", &format!("https://{OTHER}.sb.test/sb/p/80/")),
                ("x-original-uri", &own),
                ("x-forwarded-uri", &own),
                ("x-forwarded-host", &format!("{RUN}.sb.test")),
                ("forwarded", &format!("host={RUN}.sb.test")),
                (RUN, "1"),
                (KEY, "1"),
            ] {
                let head = rewritten(form, &[(name, value)]);
                let text = format!("{head:?}").to_lowercase();
                for secret in ["isorun_live", "isorun_token", "0011", RUN, OTHER, "dxnlcj"] {
                    assert!(!text.contains(secret), "{form:?} {name}: {value}: {head:?}");
                }
            }
        }
    }

    #[test]
    fn headers_of_the_application_are_kept() {
        for form in [UrlForm::Path, UrlForm::Name] {
            for (name, value) in [
                ("authorization", "Bearer sk-own"),
                ("authorization", "Basic dXNlcjpwYXNzd29yZA=="),
                ("cookie", "own=1; other=a=b"),
                ("sec-websocket-protocol", "graphql-ws, mqtt"),
                ("referer", "https://elsewhere.test/page?x=1"),
                ("origin", "https://elsewhere.test"),
                ("origin", "null"),
                ("x-mine", "kept"),
            ] {
                assert_eq!(
                    rewritten_header(form, name, value).as_deref(),
                    Some(value),
                    "{form:?} {name}"
                );
            }
        }
        assert_eq!(rewritten_header(UrlForm::Key, "authorization", "Bearer sk-own"), None);
        let mixed = format!("own=1; isorun_token=a; k={KEY}; two=2");
        assert_eq!(
            rewritten_header(UrlForm::Path, "cookie", &mixed).as_deref(),
            Some("own=1; two=2")
        );
        let mixed = format!("a, {KEY}, b");
        assert_eq!(
            rewritten_header(UrlForm::Path, "sec-websocket-protocol", &mixed).as_deref(),
            Some("a, b")
        );
    }

    #[test]
    fn external_host_names_are_replaced() {
        let head = |form, name| rewritten_header(form, name, "x").unwrap_or_default();
        let (_, host) = url(UrlForm::Name);
        assert_eq!(
            rewritten(UrlForm::Name, &[])
                .iter()
                .filter(|(_, value)| value == "sandbox.sb.test:7676")
                .count(),
            2
        );
        assert_eq!(head(UrlForm::Name, "x-forwarded-prefix"), "/sb/p/80");
        assert_eq!(head(UrlForm::Path, "x-forwarded-prefix"), "");
        assert_eq!(head(UrlForm::Path, "x-forwarded-host"), "127.0.0.1:7676");
        for (form, name, value, internal) in [
            (UrlForm::Name, "origin", format!("https://{host}"), "https://sandbox.sb.test:7676"),
            (
                UrlForm::Name,
                "referer",
                format!("https://{host}/sb/p/80/a?b=c"),
                "https://sandbox.sb.test:7676/a?b=c",
            ),
            (
                UrlForm::Name,
                "referer",
                format!("https://{host}/sb/p/80/?isorun_token=x"),
                "https://sandbox.sb.test:7676/",
            ),
            (UrlForm::Name, "origin", format!("https://{OTHER}.sb.test:7676"), "null"),
            (UrlForm::Path, "origin", "http://127.0.0.1:7676".to_owned(), "http://127.0.0.1:7676"),
            (
                UrlForm::Path,
                "referer",
                format!("http://127.0.0.1:7676/sb/{RUN}/p/80/a/"),
                "http://127.0.0.1:7676/a/",
            ),
            (
                UrlForm::Path,
                "referer",
                "http://127.0.0.1:7676/".to_owned(),
                "http://127.0.0.1:7676/",
            ),
        ] {
            assert_eq!(rewritten_header(form, name, &value).as_deref(), Some(internal), "{value}");
        }
        // A page of another port, whose number starts with the same digits.
        let other = format!("http://127.0.0.1:7676/sb/{RUN}/p/8080/a");
        assert_eq!(rewritten_header(UrlForm::Path, "referer", &other), None);
    }

    #[test]
    fn keys_and_tokens_are_removed_from_queries() {
        let (url, _) = url(UrlForm::Path);
        for (query, internal) in [
            (None, "/x".to_owned()),
            (Some("a=1&b".to_owned()), "/x?a=1&b".to_owned()),
            (Some(format!("a=1&key={KEY}&b=2")), "/x?a=1&b=2".to_owned()),
            (Some(format!("key={}", KEY.replace('_', "%5f"))), "/x".to_owned()),
            (Some("ISORUN_token=a&b=2".to_owned()), "/x?b=2".to_owned()),
            (Some(format!("{KEY}&{KEY}")), "/x".to_owned()),
        ] {
            assert_eq!(target(&url, query.as_deref()).unwrap().to_string(), internal, "{query:?}");
        }
        let path = format!("/sb/{RUN}/p/80/a/{KEY}/b");
        let url = PortUrl::parse_anonymous(None, None, &path).unwrap();
        assert!(target(&url, None).is_err());
    }
}
