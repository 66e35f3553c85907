//! The name that the first bytes of a connection say: SNI of TLS, or `Host` of
//! HTTP/1. No I/O.
//!
//! A rule by name admits only what is read here without doubt: a whole ClientHello,
//! or the head of a request that every server reads the same way. Whatever else a
//! lenient server might take for HTTP is told apart from protocols that are not
//! HTTP at all, since those may pass where names only deny.

mod http;
mod tls;

use std::net::Ipv4Addr;

use super::policy;

/// Bytes of a ClientHello or of the head of a request, at most.
pub const MAX_HEAD: usize = 32 * 1024;
/// Header fields of a request without TLS, at most.
pub const MAX_FIELDS: usize = 100;

/// What the first bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    /// Too few to say.
    More,
    /// A ClientHello of TLS, with the name in it.
    Tls(Option<String>),
    /// The head of an HTTP/1 request, with its host.
    Http(Host),
    /// Of a protocol that is neither TLS nor HTTP.
    Other,
    /// TLS or HTTP that not every server reads the same way, or of another version.
    Malformed,
}

/// The host that a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// None is given, as HTTP/1.0 allows.
    None,
    /// A name, in the form in which all are compared.
    Name(String),
    /// An address.
    Address(Ipv4Addr),
}

/// Reads the first bytes of a connection, as they arrive.
#[derive(Debug, Default)]
pub struct Sniffer {
    bytes: Vec<u8>,
    /// With fewer bytes there is nothing new to see.
    wanted: usize,
    http: http::Scan,
}

impl Sniffer {
    /// Where the next bytes are appended.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Whether nothing has arrived.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Gives all bytes that have arrived.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Looks at what has arrived until now.
    pub fn look(&mut self) -> First {
        if self.bytes.len() < self.wanted {
            return First::More;
        }
        // However many bytes arrive at once: a head that is longer is none.
        let head = self.bytes.get(..MAX_HEAD).unwrap_or(&self.bytes);
        let first = match head.first() {
            None => return First::More,
            Some(&tls::HANDSHAKE) => tls::look(head, &mut self.wanted),
            Some(_) => self.http.look(head),
        };
        if first == First::More && self.bytes.len().max(self.wanted) > MAX_HEAD {
            return First::Malformed;
        }
        first
    }
}

/// Reads a `Host`, or the authority of a target: a name or an IPv4 address, and
/// perhaps a port. Nothing for anything else, such as a user's name or IPv6.
#[must_use]
pub fn host(text: &str) -> Option<Host> {
    let (host, port) = text.split_once(':').unwrap_or((text, ""));
    if !port.bytes().all(|byte| byte.is_ascii_digit()) || port.len() > 5 {
        return None;
    }
    if let Ok(address) = host.parse() {
        return Some(Host::Address(address));
    }
    policy::name(host).ok().map(Host::Name)
}

/// Whether a byte can stand in a method or the name of a header field.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at bytes that come in pieces of one size.
    pub fn look_in(bytes: &[u8], piece: usize) -> First {
        let mut sniffer = Sniffer::default();
        for piece in bytes.chunks(piece) {
            sniffer.buffer().extend_from_slice(piece);
            let first = sniffer.look();
            if first != First::More {
                return first;
            }
        }
        First::More
    }

    #[test]
    fn a_host_is_a_name_or_an_address() {
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
            assert_eq!(host(text), expected, "{text:?}");
        }
    }

    #[test]
    fn other_protocols_are_other() {
        for bytes in [
            &b"\x00\x00\x00\x08\x04\xd2\x16\x2f"[..],
            b"\x00\x01raw",
            b"SSH-2.0-OpenSSH_9.9\r\n",
            b"EHLO me\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"AMQP\x00\x00\x09\x01",
            b"\x10\x16\x00\x04MQTT",
            b"0033git-upload-pack /project.git\0host=good.test\0",
            // A ClientHello in a record of SSLv2, which says no name.
            b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10\x01\x00\x80",
            // HTTP/0.9, which says none either.
            b"GET /\r\n",
            b"\x15\x03\x01\x00\x02\x02\x28",
        ] {
            for piece in [1, 2, 7, 1000] {
                assert_eq!(look_in(bytes, piece), First::Other, "{bytes:?} by {piece}");
            }
        }
    }

    #[test]
    fn what_has_no_end_is_malformed() {
        for start in ["GET / HTTP/1.1\r\nA: ", "GET /", "A", " ", "\r\n", "GET / HTTP/1.1\r\n"] {
            let endless = format!("{start}{}", "a".repeat(MAX_HEAD));
            assert_eq!(look_in(endless.as_bytes(), 1000), First::Malformed, "{start:?}");
        }
        let ended = |fill: usize| format!("GET / HTTP/1.0\r\nA: {}\r\n\r\n", "a".repeat(fill));
        let fill = MAX_HEAD - ended(0).len();
        for piece in [1000, MAX_HEAD, MAX_HEAD + 1, 2 * MAX_HEAD] {
            let look = |fill: usize| look_in(ended(fill).as_bytes(), piece);
            assert_eq!(look(fill), First::Http(Host::None), "by {piece}");
            assert_eq!(look(fill + 1), First::Malformed, "by {piece}");
            assert_eq!(look(fill + 10_000), First::Malformed, "by {piece}");
        }
        let blank = " ".repeat(MAX_HEAD + 1);
        assert_eq!(look_in(blank.as_bytes(), 999), First::Malformed);
    }
}
