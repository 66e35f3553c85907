//! All contexts of the sandbox: finding, creating, restarting and removing them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::sync::oneshot;

use isorun_agent::code::{self, Code, DEFAULT_LANGUAGE, NewContext};
use isorun_agent::protocol::{Failure, FailureKind, Reply};

use super::agent::Agent;
use super::cell::Cell;
use super::context::{Context, State, busy};
use super::interpreter::Interpreter;
use super::session;

/// The maximum number of contexts, unless the request has a smaller one.
const MAX_CONTEXTS: u32 = 256;
/// The maximum length of the id of a context, in bytes.
const MAX_ID_BYTES: usize = 64;

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
        session::check_token(&request.token)?;
        let (context, is_new) = self.context_for(&request)?;
        let (interpreter, orders) = match context.claim().await? {
            Some(claimed) => claimed,
            None => match self.start(&context).await {
                Ok(interpreter) => {
                    let orders = context.set_busy();
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
        context.note(&interpreter, interpreter.execution_count + 1);
        Ok(Cell::start(&self.agent, context, interpreter, orders, &request))
    }

    /// Interrupts the cell of a context, if one runs.
    pub fn interrupt(&self, id: &str) -> Result<Reply, Failure> {
        self.get(id)?.interrupt();
        Ok(Reply::Done)
    }

    /// Ends the interpreter of a context, and starts another one.
    pub async fn restart(self: &Rc<Self>, id: &str) -> Result<Reply, Failure> {
        let context = self.get(id)?;
        context.stop("the context was restarted").await;
        if !context.is_dead() {
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
            Some(id)
                if *id != default || wanted.is_none() && self.all.borrow().contains_key(id) =>
            {
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

    fn insert(&self, id: &str, language: &str, spec: NewContext) -> Result<Rc<Context>, Failure> {
        let mut all = self.all.borrow_mut();
        let max = spec.max_contexts.min(MAX_CONTEXTS);
        if all.len() >= max as usize {
            let message = format!(
                "the run has {} contexts, and the limit is {max}: remove one first",
                all.len()
            );
            return Err(Failure { kind: FailureKind::TooManyContexts, message });
        }
        let context = Context::new(Rc::clone(&self.agent), id, language, spec);
        all.insert(id.to_owned(), Rc::clone(&context));
        Ok(context)
    }

    /// Starts the interpreter of a context, which is marked as starting. Continues if the
    /// caller is cancelled; the interpreter is then given to the context.
    async fn start(self: &Rc<Self>, context: &Rc<Context>) -> Result<Interpreter, Failure> {
        let (sender, receiver) = oneshot::channel();
        let starting = Rc::clone(context);
        tokio::task::spawn_local(async move {
            let started = starting.start().await;
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
        context.note(&interpreter, 0);
        if context.is_removed() {
            interpreter.finish(&self.agent).await;
            return Err(Failure {
                kind: FailureKind::NoContext,
                message: format!("the context {:?} was removed", context.id),
            });
        }
        Ok(interpreter)
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
