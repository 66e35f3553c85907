//! What a server inside is told of a request: nothing that proves who the client
//! is to us, and nothing that has the id of the run in it, which opens its URLs.

use axum::http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{self, Entry},
    uri::Authority,
};
use isorun_engine::network::hop;

use super::{
    ApiError, Place,
    access::{self, TOKEN},
    place::Form,
    secrets::{contains, has_id, has_key},
};
use crate::id::RunId;

/// What stands in a name in place of the id of the run.
const NAMELESS: &str = "sandbox";
/// Headers that are ours, for clients of the proxy.
const OURS: &str = "x-isorun-";
/// Headers that say how a client came here.
const FORWARDED: [&str; 3] = ["forwarded", "x-forwarded-prefix", "x-forwarded-host"];

/// The names of the server: those that the client uses, and those that the
/// sandbox is told instead.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub outside: String,
    pub inside: String,
}

impl Names {
    pub fn of(uri: &Uri, headers: &HeaderMap) -> Self {
        let authority = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok()?.parse::<Authority>().ok())
            .or_else(|| uri.authority().cloned());
        let Some(authority) = authority else { return Self::default() };
        let port = authority.port().map(|port| format!(":{port}")).unwrap_or_default();
        let host = authority.host();
        let inside = match host.split_once('.') {
            Some((run, domain)) if run.to_ascii_lowercase().parse::<RunId>().is_ok() => {
                format!("{NAMELESS}.{domain}{port}")
            }
            _ => format!("{host}{port}"),
        };
        let told = has_id(inside.as_bytes()) || has_key(inside.as_bytes());
        let inside = if told { NAMELESS.to_owned() } else { inside };
        Self { outside: format!("{host}{port}"), inside }
    }
}

/// Takes out of a head what is not for the sandbox, and puts the sandbox's own
/// view of the names in.
pub fn rewrite(place: &Place, names: &Names, headers: &mut HeaderMap) {
    hop::strip(headers);
    headers.remove(header::TRAILER);
    if place.form == Form::Key {
        headers.remove(header::AUTHORIZATION);
    }
    let cookies = cookies(place, headers);
    let protocols = protocols(headers);
    let referer = headers.get(header::REFERER).and_then(|value| referer(place, names, value));
    let origin = headers.get(header::ORIGIN).map(|value| origin(names, value));
    let named: Vec<HeaderName> = headers.keys().cloned().collect();
    for name in named {
        let text = name.as_str();
        let special =
            [header::COOKIE, header::SEC_WEBSOCKET_PROTOCOL, header::REFERER, header::ORIGIN]
                .contains(&name)
                || FORWARDED.contains(&text)
                || text.starts_with(OURS)
                || has_key(text.as_bytes())
                || has_id(text.as_bytes());
        if special {
            headers.remove(name);
            continue;
        }
        if let Entry::Occupied(entry) = headers.entry(name) {
            let told = |value: &HeaderValue| {
                has_key(value.as_bytes())
                    || contains(value.as_bytes(), place.run.as_str().as_bytes())
            };
            if entry.iter().any(told) {
                entry.remove_entry_mult().1.for_each(drop);
            }
        }
    }
    for (name, value) in [
        (header::COOKIE, cookies),
        (header::SEC_WEBSOCKET_PROTOCOL, protocols),
        (header::REFERER, referer),
        (header::ORIGIN, origin),
        (header::HOST, HeaderValue::from_str(&names.inside).ok()),
        (HeaderName::from_static("x-forwarded-host"), HeaderValue::from_str(&names.inside).ok()),
        (HeaderName::from_static("x-forwarded-prefix"), prefix(place)),
    ] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            headers.insert(name, value);
        }
    }
}

/// The prefix of the URL, where it does not have the id in it.
fn prefix(place: &Place) -> Option<HeaderValue> {
    let open = place.form == Form::Name;
    open.then(|| HeaderValue::from_str(&place.prefix).ok()).flatten()
}

/// The path and query that the sandbox is asked for.
pub fn target(place: &Place, query: Option<&str>) -> Result<Uri, ApiError> {
    if has_key(place.path.as_bytes()) {
        return Err(ApiError::invalid(
            "the path has an API key in it, which no sandbox may see: send it as \
             `Authorization: Bearer`, and only to /v1",
        ));
    }
    let (_, query) = access::split_query(query.unwrap_or_default());
    let kept: Vec<&str> = query.split('&').filter(|pair| !has_key(pair.as_bytes())).collect();
    let query = kept.join("&");
    // Together they may make what none of them is.
    let query = if query.is_empty() || has_key(query.as_bytes()) {
        String::new()
    } else {
        format!("?{query}")
    };
    format!("{}{query}", place.path)
        .parse()
        .map_err(|error| ApiError::invalid(format!("the path is not a valid path: {error}")))
}

/// The cookies that are the sandbox's.
fn cookies(place: &Place, headers: &HeaderMap) -> Option<HeaderValue> {
    let mut kept: Vec<u8> = Vec::new();
    for (name, value) in access::cookies(headers) {
        let whole = [name, b"=", value].concat();
        let told = has_key(&whole) || contains(&whole, place.run.as_str().as_bytes());
        if name.eq_ignore_ascii_case(TOKEN.as_bytes()) || told {
            continue;
        }
        // A cookie without a name must not become one of ours.
        if name.is_empty() && contains(value, TOKEN.as_bytes()) {
            continue;
        }
        if !kept.is_empty() {
            kept.extend_from_slice(b"; ");
        }
        kept.extend_from_slice(if name.is_empty() { value } else { &whole });
    }
    HeaderValue::from_bytes(&kept).ok()
}

/// The subprotocols that a WebSocket asks for. Browsers can send nothing else
/// with one, and so programs put keys there.
fn protocols(headers: &HeaderMap) -> Option<HeaderValue> {
    let all = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    let kept: Vec<&[u8]> = all
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|protocol| !protocol.is_empty() && !has_key(protocol) && !has_id(protocol))
        .collect();
    HeaderValue::from_bytes(&kept.join(&b", "[..])).ok()
}

/// The page that a request comes from, as the sandbox knows it. Nothing if it is
/// of another port or run, or tells what is not for the sandbox.
fn referer(place: &Place, names: &Names, value: &HeaderValue) -> Option<HeaderValue> {
    let text = value.to_str().ok()?;
    let rest = text.split_once("://").and_then(|(scheme, rest)| {
        let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        authority.eq_ignore_ascii_case(&names.outside).then_some((scheme, path))
    });
    let told = match rest {
        Some((_, path)) if path.is_empty() || path == "/" => text.to_owned(),
        Some((scheme, path)) => {
            let path = path.strip_prefix(&place.prefix).filter(|path| path.starts_with('/'))?;
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            let (_, query) = access::split_query(query);
            let query = if query.is_empty() { query } else { format!("?{query}") };
            format!("{scheme}://{}{path}{query}", names.inside)
        }
        None => text.to_owned(),
    };
    let told = told.replace(&names.outside, &names.inside);
    let secret = has_key(told.as_bytes()) || has_id(told.as_bytes());
    let token = contains(told.as_bytes(), TOKEN.as_bytes());
    if secret || token { None } else { HeaderValue::try_from(told).ok() }
}

/// The origin of a request, as the sandbox knows it: its own is the name that it
/// is told, and that of another run is none.
fn origin(names: &Names, value: &HeaderValue) -> HeaderValue {
    let text = value.to_str().unwrap_or_default();
    let told = match text.split_once("://") {
        Some((scheme, authority)) if authority.eq_ignore_ascii_case(&names.outside) => {
            format!("{scheme}://{}", names.inside)
        }
        _ => text.to_owned(),
    };
    let secret = told.is_empty() || has_key(told.as_bytes()) || has_id(told.as_bytes());
    let null = HeaderValue::from_static("null");
    if secret { null } else { HeaderValue::try_from(told).unwrap_or(null) }
}

#[cfg(test)]
mod tests {
    use axum::http::header::HeaderName;

    use super::*;

    const RUN: &str = "run0123456789abcdef";
    const OTHER: &str = "runfedcba9876543210";
    const KEY: &str = "isorun_live_local_0123456789abcdef_00ff";

    fn place(form: Form) -> (Place, String) {
        let (host, place) = match form {
            Form::Key => {
                ("127.0.0.1:7676".to_owned(), Place::of_key(&format!("/v1/runs/{RUN}/proxy/80/x")))
            }
            Form::Path => (
                "127.0.0.1:7676".to_owned(),
                Place::of_name(None, None, &format!("/sb/{RUN}/p/80/x")),
            ),
            Form::Name => {
                let host = format!("{RUN}.sb.test");
                (format!("{host}:7676"), Place::of_name(Some(&host), Some("sb.test"), "/sb/p/80/x"))
            }
        };
        (place.unwrap(), host)
    }

    /// The head that a sandbox is told.
    fn told(form: Form, given: &[(&str, &str)]) -> Vec<(String, String)> {
        let (place, host) = place(form);
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        for (name, value) in given {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let names = Names::of(&Uri::from_static("/"), &headers);
        rewrite(&place, &names, &mut headers);
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    fn told_of(form: Form, name: &str, value: &str) -> Option<String> {
        let found = told(form, &[(name, value)]);
        found.into_iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    #[test]
    fn keys_tokens_and_ids_reach_no_sandbox() {
        let twice = format!("Bearer isorun_live_{KEY}");
        let basic = "Basic dXNlcjppc29ydW5fbGl2ZV94X3lfeg==";
        let own = format!("/sb/{RUN}/p/80/x");
        let lower = format!("bearer {}", KEY.to_uppercase());
        let bearer = format!("Bearer {KEY}");
        for form in [Form::Key, Form::Path, Form::Name] {
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
                let head = told(form, &[(name, value)]);
                let text = format!("{head:?}").to_lowercase();
                for secret in ["isorun_live", "isorun_token", "0011", RUN, OTHER, "dxnlcj"] {
                    assert!(!text.contains(secret), "{form:?} {name}: {value}: {head:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_the_sandboxs_own_reaches_it() {
        for form in [Form::Path, Form::Name] {
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
                assert_eq!(told_of(form, name, value).as_deref(), Some(value), "{form:?} {name}");
            }
        }
        assert_eq!(told_of(Form::Key, "authorization", "Bearer sk-own"), None);
        let mixed = format!("own=1; isorun_token=a; k={KEY}; two=2");
        assert_eq!(told_of(Form::Path, "cookie", &mixed).as_deref(), Some("own=1; two=2"));
        let mixed = format!("a, {KEY}, b");
        assert_eq!(told_of(Form::Path, "sec-websocket-protocol", &mixed).as_deref(), Some("a, b"));
    }

    #[test]
    fn names_are_those_that_the_sandbox_may_know() {
        let head = |form, name| told_of(form, name, "x").unwrap_or_default();
        let (_, host) = place(Form::Name);
        assert_eq!(
            told(Form::Name, &[])
                .iter()
                .filter(|(_, value)| value == "sandbox.sb.test:7676")
                .count(),
            2
        );
        assert_eq!(head(Form::Name, "x-forwarded-prefix"), "/sb/p/80");
        assert_eq!(head(Form::Path, "x-forwarded-prefix"), "");
        assert_eq!(head(Form::Path, "x-forwarded-host"), "127.0.0.1:7676");
        for (form, name, value, inside) in [
            (Form::Name, "origin", format!("https://{host}"), "https://sandbox.sb.test:7676"),
            (
                Form::Name,
                "referer",
                format!("https://{host}/sb/p/80/a?b=c"),
                "https://sandbox.sb.test:7676/a?b=c",
            ),
            (
                Form::Name,
                "referer",
                format!("https://{host}/sb/p/80/?isorun_token=x"),
                "https://sandbox.sb.test:7676/",
            ),
            (Form::Name, "origin", format!("https://{OTHER}.sb.test:7676"), "null"),
            (Form::Path, "origin", "http://127.0.0.1:7676".to_owned(), "http://127.0.0.1:7676"),
            (
                Form::Path,
                "referer",
                format!("http://127.0.0.1:7676/sb/{RUN}/p/80/a/"),
                "http://127.0.0.1:7676/a/",
            ),
            (Form::Path, "referer", "http://127.0.0.1:7676/".to_owned(), "http://127.0.0.1:7676/"),
        ] {
            assert_eq!(told_of(form, name, &value).as_deref(), Some(inside), "{value}");
        }
        // A page of another port, and of a port that begins alike.
        let other = format!("http://127.0.0.1:7676/sb/{RUN}/p/8080/a");
        assert_eq!(told_of(Form::Path, "referer", &other), None);
    }

    #[test]
    fn queries_lose_what_is_ours() {
        let (place, _) = place(Form::Path);
        for (query, inside) in [
            (None, "/x".to_owned()),
            (Some("a=1&b".to_owned()), "/x?a=1&b".to_owned()),
            (Some(format!("a=1&key={KEY}&b=2")), "/x?a=1&b=2".to_owned()),
            (Some(format!("key={}", KEY.replace('_', "%5f"))), "/x".to_owned()),
            (Some("ISORUN_token=a&b=2".to_owned()), "/x?b=2".to_owned()),
            (Some(format!("{KEY}&{KEY}")), "/x".to_owned()),
        ] {
            assert_eq!(target(&place, query.as_deref()).unwrap().to_string(), inside, "{query:?}");
        }
        let path = format!("/sb/{RUN}/p/80/a/{KEY}/b");
        let place = Place::of_name(None, None, &path).unwrap();
        assert!(target(&place, None).is_err());
    }
}
