//! The response to a command: JSON that is encoded while it is sent. Only one piece at
//! a time is encoded, since escapes can make the text much larger than the output.

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::stream;
use isorun_agent::protocol::Status;
use serde_json::json;

use super::{output_buffer::OutputBuffer, text::Decoder};
use crate::{core::accounts::ledger::Hold, http::error::ApiError};
use isorun_api::Encoding;

/// The largest output, in bytes, that is sent in one piece with a content length.
pub const MAX_UNCHUNKED_BYTES: usize = 64 << 10;

/// Creates the response: the result of the command, or an error with its output so far.
pub fn response(
    status: Result<Status, ApiError>,
    encoding: Encoding,
    stdout: OutputBuffer,
    stderr: OutputBuffer,
) -> Response {
    let is_short = stdout.len() + stderr.len() <= MAX_UNCHUNKED_BYTES;
    let truncated = (stdout.is_truncated(), stderr.is_truncated());
    let (mut parts, before, after) = match status {
        Ok(status) => (
            StatusCode::OK.into_response().into_parts().0,
            format!("{{\"exit_code\":{},", status.shell_code()),
            format!(",\"stdout_truncated\":{},\"stderr_truncated\":{}}}", truncated.0, truncated.1),
        ),
        Err(error) => {
            let fields = json!({ "error": error.message, "code": error.code.name() }).to_string();
            let open = fields.strip_suffix('}').unwrap_or_default();
            (error.clone().into_response().into_parts().0, format!("{open},"), "}".to_owned())
        }
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    parts
        .headers
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    let pieces = vec![
        Piece::Raw(after),
        Piece::Raw("\"".to_owned()),
        Piece::Output(stderr, Encoder::new(encoding, truncated.1)),
        Piece::Raw(",\"stderr\":\"".to_owned()),
        Piece::Raw("\"".to_owned()),
        Piece::Output(stdout, Encoder::new(encoding, truncated.0)),
        Piece::Raw(format!("{before}\"stdout\":\"")),
    ];
    Response::from_parts(parts, body(pieces, is_short))
}

/// Returns a body of these pieces, the first one last. It is sent at once if it is short.
pub fn body(pieces: Vec<Piece>, is_short: bool) -> Body {
    let mut writer = BodyWriter { pieces };
    if is_short {
        let mut all = Vec::new();
        while let Some(piece) = writer.next() {
            all.extend_from_slice(&piece);
        }
        return Body::from(all);
    }
    Body::from_stream(stream::unfold(writer, async |mut writer| {
        let piece = writer.next()?;
        Some((Ok::<_, std::convert::Infallible>(piece), writer))
    }))
}

/// The pieces that were not sent yet, the next one last.
struct BodyWriter {
    pieces: Vec<Piece>,
}

/// A piece of a body.
pub enum Piece {
    /// Text that is sent as it is.
    Raw(String),
    /// Text that is sent as it is, with the memory that was reserved for it, which is released
    /// with the piece.
    Held(String, #[allow(dead_code, reason = "released on drop")] Hold),
    /// Output, as the content of a JSON string.
    Output(OutputBuffer, Encoder),
}

impl BodyWriter {
    fn next(&mut self) -> Option<Bytes> {
        loop {
            let piece = match self.pieces.last_mut()? {
                Piece::Raw(text) => {
                    let text = std::mem::take(text);
                    self.pieces.pop();
                    text.into_bytes()
                }
                Piece::Held(text, _) => {
                    let text = std::mem::take(text);
                    self.pieces.pop();
                    text.into_bytes()
                }
                Piece::Output(buffer, encoder) => match buffer.take_chunk() {
                    Some(chunk) => encoder.feed(&chunk),
                    None => {
                        let rest = encoder.finish();
                        self.pieces.pop();
                        rest
                    }
                },
            };
            // An empty piece would end a chunked body.
            if !piece.is_empty() {
                return Some(piece.into());
            }
        }
    }
}

/// An encoder of output as the content of a JSON string.
pub enum Encoder {
    Text {
        decoder: Decoder,
        /// True if the output was truncated, so that an incomplete character at its end is
        /// dropped and not replaced.
        truncated: bool,
    },
    /// The bytes that do not form a group of three yet.
    Base64(Vec<u8>),
}

impl Encoder {
    /// Creates an encoder. An incomplete character at the end of truncated text is dropped.
    pub fn new(encoding: Encoding, truncated: bool) -> Self {
        match encoding {
            Encoding::Text => Self::Text { decoder: Decoder::new(encoding), truncated },
            Encoding::Base64 => Self::Base64(Vec::new()),
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Text { decoder, .. } => escape(&decoder.feed(bytes)),
            Self::Base64(rest) => {
                rest.extend_from_slice(bytes);
                let after = rest.split_off(rest.len() - rest.len() % 3);
                BASE64_STANDARD.encode(std::mem::replace(rest, after)).into_bytes()
            }
        }
    }

    fn finish(&mut self) -> Vec<u8> {
        match self {
            Self::Text { truncated: true, .. } => Vec::new(),
            Self::Text { decoder, .. } => escape(&decoder.finish()),
            Self::Base64(rest) => BASE64_STANDARD.encode(std::mem::take(rest)).into_bytes(),
        }
    }
}

fn escape(text: &str) -> Vec<u8> {
    // Serializing a string cannot fail.
    let mut quoted = serde_json::to_vec(text).unwrap_or_default();
    quoted.pop();
    if !quoted.is_empty() {
        quoted.remove(0);
    }
    quoted
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;
    use crate::{core::accounts::ledger::Ledger, http::error::Code};
    use isorun_api::{ErrorBody, ExecOutcome};

    fn held(bytes: &[u8]) -> OutputBuffer {
        let memory = Ledger::new("bytes", "--bytes", 1 << 30, 100);
        let mut held = OutputBuffer::new(&memory, "t", 1 << 20);
        held.add(bytes);
        held
    }

    fn body(response: Response) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(response.into_body().collect()).unwrap().to_bytes().into()
    }

    fn outcome(encoding: Encoding, stdout: &[u8], stderr: &[u8]) -> ExecOutcome {
        let response = response(Ok(Status::Code(3)), encoding, held(stdout), held(stderr));
        assert_eq!(response.status(), 200);
        serde_json::from_slice(&body(response)).unwrap()
    }

    proptest! {
        #[test]
        fn output_encoded_in_pieces_equals_output_encoded_at_once(
            stdout in prop::collection::vec(any::<u8>(), 0..200_000),
            stderr in "\\PC{0,20000}",
        ) {
            let text = outcome(Encoding::Text, &stdout, stderr.as_bytes());
            prop_assert_eq!(&text.stdout, &String::from_utf8_lossy(&stdout));
            prop_assert_eq!(&text.stderr, &stderr);
            prop_assert_eq!(text.exit_code, 3);
            let base64 = outcome(Encoding::Base64, &stdout, stderr.as_bytes());
            prop_assert_eq!(BASE64_STANDARD.decode(&base64.stdout).unwrap(), stdout);
            prop_assert_eq!(BASE64_STANDARD.decode(&base64.stderr).unwrap(), stderr.as_bytes());
        }
    }

    #[test]
    fn truncated_text_ends_at_a_character_boundary() {
        let cut_off = |encoding, text: &str, cut: usize| {
            let memory = Ledger::new("bytes", "--bytes", 1 << 30, 100);
            let mut held = OutputBuffer::new(&memory, "t", cut);
            held.add(text.as_bytes());
            let response = response(Ok(Status::Code(0)), encoding, held, self::held(b""));
            let outcome: ExecOutcome = serde_json::from_slice(&body(response)).unwrap();
            assert_eq!(outcome.stdout_truncated, cut < text.len());
            outcome.stdout
        };
        for text in ["\u{e9}\u{e9}", "\u{20ac}\u{20ac}", "\u{1f600}\u{1f600}", "ab"] {
            let half = text.len() / 2;
            for cut in half..text.len() {
                assert_eq!(cut_off(Encoding::Text, text, cut), text[..half], "{cut}");
                let code = cut_off(Encoding::Base64, text, cut);
                assert_eq!(BASE64_STANDARD.decode(code).unwrap(), &text.as_bytes()[..cut]);
            }
        }
        // Invalid UTF-8 is replaced, also at the end of output that was not truncated.
        assert_eq!(outcome(Encoding::Text, b"a\xff", b"a\xe2\x82").stdout, "a\u{fffd}");
        assert_eq!(outcome(Encoding::Text, b"", b"a\xe2\x82").stderr, "a\u{fffd}");
    }

    #[test]
    fn escaped_output_is_produced_in_bounded_pieces() {
        let bytes = vec![1; 1 << 20];
        let response = response(Ok(Status::Code(0)), Encoding::Text, held(&bytes), held(b""));
        let mut longest = 0;
        let mut all = 0;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                let piece = frame.unwrap().into_data().unwrap();
                longest = longest.max(piece.len());
                all += piece.len();
            }
        });
        assert!(all > 6 << 20, "{all}");
        assert!(longest <= 6 * (64 << 10), "{longest}");
    }

    #[test]
    fn error_responses_contain_the_output() {
        let error = ApiError::new(Code::ExecTimeout, "it took \"long\"");
        let response = response(Err(error), Encoding::Text, held(b"a\n"), held(b"\x01\xff"));
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        let body: ErrorBody = serde_json::from_slice(&body(response)).unwrap();
        assert_eq!((body.error.as_str(), body.code.as_str()), ("it took \"long\"", "exec_timeout"));
        assert_eq!(body.stdout.as_deref(), Some("a\n"));
        assert_eq!(body.stderr.as_deref(), Some("\u{1}\u{fffd}"));
    }
}
