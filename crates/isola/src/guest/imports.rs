//! The functions of `wit/isola.wit` that a guest imports.

use std::{sync::Arc, time::Duration};

use wasmtime::Result;

use super::Guest;
use crate::{
    code_event,
    contract::{self, Completion, FileEntry, FileFailure, Request},
    event::{Event, Level, LogRecord},
    value::Value,
};

impl contract::Host for Guest {
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

    async fn code_event(&mut self, event: String) -> Result<()> {
        let size = event.len();
        self.check_value(size)?;
        let event = code_event::parse(&event).map_err(wasmtime::Error::msg)?;
        self.output.write_code(event, size).await
    }

    fn interrupt_word(&mut self, address: u32, mask: u32) -> Result<()> {
        let armed = self.delivery.set_target(address, mask);
        self.interrupt.set_armed(armed);
        // One that was requested before.
        self.deliver_interrupt();
        Ok(())
    }

    fn interrupted(&mut self) -> Result<bool> {
        let news = self.interrupt.is_undelivered() && self.delivery.take_unreported();
        if news {
            self.interrupt.set_delivered();
        }
        Ok(news)
    }

    async fn log(&mut self, level: contract::Level, message: String) -> Result<()> {
        let size = message.len();
        let level = match level {
            contract::Level::Debug => Level::Debug,
            contract::Level::Info => Level::Info,
            contract::Level::Warning => Level::Warning,
            contract::Level::Error => Level::Error,
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
        let interrupt = Arc::clone(&self.interrupt);
        let news = async {
            tokio::select! {
                () = completion => {}
                () = interrupt.arrived() => {}
            }
        };
        match timeout {
            Some(nanos) => {
                let _ = tokio::time::timeout(Duration::from_nanos(nanos), news).await;
            }
            None if self.pending.is_idle() => {}
            None => news.await,
        }
        self.deliver_interrupt();
        Ok(self.pending.take())
    }

    fn wake_next_timer(&mut self) -> Result<()> {
        self.wake_next_timer = true;
        Ok(())
    }

    async fn read_file(&mut self, path: String) -> Result<Result<Vec<u8>, FileFailure>> {
        let max = self.limits.max_value_size;
        self.files().read_file(&path, max).await
    }

    async fn write_file(
        &mut self,
        path: String,
        content: Vec<u8>,
        append: bool,
    ) -> Result<Result<(), FileFailure>> {
        self.files().write_file(&path, content, append).await
    }

    async fn list_files(&mut self, path: String) -> Result<Result<Vec<FileEntry>, FileFailure>> {
        self.files().list_files(&path).await
    }

    async fn remove_file(&mut self, path: String) -> Result<Result<(), FileFailure>> {
        self.files().remove_file(&path).await
    }

    fn set_mode(&mut self, file: u64, mode: u32) -> Result<bool> {
        Ok(self.files().set_mode(file, mode))
    }

    fn set_umask(&mut self, mask: u32) -> Result<()> {
        self.files().set_umask(mask);
        Ok(())
    }

    fn cpu_time(&mut self) -> Result<u64> {
        Ok(u64::try_from(self.cpu.total().as_nanos()).unwrap_or(u64::MAX))
    }
}
