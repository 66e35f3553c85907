//! A cell: one piece of code that runs in a context, from its start to its end.
//!
//! ```text
//!            interrupt, time limit            grace period
//!   running ───────────────────────▶ interrupted ─────────▶ killed
//!      │                                  │                    │
//!      └───────── the cell ends ──────────┘                    │ the interpreter exits
//!                      ▼                                       ▼
//!               the context is idle                   the context is dead
//! ```
//!
//! An interrupt can miss its cell: the interpreter may not have begun it yet, or may have
//! checked for signals just before it starts to wait. So the interpreter is reminded of it
//! until the cell ends.
//!
//! If its connection ends, the cell is interrupted, and the context is kept. In a copy
//! of the sandbox, where no client attaches, the cell continues to its end without a
//! client, and its output is discarded.

use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use isorun_agent::code::{CellEnd, Code};
use isorun_agent::codec::{CodecError, Frame};
use isorun_agent::protocol::Status;
use isorun_agent::runner::{self, Kind, Part};

use super::agent::Agent;
use super::conn::Conn;
use super::context::{Context, Order};
use super::freezer::{Deadline, until_frozen};
use super::interpreter::{Interpreter, StreamError, describe, next_part};
use super::session::{self, Outcome};

/// The time that an interrupted cell gets to end before its interpreter is killed.
const INTERRUPT_GRACE: Duration = Duration::from_secs(5);
/// The time after which the interpreter is reminded of an interrupt.
const REMINDER_INTERVAL: Duration = Duration::from_millis(250);

/// A cell that runs in a context.
pub struct Cell {
    token: String,
    context: Rc<Context>,
    /// `None` after it has exited or was given back.
    interpreter: Option<Interpreter>,
    orders: mpsc::Receiver<Order>,
    /// The number of the cell in its context.
    execution_count: u64,
    timeout: Option<Duration>,
    deadline: Option<Deadline>,
    timed_out: bool,
    interrupt_deadlines: Option<InterruptDeadlines>,
    /// The reason why the interpreter was killed.
    killed: Option<String>,
    /// The frame in progress.
    frame: Option<EventFrame>,
}

/// What follows an interrupt, unless the cell ends.
struct InterruptDeadlines {
    remind_at: Deadline,
    kill_at: Deadline,
}

/// A result or an error in progress.
struct EventFrame {
    /// The part that was received and not sent, since the last one is marked.
    pending: Bytes,
    /// True if the client does not get it.
    hidden: bool,
}

/// Something that happened to a cell.
enum Happening {
    Part(Part),
    Stdout(Bytes),
    Stderr(Bytes),
    /// The interpreter has exited.
    Exited(Status),
    /// Its stream of frames cannot be read further.
    Broken(StreamError),
    /// The time limit, the time of a reminder, or the end of the grace period.
    Deadline,
    Order(Order),
}

impl Cell {
    /// Starts a cell in a context that is idle.
    pub fn start(
        agent: &Agent,
        context: Rc<Context>,
        mut interpreter: Interpreter,
        orders: mpsc::Receiver<Order>,
        request: &Code,
    ) -> Self {
        interpreter.execution_count += 1;
        let execution_count = interpreter.execution_count;
        interpreter.queue(&runner::cell(&request.code, execution_count));
        let timeout = request.timeout_ms.map(Duration::from_millis);
        Self {
            token: request.token.clone(),
            context,
            interpreter: Some(interpreter),
            orders,
            execution_count,
            timeout,
            deadline: timeout.map(|timeout| agent.freezer.deadline(timeout)),
            timed_out: false,
            interrupt_deadlines: None,
            killed: None,
            frame: None,
        }
    }

    /// Returns the token with which a client can attach to it after a freeze.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Serves a connection until the cell ends, the connection ends, or the cell is
    /// detached.
    pub async fn serve(&mut self, agent: &Agent, conn: &mut Conn) -> Result<Outcome, CodecError> {
        let mut frozen = agent.freezer.frozen();
        if let Some(interpreter) = &mut self.interpreter {
            conn.writer.queue(&session::started(interpreter.pid))?;
            for (kept, frame) in interpreter.kept.iter_mut().zip([Frame::Stdout, Frame::Stderr]) {
                if !kept.is_empty() {
                    conn.writer.queue(&frame(kept.split().freeze()))?;
                }
            }
        }
        let mut buffers = [BytesMut::new(), BytesMut::new()];
        loop {
            let idle = conn.writer.is_empty();
            let happening = tokio::select! {
                biased;
                frame = conn.reader.next() => match frame? {
                    Some(frame) => {
                        self.handle_frame(agent, &frame)?;
                        continue;
                    }
                    None => return Err(CodecError::Truncated),
                },
                flushed = conn.writer.flush(), if !idle => {
                    flushed?;
                    continue;
                }
                () = until_frozen(Some(&mut frozen)), if idle => {
                    return session::detach(conn, |frame| {
                        self.handle_frame(agent, &frame).map(std::ops::ControlFlow::Continue)
                    })
                    .await;
                }
                happening = self.next(agent, &mut buffers, idle) => happening,
            };
            if self.handle(agent, happening, Some(&mut *conn)).await? {
                return Ok(Outcome::Finished);
            }
        }
    }

    /// Runs it to its end without a client, and discards its output.
    pub async fn release(mut self, agent: &Agent) {
        let mut buffers = [BytesMut::new(), BytesMut::new()];
        loop {
            let happening = self.next(agent, &mut buffers, true).await;
            // Without a connection there are no errors.
            if !matches!(self.handle(agent, happening, None).await, Ok(false)) {
                break;
            }
        }
        self.finish();
    }

    /// Interrupts it, since its client has disconnected.
    pub async fn abandon(mut self, agent: &Agent) {
        self.interrupt(agent);
        self.release(agent).await;
    }

    /// Resolves at its time limit.
    pub async fn deadline(&self, agent: &Agent) {
        agent.freezer.until(self.next_deadline()).await;
    }

    /// Interrupts it at its time limit, reminds the interpreter, or kills it after the grace
    /// period.
    pub async fn on_deadline(&mut self, agent: &Agent) {
        // Neither fails without a connection.
        let _ = self.handle(agent, Happening::Deadline, None).await;
    }

    /// Gives the interpreter back to the context.
    pub fn finish(self) {
        self.context.give_back(self.interpreter);
    }

    fn next_deadline(&self) -> Option<Deadline> {
        match &self.interrupt_deadlines {
            Some(_) if self.killed.is_some() => None,
            Some(deadlines) => Some(deadlines.remind_at.min(deadlines.kill_at)),
            None => self.deadline,
        }
    }

    /// Waits for the next event. May be cancelled. With `!reading`, nothing is read from
    /// the interpreter, which then waits for the client.
    async fn next(
        &mut self,
        agent: &Agent,
        [out, err]: &mut [BytesMut; 2],
        reading: bool,
    ) -> Happening {
        let deadline = self.next_deadline();
        let Some(interpreter) = &mut self.interpreter else {
            return Happening::Exited(Status::Signal(9));
        };
        let streams = interpreter.streams();
        tokio::select! {
            biased;
            Some(order) = self.orders.recv() => Happening::Order(order),
            () = agent.freezer.until(deadline) => Happening::Deadline,
            part = next_part(streams.events, streams.decoder), if reading => match part {
                Ok(part) => Happening::Part(part),
                Err(error) => Happening::Broken(error),
            },
            () = Interpreter::write(streams.control, streams.outgoing) => std::future::pending().await,
            bytes = streams.output.stdout.next(out), if reading => Happening::Stdout(bytes),
            bytes = streams.output.stderr.next(err), if reading => Happening::Stderr(bytes),
            status = streams.exit.wait(), if reading => Happening::Exited(status),
        }
    }

    /// Handles an event. Returns true if the cell has ended.
    async fn handle(
        &mut self,
        agent: &Agent,
        happening: Happening,
        conn: Option<&mut Conn>,
    ) -> Result<bool, CodecError> {
        match happening {
            Happening::Part(part) => return self.handle_part(part, conn).await,
            Happening::Stdout(bytes) => send(conn, Frame::Stdout(bytes))?,
            Happening::Stderr(bytes) => send(conn, Frame::Stderr(bytes))?,
            Happening::Deadline => self.handle_deadline(agent).await,
            Happening::Order(Order::Interrupt) => self.interrupt(agent),
            Happening::Order(Order::End(why)) => self.kill(agent, why.to_owned()).await,
            Happening::Exited(status) => {
                self.died(agent, describe(status), conn).await?;
                return Ok(true);
            }
            Happening::Broken(error) => {
                // An interpreter that exits closes its streams a moment earlier.
                let status = self.exit_status().await;
                let why = match (status, error) {
                    (Some(status), _) => describe(status),
                    (None, StreamError::Closed) => {
                        "the code closed the interpreter's connection: it was killed".to_owned()
                    }
                    (None, StreamError::Invalid(error)) => {
                        format!(
                            "the code wrote to the interpreter's connection ({error}): it was killed"
                        )
                    }
                };
                self.died(agent, why, conn).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn handle_deadline(&mut self, agent: &Agent) {
        let Some(deadlines) = &mut self.interrupt_deadlines else {
            self.timed_out = true;
            return self.interrupt(agent);
        };
        if deadlines.remind_at < deadlines.kill_at {
            deadlines.remind_at = agent.freezer.deadline(REMINDER_INTERVAL);
            if let Some(interpreter) = &self.interpreter {
                interpreter.remind(&self.context.language);
            }
            return;
        }
        let why = if self.timed_out { "its time limit" } else { "an interrupt" };
        let why = format!(
            "the cell did not end within {} s after {why}: the interpreter was killed",
            INTERRUPT_GRACE.as_secs()
        );
        self.kill(agent, why).await;
    }

    async fn handle_part(
        &mut self,
        part: Part,
        mut conn: Option<&mut Conn>,
    ) -> Result<bool, CodecError> {
        match part {
            Part::Start(kind) => {
                // Output that was written before it comes first.
                match (conn.as_deref_mut(), &self.interpreter) {
                    (Some(conn), Some(interpreter)) => {
                        interpreter.output.drain(conn, |_| true).await?;
                    }
                    (None, Some(interpreter)) => interpreter.output.discard_now(),
                    _ => {}
                }
                // At its time limit the cell has another error.
                let hidden = kind == Kind::Error && self.timed_out
                    || matches!(kind, Kind::Ready | Kind::Failed | Kind::End);
                self.frame = Some(EventFrame { pending: Bytes::new(), hidden });
            }
            Part::Data(bytes) => {
                if let Some(frame) = &mut self.frame
                    && !frame.hidden
                {
                    let part = std::mem::replace(&mut frame.pending, bytes);
                    if !part.is_empty() {
                        send(conn, Frame::EventPart(part))?;
                    }
                }
            }
            Part::End(kind) => {
                if let Some(frame) = self.frame.take()
                    && !frame.hidden
                {
                    send(conn.as_deref_mut(), Frame::Event(frame.pending))?;
                }
                if kind == Kind::ResultAndWait
                    && let Some(interpreter) = &mut self.interpreter
                {
                    interpreter.queue(&runner::ack());
                }
                if kind == Kind::End {
                    self.end(conn).await?;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Reports the end of the cell.
    async fn end(&mut self, mut conn: Option<&mut Conn>) -> Result<(), CodecError> {
        if self.timed_out {
            let seconds = self.timeout.unwrap_or_default().as_secs_f64();
            let value = match &self.killed {
                None => format!(
                    "the cell took longer than its timeout of {seconds} s and was interrupted; the \
                     context keeps its state"
                ),
                Some(_) => format!(
                    "the cell took longer than its timeout of {seconds} s and did not end when it \
                     was interrupted: the interpreter was killed, and the next cell starts another \
                     one without the variables"
                ),
            };
            send(conn.as_deref_mut(), error_event("TimeoutError", &value))?;
        }
        let Some(conn) = conn else { return Ok(()) };
        conn.deliver(&Frame::CellEnd(CellEnd { execution_count: self.execution_count })).await
    }

    /// Ends the cell of an interpreter that has exited, or that has to be killed.
    async fn died(
        &mut self,
        agent: &Agent,
        why: String,
        mut conn: Option<&mut Conn>,
    ) -> Result<(), CodecError> {
        let Some(interpreter) = self.interpreter.take() else { return Ok(()) };
        // An empty last part discards the event, which is incomplete.
        if let Some(frame) = self.frame.take()
            && !frame.hidden
        {
            send(conn.as_deref_mut(), Frame::Event(Bytes::new()))?;
        }
        if let Some(conn) = conn.as_deref_mut() {
            interpreter.output.drain(conn, |_| true).await?;
        }
        interpreter.finish(agent).await;
        let why = self.killed.get_or_insert(why).clone();
        if !self.timed_out {
            let value = format!("{why}; the next cell starts another one without the variables");
            send(conn.as_deref_mut(), error_event("ContextDied", &value))?;
        }
        self.end(conn).await
    }

    async fn exit_status(&mut self) -> Option<Status> {
        let interpreter = self.interpreter.as_mut()?;
        let wait = tokio::time::timeout(Duration::from_millis(500), interpreter.exit.wait());
        wait.await.ok()
    }

    async fn kill(&mut self, agent: &Agent, why: String) {
        if let Some(interpreter) = &self.interpreter {
            self.killed.get_or_insert(why);
            interpreter.kill(agent).await;
        }
    }

    fn interrupt(&mut self, agent: &Agent) {
        if let Some(interpreter) = &self.interpreter {
            interpreter.interrupt();
            self.interrupt_deadlines.get_or_insert_with(|| InterruptDeadlines {
                remind_at: agent.freezer.deadline(REMINDER_INTERVAL),
                kill_at: agent.freezer.deadline(INTERRUPT_GRACE),
            });
        }
    }

    /// Handles a frame of the client.
    fn handle_frame(&mut self, agent: &Agent, frame: &Frame) -> Result<(), CodecError> {
        match frame {
            Frame::Signal(_) => self.interrupt(agent),
            _ => return Err(CodecError::UnknownKind(0)),
        }
        Ok(())
    }
}

fn send(conn: Option<&mut Conn>, frame: Frame) -> Result<(), CodecError> {
    match conn {
        Some(conn) => conn.writer.queue(&frame),
        None => Ok(()),
    }
}

fn error_event(name: &str, value: &str) -> Frame {
    let event = serde_json::json!({
        "type": "error", "name": name, "value": value, "traceback": "",
    });
    Frame::Event(event.to_string().into())
}
