use std::future::poll_fn;

use futures_util::FutureExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{net::stream::NetStream, tests::happens_after};

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    let (dialled, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
    (dialled.expect("it connects"), accepted.expect("it connects").0)
}

fn framed(socket: TcpStream, end: FramedEnd) -> FramedSocket {
    FramedSocket::new(PrefixedStream { prefix: Default::default(), stream: NetStream::Tcp(socket) }, end)
}

#[tokio::test]
async fn what_is_written_comes_out_however_the_kernel_takes_it() {
    let (dialled, accepted) = pair().await;
    for socket in [&dialled, &accepted] {
        let socket = socket2::SockRef::from(socket);
        socket.set_send_buffer_size(4096).expect("an option");
    }
    let sent: Vec<u8> = (0..3_000_001_u32).map(|at| (at ^ (at >> 9)) as u8).collect();
    let mut ends = [framed(dialled, FramedEnd::Dialled), framed(accepted, FramedEnd::Accepted)];
    for _ in 0..2 {
        let [writer, reader] = &mut ends;
        let writing = async {
            let mut left = &sent[..];
            while !left.is_empty() {
                let (one, other) = left.split_at(left.len().min(70_000) / 2);
                let pieces = [IoSlice::new(one), IoSlice::new(b""), IoSlice::new(other)];
                let count = writer.write_vectored(&pieces).await.expect("it is taken");
                left = &left[count..];
            }
            writer.flush().await.expect("it is out");
        };
        let reading = async {
            let mut received = vec![0; sent.len()];
            reader.read_exact(&mut received).await.expect("bytes");
            received
        };
        let ((), received) = tokio::join!(writing, reading);
        assert!(received == sent);
        ends.reverse();
    }
}

#[tokio::test]
async fn each_direction_ends_for_itself() {
    let (dialled, accepted) = pair().await;
    let (mut one, mut other) = (framed(dialled, FramedEnd::Dialled), framed(accepted, FramedEnd::Accepted));
    one.write_all(b"asked").await.expect("it is taken");
    one.shutdown().await.expect("it is taken");
    let mut received = Vec::new();
    other.read_to_end(&mut received).await.expect("an end");
    assert_eq!(received, b"asked");
    other.write_all(b"answered").await.expect("it is taken");
    other.shutdown().await.expect("it is taken");
    received.clear();
    one.read_to_end(&mut received).await.expect("an end");
    assert_eq!(received, b"answered");
}

#[tokio::test]
async fn an_end_without_a_close_frame_is_a_cut() {
    let (dialled, accepted) = pair().await;
    let mut one = framed(accepted, FramedEnd::Accepted);
    drop(dialled);
    let error = one.read(&mut [0; 8]).await.expect_err("a cut");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_websocket_violation_closes_the_link_and_is_reported() {
    let table: [(FramedEnd, &[u8], &str, u16); 6] = [
        (FramedEnd::Accepted, b"\x82\x01a", "an unmasked frame", 1002),
        (FramedEnd::Dialled, b"\x82\x81\0\0\0\0a", "a masked frame", 1002),
        (FramedEnd::Accepted, b"\x81\x81\0\0\0\0a", "a text message, where all are binary", 1003),
        (FramedEnd::Accepted, b"\x16\x03\x01\0\xa5", "a frame with a reserved bit", 1002),
        (
            FramedEnd::Dialled,
            b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
            "a frame with an invalid length",
            1002,
        ),
        (FramedEnd::Dialled, b"\x80\x01a", "a continuation frame without a message", 1002),
    ];
    for (end, wire, why, code) in table {
        let (mut theirs, ours) = pair().await;
        let mut ours = framed(ours, end);
        theirs.write_all(wire).await.expect("it is taken");
        let error = ours.read(&mut [0; 64]).await.expect_err(why);
        assert_eq!(error.to_string(), format!("WebSocket: {why}"));
        let mut reported = vec![0; if end == FramedEnd::Accepted { 4 } else { 8 }];
        theirs.read_exact(&mut reported).await.expect("a close frame");
        if end == FramedEnd::Accepted {
            assert_eq!(reported, [&[0x88, 2], &code.to_be_bytes()[..]].concat());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_is_pinged_read_or_not() {
    let (mut theirs, ours) = pair().await;
    let mut ours = framed(ours, FramedEnd::Accepted);
    let reading = async { ours.read(&mut [0; 8]).await };
    let mut ping = [0; 2];
    tokio::select! {
        read = reading => panic!("{read:?}"),
        received = happens_after(PING_INTERVAL, theirs.read_exact(&mut ping)) => drop(received.expect("a ping")),
    }
    assert_eq!(ping, [0x89, 0]);
    let idle = poll_fn(|cx| {
        ours.poll_idle(cx);
        Poll::<()>::Pending
    });
    tokio::select! {
        () = idle => {}
        received = happens_after(PING_INTERVAL, theirs.read_exact(&mut ping)) => drop(received.expect("a ping")),
    }
    assert_eq!(ping, [0x89, 0]);
    ours.stop_pings();
    let reading = async { ours.read(&mut [0; 8]).await };
    tokio::select! {
        read = reading => panic!("{read:?}"),
        received = theirs.read(&mut ping) => panic!("{received:?}"),
        () = sleep(3 * PING_INTERVAL) => {}
    }
}

#[tokio::test]
async fn what_the_kernel_does_not_take_is_not_masked_again_and_again() {
    let (dialled, _accepted) = pair().await;
    let mut writer = framed(dialled, FramedEnd::Dialled);
    let bytes = vec![b'x'; FRAME_BYTES_MAX];
    let mut taken = 0;
    // Until the kernel takes no more.
    while let Some(count) = writer.write(&bytes[taken..]).now_or_never() {
        let count = count.expect("it is taken");
        let masked = MASKED.with_borrow(Vec::len);
        assert!(masked <= MASKED_BYTES_MAX + 14, "{masked} bytes for {count}");
        taken = (taken + count) % FRAME_BYTES_MAX;
    }
}
