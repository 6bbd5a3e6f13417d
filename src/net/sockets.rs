//! The sockets that this process holds, as the kernel knows them, and which program holds a port.
//!
//! Every descriptor is examined, so every address family is covered: TCP, UDP, MPTCP, Unix and whatever else
//! there is. Nothing can reach a process except through a descriptor.

use std::{
    collections::HashSet,
    fmt, fs, io,
    net::SocketAddr,
    os::fd::{OwnedFd, RawFd},
    path::PathBuf,
};

use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketType, getpeername, getsockname,
    sockopt::{socket_acceptconn, socket_domain, socket_protocol, socket_type},
};

use super::socket_options;

/// IPPROTO_MPTCP.
const MPTCP: u32 = 262;

/// Every socket of this process.
#[derive(Debug)]
pub struct ProcessSockets {
    pub looked_at: usize,
    /// The sockets through which others can reach it.
    pub open: Vec<ListeningSocket>,
}

/// A socket that accepts connections, or datagrams from anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListeningSocket {
    pub descriptor: RawFd,
    /// `tcp`, `udp`, `mptcp`, `unix`, ...
    pub kind: String,
    pub at: SocketAddress,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketAddress {
    Inet(SocketAddr),
    Path(PathBuf),
    Other(String),
}

impl fmt::Display for ListeningSocket {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} (descriptor {})", self.kind, self.at, self.descriptor)
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(at) => write!(out, "{at}"),
            Self::Path(path) => write!(out, "{}", path.display()),
            Self::Other(text) => out.write_str(text),
        }
    }
}

/// Asks the kernel about every socket of this process.
pub fn process_sockets() -> io::Result<ProcessSockets> {
    let mut held = ProcessSockets { looked_at: 0, open: Vec::new() };
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        // A descriptor that was closed meanwhile was used for reading the list, or is gone.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let number = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        let Some(number) = number.filter(|_| target.to_string_lossy().starts_with("socket:")) else {
            continue;
        };
        let open = match socket_options::duplicate(number) {
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => continue,
            // Without a free descriptor no socket can be asked, which says nothing about this one.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                return Err(error);
            }
            duplicated => duplicated.and_then(|socket| open_socket(number, &socket)),
        };
        held.looked_at += 1;
        match open {
            Ok(open) => held.open.extend(open),
            // What cannot be asked may be open.
            Err(error) => {
                let at = SocketAddress::Other(format!("that cannot be asked: {error}"));
                held.open.push(ListeningSocket { descriptor: number, kind: "a socket".into(), at });
            }
        }
    }
    Ok(held)
}

fn open_socket(descriptor: RawFd, socket: &OwnedFd) -> io::Result<Option<ListeningSocket>> {
    let (family, form) = (socket_domain(socket)?, socket_type(socket)?);
    // Families that do not know this option answer with an error, and accept no connections.
    let accepts = socket_acceptconn(socket).unwrap_or(false);
    let local = getsockname(socket).ok();
    let is_connected = getpeername(socket).is_ok();
    let is_inet = family == AddressFamily::INET || family == AddressFamily::INET6;
    let bound = match local.as_ref().map(socket_address) {
        Some(SocketAddress::Inet(at)) => at.port() != 0,
        Some(SocketAddress::Path(path)) => !path.as_os_str().is_empty(),
        Some(SocketAddress::Other(_)) | None => true,
    };
    let takes_datagrams = match form {
        SocketType::STREAM | SocketType::SEQPACKET => false,
        SocketType::RAW => family != AddressFamily::NETLINK,
        // Netlink talks only to the kernel.
        _ => family != AddressFamily::NETLINK && bound && !is_connected,
    };
    if !(accepts || takes_datagrams) {
        return Ok(None);
    }
    let protocol = socket_protocol(socket).ok().flatten().map_or(0, |protocol| protocol.as_raw().get());
    let kind = match (is_inet, form) {
        (true, SocketType::STREAM) if protocol == MPTCP => "mptcp".into(),
        (true, SocketType::STREAM) if protocol == 6 || protocol == 0 => "tcp".into(),
        (true, SocketType::DGRAM) if protocol == 17 || protocol == 0 => "udp".into(),
        (true, SocketType::RAW) => "raw ip".into(),
        (true, _) => format!("ip protocol {protocol}"),
        (false, _) if family == AddressFamily::UNIX => "unix".into(),
        (false, _) if family == AddressFamily::PACKET => "packet".into(),
        (false, _) => format!("family {}", family.as_raw()),
    };
    let at = local.as_ref().map_or_else(|| SocketAddress::Other("no address".into()), socket_address);
    Ok(Some(ListeningSocket { descriptor, kind, at }))
}

fn socket_address(any: &SocketAddrAny) -> SocketAddress {
    if let Ok(at) = SocketAddr::try_from(any.clone()) {
        return SocketAddress::Inet(at);
    }
    match SocketAddrUnix::try_from(any.clone()) {
        Ok(unix) => match (unix.path_bytes(), unix.abstract_name()) {
            (Some(path), _) => SocketAddress::Path(PathBuf::from(
                String::from_utf8_lossy(path).trim_end_matches('\0').to_owned(),
            )),
            (None, Some(name)) => SocketAddress::Other(format!("@{}", String::from_utf8_lossy(name))),
            (None, None) => SocketAddress::Path(PathBuf::new()),
        },
        Err(_) => SocketAddress::Other("an address of its family".into()),
    }
}

/// A process that listens at a port.
#[derive(Debug)]
pub struct PortHolder {
    name: String,
    process: u32,
}

impl PortHolder {
    pub fn is_this_process(&self) -> bool {
        self.process == std::process::id()
    }
}

impl fmt::Display for PortHolder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}, process {}", self.name, self.process)
    }
}

/// The program that listens on a TCP port, if the kernel lets this user see it.
pub fn port_holder(port: u16) -> Option<PortHolder> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .map(|table| fs::read_to_string(table).unwrap_or_default());
    let inodes: HashSet<String> = tables
        .iter()
        .flat_map(|table| table.lines())
        .filter_map(|line| listening_inode(line, port))
        .collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.map(|entry| entry.path()).find_map(|process| {
        let number: u32 = process.file_name()?.to_str()?.parse().ok()?;
        let holds = fs::read_dir(process.join("fd")).ok()?.flatten().any(|descriptor| {
            fs::read_link(descriptor.path()).is_ok_and(|target| inodes.contains(&*target.to_string_lossy()))
        });
        let name = fs::read_to_string(process.join("comm")).ok().filter(|_| holds)?;
        Some(PortHolder { name: name.trim().to_owned(), process: number })
    })
}

/// The inode from a line of proc_net_tcp(5), in the form in which a descriptor's link names its socket.
fn listening_inode(line: &str, port: u16) -> Option<String> {
    const LISTEN: &str = "0A";
    let fields: Vec<_> = line.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let is_this = u16::from_str_radix(local.rsplit_once(':')?.1, 16) == Ok(port);
    (is_this && *state == LISTEN).then(|| format!("socket:[{inode}]"))
}

#[cfg(test)]
mod tests {
    use std::os::{fd::AsRawFd, unix::net::UnixDatagram};

    use socket2::{Domain, Protocol, Socket, Type};

    use super::*;

    fn bound(domain: Domain, form: Type, protocol: Option<Protocol>) -> Socket {
        let socket = Socket::new(domain, form, protocol).expect("a socket");
        let ip = if domain == Domain::IPV4 { "127.0.0.1:0" } else { "[::1]:0" };
        socket.bind(&ip.parse::<SocketAddr>().expect("an address").into()).expect("a free port");
        socket
    }

    fn kind_of(socket: &impl AsRawFd) -> Option<String> {
        let number = socket.as_raw_fd();
        let held = process_sockets().expect("the kernel answers");
        held.open.into_iter().find(|open| open.descriptor == number).map(|open| open.kind)
    }

    #[test]
    fn a_listener_of_every_family_is_seen() {
        for domain in [Domain::IPV4, Domain::IPV6] {
            for (protocol, kind) in [(Protocol::TCP, "tcp"), (Protocol::MPTCP, "mptcp")] {
                let socket = bound(domain, Type::STREAM, Some(protocol));
                assert_eq!(kind_of(&socket), None, "bound is not listening");
                socket.listen(1).expect("it listens");
                assert_eq!(kind_of(&socket).as_deref(), Some(kind));
            }
            let socket = bound(domain, Type::DGRAM, None);
            assert_eq!(kind_of(&socket).as_deref(), Some("udp"));
            let far = bound(domain, Type::DGRAM, None);
            socket.connect(&far.local_addr().expect("its address")).expect("it connects");
            assert_eq!(kind_of(&socket), None, "the other end alone reaches it");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let stream = std::os::unix::net::UnixListener::bind(folder.path().join("a")).expect("a socket");
        let datagrams = UnixDatagram::bind(folder.path().join("b")).expect("a socket");
        assert_eq!(kind_of(&stream).as_deref(), Some("unix"));
        assert_eq!(kind_of(&datagrams).as_deref(), Some("unix"));
        let pair = UnixDatagram::pair().expect("a pair");
        assert_eq!((kind_of(&pair.0), kind_of(&pair.1)), (None, None));
    }

    #[test]
    fn the_holder_of_a_port_is_named() {
        let socket = bound(Domain::IPV4, Type::STREAM, None);
        socket.listen(1).expect("it listens");
        let port = socket.local_addr().ok().and_then(|at| at.as_socket()).expect("an address").port();
        let holder = port_holder(port).expect("this process");
        assert!(holder.is_this_process(), "{holder}");
    }
}
