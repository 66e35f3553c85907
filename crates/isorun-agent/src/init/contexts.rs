//! The contexts: interpreters that keep their state from cell to cell.
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
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::BytesMut;
use tokio::sync::{mpsc, oneshot, watch};

use isorun_agent::code::{self, Code, ContextInfo, ContextStatus, DEFAULT_LANGUAGE, NewContext};
use isorun_agent::protocol::{Failure, FailureKind, Reply};

use super::agent::Agent;
use super::cell::Cell;
use super::interpreter::Interpreter;

/// The maximum number of contexts, unless the request has a smaller one.
const MAX_CONTEXTS: u32 = 256;
/// The maximum length of the id of a context, in bytes.
const MAX_ID_BYTES: usize = 64;
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
    agent: Rc<Agent>,
    id: String,
    language: String,
    spec: NewContext,
    state: RefCell<State>,
    /// The number of changes of the state.
    changes: watch::Sender<u64>,
    kernel: RefCell<String>,
    execution_count: std::cell::Cell<u64>,
}

enum State {
    Starting,
    /// Its interpreter is held by a task, which gives it to whoever claims it.
    Idle(mpsc::Sender<oneshot::Sender<Interpreter>>),
    Busy(mpsc::Sender<Order>),
    Dead,
    /// It was removed, and an interpreter that is given back is ended.
    Removed,
}

/// All contexts of the sandbox.
pub struct Contexts {
    agent: Rc<Agent>,
    all: RefCell<BTreeMap<String, Rc<Context>>>,
}

impl Contexts {
    /// Creates the contexts of an agent that has none yet.
    pub fn new(agent: Rc<Agent>) -> Self {
        Self { agent, all: RefCell::default() }
    }

    /// Lists the contexts.
    pub fn list(&self) -> Reply {
        Reply::Contexts(self.all.borrow().values().map(|context| context.info()).collect())
    }

    /// Creates a context, and starts its interpreter.
    pub async fn create(self: &Rc<Self>, new: NewContext) -> Result<Reply, Failure> {
        let language = valid_language(new.language.as_deref())?;
        let id = new_id()?;
        let context = self.insert(&id, &language, new)?;
        context.set(State::Starting);
        match self.start(&context).await {
            Ok(interpreter) => context.give_back(Some(interpreter)),
            Err(failure) => {
                self.all.borrow_mut().remove(&id);
                return Err(failure);
            }
        }
        Ok(Reply::Context(context.info()))
    }

    /// Starts a cell, in a context that is created or started again if necessary.
    pub async fn run(self: &Rc<Self>, request: Code) -> Result<Cell, Failure> {
        let (context, is_new) = self.context_for(&request)?;
        let (interpreter, orders) = match context.claim().await? {
            Some(claimed) => claimed,
            None => match self.start(&context).await {
                Ok(interpreter) => {
                    let (sender, orders) = mpsc::channel(ORDER_QUEUE);
                    context.set(State::Busy(sender));
                    (interpreter, orders)
                }
                Err(failure) => {
                    context.set(State::Dead);
                    if is_new {
                        self.all.borrow_mut().remove(&context.id);
                    }
                    return Err(failure);
                }
            },
        };
        context.kernel.replace(interpreter.kernel.clone());
        context.execution_count.set(interpreter.execution_count + 1);
        let cell = Cell::start(&self.agent, Rc::clone(&context), interpreter, orders, &request);
        cell.map_err(|(interpreter, failure)| {
            context.give_back(Some(interpreter));
            failure
        })
    }

    /// Interrupts the cell of a context, if one runs.
    pub fn interrupt(&self, id: &str) -> Result<Reply, Failure> {
        let context = self.get(id)?;
        if let State::Busy(orders) = &*context.state.borrow() {
            // The queue is full of such orders, or the cell has just ended.
            let _ = orders.try_send(Order::Interrupt);
        }
        Ok(Reply::Done)
    }

    /// Ends the interpreter of a context, and starts another one.
    pub async fn restart(self: &Rc<Self>, id: &str) -> Result<Reply, Failure> {
        let context = self.get(id)?;
        context.stop("the context was restarted").await;
        if !matches!(*context.state.borrow(), State::Dead) {
            return Err(busy(&context.id));
        }
        context.set(State::Starting);
        let started = self.start(&context).await;
        match started {
            Ok(interpreter) => context.give_back(Some(interpreter)),
            Err(failure) => {
                context.set(State::Dead);
                return Err(failure);
            }
        }
        Ok(Reply::Context(context.info()))
    }

    /// Removes a context, and ends its interpreter.
    pub async fn remove(&self, id: &str) -> Result<Reply, Failure> {
        let context = self.get(id)?;
        self.all.borrow_mut().remove(id);
        context.stop("the context was removed").await;
        context.set(State::Removed);
        Ok(Reply::Done)
    }

    fn get(&self, id: &str) -> Result<Rc<Context>, Failure> {
        self.all.borrow().get(id).cloned().ok_or_else(|| {
            let ids: Vec<String> = self.all.borrow().keys().cloned().collect();
            let existing = match ids.as_slice() {
                [] => "there are none yet".to_owned(),
                ids => format!("the contexts are {}", ids.join(", ")),
            };
            let id: String = id.chars().take(MAX_ID_BYTES).collect();
            Failure {
                kind: FailureKind::NoContext,
                message: format!(
                    "there is no context {id:?}: {existing}; create one with POST \
                     /v1/runs/{{id}}/contexts, or run code without a context in the default one"
                ),
            }
        })
    }

    /// Returns the context of a request, and whether it was created for it.
    fn context_for(&self, request: &Code) -> Result<(Rc<Context>, bool), Failure> {
        let wanted = request.new.language.as_deref();
        let language = valid_language(wanted)?;
        let default = code::default_context(&language);
        match &request.context {
            Some(id) if *id != default || wanted.is_none() && self.all.borrow().contains_key(id) => {
                let context = self.get(id)?;
                if wanted.is_some() && context.language != language {
                    let message = format!(
                        "the context {id:?} runs {}, not {language}: leave out the language, or \
                         create a context for it",
                        context.language
                    );
                    return Err(Failure { kind: FailureKind::Invalid, message });
                }
                Ok((context, false))
            }
            _ => {
                let existing = self.all.borrow().get(&default).cloned();
                match existing {
                    Some(context) => Ok((context, false)),
                    None => Ok((self.insert(&default, &language, request.new.clone())?, true)),
                }
            }
        }
    }

    fn insert(
        &self,
        id: &str,
        language: &str,
        spec: NewContext,
    ) -> Result<Rc<Context>, Failure> {
        let mut all = self.all.borrow_mut();
        let max = spec.max_contexts.min(MAX_CONTEXTS);
        if all.len() >= max as usize {
            let message = format!(
                "the run has {} contexts, and the limit is {max}: remove one first",
                all.len()
            );
            return Err(Failure { kind: FailureKind::TooManyContexts, message });
        }
        let context = Rc::new(Context {
            agent: Rc::clone(&self.agent),
            id: id.to_owned(),
            language: language.to_owned(),
            spec,
            state: RefCell::new(State::Dead),
            changes: watch::Sender::new(0),
            kernel: RefCell::default(),
            execution_count: std::cell::Cell::default(),
        });
        all.insert(id.to_owned(), Rc::clone(&context));
        Ok(context)
    }

    /// Starts the interpreter of a context, which is marked as starting. Continues if the
    /// caller is cancelled; the interpreter is then given to the context.
    async fn start(self: &Rc<Self>, context: &Rc<Context>) -> Result<Interpreter, Failure> {
        let (sender, receiver) = oneshot::channel();
        let starting = Rc::clone(context);
        tokio::task::spawn_local(async move {
            let agent = &*starting.agent;
            let started = Interpreter::start(agent, &starting.language, &starting.spec).await;
            if let Err(unclaimed) = sender.send(started) {
                starting.give_back(unclaimed.ok());
            }
        });
        let interpreter = receiver.await.unwrap_or_else(|_| {
            Err(Failure {
                kind: FailureKind::Other,
                message: "the start of the interpreter was interrupted".to_owned(),
            })
        })?;
        context.kernel.replace(interpreter.kernel.clone());
        context.execution_count.set(0);
        if matches!(*context.state.borrow(), State::Removed) {
            interpreter.finish(&self.agent).await;
            return Err(Failure {
                kind: FailureKind::NoContext,
                message: format!("the context {:?} was removed", context.id),
            });
        }
        Ok(interpreter)
    }
}

impl Context {
    fn set(&self, state: State) {
        let is_removed = matches!(*self.state.borrow(), State::Removed);
        if !is_removed {
            self.state.replace(state);
        }
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn info(&self) -> ContextInfo {
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
    async fn claim(
        &self,
    ) -> Result<Option<(Interpreter, mpsc::Receiver<Order>)>, Failure> {
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
    async fn stop(&self, why: &'static str) {
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

fn valid_language(name: Option<&str>) -> Result<String, Failure> {
    let name = name.unwrap_or(DEFAULT_LANGUAGE);
    code::language(name).ok_or_else(|| Failure {
        kind: FailureKind::Invalid,
        message: format!(
            "not a valid language: {:?}: give its name, such as python, javascript or r",
            name.chars().take(MAX_ID_BYTES).collect::<String>()
        ),
    })
}

/// Returns a short random id.
fn new_id() -> Result<String, Failure> {
    let mut number = [0; 6];
    rustix::rand::getrandom(&mut number, rustix::rand::GetRandomFlags::empty()).map_err(
        |error| Failure {
            kind: FailureKind::Other,
            message: format!("cannot get random numbers: {error}"),
        },
    )?;
    let hex: String = number.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("ctx{hex}"))
}

fn busy(id: &str) -> Failure {
    Failure {
        kind: FailureKind::ContextBusy,
        message: format!(
            "the context {id:?} runs a cell: wait for its end, interrupt it, or create another \
             context"
        ),
    }
}
