//! The name that the first bytes of a connection say: SNI of TLS, or `Host` of
//! HTTP. No I/O.

use super::policy;

/// More than any head that is honest.
pub const MOST: usize = 32 * 1024;

/// What the first bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    /// Too few to say.
    More,
    /// The hello of TLS, with the name in it.
    Tls(Option<String>),
    /// The head of an HTTP/1 request, with its host.
    Http(Option<String>),
    /// Something that says no name.
    Other,
    /// It would be one of them, and is broken, or says two names.
    Malformed,
}

/// Looks at what has arrived until now.
#[must_use]
pub fn look(bytes: &[u8]) -> First {
    let first = match bytes.first() {
        None => return First::More,
        Some(0x16) => tls(bytes),
        Some(byte) if byte.is_ascii_uppercase() => http(bytes),
        Some(_) => First::Other,
    };
    if first == First::More && bytes.len() >= MOST { First::Malformed } else { first }
}

fn tls(bytes: &[u8]) -> First {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        match acceptor.read_tls(&mut rest) {
            Ok(0) => break,
            Ok(_) => match acceptor.accept() {
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(str::to_owned);
                    return name.map_or(First::Tls(None), |name| match policy::name(&name) {
                        Ok(name) => First::Tls(Some(name)),
                        Err(_) => First::Malformed,
                    });
                }
                Ok(None) => {}
                Err(_) => return First::Malformed,
            },
            Err(_) => return First::Malformed,
        }
    }
    First::More
}

fn http(bytes: &[u8]) -> First {
    // HTTP/2 without TLS hides its names where only a whole server finds them.
    const HTTP2: &[u8] = b"PRI * HTTP/2";
    if bytes.starts_with(HTTP2) {
        return First::Malformed;
    }
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if line.len() < bytes.len() && !line.windows(6).any(|part| part == b"HTTP/1") {
        return First::Other;
    }
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => First::More,
        Ok(httparse::Status::Complete(_)) => {
            let hosts: Vec<&[u8]> = request
                .headers
                .iter()
                .filter(|header| header.name.eq_ignore_ascii_case("host"))
                .map(|header| header.value)
                .collect();
            let from_target = request.path.and_then(|path| path.parse::<http::Uri>().ok());
            let from_target = from_target.and_then(|uri| uri.host().map(str::to_owned));
            match hosts.as_slice() {
                [] => First::Http(None),
                [host] => {
                    let said = std::str::from_utf8(host).ok().and_then(host_of);
                    match (said, from_target.map(|name| policy::name(&name))) {
                        (Some(said), None) => First::Http(said),
                        (Some(Some(said)), Some(Ok(target))) if said == target => {
                            First::Http(Some(said))
                        }
                        _ => First::Malformed,
                    }
                }
                _ => First::Malformed,
            }
        }
        // Upper-case letters that are no HTTP, such as those of other protocols.
        Err(_) if line.len() == bytes.len() => First::Other,
        Err(_) => First::Malformed,
    }
}

/// The name of a `Host`; of an address there is none. `None`: it is neither.
fn host_of(text: &str) -> Option<Option<String>> {
    let authority: http::uri::Authority = text.trim().parse().ok()?;
    let host = authority.host();
    if host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok() {
        return Some(None);
    }
    policy::name(host).ok().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(name: &str) -> Vec<u8> {
        let roots = rustls::RootCertStore::empty();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn tls_says_its_name_piece_by_piece() {
        let whole = hello("api.example.com");
        for cut in [1, 5, 6, 50, whole.len() - 1] {
            assert_eq!(look(&whole[..cut]), First::More, "{cut}");
        }
        assert_eq!(look(&whole), First::Tls(Some("api.example.com".to_owned())));
        assert_eq!(look(&hello("1.2.3.4")), First::Tls(None));
        // In two records.
        let (head, body) = whole.split_at(5);
        let half = body.len() / 2;
        let mut split = Vec::new();
        for part in [&body[..half], &body[half..]] {
            split.extend_from_slice(&head[..3]);
            split.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
            split.extend_from_slice(part);
        }
        assert_eq!(look(&split), First::Tls(Some("api.example.com".to_owned())));
        // The length of the session's id, which is 32 at most.
        let mut broken = whole;
        broken[43] ^= 0xff;
        assert_eq!(look(&broken), First::Malformed);
    }

    #[test]
    fn http_says_its_host() {
        let some = |name: &str| First::Http(Some(name.to_owned()));
        for (text, first) in [
            ("GET / HTTP/1.1\r\nHost: Example.com:8080\r\n\r\n", some("example.com")),
            ("GET / HTTP/1.1\r\nhost: 1.2.3.4\r\n\r\n", First::Http(None)),
            ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", First::Http(None)),
            ("GET / HTTP/1.0\r\n\r\n", First::Http(None)),
            ("GET http://a.com/ HTTP/1.1\r\nHost: a.com\r\n\r\n", some("a.com")),
            ("GET http://b.com/ HTTP/1.1\r\nHost: a.com\r\n\r\n", First::Malformed),
            ("GET / HTTP/1.1\r\nHost: a.com\r\nHost: b.com\r\n\r\n", First::Malformed),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", First::Malformed),
            ("GET / HTTP/1.1\r\nHos", First::More),
            ("GET / HT", First::More),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", First::Malformed),
            ("SSH-2.0-OpenSSH_9\r\n", First::Other),
            ("EHLO me\r\n", First::Other),
            ("\x00\x01", First::Other),
            ("", First::More),
        ] {
            assert_eq!(look(text.as_bytes()), first, "{text:?}");
        }
        let endless = format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(MOST));
        assert_eq!(look(endless.as_bytes()), First::Malformed);
    }
}
