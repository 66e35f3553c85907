//! One context: an interpreter that keeps its state from cell to cell.
//!
//! ```text
//!             start            cell
//!  (nothing) ──────▶ starting ──────▶ idle ◀─────▶ busy
//!                        ▲              │            │ the interpreter exits
//!                        │ next cell    ▼            │
//!                        └──────────── dead ◀────────┘
//! ```
//!
//! A task owns the interpreter of an idle context, keeps the end of what its processes
//! write, and notices its exit.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::BytesMut;
use tokio::sync::{mpsc, oneshot, watch};

use isorun_agent::code::{ContextInfo, ContextStatus, NewContext};
use isorun_agent::protocol::{Failure, FailureKind};

use super::agent::Agent;
use super::interpreter::Interpreter;

/// The number of orders that wait for a cell to handle them.
const ORDER_QUEUE: usize = 8;
/// The maximum size of the output of background processes that is kept between two
/// cells, in bytes.
const MAX_KEPT_BYTES: usize = 64 * 1024;

/// An order for a cell that runs.
pub enum Order {
    /// Interrupts it.
    Interrupt,
    /// Kills the interpreter, for this reason.
    End(&'static str),
}

/// A context.
pub struct Context {
    pub id: String,
    pub language: String,
    agent: Rc<Agent>,
    spec: NewContext,
    state: RefCell<State>,
    /// The number of changes of the state.
    changes: watch::Sender<u64>,
    kernel: RefCell<String>,
    execution_count: std::cell::Cell<u64>,
}

/// The state of a context.
pub enum State {
    Starting,
    /// Its interpreter is held by a task, which gives it to whoever claims it.
    Idle(mpsc::Sender<oneshot::Sender<Interpreter>>),
    Busy(mpsc::Sender<Order>),
    Dead,
    /// It was removed, and an interpreter that is given back is ended.
    Removed,
}

impl Context {
    /// Creates a context without an interpreter.
    pub fn new(agent: Rc<Agent>, id: &str, language: &str, spec: NewContext) -> Rc<Self> {
        Rc::new(Self {
            id: id.to_owned(),
            language: language.to_owned(),
            agent,
            spec,
            state: RefCell::new(State::Dead),
            changes: watch::Sender::new(0),
            kernel: RefCell::default(),
            execution_count: std::cell::Cell::default(),
        })
    }

    /// Starts an interpreter for it.
    pub async fn start(&self) -> Result<Interpreter, Failure> {
        Interpreter::start(&self.agent, &self.language, &self.spec).await
    }

    /// Notes the interpreter that runs, and the number of cells that were started in it.
    pub fn note(&self, interpreter: &Interpreter, execution_count: u64) {
        self.kernel.replace(interpreter.kernel.clone());
        self.execution_count.set(execution_count);
    }

    /// Reports whether it was removed.
    pub fn is_removed(&self) -> bool {
        matches!(*self.state.borrow(), State::Removed)
    }

    /// Reports whether it has no interpreter.
    pub fn is_dead(&self) -> bool {
        matches!(*self.state.borrow(), State::Dead)
    }

    /// Marks it as running a cell, and returns the orders for the cell.
    pub fn set_busy(&self) -> mpsc::Receiver<Order> {
        let (sender, orders) = mpsc::channel(ORDER_QUEUE);
        self.set(State::Busy(sender));
        orders
    }

    /// Interrupts its cell, if one runs.
    pub fn interrupt(&self) {
        if let State::Busy(orders) = &*self.state.borrow() {
            // The queue is full of such orders, or the cell has just ended.
            let _ = orders.try_send(Order::Interrupt);
        }
    }

    pub fn set(&self, state: State) {
        let is_removed = matches!(*self.state.borrow(), State::Removed);
        if !is_removed {
            self.state.replace(state);
        }
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Returns its description.
    pub fn info(&self) -> ContextInfo {
        let status = match *self.state.borrow() {
            State::Idle(_) => ContextStatus::Idle,
            State::Busy(_) | State::Starting => ContextStatus::Busy,
            State::Dead | State::Removed => ContextStatus::Dead,
        };
        ContextInfo {
            id: self.id.clone(),
            language: self.language.clone(),
            cwd: self.spec.cwd.clone().unwrap_or_default(),
            status,
            execution_count: self.execution_count.get(),
            kernel: self.kernel.borrow().clone(),
        }
    }

    /// Claims the interpreter for a cell. Returns `None` if the caller has to start one.
    pub async fn claim(&self) -> Result<Option<(Interpreter, mpsc::Receiver<Order>)>, Failure> {
        let holder = match &*self.state.borrow() {
            State::Idle(holder) => Some(holder.clone()),
            State::Dead => None,
            State::Starting | State::Busy(_) | State::Removed => return Err(busy(&self.id)),
        };
        let (sender, orders) = mpsc::channel(ORDER_QUEUE);
        let Some(holder) = holder else {
            self.set(State::Starting);
            return Ok(None);
        };
        self.set(State::Busy(sender));
        if let Some(interpreter) = claim_from(&holder).await {
            return Ok(Some((interpreter, orders)));
        }
        // It has exited at the same time.
        self.set(State::Starting);
        Ok(None)
    }

    /// Takes an interpreter back that waits for a cell; `None` if it has exited.
    pub fn give_back(self: &Rc<Self>, interpreter: Option<Interpreter>) {
        let Some(interpreter) = interpreter else { return self.set(State::Dead) };
        let context = Rc::clone(self);
        if matches!(*self.state.borrow(), State::Removed) {
            tokio::task::spawn_local(async move { interpreter.finish(&context.agent).await });
            return;
        }
        self.execution_count.set(interpreter.execution_count);
        let (sender, mut claims) = mpsc::channel(1);
        self.set(State::Idle(sender));
        tokio::task::spawn_local(async move {
            let mut interpreter = interpreter;
            match wait(&mut interpreter, &mut claims).await {
                Some(claim) => {
                    if let Err(interpreter) = claim.send(interpreter) {
                        // The request that claimed it was cancelled.
                        context.give_back(Some(interpreter));
                    }
                }
                None => {
                    if matches!(*context.state.borrow(), State::Idle(_)) {
                        context.set(State::Dead);
                    }
                    interpreter.finish(&context.agent).await;
                }
            }
        });
    }

    /// Ends its interpreter. Returns when the context is dead.
    pub async fn stop(&self, why: &'static str) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let holder = match &*self.state.borrow() {
                State::Dead | State::Removed => return,
                State::Idle(holder) => Some(holder.clone()),
                State::Busy(orders) => {
                    // If the queue is full, the interpreter is about to be interrupted.
                    let _ = orders.try_send(Order::End(why));
                    None
                }
                State::Starting => None,
            };
            if let Some(holder) = holder {
                self.set(State::Starting);
                if let Some(interpreter) = claim_from(&holder).await {
                    interpreter.finish(&self.agent).await;
                }
                return self.set(State::Dead);
            }
            // It cannot be closed: the sender is here.
            let _ = changes.changed().await;
        }
    }
}

async fn claim_from(holder: &mpsc::Sender<oneshot::Sender<Interpreter>>) -> Option<Interpreter> {
    let (sender, receiver) = oneshot::channel();
    holder.send(sender).await.ok()?;
    receiver.await.ok()
}

/// Waits for a claim, and keeps the end of the output. Returns `None` if the interpreter
/// has exited.
async fn wait<T>(interpreter: &mut Interpreter, claims: &mut mpsc::Receiver<T>) -> Option<T> {
    let (mut out, mut err) = (BytesMut::new(), BytesMut::new());
    let kept = &mut interpreter.kept;
    loop {
        tokio::select! {
            claim = claims.recv() => return claim,
            bytes = interpreter.output.stdout.next(&mut out) => append_kept(&mut kept[0], &bytes),
            bytes = interpreter.output.stderr.next(&mut err) => append_kept(&mut kept[1], &bytes),
            _ = interpreter.exit.wait() => return None,
        }
    }
}

fn append_kept(kept: &mut BytesMut, new: &[u8]) {
    kept.extend_from_slice(new);
    if kept.len() > MAX_KEPT_BYTES {
        let _ = kept.split_to(kept.len() - MAX_KEPT_BYTES);
    }
}

pub fn busy(id: &str) -> Failure {
    Failure {
        kind: FailureKind::ContextBusy,
        message: format!(
            "the context {id:?} runs a cell: wait for its end, interrupt it, or create another \
             context"
        ),
    }
}
