//! The server's end of shared links: it announces the offered services and receives the sessions that the
//! opener opens.
//!
//! A link that should go (the gateway drains, its certificates have changed, it is too old, there are too many)
//! is not closed from here, since a session may already be on its way, or bytes of the last one on theirs to a slow
//! client. The opener is asked instead, and closes the link when it gets to it. If it stays alive but does not close
//! it, what it opens is refused after [`CROSSING_MAX`](super::agreement::CROSSING_MAX), and the link is dropped after
//! [`DRAIN_TIMEOUT`](super::DRAIN_TIMEOUT) without a session that was carried. A locked gateway loses its links at once.
//!
//! What becomes of a session is not here: whoever serves a link asks for the next one.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Peer,
    agreement::{AgreedLink, AgreedLinkEvent},
    error::IdleLinkError,
    generation::TermsGeneration,
    handshake::{HandshakeTerms, HelloEnd},
    lockdown::Lockdown,
    multiplex::handle::IncomingSession,
    offered_services::OfferedServices,
};
use crate::proto::multiplex::{frame::FrameType, open::OpenRequest};

/// Time between two offers on one link: if a service comes and goes all the time, offers are sent as often as
/// openers accept them.
const OFFER_INTERVAL: Duration = Duration::from_millis(300);

/// Why an idle link has ended.
#[derive(Debug, Clone)]
pub enum IdleLossReason {
    /// We asked for it, or its opener said that it retires the link.
    Retired,
    /// Its opener drains and wants no links.
    Drained,
    Failed(IdleLinkError),
}

/// A link that has ended: how long it was up, and why it ended.
#[derive(Debug)]
pub struct LinkLost {
    pub lifetime: Duration,
    pub why: IdleLossReason,
}

/// The serving ends of a half's links.
#[derive(Debug)]
pub struct LinkServer {
    offered: Arc<ArcSwap<OfferedServices>>,
    /// Notified when the offer has changed.
    offers: watch::Sender<()>,
    drained: CancellationToken,
    /// Gateways that are locked keep no links.
    lockdown: Lockdown,
    generation: Arc<TermsGeneration>,
}

/// A link that is served.
#[derive(Debug)]
pub struct ServedLink {
    server: Arc<LinkServer>,
    link: Box<AgreedLink>,
    offers: watch::Receiver<()>,
    next_offer_at: Instant,
}

impl LinkServer {
    pub fn new(offered: Arc<ArcSwap<OfferedServices>>) -> Arc<Self> {
        Arc::new(Self {
            lockdown: offered.load().lockdown.clone(),
            offered,
            offers: watch::Sender::new(()),
            drained: CancellationToken::new(),
            generation: Arc::default(),
        })
    }

    /// What its links are established with.
    pub fn terms(&self) -> HandshakeTerms {
        HandshakeTerms { end: HelloEnd::Serves(self.offered.clone()), generation: self.generation.clone() }
    }

    /// Tells the opener of each link that the services or their states have changed.
    pub fn send_offers(&self) {
        self.offers.send_replace(());
    }

    /// Serves an established link.
    pub fn serve(self: &Arc<Self>, mut link: Box<AgreedLink>) -> ServedLink {
        link.obey_lockdown(self.lockdown.clone());
        let mut offers = self.offers.subscribe();
        // What its `hello` said may already be out of date.
        offers.mark_changed();
        ServedLink { server: self.clone(), link, offers, next_offer_at: Instant::now() }
    }

    /// Whether a peer may have no link now.
    pub fn locks(&self, peer: &Peer) -> bool {
        self.lockdown.locks_links(Some(&peer.label()))
    }

    /// Takes no more sessions, on any link.
    pub fn drain(&self) {
        self.drained.cancel();
    }

    /// The generation of the terms that its links were opened under; when it ends, each opener is asked to
    /// close its link.
    pub fn generation(&self) -> &Arc<TermsGeneration> {
        &self.generation
    }
}

impl ServedLink {
    pub fn peer(&self) -> &Peer {
        self.link.peer()
    }

    /// The next session that its peer opens, until the link ends. It may be dropped and asked for again.
    pub async fn next_session(&mut self) -> Result<(Box<OpenRequest>, IncomingSession), LinkLost> {
        let Self { server, link, offers, next_offer_at } = self;
        let peer = link.peer().clone();
        loop {
            let requested = async {
                server.drained.cancelled().await;
                FrameType::Drain
            };
            let event = tokio::select! {
                biased;
                // Both can be dropped and created again without losing anything.
                () = offer_changed(offers, *next_offer_at) => {
                    offers.mark_unchanged();
                    link.offer(server.offered.load().services_for(&peer));
                    *next_offer_at = Instant::now() + OFFER_INTERVAL;
                    continue;
                }
                event = link.next_event(requested) => event,
            };
            match event {
                AgreedLinkEvent::Opened(request, session) => return Ok((request, session)),
                // Only this end makes offers.
                AgreedLinkEvent::Leaves(_) | AgreedLinkEvent::HasRoom | AgreedLinkEvent::Offers(_) => {}
                AgreedLinkEvent::Ended(why) => return Err(LinkLost { lifetime: link.lifetime(), why }),
            }
        }
    }
}

/// Waits until an offer is due; the change is marked as seen, but not consumed.
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
        time::timeout,
    };

    use super::*;
    use crate::{
        link::{
            DRAIN_TIMEOUT, LINGERING_CLOSE_TIMEOUT,
            agreement::{Agreement, CROSSING_MAX},
            keeper::STABLE_PERIOD,
            link_services::LinkServices,
            liveness::PING_INTERVAL,
        },
        net::{
            pipe::{PipeEnd, pipe},
            stream::NetStream,
        },
        profile::ServiceName,
        proto::{
            Refusal,
            multiplex::{
                decoder::{DecodedPiece, FrameReader},
                frame::{CutCause, HEADER_BYTES, LinkFrame},
                state::LinkEnd,
            },
        },
        telemetry::snapshot::LockdownRow,
    };

    /// A server's established link, and its opener's end.
    async fn agreed_link(retired: CancellationToken) -> (Box<AgreedLink>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        let (theirs, ours) = tokio::join!(TcpStream::connect(at), listener.accept());
        let (theirs, ours) = (theirs.expect("it connects"), ours.expect("it connects").0);
        (link_over(NetStream::Tcp(ours), retired), theirs)
    }

    /// A link without sockets, whose bytes take real time that a paused clock does not wait for.
    fn piped_link(retired: CancellationToken) -> (Box<AgreedLink>, PipeEnd) {
        let (ours, theirs) = pipe();
        (link_over(NetStream::Pipe(Box::new(ours)), retired), theirs)
    }

    fn link_over(stream: NetStream, retired: CancellationToken) -> Box<AgreedLink> {
        let peer = Peer { name: None, address: "peer".into(), instance: None };
        let agreed = Agreement {
            end: LinkEnd::Server,
            sessions_max: 8,
            serves: LinkServices::default(),
            retire: DRAIN_TIMEOUT * 6,
            retired,
        };
        AgreedLink::new(stream, peer, agreed)
    }

    async fn send_frame(theirs: &mut TcpStream, frame: LinkFrame) {
        let mut sent = Vec::new();
        frame.push(&mut sent, 0);
        theirs.write_all(&sent).await.expect("it is taken");
    }

    /// Answers pings until the link ends, and sends nothing else.
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

    /// An opener that obeys nothing: it answers pings, and opens two sessions each time. The second one it resets
    /// at once. Returns the refusals that it got.
    async fn opens_whatever_it_is_asked(mut theirs: PipeEnd) -> Vec<Refusal> {
        let (mut refused, mut number) = (Vec::new(), 0);
        let mut reader = FrameReader::new(LinkEnd::Server);
        let mut received = [0; 4096];
        while let Ok(count @ 1..) = theirs.read(&mut received).await {
            let (mut bytes, mut sent) = (&received[..count], Vec::new());
            while let Some(piece) = reader.decode(&mut bytes).expect("frames of ours") {
                match piece {
                    DecodedPiece::Frame { frame: LinkFrame::Ping(token), .. } => {
                        LinkFrame::Pong(token).push(&mut sent, 0);
                        for is_reset in [false, true] {
                            number += 1;
                            let service = ServiceName::parse("orders").expect("a name");
                            let request = OpenRequest::new(service, format!("s-{number}"));
                            LinkFrame::Open(Box::new(request)).push(&mut sent, number);
                            if is_reset {
                                LinkFrame::Reset(CutCause::Client).push(&mut sent, number);
                            }
                        }
                    }
                    DecodedPiece::Frame { frame: LinkFrame::Refused(refusal), .. } => refused.push(refusal),
                    _ => {}
                }
            }
            if theirs.write_all(&sent).await.is_err() {
                break;
            }
        }
        refused
    }

    /// Leaves each session to itself until the link has ended; how long after `since` the last one came.
    async fn ends_under_opens(mut served: ServedLink, since: Instant) -> (LinkLost, Duration) {
        let mut last = Duration::ZERO;
        let ending = async {
            loop {
                match served.next_session().await {
                    Ok((_, session)) => {
                        last = since.elapsed();
                        session.refuse(Refusal::NotAllowed).await;
                    }
                    Err(lost) => return lost,
                }
            }
        };
        let lost = timeout(2 * DRAIN_TIMEOUT, ending).await.expect("it ends");
        (lost, last)
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_whose_opener_ignores_that_it_is_asked_to_leave_is_dropped() {
        for drains in [false, true] {
            let retired = CancellationToken::new();
            let (link, theirs) = piped_link(retired.clone());
            let (server, served) = serve(link);
            let asked_at = Instant::now();
            match drains {
                true => server.drain(),
                false => retired.cancel(),
            }
            let talk = opens_whatever_it_is_asked(theirs);
            let ((LinkLost { why, .. }, last), refused) =
                tokio::join!(ends_under_opens(served, asked_at), talk);
            let took = asked_at.elapsed();
            assert!(matches!(why, IdleLossReason::Retired), "{why:?}");
            assert!((DRAIN_TIMEOUT..=DRAIN_TIMEOUT + PING_INTERVAL).contains(&took), "{took:?}");
            assert!(last < CROSSING_MAX, "a session came {last:?} after it was asked to leave");
            let unseen = refused.iter().filter(|refusal| **refusal == Refusal::OtherLink).count();
            assert!(unseen > 50, "{refused:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_locked_gateway_loses_its_link_whatever_it_does() {
        for is_asked_before in [false, true] {
            let (link, theirs) = piped_link(CancellationToken::new());
            let (server, served) = serve(link);
            if is_asked_before {
                server.drain();
            }
            let locks = async {
                sleep_until(Instant::now() + 4 * PING_INTERVAL).await;
                let row = LockdownRow { peer: Some("peer".into()), service: None, since: String::new() };
                server.lockdown.set_rows(vec![row]);
                Instant::now()
            };
            let talk = opens_whatever_it_is_asked(theirs);
            let ends = async {
                let (lost, _) = ends_under_opens(served, Instant::now()).await;
                (lost, Instant::now())
            };
            let (locked_at, (lost, ended_at), _) = tokio::join!(locks, ends, talk);
            let took = ended_at - locked_at;
            assert!(
                (LINGERING_CLOSE_TIMEOUT..LINGERING_CLOSE_TIMEOUT + Duration::from_millis(10))
                    .contains(&took),
                "{took:?}"
            );
            assert!(matches!(lost.why, IdleLossReason::Retired), "{:?}", lost.why);
        }
    }

    fn serve(link: Box<AgreedLink>) -> (Arc<LinkServer>, ServedLink) {
        let server = LinkServer::new(Arc::new(ArcSwap::from_pointee(OfferedServices::default())));
        let served = server.serve(link);
        (server, served)
    }

    async fn ends(mut served: ServedLink) -> LinkLost {
        let opened = timeout(2 * DRAIN_TIMEOUT, served.next_session()).await.expect("it ends");
        opened.expect_err("nobody opens a session")
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_whose_opener_announces_leaving_and_stays_is_dropped() {
        for (announced, expected) in
            [(LinkFrame::Retire, IdleLossReason::Retired), (LinkFrame::Drain, IdleLossReason::Drained)]
        {
            let (link, mut theirs) = agreed_link(CancellationToken::new()).await;
            send_frame(&mut theirs, announced).await;
            link.tcp().expect("it is one").readable().await.expect("it lives");
            let (_server, served) = serve(link);
            let (LinkLost { lifetime, why }, ()) = tokio::join!(ends(served), answers(&mut theirs));
            assert_eq!(discriminant(&why), discriminant(&expected));
            assert!(
                (DRAIN_TIMEOUT..DRAIN_TIMEOUT + Duration::from_millis(10)).contains(&lifetime),
                "{lifetime:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_new_link_that_this_end_has_asked_to_go_is_no_failure_of_its_opener() {
        for goodbye_sent in [None, Some(FrameType::Drain), Some(FrameType::Retire)] {
            let expired = CancellationToken::new();
            let (link, mut theirs) = agreed_link(expired.clone()).await;
            let (server, served) = serve(link);
            match goodbye_sent {
                Some(FrameType::Drain) => server.drain(),
                Some(_) => expired.cancel(),
                None => {}
            }
            let talks = async {
                if let Some(expected) = goodbye_sent {
                    let mut requested = [0; HEADER_BYTES];
                    theirs.read_exact(&mut requested).await.expect("it is asked");
                    assert_eq!(requested, [expected as u8, 0, 0, 0, 0, 0, 0, 0]);
                }
                // The opener closes it in good order.
                send_frame(&mut theirs, LinkFrame::Retire).await;
                theirs.shutdown().await.expect("it ends");
            };
            let (LinkLost { lifetime, why }, ()) = tokio::join!(ends(served), talks);
            assert!(lifetime < STABLE_PERIOD, "{lifetime:?}");
            match goodbye_sent {
                Some(_) => {
                    assert!(matches!(why, IdleLossReason::Retired), "this end had asked by {goodbye_sent:?}")
                }
                None => {
                    assert!(matches!(why, IdleLossReason::Failed(IdleLinkError::ClosedAtOnce)), "{why:?}")
                }
            }
        }
    }
}
