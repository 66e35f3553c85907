//! Who may use the anonymous URLs of a run: everybody who knows its id, those
//! who have a token, or nobody.
//!
//! A browser that comes with the token in the query gets it as a cookie, and is
//! sent on to the same place without it, so that the token stays out of what the
//! page's links tell others.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ApiError, Code, Place};

/// The name in the query, and of the cookie.
pub const TOKEN: &str = "isorun_token";
const HEADER: &str = "x-isorun-token";

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

/// Lets a request in or not; takes the token out of it.
pub fn enter(access: &UrlAccess, place: &Place, request: &mut Request) -> Result<Entry, ApiError> {
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
    if let Some(given) = request.headers_mut().remove(HEADER) {
        return if same(given.as_bytes(), token) { Ok(Entry::Open) } else { Err(refused(place)) };
    }
    let query = request.uri().query().unwrap_or_default();
    let (given, rest) = split_query(query);
    if let Some(given) = given {
        if !same(given.as_bytes(), token) {
            return Err(refused(place));
        }
        let query = if rest.is_empty() { rest } else { format!("?{rest}") };
        let location = format!("{}{}{query}", place.prefix, place.path);
        let secure = if request.uri().scheme_str() == Some("https") { "; Secure" } else { "" };
        let cookie =
            format!("{TOKEN}={token}; Path={}/; HttpOnly; SameSite=Lax{secure}", place.prefix);
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        for (name, value) in [(header::LOCATION, location), (header::SET_COOKIE, cookie)] {
            // Both were checked as parts of a URI, or made by us.
            if let Ok(value) = HeaderValue::try_from(value) {
                response.headers_mut().insert(name, value);
            }
        }
        return Ok(Entry::Redirect(Box::new(response)));
    }
    match take_cookie(request.headers_mut()) {
        Some(given) if same(given.as_bytes(), token) => Ok(Entry::Open),
        _ => Err(refused(place)),
    }
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

/// The token of a query, and the query without it.
fn split_query(query: &str) -> (Option<String>, String) {
    let mut token = None;
    let rest: Vec<&str> = query
        .split('&')
        .filter(|pair| match pair.strip_prefix(TOKEN).and_then(|rest| rest.strip_prefix('=')) {
            Some(value) => {
                token = Some(value.to_owned());
                false
            }
            None => !pair.is_empty(),
        })
        .collect();
    (token, rest.join("&"))
}

/// Takes our cookie out of what the sandbox is told.
fn take_cookie(headers: &mut HeaderMap) -> Option<String> {
    let mut token = None;
    let mut kept = Vec::new();
    for value in headers.get_all(header::COOKIE) {
        for pair in value.to_str().unwrap_or_default().split(';').map(str::trim) {
            match pair.strip_prefix(TOKEN).and_then(|rest| rest.strip_prefix('=')) {
                Some(value) => token = Some(value.to_owned()),
                None if pair.is_empty() => {}
                None => kept.push(pair.to_owned()),
            }
        }
    }
    headers.remove(header::COOKIE);
    if !kept.is_empty()
        && let Ok(value) = HeaderValue::try_from(kept.join("; "))
    {
        headers.insert(header::COOKIE, value);
    }
    token
}
