//! What the host keeps for one guest: the data of its wasmtime store.

use std::sync::Arc;

use wasmtime::{Result, component::ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView, filesystem::WasiFilesystemCtxView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::{
    cpu::CpuClock,
    error::{Limit, LimitExceeded},
    host::Host,
    hostcalls::Hostcalls,
    limits::Limits,
    memory::MemoryMeter,
    mount::Mount,
    outgoing::Outgoing,
    output::Output,
    permissions::{Files, Granted},
};

pub(crate) struct Guest {
    pub(crate) limits: Arc<Limits>,
    pub(crate) memory: MemoryMeter,
    pub(crate) cpu: Arc<CpuClock>,
    pub(crate) output: Output,
    pub(crate) hostcalls: Hostcalls,
    pub(crate) table: ResourceTable,
    /// The next timer is to be one that hostcalls wake.
    pub(crate) wake_next_timer: bool,
    /// The pollable and the timer behind it, of the last such timer.
    pub(crate) waking_timer: Option<(u32, u32)>,
    pub(crate) outgoing: Outgoing,
    granted: Granted,
    wasi: WasiCtx,
    http: WasiHttpCtx,
}

impl Guest {
    pub(crate) fn new(
        limits: Arc<Limits>,
        host: Arc<dyn Host>,
        output: Output,
        cpu: Arc<CpuClock>,
        mounts: &[Mount],
        wasi: WasiCtx,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.max_handles);
        Self {
            memory: MemoryMeter::new(limits.max_memory),
            cpu,
            output,
            hostcalls: Hostcalls::new(Arc::clone(&host), &limits),
            table,
            wake_next_timer: false,
            waking_timer: None,
            outgoing: Outgoing::new(host, &limits),
            granted: Granted::new(mounts),
            wasi,
            http: WasiHttpCtx::new(),
            limits,
        }
    }

    /// The file system that the guest sees.
    pub(crate) fn files(&mut self) -> Files<'_> {
        Files {
            inner: WasiFilesystemCtxView { ctx: self.wasi.filesystem(), table: &mut self.table },
            granted: &mut self.granted,
        }
    }

    /// Refuses a value that is too large.
    pub(crate) fn check_value(&self, size: usize) -> Result<()> {
        if size > self.limits.max_value_size {
            return Err(LimitExceeded::bytes(Limit::ValueSize, self.limits.max_value_size).into());
        }
        Ok(())
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outgoing, table: &mut self.table, ctx: &mut self.http }
    }
}
