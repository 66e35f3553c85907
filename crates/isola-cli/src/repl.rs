//! `isola repl`: an interactive session with an interpreter, which can be copied.
//!
//! ```text
//!  input ── a line that starts with `:` ───▶ command ──▶ session: fork, save, ...
//!    │                                                     │
//!    └───── code, as soon as it is complete ───────────────┴──▶ sandbox ──▶ screen
//! ```
//!
//! The line editor blocks this thread, and runs outside of the event loop. Guests
//! run on the same thread within the event loop, between two inputs.

mod command;
mod input;
mod session;
mod syntax;

use std::{
    io,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use futures_util::FutureExt as _;
use isola::{Error, Language};
use tokio::sync::Notify;

use self::{
    command::{HELP, ReplCommand},
    input::{Input, InputEvent},
    session::{Flow, ReplSession, Settings},
};
use crate::{cli::ReplArgs, failure::Failure, screen, snapshot};

/// Runs the session until the end of the input or `:quit`.
pub fn run(args: &ReplArgs) -> Result<ExitCode, Failure> {
    let settings = Settings::check(args)?;
    let from = args.from_snapshot.as_deref().map(snapshot::existing_path).transpose()?;
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::Io { context: "cannot start the event loop", error })?;
    let interrupt = Interrupt::listen(&tokio);
    let session = tokio.block_on(ReplSession::start(settings, from))?;
    let mut repl = Repl {
        input: Input::new(session.runtime(), tokio.handle(), session.shared())?,
        session,
        interrupt,
        tokio,
    };
    let code = repl.run();
    repl.input.save_history();
    // Do not wait for a guest that is still running.
    repl.tokio.shutdown_background();
    code.map(ExitCode::from)
}

struct Repl {
    input: Input,
    session: ReplSession,
    interrupt: Arc<Interrupt>,
    tokio: tokio::runtime::Runtime,
}

impl Repl {
    fn run(&mut self) -> Result<u8, Failure> {
        if self.input.is_terminal() {
            self.session.print(&format!(
                "{} in isola {}: a sandbox without access to files or network, except what you \
                 allowed.\n:help lists the commands. Ctrl-D exits.",
                match self.session.runtime().language() {
                    Language::Python => "Python",
                    Language::JavaScript => "JavaScript",
                },
                env!("CARGO_PKG_VERSION")
            ))?;
        }
        loop {
            let prompt = self.session.prompt();
            let text = match self.input.read(&prompt)? {
                InputEvent::Text(text) => text,
                InputEvent::Cancelled => continue,
                InputEvent::End => return Ok(0),
            };
            if text.trim().is_empty() {
                continue;
            }
            let flow = match ReplCommand::parse(&text) {
                None => self.code(&text)?,
                Some(Ok(command)) => self.command(command)?,
                Some(Err(failure)) => {
                    screen::print_error(&failure);
                    continue;
                }
            };
            if let Flow::Exit(code) = flow {
                return Ok(code);
            }
        }
    }

    fn code(&mut self, source: &str) -> Result<Flow, Failure> {
        let _running = self.interrupt.running();
        self.tokio.block_on(self.session.run(source, self.interrupt.wait()))
    }

    fn command(&mut self, command: ReplCommand) -> Result<Flow, Failure> {
        let done = match command {
            ReplCommand::Help => self.session.print(HELP),
            ReplCommand::Quit => return Ok(Flow::Exit(0)),
            other => {
                let _running = self.interrupt.running();
                self.tokio.block_on(self.session.execute(other))
            }
        };
        match done {
            // No further output is possible.
            Err(failure @ Failure::StdoutClosed) => return Err(failure),
            // The session is unchanged.
            Err(failure) => screen::print_error(&failure),
            Ok(()) => {}
        }
        Ok(Flow::Continue)
    }
}

/// The handler of Ctrl-C, which stops running code. (While a line is edited on a
/// terminal, the editor handles Ctrl-C.)
struct Interrupt {
    running: AtomicBool,
    pressed: Notify,
}

impl Interrupt {
    fn listen(tokio: &tokio::runtime::Runtime) -> Arc<Self> {
        let this = Arc::new(Self { running: AtomicBool::new(true), pressed: Notify::new() });
        let listener = Arc::clone(&this);
        tokio.spawn(async move {
            // Without a listener the signal has its default action: it ends the
            // process.
            while tokio::signal::ctrl_c().await.is_ok() {
                if !listener.running.load(SeqCst) {
                    std::process::exit(Failure::Interrupted.exit_code().into());
                }
                listener.pressed.notify_one();
            }
        });
        this.running.store(false, SeqCst);
        this
    }

    fn running(self: &Arc<Self>) -> Running {
        // Discard an interrupt that arrived after the previous code had ended.
        let _ = self.pressed.notified().now_or_never();
        self.running.store(true, SeqCst);
        Running(Arc::clone(self))
    }

    fn wait(self: &Arc<Self>) -> impl Future<Output = ()> + use<> {
        let this = Arc::clone(self);
        async move { this.pressed.notified().await }
    }
}

struct Running(Arc<Interrupt>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.store(false, SeqCst);
    }
}

/// Creates the failure for an error of reading from standard input.
fn stdin_error(error: io::Error) -> Failure {
    Failure::Io { context: "cannot read from standard input", error }
}

/// Returns the exit code and the message of a `SystemExit`, or `None` for any other
/// error.
fn exit_status(error: &Error) -> Option<(u8, Option<String>)> {
    let Error::Guest(exception) = error else { return None };
    if exception.name != "SystemExit" {
        return None;
    }
    Some(match exception.message.trim() {
        "" | "None" => (0, None),
        text => match text.parse::<i64>() {
            // The lowest eight bits, as for a process.
            Ok(code) => (u8::try_from(code & 0xff).unwrap_or(1), None),
            Err(_) => (1, Some(text.to_owned())),
        },
    })
}
