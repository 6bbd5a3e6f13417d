//! The serving end of links that sessions share: each `open` becomes a session of its own.
//!
//! A link that should go (the gateway drains, its certificates have changed, it is too old, there are too many)
//! is not closed from here, since a session may already be on its way, or bytes of the last one on theirs to a slow
//! client. The opener is asked instead, and closes the link when it gets to it. A link whose opener stays alive but
//! does not close it is dropped after [`GOODBYE`].

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Peer,
    agreement::{AgreedLink, AgreedLinkEvent},
    failure::IdleLinkFailure,
    generation::TermsGeneration,
    lockdown::Lockdown,
    multiplex::handle::IncomingSession,
};
use crate::{
    proto::multiplex::{frame::FrameType, hello::ServiceOffer, open::OpenRequest},
    tasks::Tasks,
};

/// Between two offers on one link: a service that comes and goes all the time is told as often as openers take it.
const OFFER_PAUSE: Duration = Duration::from_millis(300);

/// Serves one session that a peer has opened.
pub type SessionOpened =
    Arc<dyn Fn(&Peer, Box<OpenRequest>, IncomingSession) -> BoxFuture<'static, ()> + Send + Sync>;
/// What a peer is offered now.
pub type CurrentOffer = Arc<dyn Fn(&Peer) -> Vec<ServiceOffer> + Send + Sync>;
/// Told of each link that ends without a session, how long it stood idle, and why.
pub type IdleLinkLost = Arc<dyn Fn(&Peer, Duration, IdleLossReason) + Send + Sync>;

/// Why an idle link has ended.
#[derive(Debug, Clone)]
pub enum IdleLossReason {
    /// We had asked for it, or its opener said that it retires it.
    Retired,
    /// Its opener drains, and wants no links.
    Drained,
    Failed(IdleLinkFailure),
}

/// The serving ends of one way.
pub struct LinkServer {
    tasks: Tasks,
    opened: SessionOpened,
    offer: CurrentOffer,
    /// Told when what is offered is another.
    offers: watch::Sender<()>,
    lost: IdleLinkLost,
    drained: CancellationToken,
    lockdown: Lockdown,
    generation: Arc<TermsGeneration>,
}

impl fmt::Debug for LinkServer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Server")
    }
}

impl LinkServer {
    pub fn new(tasks: Tasks, opened: SessionOpened, offer: CurrentOffer, lost: IdleLinkLost) -> Arc<Self> {
        Self::with_lockdown(Lockdown::default(), tasks, opened, offer, lost)
    }

    /// The same, without links to gateways that are locked.
    pub fn with_lockdown(
        lockdown: Lockdown,
        tasks: Tasks,
        opened: SessionOpened,
        offer: CurrentOffer,
        lost: IdleLinkLost,
    ) -> Arc<Self> {
        Arc::new(Self {
            tasks,
            opened,
            offer,
            offers: watch::Sender::new(()),
            lost,
            drained: CancellationToken::new(),
            lockdown,
            generation: Arc::default(),
        })
    }

    /// The services or their states have changed: the opener of each link hears of it.
    pub fn send_offers(&self) {
        self.offers.send_replace(());
    }

    /// A link stands; its sessions are served until it ends.
    pub fn serve_link(self: &Arc<Self>, link: Box<AgreedLink>) {
        self.tasks.spawn("link", self.clone().drive_link(link));
    }

    /// No more sessions, on any link.
    pub fn drain(&self) {
        self.drained.cancel();
    }

    /// How long what is agreed with its links holds; at its end each is asked to be closed.
    pub fn generation(&self) -> &Arc<TermsGeneration> {
        &self.generation
    }

    async fn drive_link(self: Arc<Self>, mut link: Box<AgreedLink>) {
        let peer = link.peer().clone();
        let mut offers = self.offers.subscribe();
        // What its `hello` said may be old already.
        offers.mark_changed();
        let mut next_offer_at = Instant::now();
        loop {
            let requested = async {
                tokio::select! {
                    () = self.drained.cancelled() => {}
                    () = self.lockdown.locked(&peer) => {}
                }
                FrameType::Drain
            };
            let event = tokio::select! {
                biased;
                // Dropped and asked for again, neither loses anything.
                () = offer_changed(&mut offers, next_offer_at) => {
                    offers.mark_unchanged();
                    link.offer((self.offer)(&peer));
                    next_offer_at = Instant::now() + OFFER_PAUSE;
                    continue;
                }
                event = link.next_event(requested) => event,
            };
            match event {
                AgreedLinkEvent::Opened(request, session) => {
                    self.tasks.spawn("session", (self.opened)(&peer, request, session));
                }
                // The offers are this end's own.
                AgreedLinkEvent::Leaves(_) | AgreedLinkEvent::HasRoom | AgreedLinkEvent::Offers(_) => {}
                AgreedLinkEvent::Ended(loss) => {
                    let lifetime = link.lifetime();
                    // Its guard is free before anybody looks.
                    drop(link);
                    return (self.lost)(&peer, lifetime, loss);
                }
            }
        }
    }
}

/// Waits until an offer is due; what has changed is seen, and not taken.
async fn offer_changed(offers: &mut watch::Receiver<()>, not_before: Instant) {
    let has_changed = || offers.has_changed().unwrap_or_default();
    if !has_changed() && offers.changed().await.is_ok() {
        offers.mark_changed();
    }
    sleep_until(not_before).await;
}

#[cfg(test)]
mod tests {
    use std::mem::discriminant;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        sync::mpsc,
        time::timeout,
    };

    use super::*;
    use crate::{
        link::{GOODBYE, agreement::Agreement, keeper::LIVED, link_services::LinkServices},
        net::stream::NetStream,
        proto::multiplex::{
            frame::{HEADER_BYTES, LinkFrame},
            state::LinkEnd,
        },
    };

    /// A server's link that stands, and its opener's end.
    async fn agreed_link(retired: CancellationToken) -> (Box<AgreedLink>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        let (theirs, ours) = tokio::join!(TcpStream::connect(at), listener.accept());
        let (theirs, ours) = (theirs.expect("it connects"), ours.expect("it connects").0);
        let peer = Peer { name: None, address: "peer".into(), instance: None };
        let agreed = Agreement {
            end: LinkEnd::Server,
            sessions_max: 8,
            serves: LinkServices::default(),
            retire: GOODBYE * 6,
            retired,
        };
        (AgreedLink::new(NetStream::Tcp(ours), peer, agreed), theirs)
    }

    async fn send_frame(theirs: &mut TcpStream, frame: LinkFrame) {
        let mut sent = Vec::new();
        frame.push(&mut sent, 0);
        theirs.write_all(&sent).await.expect("it is taken");
    }

    /// Answers pings until the link ends; nothing else is said on it.
    async fn answers(theirs: &mut TcpStream) {
        let mut ping = [0; HEADER_BYTES + 8];
        while theirs.read_exact(&mut ping).await.is_ok() {
            let (header, token) = ping.split_at(HEADER_BYTES);
            assert_eq!(header, [FrameType::Ping as u8, 0, 0, 8, 0, 0, 0, 0]);
            let mut pong = Vec::new();
            LinkFrame::Pong(token.try_into().expect("eight bytes")).push(&mut pong, 0);
            if theirs.write_all(&pong).await.is_err() {
                return;
            }
        }
    }

    fn serve(link: Box<AgreedLink>) -> (Arc<LinkServer>, mpsc::Receiver<(Duration, IdleLossReason)>) {
        let (tell, reported) = mpsc::channel(1);
        let lost: IdleLinkLost =
            Arc::new(move |_, lifetime, loss| tell.try_send((lifetime, loss)).expect("it is heard"));
        let opened: SessionOpened = Arc::new(|_, open, _| panic!("nobody says {open:?}"));
        let server = LinkServer::new(Tasks::default(), opened, Arc::new(|_| Vec::new()), lost);
        server.serve_link(link);
        (server, reported)
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_whose_opener_says_that_it_leaves_and_stays_is_dropped() {
        for (says_so, expected) in
            [(LinkFrame::Retire, IdleLossReason::Retired), (LinkFrame::Drain, IdleLossReason::Drained)]
        {
            let (link, mut theirs) = agreed_link(CancellationToken::new()).await;
            send_frame(&mut theirs, says_so).await;
            link.tcp().expect("it is one").readable().await.expect("it lives");
            let (_server, mut reported) = serve(link);
            let ends = timeout(2 * GOODBYE, reported.recv());
            let (ended, ()) = tokio::join!(ends, answers(&mut theirs));
            let (lifetime, loss) = ended.expect("it ends").expect("it is told");
            assert_eq!(discriminant(&loss), discriminant(&expected));
            assert!(lifetime >= GOODBYE && lifetime < GOODBYE + Duration::from_millis(10), "{lifetime:?}");
        }
    }

    #[tokio::test]
    async fn a_new_link_that_this_end_has_asked_to_go_is_no_failure_of_its_opener() {
        for goodbye_sent in [None, Some(FrameType::Drain), Some(FrameType::Retire)] {
            let worn = CancellationToken::new();
            let (link, mut theirs) = agreed_link(worn.clone()).await;
            let (server, mut reported) = serve(link);
            match goodbye_sent {
                Some(FrameType::Drain) => server.drain(),
                Some(_) => worn.cancel(),
                None => {}
            }
            if let Some(expected) = goodbye_sent {
                let mut requested = [0; HEADER_BYTES];
                theirs.read_exact(&mut requested).await.expect("it is asked");
                assert_eq!(requested, [expected as u8, 0, 0, 0, 0, 0, 0, 0]);
            }
            // The opener lets it go in good order.
            send_frame(&mut theirs, LinkFrame::Retire).await;
            theirs.shutdown().await.expect("it ends");
            let ended = timeout(Duration::from_secs(10), reported.recv()).await;
            let (lifetime, loss) = ended.expect("it ends").expect("it is told");
            assert!(lifetime < LIVED, "{lifetime:?}");
            match goodbye_sent {
                Some(_) => {
                    assert!(matches!(loss, IdleLossReason::Retired), "this end had asked by {goodbye_sent:?}")
                }
                None => {
                    assert!(matches!(loss, IdleLossReason::Failed(IdleLinkFailure::LetGoAtOnce)), "{loss:?}")
                }
            }
        }
    }
}
