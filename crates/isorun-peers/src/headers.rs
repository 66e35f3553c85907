//! Headers that apply to one connection only. A proxy does not forward them (RFC 9110,
//! section 7.6.1). No I/O.

use http::{HeaderMap, HeaderName, Method, Request, header};
use hyper::ext::Protocol;

/// The headers that are removed even if `Connection` does not name them.
const CONNECTION_HEADERS: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Headers that this node adds to a request that it forwards, as an extension of the request.
/// They replace headers of the client with the same names, and no `Connection` header of the
/// client can remove them.
#[derive(Clone, Debug, Default)]
pub struct AddedHeaders(pub HeaderMap);

/// How a request asks for a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WebSocket {
    /// By the header `Upgrade` of HTTP/1.1.
    Upgrade,
    /// By an extended CONNECT of HTTP/2 (RFC 8441).
    ExtendedConnect,
}

impl WebSocket {
    /// Returns how a request asks for a WebSocket, if it does.
    pub(crate) fn of<B>(request: &Request<B>) -> Option<Self> {
        if request.method() == Method::CONNECT {
            let protocol = request.extensions().get::<Protocol>()?;
            return (protocol.as_str() == "websocket").then_some(Self::ExtendedConnect);
        }
        let is_upgrade = request.method() == Method::GET && is_websocket_upgrade(request.headers());
        is_upgrade.then_some(Self::Upgrade)
    }
}

/// Reports whether a request asks to upgrade to a WebSocket, or a response agrees to.
pub(crate) fn is_websocket_upgrade(headers: &HeaderMap) -> bool {
    let mut protocols = list(headers, &header::UPGRADE);
    let mut options = list(headers, &header::CONNECTION);
    protocols.any(|protocol| protocol.eq_ignore_ascii_case("websocket"))
        && options.any(|option| option.eq_ignore_ascii_case("upgrade"))
}

/// Removes the headers that apply to one connection only.
pub(crate) fn remove_connection_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = list(headers, &header::CONNECTION)
        .filter_map(|option| option.parse().ok())
        // These two define the length of the body and the target host.
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST)
        .collect();
    for name in CONNECTION_HEADERS.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Removes a request's headers that apply to its connection only, then adds those of
/// [`AddedHeaders`].
pub(crate) fn prepare_request<B>(request: &mut Request<B>) {
    let added = request.extensions_mut().remove::<AddedHeaders>().unwrap_or_default();
    let headers = request.headers_mut();
    remove_connection_headers(headers);
    let names: Vec<HeaderName> = added.0.keys().cloned().collect();
    for name in &names {
        headers.remove(name);
        for value in added.0.get_all(name) {
            headers.append(name, value.clone());
        }
    }
}

/// Returns the elements of a header that is a list.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).into_iter().flat_map(|value| {
        // A value that is not a text as a whole may still have valid elements.
        value.as_bytes().split(|byte| *byte == b',').filter_map(|element| {
            Some(std::str::from_utf8(element).ok()?.trim()).filter(|element| !element.is_empty())
        })
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(fields: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn named_headers_are_removed_and_framing_is_kept() {
        let mut headers = headers(&[
            ("connection", b"x-own, Content-Length,,upgrade ,host"),
            ("connection", b"\xff, X-Second"),
            ("x-own", b"1"),
            ("x-second", b"1"),
            ("x-other", b"2"),
            ("content-length", b"5"),
            ("host", b"a.test"),
            ("transfer-encoding", b"chunked"),
            ("upgrade", b"websocket"),
            ("te", b"trailers"),
            ("keep-alive", b"timeout=5"),
            ("proxy-connection", b"close"),
            ("proxy-authorization", b"Basic x"),
            ("proxy-authenticate", b"Basic"),
        ]);
        remove_connection_headers(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "host", "x-other"]);
    }

    #[test]
    fn added_headers_replace_those_of_the_client_and_cannot_be_removed_by_it() {
        let added = headers(&[("x-added", b"1"), ("x-added", b"2")]);
        let mut request = Request::new(());
        *request.headers_mut() =
            headers(&[("connection", b"x-added"), ("x-added", b"client"), ("x-kept", b"k")]);
        request.extensions_mut().insert(AddedHeaders(added.clone()));
        prepare_request(&mut request);
        let values: Vec<_> = request.headers().get_all("x-added").iter().collect();
        assert_eq!(values, ["1", "2"]);
        assert_eq!(request.headers().len(), 3);
    }

    #[test]
    fn websockets_are_recognized() {
        let request = |method: Method, fields, protocol: Option<&'static str>| {
            let mut request = Request::new(());
            *request.method_mut() = method;
            *request.headers_mut() = headers(fields);
            if let Some(protocol) = protocol {
                request.extensions_mut().insert(Protocol::from_static(protocol));
            }
            WebSocket::of(&request)
        };
        let upgrade: &[(&str, &[u8])] =
            &[("connection", b"keep-alive, Upgrade"), ("upgrade", b"WebSocket")];
        assert_eq!(request(Method::GET, upgrade, None), Some(WebSocket::Upgrade));
        let connect = Some(WebSocket::ExtendedConnect);
        assert_eq!(request(Method::CONNECT, &[], Some("websocket")), connect);
        for (method, fields, protocol) in [
            (Method::GET, &[("upgrade", b"websocket" as &[u8])] as &[(&str, &[u8])], None),
            (Method::GET, &[("connection", b"upgrade")], None),
            (Method::GET, &[("connection", b"upgrade"), ("upgrade", b"h2c")], None),
            (Method::POST, upgrade, None),
            (Method::CONNECT, upgrade, None),
            (Method::CONNECT, upgrade, Some("connect-udp")),
        ] {
            assert_eq!(request(method, fields, protocol), None, "{fields:?}");
        }
    }
}
