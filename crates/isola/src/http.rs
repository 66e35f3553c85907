//! HTTP requests of a guest, and the answers of its host.

use std::fmt;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http_body::Body as _;
use http_body_util::{
    BodyExt as _, BodyStream, Empty, Full, StreamBody, combinators::UnsyncBoxBody,
};

use crate::host::HostError;

mod channel;
mod fields;
pub(crate) mod head;

pub use channel::BodySender;
pub use fields::{fields, header_map};
pub use head::{MAX_HEADER_BYTES, MAX_HEADER_FIELDS};

pub use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

/// A request that a guest makes. Its URI is absolute.
pub type Request = ::http::Request<Body>;

/// What the host answers.
pub type Response = ::http::Response<Body>;

/// The body of a message: bytes that are there, or that are still coming.
pub struct Body(UnsyncBoxBody<Bytes, HostError>);

impl Body {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self(Empty::new().map_err(|never| match never {}).boxed_unsync())
    }

    /// A body whose bytes come one piece after another. The guest sees each
    /// piece as it comes, and an error ends the body.
    pub fn from_stream<S>(stream: S) -> Self
    where
        S: Stream<Item = Result<Bytes, HostError>> + Send + 'static,
    {
        let frames = stream.map(|piece| piece.map(::http_body::Frame::data));
        Self(StreamBody::new(frames).boxed_unsync())
    }

    /// A body whose bytes somebody else sends, piece by piece, and at the pace
    /// at which they are taken.
    #[must_use]
    pub fn channel() -> (BodySender, Self) {
        channel::channel()
    }

    /// The body of another library, with what the guest is told of its errors.
    pub fn wrap<B, F>(body: B, failed: F) -> Self
    where
        B: ::http_body::Body<Data = Bytes> + Send + 'static,
        F: FnMut(B::Error) -> HostError + Send + 'static,
    {
        Self(body.map_err(failed).boxed_unsync())
    }

    /// The pieces as they come. Trailers are left out.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, HostError>> + Send + 'static {
        BodyStream::new(self.0).filter_map(|frame| {
            let piece = match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(error) => Some(Err(error)),
            };
            std::future::ready(piece)
        })
    }

    /// Whether it is known that no bytes will come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_end_stream()
    }

    /// How many bytes will come, if that is known.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.0.size_hint().exact()
    }

    /// Waits for the end and gives all bytes.
    ///
    /// # Errors
    ///
    /// What ended the body early, or that it is longer than `limit` bytes.
    pub async fn collect(self, limit: usize) -> Result<Bytes, HostError> {
        let limited = ::http_body_util::Limited::new(self.0, limit);
        limited.collect().await.map(|body| body.to_bytes()).map_err(|error| {
            match error.downcast::<HostError>() {
                Ok(error) => *error,
                Err(_) => HostError::new(format!("the body is longer than {limit} bytes")),
            }
        })
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

macro_rules! from_bytes {
    ($($bytes:ty)*) => {$(
        impl From<$bytes> for Body {
            fn from(bytes: $bytes) -> Self {
                let whole = Full::new(Bytes::from(bytes));
                Self(whole.map_err(|never| match never {}).boxed_unsync())
            }
        }
    )*};
}

from_bytes! { Bytes Vec<u8> String &'static str &'static [u8] }

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}
