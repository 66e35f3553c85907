//! The answer to a command: JSON that is written while it is sent. Only pieces of
//! it are ever there as text, whatever that takes with all escapes.

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

use super::{held::HeldOutput, text::Decoder};
use crate::{api::Encoding, server::ApiError};

/// Answers up to this many bytes of output are sent in one piece, with a length.
const MAX_SINGLE_PIECE: usize = 64 << 10;

/// Makes the answer: an outcome, or an error with what was printed until then.
pub fn answer(
    status: Result<Status, ApiError>,
    encoding: Encoding,
    stdout: HeldOutput,
    stderr: HeldOutput,
) -> Response {
    let is_short = stdout.len() + stderr.len() <= MAX_SINGLE_PIECE;
    let cut = (stdout.is_truncated(), stderr.is_truncated());
    let (mut parts, before, after) = match status {
        Ok(status) => (
            StatusCode::OK.into_response().into_parts().0,
            format!("{{\"exit_code\":{},", status.shell_code()),
            format!(",\"stdout_truncated\":{},\"stderr_truncated\":{}}}", cut.0, cut.1),
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
    let mut writer = Writer {
        pieces: vec![
            Piece::Raw(after),
            Piece::Raw("\"".to_owned()),
            Piece::Output(stderr, Text::new(encoding, cut.1)),
            Piece::Raw(",\"stderr\":\"".to_owned()),
            Piece::Raw("\"".to_owned()),
            Piece::Output(stdout, Text::new(encoding, cut.0)),
            Piece::Raw(format!("{before}\"stdout\":\"")),
        ],
    };
    let body = if is_short {
        let mut all = Vec::new();
        while let Some(piece) = writer.next() {
            all.extend_from_slice(&piece);
        }
        Body::from(all)
    } else {
        let pieces = stream::unfold(writer, async |mut writer| {
            let piece = writer.next()?;
            Some((Ok::<_, std::convert::Infallible>(piece), writer))
        });
        Body::from_stream(pieces)
    };
    Response::from_parts(parts, body)
}

/// What is still to be sent, the next piece last.
struct Writer {
    pieces: Vec<Piece>,
}

enum Piece {
    Raw(String),
    Output(HeldOutput, Text),
}

impl Writer {
    fn next(&mut self) -> Option<Bytes> {
        loop {
            let piece = match self.pieces.last_mut()? {
                Piece::Raw(text) => {
                    let text = std::mem::take(text);
                    self.pieces.pop();
                    text.into_bytes()
                }
                Piece::Output(held, text) => match held.take_chunk() {
                    Some(chunk) => text.feed(&chunk),
                    None => {
                        let rest = text.finish();
                        self.pieces.pop();
                        rest
                    }
                },
            };
            // An empty one would end a chunked body.
            if !piece.is_empty() {
                return Some(piece.into());
            }
        }
    }
}

/// Bytes of output as they stand between the quotes of a JSON string.
enum Text {
    Text {
        decoder: Decoder,
        /// The output was cut off, so that a part of a character at its end is no
        /// fault of it.
        is_cut_off: bool,
    },
    /// With the bytes that are no group of three yet.
    Base64(Vec<u8>),
}

impl Text {
    fn new(encoding: Encoding, is_cut_off: bool) -> Self {
        match encoding {
            Encoding::Text => Self::Text { decoder: Decoder::new(encoding), is_cut_off },
            Encoding::Base64 => Self::Base64(Vec::new()),
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Text { decoder, .. } => escaped(&decoder.feed(bytes)),
            Self::Base64(rest) => {
                rest.extend_from_slice(bytes);
                let after = rest.split_off(rest.len() - rest.len() % 3);
                BASE64_STANDARD.encode(std::mem::replace(rest, after)).into_bytes()
            }
        }
    }

    fn finish(&mut self) -> Vec<u8> {
        match self {
            Self::Text { is_cut_off: true, .. } => Vec::new(),
            Self::Text { decoder, .. } => escaped(&decoder.finish()),
            Self::Base64(rest) => BASE64_STANDARD.encode(std::mem::take(rest)).into_bytes(),
        }
    }
}

fn escaped(text: &str) -> Vec<u8> {
    // A text can always be written.
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
    use crate::{
        api::{ErrorBody, ExecOutcome},
        server::{Code, limits::ledger::Ledger},
    };

    fn held(bytes: &[u8]) -> HeldOutput {
        let memory = Ledger::new("bytes", "--bytes", 1 << 30, 100);
        let mut held = HeldOutput::new(&memory, "t", 1 << 20);
        held.add(bytes);
        held
    }

    fn body(response: Response) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(response.into_body().collect()).unwrap().to_bytes().into()
    }

    fn outcome(encoding: Encoding, stdout: &[u8], stderr: &[u8]) -> ExecOutcome {
        let answer = answer(Ok(Status::Code(3)), encoding, held(stdout), held(stderr));
        assert_eq!(answer.status(), 200);
        serde_json::from_slice(&body(answer)).unwrap()
    }

    proptest! {
        #[test]
        fn any_output_is_the_text_that_it_would_be_as_a_whole(
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
    fn a_text_that_is_cut_off_ends_with_a_whole_character() {
        let cut_off = |encoding, text: &str, cut: usize| {
            let memory = Ledger::new("bytes", "--bytes", 1 << 30, 100);
            let mut held = HeldOutput::new(&memory, "t", cut);
            held.add(text.as_bytes());
            let answer = answer(Ok(Status::Code(0)), encoding, held, self::held(b""));
            let outcome: ExecOutcome = serde_json::from_slice(&body(answer)).unwrap();
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
        // What is no text stays visible, and so does the end of what is whole.
        assert_eq!(outcome(Encoding::Text, b"a\xff", b"a\xe2\x82").stdout, "a\u{fffd}");
        assert_eq!(outcome(Encoding::Text, b"", b"a\xe2\x82").stderr, "a\u{fffd}");
    }

    #[test]
    fn characters_that_take_six_bytes_each_are_never_there_as_a_whole() {
        let bytes = vec![1; 1 << 20];
        let response = answer(Ok(Status::Code(0)), Encoding::Text, held(&bytes), held(b""));
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
    fn an_error_has_what_was_printed_with_it() {
        let error = ApiError::new(Code::ExecTimeout, "it took \"long\"");
        let response = answer(Err(error), Encoding::Text, held(b"a\n"), held(b"\x01\xff"));
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        let body: ErrorBody = serde_json::from_slice(&body(response)).unwrap();
        assert_eq!((body.error.as_str(), body.code.as_str()), ("it took \"long\"", "exec_timeout"));
        assert_eq!(body.stdout.as_deref(), Some("a\n"));
        assert_eq!(body.stderr.as_deref(), Some("\u{1}\u{fffd}"));
    }
}
