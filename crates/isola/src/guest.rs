//! The host's state for one guest, the data of its wasmtime store; and the functions
//! that the guest calls.

use std::sync::Arc;

use wasmtime::{Result, component::ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::{
    cpu::CpuClock,
    error::{Limit, LimitExceeded},
    files::{Files, GuestFiles, Tree},
    host::Host,
    interrupt::{Delivery, Interrupt},
    limits::Limits,
    memory::MemoryMeter,
    output::Output,
    pending::Pending,
    state::Transfer,
};

pub(crate) mod accessor;
mod imports;

/// The data of a guest's wasmtime store.
pub(crate) struct Guest {
    pub(crate) limits: Arc<Limits>,
    pub(crate) memory: MemoryMeter,
    pub(crate) cpu: Arc<CpuClock>,
    pub(crate) output: Output,
    pub(crate) pending: Pending,
    pub(crate) table: ResourceTable,
    /// The next timer becomes ready early, with a completion.
    pub(crate) wake_next_timer: bool,
    /// The table indices of the last such timer: of its pollable, and of the timer itself.
    pub(crate) waking_timer: Option<(u32, u32)>,
    /// Interruption of the code that it runs, and its delivery.
    pub(crate) interrupt: Arc<Interrupt>,
    pub(crate) delivery: Delivery,
    /// The current use of its accessor.
    pub(crate) transfer: Transfer,
    files: GuestFiles,
    deny_http: DenyHttp,
    wasi: WasiCtx,
    http: WasiHttpCtx,
}

impl Guest {
    pub(crate) fn new(
        limits: Arc<Limits>,
        host: Arc<dyn Host>,
        output: Output,
        cpu: Arc<CpuClock>,
        interrupt: Arc<Interrupt>,
        files: GuestFiles,
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
            interrupt,
            delivery: Delivery::default(),
            transfer: Transfer::Idle,
            files,
            deny_http: DenyHttp,
            wasi,
            http: WasiHttpCtx::new(),
            limits,
        }
    }

    /// Returns the file system of the guest.
    pub(crate) fn files(&mut self) -> Files<'_> {
        Files { table: &mut self.table, files: &mut self.files }
    }

    /// Returns a copy of its private files; `None` if it has none.
    pub(crate) fn copy_files(&self) -> Option<Tree> {
        self.files.private().copy()
    }

    /// Returns the paths, in the guest, of the files and directories that it has open.
    pub(crate) fn open_files(&self) -> Vec<String> {
        self.files.names()
    }

    /// Returns the root and mounted directories that its libc has a handle of.
    pub(crate) fn open_mounts(&self) -> Vec<String> {
        self.files.directories()
    }

    /// Sets the bits by which its code is interrupted, if that is requested. Must be
    /// called while the guest is suspended, on the thread that runs it.
    pub(crate) fn deliver_interrupt(&mut self) {
        if self.interrupt.is_undelivered() && self.delivery.deliver() {
            self.interrupt.set_delivered();
        }
    }

    /// Returns an error if a value is larger than the limit.
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
        WasiHttpCtxView { hooks: &mut self.deny_http, table: &mut self.table, ctx: &mut self.http }
    }
}

/// The hooks of `wasi:http`, which deny every request.
struct DenyHttp;

type Io = Box<dyn Future<Output = wasmtime_wasi_http::Result<()>> + Send>;

impl WasiHttpHooks for DenyHttp {
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
