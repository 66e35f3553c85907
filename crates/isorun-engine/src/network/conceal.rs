//! Secrets taken out of what a server says, as it streams by.
//!
//! What stands for one in a body is as long as it was: neither a length that was
//! told before nor a range of bytes changes. A byte waits for the next ones only
//! while it may be the beginning of a secret.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use zeroize::Zeroizing;

use super::credentials::PLACEHOLDER;

/// Shorter texts are in many bodies by chance.
const SHORTEST: usize = 8;

/// What is looked for. Wiped from memory.
#[derive(Clone)]
pub struct Needles(Arc<[Zeroizing<Vec<u8>>]>);

impl Needles {
    /// Those of the texts that are long enough to be told from others.
    pub fn new<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let long = texts.filter(|text| text.len() >= SHORTEST);
        let mut needles: Vec<_> =
            long.map(|text| Zeroizing::new(text.as_bytes().to_vec())).collect();
        // One that begins with another goes first.
        needles.sort_by_key(|needle| std::cmp::Reverse(needle.len()));
        Self(needles.into())
    }

    /// Replaces each in a text that goes on later, unless `last`; gives how much of
    /// it can be told.
    pub(crate) fn replace(&self, text: &mut [u8], last: bool) -> usize {
        let mut at = 0;
        while let Some(rest) = text.get_mut(at..).filter(|rest| !rest.is_empty()) {
            let starts = |needle: &&Zeroizing<Vec<u8>>| rest.starts_with(needle);
            let partly = |n: &Zeroizing<Vec<u8>>| n.len() > rest.len() && n.starts_with(rest);
            if !last && self.0.iter().any(partly) {
                return at;
            }
            match self.0.iter().find(starts) {
                Some(needle) => {
                    let filler = PLACEHOLDER.bytes().chain(std::iter::repeat(b'-'));
                    for (byte, filler) in rest.iter_mut().zip(filler).take(needle.len()) {
                        *byte = filler;
                    }
                    at += needle.len();
                }
                None => {
                    let next = rest.get(1..).unwrap_or_default();
                    let first = |byte: &u8| self.0.iter().any(|n| n.first() == Some(byte));
                    at += 1 + next.iter().position(first).unwrap_or(next.len());
                }
            }
        }
        text.len()
    }

    /// Replaces each in the values of header fields.
    fn replace_in(&self, fields: &mut HeaderMap) {
        for value in fields.values_mut() {
            let mut bytes = value.as_bytes().to_vec();
            self.replace(&mut bytes, true);
            if bytes != value.as_bytes() {
                let empty = HeaderValue::from_static("");
                *value = HeaderValue::from_bytes(&bytes).unwrap_or(empty);
            }
        }
    }
}

/// A body without the secrets.
pub struct Concealed {
    body: Incoming,
    needles: Needles,
    /// What may be the beginning of one.
    held: BytesMut,
    /// What comes behind what was held.
    after: Option<Frame<Bytes>>,
    ended: bool,
}

impl Concealed {
    /// Looks for these.
    pub fn new(body: Incoming, needles: Needles) -> Self {
        Self { body, needles, held: BytesMut::new(), after: None, ended: false }
    }

    fn take(&mut self, last: bool) -> Option<Bytes> {
        let count = self.needles.replace(&mut self.held, last);
        let told = self.held.split_to(count).freeze();
        (!told.is_empty()).then_some(told)
    }
}

impl Body for Concealed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if let Some(frame) = this.after.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        while !this.ended {
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                None => {
                    this.ended = true;
                    return Poll::Ready(this.take(true).map(|data| Ok(Frame::data(data))));
                }
                error => return Poll::Ready(error),
            };
            match frame.into_data() {
                Ok(data) => {
                    this.held.extend_from_slice(&data);
                    if let Some(data) = this.take(false) {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
                Err(mut trailers) => {
                    if let Some(fields) = trailers.trailers_mut() {
                        this.needles.replace_in(fields);
                    }
                    let Some(data) = this.take(true) else {
                        return Poll::Ready(Some(Ok(trailers)));
                    };
                    this.after = Some(trailers);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.held.is_empty() && self.after.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, held) = (self.body.size_hint(), self.held.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(held));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(held));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds pieces as they come; gives what was told after each.
    fn told(needles: &[&str], pieces: &[&str]) -> Vec<String> {
        let needles = Needles::new(needles.iter().copied());
        let mut held = BytesMut::new();
        let mut told = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            held.extend_from_slice(piece.as_bytes());
            let count = needles.replace(&mut held, index + 1 == pieces.len());
            told.push(String::from_utf8(held.split_to(count).to_vec()).unwrap());
        }
        assert!(held.is_empty());
        told
    }

    #[test]
    fn wherever_it_is_cut() {
        let secret = "sk-sk-the-real-one-which-is-long";
        let whole = format!("a {secret}, sk-sk-sk-the, {secret}{secret} sk-");
        let hidden = "sk-isorun-proxy-managed---------";
        let expected = whole.replace(secret, hidden);
        for cut in 0..=whole.len() {
            let (first, second) = whole.split_at(cut);
            assert_eq!(told(&[secret], &[first, second]).concat(), expected, "{cut}");
        }
        let bytes: Vec<String> = whole.chars().map(String::from).collect();
        let bytes: Vec<&str> = bytes.iter().map(String::as_str).collect();
        assert_eq!(told(&[secret], &bytes).concat(), expected);
    }

    #[test]
    fn only_what_may_begin_one_waits() {
        let pieces = ["data: 1\n\n", "data: the", "-secret\n", "the-s", "ame"];
        let told = told(&["the-secret"], &pieces);
        assert_eq!(told, ["data: 1\n\n", "data: ", "sk-isorun-\n", "", "the-same"]);
    }

    #[test]
    fn fields_behind_a_body_are_looked_through() {
        let needles = Needles::new(["the-secret"].into_iter());
        let mut fields = HeaderMap::new();
        for (name, value) in [("a", &b"\xe9the-secret!"[..]), ("b", b"the-secre"), ("c", b"")] {
            fields.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        needles.replace_in(&mut fields);
        let values: Vec<_> = fields.values().map(HeaderValue::as_bytes).collect();
        assert_eq!(values, [&b"\xe9sk-isorun-!"[..], b"the-secre", b""]);
    }

    #[test]
    fn several_and_short_ones() {
        let secrets = ["secret-1", "secret-1-and-more", "short"];
        let told = told(&secrets, &["secret-1 secret-1-and-more short"]).concat();
        assert_eq!(told, "sk-isoru sk-isorun-proxy-m short");
    }
}
