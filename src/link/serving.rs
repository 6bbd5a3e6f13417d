//! The serving end of links that carry session after session: waits for `open`, over and over.
//!
//! A link that should go (the gateway drains, its certificates have changed, it is worn, there are
//! too many) is not closed from here, since a session may be on its way, and bytes of the last one
//! may be on theirs to a slow client: the opener is asked, and closes it when it comes to that. One
//! that does not, though it lives, is dropped after [`LEAVE`].

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
    LEAVE, Peer,
    epoch::Epoch,
    framed::{Event, Home, Link},
    keeper::LIVED,
    liveness::Reading,
};
use crate::{
    proto::link::{frame::Kind, open::Open},
    tasks::Tasks,
};

/// Serves one session; the link comes back by itself.
pub type Opened = Arc<dyn Fn(Box<Link>, Open) -> BoxFuture<'static, ()> + Send + Sync>;
/// Told of each link that ends without a session, how long it stood idle, and why.
pub type Lost = Arc<dyn Fn(&Peer, Duration, Loss) + Send + Sync>;

/// Why an idle link has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// We had asked for it, or its opener said that it retires it.
    Retired,
    /// Its opener drains, and wants no links.
    Drained,
    /// Closed without a word, cut, or silent.
    Failed(String),
}

impl Loss {
    /// A link that its other end lets go as soon as it stands has failed: another one would fare alike.
    pub fn of_link(self, link: &Link, stood: Duration) -> Self {
        match self == Self::Retired && link.leaving().is_some() && link.session() == 0 && stood < LIVED {
            true => Self::Failed("the other gateway lets new links go at once".into()),
            false => self,
        }
    }
}

/// The serving ends of one way.
pub struct Server {
    tasks: Tasks,
    opened: Opened,
    lost: Lost,
    drained: CancellationToken,
    epoch: Arc<Epoch>,
}

impl fmt::Debug for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Server")
    }
}

impl Server {
    pub fn new(tasks: Tasks, opened: Opened, lost: Lost) -> Arc<Self> {
        Arc::new(Self { tasks, opened, lost, drained: CancellationToken::new(), epoch: Arc::default() })
    }

    /// A link stands; its sessions are served until it ends.
    pub fn stands(self: &Arc<Self>, mut link: Box<Link>) {
        let home: Weak<Self> = Arc::downgrade(self);
        link.live_at(home);
        self.clone().returned(link);
    }

    /// No more sessions, on any link.
    pub fn drain(&self) {
        self.drained.cancel();
    }

    /// How long what is agreed with its links holds; at its end each is asked to be closed.
    pub fn epoch(&self) -> &Arc<Epoch> {
        &self.epoch
    }

    async fn idle(self: Arc<Self>, mut link: Box<Link>) {
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

    async fn next_open(&self, link: &mut Link) -> Result<Open, Loss> {
        let retired = link.retired().clone();
        let mut look_at = pin!(sleep_until(link.due().min(link.dies_at())));
        // Its opener may have said so under its last session.
        let mut gone_by = link.leaving().map(|_| Instant::now() + LEAVE);
        loop {
            let asks = tokio::select! {
                biased;
                event = poll_fn(|cx| link.poll_event(cx)) => match event {
                    Ok(Event::Open(open)) => return Ok(open),
                    Ok(Event::Leaving(_)) => {
                        gone_by.get_or_insert_with(|| Instant::now() + LEAVE);
                        None
                    }
                    Ok(Event::Closed) => return Err(closed(link, gone_by.is_some())),
                    Err(error) => return Err(Loss::Failed(error.to_string())),
                },
                () = self.drained.cancelled(), if gone_by.is_none() => Some(Kind::Drain),
                () = retired.cancelled(), if gone_by.is_none() => Some(Kind::Retire),
                () = look_at.as_mut() => {
                    look(link).await?;
                    let is_too_many = || link.seat().is_some_and(|seat| seat.counts().may_go());
                    let asks = gone_by.is_none() && (link.is_worn() || is_too_many());
                    let worn_at = (gone_by.is_none() && !asks).then(|| link.dies_at());
                    look_at.as_mut().reset(worn_at.map_or(link.due(), |at| at.min(link.due())));
                    asks.then_some(Kind::Retire)
                }
                () = until(gone_by) => return Err(closed(link, true)),
            };
            if let Some(kind) = asks {
                gone_by = Some(Instant::now() + LEAVE);
                let told = link.stage_leave(kind);
                told.map_err(|error| Loss::Failed(error.to_string()))?;
                flush(link).await.map_err(|error| Loss::Failed(error.to_string()))?;
            }
        }
    }
}

impl Home for Server {
    fn returned(self: Arc<Self>, link: Box<Link>) {
        self.tasks.clone().spawn("link", self.idle(link));
    }
}

fn closed(link: &Link, asked: bool) -> Loss {
    match link.leaving() {
        Some(Kind::Drain) => Loss::Drained,
        Some(_) => Loss::Retired,
        None if asked => Loss::Retired,
        None => Loss::Failed("the peer closed it".into()),
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn look(link: &mut Link) -> Result<(), Loss> {
    let looked = poll_fn(|cx| std::task::Poll::Ready(link.check_alive(Reading::Yes, cx))).await;
    looked.map_err(|error| Loss::Failed(error.to_string()))
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
        net::stream::Stream,
        proto::link::{
            frame,
            hello::{Grant, Offer},
            state::End,
        },
    };

    /// A server's link that has been greeted, and its opener's end.
    async fn greeted() -> (Box<Link>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        let (theirs, ours) = tokio::join!(TcpStream::connect(at), listener.accept());
        let (mut theirs, ours) = (theirs.expect("it connects"), ours.expect("it connects").0);
        let peer = Peer { name: None, address: "peer".into() };
        let mut link = Box::new(Link::new(Stream::Tcp(ours), peer, End::Server));
        let offer = Offer { services: Vec::new(), target: 1, maximum: 8 }.body();
        link.stage(Kind::Hello, &offer).expect("it is due");
        poll_fn(|cx| link.poll_flush(cx)).await.expect("it is taken");
        theirs.read_exact(&mut vec![0; frame::HEADER + offer.len()]).await.expect("a hello");
        says(&mut theirs, Kind::Hello, &Grant { services: Vec::new(), links: 8, data: 1024 }.body()).await;
        poll_fn(|cx| link.poll_greeting(cx)).await.expect("a hello");
        (link, theirs)
    }

    async fn says(theirs: &mut TcpStream, kind: Kind, body: &[u8]) {
        let mut said = Vec::new();
        frame::push(&mut said, kind, body);
        theirs.write_all(&said).await.expect("it is taken");
    }

    /// Answers pings until the link ends; nothing else is said on it.
    async fn answers(theirs: &mut TcpStream) {
        let mut ping = [0; frame::HEADER + frame::TOKEN];
        while theirs.read_exact(&mut ping).await.is_ok() {
            let (header, token) = ping.split_at(frame::HEADER);
            assert_eq!(header, [Kind::Ping as u8, 0, 0, frame::TOKEN as u8]);
            let mut pong = Vec::new();
            frame::push(&mut pong, Kind::Pong, token);
            if theirs.write_all(&pong).await.is_err() {
                return;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_whose_opener_says_that_it_leaves_and_stays_is_dropped() {
        for (kind, expected) in [(Kind::Retire, Loss::Retired), (Kind::Drain, Loss::Drained)] {
            for is_told_before in [true, false] {
                let (mut link, mut theirs) = greeted().await;
                says(&mut theirs, kind, &[]).await;
                if is_told_before {
                    // As under a session.
                    let event = poll_fn(|cx| link.poll_event(cx)).await;
                    assert!(matches!(event, Ok(Event::Leaving(_))), "{event:?}");
                }
                let (tell, mut told) = mpsc::channel(1);
                let lost: Lost =
                    Arc::new(move |_, stood, loss| tell.try_send((stood, loss)).expect("it is heard"));
                let opened: Opened = Arc::new(|_, open| panic!("nobody says {open:?}"));
                let server = Server::new(Tasks::default(), opened, lost);
                server.stands(link);
                let ends = timeout(2 * LEAVE, told.recv());
                let (ended, ()) = tokio::join!(ends, answers(&mut theirs));
                let (stood, loss) = ended.expect("it ends").expect("it is told");
                assert_eq!(loss, expected);
                assert!(stood >= LEAVE && stood < LEAVE + Duration::from_millis(10), "{stood:?}");
            }
        }
    }
}
