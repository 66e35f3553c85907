//! Saves the state of an idle guest and loads it into another, through the functions
//! that `instrument` added to its component.

use std::sync::{Arc, OnceLock, atomic::AtomicBool};

use wasmtime::{
    Result as WasmResult, Store, StoreContextMut, bail,
    component::{Component, ComponentExportIndex, Instance, Linker, WasmList},
};
use wasmtime_wasi::{
    clocks::WasiClocksView as _,
    p2::{
        DynInputStream, DynOutputStream, DynPollable, bindings::clocks::monotonic_clock::Host as _,
    },
};

use super::Guest;
use crate::{
    error::Error,
    files::{Handle, PrivateHandle},
    instrument,
    interrupt::GuestMemory,
    linear_memory::{PageRange, image::ImageWriter},
    state::{GuestState, Transfer, map},
};

/// The functions that instrumentation added to a component.
#[derive(Clone)]
pub(crate) struct Accessor {
    save: ComponentExportIndex,
    load: ComponentExportIndex,
    release_handles: ComponentExportIndex,
}

/// The granularity of a guest's memory, in bytes.
const WASM_PAGE_BYTES: usize = 64 << 10;

impl Accessor {
    /// Returns the accessor of a component, or `None` if it was not instrumented.
    pub(crate) fn of(component: &Component) -> Option<Self> {
        let find = |name| component.get_export_index(None, name);
        Some(Self {
            save: find(instrument::SAVE)?,
            load: find(instrument::LOAD)?,
            release_handles: find(instrument::RELEASE_HANDLES)?,
        })
    }

    /// Saves the state of a guest that runs no call.
    pub(crate) async fn save(
        &self,
        store: &mut Store<Guest>,
        instance: Instance,
    ) -> Result<GuestState, Error> {
        let failed = |error| Error::internal("reading the guest's state", error);
        // Checked before libc releases its handles, because that closes files as well.
        if let Some(open) = open_handles(store.data_mut(), false) {
            return Err(handles_open(&open));
        }
        let release_handles = instance
            .get_typed_func::<(), ()>(&mut *store, &self.release_handles)
            .map_err(failed)?;
        release_handles.call_async(&mut *store, ()).await.map_err(failed)?;
        if let Some(open) = open_handles(store.data_mut(), true) {
            return Err(handles_open(&open));
        }
        let purpose = Transfer::Saving { globals: Vec::new(), image: None };
        let transfer = self.transfer(store, instance, purpose).await.map_err(failed)?;
        let monotonic = store.data_mut().clocks().now().map_err(failed)?;
        match transfer {
            Transfer::Saving { globals, image: Some(image) } => Ok(GuestState {
                image: Arc::new(image),
                files: store.data().copy_files(),
                globals,
                monotonic,
                hot_pages: OnceLock::new(),
                resumed: AtomicBool::new(false),
                shared: false,
            }),
            _ => Err(Error::bug("the guest did not report its state")),
        }
    }

    /// Returns the pages that a guest has written since it continued from a state.
    pub(crate) async fn trace(
        &self,
        store: &mut Store<Guest>,
        instance: Instance,
    ) -> WasmResult<Vec<PageRange>> {
        match self.transfer(store, instance, Transfer::Tracing(Vec::new())).await? {
            Transfer::Tracing(pages) => Ok(pages),
            _ => bail!("the guest did not report its memory"),
        }
    }

    /// Copies the pages that a guest which continues from a state is expected to write.
    pub(crate) async fn populate(
        &self,
        store: &mut Store<Guest>,
        instance: Instance,
        state: Arc<GuestState>,
    ) -> WasmResult<()> {
        if state.hot_pages.get().is_some_and(|hot| !hot.is_empty()) {
            self.transfer(store, instance, Transfer::Populating(state)).await?;
        }
        Ok(())
    }

    /// Keeps the address of a guest's memory, for interrupts.
    pub(crate) async fn locate(
        &self,
        store: &mut Store<Guest>,
        instance: Instance,
    ) -> WasmResult<()> {
        self.transfer(store, instance, Transfer::Locating).await.map(drop)
    }

    /// Calls the accessor, which passes the guest's globals and memory to the host, for
    /// a purpose.
    async fn transfer(
        &self,
        store: &mut Store<Guest>,
        instance: Instance,
        purpose: Transfer,
    ) -> WasmResult<Transfer> {
        let save = instance.get_typed_func::<(), ()>(&mut *store, &self.save)?;
        store.data_mut().transfer = purpose;
        // The fuel limits what guest code passes to the host, but this call is ours.
        let fuel = store.hostcall_fuel();
        store.set_hostcall_fuel(usize::MAX);
        let result = save.call_async(&mut *store, ()).await;
        store.set_hostcall_fuel(fuel);
        let transfer = std::mem::take(&mut store.data_mut().transfer);
        result.map(|()| transfer)
    }

    /// Loads a state into a newly created guest of the same component. Returns
    /// `false` if its memory limit is too low.
    pub(crate) async fn load(
        &self,
        store: &mut Store<Guest>,
        instance: Instance,
        state: Arc<GuestState>,
    ) -> WasmResult<bool> {
        let load = instance.get_typed_func::<(u32,), (bool,)>(&mut *store, &self.load)?;
        let pages = u32::try_from(state.image.len() / WASM_PAGE_BYTES)?;
        let fuel = store.hostcall_fuel();
        store.set_hostcall_fuel(usize::MAX);
        store.data_mut().transfer = Transfer::Loading(state);
        let loaded = load.call_async(&mut *store, (pages,)).await;
        store.data_mut().transfer = Transfer::Idle;
        store.set_hostcall_fuel(fuel);
        Ok(loaded?.0)
    }
}

/// Links the functions that accessors import.
pub(crate) fn link(linker: &mut Linker<Guest>) -> WasmResult<()> {
    let mut root = linker.root();
    root.func_wrap_async(
        instrument::MEMORY,
        |mut store: StoreContextMut<'_, Guest>, (memory,): (WasmList<u8>,)| {
            Box::new(async move {
                let purpose = std::mem::take(&mut store.data_mut().transfer);
                let transfer = handle_memory(&mut store, &memory, purpose).await?;
                store.data_mut().transfer = transfer;
                Ok(())
            })
        },
    )?;
    root.func_wrap(
        instrument::READ_GLOBAL,
        |mut store: StoreContextMut<'_, Guest>, (_, bits): (u32, u64)| {
            match &mut store.data_mut().transfer {
                Transfer::Saving { globals, .. } => globals.push(bits),
                Transfer::Tracing(_) | Transfer::Populating(_) | Transfer::Locating => {}
                _ => bail!("a global was passed, but no state is being saved"),
            }
            Ok(())
        },
    )?;
    root.func_wrap(
        instrument::WRITE_GLOBAL,
        |store: StoreContextMut<'_, Guest>, (index,): (u32,)| match &store.data().transfer {
            Transfer::Loading(state) => match state.globals.get(index as usize) {
                Some(bits) => Ok((*bits,)),
                None => bail!("the state has no global {index}"),
            },
            _ => bail!("a global was requested, but no state is being loaded"),
        },
    )?;
    Ok(())
}

/// Saves, loads, traces or populates a guest's memory, depending on the purpose.
async fn handle_memory(
    store: &mut StoreContextMut<'_, Guest>,
    memory: &WasmList<u8>,
    purpose: Transfer,
) -> WasmResult<Transfer> {
    Ok(match purpose {
        Transfer::Saving { globals, .. } => {
            let len = memory.as_le_slice(&*store).len();
            let mut image = ImageWriter::new(len)?;
            for from in (0..len).step_by(COPY_CHUNK_BYTES) {
                let part = &memory.as_le_slice(&*store)[from..len.min(from + COPY_CHUNK_BYTES)];
                image.copy(from, part)?;
                // Lets other tasks of this thread run.
                tokio::task::yield_now().await;
            }
            Transfer::Saving { globals, image: Some(image.finish()?) }
        }
        Transfer::Loading(state) => {
            map::fill(store, memory, &state.image)?;
            Transfer::Loading(state)
        }
        Transfer::Tracing(_) => Transfer::Tracing(map::written(store, memory)),
        Transfer::Populating(state) => {
            map::populate(store, memory, state.hot_pages.get().map_or(&[], Vec::as_slice));
            Transfer::Populating(state)
        }
        Transfer::Locating => {
            let memory = GuestMemory::of(memory.as_le_slice(&*store));
            store.data_mut().delivery.memory = Some(memory);
            Transfer::Locating
        }
        Transfer::Idle => bail!("the memory was passed, but no transfer is in progress"),
    })
}

/// The number of bytes that are copied before the task yields, which takes one or
/// two milliseconds.
const COPY_CHUNK_BYTES: usize = 4 << 20;

/// Returns the error for a guest that cannot be copied because of open handles.
fn handles_open(open: &str) -> Error {
    Error::SnapshotRefused(format!(
        "the guest cannot be copied while it has {open} open: close it first"
    ))
}

/// Returns the names of the handles that a guest has open, or `None` if there are
/// none. Mounted directories and streams, of which libc keeps those of standard
/// output, are included only if `everything` is set. (The stream of a file is open
/// only together with the file.)
fn open_handles(guest: &mut Guest, everything: bool) -> Option<String> {
    let mut names = guest.open_files();
    if everything {
        names.extend(guest.open_mounts());
    }
    for entry in guest.table.iter_mut() {
        if entry.is::<Handle>() || entry.is::<PrivateHandle>() {
            continue; // It has a name.
        }
        let name = if entry.is::<DynInputStream>() || entry.is::<DynOutputStream>() {
            if !everything {
                continue;
            }
            "a stream"
        } else if entry.is::<DynPollable>() {
            "a timer or another pollable"
        } else {
            "a handle of the host"
        };
        names.push(name.to_owned());
    }
    names.dedup();
    names.truncate(MAX_NAMED_HANDLES);
    (!names.is_empty()).then(|| names.join(", "))
}

/// The largest number of handles that an error names.
const MAX_NAMED_HANDLES: usize = 5;
