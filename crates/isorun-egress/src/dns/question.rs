//! A strict parser of DNS queries from sandboxes. No I/O.

use hickory_resolver::proto::op::ResponseCode;

use crate::policy;

/// Length of a message header, in bytes.
const HEADER_BYTES: usize = 12;
/// Maximum length of a name in a message, in bytes, with the length byte of each label.
const MAX_NAME_BYTES: usize = 255;
/// Maximum number of additional records: EDNS, and perhaps a signature.
const MAX_ADDITIONAL_RECORDS: u16 = 4;
/// The record type of EDNS.
const OPT_TYPE: u16 = 41;

/// A query with one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The id, which the response repeats.
    pub id: u16,
    /// The flag "recursion desired", which the response repeats.
    pub recursion: bool,
    /// The labels of the name, unchanged.
    pub labels: Vec<Vec<u8>>,
    /// The type of record.
    pub kind: u16,
    /// The class of record.
    pub class: u16,
    /// The maximum size of a UDP response, in bytes, if the query uses EDNS.
    pub payload: Option<u16>,
    /// The version of EDNS.
    pub version: u8,
}

/// An error response to a query that cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryError {
    /// The id, which the response repeats.
    pub id: u16,
    /// The operation code, which the response repeats.
    pub op_code: u8,
    /// The response code.
    pub code: ResponseCode,
}

impl Question {
    /// Parses a message.
    ///
    /// # Errors
    ///
    /// The error response to send, or `None` if the message has no complete query header
    /// and gets no response.
    pub fn read(message: &[u8]) -> Result<Self, Option<QueryError>> {
        let Some((&[a, b, c, _, d, e, f, g, h, i, j, k], rest)) =
            message.split_first_chunk::<HEADER_BYTES>()
        else {
            return Err(None);
        };
        // A response gets no response.
        if c & 0x80 != 0 {
            return Err(None);
        }
        let (id, op_code) = (u16::from_be_bytes([a, b]), c >> 3 & 0xf);
        let error = |code| Some(QueryError { id, op_code, code });
        if op_code != 0 {
            return Err(error(ResponseCode::NotImp));
        }
        let [questions, answers, authorities, additional] =
            [[d, e], [f, g], [h, i], [j, k]].map(u16::from_be_bytes);
        let malformed = || error(ResponseCode::FormErr);
        if (questions, answers, authorities) != (1, 0, 0) || additional > MAX_ADDITIONAL_RECORDS {
            return Err(malformed());
        }
        let mut rest = rest;
        let labels = read_labels(&mut rest).ok_or_else(malformed)?;
        let kind = read_u16(&mut rest).ok_or_else(malformed)?;
        let class = read_u16(&mut rest).ok_or_else(malformed)?;
        let recursion = c & 1 != 0;
        let mut question = Self { id, recursion, labels, kind, class, payload: None, version: 0 };
        for _ in 0..additional {
            question.read_additional(&mut rest).ok_or_else(malformed)?;
        }
        Ok(question)
    }

    /// Parses an additional record. Returns `None` if it is malformed.
    fn read_additional(&mut self, rest: &mut &[u8]) -> Option<()> {
        // The name of a signature's key can be a compression pointer; it is ignored.
        let is_root = match *rest {
            [0xc0..=0xff, _, tail @ ..] => {
                *rest = tail;
                false
            }
            _ => read_labels(rest)?.is_empty(),
        };
        let (kind, class) = (read_u16(rest)?, read_u16(rest)?);
        let [_, version] = read_u16(rest)?.to_be_bytes();
        let (_flags, length) = (read_u16(rest)?, read_u16(rest)?);
        *rest = rest.get(usize::from(length)..)?;
        if kind == OPT_TYPE {
            if !is_root || self.payload.is_some() {
                return None;
            }
            (self.payload, self.version) = (Some(class), version);
        }
        Some(())
    }

    /// Returns the name in normalized form if it is a valid hostname.
    #[must_use]
    pub fn hostname(&self) -> Option<String> {
        let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let mut name = String::new();
        for label in &self.labels {
            if !name.is_empty() {
                name.push('.');
            }
            let label = std::str::from_utf8(label).ok()?;
            name.push_str(Some(label).filter(|label| label.as_bytes().iter().all(is_allowed))?);
        }
        policy::name(&name).ok()
    }
}

/// Reads a name without compression pointers.
fn read_labels(rest: &mut &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut labels = Vec::new();
    let mut length = 1;
    loop {
        let (&size, tail) = rest.split_first()?;
        if size == 0 {
            *rest = tail;
            return Some(labels);
        }
        length += usize::from(size) + 1;
        if size > 63 || length > MAX_NAME_BYTES {
            return None;
        }
        let (label, tail) = tail.split_at_checked(usize::from(size))?;
        labels.push(label.to_vec());
        *rest = tail;
    }
}

fn read_u16(rest: &mut &[u8]) -> Option<u16> {
    let (bytes, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(counts: [u8; 4], rest: &[u8]) -> Vec<u8> {
        let [a, b, c, d] = counts;
        [&[0x12, 0x34, 1, 0, 0, a, 0, b, 0, c, 0, d][..], rest].concat()
    }

    const VALID: &[u8] = b"\x04Good\x04test\x00\x00\x01\x00\x01";

    #[test]
    fn questions_are_parsed() {
        let question = Question::read(&message([1, 0, 0, 0], VALID)).unwrap();
        assert_eq!((question.id, question.kind, question.class), (0x1234, 1, 1));
        assert!(question.recursion && question.payload.is_none());
        assert_eq!(question.hostname().unwrap(), "good.test");
        let opt = b"\x00\x00\x29\x10\x00\x00\x01\x80\x00\x00\x02ab";
        let question = Question::read(&message([1, 0, 0, 1], &[VALID, opt].concat())).unwrap();
        assert_eq!((question.payload, question.version), (Some(4096), 1));
        // Valid hostnames, and other names.
        for (labels, host) in [
            (&b"\x07my_host\x04test\x00"[..], Some("my_host.test")),
            (b"\x05_dns1\x04test\x00", Some("_dns1.test")),
            (b"\x0dxn--bcher-kva\x04test\x00", Some("xn--bcher-kva.test")),
            (b"\x09good.test\x04evil\x00", None),
            (b"\x04\xff\xfe\x00a\x04test\x00", None),
            (b"\x01*\x04test\x00", None),
            (b"\x011\x012\x013\x014\x00", None),
            (b"\x00", None),
        ] {
            let asked = [labels, b"\x00\x01\x00\x01"].concat();
            let question = Question::read(&message([1, 0, 0, 0], &asked)).unwrap();
            assert_eq!(question.hostname().as_deref(), host, "{labels:?}");
        }
    }

    #[test]
    fn invalid_questions_are_refused() {
        let long = [&b"\x3f"[..], &[b'a'; 63]].concat().repeat(4);
        let long = [&long[..], b"\x00\x00\x01\x00\x01"].concat();
        let two = b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00".repeat(2);
        for (counts, rest) in [
            ([0, 0, 0, 0], &b""[..]),
            ([2, 0, 0, 0], &[VALID, VALID].concat()),
            ([1, 1, 0, 0], VALID),
            ([1, 0, 1, 0], VALID),
            ([1, 0, 0, 255], VALID),
            ([1, 0, 0, 1], VALID),
            ([1, 0, 0, 0], b"\x04good"),
            ([1, 0, 0, 0], b"\x04good\x04test\x00\x00\x01\x00"),
            ([1, 0, 0, 0], b"\x40good\x00\x00\x01\x00\x01"),
            ([1, 0, 0, 0], b"\xc0\x0c\x00\x01\x00\x01"),
            ([1, 0, 0, 0], &long),
            ([1, 0, 0, 2], &[VALID, &two].concat()),
            ([1, 0, 0, 1], &[VALID, b"\x01a\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00"].concat()),
            ([1, 0, 0, 1], &[VALID, b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x05"].concat()),
        ] {
            let error = Question::read(&message(counts, rest)).unwrap_err().unwrap();
            assert_eq!((error.id, error.code), (0x1234, ResponseCode::FormErr), "{rest:?}");
        }
        let mut update = message([1, 0, 0, 0], VALID);
        update[2] = 5 << 3;
        let error = Question::read(&update).unwrap_err().unwrap();
        assert_eq!((error.op_code, error.code), (5, ResponseCode::NotImp));
        let mut answer = message([1, 0, 0, 0], VALID);
        answer[2] |= 0x80;
        assert_eq!(Question::read(&answer), Err(None));
        assert_eq!(Question::read(&answer[..11]), Err(None));
    }
}
