//! A name server of the tests' own, which answers as they want it to: well, falsely, or not at all.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, SRV},
    },
};
use portcullis::tasks::Tasks;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{interval, timeout},
};

use super::gateway::PATIENCE;

/// What is said of every name that is asked for.
#[derive(Clone, Debug)]
pub enum DnsAnswer {
    /// With the seconds that they live.
    Addresses(Vec<IpAddr>, u32),
    /// Of each name its own, a second long.
    Zone(Zone),
    NoName,
    /// A name without an address.
    Empty,
    Failure,
    Garbage,
    /// More records than there are bytes for.
    Cut,
    Silence,
}

/// SRV records, whatever name they are asked of, and what else there is.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    /// Priority, weight, port and target.
    pub services: Vec<(u16, u16, u16, String)>,
    pub hosts: Vec<(&'static str, IpAddr)>,
    pub aliases: Vec<(&'static str, &'static str)>,
    /// What is said beside the answer, where nobody has asked for it.
    pub beside: Vec<(&'static str, IpAddr)>,
}

impl Zone {
    fn answer(&self, requested: &Name, record_type: RecordType) -> Vec<Record> {
        let record = |name: &Name, data| Record::from_rdata(name.clone(), 1, data);
        if record_type == RecordType::SRV {
            let of_record = |(priority, weight, port, target): &(u16, u16, u16, String)| {
                record(requested, RData::SRV(SRV::new(*priority, *weight, *port, name(target))))
            };
            return self.services.iter().map(of_record).collect();
        }
        let alias = self.aliases.iter().find(|(alias, _)| name(alias) == *requested);
        let owner = alias.map_or_else(|| requested.clone(), |(_, other)| name(other));
        let alias = alias.map(|(_, other)| record(requested, RData::CNAME(CNAME(name(other)))));
        let hosts = self.hosts.iter().filter(|(host, _)| name(host) == owner);
        let data = hosts.filter_map(|(_, ip)| address_data(ip, record_type));
        alias.into_iter().chain(data.map(|data| record(&owner, data))).collect()
    }
}

/// As a name from the root.
fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

fn address_data(address: &IpAddr, record_type: RecordType) -> Option<RData> {
    match (address, record_type) {
        (IpAddr::V4(ip), RecordType::A) => Some(RData::A(A(*ip))),
        (IpAddr::V6(ip), RecordType::AAAA) => Some(RData::AAAA(AAAA(*ip))),
        _ => None,
    }
}

pub struct Dns {
    pub at: SocketAddr,
    answer: Arc<Mutex<DnsAnswer>>,
    /// Questions about IPv4 and SRV records that were answered since the answer changed.
    asked: Arc<AtomicUsize>,
    _tasks: Tasks,
}

impl Dns {
    pub async fn new(answer: DnsAnswer) -> Self {
        let (listener, socket) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
                break (listener, socket);
            }
        };
        let (at, tasks) = (listener.local_addr().unwrap(), Tasks::default());
        let (answer, requested) = (Arc::new(Mutex::new(answer)), Arc::<AtomicUsize>::default());
        let (current, counted) = (answer.clone(), requested.clone());
        tasks.spawn("datagrams", async move {
            let mut buffer = [0; 4096];
            while let Ok((count, from)) = socket.recv_from(&mut buffer).await {
                let question = Message::from_vec(&buffer[..count]).unwrap();
                let sent = write_answer(&question, &current.lock().unwrap().clone(), 1232);
                if !sent.is_empty() {
                    socket.send_to(&sent, from).await.unwrap();
                }
                if matches!(question.queries[0].query_type, RecordType::A | RecordType::SRV) {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let (current, streams) = (answer.clone(), tasks.clone());
        tasks.spawn("streams", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = current.lock().unwrap().clone();
                streams.spawn("stream", serve(stream, answer));
            }
        });
        Self { at, answer, asked: requested, _tasks: tasks }
    }

    /// Answers so from now on.
    pub fn set_answer(&self, answer: DnsAnswer) {
        *self.answer.lock().unwrap() = answer;
        self.asked.store(0, Ordering::SeqCst);
    }

    /// Sets an answer, and waits until it was asked for this often.
    pub async fn set_answer_until_asked(&self, answer: DnsAnswer, times: usize) {
        self.set_answer(answer.clone());
        let received = async {
            let mut looks = interval(std::time::Duration::from_millis(5));
            while self.asked.load(Ordering::SeqCst) < times {
                looks.tick().await;
            }
        };
        timeout(10 * PATIENCE, received)
            .await
            .unwrap_or_else(|_| panic!("not asked {times} times: {answer:?}"));
    }
}

async fn serve(mut stream: TcpStream, answer: DnsAnswer) {
    let mut question = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut question).await.unwrap();
    let sent = write_answer(&Message::from_vec(&question).unwrap(), &answer, u16::MAX);
    // Whoever has asked may be gone.
    let _ = stream.write_u16(sent.len().try_into().unwrap()).await;
    let _ = stream.write_all(&sent).await;
}

fn write_answer(question: &Message, answer: &DnsAnswer, bytes_max: u16) -> Vec<u8> {
    let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
    reply.add_queries(question.queries.clone());
    let requested = &question.queries[0];
    match answer {
        DnsAnswer::Silence => return Vec::new(),
        DnsAnswer::Garbage => return vec![0xa5; 600],
        DnsAnswer::NoName => reply.metadata.response_code = ResponseCode::NXDomain,
        DnsAnswer::Failure => reply.metadata.response_code = ResponseCode::ServFail,
        // Below: it is cut as long answers are.
        DnsAnswer::Empty | DnsAnswer::Zone(_) => {}
        DnsAnswer::Cut => {
            let mut bytes = reply.to_vec().unwrap();
            // The count of answers.
            bytes[6..8].copy_from_slice(&10_000_u16.to_be_bytes());
            return bytes;
        }
        DnsAnswer::Addresses(addresses, lives) => {
            let of_type = addresses.iter().filter_map(|address| address_data(address, requested.query_type));
            reply.insert_answers(
                of_type.map(|data| Record::from_rdata(requested.name.clone(), *lives, data)).collect(),
            );
        }
    }
    if let DnsAnswer::Zone(zone) = answer {
        reply.insert_answers(zone.answer(&requested.name, requested.query_type));
        let beside = zone.beside.iter().filter_map(|(host, ip)| {
            Some(Record::from_rdata(name(host), 60, address_data(ip, RecordType::A)?))
        });
        reply.insert_additionals(beside.collect());
    }
    let bytes = reply.to_vec().unwrap();
    if bytes.len() <= bytes_max.into() {
        return bytes;
    }
    reply.answers.clear();
    reply.additionals.clear();
    reply.metadata.truncation = true;
    reply.to_vec().unwrap()
}
