//! Questions of a sandbox, read strictly. No I/O.

use hickory_resolver::proto::op::ResponseCode;

use crate::network::policy;

const HEADER: usize = 12;
/// A name in a message, with its lengths, in bytes.
const MAX_NAME: usize = 255;
/// Records behind a question: EDNS, and perhaps a signature.
const MAX_ADDITIONAL: u16 = 4;
const OPT: u16 = 41;

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What the answer has to repeat.
    pub id: u16,
    /// And this, too: whether recursion is asked for.
    pub recursion: bool,
    /// The labels of the name, as they are.
    pub labels: Vec<Vec<u8>>,
    /// The type of record.
    pub kind: u16,
    /// The class of record.
    pub class: u16,
    /// What the program takes over UDP, in bytes, if it speaks EDNS.
    pub payload: Option<u16>,
    /// Its version of EDNS.
    pub version: u8,
}

/// What is no question that can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the answer has to repeat.
    pub id: u16,
    /// Of its header: what was asked for.
    pub op_code: u8,
    /// Why.
    pub code: ResponseCode,
}

impl Question {
    /// Reads a message.
    ///
    /// # Errors
    ///
    /// What is to be answered to what is no question; nothing if it is not even the
    /// head of one.
    pub fn read(message: &[u8]) -> Result<Self, Option<Refusal>> {
        let Some((&[a, b, c, _, d, e, f, g, h, i, j, k], rest)) =
            message.split_first_chunk::<HEADER>()
        else {
            return Err(None);
        };
        // An answer is not answered.
        if c & 0x80 != 0 {
            return Err(None);
        }
        let (id, op_code) = (u16::from_be_bytes([a, b]), c >> 3 & 0xf);
        let refusal = |code| Some(Refusal { id, op_code, code });
        if op_code != 0 {
            return Err(refusal(ResponseCode::NotImp));
        }
        let [questions, answers, authorities, additional] =
            [[d, e], [f, g], [h, i], [j, k]].map(u16::from_be_bytes);
        let broken = || refusal(ResponseCode::FormErr);
        if (questions, answers, authorities) != (1, 0, 0) || additional > MAX_ADDITIONAL {
            return Err(broken());
        }
        let mut rest = rest;
        let labels = labels(&mut rest).ok_or_else(broken)?;
        let kind = number(&mut rest).ok_or_else(broken)?;
        let class = number(&mut rest).ok_or_else(broken)?;
        let recursion = c & 1 != 0;
        let mut question = Self { id, recursion, labels, kind, class, payload: None, version: 0 };
        for _ in 0..additional {
            question.additional(&mut rest).ok_or_else(broken)?;
        }
        Ok(question)
    }

    /// Reads a record behind it. Nothing if it is broken.
    fn additional(&mut self, rest: &mut &[u8]) -> Option<()> {
        // The name of a signature's key can be a pointer; it is of no interest.
        let is_root = match *rest {
            [0xc0..=0xff, _, tail @ ..] => {
                *rest = tail;
                false
            }
            _ => labels(rest)?.is_empty(),
        };
        let (kind, class) = (number(rest)?, number(rest)?);
        let [_, version] = number(rest)?.to_be_bytes();
        let (_flags, length) = (number(rest)?, number(rest)?);
        *rest = rest.get(usize::from(length)..)?;
        if kind == OPT {
            if !is_root || self.payload.is_some() {
                return None;
            }
            (self.payload, self.version) = (Some(class), version);
        }
        Some(())
    }

    /// The name in the form in which all are compared, if it can be that of a host.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let mut name = String::new();
        for label in &self.labels {
            if !name.is_empty() {
                name.push('.');
            }
            let label = std::str::from_utf8(label).ok()?;
            name.push_str(Some(label).filter(|label| label.as_bytes().iter().all(plain))?);
        }
        policy::name(&name).ok()
    }
}

/// Takes a name that is written out.
fn labels(rest: &mut &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut labels = Vec::new();
    let mut length = 1;
    loop {
        let (&size, tail) = rest.split_first()?;
        if size == 0 {
            *rest = tail;
            return Some(labels);
        }
        length += usize::from(size) + 1;
        if size > 63 || length > MAX_NAME {
            return None;
        }
        let (label, tail) = tail.split_at_checked(usize::from(size))?;
        labels.push(label.to_vec());
        *rest = tail;
    }
}

fn number(rest: &mut &[u8]) -> Option<u16> {
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

    const GOOD: &[u8] = b"\x04Good\x04test\x00\x00\x01\x00\x01";

    #[test]
    fn a_question_is_read() {
        let question = Question::read(&message([1, 0, 0, 0], GOOD)).unwrap();
        assert_eq!((question.id, question.kind, question.class), (0x1234, 1, 1));
        assert!(question.recursion && question.payload.is_none());
        assert_eq!(question.host().unwrap(), "good.test");
        let opt = b"\x00\x00\x29\x10\x00\x00\x01\x80\x00\x00\x02ab";
        let question = Question::read(&message([1, 0, 0, 1], &[GOOD, opt].concat())).unwrap();
        assert_eq!((question.payload, question.version), (Some(4096), 1));
        // Names of hosts, and others.
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
            assert_eq!(question.host().as_deref(), host, "{labels:?}");
        }
    }

    #[test]
    fn what_is_no_question_is_refused() {
        let long = [&b"\x3f"[..], &[b'a'; 63]].concat().repeat(4);
        let long = [&long[..], b"\x00\x00\x01\x00\x01"].concat();
        let two = b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00".repeat(2);
        for (counts, rest) in [
            ([0, 0, 0, 0], &b""[..]),
            ([2, 0, 0, 0], &[GOOD, GOOD].concat()),
            ([1, 1, 0, 0], GOOD),
            ([1, 0, 1, 0], GOOD),
            ([1, 0, 0, 255], GOOD),
            ([1, 0, 0, 1], GOOD),
            ([1, 0, 0, 0], b"\x04good"),
            ([1, 0, 0, 0], b"\x04good\x04test\x00\x00\x01\x00"),
            ([1, 0, 0, 0], b"\x40good\x00\x00\x01\x00\x01"),
            ([1, 0, 0, 0], b"\xc0\x0c\x00\x01\x00\x01"),
            ([1, 0, 0, 0], &long),
            ([1, 0, 0, 2], &[GOOD, &two].concat()),
            ([1, 0, 0, 1], &[GOOD, b"\x01a\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00"].concat()),
            ([1, 0, 0, 1], &[GOOD, b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x05"].concat()),
        ] {
            let refusal = Question::read(&message(counts, rest)).unwrap_err().unwrap();
            assert_eq!((refusal.id, refusal.code), (0x1234, ResponseCode::FormErr), "{rest:?}");
        }
        let mut update = message([1, 0, 0, 0], GOOD);
        update[2] = 5 << 3;
        let refusal = Question::read(&update).unwrap_err().unwrap();
        assert_eq!((refusal.op_code, refusal.code), (5, ResponseCode::NotImp));
        let mut answer = message([1, 0, 0, 0], GOOD);
        answer[2] |= 0x80;
        assert_eq!(Question::read(&answer), Err(None));
        assert_eq!(Question::read(&answer[..11]), Err(None));
    }
}
