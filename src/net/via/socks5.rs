//! SOCKS5 with a proxy on the way (RFC 1928), with user and password (RFC 1929). This is not a link: the proxy
//! is asked for a host and a port.

use std::net::IpAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{ViaErrorKind, other_protocol};
use crate::profile::{HostPort, ProxyLogin};

const VERSION: u8 = 5;
const NO_LOGIN: u8 = 0;
const PASSWORD: u8 = 2;
const NONE_FITS: u8 = 0xff;
const CONNECT: u8 = 1;

pub(super) async fn connect(
    stream: &mut TcpStream,
    to: &HostPort,
    login: Option<&ProxyLogin>,
) -> Result<(), ViaErrorKind> {
    let request = request(to)?;
    let offer: &[u8] = match login {
        None => &[VERSION, 1, NO_LOGIN],
        Some(_) => &[VERSION, 2, PASSWORD, NO_LOGIN],
    };
    stream.write_all(offer).await?;
    let [version, method] = read(stream).await?;
    if version != VERSION {
        return Err(other_protocol("SOCKS5", &[version, method]));
    }
    match (method, login) {
        (NO_LOGIN, _) => {}
        (PASSWORD, Some(login)) => log_in(stream, login).await?,
        (NONE_FITS | PASSWORD, None) => return Err(ViaErrorKind::NoLogin("no method without one".into())),
        (NONE_FITS, Some(_)) => return Err(ViaErrorKind::NoMethodFits("no method fits".into())),
        (other, _) => return Err(ViaErrorKind::NoMethodFits(format!("it chose method {other}"))),
    }
    stream.write_all(&request).await?;
    let [version, reply, _, kind] = read(stream).await?;
    if version != VERSION {
        return Err(other_protocol("SOCKS5", &[version, reply]));
    }
    // The proxy's own address is not used, but has to be read.
    let rest = match kind {
        1 => 4 + 2,
        4 => 16 + 2,
        3 => usize::from(read::<1>(stream).await?[0]) + 2,
        _ => return Err(other_protocol("SOCKS5", &[version, reply, 0, kind])),
    };
    // A proxy that refuses may close before it has sent everything.
    let read_off = stream.read_exact(&mut vec![0; rest]).await;
    let (to, message) = (to.clone(), |words: &str| format!("{words} (reply {reply})"));
    match reply {
        0 => Ok(read_off.map(|_| ())?),
        2 => Err(ViaErrorKind::Refused { to, message: message("not allowed by its rules") }),
        3 => Err(ViaErrorKind::Unreachable { to, message: message("network unreachable") }),
        4 => Err(ViaErrorKind::Unreachable { to, message: message("host unreachable") }),
        5 => Err(ViaErrorKind::Unreachable { to, message: message("connection refused") }),
        6 => Err(ViaErrorKind::Unreachable { to, message: message("no answer in time") }),
        7 => Err(ViaErrorKind::Refused { to, message: message("it does not serve CONNECT") }),
        8 => Err(ViaErrorKind::Refused { to, message: message("it does not serve this kind of address") }),
        _ => Err(ViaErrorKind::Refused { to, message: message("general failure") }),
    }
}

/// The request; a name is left for the proxy to look up.
fn request(to: &HostPort) -> Result<Vec<u8>, ViaErrorKind> {
    let mut request = vec![VERSION, CONNECT, 0];
    match to.host_without_zone().parse() {
        Ok(IpAddr::V4(ip)) => {
            request.push(1);
            request.extend(ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            request.push(4);
            request.extend(ip.octets());
        }
        Err(_) => {
            request.push(3);
            request.push(u8::try_from(to.host.len()).map_err(|_| ViaErrorKind::LongName)?);
            request.extend(to.host.as_bytes());
        }
    }
    request.extend(to.port.to_be_bytes());
    Ok(request)
}

async fn log_in(stream: &mut TcpStream, login: &ProxyLogin) -> Result<(), ViaErrorKind> {
    let mut message = vec![1];
    for part in [&login.user, &login.password] {
        // The profile allows no longer ones.
        message.push(u8::try_from(part.len()).map_err(|_| ViaErrorKind::LongName)?);
        message.extend(part.as_bytes());
    }
    stream.write_all(&message).await?;
    // Any other status is a refusal (RFC 1929, section 2).
    match read(stream).await? {
        [_, 0] => Ok(()),
        [_, status] => Err(ViaErrorKind::BadLogin(format!("status {status}"))),
    }
}

async fn read<const COUNT: usize>(stream: &mut TcpStream) -> Result<[u8; COUNT], ViaErrorKind> {
    let mut bytes = [0; COUNT];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}
