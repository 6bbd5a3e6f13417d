//! Many that begin and do not go on.

use portcullis::profile::Mode;
use tokio::net::TcpSocket;

use crate::support::{
    peers::{dial, hear, hear_reset, say},
    ways::Plan,
};

const ACCEPT: &str = "{ address: 'tcp://127.0.0.1:0', proxy: { from: ['127.0.0.0/8'] } }";
/// More than there are places for.
const FLOOD: usize = 600;

#[tokio::test]
async fn a_flood_from_one_address_turns_no_other_away() {
    let way = Plan { accept: ACCEPT, ..Plan::new(Mode::Direct, "echo://") }.start().await;
    let at = way.dmz.client_port("orders").await;
    let mut honest = dial(at).await;
    say(&mut honest, b"PROXY UNK").await;
    let mut flood = Vec::new();
    for _ in 0..FLOOD {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        flood.push(socket.connect(at).await.unwrap());
    }
    // The first of the flood have given way, well before their deadline; who began before them has not.
    for one in &mut flood[..FLOOD - 512] {
        hear_reset(one).await;
    }
    say(&mut honest, b"NOWN\r\nstill here").await;
    hear(&mut honest, b"still here").await;
}
