//! One connection: the handshake, one request and its reply.

use std::rc::Rc;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::time::timeout;

use isorun_agent::codec::{CodecError, Frame, FrameReader, FrameWriter};
use isorun_agent::protocol::{Configure, Failure, FailureKind, Info, Reply, Request, Welcome};

use super::sessions::Session;
use super::{Agent, exec, files, forward, hosts, shell};

/// The time limit for a client to send its request, and to acknowledge a freeze.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit for a client to read the rest of a reply. A client that is gone
/// has closed its end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(300);

/// Serves a connection to its end. An error ends only this connection.
pub async fn serve(agent: &Rc<Agent>, stream: TcpStream) {
    // Closing must reset the connection: one that lingers would make a checkpoint
    // fail.
    if stream.set_nodelay(true).is_err() || stream.set_zero_linger().is_err() {
        return;
    }
    let (reader, writer) = stream.into_split();
    let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
    let request = match timeout(HANDSHAKE_TIMEOUT, handshake(&mut reader, &mut writer)).await {
        Ok(Ok(Some(request))) => request,
        _ => return,
    };
    if request != Request::Freeze {
        agent.sessions.thaw();
    }
    let outcome = match request {
        Request::Shell(request) => shell::run(agent, &request, &mut reader, &mut writer).await,
        Request::Attach { token } => match agent.sessions.take(&token).await {
            Ok(Session::Program(program)) => {
                exec::serve(agent, *program, &mut reader, &mut writer).await
            }
            Ok(Session::Shell(shell)) => {
                shell::serve(agent, *shell, &mut reader, &mut writer).await
            }
            Err(failure) => writer.send(&Frame::Failed(failure)).await,
        },
        Request::Freeze => {
            agent.sessions.freeze().await;
            if send_reply(&mut writer, Ok(Reply::Done)).await.is_ok() {
                // The client closes its end when it has read the reply. The agent's end
                // is closed by a reset, from which the client learns that no connection
                // is left.
                let _ = timeout(HANDSHAKE_TIMEOUT, drain(&mut reader)).await;
            }
            return;
        }
        Request::Exec(request) => exec::run(agent, &request, &mut reader, &mut writer).await,
        Request::WriteFile(request) => files::write(&request, &mut reader, &mut writer).await,
        Request::ReadFile { path } => files::read(&path, &mut writer).await,
        Request::List { path } => files::list(&path, &mut writer).await,
        Request::Stat { path } => send_reply(&mut writer, files::stat(&path)).await,
        Request::MakeDir { path, mode, owner } => {
            send_reply(&mut writer, files::make_dir(&path, mode, owner.as_deref())).await
        }
        Request::Remove { path } => send_reply(&mut writer, files::remove(path).await).await,
        Request::Connect { port } => forward::run(port, &mut reader, &mut writer).await,
        Request::Info => send_reply(&mut writer, Ok(Reply::Info(info(agent)))).await,
        Request::Configure(request) => send_reply(&mut writer, configure(agent, &request)).await,
    };
    if outcome.is_ok() && writer.shutdown().await.is_ok() {
        // Closing the connection first would discard data that the client has not read
        // yet, possibly megabytes.
        let _ = timeout(DRAIN_TIMEOUT, drain(&mut reader)).await;
    }
}

/// Agrees on a version and reads the request. Returns `None` if the client was
/// refused.
async fn handshake<R, W>(
    reader: &mut FrameReader<R>,
    writer: &mut FrameWriter<W>,
) -> Result<Option<Request>, CodecError>
where
    R: AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
{
    let Some(Frame::Hello(hello)) = reader.next().await? else { return Ok(None) };
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
        writer.send(&Frame::Failed(failure)).await?;
        return Ok(None);
    };
    writer.queue(&Frame::Welcome(Welcome { version, agent: agent_version() }))?;
    match reader.next().await {
        Ok(Some(Frame::Request(request))) => Ok(Some(request)),
        Err(CodecError::Payload { source, .. }) => {
            let message = format!("the agent does not understand the request: {source}");
            let failure = Failure { kind: FailureKind::Invalid, message };
            writer.send(&Frame::Failed(failure)).await?;
            Ok(None)
        }
        _ => Ok(None),
    }
}

async fn send_reply<W: tokio::io::AsyncWrite + Unpin>(
    writer: &mut FrameWriter<W>,
    outcome: Result<Reply, Failure>,
) -> Result<(), CodecError> {
    writer
        .send(&match outcome {
            Ok(reply) => Frame::Reply(reply),
            Err(failure) => Frame::Failed(failure),
        })
        .await
}

async fn drain<R: AsyncRead + Unpin>(reader: &mut FrameReader<R>) {
    while let Ok(Some(_)) = reader.next().await {}
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
