//! Both ends of a pipe in one task: bytes, ends, cuts and failures, and what memory an idle one keeps.

use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::net::woken::PartWaker;

async fn sockets() -> (NetStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    let (outer, inner) = tokio::join!(TcpStream::connect(at), listener.accept());
    (NetStream::Tcp(inner.expect("it connects").0), outer.expect("it connects"))
}

#[tokio::test]
async fn what_one_end_writes_the_other_reads_and_no_more_is_held() {
    let (mut one, mut other) = pipe();
    let sent: Vec<u8> = (0..1_000_003_u32).map(|at| (at ^ (at >> 8)) as u8).collect();
    let writing = async {
        one.write_all(&sent).await.expect("it is taken");
        one.shutdown().await.expect("it is reported");
    };
    let reading = async {
        let (mut received, mut piece, mut held) = (Vec::new(), [0; 999], 0);
        loop {
            match other.read(&mut piece).await.expect("bytes") {
                0 => return (received, held),
                count => received.extend_from_slice(&piece[..count]),
            }
            held = held.max(other.lock().directions[0].held.len());
        }
    };
    let ((), (received, held)) = tokio::join!(writing, reading);
    assert!(received == sent && held <= HELD_MAX, "{} bytes, {held} held", received.len());
    assert!(other.lock().directions[0].held.capacity() <= KEPT_MAX);
    other.write_all(b"after its end").await.expect("the other direction is open");
    let mut rest = [0; 13];
    one.read_exact(&mut rest).await.expect("bytes");
    drop(one);
    assert_eq!(other.write_all(b"x").await.expect_err("nobody reads").kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn the_reader_of_a_gathered_end_is_woken_after_whoever_is_ready() {
    let (one, mut other) = pipe();
    let (mut one, reader) = (one.gathered(), PartWaker::new(Arc::default()));
    reader.take_woken();
    let waker = Waker::from(reader.clone());
    let mut piece = [0; 4];
    let mut reading = pin!(other.read(&mut piece));
    assert!(reading.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    one.write_all(b"said").await.expect("it is taken");
    assert!(!reader.is_woken());
    yield_now().await;
    assert!(reader.is_woken());
    assert_eq!(reading.await.expect("bytes"), 4);
}

#[tokio::test]
async fn a_dropped_end_is_a_cut_after_the_bytes_it_wrote() {
    let (mut one, other) = pipe();
    one.write_all(b"said").await.expect("it is taken");
    let left = async {
        other.other_end_gone().await;
        other
    };
    let dropping = async { drop(one) };
    let (mut other, ()) = tokio::join!(left, dropping);
    let mut received = Vec::new();
    let error = other.read_to_end(&mut received).await.expect_err("a cut");
    assert_eq!((received.as_slice(), error.kind()), (&b"said"[..], io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_deadline_cut_is_distinguished_from_others() {
    let (one, mut other) = pipe();
    let deadline = one.failure_sender();
    deadline.report_timeout();
    drop(one);
    let error = other.read(&mut [0; 8]).await.expect_err("a cut");
    assert!(TimeoutError::is_cause_of(&error), "{error}");
}

#[tokio::test]
async fn an_end_goes_on_as_the_stream_behind_the_other() {
    let ((mut one, mut other), (stream, mut peer)) = (pipe(), sockets().await);
    one.write_all(b"1 written ").await.expect("it is taken");
    other.write_all(b"2 written ").await.expect("it is taken");
    let handed = one.hand_over(stream, Bytes::from_static(b"heard "), Bytes::from_static(b"unsaid "));
    handed.await.expect("the stream is there");
    peer.write_all(b"streamed").await.expect("it is taken");
    peer.shutdown().await.expect("it is reported");
    let mut received = String::new();
    other.read_to_string(&mut received).await.expect("a clean end");
    assert_eq!(received, "1 written heard streamed");
    other.write_all(b"straight").await.expect("it is taken");
    other.shutdown().await.expect("it is reported");
    let mut reported = String::new();
    peer.read_to_string(&mut reported).await.expect("a clean end");
    assert_eq!(reported, "unsaid 2 written straight");
    assert!(other.stream().is_some_and(|stream| stream.tcp().is_some()));
}

#[tokio::test]
async fn an_end_that_had_ended_is_passed_on_with_the_stream() {
    let ((one, mut other), (stream, mut peer)) = (pipe(), sockets().await);
    other.write_all(b"last").await.expect("it is taken");
    other.shutdown().await.expect("it is reported");
    one.hand_over(stream, Bytes::new(), Bytes::new()).await.expect("the stream is there");
    let mut reported = String::new();
    peer.read_to_string(&mut reported).await.expect("a clean end");
    assert_eq!(reported, "last");
    // One that has gone leaves nothing behind.
    let ((one, other), (stream, mut peer)) = (pipe(), sockets().await);
    drop(other);
    one.hand_over(stream, Bytes::new(), Bytes::new()).await.expect_err("nobody is there");
    assert_eq!(peer.read(&mut [0]).await.expect("its end"), 0);
}

#[tokio::test]
async fn bytes_of_an_end_cut_before_the_handover_are_delivered() {
    for has_ended in [true, false] {
        let ((one, mut other), (stream, mut peer)) = (pipe(), sockets().await);
        other.write_all(b"not to be lost").await.expect("it is taken");
        if has_ended {
            other.shutdown().await.expect("it is reported");
        }
        drop(other);
        let handed = one.hand_over(stream, Bytes::new(), Bytes::from_static(b"unsaid, "));
        handed.await.expect_err("nobody reads the stream");
        let mut reported = String::new();
        peer.read_to_string(&mut reported).await.expect("this socket ends cleanly when it is dropped");
        assert_eq!(reported, "unsaid, not to be lost");
    }
}

#[tokio::test]
async fn a_driver_is_kept_going_by_the_end_that_is_read() {
    let (near, mut far) = pipe();
    let mut near = near.driven_by(Box::pin(async move {
        let mut received = [0; 4];
        while far.read_exact(&mut received).await.is_ok() {
            far.write_all(&received).await.expect("it is taken");
        }
        far.shutdown().await.expect("it is reported");
    }));
    let (mut sent, mut received) = (vec![7; 4 * HELD_MAX], Vec::new());
    sent.extend_from_slice(b"last");
    let (mut reading, mut writing) = tokio::io::split(&mut near);
    let writer = async {
        writing.write_all(&sent).await.expect("it is taken");
        writing.shutdown().await.expect("it is reported");
    };
    tokio::join!(writer, async { reading.read_to_end(&mut received).await.expect("a clean end") });
    assert!(received == sent, "{} bytes", received.len());
}
