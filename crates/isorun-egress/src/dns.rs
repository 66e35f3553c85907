//! The DNS resolver of a sandbox. It answers all queries, whatever server they are for.
//!
//! A query for a name that the policy allows is forwarded to an upstream resolver. For
//! any other name the answer is a sinkhole address: a connection to it is reset at once
//! and reported with the name. So no query for such a name leaves the machine, and no
//! program waits for a timeout. If the policy only allows listed destinations, only
//! queries for addresses are forwarded.

pub mod question;

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
use super::policy::Reason;
use super::proxy::EgressProxy;
use super::resolver::ResolveError;

/// Maximum number of UDP queries of one sandbox that are processed at the same time.
const MAX_CONCURRENT_QUERIES: usize = 64;
/// Maximum time to read a query from a connection, and to write a response to it.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum TTL of an answer, in seconds: the policy can change.
const MAX_TTL_SECS: u32 = 60;
/// TTL of a sinkhole address, in seconds: the policy can change.
const SINKHOLE_TTL_SECS: u32 = 1;
/// Maximum size of a UDP response to a query without EDNS, in bytes.
const MAX_UDP_BYTES_WITHOUT_EDNS: usize = 512;
/// Maximum size of a UDP message, in bytes.
const MAX_UDP_BYTES: u16 = 4096;

/// Answers queries over UDP until the socket fails.
pub async fn serve(proxy: Arc<EgressProxy>, socket: UdpSocket) -> io::Result<()> {
    let state = Arc::new(UdpSocketState::new(UdpSockRef::from(&socket))?);
    let socket = Arc::new(socket);
    let permits = Arc::new(Semaphore::new(MAX_CONCURRENT_QUERIES));
    let mut buffer = vec![0; usize::from(MAX_UDP_BYTES)];
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
            // An earlier response was sent to a closed port.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        }
        let [meta] = meta;
        let Some(query) = buffer.get(..meta.len).map(<[u8]>::to_vec) else { continue };
        // Beyond the limit a query gets no response; programs retry.
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
        let (proxy, socket, state) = (proxy.clone(), socket.clone(), state.clone());
        tokio::spawn(async move {
            if let Some(answer) = answer(&proxy, &query, false).await {
                reply(&socket, &state, meta, &answer).await;
            }
            drop(permit);
        });
    }
}

/// Sends a response, from the address to which the query was sent.
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

/// Answers queries on a connection, one after the other.
pub async fn serve_stream(
    proxy: &EgressProxy,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    loop {
        let reading = async {
            let length = usize::from(stream.read_u16().await?);
            let mut query = vec![0; length];
            stream.read_exact(&mut query).await?;
            io::Result::Ok(query)
        };
        let query = tokio::time::timeout(STREAM_TIMEOUT, reading).await??;
        let Some(answer) = answer(proxy, &query, true).await else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let writing = async {
            stream.write_u16(length).await?;
            stream.write_all(&answer).await
        };
        tokio::time::timeout(STREAM_TIMEOUT, writing).await??;
    }
}

/// Returns the response to a message; `None` if it has no complete query header.
async fn answer(proxy: &EgressProxy, message: &[u8], is_stream: bool) -> Option<Vec<u8>> {
    let question = match Question::read(message) {
        Ok(question) => question,
        Err(error) => {
            let error = error?;
            let op_code = OpCode::from_u8(error.op_code);
            return Message::error_msg(error.id, op_code, error.code).to_vec().ok();
        }
    };
    let kind = RecordType::from(question.kind);
    let records = match DNSClass::from(question.class) {
        _ if question.version > 0 => Err(ResponseCode::BADVERS),
        DNSClass::IN => look_up(proxy, &question, kind).await,
        _ => Err(ResponseCode::Refused),
    };
    encode(&question, records, is_stream)
}

/// Encodes a response. It is truncated to the size that the program accepts.
pub(crate) fn encode(
    question: &Question,
    records: Result<Vec<(RData, u32)>, ResponseCode>,
    is_stream: bool,
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
        edns.set_max_payload(MAX_UDP_BYTES);
        answer.set_edns(edns);
    }
    match records {
        Ok(records) => {
            let record = |(data, ttl)| Record::from_rdata(name.clone(), ttl, data);
            answer.add_answers(records.into_iter().map(record));
        }
        Err(code) => answer.metadata.response_code = code,
    }
    let max_bytes = if is_stream {
        usize::from(u16::MAX)
    } else {
        usize::from(question.payload.unwrap_or_default())
            .clamp(MAX_UDP_BYTES_WITHOUT_EDNS, usize::from(MAX_UDP_BYTES))
    };
    let bytes = answer.to_vec().ok()?;
    if bytes.len() <= max_bytes { Some(bytes) } else { answer.truncate().to_vec().ok() }
}

/// Looks up the records to answer with. The list is empty if the name has none of that
/// type.
async fn look_up(
    proxy: &EgressProxy,
    question: &Question,
    kind: RecordType,
) -> Result<Vec<(RData, u32)>, ResponseCode> {
    if matches!(kind, RecordType::AXFR | RecordType::IXFR) {
        return Err(ResponseCode::Refused);
    }
    if question.labels.is_empty() {
        return Ok(Vec::new());
    }
    let Some(name) = question.hostname() else { return Err(ResponseCode::NXDomain) };
    if name == "localhost" || name.ends_with(".localhost") {
        let address = RData::A(rdata::A(Ipv4Addr::LOCALHOST));
        return Ok(if kind == RecordType::A { vec![(address, MAX_TTL_SECS)] } else { Vec::new() });
    }
    let sinkhole = |reason| {
        let address = proxy.names().sinkhole(&name, reason);
        vec![(RData::A(rdata::A(address)), SINKHOLE_TTL_SECS)]
    };
    let plan = proxy.plan();
    if !plan.policy.resolves(&name) && !plan.credentials.has_host(&name) {
        return Ok(if kind == RecordType::A { sinkhole(Reason::Unlisted) } else { Vec::new() });
    }
    match kind {
        RecordType::A => {}
        // These records can carry arbitrary data: only if the policy is open.
        RecordType::TXT | RecordType::MX | RecordType::SRV | RecordType::CAA
            if plan.policy.is_open() =>
        {
            let found = empty_if_no_data(proxy.records(&name, kind).await)?;
            return Ok(found
                .into_iter()
                .filter(|record| record.record_type() == kind)
                .map(|record| (record.data.clone(), record.ttl.min(MAX_TTL_SECS)))
                .collect());
        }
        // Sandboxes have no IPv6, and other types are not supported.
        _ => return Ok(Vec::new()),
    }
    let found = empty_if_no_data(proxy.addresses(&name).await)?;
    if found.addresses.is_empty() {
        return Ok(Vec::new());
    }
    // A denied name must not be reachable through an alias.
    if found.aliases.iter().any(|alias| plan.policy.denies(alias)) {
        return Ok(sinkhole(Reason::Rule));
    }
    let reachable: Vec<Ipv4Addr> = found
        .addresses
        .into_iter()
        .filter(|address| proxy.context().is_reachable(*address))
        .collect();
    if reachable.is_empty() {
        return Ok(sinkhole(Reason::Private));
    }
    let mut names = proxy.names();
    for address in &reachable {
        names.record(*address, &name);
    }
    let ttl = found.ttl.min(MAX_TTL_SECS);
    Ok(reachable.into_iter().map(|address| (RData::A(rdata::A(address)), ttl)).collect())
}

/// Converts the result of a lookup: if the name has no records of the type, the result
/// is empty.
fn empty_if_no_data<T: Default>(found: Result<T, ResolveError>) -> Result<T, ResponseCode> {
    match found {
        Ok(found) => Ok(found),
        Err(ResolveError::NoData) => Ok(T::default()),
        Err(ResolveError::NoSuchName) => Err(ResponseCode::NXDomain),
        Err(error @ (ResolveError::Failed(_) | ResolveError::TooManyQueries)) => {
            tracing::debug!(%error, "a DNS query of a sandbox failed");
            Err(ResponseCode::ServFail)
        }
    }
}

/// The port of DNS.
pub const PORT: u16 = 53;
