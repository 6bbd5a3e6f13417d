//! Look-ups against the tests' own servers, which answer correctly, late, falsely, or not at all.

use std::{
    net::UdpSocket as BlockingSocket,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use hickory_proto::{
    op::Message,
    rr::{
        Record,
        rdata::{A, AAAA, CNAME},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};

use super::*;

type Respond = dyn Fn(&Message, Transport) -> Vec<Vec<u8>> + Send + Sync;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Datagram,
    Stream,
}

/// A name server on one port, UDP and TCP; gone when dropped.
struct Server {
    at: SocketAddr,
    query_count: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Each question is answered by these datagrams, or by the first of them over TCP.
    async fn new(respond: impl Fn(&Message, Transport) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        let (listener, socket) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let at = listener.local_addr().expect("its address");
            if let Ok(socket) = UdpSocket::bind(at).await {
                break (listener, socket);
            }
        };
        let at = listener.local_addr().expect("its address");
        let (respond, query_count): (Arc<Respond>, _) = (Arc::new(respond), Arc::<AtomicUsize>::default());
        let mut tasks = JoinSet::new();
        let (by_datagram, counted) = (respond.clone(), query_count.clone());
        tasks.spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok((count, from)) = socket.recv_from(&mut buffer).await {
                counted.fetch_add(1, Ordering::Relaxed);
                let question = Message::from_vec(&buffer[..count]).expect("a question");
                for answer in by_datagram(&question, Transport::Datagram) {
                    socket.send_to(&answer, from).await.expect("it is sent");
                }
            }
        });
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut question = vec![0; stream.read_u16().await.expect("a length").into()];
                stream.read_exact(&mut question).await.expect("a question");
                let question = Message::from_vec(&question).expect("a question");
                for answer in respond(&question, Transport::Stream) {
                    stream.write_u16(u16::try_from(answer.len()).expect("it fits")).await.expect("sent");
                    stream.write_all(&answer).await.expect("sent");
                }
            }
        });
        Self { at, query_count, _tasks: tasks }
    }
}

fn resolver(servers: &[SocketAddr]) -> DnsResolver {
    let resolver = DnsResolver::new(SystemFiles::new("/nowhere".into(), "/nowhere".into()));
    resolver.use_servers(servers.into());
    resolver
}

fn name(text: &str) -> Name {
    absolute_name(text).expect("a name")
}

fn reply(question: &Message) -> Message {
    let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
    reply.add_queries(question.queries.clone());
    reply
}

fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().expect("it is written")
}

fn with_code(question: &Message, code: ResponseCode) -> Vec<u8> {
    let mut reply = reply(question);
    reply.metadata.response_code = code;
    bytes(&reply)
}

fn a(owner: &str, ip: &str, ttl: u32) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A(ip.parse().expect("an address"))))
}

fn alias(owner: &str, other: &str, ttl: u32) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(other))))
}

/// The records, if IPv4 addresses are asked for; the name has nothing else.
fn answered(question: &Message, records: &[Record]) -> Vec<u8> {
    let mut reply = reply(question);
    if question.queries[0].query_type == RecordType::A {
        reply.insert_answers(records.to_vec());
    }
    bytes(&reply)
}

fn shown(found: &HostAddresses) -> Vec<String> {
    found.all().map(|address| address.to_string()).collect()
}

#[tokio::test]
async fn both_families_are_asked_for_and_the_shorter_time_to_live_holds() {
    let server = Server::new(|question, _| {
        let mut reply = reply(question);
        reply.insert_answers(match question.queries[0].query_type {
            RecordType::A => vec![a("gate.test", "10.0.0.2", 40), a("gate.test", "10.0.0.1", 30)],
            _ => {
                let ip = "2001:db8::1".parse().expect("an address");
                vec![Record::from_rdata(name("GATE.test"), 20, RData::AAAA(AAAA(ip)))]
            }
        });
        vec![bytes(&reply)]
    })
    .await;
    let found = resolver(&[server.at]).addresses("gate.test").await.expect("an answer");
    assert_eq!(shown(&found), ["10.0.0.2", "10.0.0.1", "2001:db8::1"]);
    assert_eq!(found.ttl, Duration::from_secs(20));
}

#[tokio::test]
async fn an_answer_that_is_too_long_for_a_datagram_is_asked_for_again_over_tcp() {
    let server = Server::new(|question, by| {
        let all: Vec<_> = (0..200).map(|last| a("gate.test", &format!("10.0.0.{last}"), 5)).collect();
        match by {
            Transport::Stream => vec![answered(question, &all)],
            Transport::Datagram => {
                let mut reply = reply(question);
                reply.metadata.truncation = true;
                vec![bytes(&reply)]
            }
        }
    })
    .await;
    let found = resolver(&[server.at]).addresses("gate.test").await.expect("an answer");
    assert_eq!(shown(&found).len(), 200);
}

#[tokio::test]
async fn a_guess_and_garbage_are_passed_over_for_the_answer() {
    let server = Server::new(|question, _| {
        let mut guess = reply(question);
        guess.metadata.id = question.metadata.id.wrapping_add(1);
        guess.add_answer(a("gate.test", "10.6.6.6", 5));
        let mut other = Message::response(question.metadata.id, question.metadata.op_code);
        other.add_query(Query::query(name("other.test"), question.queries[0].query_type));
        other.add_answer(a("gate.test", "10.6.6.6", 5));
        let garbage = vec![0xff; 300];
        vec![bytes(&guess), bytes(&other), garbage, answered(question, &[a("gate.test", "10.0.0.1", 5)])]
    })
    .await;
    let found = resolver(&[server.at]).addresses("gate.test").await.expect("an answer");
    assert_eq!(shown(&found), ["10.0.0.1"]);
}

#[tokio::test]
async fn aliases_are_followed_within_an_answer_and_from_one_to_the_next() {
    let server = Server::new(|question, _| {
        let query_count = question.queries[0].name.to_ascii();
        vec![answered(
            question,
            &match query_count.as_str() {
                "gate.test." => vec![alias("gate.test", "one.test", 60), alias("one.test", "two.test", 7)],
                "two.test." => vec![a("two.test", "10.0.0.1", 60), a("gate.test", "10.6.6.6", 1)],
                _ => Vec::new(),
            },
        )]
    })
    .await;
    let found = resolver(&[server.at]).addresses("gate.test").await.expect("an answer");
    assert_eq!((shown(&found), found.ttl), (vec!["10.0.0.1".to_owned()], Duration::from_secs(7)));
}

#[tokio::test]
async fn an_alias_loop_ends_and_is_reported() {
    let server = Server::new(|question, _| {
        let query_count = question.queries[0].name.to_ascii();
        let mut reply = reply(question);
        reply.add_answer(match query_count.as_str() {
            "gate.test." => alias("gate.test", "one.test", 60),
            _ => alias("one.test", "gate.test", 60),
        });
        vec![bytes(&reply)]
    })
    .await;
    let error = resolver(&[server.at]).addresses("gate.test").await.expect_err("no end");
    assert_eq!(error.to_string(), "its CNAME chain is longer than 16");
}

#[tokio::test]
async fn a_missing_name_is_distinguished_from_one_without_an_address() {
    let server = Server::new(|question, _| match question.queries[0].name.to_ascii().as_str() {
        "gate.test." => vec![with_code(question, ResponseCode::NXDomain)],
        _ => vec![bytes(&reply(question))],
    })
    .await;
    let resolver = resolver(&[server.at]);
    let reported = async |host: &str| resolver.addresses(host).await.expect_err("nothing").to_string();
    assert_eq!(reported("gate.test").await, "there is no such name");
    assert_eq!(reported("empty.test").await, "it has no address");
}

#[tokio::test]
async fn a_server_that_does_not_know_how_to_answer_gives_way_to_the_next_which_is_remembered() {
    let closed = BlockingSocket::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let failing = Server::new(|question, _| vec![with_code(question, ResponseCode::ServFail)]).await;
    let good = Server::new(|question, _| vec![answered(question, &[a("gate.test", "10.0.0.1", 5)])]).await;
    let resolver = resolver(&[closed, failing.at, good.at]);
    for _ in 0..3 {
        let found = resolver.addresses("gate.test").await.expect("an answer");
        assert_eq!(shown(&found), ["10.0.0.1"]);
    }
    assert!(failing.query_count.load(Ordering::Relaxed) <= 2, "once for each family");
    let error = self::resolver(&[closed, failing.at]).addresses("gate.test").await.expect_err("nothing");
    let reported = format!("name server {} answers: Server Failure", failing.at);
    let refused = format!("name server {closed}: Connection refused");
    assert!(error.to_string() == reported || error.to_string().starts_with(&refused), "{error}");
}

#[tokio::test]
async fn a_silent_server_costs_its_time_and_a_silent_family_a_second() {
    let silent = BlockingSocket::bind("127.0.0.1:0").expect("a port");
    let silent_at = silent.local_addr().expect("its address");
    let half = Server::new(|question, _| match question.queries[0].query_type {
        RecordType::A => vec![answered(question, &[a("gate.test", "10.0.0.1", 5)])],
        _ => Vec::new(),
    })
    .await;
    let began = Instant::now();
    let found = resolver(&[half.at]).addresses("gate.test").await.expect("an answer");
    assert_eq!((found.v4.as_ref().map(Vec::len), found.v6), (Some(1), None));
    assert!(began.elapsed() >= RESOLUTION_DELAY && began.elapsed() < LOOKUP_TIMEOUT, "{:?}", began.elapsed());
    let began = Instant::now();
    resolver(&[silent_at, half.at]).addresses("gate.test").await.expect("an answer");
    assert!(began.elapsed() >= QUERY_TIMEOUT, "{:?}", began.elapsed());
    let began = Instant::now();
    let error = resolver(&[silent_at]).addresses("gate.test").await.expect_err("nobody answers");
    assert!(began.elapsed() >= 2 * QUERY_TIMEOUT, "it is asked twice: {:?}", began.elapsed());
    assert_eq!(error.to_string(), format!("name server {silent_at}: no answer within 2s"));
}

#[tokio::test]
async fn a_look_up_ends_at_its_deadline_however_many_servers_are_silent() {
    let silent: Vec<_> = (0..4).map(|_| BlockingSocket::bind("127.0.0.1:0").expect("a port")).collect();
    let servers: Vec<_> = silent.iter().map(|socket| socket.local_addr().expect("its address")).collect();
    let began = Instant::now();
    let error = resolver(&servers).addresses("gate.test").await.expect_err("nobody answers");
    assert!(
        began.elapsed() >= LOOKUP_TIMEOUT && began.elapsed() < 2 * LOOKUP_TIMEOUT,
        "{:?}",
        began.elapsed()
    );
    assert_eq!(error.to_string(), "no answer within 5s");
}

#[tokio::test]
async fn a_server_without_edns_is_asked_without() {
    let server = Server::new(|question, _| match &question.edns {
        Some(_) => {
            let mut unread = Message::response(question.metadata.id, question.metadata.op_code);
            unread.metadata.response_code = ResponseCode::FormErr;
            vec![bytes(&unread)]
        }
        None => vec![answered(question, &[a("gate.test", "10.0.0.1", 5)])],
    })
    .await;
    let found = resolver(&[server.at]).addresses("gate.test").await.expect("an answer");
    assert_eq!(shown(&found), ["10.0.0.1"]);
}

#[tokio::test]
async fn what_the_file_of_hosts_knows_is_not_asked_for() {
    let server = Server::new(|question, _| vec![answered(question, &[a("gate.test", "10.6.6.6", 5)])]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let hosts = folder.path().join("hosts");
    std::fs::write(&hosts, "10.0.0.1 gate.test\n2001:db8::1 gate.test\n").expect("it is written");
    let resolver = DnsResolver::new(SystemFiles::new(hosts.clone(), "/nowhere".into()));
    resolver.use_servers(NameServers::Named(vec![server.at]));
    let found = resolver.addresses("gate.test").await.expect("an answer");
    assert_eq!(shown(&found), ["10.0.0.1", "2001:db8::1"]);
    assert_eq!(server.query_count.load(Ordering::Relaxed), 0);
    std::fs::write(&hosts, "").expect("it is written");
    assert_eq!(shown(&resolver.addresses("gate.test").await.expect("an answer")), ["10.6.6.6"]);
}
