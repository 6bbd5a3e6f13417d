//! The socket to the service manager: connected once, and written to without waiting.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use thiserror::Error;

#[derive(Debug, Error)]
#[error("NOTIFY_SOCKET {name}: {source}; the service manager gets no notifications")]
pub struct NotifyError {
    name: String,
    source: io::Error,
}

/// A message to the service manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    Ready,
    /// The time on the monotonic clock.
    Reloading {
        at: Duration,
    },
    Stopping,
    Status(String),
    Watchdog,
    /// The start takes longer: the next message comes within this time.
    ExtendTimeout {
        by: Duration,
    },
}

/// A service manager that wants notifications.
#[derive(Debug)]
pub struct NotifySocket {
    socket: UnixDatagram,
    /// It ends a process from which it has not heard for this long.
    pub watchdog: Option<Duration>,
}

impl NotifySocket {
    /// The socket that this process was started with, if any.
    pub fn of_environment() -> Result<Option<Self>, NotifyError> {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let watchdog = watchdog(env::var("WATCHDOG_USEC").ok(), env::var("WATCHDOG_PID").ok());
        match Self::connect(&name, watchdog) {
            Ok(socket) => Ok(Some(socket)),
            Err(source) => Err(NotifyError { name: name.to_string_lossy().into_owned(), source }),
        }
    }

    /// A path, or `@` followed by an abstract name.
    pub fn connect(name: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "neither a path nor an abstract name",
                ));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // A manager that does not read must not block the engine.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, watchdog })
    }

    /// Sends all of them in one message; returns whether it was accepted. A busy manager misses it.
    pub fn notify(&self, notifications: &[Notification]) -> bool {
        let text: String = notifications.iter().map(Notification::line).collect();
        self.socket.send(text.as_bytes()).is_ok()
    }
}

impl Notification {
    fn line(&self) -> String {
        match self {
            Self::Ready => "READY=1\n".into(),
            Self::Reloading { at } => format!("RELOADING=1\nMONOTONIC_USEC={}\n", at.as_micros()),
            Self::Stopping => "STOPPING=1\n".into(),
            // A line of its own would mean something else.
            Self::Status(text) => format!("STATUS={}\n", text.replace('\n', " ")),
            Self::Watchdog => "WATCHDOG=1\n".into(),
            Self::ExtendTimeout { by } => format!("EXTEND_TIMEOUT_USEC={}\n", by.as_micros()),
        }
    }
}

/// The watchdog's interval, if it is meant for this process.
fn watchdog(usec: Option<String>, pid: Option<String>) -> Option<Duration> {
    let is_meant = pid.is_none_or(|pid| pid.trim().parse() == Ok(std::process::id()));
    let usec: u64 = usec?.trim().parse().ok()?;
    (is_meant && usec > 0).then_some(Duration::from_micros(usec))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn one_socket_carries_all_messages_and_a_full_one_blocks_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let socket = NotifySocket::connect(path.as_os_str(), None).unwrap();
        assert!(socket.notify(&[Notification::Ready, Notification::Status("1 of 2\nlinks".into())]));
        let mut received = [0; 256];
        let length = manager.recv(&mut received).unwrap();
        assert_eq!(&received[..length], b"READY=1\nSTATUS=1 of 2 links\n");
        // The socket outlives its name, as in a gateway that may no longer open anything.
        std::fs::remove_file(&path).unwrap();
        assert!(socket.notify(&[Notification::Reloading { at: Duration::from_micros(7) }]));
        let length = manager.recv(&mut received).unwrap();
        assert_eq!(&received[..length], b"RELOADING=1\nMONOTONIC_USEC=7\n");
        while socket.notify(&[Notification::Watchdog]) {}
        drop(manager);
        assert!(!socket.notify(&[Notification::Stopping]));
    }

    #[test]
    fn an_abstract_name_is_reached_and_what_is_no_name_is_refused() {
        let name = format!("portcullis-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let socket = NotifySocket::connect(OsStr::new(&format!("@{name}")), None).unwrap();
        assert!(socket.notify(&[Notification::Stopping]));
        assert_eq!(manager.recv(&mut [0; 64]).unwrap(), "STOPPING=1\n".len());
        for wrong in ["", "relative", "/nowhere/at/all"] {
            assert!(NotifySocket::connect(OsStr::new(wrong), None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_watchdog_of_another_process_is_none() {
        let own = std::process::id().to_string();
        let of = |usec: &str, pid: Option<&str>| watchdog(Some(usec.into()), pid.map(str::to_owned));
        assert_eq!(of("2000000", Some(&own)), Some(Duration::from_secs(2)));
        assert_eq!(of("2000000", None), Some(Duration::from_secs(2)));
        assert_eq!(of("2000000", Some("1")), None);
        assert_eq!((of("0", None), of("soon", None), watchdog(None, None)), (None, None, None));
    }
}
