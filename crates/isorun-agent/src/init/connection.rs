//! One connection: the handshake, one request, its answer.

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

/// How long a client may take to say what it wants, and to hang up afterwards.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client may take to read the rest of an answer. One that is gone has
/// closed its end.
const READING: Duration = Duration::from_secs(300);

/// Serves a connection to its end. Whatever is wrong with it ends it, and
/// nothing else.
pub async fn serve(agent: &Rc<Agent>, stream: TcpStream) {
    // Closed, it is gone at once: what lingers would make a checkpoint fail.
    if stream.set_nodelay(true).is_err() || stream.set_zero_linger().is_err() {
        return;
    }
    let (reader, writer) = stream.into_split();
    let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
    let request = match timeout(PATIENCE, greet(&mut reader, &mut writer)).await {
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
            if answer(&mut writer, Ok(Reply::Done)).await.is_ok() {
                // The client's word that it has read that. Our end is closed by a
                // reset, which tells the client that nothing is left here.
                let _ = timeout(PATIENCE, drain(&mut reader)).await;
            }
            return;
        }
        Request::Exec(request) => exec::run(agent, &request, &mut reader, &mut writer).await,
        Request::WriteFile(request) => files::write(&request, &mut reader, &mut writer).await,
        Request::ReadFile { path } => files::read(&path, &mut writer).await,
        Request::List { path } => files::list(&path, &mut writer).await,
        Request::Stat { path } => answer(&mut writer, files::stat(&path)).await,
        Request::MakeDir { path, mode, owner } => {
            answer(&mut writer, files::make_dir(&path, mode, owner.as_deref())).await
        }
        Request::Remove { path } => answer(&mut writer, files::remove(path).await).await,
        Request::Connect { port } => forward::run(port, &mut reader, &mut writer).await,
        Request::Info => answer(&mut writer, Ok(Reply::Info(info(agent)))).await,
        Request::Configure(request) => answer(&mut writer, configure(agent, &request)).await,
    };
    if outcome.is_ok() && writer.shutdown().await.is_ok() {
        // Hanging up first would throw away what the client has not read yet, and
        // there may be megabytes of it.
        let _ = timeout(READING, drain(&mut reader)).await;
    }
}

/// Agrees on a version and reads the request. `None`: it has been refused.
async fn greet<R, W>(
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
    writer.queue(&Frame::Welcome(Welcome { version, agent: release() }))?;
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

async fn answer<W: tokio::io::AsyncWrite + Unpin>(
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
        agent: release(),
        execs: agent.execs.get(),
        processes: u32::try_from(processes).unwrap_or(u32::MAX),
        pids: agent.groups.count(),
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
            // What a guest made of `/etc` is its own affair.
            Err(_) if request.restored => {}
            outcome => outcome.map_err(|error| failed("/etc/hosts", error))?,
        }
    }
    if let Some(pids) = request.pids {
        agent.groups.limit(pids).map_err(|error| failed("the limit of processes", error))?;
    }
    if let Some(vcpus) = request.vcpus {
        limit_cpus(vcpus).map_err(|error| failed("the number of CPUs", error))?;
    }
    if let Some(nameserver) = request.nameserver {
        resolve_by(nameserver).map_err(|error| failed("its resolver", error))?;
    }
    if request.restored {
        agent.restores.set(agent.restores.get() + 1);
        // For programs that want to know: another content means another life.
        if let Err(error) = instance(request.hostname.as_deref().unwrap_or_default()) {
            return Err(failed("the mark of a new life", error));
        }
    }
    Ok(Reply::Done)
}

/// Has this process and what it starts from now on run on the first CPUs only.
fn limit_cpus(count: u32) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in 0..(count as usize).min(CpuSet::MAX_CPU) {
        set.set(cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// What is there may be a link to where no file is.
fn resolve_by(nameserver: std::net::Ipv4Addr) -> std::io::Result<()> {
    std::fs::create_dir_all("/etc")?;
    let text = format!("nameserver {nameserver}\n");
    files::replace("/etc/resolv.conf".as_ref(), text.as_bytes())
}

/// Writes `/run/isorun/instance`: the sandbox's name, and a number that differs
/// after each restore.
fn instance(name: &str) -> std::io::Result<()> {
    let folder = std::path::Path::new("/run/isorun");
    std::fs::create_dir_all(folder)?;
    let mut number = [0; 8];
    rustix::rand::getrandom(&mut number, rustix::rand::GetRandomFlags::empty())?;
    let text = format!("{name} {:016x}\n", u64::from_le_bytes(number));
    files::replace(&folder.join("instance"), text.as_bytes())
}

fn release() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
