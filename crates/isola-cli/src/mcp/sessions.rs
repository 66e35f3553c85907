//! The sessions: which there are, and one piece of code in one of them.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;
use isola::{Handlers, HttpClient, Limits, Mount, Runtime, Sandbox, Template};
use rmcp::model::CallToolResult;
use tokio::sync::{Mutex, OnceCell};

use super::{Wanted, answer::Answer};
use crate::{
    cli::McpArgs,
    config::{http, mount},
    failure::Failure,
};

pub struct Sessions {
    limits: Limits,
    timeout: Duration,
    mounts: Vec<Mount>,
    http: Option<HttpClient>,
    max: usize,
    python: OnceCell<Template>,
    javascript: OnceCell<Template>,
    /// In the order of their last use.
    open: std::sync::Mutex<Vec<(Key, Session)>>,
}

type Key = (Runtime, String);

/// `None` until it is first used, and after its guest was lost.
type Session = Arc<Mutex<Option<Sandbox>>>;

impl Sessions {
    pub fn new(args: &McpArgs) -> Result<Self, Failure> {
        let mut limits = Limits {
            cpu_timeout: Some(args.cpu_timeout),
            timeout: Some(args.timeout),
            max_output_size: args.max_output,
            ..Limits::default()
        };
        if let Some(bytes) = args.max_memory {
            limits.max_memory = bytes;
        }
        Ok(Self {
            limits,
            timeout: args.timeout,
            mounts: args.mounts.iter().map(|text| mount(text)).collect::<Result<_, _>>()?,
            http: http(&args.allow_http)?,
            max: args.max_sessions.into(),
            python: OnceCell::new(),
            javascript: OnceCell::new(),
            open: std::sync::Mutex::default(),
        })
    }

    /// Runs a piece of code in its session.
    pub async fn run(&self, runtime: Runtime, wanted: Wanted) -> CallToolResult {
        let session = self.session((runtime, wanted.session));
        // One piece of code at a time; the next waits for its turn.
        let mut place = session.lock().await;
        if wanted.restart {
            *place = None;
        }
        let mut answer = Answer::default();
        if place.as_ref().is_some_and(Sandbox::is_closed) {
            answer.note("the session began anew: its variables were lost with the code before");
            *place = None;
        }
        let sandbox = match &mut *place {
            Some(sandbox) => sandbox,
            empty => match self.start(runtime).await {
                Ok(sandbox) => empty.insert(sandbox),
                Err(error) => {
                    answer.fail(&error);
                    return answer.finish();
                }
            },
        };
        match sandbox.evaluate(wanted.source).timeout(self.timeout).stream() {
            Ok(mut events) => {
                while let Some(event) = events.next().await {
                    answer.event(event);
                    // Events may come without end: a cancelled call gets its chance.
                    tokio::task::yield_now().await;
                }
            }
            Err(error) => answer.fail(&error),
        }
        answer.finish()
    }

    /// The session under this name, which is now the one that was used last.
    fn session(&self, key: Key) -> Session {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let session = match open.iter().position(|(other, _)| *other == key) {
            Some(index) => open.remove(index).1,
            None => Session::default(),
        };
        if open.len() >= self.max {
            // A call that still runs in it keeps it until its end.
            open.remove(0);
        }
        open.push((key, Arc::clone(&session)));
        session
    }

    async fn start(&self, runtime: Runtime) -> Result<Sandbox, isola::Error> {
        let template = match runtime {
            Runtime::Python => &self.python,
            Runtime::JavaScript => &self.javascript,
        };
        let template = template
            .get_or_try_init(|| {
                let mut builder = Template::builder(runtime).limits(self.limits.clone());
                for mount in &self.mounts {
                    builder = builder.mount(mount.clone());
                }
                builder.build()
            })
            .await?;
        let mut builder = template.sandbox();
        if let Some(client) = &self.http {
            let client = client.clone();
            builder = builder.host(Handlers::new().http(move |request| {
                let client = client.clone();
                async move { client.send(request).await }
            }));
        }
        let sandbox = builder.create().await?;
        sandbox.start().await?;
        Ok(sandbox)
    }
}
