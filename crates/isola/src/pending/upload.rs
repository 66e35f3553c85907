//! The body of a request, as the guest sends it: piece by piece.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc::{Receiver, Sender, channel as bounded, error::TrySendError};

use super::Put;
use crate::{contract::Outcome, host::HostError, http::Body};

/// The number of answers to pieces that wait for a guest to fetch them, also when
/// nobody takes the body any more.
const MAX_UNANSWERED: usize = 16;

/// What a guest is told that sends a piece too early.
const NOT_TAKEN: &str = "the piece before it is not taken yet";

/// The guest's end.
pub(super) struct Upload {
    pieces: Sender<Piece>,
    put: Put,
    /// The number of pieces that were sent and of which the guest has not yet
    /// fetched what became of them.
    unanswered: usize,
}

enum Piece {
    Bytes(Bytes),
    /// The end is said, never concluded from a sender that is gone: a guest
    /// that stops in the middle must not have sent a shorter body.
    End,
}

/// Makes a body that comes in pieces, of `length` bytes if that is known.
pub(super) fn channel(put: Put, length: Option<u64>) -> (Upload, Body) {
    // One piece, and the end.
    let (sender, receiver) = bounded(2);
    let incoming = Incoming { pieces: receiver, put: put.clone(), missing: length, over: false };
    (Upload { pieces: sender, put, unanswered: 0 }, Body::from_stream(incoming))
}

impl Upload {
    /// The error is for the guest.
    pub(super) fn write(&mut self, piece: Vec<u8>) -> Result<(), String> {
        if self.unanswered >= MAX_UNANSWERED {
            return Err(NOT_TAKEN.to_owned());
        }
        let size = piece.len();
        self.put.hold(size)?;
        self.pieces.try_send(Piece::Bytes(piece.into())).or_else(|error| {
            self.put.release(size);
            match error {
                TrySendError::Closed(_) => {
                    self.put.now(Outcome::Taken(false));
                    Ok(())
                }
                TrySendError::Full(_) => Err(NOT_TAKEN.to_owned()),
            }
        })?;
        self.unanswered += 1;
        Ok(())
    }

    /// Notes that the guest knows what became of a piece.
    pub(super) fn answered(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// The error is for the guest.
    pub(super) fn finish(&self) -> Result<(), String> {
        match self.pieces.try_send(Piece::End) {
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err("the last piece is not taken yet".to_owned()),
        }
    }
}

/// The host's end.
struct Incoming {
    pieces: Receiver<Piece>,
    put: Put,
    /// How much must still come, if the length is known.
    missing: Option<u64>,
    over: bool,
}

impl Incoming {
    fn accept(&mut self, piece: Option<Piece>) -> Option<Result<Bytes, HostError>> {
        let outcome = match piece {
            Some(Piece::Bytes(bytes)) => {
                self.put.release(bytes.len());
                match self.count(bytes.len()) {
                    Ok(()) => {
                        self.put.now(Outcome::Taken(true));
                        return Some(Ok(bytes));
                    }
                    Err(error) => {
                        self.put.now(Outcome::Taken(false));
                        Some(Err(error))
                    }
                }
            }
            Some(Piece::End) => match self.missing {
                None | Some(0) => None,
                Some(missing) => Some(Err(HostError::new(format!(
                    "the request's body ended {missing} bytes before its announced length"
                )))),
            },
            None => Some(Err(HostError::new("the guest broke off the request's body"))),
        };
        self.over = true;
        outcome
    }

    fn count(&mut self, size: usize) -> Result<(), HostError> {
        let Some(missing) = &mut self.missing else { return Ok(()) };
        *missing = missing.checked_sub(size as u64).ok_or_else(|| {
            HostError::new("the request's body is longer than its announced length")
        })?;
        Ok(())
    }
}

impl Stream for Incoming {
    type Item = Result<Bytes, HostError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        let piece = ready!(self.pieces.poll_recv(cx));
        Poll::Ready(self.accept(piece))
    }
}

impl Drop for Incoming {
    /// The guest may wait for a piece to be taken.
    fn drop(&mut self) {
        self.pieces.close();
        while let Ok(piece) = self.pieces.try_recv() {
            if let Piece::Bytes(bytes) = piece {
                self.put.release(bytes.len());
                self.put.now(Outcome::Taken(false));
            }
        }
    }
}
