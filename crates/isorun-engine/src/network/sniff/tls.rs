//! The name in a ClientHello, read strictly, over any number of records.

use super::{First, MAX_HEAD, policy};

/// The type of a record that a ClientHello is in.
pub const HANDSHAKE: u8 = 0x16;
/// What a record without encryption can hold, in bytes.
const MAX_RECORD: usize = 1 << 14;
/// The type of the message, and that of the extension with the name.
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
/// The only type of name that there is.
const HOST_NAME: u8 = 0;

/// What is not as it has to be.
struct Broken;

/// Looks at what has arrived; says how many bytes are `wanted` until there is more
/// to see.
pub fn look(bytes: &[u8], wanted: &mut usize) -> First {
    match read(bytes, wanted) {
        Ok(None) => First::More,
        Ok(Some(name)) => First::Tls(name),
        Err(Broken) => First::Malformed,
    }
}

fn read(bytes: &[u8], wanted: &mut usize) -> Result<Option<Option<String>>, Broken> {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        let Some((&[kind, major, _, high, low], after)) = rest.split_first_chunk::<5>() else {
            *wanted = match rest.first() {
                // The next byte says whether it begins a record of this type.
                None => bytes.len() + 1,
                Some(&HANDSHAKE) => bytes.len() - rest.len() + 5,
                Some(_) => return Err(Broken),
            };
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if kind != HANDSHAKE || major != 3 || length == 0 || length > MAX_RECORD {
            return Err(Broken);
        }
        let record = after.get(..length);
        // With all of this record, however much of it has arrived.
        let said = message.len() + length;
        message.extend_from_slice(record.unwrap_or(after));
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(Broken);
        }
        if let Some((&[_, high, middle, low], body)) = message.split_first_chunk::<4>() {
            let length =
                usize::try_from(u32::from_be_bytes([0, high, middle, low])).map_err(|_| Broken)?;
            // Nothing is said behind it before the server has answered.
            if length > MAX_HEAD || said.saturating_sub(4) > length {
                return Err(Broken);
            }
            if body.len() == length && record.is_some() {
                return client_hello(body).map(Some);
            }
        }
        if record.is_none() {
            // The next bytes of the message say what it is, and how long.
            let is_told = message.len() >= 4;
            *wanted = if is_told { bytes.len() - after.len() + length } else { bytes.len() + 1 };
            return Ok(None);
        }
        rest = after.get(length..).unwrap_or_default();
    }
}

/// Reads the name out of the message.
fn client_hello(body: &[u8]) -> Result<Option<String>, Broken> {
    let mut body = Reader(body);
    let [major, _] = *body.array::<2>()?;
    let _random = body.array::<32>()?;
    let session = body.short()?;
    let ciphers = body.long()?;
    let compressions = body.short()?;
    if major != 3
        || session.0.len() > 32
        || ciphers.0.len() < 2
        || !ciphers.0.len().is_multiple_of(2)
        || compressions.0.is_empty()
    {
        return Err(Broken);
    }
    let mut name = None;
    if body.0.is_empty() {
        return Ok(name);
    }
    let mut extensions = body.long()?;
    body.end()?;
    while !extensions.0.is_empty() {
        let kind = u16::from_be_bytes(*extensions.array()?);
        let value = extensions.long()?;
        if kind == SERVER_NAME && name.replace(server_name(value)?).is_some() {
            return Err(Broken);
        }
    }
    Ok(name)
}

/// Reads the one name of an extension.
fn server_name(mut value: Reader<'_>) -> Result<String, Broken> {
    let mut list = value.long()?;
    value.end()?;
    let [kind] = *list.array()?;
    let name = list.long()?;
    list.end()?;
    if kind != HOST_NAME {
        return Err(Broken);
    }
    let name = std::str::from_utf8(name.0).map_err(|_| Broken)?;
    policy::name(name).map_err(|_| Broken)
}

/// Bytes that are taken from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Broken> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Broken)?;
        self.0 = rest;
        Ok(taken)
    }

    fn bytes(&mut self, length: usize) -> Result<Self, Broken> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Broken)?;
        self.0 = rest;
        Ok(Self(taken))
    }

    /// Bytes behind their length in one byte.
    fn short(&mut self) -> Result<Self, Broken> {
        let [length] = *self.array()?;
        self.bytes(usize::from(length))
    }

    /// Bytes behind their length in two bytes.
    fn long(&mut self) -> Result<Self, Broken> {
        let length = u16::from_be_bytes(*self.array()?);
        self.bytes(usize::from(length))
    }

    fn end(&self) -> Result<(), Broken> {
        if self.0.is_empty() { Ok(()) } else { Err(Broken) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::look_in;
    use super::*;

    fn tls(name: &str) -> First {
        First::Tls(Some(name.to_owned()))
    }

    /// What rustls says.
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

    /// A message of the least that is needed, with these extensions.
    fn message(extensions: Option<&[u8]>) -> Vec<u8> {
        let mut body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
        body.extend(extensions.map(prefixed).unwrap_or_default());
        [&[CLIENT_HELLO, 0][..], &prefixed(&body)].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| [&[HANDSHAKE, 3, 1][..], &prefixed(part)].concat();
        message.chunks(size).flat_map(record).collect()
    }

    fn check(extensions: Option<&[u8]>, expected: &First) {
        let message = message(extensions);
        for size in [1, 50, 10_000] {
            let bytes = records(&message, size);
            for piece in [1, 5, 100_000] {
                assert_eq!(look_in(&bytes, piece), *expected, "{extensions:?} {size} {piece}");
            }
        }
    }

    #[test]
    fn a_name_is_read_over_any_pieces() {
        let whole = hello("api.example.com");
        for cut in [1, 5, 6, 50, whole.len() - 1] {
            assert_eq!(look_in(&whole[..cut], 1000), First::More, "{cut}");
        }
        assert_eq!(look_in(&whole, 3), tls("api.example.com"));
        assert_eq!(look_in(&hello("1.2.3.4"), 1000), First::Tls(None));
        check(None, &First::Tls(None));
        check(Some(&[]), &First::Tls(None));
        // ALPN alone.
        check(Some(&extension(16, b"\x00\x03\x02h2")), &First::Tls(None));
        for (name, read) in [
            ("good.test", "good.test"),
            ("GOOD.tesT.", "good.test"),
            ("my_host.test", "my_host.test"),
        ] {
            check(Some(&sni(&[(0, name.as_bytes())])), &tls(read));
            // An encrypted name beside it is not seen: the outer one counts.
            let encrypted = extension(0xfe0d, &[0; 100]);
            check(Some(&[encrypted, sni(&[(0, name.as_bytes())])].concat()), &tls(read));
        }
    }

    #[test]
    fn what_servers_read_in_several_ways_is_malformed() {
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
            // Bytes behind the list, behind the last extension, within it.
            extension(SERVER_NAME, b"\x00\x0c\x00\x00\x09good.test\x00"),
            [sni(&[good]), vec![0]].concat(),
            [sni(&[good]), vec![0, 16, 0, 9, 1]].concat(),
        ] {
            check(Some(&extensions), &First::Malformed);
        }
        let message = message(Some(&sni(&[good])));
        let record =
            |kind, version, part: &[u8]| [&[kind, version, 1][..], &prefixed(part)].concat();
        let (head, tail) = message.split_at(20);
        for bytes in [
            // Two messages, an alert or an empty record in between, other versions.
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
            assert_eq!(look_in(&bytes, 1), First::Malformed, "{bytes:?}");
        }
        // Any beginning of them gives the same in any pieces, and so does one whose
        // first message is shorter than its record.
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
                let whole = look_in(&bytes[..end], bytes.len());
                for piece in [1, 2, 7] {
                    assert_eq!(look_in(&bytes[..end], piece), whole, "{end} by {piece}: {bytes:?}");
                }
            }
        }
        // The length of the session's id, which is 32 at most.
        let mut broken = hello("good.test");
        broken[43] ^= 0xff;
        assert_eq!(look_in(&broken, 1000), First::Malformed);
    }
}
