//! Code in the contexts of an interpreter.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use isola::{CodeContext, CodeEvent, Sandbox};
use isorun_agent::SandboxId;
use tokio::sync::mpsc;

use crate::{
    error::{Error, Result},
    interpreter::Interpreter,
    interpreters::Interpreters,
};

/// The context of code that names none.
const DEFAULT_CONTEXT: &str = "default";

/// Code to run.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The source code.
    pub code: String,
    /// The language, if the caller names one.
    pub language: Option<String>,
    /// The id of the context; the default context otherwise.
    pub context: Option<String>,
    /// The wall time after which the code is interrupted.
    pub timeout: Option<Duration>,
}

/// A context and what it does.
#[derive(Clone, Debug)]
pub struct ContextState {
    /// The context.
    pub context: CodeContext,
    /// True if code runs in it.
    pub is_busy: bool,
}

impl Interpreters {
    /// Runs code, and sends its events, the last of which is its end. Code in other contexts
    /// of the interpreter runs first; the time limit applies to that wait as well. If the receiver of the events is dropped, the code is
    /// interrupted.
    ///
    /// # Errors
    ///
    /// [`Error::ContextBusy`] if the context runs code, [`Error::Busy`] if code in another
    /// context runs up to the time limit, [`Error::NoContext`], [`Error::LanguageMissing`], and [`Error::Ended`] if the code ended the interpreter.
    pub async fn run_code(
        &self,
        id: &SandboxId,
        cell: Cell,
        events: mpsc::Sender<CodeEvent>,
    ) -> Result<()> {
        let interpreter = self.get(id)?;
        interpreter.check_language(cell.language.as_deref())?;
        let context = cell.context.clone().unwrap_or_else(|| DEFAULT_CONTEXT.to_owned());
        let running = interpreter.begin_code(&context)?;
        // Code in other contexts may run for as long as it likes.
        let guard = interpreter.wait_for_idle(cell.timeout).await?;
        let code = interpreter.start(guard, move |sandbox| async move {
            let _running = running;
            drive(&sandbox, cell, &context, &events).await
        });
        code.await
    }

    /// Lists the contexts. While code runs, this is the list of the last time that one was
    /// created, removed or listed.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] and [`Error::Ended`].
    pub async fn contexts(&self, id: &SandboxId) -> Result<Vec<ContextState>> {
        let interpreter = self.get(id)?;
        let contexts = match interpreter.running_contexts().is_empty() {
            false => interpreter.known_contexts(),
            true => list(&interpreter).await?,
        };
        let running = interpreter.running_contexts();
        let state =
            |context: CodeContext| ContextState { is_busy: running.contains(&context.id), context };
        Ok(contexts.into_iter().map(state).collect())
    }

    /// Creates a context, with a working directory or that of the default context.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the directory does not exist or there are too many contexts,
    /// [`Error::LanguageMissing`] and [`Error::Busy`].
    pub async fn create_context(
        &self,
        id: &SandboxId,
        language: Option<&str>,
        cwd: Option<String>,
    ) -> Result<CodeContext> {
        let interpreter = self.get(id)?;
        interpreter.check_language(language)?;
        let creating = interpreter.operate(move |sandbox| async move {
            Ok(sandbox.create_context(cwd.as_deref()).await?)
        });
        let context = creating.await?;
        list(&interpreter).await?;
        Ok(context)
    }

    /// Restarts a context, which loses what its code has defined. Code that runs in it is
    /// interrupted.
    ///
    /// # Errors
    ///
    /// [`Error::NoContext`] and [`Error::Busy`].
    pub async fn restart_context(&self, id: &SandboxId, context: &str) -> Result<CodeContext> {
        let interpreter = self.get(id)?;
        interpreter.interrupt(context);
        let name = context.to_owned();
        let restarting = interpreter.operate(move |sandbox| async move {
            sandbox.restart_context(&name).await.map_err(|error| no_context(error, &name))
        });
        restarting.await?;
        let contexts = list(&interpreter).await?;
        let found = contexts.into_iter().find(|found| found.id == context);
        found.ok_or_else(|| unknown_context(context))
    }

    /// Removes a context. Code that runs in it is interrupted.
    ///
    /// # Errors
    ///
    /// [`Error::NoContext`], [`Error::Invalid`] for the default context, and [`Error::Busy`].
    pub async fn remove_context(&self, id: &SandboxId, context: &str) -> Result<()> {
        let interpreter = self.get(id)?;
        if context == DEFAULT_CONTEXT {
            return Err(Error::Invalid(format!(
                "the context `{DEFAULT_CONTEXT}` cannot be removed: restart it"
            )));
        }
        interpreter.interrupt(context);
        let name = context.to_owned();
        let removing = interpreter.operate(move |sandbox| async move {
            sandbox.remove_context(&name).await.map_err(|error| no_context(error, &name))
        });
        removing.await?;
        list(&interpreter).await.map(drop)
    }

    /// Interrupts the code that runs in a context, if there is any.
    ///
    /// # Errors
    ///
    /// [`Error::NoContext`] if no code runs and the context does not exist.
    pub async fn interrupt_context(&self, id: &SandboxId, context: &str) -> Result<()> {
        let interpreter = self.get(id)?;
        if interpreter.interrupt(context) || !interpreter.running_contexts().is_empty() {
            return Ok(());
        }
        match list(&interpreter).await?.iter().any(|found| found.id == context) {
            true => Ok(()),
            false => Err(unknown_context(context)),
        }
    }
}

/// Asks the guest for its contexts.
async fn list(interpreter: &Arc<Interpreter>) -> Result<Vec<CodeContext>> {
    let listing = interpreter.operate(|sandbox| async move { Ok(sandbox.contexts().await?) });
    let contexts = listing.await?;
    interpreter.set_known_contexts(&contexts);
    Ok(contexts)
}

async fn drive(
    sandbox: &Sandbox,
    cell: Cell,
    context: &str,
    events: &mpsc::Sender<CodeEvent>,
) -> Result<()> {
    let mut call = sandbox.run_code(cell.code).context(context);
    if let Some(limit) = cell.timeout {
        call = call.timeout(limit);
    }
    let mut stream = call.stream()?;
    let mut is_interrupted = false;
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            () = events.closed(), if !is_interrupted => {
                // The events are still read, since dropping the stream closes the sandbox.
                is_interrupted = true;
                sandbox.interrupt();
                continue;
            }
        };
        match event {
            None => return Ok(()),
            // A receiver that is gone is noticed above.
            Some(Ok(event)) => _ = events.send(event).await,
            Some(Err(error)) => return Err(no_context(error, context)),
        }
    }
}

/// Converts an error of an operation on a context. Of the arguments, only the context can
/// be wrong.
fn no_context(error: isola::Error, context: &str) -> Error {
    match error {
        isola::Error::InvalidArgument(_) => unknown_context(context),
        error => error.into(),
    }
}

fn unknown_context(context: &str) -> Error {
    let shown: String = context.chars().take(100).collect();
    Error::NoContext(format!(
        "there is no context `{shown}`: list the contexts of the run, or create one"
    ))
}
