//! What the host keeps for one guest: the data of its wasmtime store.

use std::sync::Arc;

use wasmtime::{Result, component::ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::{
    cpu::CpuClock,
    error::{Limit, LimitExceeded},
    files::{Files, MountedFiles},
    host::Host,
    limits::Limits,
    memory::MemoryMeter,
    output::Output,
    pending::Pending,
    snapshot::state::Transfer,
};

pub(crate) struct Guest {
    pub(crate) limits: Arc<Limits>,
    pub(crate) memory: MemoryMeter,
    pub(crate) cpu: Arc<CpuClock>,
    pub(crate) output: Output,
    pub(crate) pending: Pending,
    pub(crate) table: ResourceTable,
    /// The next timer is to be one that hostcalls wake.
    pub(crate) wake_next_timer: bool,
    /// The pollable and the timer behind it, of the last such timer.
    pub(crate) waking_timer: Option<(u32, u32)>,
    /// What its accessor is being used for.
    pub(crate) transfer: Transfer,
    mounted: MountedFiles,
    no_requests: NoRequests,
    wasi: WasiCtx,
    http: WasiHttpCtx,
}

impl Guest {
    pub(crate) fn new(
        limits: Arc<Limits>,
        host: Arc<dyn Host>,
        output: Output,
        cpu: Arc<CpuClock>,
        mounted: MountedFiles,
        wasi: WasiCtx,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.max_handles);
        Self {
            memory: MemoryMeter::new(limits.max_memory),
            cpu,
            output,
            pending: Pending::new(host, Arc::clone(&limits)),
            table,
            wake_next_timer: false,
            waking_timer: None,
            transfer: Transfer::Idle,
            mounted,
            no_requests: NoRequests,
            wasi,
            http: WasiHttpCtx::new(),
            limits,
        }
    }

    /// The file system that the guest sees.
    pub(crate) fn files(&mut self) -> Files<'_> {
        Files { table: &mut self.table, mounted: &mut self.mounted }
    }

    /// The files and folders that it has opened, by the guest's own names.
    pub(crate) fn open_files(&self) -> Vec<String> {
        self.mounted.names()
    }

    /// The mounted folders that its libc has a handle of.
    pub(crate) fn open_mounts(&self) -> Vec<String> {
        self.mounted.directories()
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
        WasiHttpCtxView {
            hooks: &mut self.no_requests,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

/// What is behind `wasi:http`: nothing.
struct NoRequests;

type Io = Box<dyn Future<Output = wasmtime_wasi_http::Result<()>> + Send>;

impl WasiHttpHooks for NoRequests {
    fn send_request(
        &mut self,
        _: ::http::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Io,
    ) -> Box<dyn Future<Output = wasmtime_wasi_http::Result<(::http::Response<WasiBody>, Io)>> + Send>
    {
        Box::new(async { Err(wasmtime_wasi_http::Error::HttpRequestDenied) })
    }
}
