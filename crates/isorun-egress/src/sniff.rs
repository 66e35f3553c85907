//! Parsers of the first bytes of a connection, which extract the hostname: the SNI of TLS,
//! or the `Host` of HTTP/1. No I/O.
//!
//! A rule by name allows only what is parsed here unambiguously: a complete ClientHello,
//! or the head of a request that every server parses in the same way. Anything else that
//! a lenient server might accept as HTTP is distinguished from protocols that are not
//! HTTP at all, since those are allowed where rules only deny names.

mod http;
mod tls;

use std::net::Ipv4Addr;

use super::policy;

/// Maximum size of a ClientHello or of the head of a request, in bytes.
pub const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Maximum number of header fields of a request without TLS.
pub const MAX_REQUEST_FIELDS: usize = 100;

/// The protocol of the first bytes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// More bytes are needed.
    Incomplete,
    /// A ClientHello of TLS, with the SNI if it has one.
    Tls(Option<String>),
    /// The head of an HTTP/1 request, with its host.
    Http(Host),
    /// A protocol that is neither TLS nor HTTP.
    Other,
    /// TLS or HTTP that servers parse in different ways, or of an unsupported version.
    Malformed,
}

/// The target host of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// The request names no host, as HTTP/1.0 allows.
    None,
    /// A hostname in normalized form.
    Name(String),
    /// An IPv4 address.
    Address(Ipv4Addr),
}

/// An incremental parser of the first bytes of a connection.
#[derive(Debug, Default)]
pub struct Sniffer {
    bytes: Vec<u8>,
    /// The number of bytes below which parsing again gives no new result.
    min_bytes: usize,
    http: http::HeadParser,
}

impl Sniffer {
    /// Returns the buffer to which received bytes are to be appended.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Reports whether no bytes were received.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns all received bytes.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Parses the bytes received so far.
    pub fn parse(&mut self) -> Sniffed {
        if self.bytes.len() < self.min_bytes {
            return Sniffed::Incomplete;
        }
        // A longer head is malformed, however many bytes arrive at once.
        let head = self.bytes.get(..MAX_HEAD_BYTES).unwrap_or(&self.bytes);
        let sniffed = match head.first() {
            None => return Sniffed::Incomplete,
            Some(&tls::HANDSHAKE) => tls::parse(head, &mut self.min_bytes),
            Some(_) => self.http.parse(head),
        };
        if sniffed == Sniffed::Incomplete && self.bytes.len().max(self.min_bytes) > MAX_HEAD_BYTES {
            return Sniffed::Malformed;
        }
        sniffed
    }
}

/// Parses a `Host` field, or the authority of a request target: a hostname or an IPv4
/// address, and perhaps a port. Returns `None` for anything else, such as user information
/// or IPv6.
#[must_use]
pub fn parse_host(text: &str) -> Option<Host> {
    let (host, port) = text.split_once(':').unwrap_or((text, ""));
    if !port.bytes().all(|byte| byte.is_ascii_digit()) || port.len() > 5 {
        return None;
    }
    if let Ok(address) = host.parse() {
        return Some(Host::Address(address));
    }
    policy::name(host).ok().map(Host::Name)
}

/// Reports whether a byte is allowed in a method or the name of a header field.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses bytes that arrive in pieces of one size.
    pub fn parse_pieces(bytes: &[u8], piece: usize) -> Sniffed {
        let mut sniffer = Sniffer::default();
        for piece in bytes.chunks(piece) {
            sniffer.buffer().extend_from_slice(piece);
            let sniffed = sniffer.parse();
            if sniffed != Sniffed::Incomplete {
                return sniffed;
            }
        }
        Sniffed::Incomplete
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        let name = |text: &str| Some(Host::Name(text.to_owned()));
        for (text, expected) in [
            ("good.test", name("good.test")),
            ("GOOD.Test.:8080", name("good.test")),
            ("my_host.test", name("my_host.test")),
            ("good.test:", name("good.test")),
            ("1.2.3.4:80", Some(Host::Address(Ipv4Addr::new(1, 2, 3, 4)))),
            ("1.2.3", None),
            ("0x7f.1", None),
            ("[::1]:80", None),
            ("::1", None),
            ("a.test@good.test", None),
            ("good.test:80@a.test", None),
            ("good.test:http", None),
            ("good.test:123456", None),
            ("good.test/", None),
            ("good.test,a.test", None),
            ("good.test a.test", None),
            (" good.test", None),
            ("good\0.test", None),
            ("", None),
            (":80", None),
        ] {
            assert_eq!(parse_host(text), expected, "{text:?}");
        }
    }

    #[test]
    fn other_protocols_are_detected() {
        for bytes in [
            &b"\x00\x00\x00\x08\x04\xd2\x16\x2f"[..],
            b"\x00\x01raw",
            b"SSH-2.0-OpenSSH_9.9\r\n",
            b"EHLO me\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"AMQP\x00\x00\x09\x01",
            b"\x10\x16\x00\x04MQTT",
            b"0033git-upload-pack /project.git\0host=good.test\0",
            // A ClientHello in a record of SSLv2, which has no name.
            b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10\x01\x00\x80",
            // HTTP/0.9, which has no name either.
            b"GET /\r\n",
            b"\x15\x03\x01\x00\x02\x02\x28",
        ] {
            for piece in [1, 2, 7, 1000] {
                assert_eq!(parse_pieces(bytes, piece), Sniffed::Other, "{bytes:?} by {piece}");
            }
        }
    }

    #[test]
    fn head_beyond_the_limit_is_malformed() {
        for start in ["GET / HTTP/1.1\r\nA: ", "GET /", "A", " ", "\r\n", "GET / HTTP/1.1\r\n"] {
            let endless = format!("{start}{}", "a".repeat(MAX_HEAD_BYTES));
            assert_eq!(parse_pieces(endless.as_bytes(), 1000), Sniffed::Malformed, "{start:?}");
        }
        let ended = |fill: usize| format!("GET / HTTP/1.0\r\nA: {}\r\n\r\n", "a".repeat(fill));
        let fill = MAX_HEAD_BYTES - ended(0).len();
        for piece in [1000, MAX_HEAD_BYTES, MAX_HEAD_BYTES + 1, 2 * MAX_HEAD_BYTES] {
            let parse = |fill: usize| parse_pieces(ended(fill).as_bytes(), piece);
            assert_eq!(parse(fill), Sniffed::Http(Host::None), "by {piece}");
            assert_eq!(parse(fill + 1), Sniffed::Malformed, "by {piece}");
            assert_eq!(parse(fill + 10_000), Sniffed::Malformed, "by {piece}");
        }
        let blank = " ".repeat(MAX_HEAD_BYTES + 1);
        assert_eq!(parse_pieces(blank.as_bytes(), 999), Sniffed::Malformed);
    }
}
