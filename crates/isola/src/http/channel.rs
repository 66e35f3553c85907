//! A body whose bytes come from somebody else's loop.

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;

use super::Body;
use crate::host::HostError;

/// Sends the bytes of a body that [`Body::channel`] made.
///
/// Dropping it without [`finish`](Self::finish) breaks the body off: what was
/// sent is never taken for all of it.
#[derive(Debug, Clone)]
pub struct BodySender(mpsc::Sender<Message>);

#[derive(Debug)]
enum Message {
    Piece(Bytes),
    Failed(HostError),
    End,
}

/// What the guest is told of a sender that went away.
const BROKEN_OFF: &str = "the body was broken off";

pub(super) fn channel() -> (BodySender, Body) {
    // One piece waits while another is under way: the sender goes on when its
    // last piece was taken, and not much is held.
    let (sender, receiver) = mpsc::channel(1);
    let pieces = stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Message::Piece(piece)) => Some((Ok(piece), Some(receiver))),
            Some(Message::Failed(error)) => Some((Err(error), None)),
            Some(Message::End) => None,
            None => Some((Err(HostError::new(BROKEN_OFF)), None)),
        }
    });
    (BodySender(sender), Body::from_stream(pieces))
}

impl BodySender {
    /// Sends a piece, when there is room for it. `false`: nobody takes it any
    /// more.
    pub async fn send(&self, piece: Bytes) -> bool {
        self.0.send(Message::Piece(piece)).await.is_ok()
    }

    /// Ends the body: that was all of it.
    pub async fn finish(&self) {
        let _ = self.0.send(Message::End).await;
    }

    /// Ends the body with what the guest is told.
    pub async fn fail(&self, error: HostError) {
        let _ = self.0.send(Message::Failed(error)).await;
    }

    /// Ends when nobody takes the body any more, to its end or before it.
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
    async fn pieces_arrive_in_order_and_then_the_end() {
        let (sender, body) = Body::channel();
        let sending = async {
            assert!(sender.send("one ".into()).await);
            assert!(sender.send("two".into()).await);
            sender.finish().await;
            sender.closed().await;
        };
        let (whole, ()) = tokio::join!(collect(body), sending);
        assert_eq!(whole.unwrap(), "one two");
        assert!(!sender.send("three".into()).await);
    }

    #[tokio::test]
    async fn what_ends_early_is_an_error() {
        let (sender, body) = Body::channel();
        let sending = async {
            sender.send("one".into()).await;
            sender.fail(HostError::new("no more")).await;
        };
        let (whole, ()) = tokio::join!(collect(body), sending);
        assert_eq!(whole.unwrap_err(), "no more");

        let (sender, body) = Body::channel();
        drop(sender);
        assert_eq!(collect(body).await.unwrap_err(), BROKEN_OFF);
    }
}
