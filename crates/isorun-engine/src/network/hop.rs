//! What of a head of HTTP is about one connection only, and so is the business of
//! whoever passes it on. No I/O.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Headers that are about one connection only.
const HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The protocol that a head asks for, or agrees to.
#[must_use]
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = headers.get_all(header::CONNECTION).iter().any(|value| {
        let mut words = value.to_str().unwrap_or_default().split(',').map(str::trim);
        words.any(|word| word.eq_ignore_ascii_case("upgrade"))
    });
    headers.get(header::UPGRADE).filter(|_| wanted).cloned()
}

/// Takes away what is about the connection that a head came on.
pub fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.to_str().unwrap_or_default().split(','))
        .filter_map(|word| word.trim().parse().ok())
        // Those say where the body ends, and whose it is.
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST)
        .collect();
    for name in HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_goes_and_what_frames_stays() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-own, Content-Length, upgrade, host"),
            ("x-own", "1"),
            ("x-other", "2"),
            ("content-length", "5"),
            ("host", "a.test"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("te", "trailers"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        assert_eq!(upgrade(&headers).unwrap(), "websocket");
        strip(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "host", "x-other"]);
        assert_eq!(upgrade(&headers), None);
    }
}
