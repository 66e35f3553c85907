//! Takes the state of an idle guest, and puts it into another.

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

use super::{
    image::{Image, Writer},
    instrument,
    map::{self, Pages},
};
use crate::{
    error::Error,
    files::{Above, Handle},
    guest::Guest,
};

/// The state of a guest.
pub(crate) struct State {
    pub(crate) image: Image,
    /// The bits of each global, in the accessor's order.
    pub(crate) globals: Vec<u64>,
    /// What the guest's monotonic clock said. It goes on from there.
    pub(crate) monotonic: u64,
    /// The guest has the helper of `evaluate`.
    pub(crate) evaluates: bool,
    /// The pages that guests write as soon as they go on from here.
    pub(crate) hot: OnceLock<Vec<Pages>>,
    /// Whether a guest goes on from here already.
    pub(crate) used: AtomicBool,
    /// Others can have it, as long as a sandbox keeps it.
    pub(crate) shared: bool,
}

/// What the accessor of a guest is there for, at the moment.
#[derive(Default)]
pub(crate) enum Transfer {
    /// Nothing: nobody calls it.
    #[default]
    Idle,
    /// The guest tells its state.
    Saving { globals: Vec<u64>, image: Option<Image> },
    /// The guest is told a state.
    Loading(Arc<State>),
    /// The guest shows which pages it has written.
    Tracing(Vec<Pages>),
    /// The guest gets the pages that it will write.
    Populating(Arc<State>),
}

/// The functions of a component that was instrumented.
#[derive(Clone)]
pub(crate) struct Accessor {
    save: ComponentExportIndex,
    load: ComponentExportIndex,
    settle: ComponentExportIndex,
}

const PAGE: usize = 64 << 10;

impl Accessor {
    /// `None` if the component was not instrumented.
    pub(crate) fn of(component: &Component) -> Option<Self> {
        let find = |name| component.get_export_index(None, name);
        Some(Self {
            save: find(instrument::SAVE)?,
            load: find(instrument::LOAD)?,
            settle: find(instrument::SETTLE)?,
        })
    }

    /// Takes the state of a guest that is between two calls.
    pub(crate) async fn save(
        &self,
        store: &mut Store<Guest>,
        instance: Instance,
        evaluates: bool,
    ) -> Result<State, Error> {
        let broken = |error| Error::internal("reading the guest's state", error);
        // Before libc lets go: it would close files as well.
        if let Some(open) = open_handles(store.data_mut(), false) {
            return Err(refused(&open));
        }
        let settle =
            instance.get_typed_func::<(), ()>(&mut *store, &self.settle).map_err(broken)?;
        settle.call_async(&mut *store, ()).await.map_err(broken)?;
        if let Some(open) = open_handles(store.data_mut(), true) {
            return Err(refused(&open));
        }
        let purpose = Transfer::Saving { globals: Vec::new(), image: None };
        let transfer = self.reach(store, instance, purpose).await.map_err(broken)?;
        let monotonic = store.data_mut().clocks().now().map_err(broken)?;
        match transfer {
            Transfer::Saving { globals, image: Some(image) } => Ok(State {
                image,
                globals,
                monotonic,
                evaluates,
                hot: OnceLock::new(),
                used: AtomicBool::new(false),
                shared: false,
            }),
            _ => Err(Error::bug("the guest did not tell its state")),
        }
    }

    /// The pages that a guest has written since it went on from a state.
    pub(crate) async fn trace(
        &self,
        store: &mut Store<Guest>,
        instance: Instance,
    ) -> WasmResult<Vec<Pages>> {
        match self.reach(store, instance, Transfer::Tracing(Vec::new())).await? {
            Transfer::Tracing(pages) => Ok(pages),
            _ => bail!("the guest did not show its memory"),
        }
    }

    /// Gives a guest that goes on from a state the pages that it will write.
    pub(crate) async fn populate(
        &self,
        store: &mut Store<Guest>,
        instance: Instance,
        state: Arc<State>,
    ) -> WasmResult<()> {
        if state.hot.get().is_some_and(|hot| !hot.is_empty()) {
            self.reach(store, instance, Transfer::Populating(state)).await?;
        }
        Ok(())
    }

    /// Has the guest hand over its memory, for a purpose.
    async fn reach(
        &self,
        store: &mut Store<Guest>,
        instance: Instance,
        purpose: Transfer,
    ) -> WasmResult<Transfer> {
        let save = instance.get_typed_func::<(), ()>(&mut *store, &self.save)?;
        store.data_mut().transfer = purpose;
        // The fuel is for what a guest hands over; this is what we ask for.
        let fuel = store.hostcall_fuel();
        store.set_hostcall_fuel(usize::MAX);
        let reached = save.call_async(&mut *store, ()).await;
        store.set_hostcall_fuel(fuel);
        let transfer = std::mem::take(&mut store.data_mut().transfer);
        reached.map(|()| transfer)
    }

    /// Puts a state into a fresh guest of the same component. `false` if its
    /// memory limit is too low for it.
    pub(crate) async fn load(
        &self,
        store: &mut Store<Guest>,
        instance: Instance,
        state: Arc<State>,
    ) -> WasmResult<bool> {
        let load = instance.get_typed_func::<(u32,), (bool,)>(&mut *store, &self.load)?;
        let pages = u32::try_from(state.image.len() / PAGE)?;
        let fuel = store.hostcall_fuel();
        store.set_hostcall_fuel(usize::MAX);
        store.data_mut().transfer = Transfer::Loading(state);
        let loaded = load.call_async(&mut *store, (pages,)).await;
        store.data_mut().transfer = Transfer::Idle;
        store.set_hostcall_fuel(fuel);
        Ok(loaded?.0)
    }
}

/// Links what accessors call.
pub(crate) fn link(linker: &mut Linker<Guest>) -> WasmResult<()> {
    let mut root = linker.root();
    root.func_wrap_async(
        instrument::MEMORY,
        |mut store: StoreContextMut<'_, Guest>, (memory,): (WasmList<u8>,)| {
            Box::new(async move {
                let purpose = std::mem::take(&mut store.data_mut().transfer);
                let transfer = serve(&mut store, &memory, purpose).await?;
                store.data_mut().transfer = transfer;
                Ok(())
            })
        },
    )?;
    root.func_wrap(
        instrument::SEEN,
        |mut store: StoreContextMut<'_, Guest>, (_, bits): (u32, u64)| {
            match &mut store.data_mut().transfer {
                Transfer::Saving { globals, .. } => globals.push(bits),
                Transfer::Tracing(_) | Transfer::Populating(_) => {}
                _ => bail!("nobody asked for the guest's globals"),
            }
            Ok(())
        },
    )?;
    root.func_wrap(instrument::WANTED, |store: StoreContextMut<'_, Guest>, (index,): (u32,)| {
        match &store.data().transfer {
            Transfer::Loading(state) => match state.globals.get(index as usize) {
                Some(bits) => Ok((*bits,)),
                None => bail!("the state has no global {index}"),
            },
            _ => bail!("nobody gave the guest a state"),
        }
    })?;
    Ok(())
}

/// Does with a guest's memory what it was handed over for.
async fn serve(
    store: &mut StoreContextMut<'_, Guest>,
    memory: &WasmList<u8>,
    purpose: Transfer,
) -> WasmResult<Transfer> {
    Ok(match purpose {
        Transfer::Saving { globals, .. } => {
            let len = memory.as_le_slice(&*store).len();
            let mut image = Writer::new(len)?;
            for from in (0..len).step_by(AT_ONCE) {
                let part = &memory.as_le_slice(&*store)[from..len.min(from + AT_ONCE)];
                image.copy(from, part)?;
                // The guest waits. Others on this thread need not.
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
            map::populate(store, memory, state.hot.get().map_or(&[], Vec::as_slice));
            Transfer::Populating(state)
        }
        Transfer::Idle => bail!("nobody asked for the guest's memory"),
    })
}

/// So much is copied before others get their turn: a millisecond or two.
const AT_ONCE: usize = 4 << 20;

fn refused(open: &str) -> Error {
    Error::SnapshotRefused(format!(
        "the guest cannot be copied while it has {open} open: close it first"
    ))
}

/// What a guest has open, for people; `None` if there is nothing. Mounted
/// folders and streams, of which libc keeps those of standard output, count
/// only if everything does. (The stream of a file comes with the file.)
fn open_handles(guest: &mut Guest, everything: bool) -> Option<String> {
    let mut names = guest.open_files();
    if everything {
        names.extend(guest.open_mounts());
    }
    for entry in guest.table.iter_mut() {
        if entry.is::<Handle>() || entry.is::<Above>() {
            continue; // It has a name.
        }
        let name = if entry.is::<DynInputStream>() || entry.is::<DynOutputStream>() {
            if !everything {
                continue;
            }
            "a stream"
        } else if entry.is::<DynPollable>() {
            "a timer or something else to wait for"
        } else {
            "a handle of the host"
        };
        names.push(name.to_owned());
    }
    names.dedup();
    names.truncate(MAX_NAMES);
    (!names.is_empty()).then(|| names.join(", "))
}

/// So many are named.
const MAX_NAMES: usize = 5;
