//! The host side of `wit/isola.wit`.

use std::time::Duration;

use wasmtime::Result;

use crate::{
    event::{Event, Level, LogRecord},
    guest::Guest,
    value::Value,
};

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "sandbox",
    imports: {
        "isola:sandbox/host.emit": async | trappable,
        "isola:sandbox/host.stdout": async | trappable,
        "isola:sandbox/host.stderr": async | trappable,
        "isola:sandbox/host.log": async | trappable,
        "isola:sandbox/host.wait": async | trappable,
        default: trappable,
    },
    exports: { default: async },
});

pub(crate) use self::exports::isola::sandbox::guest::{Argument, Config, Failure, FailureKind};
pub(crate) use self::isola::sandbox::host::{Completion, Outcome, Request, RequestBody, Response};
use self::isola::sandbox::host::{Host, Level as WireLevel};

impl Host for Guest {
    async fn emit(&mut self, value: String) -> Result<()> {
        let size = value.len();
        self.check_value(size)?;
        // The text comes from untrusted code, so it is validated here.
        let value = Value::from_json(value)?;
        self.output.write(Event::Result(value), size).await
    }

    async fn stdout(&mut self, text: String) -> Result<()> {
        let size = text.len();
        self.output.write(Event::Stdout(text), size).await
    }

    async fn stderr(&mut self, text: String) -> Result<()> {
        let size = text.len();
        self.output.write(Event::Stderr(text), size).await
    }

    async fn log(&mut self, level: WireLevel, message: String) -> Result<()> {
        let size = message.len();
        let level = match level {
            WireLevel::Debug => Level::Debug,
            WireLevel::Info => Level::Info,
            WireLevel::Warning => Level::Warning,
            WireLevel::Error => Level::Error,
        };
        self.output.write(Event::Log(LogRecord::new(level, message)), size).await
    }

    fn hostcall(&mut self, id: u64, name: String, payload: String) -> Result<Result<(), String>> {
        self.check_value(payload.len())?;
        let payload = Value::from_json(payload)?;
        Ok(self.pending.hostcall(id, name, payload))
    }

    fn fetch(&mut self, id: u64, request: Request) -> Result<Result<(), String>> {
        Ok(self.pending.fetch(id, request))
    }

    fn write(&mut self, id: u64, piece: Vec<u8>) -> Result<Result<(), String>> {
        Ok(self.pending.write(id, piece))
    }

    fn finish(&mut self, id: u64) -> Result<Result<(), String>> {
        Ok(self.pending.finish(id))
    }

    fn read(&mut self, id: u64) -> Result<Result<(), String>> {
        Ok(self.pending.read(id))
    }

    fn abandon(&mut self, id: u64) -> Result<()> {
        self.pending.abandon(id);
        Ok(())
    }

    fn completions(&mut self) -> Result<Vec<Completion>> {
        Ok(self.pending.take())
    }

    async fn wait(&mut self, timeout: Option<u64>) -> Result<Vec<Completion>> {
        let completion = self.pending.wait_for_completion();
        match timeout {
            Some(nanos) => {
                let _ = tokio::time::timeout(Duration::from_nanos(nanos), completion).await;
            }
            None if self.pending.is_idle() => {}
            None => completion.await,
        }
        Ok(self.pending.take())
    }

    fn wake_next_timer(&mut self) -> Result<()> {
        self.wake_next_timer = true;
        Ok(())
    }

    fn cpu_time(&mut self) -> Result<u64> {
        Ok(u64::try_from(self.cpu.total().as_nanos()).unwrap_or(u64::MAX))
    }
}
