//! Checks whether a backend is well: it accepts a connection, or answers a request as the profile says. It uses no
//! idle connection and counts as no session: it is a new client each time.

use std::{fmt::Write, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    ConnectFailure,
    direct::{self, BackendTarget},
};
use crate::{
    net::{own_ports::ServicePorts, stream::NetStream},
    profile::{BackendCheck, CheckRequest},
    proto::multiplex::open::ClientOrigin,
};

/// The longest accepted line of an answer; of a longer one, each part counts as a line.
const LINE_BYTES_MAX: usize = 1024;
/// How many interim answers may come first, and how many lines each may have.
const INTERIM_MAX: usize = 8;
const INTERIM_LINES_MAX: usize = 64;

/// A backend to check, and how.
#[derive(Debug, Clone, Copy)]
pub struct CheckedBackend<'a> {
    pub target: &'a BackendTarget,
    pub check: &'a BackendCheck,
    /// Where clients of the service come in.
    pub own_ports: &'a ServicePorts,
}

/// Why a backend is not well.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("{}", .0.reason)]
    Connect(ConnectFailure),
    #[error("its check was not answered within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    #[error("its check was answered by {0}, not as expected")]
    Status(u16),
    #[error("its check was answered by no HTTP")]
    NoHttp,
    #[error("its check was cut: {0}")]
    Cut(#[from] std::io::Error),
}

/// Checks a backend once.
pub async fn check_backend(checked: CheckedBackend<'_>) -> Result<(), CheckError> {
    let CheckedBackend { target, check, own_ports } = checked;
    let result = timeout(check.timeout, async {
        let stream = direct::reach_backend(target, None, &ClientOrigin::default(), own_ports).await;
        let stream = stream.map_err(CheckError::Connect)?;
        match &check.request {
            None => {
                stream.let_close_cleanly();
                Ok(())
            }
            Some(request) => ask(stream, request, &target.backend().authority()).await,
        }
    });
    result.await.unwrap_or(Err(CheckError::Timeout(check.timeout)))
}

async fn ask(mut stream: NetStream, request: &CheckRequest, host: &str) -> Result<(), CheckError> {
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    // Writing to a string does not fail.
    let _ = write!(head, "Host: {host}\r\nUser-Agent: portcullis\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    let status = final_status(&mut stream).await?;
    if !request.expect.contains(&status) {
        return Err(CheckError::Status(status));
    }
    stream.let_close_cleanly();
    Ok(())
}

/// The status of the answer that follows all interim ones (RFC 9110, section 15.2).
async fn final_status(stream: &mut NetStream) -> Result<u16, CheckError> {
    for _ in 0..=INTERIM_MAX {
        let status = status(&read_line(stream).await?).ok_or(CheckError::NoHttp)?;
        if !matches!(status, 100 | 102..=199) {
            return Ok(status);
        }
        let mut lines = 0;
        while !matches!(&*read_line(stream).await?, b"\r\n" | b"\n") {
            lines += 1;
            if lines > INTERIM_LINES_MAX {
                return Err(CheckError::NoHttp);
            }
        }
    }
    Err(CheckError::NoHttp)
}

/// A line with its end, or as much of it as is accepted or there.
async fn read_line(stream: &mut NetStream) -> Result<Vec<u8>, CheckError> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") && line.len() < LINE_BYTES_MAX {
        match stream.read_u8().await {
            Ok(byte) => line.push(byte),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(line)
}

/// The status in the first line of an answer (RFC 9112, section 4).
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let [b'0'..=b'9', b' ', status @ ..] = rest else { return None };
    let (digits, rest) = status.split_at_checked(3)?;
    if !rest.first().is_some_and(|byte| b" \r\n".contains(byte)) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use crate::{
        profile::{
            Backend, HostPort, RemoteServer, ServerAddress,
            defaults::{CHECK_EVERY, CHECK_TIMEOUT},
        },
        tests::happens_after,
        tls::edge::EdgeTls,
    };

    #[test]
    fn the_status_of_an_answer_is_read() {
        for (line, read) in [
            ("HTTP/1.1 200 OK\r\n", Some(200)),
            ("HTTP/1.0 503\r\n", Some(503)),
            ("HTTP/1.1 204 \r\n", Some(204)),
            ("HTTP/1.1 20\r\n", None),
            ("HTTP/1.1 2000 OK\r\n", None),
            ("HTTP/2 200\r\n", None),
            ("220 mail ESMTP\r\n", None),
            ("", None),
        ] {
            assert_eq!(status(line.as_bytes()), read, "{line:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_does_not_answer_its_check_is_not_well() {
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = silent.local_addr().expect("it is bound").port();
        let at = ServerAddress::Network(HostPort { host: "127.0.0.1".into(), port });
        let backend = Backend::Socket(RemoteServer { at, tls: None, proxy: None, source: None, ip: None });
        let target = BackendTarget::new(&backend, &EdgeTls::default());
        let request = CheckRequest { method: "GET", target: "/health".into(), expect: vec![200] };
        let check = BackendCheck {
            every: CHECK_EVERY,
            timeout: CHECK_TIMEOUT,
            falls: 1,
            rises: 1,
            request: Some(request),
        };
        let own_ports = ServicePorts::default();
        let checking =
            check_backend(CheckedBackend { target: &target, check: &check, own_ports: &own_ports });
        let checked = happens_after(CHECK_TIMEOUT, checking).await;
        assert!(matches!(checked, Err(CheckError::Timeout(CHECK_TIMEOUT))), "{checked:?}");
    }
}
