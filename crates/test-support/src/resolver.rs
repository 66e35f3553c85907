//! A DNS resolver, the upstream of the resolver under test.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType, rdata};
use tokio::net::UdpSocket;

/// The time to live of the record for any name, in seconds.
const ANY_NAME_TTL: u32 = 300;

/// A DNS resolver with a set of names, which can be changed while it runs.
#[derive(Clone, Default)]
pub struct Resolver {
    names: Arc<Mutex<HashMap<String, Vec<Entry>>>>,
    /// The address of names that are not in the set, if they exist.
    any_name: Option<Ipv4Addr>,
    /// The names of all queries.
    pub queried: Arc<Mutex<Vec<String>>>,
    /// The types of all queries.
    pub types: Arc<Mutex<Vec<u16>>>,
}

/// A record of a name.
#[derive(Clone)]
pub enum Entry {
    /// A record of the type A, whose time to live is zero.
    Address(Ipv4Addr),
    /// A record of the type CNAME. Later entries belong to this name.
    Alias(&'static str),
}

impl Resolver {
    /// Creates a resolver that returns this address for every name.
    pub fn of_any_name(address: Ipv4Addr) -> Self {
        Self { any_name: Some(address), ..Self::default() }
    }

    /// Sets the records of a name.
    pub fn set(&self, name: &str, entries: &[Entry]) {
        self.names.lock().unwrap().insert(name.to_owned(), entries.to_vec());
    }

    /// Starts the resolver on the loopback interface, in a task of the current runtime.
    /// Returns its address.
    pub async fn serve(&self) -> SocketAddr {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let resolver = self.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok((count, from)) = socket.recv_from(&mut buffer).await {
                let answer = resolver.answer(&Message::from_vec(&buffer[..count]).unwrap());
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        address
    }

    fn answer(&self, question: &Message) -> Message {
        let query = question.queries[0].clone();
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.add_query(query.clone());
        let name = query.name.to_ascii().trim_end_matches('.').to_lowercase();
        self.queried.lock().unwrap().push(name.clone());
        self.types.lock().unwrap().push(query.query_type.into());
        let is_address = query.query_type == RecordType::A;
        match (self.names.lock().unwrap().get(&name), self.any_name) {
            (None, None) => answer.metadata.response_code = ResponseCode::NXDomain,
            (None, Some(address)) if is_address => {
                let data = RData::A(rdata::A(address));
                answer.add_answer(Record::from_rdata(query.name, ANY_NAME_TTL, data));
            }
            (Some(entries), _) if is_address => {
                let mut owner = query.name;
                for entry in entries {
                    let data = match entry {
                        Entry::Address(address) => RData::A(rdata::A(*address)),
                        Entry::Alias(to) => {
                            let to = Name::from_ascii(format!("{to}.")).unwrap();
                            RData::CNAME(rdata::CNAME(to))
                        }
                    };
                    answer.add_answer(Record::from_rdata(owner.clone(), 0, data.clone()));
                    if let RData::CNAME(alias) = data {
                        owner = alias.0;
                    }
                }
            }
            _ => {}
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::op::{MessageType, OpCode, Query};

    use super::*;

    fn ask(resolver: &Resolver, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let answer = resolver.answer(&question);
        assert_eq!(answer.metadata.id, 7);
        let records =
            answer.answers.iter().map(|record| format!("{} {}", record.name, record.data));
        (answer.metadata.response_code, records.collect())
    }

    #[test]
    fn names_have_their_records() {
        let resolver = Resolver::default();
        let address = Ipv4Addr::new(198, 51, 100, 1);
        resolver.set("good.test", &[Entry::Address(address)]);
        resolver.set("alias.test", &[Entry::Alias("good.test"), Entry::Address(address)]);
        for (name, kind, code, records) in [
            ("Good.test.", RecordType::A, ResponseCode::NoError, &["Good.test. 198.51.100.1"][..]),
            ("good.test.", RecordType::AAAA, ResponseCode::NoError, &[]),
            (
                "alias.test.",
                RecordType::A,
                ResponseCode::NoError,
                &["alias.test. good.test.", "good.test. 198.51.100.1"],
            ),
            ("other.test.", RecordType::A, ResponseCode::NXDomain, &[]),
        ] {
            let expected = records.iter().map(|record| (*record).to_owned()).collect();
            assert_eq!(ask(&resolver, name, kind), (code, expected), "{name}");
        }
        let queried = resolver.queried.lock().unwrap().clone();
        assert_eq!(queried, ["good.test", "good.test", "alias.test", "other.test"]);
    }

    #[test]
    fn any_name_can_have_an_address() {
        let resolver = Resolver::of_any_name(Ipv4Addr::new(198, 51, 100, 2));
        let (code, records) = ask(&resolver, "a.test.", RecordType::A);
        assert_eq!(
            (code, &*records),
            (ResponseCode::NoError, &["a.test. 198.51.100.2".to_owned()][..])
        );
        assert_eq!(ask(&resolver, "a.test.", RecordType::TXT), (ResponseCode::NoError, vec![]));
    }
}
