//! The resolver that a sandbox sees: the only one, whatever server it asks.
//!
//! A name that its policy lets it reach is asked outside. For any other the
//! answer is an address that stands for it: a connection there is reset at once
//! and put on record with the name. So no question for such a name leaves the
//! machine, and no program waits. Nor does any question but for addresses, where
//! rules name what is reached.

pub mod question;
pub mod rate;

use std::io::{self, IoSliceMut};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record, RecordType, rdata};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

use self::question::Question;
use super::egress::Sandbox;
use super::policy::Reason;
use super::resolver::Unanswered;

/// Questions of one sandbox at the same time.
const MOST: usize = 64;
/// How long a connection may be without a question, or without taking an answer.
const IDLE: Duration = Duration::from_secs(10);
/// The longest that a program may keep an answer, and how long one of a sink
/// holds: the policy may change.
const LONGEST: u32 = 60;
const SINK_TTL: u32 = 1;
/// The longest message over UDP without an agreement about more.
const PLAIN: usize = 512;
const LONG: u16 = 4096;

/// Answers questions over UDP until the socket fails.
pub async fn serve(sandbox: Arc<Sandbox>, socket: UdpSocket) -> io::Result<()> {
    let state = Arc::new(UdpSocketState::new(UdpSockRef::from(&socket))?);
    let socket = Arc::new(socket);
    let places = Arc::new(Semaphore::new(MOST));
    let mut buffer = vec![0; usize::from(LONG)];
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
        let writing = async {
            stream.write_u16(length).await?;
            stream.write_all(&answer).await
        };
        tokio::time::timeout(IDLE, writing).await??;
    }
}

/// The answer to a message; none to what is not even the head of a question.
async fn answer(sandbox: &Sandbox, message: &[u8], stream: bool) -> Option<Vec<u8>> {
    let question = match Question::read(message) {
        Ok(question) => question,
        Err(refusal) => {
            let refusal = refusal?;
            let op_code = OpCode::from_u8(refusal.op_code);
            return Message::error_msg(refusal.id, op_code, refusal.code).to_vec().ok();
        }
    };
    let kind = RecordType::from(question.kind);
    let said = match DNSClass::from(question.class) {
        _ if question.version > 0 => Err(ResponseCode::BADVERS),
        DNSClass::IN => records(sandbox, &question, kind).await,
        _ => Err(ResponseCode::Refused),
    };
    write(&question, said, stream)
}

/// Writes an answer, which is cut to what the program takes.
pub(crate) fn write(
    question: &Question,
    said: Result<Vec<(RData, u32)>, ResponseCode>,
    stream: bool,
) -> Option<Vec<u8>> {
    let mut name = Name::from_labels(question.labels.iter().map(Vec::as_slice)).ok()?;
    name.set_fqdn(true);
    let mut query = Query::query(name.clone(), RecordType::from(question.kind));
    query.set_query_class(DNSClass::from(question.class));
    let mut answer = Message::response(question.id, OpCode::Query);
    answer.metadata.recursion_desired = question.recursion;
    answer.metadata.recursion_available = true;
    answer.add_query(query);
    if question.payload.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(LONG);
        answer.set_edns(edns);
    }
    match said {
        Ok(records) => {
            let record = |(data, ttl)| Record::from_rdata(name.clone(), ttl, data);
            answer.add_answers(records.into_iter().map(record));
        }
        Err(code) => answer.metadata.response_code = code,
    }
    let room = if stream {
        usize::from(u16::MAX)
    } else {
        usize::from(question.payload.unwrap_or_default()).clamp(PLAIN, usize::from(LONG))
    };
    let bytes = answer.to_vec().ok()?;
    if bytes.len() <= room { Some(bytes) } else { answer.truncate().to_vec().ok() }
}

/// What is told of a name. Nothing of that kind: an empty list.
async fn records(
    sandbox: &Sandbox,
    question: &Question,
    kind: RecordType,
) -> Result<Vec<(RData, u32)>, ResponseCode> {
    if matches!(kind, RecordType::AXFR | RecordType::IXFR) {
        return Err(ResponseCode::Refused);
    }
    if question.labels.is_empty() {
        return Ok(Vec::new());
    }
    let Some(name) = question.host() else { return Err(ResponseCode::NXDomain) };
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
        // What services tell about themselves is data, too.
        RecordType::TXT | RecordType::MX | RecordType::SRV | RecordType::CAA
            if plan.policy.is_open() =>
        {
            let found = or_nothing(sandbox.records(&name, kind).await)?;
            return Ok(found
                .into_iter()
                .filter(|record| record.record_type() == kind)
                .map(|record| (record.data.clone(), record.ttl.min(LONGEST)))
                .collect());
        }
        // There is no IPv6, and the rest is of no use here.
        _ => return Ok(Vec::new()),
    }
    let found = or_nothing(sandbox.addresses(&name).await)?;
    if found.addresses.is_empty() {
        return Ok(Vec::new());
    }
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

/// What was found, which may be nothing of that kind.
fn or_nothing<T: Default>(found: Result<T, Unanswered>) -> Result<T, ResponseCode> {
    match found {
        Ok(found) => Ok(found),
        Err(Unanswered::NoData) => Ok(T::default()),
        Err(Unanswered::NoName) => Err(ResponseCode::NXDomain),
        Err(error @ (Unanswered::Failed(_) | Unanswered::TooMany)) => {
            tracing::debug!(%error, "a sandbox's question has no answer");
            Err(ResponseCode::ServFail)
        }
    }
}

/// The port of all resolvers.
pub const PORT: u16 = 53;
