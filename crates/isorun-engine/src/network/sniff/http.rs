//! Heads of HTTP/1, read strictly: what one server takes for this and another for
//! that is not clean.

use super::{First, Host, MAX_FIELDS, host, is_token};

/// How far a head was read.
#[derive(Debug, Default)]
pub struct Scan {
    /// Where the line begins that is not complete.
    line: usize,
    /// Where the next end of a line is looked for.
    at: usize,
    /// Whether the bytes cannot be a clean head: then only their first line counts.
    foreign: bool,
    first_line: FirstLine,
    head: Option<Head>,
}

/// What the lines said until now.
#[derive(Debug)]
struct Head {
    /// HTTP/1.1, and not 1.0.
    is_11: bool,
    /// The host in the target.
    target: Host,
    host: Option<Host>,
    fields: usize,
    has_length: bool,
    is_chunked: bool,
}

/// What is wrong with a line.
struct Unclean;

impl Scan {
    /// Looks at what has arrived until now.
    pub fn look(&mut self, bytes: &[u8]) -> First {
        // Blank lines, spaces: some servers skip them.
        self.foreign |= bytes.first().is_some_and(|byte| !is_token(*byte));
        if self.foreign {
            return self.first_line.foreign(bytes);
        }
        while let Some(found) =
            bytes.get(self.at..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n'))
        {
            let end = self.at + found;
            let line = bytes.get(self.line..end).unwrap_or_default();
            (self.line, self.at) = (end + 1, end + 1);
            let read = line.strip_suffix(b"\r").ok_or(Unclean).and_then(|line| {
                let Some(head) = &mut self.head else {
                    self.head = Some(Head::begin(line)?);
                    return Ok(None);
                };
                if line.is_empty() { head.end().map(Some) } else { head.field(line).map(|()| None) }
            });
            match read {
                Ok(Some(host)) => return First::Http(host),
                Ok(None) => {}
                Err(Unclean) if self.head.is_some() => return First::Malformed,
                Err(Unclean) => {
                    self.foreign = true;
                    return self.first_line.foreign(bytes);
                }
            }
        }
        self.at = bytes.len();
        if self.head.is_some() {
            return First::More;
        }
        match self.first_line.event(bytes) {
            // It can be the beginning of a clean one.
            None | Some(Event::Http) => First::More,
            Some(Event::Binary | Event::End) => First::Other,
        }
    }
}

impl Head {
    /// Reads the request line.
    fn begin(line: &[u8]) -> Result<Self, Unclean> {
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
        // What becomes a tunnel says later, and to somebody else, where it leads.
        if method.is_empty() || !method.iter().copied().all(is_token) || method == b"CONNECT" {
            return Err(Unclean);
        }
        if !target.iter().all(u8::is_ascii_graphic) || target.contains(&b'#') {
            return Err(Unclean);
        }
        let uri = http::Uri::try_from(target).map_err(|_| Unclean)?;
        let form = match (target, uri.authority()) {
            ([b'/', ..], None) => Host::None,
            (b"*", None) if method == b"OPTIONS" => Host::None,
            (_, Some(authority)) if uri.scheme_str() == Some("http") => {
                host(authority.as_str()).ok_or(Unclean)?
            }
            _ => return Err(Unclean),
        };
        let (host, fields, has_length, is_chunked) = Default::default();
        Ok(Self { is_11, target: form, host, fields, has_length, is_chunked })
    }

    /// Reads a header field.
    fn field(&mut self, line: &[u8]) -> Result<(), Unclean> {
        self.fields += 1;
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Unclean)?;
        let (name, value) = line.split_at(colon);
        let value = trim(value.get(1..).unwrap_or_default());
        let plain = |byte: &u8| *byte == b'\t' || *byte >= b' ' && *byte != 0x7f;
        // A name that begins with a space goes on with the field before it.
        if name.is_empty() || !name.iter().copied().all(is_token) || !value.iter().all(plain) {
            return Err(Unclean);
        }
        if self.fields > MAX_FIELDS {
            return Err(Unclean);
        }
        if name.eq_ignore_ascii_case(b"host") {
            let said = std::str::from_utf8(value).ok().and_then(host).ok_or(Unclean)?;
            if self.host.replace(said).is_some() {
                return Err(Unclean);
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let length = std::str::from_utf8(value).ok().filter(|_| digits(value));
            // What only some servers can hold, others take for another length.
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

    /// Gives the one host that the request is for.
    fn end(&mut self) -> Result<Host, Unclean> {
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

/// Takes spaces and tabs off both ends: nothing else that counts as blank in ASCII
/// may stand there.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn digits(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(u8::is_ascii_digit)
}

/// What decides first, in the first line that is not blank, whether what is no clean
/// head may be HTTP for a server that is lenient.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A byte that no HTTP server reads on from.
    Binary,
    /// The end of the line.
    End,
    /// The name of the protocol, or of a URL.
    Http,
}

/// How far the first line was searched.
#[derive(Debug, Default)]
struct FirstLine {
    at: usize,
    begun: bool,
    method_ended: bool,
    event: Option<Event>,
}

impl FirstLine {
    /// Gives what was found first until now.
    fn event(&mut self, bytes: &[u8]) -> Option<Event> {
        while self.event.is_none() && self.at < bytes.len() {
            let read = bytes.get(..=self.at).unwrap_or_default();
            let Some(&byte) = read.last() else { break };
            self.at += 1;
            let blank = matches!(byte, b'\t'..=b'\r' | b' ');
            if !self.begun && blank {
                continue;
            }
            let is_first = !std::mem::replace(&mut self.begun, true);
            self.method_ended |= blank;
            let control = byte.is_ascii_control() || is_first && !byte.is_ascii();
            self.event = match byte {
                b'\n' => Some(Event::End),
                0 => Some(Event::Binary),
                _ if !self.method_ended && control => Some(Event::Binary),
                _ => read
                    .last_chunk::<4>()
                    .filter(|word| word.eq_ignore_ascii_case(b"http"))
                    .map(|_| Event::Http),
            };
        }
        self.event
    }

    /// What it is if it is no clean head.
    fn foreign(&mut self, bytes: &[u8]) -> First {
        match self.event(bytes) {
            None => First::More,
            Some(Event::Http) => First::Malformed,
            Some(Event::Binary | Event::End) => First::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::look_in;
    use super::*;

    fn check(text: &str, expected: &First) {
        for piece in [1, 3, 10_000] {
            assert_eq!(look_in(text.as_bytes(), piece), *expected, "{text:?} by {piece}");
        }
    }

    #[test]
    fn clean_requests_say_their_host() {
        let some = |name: &str| First::Http(Host::Name(name.to_owned()));
        for (text, first) in [
            ("GET / HTTP/1.1\r\nHost: Example.com:8080\r\n\r\n", some("example.com")),
            ("GET / HTTP/1.1\r\nhOST:example.com.\t \r\nA: b\r\n\r\n", some("example.com")),
            ("GET / HTTP/1.1\r\nHost: my_host.test\r\n\r\n", some("my_host.test")),
            ("get / HTTP/1.1\r\nHost: a.com\r\n\r\n", some("a.com")),
            ("M-SEARCH / HTTP/1.0\r\nHost: a.com\r\n\r\n", some("a.com")),
            ("OPTIONS * HTTP/1.1\r\nHost: a.com\r\n\r\n", some("a.com")),
            ("GET http://a.com/ HTTP/1.1\r\nHost: a.com\r\n\r\n", some("a.com")),
            ("GET http://a.com:80 HTTP/1.0\r\n\r\n", some("a.com")),
            ("GET / HTTP/1.0\r\n\r\n", First::Http(Host::None)),
            (
                "GET / HTTP/1.1\r\nhost: 1.2.3.4\r\n\r\n",
                First::Http(Host::Address([1, 2, 3, 4].into())),
            ),
            ("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 0\r\n\r\n", some("a.com")),
            ("POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: Chunked\r\n\r\n", some("a.com")),
            ("GET / HTTP/1.1\r\nHos", First::More),
            ("GET / HT", First::More),
            ("GET /", First::More),
            ("", First::More),
        ] {
            check(text, &first);
        }
    }

    #[test]
    fn what_servers_read_in_several_ways_is_malformed() {
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
            check(&format!("{start}{host}\r\n"), &First::Malformed);
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
            check(&format!("GET / HTTP/1.1\r\n{host}\r\n"), &First::Malformed);
        }
        let many = "A: b\r\n".repeat(MAX_FIELDS);
        check(&format!("GET / HTTP/1.1\r\n{many}{host}\r\n"), &First::Malformed);
    }
}
