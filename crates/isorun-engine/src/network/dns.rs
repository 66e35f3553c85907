//! The resolver that a sandbox sees: the only one, whatever server it asks.
//!
//! A name that its policy lets it reach is asked outside. For any other the
//! answer is an address that stands for it: a connection there is reset at once
//! and put on record with the name. So no question for such a name leaves the
//! machine, and no program waits.

use std::io::{self, IoSliceMut};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::{DNSClass, RData, Record, RecordType, rdata};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

use super::egress::Sandbox;
use super::policy::{self, Reason};
use super::resolver::Unanswered;

/// Questions of one sandbox at the same time.
const MOST: usize = 64;
/// How long a connection may be without a question.
const IDLE: Duration = Duration::from_secs(10);
/// The longest that a program may keep an answer, and how long one of a sink
/// holds: the policy may change.
const LONGEST: u32 = 60;
const SINK_TTL: u32 = 1;
/// The longest message over UDP without an agreement about more.
const PLAIN: usize = 512;
const LONG: usize = 4096;

/// Answers questions over UDP until the socket fails.
pub async fn serve(sandbox: Arc<Sandbox>, socket: UdpSocket) -> io::Result<()> {
    let state = Arc::new(UdpSocketState::new(UdpSockRef::from(&socket))?);
    let socket = Arc::new(socket);
    let places = Arc::new(Semaphore::new(MOST));
    let mut buffer = vec![0; LONG];
    loop {
        socket.readable().await?;
        let mut meta = [RecvMeta::default()];
        let received = socket.try_io(Interest::READABLE, || {
            let mut buffers = [IoSliceMut::new(&mut buffer)];
            state.recv(UdpSockRef::from(&*socket), &mut buffers, &mut meta)
        });
        match received {
            Ok(1..) => {}
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            // That of an answer which nobody took, perhaps.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        }
        let [meta] = meta;
        let Some(question) = buffer.get(..meta.len).map(<[u8]>::to_vec) else { continue };
        // What is too much is not answered; programs ask again.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (sandbox, socket, state) = (sandbox.clone(), socket.clone(), state.clone());
        tokio::spawn(async move {
            if let Some(answer) = answer(&sandbox, &question, false).await {
                reply(&socket, &state, meta, &answer).await;
            }
            drop(place);
        });
    }
}

/// From the address that was asked.
async fn reply(socket: &UdpSocket, state: &UdpSocketState, meta: RecvMeta, answer: &[u8]) {
    let transmit = Transmit {
        destination: meta.addr,
        ecn: None,
        contents: answer,
        segment_size: None,
        src_ip: meta.dst_ip,
    };
    for _ in 0..3 {
        if socket.writable().await.is_err() {
            return;
        }
        let sent = socket
            .try_io(Interest::WRITABLE, || state.try_send(UdpSockRef::from(socket), &transmit));
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

/// Answers questions on a connection, one after the other.
pub async fn serve_stream(
    sandbox: &Sandbox,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    loop {
        let reading = async {
            let length = usize::from(stream.read_u16().await?);
            let mut question = vec![0; length];
            stream.read_exact(&mut question).await?;
            io::Result::Ok(question)
        };
        let question = tokio::time::timeout(IDLE, reading).await??;
        let Some(answer) = answer(sandbox, &question, true).await else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        stream.write_u16(length).await?;
        stream.write_all(&answer).await?;
    }
}

/// The answer to a message; none to what is no question.
async fn answer(sandbox: &Sandbox, question: &[u8], stream: bool) -> Option<Vec<u8>> {
    let message = Message::from_vec(question).ok()?;
    if message.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut answer = Message::response(message.metadata.id, message.metadata.op_code);
    answer.metadata.recursion_desired = message.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_queries(message.queries.clone());
    answer.metadata.response_code = match message.queries.as_slice() {
        _ if message.metadata.op_code != OpCode::Query => ResponseCode::NotImp,
        [query] if query.query_class == DNSClass::IN => {
            match records(sandbox, &query.name.to_ascii(), query.query_type).await {
                Ok(records) => {
                    answer.add_answers(
                        records
                            .into_iter()
                            .map(|(kind, ttl)| Record::from_rdata(query.name.clone(), ttl, kind)),
                    );
                    ResponseCode::NoError
                }
                Err(code) => code,
            }
        }
        _ => ResponseCode::Refused,
    };
    let room = if stream {
        usize::from(u16::MAX)
    } else {
        usize::from(message.max_payload()).clamp(PLAIN, LONG)
    };
    let bytes = answer.to_vec().ok()?;
    if bytes.len() <= room { Some(bytes) } else { answer.truncate().to_vec().ok() }
}

/// What is told of a name.
async fn records(
    sandbox: &Sandbox,
    name: &str,
    kind: RecordType,
) -> Result<Vec<(RData, u32)>, ResponseCode> {
    let Ok(name) = policy::name(name) else { return Err(ResponseCode::NXDomain) };
    if name == "localhost" || name.ends_with(".localhost") {
        let own = RData::A(rdata::A(Ipv4Addr::LOCALHOST));
        return Ok(if kind == RecordType::A { vec![(own, LONGEST)] } else { Vec::new() });
    }
    let sink = |reason| {
        let address = sandbox.names().sink(&name, reason);
        vec![(RData::A(rdata::A(address)), SINK_TTL)]
    };
    let plan = sandbox.plan();
    if !plan.policy.resolves(&name) && !plan.credentials.has_host(&name) {
        return Ok(if kind == RecordType::A { sink(Reason::Unlisted) } else { Vec::new() });
    }
    match kind {
        RecordType::A => {}
        // There is no IPv6; what services tell about themselves there is of no
        // use without it.
        RecordType::TXT | RecordType::MX | RecordType::SRV | RecordType::CAA => {
            let found = sandbox.gate().resolver.records(&name, kind).await;
            let found = found.map_err(|error| failure(&error))?;
            return Ok(found
                .into_iter()
                .filter(|record| record.record_type() == kind)
                .map(|record| (record.data.clone(), record.ttl.min(LONGEST)))
                .collect());
        }
        _ => return Ok(Vec::new()),
    }
    let found = sandbox.gate().resolver.addresses(&name).await;
    let found = found.map_err(|error| failure(&error))?;
    // An alias leads to where its name may not.
    if found.aliases.iter().any(|alias| plan.policy.denies(alias)) {
        return Ok(sink(Reason::Rule));
    }
    let good: Vec<Ipv4Addr> = found
        .addresses
        .into_iter()
        .filter(|address| sandbox.gate().may_be_told(*address))
        .collect();
    if good.is_empty() {
        return Ok(sink(Reason::Private));
    }
    let mut names = sandbox.names();
    for address in &good {
        names.told(*address, &name);
    }
    let ttl = found.ttl.min(LONGEST);
    Ok(good.into_iter().map(|address| (RData::A(rdata::A(address)), ttl)).collect())
}

fn failure(error: &Unanswered) -> ResponseCode {
    match error {
        Unanswered::Nothing => ResponseCode::NXDomain,
        Unanswered::Failed(_) => {
            tracing::debug!(%error, "a sandbox's question has no answer");
            ResponseCode::ServFail
        }
    }
}

/// The port of all resolvers.
pub const PORT: u16 = 53;
