//! HTTP requests of a guest, and the responses of its host.

use std::fmt;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http_body::Body as _;
use http_body_util::{
    BodyExt as _, BodyStream, Empty, Full, StreamBody, combinators::UnsyncBoxBody,
};

use crate::error::HostError;

mod channel;
mod fields;
pub(crate) mod head;

pub use channel::BodySender;
pub use fields::{fields, header_map};
pub use head::{MAX_HEADER_BYTES, MAX_HEADER_FIELDS};

pub use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

/// A request of a guest. Its URI is absolute.
pub type Request = ::http::Request<Body>;

/// The host's response to a request.
pub type Response = ::http::Response<Body>;

/// The body of a message: complete bytes or a stream.
pub struct Body(UnsyncBoxBody<Bytes, HostError>);

impl Body {
    /// Creates a body without bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self(Empty::new().map_err(|never| match never {}).boxed_unsync())
    }

    /// Creates a body from a stream of pieces. The guest receives each piece as it
    /// arrives, and an error ends the body.
    pub fn from_stream<S>(stream: S) -> Self
    where
        S: Stream<Item = Result<Bytes, HostError>> + Send + 'static,
    {
        let frames = stream.map(|piece| piece.map(::http_body::Frame::data));
        Self(StreamBody::new(frames).boxed_unsync())
    }

    /// Creates a body and the sender of its pieces. The sender waits while the
    /// receiver is behind.
    #[must_use]
    pub fn channel() -> (BodySender, Self) {
        channel::channel()
    }

    /// Wraps the body of another library. `failed` converts its errors to those
    /// that the guest receives.
    pub fn wrap<B, F>(body: B, failed: F) -> Self
    where
        B: ::http_body::Body<Data = Bytes> + Send + 'static,
        F: FnMut(B::Error) -> HostError + Send + 'static,
    {
        Self(body.map_err(failed).boxed_unsync())
    }

    /// Returns the pieces as they arrive. Trailers are dropped.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, HostError>> + Send + 'static {
        BodyStream::new(self.0).filter_map(|frame| {
            let piece = match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(error) => Some(Err(error)),
            };
            std::future::ready(piece)
        })
    }

    /// Reports whether the body is known to have no more bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_end_stream()
    }

    /// Returns the number of remaining bytes, if it is known.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.0.size_hint().exact()
    }

    /// Waits for the end of the body and returns all bytes.
    ///
    /// # Errors
    ///
    /// The error that ended the body early, or an error if it is longer than `limit`
    /// bytes.
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
                let full = Full::new(Bytes::from(bytes));
                Self(full.map_err(|never| match never {}).boxed_unsync())
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
