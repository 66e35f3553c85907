//! `isola repl`: an interpreter that stays, to talk to and to copy.
//!
//! ```text
//!  input ── a line that begins with `:` ──▶ command ──▶ session: fork, save, ...
//!    │                                                     │
//!    └───── code, as soon as it is whole ──────────────────┴──▶ sandbox ──▶ screen
//! ```
//!
//! The line editor blocks this thread, and so it is the thread's own affair;
//! guests run on it too, within the event loop, between two inputs.

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
use isola::{Error, Runtime};
use tokio::sync::Notify;

use self::{
    command::{Command, HELP},
    input::{Input, Read},
    session::{End, Session, Settings},
};
use crate::{cli::ReplArgs, failure::Failure, screen, snapshot};

/// Talks until the input ends or `:quit`.
pub fn talk(args: &ReplArgs) -> Result<ExitCode, Failure> {
    let settings = Settings::check(args)?;
    let from = args.from_snapshot.as_deref().map(snapshot::existing).transpose()?;
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::Io { doing: "cannot start the event loop", error })?;
    let interrupt = Interrupt::listen(&tokio);
    let session = tokio.block_on(Session::begin(settings, from))?;
    let mut repl = Repl {
        input: Input::new(session.runtime(), tokio.handle(), session.shared())?,
        session,
        interrupt,
        tokio,
    };
    let code = repl.run();
    repl.input.keep_history();
    // A guest may still be at work: nobody waits for it.
    repl.tokio.shutdown_background();
    code.map(ExitCode::from)
}

struct Repl {
    input: Input,
    session: Session,
    interrupt: Arc<Interrupt>,
    tokio: tokio::runtime::Runtime,
}

impl Repl {
    fn run(&mut self) -> Result<u8, Failure> {
        if self.input.is_terminal() {
            self.session.say(&format!(
                "{} in isola {}: a sandbox without files or network, unless you opened some.\n\
                 :help tells what else there is. Ctrl-D ends.",
                match self.session.runtime() {
                    Runtime::Python => "Python",
                    Runtime::JavaScript => "JavaScript",
                },
                env!("CARGO_PKG_VERSION")
            ))?;
        }
        loop {
            let prompt = self.session.prompt();
            let text = match self.input.read(&prompt)? {
                Read::Text(text) => text,
                Read::Again => continue,
                Read::End => return Ok(0),
            };
            if text.trim().is_empty() {
                continue;
            }
            let end = match Command::parse(&text) {
                None => self.code(&text)?,
                Some(Ok(command)) => self.command(command)?,
                Some(Err(failure)) => {
                    screen::complain(&failure);
                    continue;
                }
            };
            if let End::Exit(code) = end {
                return Ok(code);
            }
        }
    }

    fn code(&mut self, source: &str) -> Result<End, Failure> {
        let _running = self.interrupt.running();
        self.tokio.block_on(self.session.run(source, self.interrupt.wait()))
    }

    fn command(&mut self, command: Command) -> Result<End, Failure> {
        let done = match command {
            Command::Help => self.session.say(HELP),
            Command::Quit => return Ok(End::Exit(0)),
            other => {
                let _running = self.interrupt.running();
                self.tokio.block_on(self.session.obey(other))
            }
        };
        match done {
            // Nothing more can be said.
            Err(failure @ Failure::Unread) => return Err(failure),
            // The session is as it was.
            Err(failure) => screen::complain(&failure),
            Ok(()) => {}
        }
        Ok(End::Next)
    }
}

/// Ctrl-C: stops code that runs. (While a line is edited on a terminal, it is
/// the editor's.)
struct Interrupt {
    running: AtomicBool,
    pressed: Notify,
}

impl Interrupt {
    fn listen(tokio: &tokio::runtime::Runtime) -> Arc<Self> {
        let this = Arc::new(Self { running: AtomicBool::new(true), pressed: Notify::new() });
        let listener = Arc::clone(&this);
        tokio.spawn(async move {
            // Without a listener the signal has its usual effect, which is to
            // end us.
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
        // What was pressed too late for the code before is not for this one.
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

/// What is wrong with a terminal or a pipe that is read from.
fn unreadable(error: io::Error) -> Failure {
    Failure::Io { doing: "cannot read from standard input", error }
}

/// Whether an exception is the guest's wish to end, and with which code.
fn exit_of(error: &Error) -> Option<(u8, Option<String>)> {
    let Error::Guest(exception) = error else { return None };
    if exception.name != "SystemExit" {
        return None;
    }
    Some(match exception.message.trim() {
        "" | "None" => (0, None),
        text => match text.parse::<i64>() {
            // As a process does: the lowest eight bits count.
            Ok(code) => (u8::try_from(code & 0xff).unwrap_or(1), None),
            Err(_) => (1, Some(text.to_owned())),
        },
    })
}
