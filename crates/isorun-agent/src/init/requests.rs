//! The request of a connection: the handshake, the request and its reply.

use std::rc::Rc;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::net::TcpStream;
use tokio::time::timeout;

use isorun_agent::code::Code;
use isorun_agent::codec::{CodecError, Frame};
use isorun_agent::protocol::{Configure, Failure, FailureKind, Info, Reply, Request, Welcome};

use super::agent::Agent;
use super::conn::Conn;
use super::contexts::Contexts;
use super::exec::Program;
use super::freezer::until_frozen;
use super::session::Outcome;
use super::sessions::{Session, Sessions};
use super::shell::ShellSession;
use super::{files, forward, hosts};

/// The time limit for a client to send its request, and to acknowledge a freeze.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time that a connection is kept for another cell.
const NEXT_CELL_TIMEOUT: Duration = Duration::from_secs(30);
/// The time limit for a client to read the rest of a reply. A client that is gone
/// has closed its end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(300);

/// Serves a connection to its end. An error ends only this connection.
pub async fn serve(
    agent: &Agent,
    sessions: &Rc<Sessions>,
    contexts: &Rc<Contexts>,
    stream: TcpStream,
) {
    let Ok(mut conn) = Conn::new(stream) else { return };
    let conn = &mut conn;
    let request = match timeout(HANDSHAKE_TIMEOUT, handshake(conn)).await {
        Ok(Ok(Some(request))) => request,
        _ => return,
    };
    if request != Request::Freeze {
        agent.freezer.thaw();
    }
    let outcome = match request {
        Request::Exec(request) => {
            let program = Program::start(agent, &request);
            sessions.serve(program.map(Session::from), conn).await.map(drop)
        }
        Request::Shell(request) => {
            let shell = ShellSession::start(agent, &request).await;
            sessions.serve(shell.map(Session::from), conn).await.map(drop)
        }
        Request::Code(request) => {
            return serve_cells(agent, sessions, contexts, conn, request).await;
        }
        Request::Contexts => conn.reply(Ok(contexts.list())).await,
        Request::CreateContext(new) => {
            let outcome = tokio::select! {
                outcome = contexts.create(new) => outcome,
                () = conn.drain() => return,
            };
            conn.reply(outcome).await
        }
        Request::RestartContext { id } => {
            let outcome = tokio::select! {
                outcome = contexts.restart(&id) => outcome,
                () = conn.drain() => return,
            };
            conn.reply(outcome).await
        }
        Request::InterruptContext { id } => conn.reply(contexts.interrupt(&id)).await,
        Request::RemoveContext { id } => conn.reply(contexts.remove(&id).await).await,
        Request::Attach { token } => {
            sessions.serve(sessions.take(&token).await, conn).await.map(drop)
        }
        Request::Freeze => {
            agent.freezer.freeze().await;
            if conn.reply(Ok(Reply::Done)).await.is_ok() {
                // The client closes its end when it has read the reply. The agent's end
                // is closed by a reset, from which the client learns that no connection
                // is left.
                let _ = timeout(HANDSHAKE_TIMEOUT, conn.drain()).await;
            }
            return;
        }
        Request::WriteFile(request) => files::write(&request, conn).await,
        Request::ReadFile { path } => files::read(&path, conn).await,
        Request::List { path } => files::list(&path, conn).await,
        Request::Stat { path } => conn.reply(files::stat(&path)).await,
        Request::MakeDir { path, mode, owner } => {
            conn.reply(files::make_dir(&path, mode, owner.as_deref())).await
        }
        Request::Remove { path } => conn.reply(files::remove(path).await).await,
        Request::Connect { port } => forward::run(port, conn).await,
        Request::Info => conn.reply(Ok(Reply::Info(info(agent)))).await,
        Request::Configure(request) => conn.reply(configure(agent, &request)).await,
    };
    if outcome.is_ok() && conn.writer.shutdown().await.is_ok() {
        // Closing the connection first would discard data that the client has not read
        // yet, possibly megabytes.
        let _ = timeout(DRAIN_TIMEOUT, conn.drain()).await;
    }
}

/// Serves a cell, and further ones on the same connection: connecting takes as long as a
/// short cell. A connection without a cell does not keep a sandbox from being frozen.
async fn serve_cells(
    agent: &Agent,
    sessions: &Rc<Sessions>,
    contexts: &Rc<Contexts>,
    conn: &mut Conn,
    request: Code,
) {
    let mut request = request;
    let mut frozen = agent.freezer.frozen();
    loop {
        // A kernel takes seconds to start. It continues if the connection ends.
        let cell = tokio::select! {
            cell = contexts.run(request) => cell,
            () = conn.drain() => return,
        };
        match sessions.serve(cell.map(Session::from), conn).await {
            Ok(Outcome::Finished) => {}
            Ok(Outcome::Detached) | Err(_) => return,
        }
        request = tokio::select! {
            frame = timeout(NEXT_CELL_TIMEOUT, conn.reader.next()) => match frame {
                Ok(Ok(Some(Frame::Request(Request::Code(next))))) => next,
                // The client has closed it, or does not use it.
                _ => return,
            },
            () = until_frozen(Some(&mut frozen)) => return,
        };
    }
}

/// Agrees on a version and reads the request. Returns `None` if the client was
/// refused.
async fn handshake(conn: &mut Conn) -> Result<Option<Request>, CodecError> {
    let Some(Frame::Hello(hello)) = conn.reader.next().await? else { return Ok(None) };
    let Some(version) = hello.common() else {
        let failure = Failure {
            kind: FailureKind::Version,
            message: format!(
                "the agent speaks versions {} to {} of the protocol, the client {} to {}",
                isorun_agent::protocol::OLDEST_VERSION,
                isorun_agent::protocol::VERSION,
                hello.oldest,
                hello.newest
            ),
        };
        conn.fail(failure).await?;
        return Ok(None);
    };
    conn.writer.queue(&Frame::Welcome(Welcome { version, agent: agent_version() }))?;
    match conn.reader.next().await {
        Ok(Some(Frame::Request(request))) => Ok(Some(request)),
        Err(CodecError::Payload { source, .. }) => {
            let message = format!("the agent does not understand the request: {source}");
            let failure = Failure { kind: FailureKind::Invalid, message };
            conn.fail(failure).await?;
            Ok(None)
        }
        _ => Ok(None),
    }
}

fn info(agent: &Agent) -> Info {
    let processes = std::fs::read_dir("/proc").map_or(0, |names| {
        names
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
            .count()
    });
    let disk_used = rustix::fs::statvfs("/")
        .map_or(0, |fs| (fs.f_blocks.saturating_sub(fs.f_bfree)) * fs.f_frsize);
    Info {
        agent: agent_version(),
        execs: agent.execs.get(),
        processes: u32::try_from(processes).unwrap_or(u32::MAX),
        pids: agent.cgroups.count(),
        disk_used,
    }
}

fn configure(agent: &Agent, request: &Configure) -> Result<Reply, Failure> {
    let failed = |what: &str, error: std::io::Error| Failure {
        kind: FailureKind::Other,
        message: format!("cannot set {what}: {error}"),
    };
    if let Some(hostname) = &request.hostname {
        rustix::system::sethostname(hostname.as_bytes())
            .map_err(|error| failed("the host name", error.into()))?;
        match hosts::set(hostname) {
            // After a restore, `/etc` may be in any state that the guest left it in.
            Err(_) if request.restored => {}
            outcome => outcome.map_err(|error| failed("/etc/hosts", error))?,
        }
    }
    if let Some(pids) = request.pids {
        agent.cgroups.limit(pids).map_err(|error| failed("the limit of processes", error))?;
    }
    if let Some(vcpus) = request.vcpus {
        limit_cpus(vcpus).map_err(|error| failed("the number of CPUs", error))?;
    }
    if let Some(nameserver) = request.nameserver {
        set_nameserver(nameserver).map_err(|error| failed("the resolver", error))?;
    }
    if request.restored {
        agent.restores.set(agent.restores.get() + 1);
        // The content of this file differs after each restore, for programs that need
        // to detect one.
        if let Err(error) = write_instance_file(request.hostname.as_deref().unwrap_or_default()) {
            return Err(failed("the instance number", error));
        }
    }
    Ok(Reply::Done)
}

/// Restricts this process and the processes that it starts from now on to the first
/// CPUs.
fn limit_cpus(count: u32) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in 0..(count as usize).min(CpuSet::MAX_CPU) {
        set.set(cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// Replaces `/etc/resolv.conf`, which may be a dangling link.
fn set_nameserver(nameserver: std::net::Ipv4Addr) -> std::io::Result<()> {
    std::fs::create_dir_all("/etc")?;
    let text = format!("nameserver {nameserver}\n");
    files::replace("/etc/resolv.conf".as_ref(), text.as_bytes())
}

/// Writes `/run/isorun/instance`: the sandbox's name, and a number that differs
/// after each restore.
fn write_instance_file(name: &str) -> std::io::Result<()> {
    let dir = std::path::Path::new("/run/isorun");
    std::fs::create_dir_all(dir)?;
    let mut number = [0; 8];
    rustix::rand::getrandom(&mut number, rustix::rand::GetRandomFlags::empty())?;
    let text = format!("{name} {:016x}\n", u64::from_le_bytes(number));
    files::replace(&dir.join("instance"), text.as_bytes())
}

fn agent_version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
