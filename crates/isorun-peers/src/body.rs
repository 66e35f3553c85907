//! The body of the requests and responses that this crate returns.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};

/// An error of any type. The error of a response's body from a peer is a
/// [`PeerError`](crate::PeerError).
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body of any type, which is streamed.
pub struct PeerBody(UnsyncBoxBody<Bytes, BoxError>);

impl PeerBody {
    /// Wraps a body.
    pub fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self(body.map_err(Into::into).boxed_unsync())
    }

    /// Creates a body without content.
    #[must_use]
    pub fn empty() -> Self {
        Self::new(Empty::new())
    }
}

impl<T: Into<Bytes>> From<T> for PeerBody {
    fn from(content: T) -> Self {
        Self::new(Full::new(content.into()))
    }
}

impl Default for PeerBody {
    fn default() -> Self {
        Self::empty()
    }
}

impl Body for PeerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl fmt::Debug for PeerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerBody")
    }
}
