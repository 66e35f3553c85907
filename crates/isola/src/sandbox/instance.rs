//! The instance of a guest, and its instantiation.

use std::sync::Arc;

use wasmtime::{Store, UpdateDeadline, component::Instance};

#[cfg(target_os = "linux")]
use crate::linear_memory;
use crate::{
    contract,
    cpu::{CpuClock, metered},
    engine::{HeartbeatGuard, engine},
    error::{Error, LimitExceeded},
    guest::{Guest, accessor::Accessor},
    limits::Limits,
    state::GuestState,
    template::LinkedComponent,
};

/// The instance of a guest.
pub(crate) struct GuestInstance {
    pub(crate) store: Store<Guest>,
    pub(crate) instance: Instance,
    pub(crate) exports: contract::Sandbox,
    /// The state that it continues from, until it is started.
    pub(crate) resume_from: Option<(Accessor, Arc<GuestState>)>,
    /// Its memory was that of an earlier guest, whose pages are set back to the image.
    pub(crate) memory_reused: bool,
    /// The same state, kept until the guest is dropped if other sandboxes can share it.
    _shared_state: Option<Arc<GuestState>>,
}

impl GuestInstance {
    /// Instantiates a component and loads a state into it, without running code of
    /// the guest.
    pub(super) async fn new(
        component: &LinkedComponent,
        guest: Guest,
        state: Option<Arc<GuestState>>,
    ) -> Result<Self, Error> {
        let engine = engine()?;
        let (limits, cpu) = (Arc::clone(&guest.limits), Arc::clone(&guest.cpu));
        let mut store = Store::new(engine, guest);
        store.limiter(|guest| &mut guest.memory);
        store.set_hostcall_fuel(limits.max_message());
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut store| {
            store.data_mut().deliver_interrupt();
            if let Some(exceeded) = store.data().cpu.exceeded() {
                return Err(exceeded.into());
            }
            // Lets other tasks of this thread run, and a close or the wall time limit
            // take effect.
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });

        let _heartbeat = HeartbeatGuard::acquire(engine)?;
        cpu.reset(limits.cpu_timeout);
        if let Some(size) = state.as_ref().map(|state| state.image.len())
            && size > limits.max_memory
        {
            return Err(too_little_memory(&limits, size));
        }
        let (instance, memory_reused) =
            instantiate(component, &mut store, state.as_deref(), &cpu).await;
        let refused = store.data_mut().memory.take_refused();
        let instance = instance.map_err(|error| {
            if let Some(exceeded) = error.downcast_ref::<LimitExceeded>() {
                Error::Limit(exceeded.clone())
            } else if refused {
                Error::InvalidArgument(format!(
                    "max_memory of {} bytes is less than the interpreter itself needs",
                    limits.max_memory
                ))
            } else {
                Error::internal("cannot instantiate the interpreter", error)
            }
        })?;
        let exports = component
            .exports
            .load(&mut store, &instance)
            .map_err(|error| Error::internal("cannot load the interpreter's exports", error))?;
        let shared_state = state.clone().filter(|state| state.shared);
        let mut resume_from = None;
        if let (Some(state), Some(accessor)) = (state, &component.accessor) {
            let size = state.image.len();
            resume_from = Some((accessor.clone(), Arc::clone(&state)));
            let loaded = metered(&cpu, accessor.load(&mut store, instance, state)).await;
            store.data_mut().memory.take_refused();
            if !loaded.map_err(|error| Error::internal("cannot restore the state", error))? {
                return Err(too_little_memory(&limits, size));
            }
        }
        Ok(Self {
            store,
            instance,
            exports,
            resume_from,
            memory_reused,
            _shared_state: shared_state,
        })
    }
}

/// Instantiates a component. Its memory begins with that of a state, if there is one. Also
/// reports whether the memory had been used before.
#[cfg(target_os = "linux")]
async fn instantiate(
    component: &LinkedComponent,
    store: &mut Store<Guest>,
    state: Option<&GuestState>,
    cpu: &CpuClock,
) -> (wasmtime::Result<Instance>, bool) {
    let image = state.map_or_else(|| component.fresh.get(), |state| Some(&state.image)).cloned();
    let size = image.as_ref().map_or(0, |image| image.len());
    let work = Box::pin(metered(cpu, component.pre.instantiate_async(&mut *store)));
    let created = linear_memory::create_with(image, component.reuses_memory, work).await;
    store.data().memory.begin_with(size);
    created
}

#[cfg(not(target_os = "linux"))]
async fn instantiate(
    component: &LinkedComponent,
    store: &mut Store<Guest>,
    _: Option<&GuestState>,
    cpu: &CpuClock,
) -> (wasmtime::Result<Instance>, bool) {
    (metered(cpu, component.pre.instantiate_async(store)).await, false)
}

fn too_little_memory(limits: &Limits, size: usize) -> Error {
    Error::InvalidArgument(format!(
        "max_memory of {} bytes is less than the {size} bytes of memory that the interpreter \
         already has",
        limits.max_memory
    ))
}
