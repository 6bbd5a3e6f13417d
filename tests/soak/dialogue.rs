//! One session, checked at both ends: what each end sends follows from a seed, so every byte is
//! known by its position.

use std::{io, time::Duration};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

/// Bytes of one direction.
const BYTES_MAX: u64 = 2 << 20;
const PIECE_MAX: usize = 32 * 1024;
/// What a backend says first.
const FIRST_BYTE: u8 = b'!';

/// What will be said, and how it ends.
#[derive(Debug, Clone, Copy)]
pub struct DialoguePlan {
    seed: u64,
    up: u64,
    down: u64,
    ends: Ends,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// Each side half-closes when it has sent all, and reads the other side to its end.
    Cleanly,
    ClientCuts {
        after: u64,
    },
    BackendCuts {
        after: u64,
    },
}

/// One side's view of it.
#[derive(Debug)]
pub enum DialogueResult {
    /// As planned.
    Well,
    /// It ended before its time, by a cut.
    Early(String),
    /// What must never be.
    Wrong(String),
}

/// What has been heard, and the end of it.
struct ReceivedBytes {
    count: u64,
    end: io::Result<()>,
    is_right: bool,
}

impl DialoguePlan {
    pub fn of(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        // Sizes of every order.
        let mut bytes = || (1_u64 << random.u32(0..=21)).min(BYTES_MAX);
        let (up, down) = (bytes(), bytes());
        let up = random.u64(1..=up);
        let down = random.u64(1..=down);
        let ends = match random.u8(0..8) {
            0 => Ends::ClientCuts { after: random.u64(0..up) },
            1 => Ends::BackendCuts { after: random.u64(0..down) },
            _ => Ends::Cleanly,
        };
        Self { seed, up, down, ends }
    }

    pub fn ends_cleanly(&self) -> bool {
        self.ends == Ends::Cleanly
    }

    /// The first letter of its end, as each half has to name it.
    pub fn ended_by(&self) -> char {
        match self.ends {
            Ends::Cleanly => '-',
            Ends::ClientCuts { .. } => 'C',
            Ends::BackendCuts { .. } => 'B',
        }
    }

    /// The bytes that move when nothing is cut: up, with the seed itself, and down, with the greeting.
    pub fn bytes(&self) -> (u64, u64) {
        (self.up + 8, self.down + 1)
    }
}

/// The client's side, over this connection.
pub async fn ask(mut stream: TcpStream, plan: DialoguePlan) -> DialogueResult {
    stream.set_nodelay(true).unwrap();
    // A session that stands, before anything is cut.
    let first_byte = async {
        stream.write_all(&plan.seed.to_be_bytes()).await?;
        stream.read_u8().await
    };
    match first_byte.await {
        Ok(FIRST_BYTE) => {}
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
            return DialogueResult::Early(format!("its greeting: {error}"));
        }
        other => return DialogueResult::Wrong(format!("its greeting: {other:?}")),
    }
    let cut_after = match plan.ends {
        Ends::ClientCuts { after } => Some(after),
        Ends::Cleanly | Ends::BackendCuts { .. } => None,
    };
    let is_cut = matches!(plan.ends, Ends::BackendCuts { .. });
    side(stream, Side { seed: plan.seed, sends: (1, plan.up), receives: (2, plan.down), cut_after, is_cut })
        .await
}

/// The backend's.
pub async fn answer(mut stream: TcpStream) -> DialogueResult {
    stream.set_nodelay(true).unwrap();
    let opening = async {
        let seed = stream.read_u64().await?;
        stream.write_u8(FIRST_BYTE).await?;
        Ok::<_, io::Error>(seed)
    };
    let seed = match opening.await {
        Ok(seed) => seed,
        Err(error) => return DialogueResult::Early(format!("its seed: {error}")),
    };
    let plan = DialoguePlan::of(seed);
    let cut_after = match plan.ends {
        Ends::BackendCuts { after } => Some(after),
        Ends::Cleanly | Ends::ClientCuts { .. } => None,
    };
    let is_cut = matches!(plan.ends, Ends::ClientCuts { .. });
    side(stream, Side { seed, sends: (2, plan.down), receives: (1, plan.up), cut_after, is_cut }).await
}

struct Side {
    seed: u64,
    /// Which direction, and how many bytes.
    sends: (u64, u64),
    receives: (u64, u64),
    /// It cuts the connection itself.
    cut_after: Option<u64>,
    /// The other side does.
    is_cut: bool,
}

async fn side(mut stream: TcpStream, side: Side) -> DialogueResult {
    let (seen, is_cut) = {
        let (mut reader, mut writer) = stream.split();
        let reading = read_seeded(&mut reader, side.seed ^ side.receives.0, side.receives.1);
        match side.cut_after {
            Some(after) => (cut(&mut writer, reading, side.seed ^ side.sends.0, after).await, true),
            None => (exchange(&mut writer, reading, &side).await, false),
        }
    };
    if is_cut {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    seen
}

/// Sends a part, after which the connection is to be cut, whatever arrives meanwhile.
async fn cut(
    writer: &mut (impl AsyncWrite + Unpin),
    reading: impl Future<Output = ReceivedBytes>,
    seed: u64,
    after: u64,
) -> DialogueResult {
    let failed = async {
        let received = reading.await;
        match received.end {
            // Heard out, it still has its part to say.
            Ok(()) if received.is_right => std::future::pending().await,
            Ok(()) | Err(_) => received,
        }
    };
    tokio::select! {
        sent = write_seeded(writer, seed, after) => match sent {
            Ok(()) => DialogueResult::Well,
            Err(error) => DialogueResult::Early(format!("before its own cut: {error}")),
        },
        received = failed => match received.is_right {
            true => DialogueResult::Early(format!("before its own cut: {:?}", received.end)),
            false => DialogueResult::Wrong(format!("a byte before {}", received.count)),
        },
    }
}

/// Sends everything and reads everything.
async fn exchange(
    writer: &mut (impl AsyncWrite + Unpin),
    reading: impl Future<Output = ReceivedBytes>,
    side: &Side,
) -> DialogueResult {
    let saying = async {
        write_seeded(writer, side.seed ^ side.sends.0, side.sends.1).await?;
        writer.shutdown().await
    };
    let (sent, mut received) = tokio::join!(saying, reading);
    // A socket tells of its reset once, here to the writer, and shows its reader an end afterwards.
    if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset) {
        received.end = received.end.and(Err(io::ErrorKind::ConnectionReset.into()));
    }
    let expected = side.receives.1;
    let all =
        format!("{} of {expected} bytes heard, then {:?}; said: {sent:?}", received.count, received.end);
    match (&received.end, received.count == expected) {
        _ if !received.is_right => DialogueResult::Wrong(format!("a byte before {}", received.count)),
        (Ok(()), false) => DialogueResult::Wrong(format!("a cut that looks like an end: {all}")),
        (Ok(()), true) if side.is_cut => DialogueResult::Wrong(format!("more than was said: {all}")),
        (Ok(()), true) if sent.is_ok() => DialogueResult::Well,
        (Err(_), _) if side.is_cut => DialogueResult::Well,
        (Ok(()) | Err(_), _) => DialogueResult::Early(all),
    }
}

async fn write_seeded(writer: &mut (impl AsyncWrite + Unpin), seed: u64, count: u64) -> io::Result<()> {
    let mut random = fastrand::Rng::new();
    let (mut piece, mut sent) = (vec![0; PIECE_MAX], 0);
    while sent < count {
        let length = random.usize(1..=PIECE_MAX).min((count - sent) as usize);
        fill(&mut piece[..length], seed, sent);
        writer.write_all(&piece[..length]).await?;
        sent += length as u64;
        pause(&mut random).await;
    }
    Ok(())
}

async fn read_seeded(reader: &mut (impl AsyncRead + Unpin), seed: u64, count: u64) -> ReceivedBytes {
    let mut random = fastrand::Rng::new();
    let (mut piece, mut expected, mut received) = (vec![0; PIECE_MAX], vec![0; PIECE_MAX], 0);
    loop {
        let length = random.usize(1..=PIECE_MAX);
        let end = match reader.read(&mut piece[..length]).await {
            Ok(0) => Ok(()),
            Ok(length) => {
                fill(&mut expected[..length], seed, received);
                received += length as u64;
                if piece[..length] == expected[..length] && received <= count {
                    pause(&mut random).await;
                    continue;
                }
                return ReceivedBytes { count: received, end: Ok(()), is_right: false };
            }
            Err(error) => Err(error),
        };
        return ReceivedBytes { count: received, end, is_right: true };
    }
}

/// Now and then a side is slow.
async fn pause(random: &mut fastrand::Rng) {
    if random.u8(0..12) == 0 {
        sleep(Duration::from_millis(random.u64(1..60))).await;
    }
}

/// The bytes of a direction from one place on.
fn fill(bytes: &mut [u8], seed: u64, from: u64) {
    for (at, byte) in (from..).zip(bytes) {
        *byte = word(seed, at / 8).to_le_bytes()[(at % 8) as usize];
    }
}

/// Of SplitMix64.
fn word(seed: u64, at: u64) -> u64 {
    let mut word = seed.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
