//! The ports at which this process takes the clients of its services. A backend that leads back to those of its own
//! service gets no session: each would open the next one, until none may be opened any more.
//!
//! An address alone does not decide that, since the kernel may lead it elsewhere (NAT, IPVS). Whether a connection has
//! come in here, its port knows. So the first dial to an address that looks like an own port is announced there, and
//! the port closes what was announced.
//!
//! That is all that one process can know. A way round through another process or another host is not noticed, nor is
//! an address of another machine's that the kernel leads to a port of this one.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use socket2::{Domain, Socket, Type};
use tokio::{
    net::TcpStream,
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{listen::ListenerAddresses, tcp};
use crate::{admission::quota::DescriptorQuota, profile::ServiceName};

/// A connection to a port of this process is accepted within this time, unless its clients are at their bound:
/// then nothing is learnt from it.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Whoever gives up a connection sooner than that has still learnt, after this time, that it leads elsewhere. A check
/// that has less time than a dial would otherwise never get further.
const UNCLAIMED_DELAY: Duration = Duration::from_millis(250);
/// How long an address that leads elsewhere is dialled without asking again.
const ELSEWHERE_TTL: Duration = Duration::from_secs(300);

/// The ports of each service at which nobody comes in but its own clients.
#[derive(Debug, Clone, Default)]
pub struct OwnPorts {
    ports: Arc<ArcSwap<HashMap<ServiceName, Vec<ListenerAddresses>>>>,
    announced: Arc<AnnouncedDials>,
}

/// Those of one service at the moment.
#[derive(Debug, Clone, Default)]
pub struct ServicePorts {
    at: Vec<SocketAddr>,
    announced: Arc<AnnouncedDials>,
}

impl OwnPorts {
    /// Ports that share this bound on their clients.
    pub fn bounded_by(clients: Arc<DescriptorQuota>) -> Self {
        let announced = AnnouncedDials { clients: Some(clients), ..AnnouncedDials::default() };
        Self { ports: Arc::default(), announced: Arc::new(announced) }
    }

    pub fn set(&self, ports: HashMap<ServiceName, Vec<ListenerAddresses>>) {
        self.ports.store(Arc::new(ports));
        self.announced.elsewhere().clear();
    }

    /// Where clients of the service come in at the moment.
    pub fn of(&self, service: &ServiceName) -> ServicePorts {
        let ports = self.ports.load();
        let at = ports.get(service).into_iter().flatten().flat_map(ListenerAddresses::listens_at).collect();
        ServicePorts { at, announced: self.announced.clone() }
    }

    /// Whether a connection that has just come in at a port was dialled by this process itself, which learns it.
    pub fn is_own_dial(&self, client: SocketAddr) -> bool {
        self.announced.claim(client)
    }
}

impl ServicePorts {
    /// Whether this address looks like one of them, and is not known to lead elsewhere.
    pub(super) fn may_include(&self, to: SocketAddr) -> bool {
        self.at.iter().any(|own| is_reached_at(to, *own)) && !self.announced.is_elsewhere(to)
    }

    /// Dials an address that may be one of them; `None` if it is.
    pub(super) async fn dial_elsewhere(
        &self,
        source: Option<IpAddr>,
        to: SocketAddr,
    ) -> io::Result<Option<TcpStream>> {
        let from = source.map_or_else(|| dialled_from(to.ip()), Ok)?;
        let socket = tcp::new_dialling_socket(to.ip())?;
        socket.bind(SocketAddr::new(from, 0))?;
        let (mut announcement, came_in) = self.announced.announce(socket.local_addr()?);
        let connected = socket.connect(to).await;
        announcement.connected = connected.is_ok().then(|| (to, Instant::now()));
        // One that was closed at once may fail with that; it was claimed before.
        let within = if connected.is_ok() { ARRIVAL_TIMEOUT } else { Duration::ZERO };
        let came_in = matches!(timeout(within, came_in).await, Ok(Ok(())));
        drop(announcement);
        match came_in {
            true => Ok(None),
            false => connected.map(Some),
        }
    }
}

/// Dials of this process that may come in at its own ports.
#[derive(Debug, Default)]
struct AnnouncedDials {
    /// Read for each client; the lock is taken only while this is not 0.
    count: AtomicUsize,
    /// By the address they come from.
    under_way: Mutex<HashMap<SocketAddr, oneshot::Sender<()>>>,
    /// The addresses that lead elsewhere, and until when this counts.
    elsewhere: Mutex<HashMap<SocketAddr, Instant>>,
    /// A port whose clients are at their bound claims nothing until one of them has gone.
    clients: Option<Arc<DescriptorQuota>>,
}

/// Ends the announcement of a dial when dropped, and notes what nobody has claimed.
struct DialAnnouncement<'a> {
    dials: &'a AnnouncedDials,
    from: SocketAddr,
    /// To where it is connected, and since when.
    connected: Option<(SocketAddr, Instant)>,
}

impl AnnouncedDials {
    fn announce(&self, from: SocketAddr) -> (DialAnnouncement<'_>, oneshot::Receiver<()>) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let (claimed, came_in) = oneshot::channel();
        self.under_way().insert(from, claimed);
        self.count.fetch_add(1, Ordering::SeqCst);
        (DialAnnouncement { dials: self, from, connected: None }, came_in)
    }

    fn claim(&self, client: SocketAddr) -> bool {
        if self.count.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        let Some(claimed) = self.under_way().remove(&client) else { return false };
        // Whoever does not wait for it any more has taken the connection.
        claimed.send(()).is_ok()
    }

    fn is_elsewhere(&self, to: SocketAddr) -> bool {
        self.elsewhere().get(&to).is_some_and(|until| *until > Instant::now())
    }

    fn note_elsewhere(&self, to: SocketAddr) {
        let now = Instant::now();
        let mut elsewhere = self.elsewhere();
        elsewhere.retain(|_, until| *until > now);
        elsewhere.insert(to, now + ELSEWHERE_TTL);
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<SocketAddr, oneshot::Sender<()>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn elsewhere(&self) -> MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DialAnnouncement<'_> {
    fn drop(&mut self) {
        self.dials.count.fetch_sub(1, Ordering::SeqCst);
        let is_unclaimed = self.dials.under_way().remove(&self.from).is_some();
        if let Some((to, since)) = self.connected
            && is_unclaimed
            && since.elapsed() >= UNCLAIMED_DELAY
            && !self.dials.clients.as_ref().is_some_and(|clients| clients.is_full())
        {
            self.dials.note_elsewhere(to);
        }
    }
}

/// Whether a connection to `to`, as it is written, comes in at `own`.
fn is_reached_at(to: SocketAddr, own: SocketAddr) -> bool {
    let (ip, own_ip) = (to.ip().to_canonical(), own.ip());
    to.port() == own.port()
        && ip.is_ipv4() == own_ip.is_ipv4()
        && (ip == own_ip
            // The kernel takes this for a loopback address.
            || ip.is_unspecified() && own_ip.is_loopback()
            || own_ip.is_unspecified() && is_of_this_machine(ip))
}

fn is_of_this_machine(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || dialled_from(ip).is_ok_and(|from| from == ip)
}

/// The address from which the kernel would dial: for one of this machine's own, the same. Nothing is sent.
fn dialled_from(ip: IpAddr) -> io::Result<IpAddr> {
    let to = SocketAddr::new(ip, 9);
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None)?;
    socket.connect(&to.into())?;
    let from = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok(from.ip())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn what_comes_in_at_an_own_port_is_recognised_whatever_address_is_dialled() {
        let other = "192.0.2.1:80";
        for (to, own, comes_in) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.2:80", "127.0.0.1:80", false),
            ("127.0.0.2:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "0.0.0.0:80", true),
            ("[::ffff:127.0.0.1]:80", "0.0.0.0:80", true),
            ("[::1]:80", "[::]:80", true),
            ("[::1]:80", "0.0.0.0:80", false),
            (other, "0.0.0.0:80", false),
            (other, other, true),
        ] {
            let read = |text: &str| text.parse().expect("an address");
            assert_eq!(is_reached_at(read(to), read(own)), comes_in, "{to} at {own}");
        }
    }

    /// A port of a service, and where its clients come in.
    async fn service_port(ports: &OwnPorts) -> (TcpListener, ServicePorts) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = vec![listener.local_addr().unwrap()];
        (listener, ServicePorts { at, announced: ports.announced.clone() })
    }

    #[tokio::test]
    async fn a_dial_that_comes_in_here_is_refused() {
        let ports = OwnPorts::default();
        let (listener, own) = service_port(&ports).await;
        let to = listener.local_addr().unwrap();
        assert!(own.may_include(to));
        for _ in 0..2 {
            let accepted = async {
                let (_stream, client) = listener.accept().await.unwrap();
                assert!(ports.is_own_dial(client) && !ports.is_own_dial(client), "it is claimed once");
            };
            let (dialled, ()) = tokio::join!(own.dial_elsewhere(None, to), accepted);
            assert!(dialled.unwrap().is_none());
        }
        let (client, accepted) = tokio::join!(TcpStream::connect(to), listener.accept());
        assert!(client.is_ok() && !ports.is_own_dial(accepted.unwrap().1), "a client");
        assert_eq!(ports.announced.count.load(Ordering::SeqCst), 0);
        assert!(ports.announced.under_way().is_empty());
    }

    /// Here another process accepts what is dialled, as the kernel would lead it there.
    #[tokio::test(start_paused = true)]
    async fn a_dial_that_comes_in_elsewhere_is_used_and_the_next_one_does_not_wait() {
        let ports = OwnPorts::default();
        let (listener, own) = service_port(&ports).await;
        let to = listener.local_addr().unwrap();
        for _ in 0..2 {
            assert!(own.may_include(to));
            let began = Instant::now();
            let stream = own.dial_elsewhere(None, to).await.unwrap().unwrap();
            assert!(began.elapsed() >= ARRIVAL_TIMEOUT);
            let (_stream, client) = listener.accept().await.unwrap();
            assert_eq!(stream.local_addr().unwrap(), client, "it is dialled once");
            assert!(!ports.is_own_dial(client), "it is not announced any more");
            assert!(!own.may_include(to), "for a while nobody asks again");
            tokio::time::advance(ELSEWHERE_TTL).await;
        }
        // A check that gives up after a second has still learnt it.
        let given_up = timeout(Duration::from_secs(1), own.dial_elsewhere(None, to)).await;
        assert!(given_up.is_err() && !own.may_include(to));
        ports.set(HashMap::new());
        assert!(own.may_include(to), "other ports may be there now");
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_at_its_bound_does_not_show_that_a_dial_leads_elsewhere() {
        let clients = DescriptorQuota::new(1);
        let ports = OwnPorts::bounded_by(clients.clone());
        let (listener, own) = service_port(&ports).await;
        let to = listener.local_addr().unwrap();
        let client = clients.take().await;
        assert!(own.dial_elsewhere(None, to).await.unwrap().is_some(), "nobody has claimed it");
        assert!(own.may_include(to), "but it was not accepted yet either");
        drop(client);
        assert!(own.dial_elsewhere(None, to).await.unwrap().is_some() && !own.may_include(to));
    }
}
