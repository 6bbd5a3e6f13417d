//! Reads the PROXY protocol header that a proxy in front of us sends.

use std::net::SocketAddr;

use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::proto::proxy;

/// Reads a header: the client, unless the proxy speaks for itself, and what was read behind it.
pub async fn read(stream: &mut TcpStream) -> Result<(Option<SocketAddr>, Vec<u8>), String> {
    let mut said = Vec::new();
    loop {
        match stream.read_buf(&mut said).await {
            Ok(0) => return Err("it left before its PROXY header was complete".into()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
        if let Some((client, length)) = proxy::parse(&said).map_err(|fault| fault.to_string())? {
            let client = client.map(|client| SocketAddr::new(client.ip().to_canonical(), client.port()));
            return Ok((client, said.split_off(length)));
        }
    }
}
