//! A body whose bytes are sent through a channel.

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;

use super::Body;
use crate::error::HostError;

/// The sender of the bytes of a body that [`Body::channel`] created.
///
/// Dropping it without [`finish`](Self::finish) ends the body with an error, so
/// that a partial body is never taken for a complete one.
#[derive(Debug, Clone)]
pub struct BodySender(mpsc::Sender<BodyMessage>);

#[derive(Debug)]
enum BodyMessage {
    Piece(Bytes),
    Failed(HostError),
    End,
}

/// The error for the guest if the sender was dropped before the end.
const SENDER_DROPPED: &str = "the body is incomplete: its sender stopped before the end";

pub(super) fn channel() -> (BodySender, Body) {
    // One piece waits while another is processed: the sender continues when its
    // last piece was taken, and little memory is used.
    let (sender, receiver) = mpsc::channel(1);
    let pieces = stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(BodyMessage::Piece(piece)) => Some((Ok(piece), Some(receiver))),
            Some(BodyMessage::Failed(error)) => Some((Err(error), None)),
            Some(BodyMessage::End) => None,
            None => Some((Err(HostError::new(SENDER_DROPPED)), None)),
        }
    });
    (BodySender(sender), Body::from_stream(pieces))
}

impl BodySender {
    /// Sends a piece, and waits until there is space for it. Returns `false` if the
    /// receiver is gone.
    pub async fn send(&self, piece: Bytes) -> bool {
        self.0.send(BodyMessage::Piece(piece)).await.is_ok()
    }

    /// Ends the body as complete.
    pub async fn finish(&self) {
        let _ = self.0.send(BodyMessage::End).await;
    }

    /// Ends the body with an error for the guest.
    pub async fn fail(&self, error: HostError) {
        let _ = self.0.send(BodyMessage::Failed(error)).await;
    }

    /// Waits until the receiver is gone, at the end of the body or before it.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn collect(body: Body) -> Result<Bytes, String> {
        body.collect(100).await.map_err(|error| error.message().to_owned())
    }

    #[tokio::test]
    async fn chunks_arrive_in_order_before_the_end() {
        let (sender, body) = Body::channel();
        let sending = async {
            assert!(sender.send("one ".into()).await);
            assert!(sender.send("two".into()).await);
            sender.finish().await;
            sender.closed().await;
        };
        let (received, ()) = tokio::join!(collect(body), sending);
        assert_eq!(received.unwrap(), "one two");
        assert!(!sender.send("three".into()).await);
    }

    #[tokio::test]
    async fn body_that_ends_early_is_an_error() {
        let (sender, body) = Body::channel();
        let sending = async {
            sender.send("one".into()).await;
            sender.fail(HostError::new("no more")).await;
        };
        let (received, ()) = tokio::join!(collect(body), sending);
        assert_eq!(received.unwrap_err(), "no more");

        let (sender, body) = Body::channel();
        drop(sender);
        assert_eq!(collect(body).await.unwrap_err(), SENDER_DROPPED);
    }
}
