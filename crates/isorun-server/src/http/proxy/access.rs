//! Access control of the anonymous URLs of a run: open to all who know its id, with a
//! token, or disabled.
//!
//! A browser that sends the token in the query gets it as a cookie, and is redirected to
//! the same URL without it, so that links and referrers do not disclose the token.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use percent_encoding::percent_decode_str;
use sha2::{Digest, Sha256};

use super::port_url::PortUrl;
use crate::{
    core::live_run::UrlAccess,
    http::error::{ApiError, Code},
};

/// The name of the query parameter and of the cookie.
pub const TOKEN_NAME: &str = "isorun_token";
/// The name of the request header.
pub const TOKEN_HEADER: &str = "x-isorun-token";

/// The result of a successful access check.
pub enum AccessDecision {
    Open,
    Redirect(Box<Response>),
}

/// Checks the access of a request. The token stays in the request: [`super::inward`]
/// removes it.
pub fn check_access(
    access: &UrlAccess,
    url: &PortUrl,
    request: &Request,
) -> Result<AccessDecision, ApiError> {
    let token = match access {
        UrlAccess::Open => return Ok(AccessDecision::Open),
        UrlAccess::Off => {
            return Err(ApiError::new(
                Code::Forbidden,
                format!("the anonymous URLs of {} are switched off by its owner", url.run),
            ));
        }
        UrlAccess::Token(token) => token,
    };
    let decide = |is_valid| if is_valid { Ok(AccessDecision::Open) } else { Err(refused(url)) };
    if let Some(given) = request.headers().get(TOKEN_HEADER) {
        return decide(token_matches(given.as_bytes(), token));
    }
    let (given, rest) = split_query(request.uri().query().unwrap_or_default());
    if !given.is_empty() {
        if !given.iter().any(|given| token_matches(given.as_bytes(), token)) {
            return Err(refused(url));
        }
        if is_websocket(request) {
            // WebSocket clients follow no redirects, and scripts in pages cannot set headers.
            return Ok(AccessDecision::Open);
        }
        let secure = request.uri().scheme_str() == Some("https");
        return Ok(AccessDecision::Redirect(Box::new(redirect(url, &rest, token, secure))));
    }
    // Another page may have set a cookie of the same name for the entire domain.
    decide(cookies(request.headers()).any(|(name, value)| {
        name.eq_ignore_ascii_case(TOKEN_NAME.as_bytes()) && token_matches(value, token)
    }))
}

/// Returns a redirect to the same URL without the token, which it sets as a cookie.
fn redirect(url: &PortUrl, query: &str, token: &str, secure: bool) -> Response {
    let query = if query.is_empty() { String::new() } else { format!("?{query}") };
    let location = format!("{}{}{query}", url.prefix, url.path);
    let secure = if secure { "; Secure" } else { "" };
    let cookie =
        format!("{TOKEN_NAME}={token}; Path={}/; HttpOnly; SameSite=Lax{secure}", url.prefix);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    for (name, value) in [
        (header::LOCATION, location),
        (header::SET_COOKIE, cookie),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ] {
        // All values are parts of a parsed URI, or constant.
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Reports whether a request opens a WebSocket, over HTTP/1.1 or HTTP/2.
fn is_websocket(request: &Request) -> bool {
    request.method() == Method::CONNECT || request.headers().contains_key(header::UPGRADE)
}

fn refused(url: &PortUrl) -> ApiError {
    ApiError::new(
        Code::Forbidden,
        format!(
            "the URLs of {} require a token: add ?{TOKEN_NAME}=... once, or the header \
             {TOKEN_HEADER}",
            url.run
        ),
    )
}

/// Compares digests, so that the time of the comparison does not disclose the token.
fn token_matches(given: &[u8], token: &str) -> bool {
    Sha256::digest(given) == Sha256::digest(token.as_bytes())
}

/// Returns the tokens of a query, and the query without them.
pub fn split_query(query: &str) -> (Vec<String>, String) {
    let mut tokens = Vec::new();
    let rest: Vec<&str> = query
        .split('&')
        .filter(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = percent_decode_str(name).decode_utf8_lossy();
            let is_token = name.eq_ignore_ascii_case(TOKEN_NAME);
            if is_token {
                tokens.push(percent_decode_str(value).decode_utf8_lossy().into_owned());
            }
            !is_token && !pair.is_empty()
        })
        .collect();
    (tokens, rest.join("&"))
}

/// Returns the names and values of the cookies of a request. A cookie without `=` has an
/// empty name.
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
    fn tokens_are_split_from_queries() {
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
    fn cookies_are_parsed() {
        let mut headers = HeaderMap::new();
        for value in [&b"a=1; b = 2;;c; =d"[..], b"e==f", b"g=\xff"] {
            headers.append(header::COOKIE, HeaderValue::from_bytes(value).unwrap());
        }
        let expected: [(&[u8], &[u8]); 6] =
            [(b"a", b"1"), (b"b", b"2"), (b"", b"c"), (b"", b"d"), (b"e", b"=f"), (b"g", b"\xff")];
        assert_eq!(cookies(&headers).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn only_valid_tokens_grant_access() {
        let url = PortUrl::parse_anonymous(None, None, "/sb/run0123456789abcdef/p/80/x").unwrap();
        let access = UrlAccess::Token("good".to_owned());
        let open = |query: &str, headers: &[(&str, &str)]| {
            let mut request = Request::builder().uri(format!("/sb/x{query}"));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            check_access(&access, &url, &request.body(Body::empty()).unwrap())
        };
        for headers in [
            &[("x-isorun-token", "good")][..],
            &[("cookie", "isorun_token=good")],
            &[("cookie", "isorun_token=bad; isorun_token=good")],
            &[("cookie", "isorun_token=bad"), ("cookie", "own=1; isorun_token=good")],
        ] {
            assert!(matches!(open("", headers), Ok(AccessDecision::Open)), "{headers:?}");
        }
        for query in ["?isorun_token=good", "?isorun_token=bad&isorun_token=good&q=1"] {
            let Ok(AccessDecision::Redirect(response)) = open(query, &[]) else {
                panic!("{query}")
            };
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
