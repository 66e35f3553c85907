//! The WASI interfaces of a guest: clocks, random numbers and mounted directories.

use std::sync::Arc;

use wasmtime::{
    Result, StoreContextMut, bail,
    component::{HasData, Linker, Resource, ResourceTable, Val, types::ComponentFunc},
};
use wasmtime_wasi::{
    WasiView as _,
    cli::{WasiCli, WasiCliView as _},
    clocks::{WasiClocks, WasiClocksView as _},
    p2::{
        DynPollable, Pollable,
        bindings::{
            cli,
            clocks::{monotonic_clock, wall_clock},
            filesystem, io, random, sockets,
        },
        subscribe,
    },
    random::WasiRandom,
    sockets::{WasiSockets, WasiSocketsView as _},
};
use wasmtime_wasi_http::{WasiHttp, WasiHttpView as _, p2::bindings::http};

use crate::{files::Files, guest::Guest, pending::Pending};

/// Links all interfaces that a guest may import.
///
/// Sockets and terminals are linked because CPython's libc imports them, and
/// `wasi:http` because SpiderMonkey's embedding does. Their context denies every
/// address and every request. HTTP requests use the interface of the contract.
pub(crate) fn link(linker: &mut Linker<Guest>) -> Result<()> {
    let l = linker;
    io::error::add_to_linker::<Guest, Table>(l, |guest| &mut guest.table)?;
    io::streams::add_to_linker::<Guest, Table>(l, |guest| &mut guest.table)?;
    io::poll::add_to_linker::<Guest, PollAndClock>(l, |guest| PollAndClockHost(guest))?;
    monotonic_clock::add_to_linker::<Guest, PollAndClock>(l, |guest| PollAndClockHost(guest))?;
    wall_clock::add_to_linker::<Guest, WasiClocks>(l, Guest::clocks)?;
    random::random::add_to_linker::<Guest, WasiRandom>(l, |guest| guest.ctx().ctx.random())?;
    random::insecure::add_to_linker::<Guest, WasiRandom>(l, |guest| guest.ctx().ctx.random())?;
    random::insecure_seed::add_to_linker::<Guest, WasiRandom>(l, |guest| guest.ctx().ctx.random())?;
    filesystem::preopens::add_to_linker::<Guest, Mounted>(l, Guest::files)?;
    filesystem::types::add_to_linker::<Guest, Mounted>(l, Guest::files)?;
    cli::exit::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::environment::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::stdin::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::stdout::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::stderr::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_input::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_output::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_stdin::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_stdout::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_stderr::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    sockets::instance_network::add_to_linker::<Guest, WasiSockets>(l, Guest::sockets)?;
    sockets::network::add_to_linker::<Guest, WasiSockets>(l, &Default::default(), Guest::sockets)?;
    sockets::ip_name_lookup::add_to_linker::<Guest, WasiSockets>(l, Guest::sockets)?;
    sockets::tcp_create_socket::add_to_linker::<Guest, WasiSockets>(l, Guest::sockets)?;
    sockets::tcp::add_to_linker::<Guest, WasiSockets>(l, Guest::sockets)?;
    sockets::udp_create_socket::add_to_linker::<Guest, WasiSockets>(l, Guest::sockets)?;
    sockets::udp::add_to_linker::<Guest, WasiSockets>(l, Guest::sockets)?;
    http::outgoing_handler::add_to_linker::<Guest, WasiHttp>(l, Guest::http)?;
    http::types::add_to_linker::<Guest, WasiHttp>(l, &Default::default(), Guest::http)?;
    deny_http(l)
}

/// Makes the constructors of `wasi:http` trap.
///
/// Their resources would take host memory that no limit counts: request targets
/// and header fields of any length, body chunks of a megabyte. No interpreter
/// calls them, and all other resources of the interface are created from these.
fn deny_http(linker: &mut Linker<Guest>) -> Result<()> {
    for name in HTTP_CONSTRUCTORS {
        let refuse = |_: StoreContextMut<'_, Guest>, _: ComponentFunc, _: &[Val], _: &mut [Val]| {
            bail!("wasi:http is not available: use isola's `fetch`")
        };
        // Defining an existing function again fails unless shadowing is allowed.
        if linker.instance(HTTP_TYPES)?.func_new(name, refuse).is_ok() {
            bail!("{HTTP_TYPES} has no {name} to replace");
        }
        linker.allow_shadowing(true);
        linker.instance(HTTP_TYPES)?.func_new(name, refuse)?;
        linker.allow_shadowing(false);
    }
    Ok(())
}

/// The name of the interface as the linked crate defines it.
const HTTP_TYPES: &str = "wasi:http/types@0.2.12";

const HTTP_CONSTRUCTORS: [&str; 5] = [
    "[constructor]fields",
    "[static]fields.from-list",
    "[constructor]outgoing-request",
    "[constructor]outgoing-response",
    "[constructor]request-options",
];

struct Table;

impl HasData for Table {
    type Data<'a> = &'a mut ResourceTable;
}

/// The file system, within the permissions of its mounts.
struct Mounted;

impl HasData for Mounted {
    type Data<'a> = Files<'a>;
}

/// The interfaces for waiting, `wasi:io/poll` and `wasi:clocks/monotonic-clock`,
/// with an addition to WASI: a timer that also fires when a hostcall completes. See
/// `wake-next-timer` in the contract.
struct PollAndClock;

impl HasData for PollAndClock {
    type Data<'a> = PollAndClockHost<'a>;
}

/// The implementation of [`PollAndClock`] for a guest.
struct PollAndClockHost<'a>(&'a mut Guest);

/// The delay in nanoseconds from which on a waking timer has no deadline.
/// `setTimeout` permits twice as much, which allows for the time between its
/// reading of the clock and its subscription.
const NO_DEADLINE_NANOS: u64 = (1 << 30) * 1_000_000;

/// A timer that also fires when a hostcall completes.
struct WakingTimer {
    arrival: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
    deadline: Option<tokio::time::Instant>,
    /// It has fired, or can no longer fire.
    done: bool,
}

#[async_trait::async_trait]
impl Pollable for WakingTimer {
    async fn ready(&mut self) {
        if self.done {
            return;
        }
        match self.deadline {
            Some(deadline) => {
                let _ = tokio::time::timeout_at(deadline, &mut self.arrival).await;
            }
            None => (&mut self.arrival).await,
        }
        self.done = true;
    }
}

impl PollAndClockHost<'_> {
    fn subscribe_waking(&mut self, nanos: u64) -> Result<Resource<DynPollable>> {
        let deadline = (nanos < NO_DEADLINE_NANOS)
            .then(|| tokio::time::Instant::now() + std::time::Duration::from_nanos(nanos));
        let arrival = Box::pin(Pending::wait_for_completion(&self.0.pending));
        let timer = self.0.table.push(WakingTimer { arrival, deadline, done: false })?;
        let index = timer.rep();
        let pollable = subscribe(&mut self.0.table, timer)?;
        self.0.waking_timer = Some((pollable.rep(), index));
        Ok(pollable)
    }

    /// Ends a wait that would never return: the guest waits only for a waking timer
    /// without a deadline, and no hostcall is pending.
    fn end_deadlocked_wait(&mut self, pollables: &[Resource<DynPollable>]) -> Result<()> {
        let Some((pollable, timer)) = self.0.waking_timer else { return Ok(()) };
        let alone = pollables.iter().all(|waited| waited.rep() == pollable);
        if alone && self.0.pending.is_idle() {
            let timer = self.0.table.get_mut(&Resource::<WakingTimer>::new_borrow(timer))?;
            timer.done |= timer.deadline.is_none();
        }
        Ok(())
    }
}

impl monotonic_clock::Host for PollAndClockHost<'_> {
    fn now(&mut self) -> Result<u64> {
        self.0.clocks().now()
    }

    fn resolution(&mut self) -> Result<u64> {
        self.0.clocks().resolution()
    }

    fn subscribe_instant(&mut self, when: u64) -> Result<Resource<DynPollable>> {
        if std::mem::take(&mut self.0.wake_next_timer) {
            let now = self.0.clocks().now()?;
            return self.subscribe_waking(when.saturating_sub(now));
        }
        self.0.clocks().subscribe_instant(when)
    }

    fn subscribe_duration(&mut self, nanos: u64) -> Result<Resource<DynPollable>> {
        if std::mem::take(&mut self.0.wake_next_timer) {
            return self.subscribe_waking(nanos);
        }
        self.0.clocks().subscribe_duration(nanos)
    }
}

impl io::poll::Host for PollAndClockHost<'_> {
    async fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> Result<Vec<u32>> {
        self.end_deadlocked_wait(&pollables)?;
        let interrupt = Arc::clone(&self.0.interrupt);
        let last = u32::try_from(pollables.len()).unwrap_or(u32::MAX).saturating_sub(1);
        let ready = tokio::select! {
            biased;
            ready = io::poll::Host::poll(&mut self.0.table, pollables) => ready,
            // Guests wait for the timer last.
            () = interrupt.arrived() => Ok(vec![last]),
        };
        self.0.deliver_interrupt();
        ready
    }
}

impl io::poll::HostPollable for PollAndClockHost<'_> {
    async fn block(&mut self, pollable: Resource<DynPollable>) -> Result<()> {
        self.end_deadlocked_wait(&[Resource::new_borrow(pollable.rep())])?;
        let interrupt = Arc::clone(&self.0.interrupt);
        let done = tokio::select! {
            biased;
            done = io::poll::HostPollable::block(&mut self.0.table, pollable) => done,
            () = interrupt.arrived() => Ok(()),
        };
        self.0.deliver_interrupt();
        done
    }

    async fn ready(&mut self, pollable: Resource<DynPollable>) -> Result<bool> {
        io::poll::HostPollable::ready(&mut self.0.table, pollable).await
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> Result<()> {
        if self.0.waking_timer.is_some_and(|(rep, _)| rep == pollable.rep()) {
            self.0.waking_timer = None;
        }
        io::poll::HostPollable::drop(&mut self.0.table, pollable)
    }
}
