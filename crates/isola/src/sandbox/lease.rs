//! The shared state of a sandbox, and the lease with which an operation takes its
//! guest.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::{instance::GuestInstance, lifecycle::Lifecycle};
use crate::{
    contract::Config,
    cpu::{CpuClock, metered},
    engine::{HeartbeatGuard, engine},
    error::{Closed, Error},
    files::PrivateFiles,
    host::Host,
    interrupt::Interrupt,
    limits::Limits,
    output::Output,
    runtime::Runtime,
    state::GuestState,
    template::{Settings, Template},
};

/// The state that a sandbox's handle and its running call share.
pub(crate) struct SandboxShared {
    pub(crate) runtime: Runtime,
    pub(crate) limits: Arc<Limits>,
    pub(crate) output: Output,
    pub(crate) cpu: Arc<CpuClock>,
    pub(crate) interrupt: Arc<Interrupt>,
    pub(crate) files: PrivateFiles,
    /// The size of the guest's memory, in bytes.
    pub(crate) memory_size: Arc<AtomicUsize>,
    /// The configuration, which the start takes.
    pub(crate) config: Mutex<Option<Config>>,
    pub(crate) prelude: Option<String>,
    /// `true` if the guest is a copy of one that was started.
    pub(crate) warm: bool,
    pub(crate) template: Template,
    pub(crate) settings: Settings,
    pub(crate) host: Arc<dyn Host>,
    pub(super) lifecycle: Lifecycle,
    /// `true` if the last call was quick.
    pub(super) quick: AtomicBool,
}

impl SandboxShared {
    /// Reports whether the last call was quick, and resets the flag for the next
    /// call.
    pub(crate) fn take_quick(&self) -> bool {
        self.quick.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn set_quick(&self, quick: bool) {
        self.quick.store(quick, Ordering::Relaxed);
    }

    /// Takes the guest for an operation, or returns why it cannot be taken.
    pub(crate) fn lease(self: &Arc<Self>, start: bool) -> Result<Lease, Error> {
        let guest = self.lifecycle.take(start)?;
        Ok(Lease { shared: Arc::clone(self), guest: Some(guest) })
    }
}

/// The guest, taken for one operation. Dropping the lease without a release means
/// that the operation was cancelled, and closes the sandbox.
pub(crate) struct Lease {
    pub(crate) shared: Arc<SandboxShared>,
    guest: Option<Box<GuestInstance>>,
}

impl Lease {
    /// Returns the guest, which is present until the lease ends.
    pub(crate) fn guest(&mut self) -> Result<&mut GuestInstance, Error> {
        self.guest
            .as_deref_mut()
            .ok_or_else(|| Error::bug("the lease of the guest has already ended"))
    }

    /// Copies the state of the guest.
    pub(crate) async fn copy_state(&mut self) -> Result<GuestState, Error> {
        let shared = Arc::clone(&self.shared);
        let Some(accessor) = &shared.template.component().accessor else {
            return Err(Error::SnapshotRefused("this runtime does not support snapshots".into()));
        };
        let guest = self.guest()?;
        let _heartbeat = HeartbeatGuard::acquire(engine()?)?;
        shared.cpu.reset(shared.limits.cpu_timeout);
        metered(&shared.cpu, accessor.save(&mut guest.store, guest.instance)).await
    }

    /// Records which pages the guest has written, for later guests that continue
    /// from the same state.
    pub(crate) async fn record_hot_pages(&mut self, state: &GuestState) {
        let shared = Arc::clone(&self.shared);
        let (Some(accessor), Ok(guest)) = (&shared.template.component().accessor, self.guest())
        else {
            return;
        };
        if let Ok(pages) = accessor.trace(&mut guest.store, guest.instance).await {
            let _ = state.hot_pages.set(pages);
        }
    }

    /// Returns the size of the pages that the guest has written since it was created, in
    /// bytes; `None` if its runtime or the machine does not provide it.
    pub(crate) async fn written_bytes(&mut self) -> Result<Option<u64>, Error> {
        let shared = Arc::clone(&self.shared);
        let Some(accessor) = &shared.template.component().accessor else { return Ok(None) };
        let guest = self.guest()?;
        let _heartbeat = HeartbeatGuard::acquire(engine()?)?;
        shared.cpu.reset(shared.limits.cpu_timeout);
        let pages = metered(&shared.cpu, accessor.trace(&mut guest.store, guest.instance)).await;
        let pages =
            pages.map_err(|error| Error::internal("cannot read the guest's pages", error))?;
        let count: u64 = pages.iter().map(|(_, count)| u64::from(*count)).sum();
        Ok(Some(count * rustix::param::page_size() as u64).filter(|bytes| *bytes > 0))
    }

    /// Returns the guest for the next operation.
    pub(crate) fn release(mut self) {
        if let Some(guest) = self.guest.take() {
            self.shared.lifecycle.put_back(guest);
        }
    }

    /// Closes the sandbox after the guest was shut down.
    pub(crate) fn close(mut self) {
        let guest = self.guest.take();
        self.shared.lifecycle.close(Closed::ByOwner);
        drop(guest);
    }

    /// Closes the sandbox because its code did not end after it was interrupted.
    pub(crate) fn give_up(self) {
        self.shared.lifecycle.close(Closed::Interrupted);
    }

    /// Closes the sandbox because the operation left the guest unusable.
    pub(crate) fn fail(self, error: &Error) {
        let first_line = error.to_string().lines().next().unwrap_or_default().to_owned();
        self.shared.lifecycle.close(Closed::Broken(first_line));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.guest.is_some() {
            self.shared.lifecycle.close(Closed::Cancelled);
        }
    }
}
