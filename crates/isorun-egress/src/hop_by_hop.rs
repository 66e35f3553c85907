//! Hop-by-hop headers of HTTP/1: they apply to one connection only, and a proxy does not
//! forward them (RFC 9110, section 7.6.1). No I/O.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// The headers that are hop-by-hop without being named in `Connection`.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Returns the protocol that a request asks to upgrade to, or that a response agrees to.
#[must_use]
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_upgrade = headers.get_all(header::CONNECTION).iter().any(|value| {
        let mut options = value.to_str().unwrap_or_default().split(',').map(str::trim);
        options.any(|option| option.eq_ignore_ascii_case("upgrade"))
    });
    headers.get(header::UPGRADE).filter(|_| is_upgrade).cloned()
}

/// Removes the hop-by-hop headers.
pub fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.to_str().unwrap_or_default().split(','))
        .filter_map(|option| option.trim().parse().ok())
        // These two define the length of the body and the target host.
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST)
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_fields_are_removed_and_framing_is_kept() {
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
