//! One question to one server: over UDP, and over TCP if the answer is too long for UDP. The sockets are
//! connected, so that the kernel accepts only datagrams of that server, and each has a random port.

use std::{io, net::SocketAddr};

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{DnsError, QUERY_TIMEOUT};
use crate::confine::refused_call;

/// Fits into a datagram on any path (RFC 9715, appendix A).
const DATAGRAM_BYTES_MAX: u16 = 1232;

/// Gets the answer of one server, which knows the name or knows that it does not exist.
pub(super) async fn query_server(server: SocketAddr, query: &Query) -> Result<Message, DnsError> {
    let answer = async {
        let message = exchange(server, query, Some(DATAGRAM_BYTES_MAX)).await?;
        match message.metadata.response_code {
            // It does not support EDNS (RFC 6891, section 7).
            ResponseCode::FormErr | ResponseCode::NotImp => exchange(server, query, None).await,
            _ => Ok(message),
        }
    };
    let message = timeout(QUERY_TIMEOUT, answer).await.unwrap_or(Err(DnsError::ServerLate(server)))?;
    match message.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(message),
        code => Err(DnsError::Failed(server, code)),
    }
}

async fn exchange(server: SocketAddr, query: &Query, payload: Option<u16>) -> Result<Message, DnsError> {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(query.clone());
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        question.set_edns(edns);
    }
    let bytes = question.to_vec().map_err(|_| DnsError::BadName)?;
    let failed = |error| DnsError::Socket(server, error);
    let message = ask_by_datagram(server, &question, &bytes).await.map_err(failed)?;
    if !message.metadata.truncation {
        return Ok(message);
    }
    let answered = ask_by_stream(server, &bytes).await.map_err(failed)?;
    let message = Message::from_vec(&answered).map_err(|why| DnsError::Garbled(server, why.to_string()))?;
    match answers(&message, &question) {
        true => Ok(message),
        false => Err(DnsError::Garbled(server, "it answers something else".into())),
    }
}

async fn ask_by_datagram(server: SocketAddr, requested: &Message, bytes: &[u8]) -> io::Result<Message> {
    let socket = Socket::new(Domain::for_address(server), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.connect(&server.into()).map_err(|error| refused_call::explain("connect", error))?;
    let socket = UdpSocket::from_std(socket.into())?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let count = socket.recv(&mut buffer).await?;
        // A message that is not its answer may be somebody else's guess; the real answer may still come.
        match Message::from_vec(&buffer[..count]) {
            Ok(message) if answers(&message, requested) => return Ok(message),
            Ok(_) | Err(_) => {}
        }
    }
}

/// Asks over TCP (RFC 7766), with a length in front of the message.
async fn ask_by_stream(server: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let connected = TcpStream::connect(server).await;
    let mut stream = connected.map_err(|error| refused_call::explain("connect", error))?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// Whether a message answers exactly this question. A server that did not understand the question need not
/// repeat it.
fn answers(message: &Message, requested: &Message) -> bool {
    let is_repeated = message.queries == requested.queries;
    let is_unread = message.queries.is_empty() && message.metadata.response_code == ResponseCode::FormErr;
    message.metadata.message_type == MessageType::Response
        && message.metadata.id == requested.metadata.id
        && (is_repeated || is_unread)
}
