//! Who may use the anonymous URLs of a run: everybody who knows its id, those
//! who have a token, or nobody.
//!
//! A browser that comes with the token in the query gets it as a cookie, and is
//! sent on to the same place without it, so that the token stays out of what the
//! page's links tell others.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ApiError, Code, Place};

/// The name in the query, and of the cookie.
pub const TOKEN: &str = "isorun_token";
pub const HEADER: &str = "x-isorun-token";

/// Who may use the anonymous URLs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UrlAccess {
    /// Whoever knows the id of the run.
    #[default]
    Open,
    /// Who has this token, too.
    Token(String),
    /// Nobody.
    Off,
}

/// How a request goes on.
pub enum Entry {
    Open,
    Redirect(Box<Response>),
}

/// Lets a request in or not. The token is still in it: see [`super::inward`].
pub fn enter(access: &UrlAccess, place: &Place, request: &Request) -> Result<Entry, ApiError> {
    let token = match access {
        UrlAccess::Open => return Ok(Entry::Open),
        UrlAccess::Off => {
            return Err(ApiError::new(
                Code::Forbidden,
                format!("{} has no anonymous URLs: its owner switched them off", place.run),
            ));
        }
        UrlAccess::Token(token) => token,
    };
    let decide = |good| if good { Ok(Entry::Open) } else { Err(refused(place)) };
    if let Some(given) = request.headers().get(HEADER) {
        return decide(same(given.as_bytes(), token));
    }
    let (given, rest) = split_query(request.uri().query().unwrap_or_default());
    if !given.is_empty() {
        if !given.iter().any(|given| same(given.as_bytes(), token)) {
            return Err(refused(place));
        }
        if is_websocket(request) {
            // Who opens one follows no redirect, and a page's script cannot set fields.
            return Ok(Entry::Open);
        }
        let secure = request.uri().scheme_str() == Some("https");
        return Ok(Entry::Redirect(Box::new(redirect(place, &rest, token, secure))));
    }
    // Another page may have set one of the same name for the whole domain.
    decide(
        cookies(request.headers())
            .any(|(name, value)| name.eq_ignore_ascii_case(TOKEN.as_bytes()) && same(value, token)),
    )
}

/// Gives a browser the token as a cookie, and sends it to the same place without.
fn redirect(place: &Place, query: &str, token: &str, secure: bool) -> Response {
    let query = if query.is_empty() { String::new() } else { format!("?{query}") };
    let location = format!("{}{}{query}", place.prefix, place.path);
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!("{TOKEN}={token}; Path={}/; HttpOnly; SameSite=Lax{secure}", place.prefix);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    for (name, value) in [
        (header::LOCATION, location),
        (header::SET_COOKIE, cookie),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ] {
        // All were checked as parts of a URI, or made by us.
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Returns whether a request opens a WebSocket, over HTTP/1.1 or HTTP/2.
fn is_websocket(request: &Request) -> bool {
    request.method() == Method::CONNECT || request.headers().contains_key(header::UPGRADE)
}

fn refused(place: &Place) -> ApiError {
    ApiError::new(
        Code::Forbidden,
        format!(
            "the URLs of {} take a token: add ?{TOKEN}=... once, or the header {HEADER}",
            place.run
        ),
    )
}

/// Compares digests, so that the time it takes says nothing of the token.
fn same(given: &[u8], token: &str) -> bool {
    Sha256::digest(given) == Sha256::digest(token.as_bytes())
}

/// The tokens of a query, and the query without them.
pub fn split_query(query: &str) -> (Vec<String>, String) {
    let mut tokens = Vec::new();
    let rest: Vec<&str> = query
        .split('&')
        .filter(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = percent_decode_str(name).decode_utf8_lossy();
            let ours = name.eq_ignore_ascii_case(TOKEN);
            if ours {
                tokens.push(percent_decode_str(value).decode_utf8_lossy().into_owned());
            }
            !ours && !pair.is_empty()
        })
        .collect();
    (tokens, rest.join("&"))
}

/// The cookies of a request: their names and values. One without `=` has no name.
pub fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let all = headers.get_all(header::COOKIE).into_iter();
    all.flat_map(|value| value.as_bytes().split(|byte| *byte == b';')).filter_map(|pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|byte| *byte == b'=');
        let (name, value) = match at {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (&pair[..0], pair),
        };
        (!pair.is_empty()).then_some((name.trim_ascii(), value.trim_ascii()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_split() {
        for (query, tokens, rest) in [
            ("", &[][..], ""),
            ("isorun_token=a", &["a"], ""),
            ("x=1&isorun_token=a&y=%20", &["a"], "x=1&y=%20"),
            ("isorun_token=a&isorun_token=b", &["a", "b"], ""),
            ("isorun%5Ftoken=a&Isorun_Token=%62", &["a", "b"], ""),
            ("isorun_token", &[""], ""),
            ("&&x&&", &[], "x"),
            ("xisorun_token=a&isorun_tokenx=b", &[], "xisorun_token=a&isorun_tokenx=b"),
        ] {
            let (found, kept) = split_query(query);
            assert_eq!(
                (found, kept.as_str()),
                (tokens.iter().map(|t| (*t).to_owned()).collect(), rest),
                "{query}"
            );
        }
    }

    #[test]
    fn cookies_are_split() {
        let mut headers = HeaderMap::new();
        for value in [&b"a=1; b = 2;;c; =d"[..], b"e==f", b"g=\xff"] {
            headers.append(header::COOKIE, HeaderValue::from_bytes(value).unwrap());
        }
        let expected: [(&[u8], &[u8]); 6] =
            [(b"a", b"1"), (b"b", b"2"), (b"", b"c"), (b"", b"d"), (b"e", b"=f"), (b"g", b"\xff")];
        assert_eq!(cookies(&headers).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn any_true_token_opens_and_others_do_not() {
        let place = Place::of_name(None, None, "/sb/run0123456789abcdef/p/80/x").unwrap();
        let access = UrlAccess::Token("good".to_owned());
        let open = |query: &str, headers: &[(&str, &str)]| {
            let mut request = Request::builder().uri(format!("/sb/x{query}"));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            enter(&access, &place, &request.body(Body::empty()).unwrap())
        };
        for headers in [
            &[("x-isorun-token", "good")][..],
            &[("cookie", "isorun_token=good")],
            &[("cookie", "isorun_token=bad; isorun_token=good")],
            &[("cookie", "isorun_token=bad"), ("cookie", "own=1; isorun_token=good")],
        ] {
            assert!(matches!(open("", headers), Ok(Entry::Open)), "{headers:?}");
        }
        for query in ["?isorun_token=good", "?isorun_token=bad&isorun_token=good&q=1"] {
            let Ok(Entry::Redirect(response)) = open(query, &[]) else { panic!("{query}") };
            assert!(!response.headers()["location"].to_str().unwrap().contains("good"));
        }
        for (query, headers) in [
            ("", &[][..]),
            ("", &[("x-isorun-token", "bad"), ("cookie", "isorun_token=good")]),
            ("?isorun_token=bad", &[("cookie", "isorun_token=good")]),
            ("?isorun_token=", &[]),
            ("", &[("cookie", "isorun_token=")]),
            ("", &[("cookie", "xisorun_token=good; good")]),
        ] {
            assert!(open(query, headers).is_err(), "{query} {headers:?}");
        }
    }
}
