//! The engines of a server: Linux sandboxes, and interpreters in this process. A sandbox
//! of either is created, measured, saved, restored and destroyed by the same operations;
//! only a Linux sandbox has an agent to connect to.

use std::{path::Path, sync::Arc};

use isorun_egress::Plan;
use isorun_engine::{
    AgentStream, Capabilities, CpuWeight, Engine, Error, Exit, Result, Root, SandboxId,
    SandboxSpec, Stats,
};
use isorun_interpreter::{
    Error as InterpreterError, InterpreterImage, InterpreterSpec, Interpreters, Usage,
};
use serde::{Deserialize, Serialize};

/// The engines of a server.
pub struct Engines {
    /// Linux sandboxes, or why the server has none.
    linux: Result<Arc<dyn Engine>, String>,
    pub interpreters: Arc<Interpreters>,
    /// The interpreters that runs can be created from.
    offered: Vec<InterpreterImage>,
}

/// What a sandbox is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SandboxBase {
    /// The root filesystem of a Linux sandbox.
    Linux(Root),
    /// The image of an interpreter.
    Interpreter { interpreter: InterpreterImage },
}

/// The specification of a sandbox.
pub enum Spec {
    Linux(SandboxSpec),
    Interpreter(InterpreterSpec),
}

impl Spec {
    /// Sets the limit of processes, which only a Linux sandbox has.
    pub fn set_pids(&mut self, pids: u32) {
        if let Self::Linux(spec) = self {
            spec.pids = pids;
        }
    }
}

impl Engines {
    pub fn new(
        linux: Result<Arc<dyn Engine>, String>,
        interpreters: Arc<Interpreters>,
        offered: Vec<InterpreterImage>,
    ) -> Self {
        Self { linux, interpreters, offered }
    }

    /// Returns the images of the interpreters that runs can be created from.
    pub fn offered_images(&self) -> Vec<&'static str> {
        self.offered.iter().map(|image| image.name()).collect()
    }

    /// Returns the engine of Linux sandboxes, or the error for a client.
    pub fn linux(&self) -> Result<&Arc<dyn Engine>> {
        self.linux.as_ref().map_err(|_| {
            Error::Unsupported(format!(
                "this server has no Linux sandboxes, only interpreters ({}): `isorun doctor` on \
                 its machine reports what is missing",
                self.offered_images().join(", ")
            ))
        })
    }

    /// Returns why the server has no Linux sandboxes; `None` if it has them.
    pub fn linux_unavailable(&self) -> Option<&str> {
        self.linux.as_ref().err().map(String::as_str)
    }

    /// Returns the name, version and isolation of the engine of Linux sandboxes, or else of
    /// interpreters.
    pub fn capabilities(&self) -> Capabilities {
        match &self.linux {
            Ok(linux) => linux.capabilities(),
            Err(_) => Capabilities {
                name: "isola".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                isolation: "Interpreters are isolated by WebAssembly in the server's process. \
                            There are no Linux sandboxes."
                    .to_owned(),
                checkpoint: true,
                network: true,
                limits: ["mem_mib", "disk_mib"].map(str::to_owned).into(),
            },
        }
    }

    /// Returns what runs can be created from: `linux`, and the images of interpreters.
    pub fn offers(&self) -> Vec<String> {
        let linux = self.linux.is_ok().then_some("linux");
        linux.into_iter().chain(self.offered_images()).map(str::to_owned).collect()
    }

    pub async fn create(&self, spec: Spec) -> Result<()> {
        match spec {
            Spec::Linux(spec) => self.linux()?.create(spec).await,
            Spec::Interpreter(spec) => {
                self.check_offered(spec.image)?;
                let id = spec.id.clone();
                self.interpreters.create(spec).await.map_err(|error| engine_error(&id, error))
            }
        }
    }

    pub async fn restore(&self, spec: Spec, from: &Path) -> Result<()> {
        match spec {
            Spec::Linux(spec) => self.linux()?.restore(spec, from).await,
            Spec::Interpreter(spec) => {
                self.check_offered(spec.image)?;
                let id = spec.id.clone();
                self.interpreters.load(spec, from).await.map_err(|error| engine_error(&id, error))
            }
        }
    }

    fn check_offered(&self, image: InterpreterImage) -> Result<()> {
        if self.offered.contains(&image) {
            return Ok(());
        }
        Err(Error::Unsupported(format!(
            "this server does not offer {image}: its operator has disabled interpreters \
             (--no-interpreters), or its runtime was not installed when the server started. {}",
            image.installation()
        )))
    }

    /// Opens a connection to the agent of a Linux sandbox.
    pub async fn connect(&self, id: &SandboxId) -> Result<AgentStream> {
        if self.interpreters.contains(id) {
            return Err(Error::Unsupported("an interpreter has no agent".to_owned()));
        }
        self.linux_of(id)?.connect(id).await
    }

    pub async fn exited(&self, id: &SandboxId) -> Result<Exit> {
        if self.interpreters.contains(id) {
            let why = self.interpreters.exited(id).await;
            return why.map(Exit::Died).map_err(|error| engine_error(id, error));
        }
        self.linux_of(id)?.exited(id).await
    }

    pub async fn set_network(&self, id: &SandboxId, plan: Plan) -> Result<()> {
        if self.interpreters.contains(id) {
            let changed = self.interpreters.set_network(id, plan);
            return changed.map_err(|error| engine_error(id, error));
        }
        self.linux_of(id)?.set_network(id, plan).await
    }

    /// Sets the weight of a Linux sandbox. Interpreters of all tenants take turns instead.
    pub async fn set_cpu_weight(&self, id: &SandboxId, weight: CpuWeight) -> Result<()> {
        if self.interpreters.contains(id) {
            return Ok(());
        }
        self.linux_of(id)?.set_cpu_weight(id, weight).await
    }

    pub async fn stats(&self, id: &SandboxId) -> Result<Stats> {
        if self.interpreters.contains(id) {
            let usage = self.interpreters.usage(id);
            return usage.map(stats).map_err(|error| engine_error(id, error));
        }
        self.linux_of(id)?.stats(id).await
    }

    pub async fn checkpoint(&self, id: &SandboxId, into: &Path, leave_running: bool) -> Result<()> {
        if !self.interpreters.contains(id) {
            return self.linux_of(id)?.checkpoint(id, into, leave_running).await;
        }
        let saved = self.interpreters.save(id, into).await;
        saved.map_err(|error| engine_error(id, error))?;
        if !leave_running {
            self.interpreters.destroy(id).map_err(|error| engine_error(id, error))?;
        }
        Ok(())
    }

    pub fn is_complete(&self, checkpoint: &Path) -> bool {
        Interpreters::is_complete(checkpoint)
            || self.linux.as_ref().is_ok_and(|linux| linux.is_complete(checkpoint))
    }

    pub fn fingerprint(&self, base: &SandboxBase) -> Result<String> {
        Ok(match base {
            SandboxBase::Linux(root) => self.linux()?.fingerprint(root),
            SandboxBase::Interpreter { interpreter } => Interpreters::fingerprint(*interpreter),
        })
    }

    pub async fn destroy(&self, id: &SandboxId) -> Result<Stats> {
        if self.interpreters.contains(id) {
            let usage = self.interpreters.destroy(id);
            return usage.map(stats).map_err(|error| engine_error(id, error));
        }
        self.linux_of(id)?.destroy(id).await
    }

    pub async fn list(&self) -> Result<Vec<SandboxId>> {
        let mut all = self.interpreters.list();
        if let Ok(linux) = &self.linux {
            all.extend(linux.list().await?);
        }
        Ok(all)
    }

    pub async fn shutdown(&self) {
        if let Ok(linux) = &self.linux {
            linux.shutdown().await;
        }
    }

    /// Returns the engine of a sandbox that is no interpreter. Without an engine of Linux
    /// sandboxes it does not exist.
    fn linux_of(&self, id: &SandboxId) -> Result<&Arc<dyn Engine>> {
        self.linux.as_ref().map_err(|_| Error::NotFound(id.clone()))
    }
}

fn stats(usage: Usage) -> Stats {
    Stats {
        cpu_ms: usage.cpu_ms,
        mem_peak_bytes: usage.mem_peak_bytes,
        mem_bytes: usage.mem_bytes,
        disk_used_bytes: usage.disk_used_bytes,
        pids: 0,
    }
}

/// Converts an error of interpreters to the same one of an engine.
pub fn engine_error(id: &SandboxId, error: InterpreterError) -> Error {
    match error {
        InterpreterError::NotFound(id) => Error::NotFound(id),
        InterpreterError::AlreadyExists(id) => Error::AlreadyExists(id),
        InterpreterError::Invalid(why) => Error::InvalidSpec(why),
        InterpreterError::RuntimeMissing(why) => Error::Setup(why),
        InterpreterError::Busy(why) => Error::Busy(why),
        InterpreterError::Ended(why) => Error::Dead { id: id.clone(), exit: Exit::Died(why) },
        InterpreterError::StateRefused(why) => Error::Incompatible(why),
        InterpreterError::File { message: why, .. }
        | InterpreterError::ContextBusy(why)
        | InterpreterError::NoContext(why)
        | InterpreterError::LanguageMissing(why) => Error::InvalidSpec(why),
        InterpreterError::Io { what, source } => Error::Io { what, source },
        error @ InterpreterError::Failed(_) => Error::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_keep_their_stored_form() {
        let python = SandboxBase::Interpreter { interpreter: InterpreterImage::Python };
        let root = Root::Directory("/a".into());
        for (base, text) in [
            (SandboxBase::Linux(Root::Host), r#""host""#.to_owned()),
            (SandboxBase::Linux(root.clone()), serde_json::to_string(&root).unwrap()),
            (python, r#"{"interpreter":"python"}"#.to_owned()),
        ] {
            assert_eq!(serde_json::to_string(&base).unwrap(), text);
            assert_eq!(serde_json::from_str::<SandboxBase>(&text).unwrap(), base);
        }
        assert!(serde_json::from_str::<SandboxBase>(r#"{"interpreter":"ruby"}"#).is_err());
    }
}
