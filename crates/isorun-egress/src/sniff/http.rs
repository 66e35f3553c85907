//! A strict parser of heads of HTTP/1 requests. A head that servers parse in different
//! ways is not clean.

use super::{Host, MAX_REQUEST_FIELDS, Sniffed, is_token, parse_host};

/// An incremental parser of the head of a request.
#[derive(Debug, Default)]
pub struct HeadParser {
    /// The start of the line that is not complete.
    line_start: usize,
    /// The position from which the next end of a line is searched.
    at: usize,
    /// The bytes cannot be a clean head; then only their first line decides.
    is_unclean: bool,
    first_line: FirstLine,
    head: Option<Head>,
}

/// The values of the lines parsed so far.
#[derive(Debug)]
struct Head {
    /// HTTP/1.1, not 1.0.
    is_11: bool,
    /// The host in the request target.
    target: Host,
    host: Option<Host>,
    fields: usize,
    has_length: bool,
    is_chunked: bool,
}

/// An error: a line is not clean.
struct Unclean;

impl HeadParser {
    /// Parses the bytes received so far.
    pub fn parse(&mut self, bytes: &[u8]) -> Sniffed {
        // Some servers skip leading blank lines and spaces.
        self.is_unclean |= bytes.first().is_some_and(|byte| !is_token(*byte));
        if self.is_unclean {
            return self.first_line.classify_unclean(bytes);
        }
        while let Some(found) =
            bytes.get(self.at..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n'))
        {
            let end = self.at + found;
            let line = bytes.get(self.line_start..end).unwrap_or_default();
            (self.line_start, self.at) = (end + 1, end + 1);
            let read = line.strip_suffix(b"\r").ok_or(Unclean).and_then(|line| {
                let Some(head) = &mut self.head else {
                    self.head = Some(Head::parse_request_line(line)?);
                    return Ok(None);
                };
                if line.is_empty() {
                    head.finish().map(Some)
                } else {
                    head.parse_field(line).map(|()| None)
                }
            });
            match read {
                Ok(Some(host)) => return Sniffed::Http(host),
                Ok(None) => {}
                Err(Unclean) if self.head.is_some() => return Sniffed::Malformed,
                Err(Unclean) => {
                    self.is_unclean = true;
                    return self.first_line.classify_unclean(bytes);
                }
            }
        }
        self.at = bytes.len();
        if self.head.is_some() {
            return Sniffed::Incomplete;
        }
        match self.first_line.find_event(bytes) {
            // It can be the start of a clean head.
            None | Some(LineEvent::Http) => Sniffed::Incomplete,
            Some(LineEvent::Binary | LineEvent::End) => Sniffed::Other,
        }
    }
}

impl Head {
    /// Parses the request line.
    fn parse_request_line(line: &[u8]) -> Result<Self, Unclean> {
        let mut words = line.split(|byte| *byte == b' ');
        let (method, target, version) = (words.next(), words.next(), words.next());
        let (Some(method), Some(target), Some(version), None) =
            (method, target, version, words.next())
        else {
            return Err(Unclean);
        };
        let is_11 = match version {
            b"HTTP/1.1" => true,
            b"HTTP/1.0" => false,
            _ => return Err(Unclean),
        };
        // Names that are sent through a tunnel would not be checked.
        if method.is_empty() || !method.iter().copied().all(is_token) || method == b"CONNECT" {
            return Err(Unclean);
        }
        if !target.iter().all(u8::is_ascii_graphic) || target.contains(&b'#') {
            return Err(Unclean);
        }
        let uri = http::Uri::try_from(target).map_err(|_| Unclean)?;
        let target = match (target, uri.authority()) {
            ([b'/', ..], None) => Host::None,
            (b"*", None) if method == b"OPTIONS" => Host::None,
            (_, Some(authority)) if uri.scheme_str() == Some("http") => {
                parse_host(authority.as_str()).ok_or(Unclean)?
            }
            _ => return Err(Unclean),
        };
        let (host, fields, has_length, is_chunked) = Default::default();
        Ok(Self { is_11, target, host, fields, has_length, is_chunked })
    }

    /// Parses a header field.
    fn parse_field(&mut self, line: &[u8]) -> Result<(), Unclean> {
        self.fields += 1;
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Unclean)?;
        let (name, value) = line.split_at(colon);
        let value = trim(value.get(1..).unwrap_or_default());
        let is_allowed = |byte: &u8| *byte == b'\t' || *byte >= b' ' && *byte != 0x7f;
        // A line that starts with a space continues the field before it (obs-fold).
        if name.is_empty() || !name.iter().copied().all(is_token) || !value.iter().all(is_allowed) {
            return Err(Unclean);
        }
        if self.fields > MAX_REQUEST_FIELDS {
            return Err(Unclean);
        }
        if name.eq_ignore_ascii_case(b"host") {
            let value = std::str::from_utf8(value).ok().and_then(parse_host).ok_or(Unclean)?;
            if self.host.replace(value).is_some() {
                return Err(Unclean);
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let length = std::str::from_utf8(value).ok().filter(|_| is_digits(value));
            // A length that overflows in some servers is parsed as a different one there.
            if std::mem::replace(&mut self.has_length, true)
                || length.is_none_or(|length| length.parse::<i64>().is_err())
            {
                return Err(Unclean);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding")
            && (std::mem::replace(&mut self.is_chunked, true)
                || !value.eq_ignore_ascii_case(b"chunked"))
        {
            return Err(Unclean);
        }
        Ok(())
    }

    /// Checks the complete head; returns the target host.
    fn finish(&mut self) -> Result<Host, Unclean> {
        if self.is_chunked && (self.has_length || !self.is_11) {
            return Err(Unclean);
        }
        match (self.host.take(), &self.target) {
            (None, _) if self.is_11 => Err(Unclean),
            (None, target) => Ok(target.clone()),
            (Some(host), Host::None) => Ok(host),
            (Some(host), target) if host == *target => Ok(host),
            _ => Err(Unclean),
        }
    }
}

/// Removes spaces and tabs from both ends. Other ASCII whitespace is not allowed there.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn is_digits(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(u8::is_ascii_digit)
}

/// The first event, in the first line that is not blank, that decides whether a head that
/// is not clean may be HTTP for a lenient server.
#[derive(Clone, Copy, Debug)]
enum LineEvent {
    /// A byte after which every HTTP server rejects the request.
    Binary,
    /// The end of the line.
    End,
    /// The text `http`, of the protocol version or a URL.
    Http,
}

/// An incremental search for that event.
#[derive(Debug, Default)]
struct FirstLine {
    at: usize,
    has_started: bool,
    method_ended: bool,
    event: Option<LineEvent>,
}

impl FirstLine {
    /// Returns the first event in the bytes received so far.
    fn find_event(&mut self, bytes: &[u8]) -> Option<LineEvent> {
        while self.event.is_none() && self.at < bytes.len() {
            let read = bytes.get(..=self.at).unwrap_or_default();
            let Some(&byte) = read.last() else { break };
            self.at += 1;
            let blank = matches!(byte, b'\t'..=b'\r' | b' ');
            if !self.has_started && blank {
                continue;
            }
            let is_first = !std::mem::replace(&mut self.has_started, true);
            self.method_ended |= blank;
            let control = byte.is_ascii_control() || is_first && !byte.is_ascii();
            self.event = match byte {
                b'\n' => Some(LineEvent::End),
                0 => Some(LineEvent::Binary),
                _ if !self.method_ended && control => Some(LineEvent::Binary),
                _ => read
                    .last_chunk::<4>()
                    .filter(|word| word.eq_ignore_ascii_case(b"http"))
                    .map(|_| LineEvent::Http),
            };
        }
        self.event
    }

    /// Classifies bytes that are not a clean head.
    fn classify_unclean(&mut self, bytes: &[u8]) -> Sniffed {
        match self.find_event(bytes) {
            None => Sniffed::Incomplete,
            Some(LineEvent::Http) => Sniffed::Malformed,
            Some(LineEvent::Binary | LineEvent::End) => Sniffed::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::parse_pieces;
    use super::*;

    fn check(text: &str, expected: &Sniffed) {
        for piece in [1, 3, 10_000] {
            assert_eq!(parse_pieces(text.as_bytes(), piece), *expected, "{text:?} by {piece}");
        }
    }

    #[test]
    fn valid_requests_have_a_host() {
        let some = |name: &str| Sniffed::Http(Host::Name(name.to_owned()));
        for (text, first) in [
            ("GET / HTTP/1.1\r\nHost: Example.com:8080\r\n\r\n", some("example.com")),
            ("GET / HTTP/1.1\r\nhOST:example.com.\t \r\nA: b\r\n\r\n", some("example.com")),
            ("GET / HTTP/1.1\r\nHost: my_host.test\r\n\r\n", some("my_host.test")),
            ("get / HTTP/1.1\r\nHost: a.com\r\n\r\n", some("a.com")),
            ("M-SEARCH / HTTP/1.0\r\nHost: a.com\r\n\r\n", some("a.com")),
            ("OPTIONS * HTTP/1.1\r\nHost: a.com\r\n\r\n", some("a.com")),
            ("GET http://a.com/ HTTP/1.1\r\nHost: a.com\r\n\r\n", some("a.com")),
            ("GET http://a.com:80 HTTP/1.0\r\n\r\n", some("a.com")),
            ("GET / HTTP/1.0\r\n\r\n", Sniffed::Http(Host::None)),
            (
                "GET / HTTP/1.1\r\nhost: 1.2.3.4\r\n\r\n",
                Sniffed::Http(Host::Address([1, 2, 3, 4].into())),
            ),
            ("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 0\r\n\r\n", some("a.com")),
            ("POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: Chunked\r\n\r\n", some("a.com")),
            ("GET / HTTP/1.1\r\nHos", Sniffed::Incomplete),
            ("GET / HT", Sniffed::Incomplete),
            ("GET /", Sniffed::Incomplete),
            ("", Sniffed::Incomplete),
        ] {
            check(text, &first);
        }
    }

    #[test]
    fn ambiguous_requests_are_malformed() {
        let host = "Host: a.com\r\n";
        for start in [
            "\r\nGET / HTTP/1.1\r\n",
            "\nGET / HTTP/1.1\r\n",
            "\r\n\r\n \t\x0b\x0cGET / HTTP/1.1\r\n",
            " GET / HTTP/1.1\r\n",
            "\tGET / HTTP/1.1\r\n",
            "(GET) / HTTP/1.1\r\n",
            "G@T / HTTP/1.1\r\n",
            "{} / http/1.1\r\n",
            "GET / HTTP/01.1\r\n",
            "GET / HTTP/1.10\r\n",
            "GET / HTTP/1.2\r\n",
            "GET / HTTP/1,1\r\n",
            "GET / HTTP/2\r\n",
            "GET / http/1.1\r\n",
            "GET / HTTP/ 1.1\r\n",
            "GET / XHTTP/1.1\r\n",
            "GET  / HTTP/1.1\r\n",
            "GET / HTTP/1.1 \r\n",
            "GET\t/ HTTP/1.1\r\n",
            "GET\r/ HTTP/1.1\r\n",
            "GET /\r HTTP/1.1\r\n",
            "GET / HTTP/1.1\n",
            "GET / HTTP/1.1\r\r\n",
            "GET / a HTTP/1.1\r\n",
            "GET /\u{e9} HTTP/1.1\r\n",
            "GET /\x01 HTTP/1.1\r\n",
            "GET /#a HTTP/1.1\r\n",
            "GET a HTTP/1.1\r\n",
            "GET * HTTP/1.1\r\n",
            "GET a.com HTTP/1.1\r\n",
            "GET //[ HTTP/1.1\r\nA\0: b\r\n",
            "GET http://b.com/ HTTP/1.1\r\n",
            "GET http://b.com@a.com/ HTTP/1.1\r\n",
            "GET https://a.com/ HTTP/1.1\r\n",
            "GET ftp://a.com/ HTTP/1.1\r\n",
            "CONNECT a.com:443 HTTP/1.1\r\n",
            "CONNECT / HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n",
            "GET http://a.com/\r\n",
            "GET / HTTP/1.1\r\n A: b\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n c\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n\tc\r\n",
            "GET / HTTP/1.1\r\nA : b\r\n",
            "GET / HTTP/1.1\r\nA\r\n",
            "GET / HTTP/1.1\r\n: b\r\n",
            "GET / HTTP/1.1\r\nA: b\n",
            "GET / HTTP/1.1\r\nA: b\rc\r\n",
            "GET / HTTP/1.1\r\nA: b\0c\r\n",
            "GET / HTTP/1.1\r\nA: b\r\r\n",
            "GET / HTTP/1.1\r\nA:\rHost: b.com\r\n",
            "GET / HTTP/1.1\r\nA: b \x0c\r\n",
            "GET / HTTP/1.1\r\nA: \x0cb\r\n",
            "GET / HTTP/1.1\r\nA:\r\r\n",
            "GET / HTTP/1.1\r\nHost: b.com\r\n",
            "GET / HTTP/1.1\r\nHost: a.com\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
            "GET / HTTP/1.1\r\nContent-Length: +1\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 0x1\r\n",
            "GET / HTTP/1.1\r\nContent-Length: \r\n",
            "GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 9223372036854775808\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n",
            "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n",
        ] {
            check(&format!("{start}{host}\r\n"), &Sniffed::Malformed);
        }
        for host in [
            "",
            "Host:\r\n",
            "Host: a b\r\n",
            "Host: a.com, b.com\r\n",
            "Host: b.com@a.com\r\n",
            "Host: a.com/\r\n",
            "Host: a.com:x\r\n",
            "Host: [::1]\r\n",
            "Host: \u{e9}.com\r\n",
            "Host: a.com\r\r\n",
            "Host:\x0ca.com\r\n",
            "Host: a.com\r\n b.com\r\n",
            "Host : a.com\r\n",
            "Host\t: a.com\r\n",
        ] {
            check(&format!("GET / HTTP/1.1\r\n{host}\r\n"), &Sniffed::Malformed);
        }
        let many = "A: b\r\n".repeat(MAX_REQUEST_FIELDS);
        check(&format!("GET / HTTP/1.1\r\n{many}{host}\r\n"), &Sniffed::Malformed);
    }
}
