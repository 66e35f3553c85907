//! The body of a request that the guest sends in pieces.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc::{Receiver, Sender, channel as bounded, error::TrySendError};

use super::CompletionSender;
use crate::{contract::Outcome, error::HostError, http::Body};

/// The largest number of pieces whose outcome the guest has not fetched, also if
/// the host no longer reads the body.
const MAX_UNACKNOWLEDGED_PIECES: usize = 16;

/// The error for a guest that sends a piece too early.
const PREVIOUS_PIECE_PENDING: &str =
    "the previous piece of the body has not been read yet: wait until it is";

/// The sending half, which the guest uses.
pub(super) struct Upload {
    pieces: Sender<Piece>,
    completions: CompletionSender,
    /// The number of pieces that were sent and whose outcome the guest has not
    /// fetched.
    unacknowledged: usize,
}

enum Piece {
    Bytes(Bytes),
    /// The end of the body. It is explicit, and not implied by a dropped sender: a
    /// body that the guest stops sending half-way must not pass for a complete one.
    End,
}

/// Creates a body that is sent in pieces, of `length` bytes if that is known.
pub(super) fn channel(completions: CompletionSender, length: Option<u64>) -> (Upload, Body) {
    // One piece and the end.
    let (sender, receiver) = bounded(2);
    let stream = UploadStream {
        pieces: receiver,
        completions: completions.clone(),
        remaining: length,
        finished: false,
    };
    (Upload { pieces: sender, completions, unacknowledged: 0 }, Body::from_stream(stream))
}

impl Upload {
    /// Sends a piece. The error is for the guest.
    pub(super) fn write(&mut self, piece: Vec<u8>) -> Result<(), String> {
        if self.unacknowledged >= MAX_UNACKNOWLEDGED_PIECES {
            return Err(PREVIOUS_PIECE_PENDING.to_owned());
        }
        let size = piece.len();
        self.completions.reserve(size)?;
        self.pieces.try_send(Piece::Bytes(piece.into())).or_else(|error| {
            self.completions.release(size);
            match error {
                TrySendError::Closed(_) => {
                    self.completions.send(Outcome::Taken(false));
                    Ok(())
                }
                TrySendError::Full(_) => Err(PREVIOUS_PIECE_PENDING.to_owned()),
            }
        })?;
        self.unacknowledged += 1;
        Ok(())
    }

    /// Records that the guest has fetched the outcome of a piece.
    pub(super) fn acknowledge(&mut self) {
        self.unacknowledged = self.unacknowledged.saturating_sub(1);
    }

    /// Sends the end of the body. The error is for the guest.
    pub(super) fn finish(&self) -> Result<(), String> {
        match self.pieces.try_send(Piece::End) {
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err(PREVIOUS_PIECE_PENDING.to_owned()),
        }
    }
}

/// The receiving half, which the host reads.
struct UploadStream {
    pieces: Receiver<Piece>,
    completions: CompletionSender,
    /// The number of bytes that must follow, if the length is known.
    remaining: Option<u64>,
    finished: bool,
}

impl UploadStream {
    fn accept(&mut self, piece: Option<Piece>) -> Option<Result<Bytes, HostError>> {
        let outcome = match piece {
            Some(Piece::Bytes(bytes)) => {
                self.completions.release(bytes.len());
                match self.count(bytes.len()) {
                    Ok(()) => {
                        self.completions.send(Outcome::Taken(true));
                        return Some(Ok(bytes));
                    }
                    Err(error) => {
                        self.completions.send(Outcome::Taken(false));
                        Some(Err(error))
                    }
                }
            }
            Some(Piece::End) => match self.remaining {
                None | Some(0) => None,
                Some(remaining) => Some(Err(HostError::new(format!(
                    "the request's body ended {remaining} bytes before its announced length"
                )))),
            },
            None => Some(Err(HostError::new(
                "the guest stopped sending the request's body before its end",
            ))),
        };
        self.finished = true;
        outcome
    }

    fn count(&mut self, size: usize) -> Result<(), HostError> {
        let Some(remaining) = &mut self.remaining else { return Ok(()) };
        *remaining = remaining.checked_sub(size as u64).ok_or_else(|| {
            HostError::new("the request's body is longer than its announced length")
        })?;
        Ok(())
    }
}

impl Stream for UploadStream {
    type Item = Result<Bytes, HostError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.finished {
            return Poll::Ready(None);
        }
        let piece = ready!(self.pieces.poll_recv(cx));
        Poll::Ready(self.accept(piece))
    }
}

impl Drop for UploadStream {
    /// Completes the pieces that were not read, because the guest may wait for them.
    fn drop(&mut self) {
        self.pieces.close();
        while let Ok(piece) = self.pieces.try_recv() {
            if let Piece::Bytes(bytes) = piece {
                self.completions.release(bytes.len());
                self.completions.send(Outcome::Taken(false));
            }
        }
    }
}
