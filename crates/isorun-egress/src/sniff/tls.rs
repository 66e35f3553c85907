//! A strict parser of the SNI in a ClientHello, over any number of records.

use super::{MAX_HEAD_BYTES, Sniffed, policy};

/// The record type of handshake messages.
pub const HANDSHAKE: u8 = 0x16;
/// Maximum size of the payload of a plaintext record, in bytes.
const MAX_RECORD_BYTES: usize = 1 << 14;
/// The handshake type of a ClientHello, and the type of the SNI extension.
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
/// The only defined type of name in an SNI extension.
const HOST_NAME: u8 = 0;

/// An error: the bytes are not a valid ClientHello.
struct MalformedHello;

/// Parses the bytes received so far. If they are incomplete, sets `min_bytes` to the number
/// of bytes below which parsing again gives no new result.
pub fn parse(bytes: &[u8], min_bytes: &mut usize) -> Sniffed {
    match read_name(bytes, min_bytes) {
        Ok(None) => Sniffed::Incomplete,
        Ok(Some(name)) => Sniffed::Tls(name),
        Err(MalformedHello) => Sniffed::Malformed,
    }
}

fn read_name(
    bytes: &[u8],
    min_bytes: &mut usize,
) -> Result<Option<Option<String>>, MalformedHello> {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        let Some((&[kind, major, _, high, low], after)) = rest.split_first_chunk::<5>() else {
            *min_bytes = match rest.first() {
                // The next byte has to be the type of a handshake record.
                None => bytes.len() + 1,
                Some(&HANDSHAKE) => bytes.len() - rest.len() + 5,
                Some(_) => return Err(MalformedHello),
            };
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if kind != HANDSHAKE || major != 3 || length == 0 || length > MAX_RECORD_BYTES {
            return Err(MalformedHello);
        }
        let record = after.get(..length);
        // Includes the complete record, however much of it was received.
        let announced = message.len() + length;
        message.extend_from_slice(record.unwrap_or(after));
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(MalformedHello);
        }
        if let Some((&[_, high, middle, low], body)) = message.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes([0, high, middle, low]))
                .map_err(|_| MalformedHello)?;
            // The client sends nothing after the ClientHello until the server has answered.
            if length > MAX_HEAD_BYTES || announced.saturating_sub(4) > length {
                return Err(MalformedHello);
            }
            if body.len() == length && record.is_some() {
                return client_hello(body).map(Some);
            }
        }
        if record.is_none() {
            // The first four bytes of the message are its type and length.
            let has_length = message.len() >= 4;
            *min_bytes =
                if has_length { bytes.len() - after.len() + length } else { bytes.len() + 1 };
            return Ok(None);
        }
        rest = after.get(length..).unwrap_or_default();
    }
}

/// Reads the SNI of a ClientHello.
fn client_hello(body: &[u8]) -> Result<Option<String>, MalformedHello> {
    let mut body = Reader(body);
    let [major, _] = *body.array::<2>()?;
    let _random = body.array::<32>()?;
    let session = body.vec_u8()?;
    let ciphers = body.vec_u16()?;
    let compressions = body.vec_u8()?;
    if major != 3
        || session.0.len() > 32
        || ciphers.0.len() < 2
        || !ciphers.0.len().is_multiple_of(2)
        || compressions.0.is_empty()
    {
        return Err(MalformedHello);
    }
    let mut name = None;
    if body.0.is_empty() {
        return Ok(name);
    }
    let mut extensions = body.vec_u16()?;
    body.end()?;
    while !extensions.0.is_empty() {
        let kind = u16::from_be_bytes(*extensions.array()?);
        let value = extensions.vec_u16()?;
        if kind == SERVER_NAME && name.replace(server_name(value)?).is_some() {
            return Err(MalformedHello);
        }
    }
    Ok(name)
}

/// Reads the name of an SNI extension, which has to contain exactly one.
fn server_name(mut value: Reader<'_>) -> Result<String, MalformedHello> {
    let mut list = value.vec_u16()?;
    value.end()?;
    let [kind] = *list.array()?;
    let name = list.vec_u16()?;
    list.end()?;
    if kind != HOST_NAME {
        return Err(MalformedHello);
    }
    let name = std::str::from_utf8(name.0).map_err(|_| MalformedHello)?;
    policy::name(name).map_err(|_| MalformedHello)
}

/// A reader that consumes bytes from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], MalformedHello> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(MalformedHello)?;
        self.0 = rest;
        Ok(taken)
    }

    fn bytes(&mut self, length: usize) -> Result<Self, MalformedHello> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(MalformedHello)?;
        self.0 = rest;
        Ok(Self(taken))
    }

    /// Reads bytes that follow their length in one byte.
    fn vec_u8(&mut self) -> Result<Self, MalformedHello> {
        let [length] = *self.array()?;
        self.bytes(usize::from(length))
    }

    /// Reads bytes that follow their length in two bytes.
    fn vec_u16(&mut self) -> Result<Self, MalformedHello> {
        let length = u16::from_be_bytes(*self.array()?);
        self.bytes(usize::from(length))
    }

    fn end(&self) -> Result<(), MalformedHello> {
        if self.0.is_empty() { Ok(()) } else { Err(MalformedHello) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::parse_pieces;
    use super::*;

    fn tls(name: &str) -> Sniffed {
        Sniffed::Tls(Some(name.to_owned()))
    }

    /// Returns the ClientHello of rustls.
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

    fn prefixed(bytes: &[u8]) -> Vec<u8> {
        [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    }

    fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &prefixed(value)].concat()
    }

    fn sni(names: &[(u8, &[u8])]) -> Vec<u8> {
        let entry = |(kind, name): &(u8, &[u8])| [&[*kind][..], &prefixed(name)].concat();
        extension(SERVER_NAME, &prefixed(&names.iter().flat_map(entry).collect::<Vec<_>>()))
    }

    /// Returns a minimal ClientHello with these extensions.
    fn message(extensions: Option<&[u8]>) -> Vec<u8> {
        let mut body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
        body.extend(extensions.map(prefixed).unwrap_or_default());
        [&[CLIENT_HELLO, 0][..], &prefixed(&body)].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| [&[HANDSHAKE, 3, 1][..], &prefixed(part)].concat();
        message.chunks(size).flat_map(record).collect()
    }

    fn check(extensions: Option<&[u8]>, expected: &Sniffed) {
        let message = message(extensions);
        for size in [1, 50, 10_000] {
            let bytes = records(&message, size);
            for piece in [1, 5, 100_000] {
                assert_eq!(parse_pieces(&bytes, piece), *expected, "{extensions:?} {size} {piece}");
            }
        }
    }

    #[test]
    fn server_name_is_read_from_chunks_of_any_size() {
        let whole = hello("api.example.com");
        for cut in [1, 5, 6, 50, whole.len() - 1] {
            assert_eq!(parse_pieces(&whole[..cut], 1000), Sniffed::Incomplete, "{cut}");
        }
        assert_eq!(parse_pieces(&whole, 3), tls("api.example.com"));
        assert_eq!(parse_pieces(&hello("1.2.3.4"), 1000), Sniffed::Tls(None));
        check(None, &Sniffed::Tls(None));
        check(Some(&[]), &Sniffed::Tls(None));
        // ALPN alone.
        check(Some(&extension(16, b"\x00\x03\x02h2")), &Sniffed::Tls(None));
        for (name, read) in [
            ("good.test", "good.test"),
            ("GOOD.tesT.", "good.test"),
            ("my_host.test", "my_host.test"),
        ] {
            check(Some(&sni(&[(0, name.as_bytes())])), &tls(read));
            // An encrypted ClientHello beside it is ignored: the outer name counts.
            let encrypted = extension(0xfe0d, &[0; 100]);
            check(Some(&[encrypted, sni(&[(0, name.as_bytes())])].concat()), &tls(read));
        }
    }

    #[test]
    fn ambiguous_hellos_are_malformed() {
        let good: (u8, &[u8]) = (0, b"good.test");
        for extensions in [
            sni(&[good, (0, b"evil.test")]),
            sni(&[good, good]),
            sni(&[(1, b"good.test")]),
            sni(&[(1, b"x"), good]),
            sni(&[]),
            [sni(&[good]), sni(&[good])].concat(),
            [sni(&[good]), sni(&[(0, b"evil.test")])].concat(),
            sni(&[(0, b"")]),
            sni(&[(0, b"good.test\0.evil.test")]),
            sni(&[(0, b"good.test ")]),
            sni(&[(0, b"good..test")]),
            sni(&[(0, b".good.test")]),
            sni(&[(0, b"g\xc3\xb6\xc3\xb6d.test")]),
            sni(&[(0, b"\xff.test")]),
            sni(&[(0, b"1.2.3.4")]),
            sni(&[(0, b"::1")]),
            sni(&[(0, b"good.test:443")]),
            sni(&[(0, &[b'a'; 300])]),
            extension(SERVER_NAME, b""),
            extension(SERVER_NAME, b"\x00\x05\x00\x00\x09good.test"),
            // Bytes after the list, after the last extension, within it.
            extension(SERVER_NAME, b"\x00\x0c\x00\x00\x09good.test\x00"),
            [sni(&[good]), vec![0]].concat(),
            [sni(&[good]), vec![0, 16, 0, 9, 1]].concat(),
        ] {
            check(Some(&extensions), &Sniffed::Malformed);
        }
        let message = message(Some(&sni(&[good])));
        let record =
            |kind, version, part: &[u8]| [&[kind, version, 1][..], &prefixed(part)].concat();
        let (head, tail) = message.split_at(20);
        for bytes in [
            // Two messages, an alert or an empty record between two parts, other versions.
            records(&[message.clone(), message.clone()].concat(), 10_000),
            [record(0x16, 3, head), record(0x15, 3, &[1, 0]), record(0x16, 3, tail)].concat(),
            [record(0x16, 3, head), record(0x16, 3, &[]), record(0x16, 3, tail)].concat(),
            record(0x16, 2, &message),
            record(0x16, 4, &message),
            record(0x16, 3, &[2, 0, 0, 0]),
            record(0x16, 3, &[1, 0xff, 0, 0]),
            record(0x16, 3, &[0; 0]),
            [&[0x16, 3, 1, 0xff, 0xff][..], &message].concat(),
        ] {
            assert_eq!(parse_pieces(&bytes, 1), Sniffed::Malformed, "{bytes:?}");
        }
        // Any prefix gives the same result in any pieces, also if the first message is
        // shorter than its record.
        for bytes in [
            records(&[message.clone(), message.clone()].concat(), 10_000),
            records(&message, 1),
            records(&message, 3),
            [records(&message, 30), record(0x15, 3, &[1, 0])].concat(),
            record(0x16, 3, &[1, 0, 0, 3, 1, 2, 3, 4, 5, 6]),
            [record(0x16, 3, &[1]), record(0x16, 3, &[0, 0, 3, 1, 2, 3, 4, 5, 6])].concat(),
            record(0x16, 3, &[1, 0xff, 0, 0]),
        ] {
            for end in 0..=bytes.len() {
                let whole = parse_pieces(&bytes[..end], bytes.len());
                for piece in [1, 2, 7] {
                    assert_eq!(
                        parse_pieces(&bytes[..end], piece),
                        whole,
                        "{end} by {piece}: {bytes:?}"
                    );
                }
            }
        }
        // The length of the session id, which is at most 32.
        let mut broken = hello("good.test");
        broken[43] ^= 0xff;
        assert_eq!(parse_pieces(&broken, 1000), Sniffed::Malformed);
    }
}
