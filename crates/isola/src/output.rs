//! The output of a guest: counted, limited, and in order.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::Result;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

use crate::{
    code_event::{EVENT_OVERHEAD_BYTES, ParsedEvent},
    error::{Limit, LimitExceeded},
    event::Event,
};

/// The number of queued events at which the guest waits for the listener.
const MAX_QUEUED_EVENTS: usize = 64;

/// The output of the call that is running.
#[derive(Clone)]
pub(crate) struct Output(Arc<Mutex<OutputState>>);

/// An output of a call.
#[derive(Debug)]
pub(crate) enum OutputEvent {
    /// An event of any call.
    Call(Event),
    /// An event of the code that `run_code` runs.
    Code(ParsedEvent),
}

struct OutputState {
    /// The events that were not taken yet; `None` if the call has no listener.
    queue: Option<VecDeque<OutputEvent>>,
    /// `true` if the call runs code, whose events are not ignored.
    takes_code: bool,
    /// The bytes written so far, plus one for each event.
    written: usize,
    limit: usize,
}

impl Output {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(OutputState {
            queue: None,
            takes_code: false,
            written: 0,
            limit,
        })))
    }

    /// Resets the output at the start of a call.
    pub(crate) fn begin(&self, has_listener: bool, takes_code: bool) {
        let mut state = self.lock();
        state.written = 0;
        state.takes_code = takes_code;
        state.queue = has_listener.then(VecDeque::new);
    }

    /// Reports whether the call has written nothing so far.
    pub(crate) fn is_silent(&self) -> bool {
        self.lock().written == 0
    }

    /// Takes the oldest event.
    pub(crate) fn take(&self) -> Option<OutputEvent> {
        self.lock().queue.as_mut()?.pop_front()
    }

    /// Writes an event that holds `size` bytes. Waits if the queue is full, so that
    /// the host buffers a limited number of events.
    pub(crate) async fn write(&mut self, event: Event, size: usize) -> Result<()> {
        let full = self.push(event, size)?;
        if full {
            // The listener takes all events before it resumes the guest.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Writes an event of code, whose text has `size` bytes. It is ignored if the call
    /// does not run code.
    pub(crate) async fn write_code(&mut self, event: ParsedEvent, size: usize) -> Result<()> {
        if !self.lock().takes_code {
            return Ok(());
        }
        if self.append(OutputEvent::Code(event), size + EVENT_OVERHEAD_BYTES)? {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Appends an event, and reports whether the queue is full now.
    fn push(&self, event: Event, size: usize) -> Result<bool> {
        self.append(OutputEvent::Call(event), size)
    }

    fn append(&self, event: OutputEvent, size: usize) -> Result<bool> {
        use OutputEvent::Call;
        let mut state = self.lock();
        // An empty event counts as well.
        state.written = state.written.saturating_add(size + 1);
        if state.written > state.limit {
            return Err(LimitExceeded::bytes(Limit::Output, state.limit).into());
        }
        let Some(queue) = &mut state.queue else { return Ok(false) };
        match (queue.back_mut(), event) {
            // Many small writes, such as those of `print`, are joined.
            (Some(Call(Event::Stdout(last))), Call(Event::Stdout(text))) => last.push_str(&text),
            (Some(Call(Event::Stderr(last))), Call(Event::Stderr(text))) => last.push_str(&text),
            (_, event) => queue.push_back(event),
        }
        Ok(queue.len() >= MAX_QUEUED_EVENTS)
    }

    fn lock(&self) -> MutexGuard<'_, OutputState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The WASI stream of file descriptor 1 or 2, for output of the interpreter's own
/// C code.
#[derive(Clone)]
pub(crate) struct Stdio {
    output: Output,
    event: fn(String) -> Event,
    /// The first bytes of an incomplete character.
    partial: Vec<u8>,
}

impl Stdio {
    pub(crate) fn stdout(output: Output) -> Self {
        Self { output, event: Event::Stdout, partial: Vec::new() }
    }

    pub(crate) fn stderr(output: Output) -> Self {
        Self { output, event: Event::Stderr, partial: Vec::new() }
    }
}

impl IsTerminal for Stdio {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdio {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only WASI 0.3 uses this form, and it is not linked.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Stdio {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.partial.extend_from_slice(&bytes);
        let end = complete_prefix(&self.partial);
        let text = String::from_utf8_lossy(&self.partial[..end]).into_owned();
        self.partial.drain(..end);
        if text.is_empty() {
            return Ok(());
        }
        let size = text.len();
        self.output.push((self.event)(text), size).map_err(StreamError::Trap)?;
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

#[async_trait::async_trait]
impl Pollable for Stdio {
    async fn ready(&mut self) {}
}

/// Returns the length of the longest prefix that does not end within a character.
fn complete_prefix(bytes: &[u8]) -> usize {
    let tail = bytes.len().saturating_sub(3);
    for start in (tail..bytes.len()).rev() {
        let width = match bytes[start] {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            0x80..=0xbf => continue,
            _ => 1,
        };
        return if start + width > bytes.len() { start } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_not_split() {
        for (bytes, end) in [
            ("abc".as_bytes(), 3),
            (&"aé".as_bytes()[..2], 1),
            (&"a€".as_bytes()[..3], 1),
            (&"a🦀".as_bytes()[..4], 1),
            ("a🦀".as_bytes(), 5),
            (&[0xff, 0xfe], 2),
            (&[0x80, 0x80, 0x80, 0x80], 4),
            (&[], 0),
        ] {
            assert_eq!(complete_prefix(bytes), end, "{bytes:?}");
        }
    }

    #[test]
    fn small_writes_are_joined_and_limited() {
        let output = Output::new(10);
        output.begin(true, false);
        output.push(Event::Stdout("a".into()), 1).unwrap();
        output.push(Event::Stdout("b".into()), 1).unwrap();
        assert!(
            matches!(output.take(), Some(OutputEvent::Call(Event::Stdout(text))) if text == "ab")
        );
        let error = output.push(Event::Stdout("x".repeat(9)), 9).unwrap_err();
        assert_eq!(error.downcast_ref::<LimitExceeded>().unwrap().limit, Limit::Output);
    }
}
