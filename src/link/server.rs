//! The serving end of links that carry one session after another: waits for `open`, over and over.
//!
//! A link that should go (the gateway drains, its certificates have changed, it is too old, there are too many)
//! is not closed from here, since a session may already be on its way, or bytes of the last one on theirs to a slow
//! client. The opener is asked instead, and closes the link when it gets to it. A link whose opener stays alive but
//! does not close it is dropped after [`GOODBYE`].

use std::{
    fmt,
    future::poll_fn,
    io,
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    GOODBYE, Peer,
    framed::{Link, LinkEvent, LinkOwner},
    generation::TermsGeneration,
    keeper::LIVED,
    liveness::ReadState,
};
use crate::{
    proto::link::{frame::FrameKind, open::OpenFrame},
    tasks::Tasks,
};

/// Serves one session; the link comes back by itself.
pub type SessionOpened = Arc<dyn Fn(Box<Link>, OpenFrame) -> BoxFuture<'static, ()> + Send + Sync>;
/// Told of each link that ends without a session, how long it stood idle, and why.
pub type IdleLinkLost = Arc<dyn Fn(&Peer, Duration, IdleLossReason) + Send + Sync>;

/// Why an idle link has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdleLossReason {
    /// We had asked for it, or its opener said that it retires it.
    Retired,
    /// Its opener drains, and wants no links.
    Drained,
    /// Closed without a word, cut, or silent.
    Failed(String),
}

impl IdleLossReason {
    /// A link that its other end lets go as soon as it stands has failed: another one would fare alike.
    /// One that this end has asked for is none of the other's doing.
    pub fn of_link(self, link: &Link, stood: Duration) -> Self {
        let is_theirs = self == Self::Retired && link.leaving().is_some() && !link.has_asked_to_leave();
        match is_theirs && link.session() == 0 && stood < LIVED {
            true => Self::Failed("the other gateway lets new links go at once".into()),
            false => self,
        }
    }
}

/// The serving ends of one way.
pub struct LinkServer {
    tasks: Tasks,
    opened: SessionOpened,
    lost: IdleLinkLost,
    drained: CancellationToken,
    generation: Arc<TermsGeneration>,
}

impl fmt::Debug for LinkServer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Server")
    }
}

impl LinkServer {
    pub fn new(tasks: Tasks, opened: SessionOpened, lost: IdleLinkLost) -> Arc<Self> {
        Arc::new(Self { tasks, opened, lost, drained: CancellationToken::new(), generation: Arc::default() })
    }

    /// A link stands; its sessions are served until it ends.
    pub fn serve_link(self: &Arc<Self>, mut link: Box<Link>) {
        let home: Weak<Self> = Arc::downgrade(self);
        link.set_owner(home);
        self.clone().take_back(link);
    }

    /// No more sessions, on any link.
    pub fn drain(&self) {
        self.drained.cancel();
    }

    /// How long what is agreed with its links holds; at its end each is asked to be closed.
    pub fn generation(&self) -> &Arc<TermsGeneration> {
        &self.generation
    }

    async fn serve_idle(self: Arc<Self>, mut link: Box<Link>) {
        let since = Instant::now();
        match self.next_open(&mut link).await {
            Ok(open) => (self.opened)(link, open).await,
            Err(loss) => {
                let peer = link.peer().clone();
                let loss = loss.of_link(&link, since.elapsed());
                // Its seat is free before anybody looks.
                drop(link);
                (self.lost)(&peer, since.elapsed(), loss);
            }
        }
    }

    async fn next_open(&self, link: &mut Link) -> Result<OpenFrame, IdleLossReason> {
        let retired = link.retired().clone();
        let mut look_at = pin!(sleep_until(link.next_check().min(link.expires_at())));
        // Its opener may have said so under its last session.
        let mut gone_by = link.leaving().map(|_| Instant::now() + GOODBYE);
        loop {
            let asks = tokio::select! {
                biased;
                event = poll_fn(|cx| link.poll_event(cx)) => match event {
                    Ok(LinkEvent::Open(open)) => return Ok(open),
                    Ok(LinkEvent::Leaving(_)) => {
                        gone_by.get_or_insert_with(|| Instant::now() + GOODBYE);
                        None
                    }
                    Ok(LinkEvent::Closed) => return Err(closed_reason(link, gone_by.is_some())),
                    Err(error) => return Err(IdleLossReason::Failed(error.to_string())),
                },
                () = self.drained.cancelled(), if gone_by.is_none() => Some(FrameKind::Drain),
                () = retired.cancelled(), if gone_by.is_none() => Some(FrameKind::Retire),
                () = look_at.as_mut() => {
                    check_link(link).await?;
                    let is_too_many = || link.guard().is_some_and(|seat| seat.counts().take_surplus());
                    let asks = gone_by.is_none() && (link.is_worn() || is_too_many());
                    let worn_at = (gone_by.is_none() && !asks).then(|| link.expires_at());
                    look_at.as_mut().reset(worn_at.map_or(link.next_check(), |at| at.min(link.next_check())));
                    asks.then_some(FrameKind::Retire)
                }
                () = wait_until(gone_by) => return Err(closed_reason(link, true)),
            };
            if let Some(kind) = asks {
                gone_by = Some(Instant::now() + GOODBYE);
                let told = link.stage_leave(kind);
                told.map_err(|error| IdleLossReason::Failed(error.to_string()))?;
                flush(link).await.map_err(|error| IdleLossReason::Failed(error.to_string()))?;
            }
        }
    }
}

impl LinkOwner for LinkServer {
    fn take_back(self: Arc<Self>, link: Box<Link>) {
        self.tasks.clone().spawn("link", self.serve_idle(link));
    }
}

fn closed_reason(link: &Link, asked: bool) -> IdleLossReason {
    match link.leaving() {
        Some(FrameKind::Drain) => IdleLossReason::Drained,
        Some(_) => IdleLossReason::Retired,
        None if asked => IdleLossReason::Retired,
        None => IdleLossReason::Failed("the peer closed it".into()),
    }
}

async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn check_link(link: &mut Link) -> Result<(), IdleLossReason> {
    let looked = poll_fn(|cx| std::task::Poll::Ready(link.check_alive(ReadState::Yes, cx))).await;
    looked.map_err(|error| IdleLossReason::Failed(error.to_string()))
}

/// What the kernel does not take at once goes out with the next look.
async fn flush(link: &mut Link) -> io::Result<()> {
    poll_fn(|cx| match link.poll_flush(cx) {
        std::task::Poll::Ready(Err(error)) => std::task::Poll::Ready(Err(error)),
        _ => std::task::Poll::Ready(Ok(())),
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        sync::mpsc,
        time::timeout,
    };

    use super::*;
    use crate::{
        net::stream::NetStream,
        proto::link::{
            frame,
            hello::{GrantHello, OfferHello},
            state::LinkRole,
        },
    };

    /// A server's link that has been greeted, and its opener's end.
    async fn greeted() -> (Box<Link>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        let (theirs, ours) = tokio::join!(TcpStream::connect(at), listener.accept());
        let (mut theirs, ours) = (theirs.expect("it connects"), ours.expect("it connects").0);
        let peer = Peer { name: None, address: "peer".into() };
        let mut link = Box::new(Link::new(NetStream::Tcp(ours), peer, LinkRole::Server));
        let offer = OfferHello { services: Vec::new(), target: 1, maximum: 8 }.body();
        link.stage(FrameKind::Hello, &offer).expect("it is due");
        poll_fn(|cx| link.poll_flush(cx)).await.expect("it is taken");
        theirs.read_exact(&mut vec![0; frame::HEADER + offer.len()]).await.expect("a hello");
        says(
            &mut theirs,
            FrameKind::Hello,
            &GrantHello { services: Vec::new(), links: 8, data: 1024 }.body(),
        )
        .await;
        poll_fn(|cx| link.poll_handshake(cx)).await.expect("a hello");
        (link, theirs)
    }

    async fn says(theirs: &mut TcpStream, kind: FrameKind, body: &[u8]) {
        let mut said = Vec::new();
        frame::push(&mut said, kind, body);
        theirs.write_all(&said).await.expect("it is taken");
    }

    /// Answers pings until the link ends; nothing else is said on it.
    async fn answers(theirs: &mut TcpStream) {
        let mut ping = [0; frame::HEADER + frame::TOKEN];
        while theirs.read_exact(&mut ping).await.is_ok() {
            let (header, token) = ping.split_at(frame::HEADER);
            assert_eq!(header, [FrameKind::Ping as u8, 0, 0, frame::TOKEN as u8]);
            let mut pong = Vec::new();
            frame::push(&mut pong, FrameKind::Pong, token);
            if theirs.write_all(&pong).await.is_err() {
                return;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_whose_opener_says_that_it_leaves_and_stays_is_dropped() {
        for (kind, expected) in
            [(FrameKind::Retire, IdleLossReason::Retired), (FrameKind::Drain, IdleLossReason::Drained)]
        {
            for is_told_before in [true, false] {
                let (mut link, mut theirs) = greeted().await;
                says(&mut theirs, kind, &[]).await;
                if is_told_before {
                    // As under a session.
                    let event = poll_fn(|cx| link.poll_event(cx)).await;
                    assert!(matches!(event, Ok(LinkEvent::Leaving(_))), "{event:?}");
                }
                let (tell, mut told) = mpsc::channel(1);
                let lost: IdleLinkLost =
                    Arc::new(move |_, stood, loss| tell.try_send((stood, loss)).expect("it is heard"));
                let opened: SessionOpened = Arc::new(|_, open| panic!("nobody says {open:?}"));
                let server = LinkServer::new(Tasks::default(), opened, lost);
                server.serve_link(link);
                let ends = timeout(2 * GOODBYE, told.recv());
                let (ended, ()) = tokio::join!(ends, answers(&mut theirs));
                let (stood, loss) = ended.expect("it ends").expect("it is told");
                assert_eq!(loss, expected);
                assert!(stood >= GOODBYE && stood < GOODBYE + Duration::from_millis(10), "{stood:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_new_link_that_this_end_has_asked_to_go_is_no_failure_of_its_opener() {
        for (asks, expected) in
            [(None, None), (Some(FrameKind::Drain), Some(10)), (Some(FrameKind::Retire), Some(11))]
        {
            let (mut link, mut theirs) = greeted().await;
            let worn = CancellationToken::new();
            link.set_agreement([], worn.clone());
            let (tell, mut told) = mpsc::channel(1);
            let lost: IdleLinkLost =
                Arc::new(move |_, stood, loss| tell.try_send((stood, loss)).expect("it is heard"));
            let opened: SessionOpened = Arc::new(|_, open| panic!("nobody says {open:?}"));
            let server = LinkServer::new(Tasks::default(), opened, lost);
            server.serve_link(link);
            match asks {
                Some(FrameKind::Drain) => server.drain(),
                Some(_) => worn.cancel(),
                None => {}
            }
            if let Some(expected) = expected {
                let mut asked = [0; frame::HEADER];
                theirs.read_exact(&mut asked).await.expect("it is asked");
                assert_eq!(asked, [expected, 0, 0, 0]);
            }
            // The opener lets it go in good order.
            says(&mut theirs, FrameKind::Retire, &[]).await;
            theirs.shutdown().await.expect("it ends");
            let ended = timeout(Duration::from_secs(10), told.recv()).await;
            let (stood, loss) = ended.expect("it ends").expect("it is told");
            assert!(stood < LIVED, "{stood:?}");
            match asks {
                Some(_) => assert_eq!(loss, IdleLossReason::Retired, "this end had asked by {asks:?}"),
                None => assert!(
                    matches!(&loss, IdleLossReason::Failed(why) if why.contains("at once")),
                    "{loss:?}"
                ),
            }
        }
    }
}
