//! Redaction of secrets in the bodies of responses, while they are streamed.
//!
//! The replacement of a secret has the same length, so a `Content-Length` or a range of
//! bytes stays valid. A byte is held back only while it may be the start of a secret.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use zeroize::Zeroizing;

use super::credentials::PLACEHOLDER;

/// Minimum length of a secret that is redacted, in bytes. Shorter texts occur in many
/// bodies by chance.
const MIN_SECRET_BYTES: usize = 8;

/// The secrets to redact. They are wiped from memory on drop.
#[derive(Clone)]
pub struct SecretPatterns(Arc<[Zeroizing<Vec<u8>>]>);

impl SecretPatterns {
    /// Creates patterns for the secrets that have the minimum length.
    pub fn new<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let long = texts.filter(|text| text.len() >= MIN_SECRET_BYTES);
        let mut patterns: Vec<_> =
            long.map(|text| Zeroizing::new(text.as_bytes().to_vec())).collect();
        // A secret that begins with another one is matched first.
        patterns.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self(patterns.into())
    }

    /// Redacts each secret in `text`, which continues later unless `last`. Returns the
    /// number of bytes that can be passed on.
    pub(crate) fn redact(&self, text: &mut [u8], last: bool) -> usize {
        let mut at = 0;
        while let Some(rest) = text.get_mut(at..).filter(|rest| !rest.is_empty()) {
            let starts = |secret: &&Zeroizing<Vec<u8>>| rest.starts_with(secret);
            let partly = |n: &Zeroizing<Vec<u8>>| n.len() > rest.len() && n.starts_with(rest);
            if !last && self.0.iter().any(partly) {
                return at;
            }
            match self.0.iter().find(starts) {
                Some(secret) => {
                    let filler = PLACEHOLDER.bytes().chain(std::iter::repeat(b'-'));
                    for (byte, filler) in rest.iter_mut().zip(filler).take(secret.len()) {
                        *byte = filler;
                    }
                    at += secret.len();
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

    /// Redacts each secret in the values of header fields.
    fn redact_fields(&self, fields: &mut HeaderMap) {
        for value in fields.values_mut() {
            let mut bytes = value.as_bytes().to_vec();
            self.redact(&mut bytes, true);
            if bytes != value.as_bytes() {
                let empty = HeaderValue::from_static("");
                *value = HeaderValue::from_bytes(&bytes).unwrap_or(empty);
            }
        }
    }
}

/// A body in which secrets are redacted.
pub struct RedactedBody {
    body: Incoming,
    patterns: SecretPatterns,
    /// Bytes that may be the start of a secret.
    pending: BytesMut,
    /// The trailers, which follow the pending bytes.
    trailers: Option<Frame<Bytes>>,
    ended: bool,
}

impl RedactedBody {
    /// Wraps a body.
    pub fn new(body: Incoming, patterns: SecretPatterns) -> Self {
        Self { body, patterns, pending: BytesMut::new(), trailers: None, ended: false }
    }

    fn take(&mut self, last: bool) -> Option<Bytes> {
        let count = self.patterns.redact(&mut self.pending, last);
        let ready = self.pending.split_to(count).freeze();
        (!ready.is_empty()).then_some(ready)
    }
}

impl Body for RedactedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if let Some(frame) = this.trailers.take() {
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
                    this.pending.extend_from_slice(&data);
                    if let Some(data) = this.take(false) {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
                Err(mut trailers) => {
                    if let Some(fields) = trailers.trailers_mut() {
                        this.patterns.redact_fields(fields);
                    }
                    let Some(data) = this.take(true) else {
                        return Poll::Ready(Some(Ok(trailers)));
                    };
                    this.trailers = Some(trailers);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.pending.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, pending) = (self.body.size_hint(), self.pending.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(pending));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(pending));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Redacts pieces in turn; returns the output after each.
    fn redacted(patterns: &[&str], pieces: &[&str]) -> Vec<String> {
        let patterns = SecretPatterns::new(patterns.iter().copied());
        let mut pending = BytesMut::new();
        let mut output = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            pending.extend_from_slice(piece.as_bytes());
            let count = patterns.redact(&mut pending, index + 1 == pieces.len());
            output.push(String::from_utf8(pending.split_to(count).to_vec()).unwrap());
        }
        assert!(pending.is_empty());
        output
    }

    #[test]
    fn secret_is_redacted_at_any_chunk_boundary() {
        let secret = "sk-sk-the-real-one-which-is-long";
        let text = format!("a {secret}, sk-sk-sk-the, {secret}{secret} sk-");
        let hidden = "sk-isorun-proxy-managed---------";
        let expected = text.replace(secret, hidden);
        for cut in 0..=text.len() {
            let (first, second) = text.split_at(cut);
            assert_eq!(redacted(&[secret], &[first, second]).concat(), expected, "{cut}");
        }
        let bytes: Vec<String> = text.chars().map(String::from).collect();
        let bytes: Vec<&str> = bytes.iter().map(String::as_str).collect();
        assert_eq!(redacted(&[secret], &bytes).concat(), expected);
    }

    #[test]
    fn only_possible_prefixes_are_held_back() {
        let pieces = ["data: 1\n\n", "data: the", "-secret\n", "the-s", "ame"];
        let output = redacted(&["the-secret"], &pieces);
        assert_eq!(output, ["data: 1\n\n", "data: ", "sk-isorun-\n", "", "the-same"]);
    }

    #[test]
    fn trailers_are_redacted() {
        let patterns = SecretPatterns::new(["the-secret"].into_iter());
        let mut fields = HeaderMap::new();
        for (name, value) in [("a", &b"\xe9the-secret!"[..]), ("b", b"the-secre"), ("c", b"")] {
            fields.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        patterns.redact_fields(&mut fields);
        let values: Vec<_> = fields.values().map(HeaderValue::as_bytes).collect();
        assert_eq!(values, [&b"\xe9sk-isorun-!"[..], b"the-secre", b""]);
    }

    #[test]
    fn several_and_short_secrets_are_redacted() {
        let secrets = ["secret-1", "secret-1-and-more", "short"];
        let output = redacted(&secrets, &["secret-1 secret-1-and-more short"]).concat();
        assert_eq!(output, "sk-isoru sk-isorun-proxy-m short");
    }
}
