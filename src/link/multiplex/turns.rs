//! Whose turn it is: sessions that have something to send share a batch by deficit round robin, with a short list that
//! comes first.
//!
//! Those that have just become ready come first, for at most half of a batch. So a small message does not wait
//! behind bulk data, and a flood of small ones does not starve it. A turn is a quarter of a batch. The size of
//! a batch follows how fast the kernel takes it: it grows while full ones go out within [`BATCH_WAIT_MAX`]. If
//! one takes longer, it shrinks to what the connection takes in that time, so that little waits for a slow
//! connection.
//!
//! There are only numbers here: whether a session really has something to send is found out at its turn.

use std::{collections::VecDeque, time::Duration};

/// With less than this, the connection is idle before the next batch is ready.
const BATCH_BYTES_MIN: usize = 8 * 1024;
pub const BATCH_BYTES_FIRST: usize = 16 * 1024;
/// The kernel always fills a buffer of this size, however many bytes are unsent.
pub const KERNEL_BUFFER_BYTES: usize = 64 * 1024;
pub const BATCH_BYTES_MAX: usize = 256 * 1024;
/// A batch that waits longer than this for the kernel is too long, because whatever becomes ready meanwhile
/// waits behind it.
const BATCH_WAIT_MAX: Duration = Duration::from_millis(1);
/// The rate of a connection is measured over this many of its last bytes, or over those that had to wait for
/// this long.
const RATE_SAMPLE_BYTES: usize = 8 * BATCH_BYTES_MAX;
const RATE_SAMPLE_INTERVAL: Duration = Duration::from_millis(20);
const TURN_BYTES_MIN: usize = 16 * 1024;
const TURN_BYTES_MAX: usize = 64 * 1024;
/// A batch with no more room than this is full.
const BATCH_SPACE_BYTES_MIN: usize = 256;

/// The sessions in the queue, each at most once; the caller ensures that.
#[derive(Debug, Default)]
pub struct TurnQueue {
    /// Sessions that had nothing to send until now.
    newly_ready: VecDeque<u32>,
    /// Sessions that have had a turn and have more. If the end of a batch cut a turn short, the rest of it goes
    /// on in the next batch; a session that is cut short each time would starve otherwise.
    waiting: VecDeque<(u32, Option<usize>)>,
    /// Whether the current turn came from the fresh sessions.
    is_newly_ready: bool,
    /// How long the current turn would have been in a batch with room for it.
    quantum: usize,
    /// Bytes of the batch that went to fresh sessions.
    fresh_bytes: usize,
    used: usize,
}

/// A session's turn, with the most bytes it may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    pub session: u32,
    pub bytes: usize,
}

impl TurnQueue {
    /// Queues a session that has something to send.
    pub fn push(&mut self, session: u32) {
        self.newly_ready.push_back(session);
    }

    /// Takes out a session that leaves.
    pub fn remove(&mut self, session: u32) {
        self.newly_ready.retain(|queued| *queued != session);
        self.waiting.retain(|(queued, _)| *queued != session);
    }

    pub fn is_empty(&self) -> bool {
        self.newly_ready.is_empty() && self.waiting.is_empty()
    }

    /// Begins a new batch, with `used` bytes in it already.
    pub fn begin_batch(&mut self, used: usize) {
        (self.fresh_bytes, self.used) = (0, used);
    }

    /// The next turn in a batch of `limit` bytes; `None` when it is full, or nobody is queued.
    pub fn next_turn(&mut self, limit: usize) -> Option<Turn> {
        let space = limit.checked_sub(self.used).filter(|space| *space >= BATCH_SPACE_BYTES_MIN)?;
        let may_be_newly_ready = self.fresh_bytes < limit / 2 || self.waiting.is_empty();
        let newly_ready = if may_be_newly_ready { self.newly_ready.pop_front() } else { None };
        self.is_newly_ready = newly_ready.is_some();
        let (session, left) =
            newly_ready.map(|session| (session, None)).or_else(|| self.waiting.pop_front())?;
        self.quantum = left.unwrap_or(quantum_bytes(limit));
        Some(Turn { session, bytes: self.quantum.min(space) })
    }

    /// Ends a turn that put `bytes` into the batch, frames included.
    pub fn end_turn(&mut self, turn: Turn, bytes: usize, has_more: bool) {
        self.used += bytes;
        if self.is_newly_ready {
            self.fresh_bytes += bytes;
        }
        let left = self.quantum.saturating_sub(bytes);
        let was_cut_short = turn.bytes < self.quantum && left >= BATCH_SPACE_BYTES_MIN;
        match has_more {
            true if was_cut_short => self.waiting.push_front((turn.session, Some(left))),
            true => self.waiting.push_back((turn.session, None)),
            false => {}
        }
    }
}

/// The longest turn in a batch of this size.
fn quantum_bytes(limit: usize) -> usize {
    (limit / 4).clamp(TURN_BYTES_MIN, TURN_BYTES_MAX)
}

/// How much is handed to the kernel at once.
#[derive(Debug)]
pub struct BatchLimit {
    bytes: usize,
    /// What went out recently, and how long it had to wait in all: the rate of the connection. A single long
    /// wait says little about it, because this process or its peer may not have been running.
    sent_bytes: usize,
    waited: Duration,
}

impl Default for BatchLimit {
    fn default() -> Self {
        Self { bytes: BATCH_BYTES_FIRST, sent_bytes: 0, waited: Duration::ZERO }
    }
}

impl BatchLimit {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a batch of this many bytes has no room left.
    pub fn is_filled_by(&self, bytes: usize) -> bool {
        bytes + BATCH_SPACE_BYTES_MIN > self.bytes
    }

    /// Notes that a batch has been taken, after it had to wait for `waited`.
    pub fn went_out(&mut self, bytes: usize, waited: Duration) {
        self.sent_bytes += bytes;
        self.waited += waited;
        if waited > BATCH_WAIT_MAX {
            let taken = self.sent_bytes as f64 * BATCH_WAIT_MAX.div_duration_f64(self.waited);
            self.bytes = (taken as usize).clamp(BATCH_BYTES_MIN, self.bytes);
        } else if self.is_filled_by(bytes) {
            self.bytes = (self.bytes + self.bytes / 4).min(BATCH_BYTES_MAX);
        }
        if self.sent_bytes > RATE_SAMPLE_BYTES || self.waited > RATE_SAMPLE_INTERVAL {
            self.sent_bytes /= 2;
            self.waited /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Makes one batch of sessions with this many bytes left each; returns what each got.
    fn batch(queue: &mut TurnQueue, left: &mut HashMap<u32, usize>, limit: usize) -> Vec<(u32, usize)> {
        let mut got = Vec::new();
        queue.begin_batch(0);
        while let Some(turn) = queue.next_turn(limit) {
            let has = left.entry(turn.session).or_default();
            let bytes = turn.bytes.min(*has);
            *has -= bytes;
            let has_more = *has > 0;
            queue.end_turn(turn, bytes, has_more);
            got.push((turn.session, bytes));
        }
        got
    }

    #[test]
    fn a_small_message_does_not_wait_behind_bulk() {
        let (mut queue, mut left) = (TurnQueue::default(), HashMap::new());
        for session in 1..=8 {
            queue.push(session);
            left.insert(session, usize::MAX);
        }
        for _ in 0..10 {
            batch(&mut queue, &mut left, BATCH_BYTES_MAX);
        }
        queue.push(9);
        left.insert(9, 64);
        assert_eq!(batch(&mut queue, &mut left, BATCH_BYTES_MAX)[0], (9, 64));
    }

    #[test]
    fn a_flood_of_small_messages_leaves_half_of_the_batch_to_bulk() {
        let (mut queue, mut left) = (TurnQueue::default(), HashMap::new());
        queue.push(1);
        left.insert(1, usize::MAX);
        batch(&mut queue, &mut left, BATCH_BYTES_MIN);
        for session in 2..10_000 {
            queue.push(session);
            left.insert(session, 64);
        }
        let got = batch(&mut queue, &mut left, BATCH_BYTES_MAX);
        let bulk: usize = got.iter().filter(|(session, _)| *session == 1).map(|(_, bytes)| bytes).sum();
        assert!(bulk >= BATCH_BYTES_MAX / 2 - 64, "{bulk}");
    }

    #[test]
    fn one_that_is_alone_takes_the_whole_batch() {
        let (mut queue, mut left) = (TurnQueue::default(), HashMap::from([(1, usize::MAX)]));
        queue.push(1);
        for limit in [BATCH_BYTES_MIN, BATCH_BYTES_MAX] {
            let got: usize = batch(&mut queue, &mut left, limit).iter().map(|(_, bytes)| bytes).sum();
            assert_eq!(got, limit);
        }
    }

    #[test]
    fn a_batch_grows_step_by_step_while_it_is_full() {
        let mut limit = BatchLimit::default();
        limit.went_out(100, Duration::ZERO);
        assert_eq!(limit.bytes(), BATCH_BYTES_FIRST, "it was not full");
        let (mut queue, mut left) = (TurnQueue::default(), HashMap::from([(1, usize::MAX)]));
        queue.push(1);
        for _ in 0..100 {
            // Headers leave a little room.
            let got = batch(&mut queue, &mut left, limit.bytes() - 8);
            limit.went_out(got.iter().map(|(_, bytes)| bytes).sum(), BATCH_WAIT_MAX / 10);
        }
        assert_eq!(limit.bytes(), BATCH_BYTES_MAX);
        // A pause of this process, or of its peer.
        limit.went_out(limit.bytes(), 5 * BATCH_WAIT_MAX);
        assert!(limit.bytes() > BATCH_BYTES_MAX / 2, "{}", limit.bytes());
    }

    #[test]
    fn a_batch_shrinks_to_what_a_narrow_wire_takes_in_its_time() {
        let mut limit = BatchLimit { bytes: BATCH_BYTES_MAX, ..BatchLimit::default() };
        // 50 MB/s, after everything was fast.
        (0..100).for_each(|_| limit.went_out(limit.bytes(), Duration::ZERO));
        let (mut took, mut batches) = (Duration::ZERO, 0);
        while limit.bytes() > 55_000 {
            let waits = Duration::from_secs_f64(limit.bytes() as f64 / 50e6);
            limit.went_out(limit.bytes(), waits);
            (took, batches) = (took + waits, batches + 1);
        }
        assert!(took < Duration::from_millis(100), "{took:?}, {batches} batches");
        for _ in 0..1000 {
            limit.went_out(limit.bytes(), Duration::from_secs_f64(limit.bytes() as f64 / 50e6));
            assert!((45_000..=70_000).contains(&limit.bytes()), "{}", limit.bytes());
        }
        // 1 MB/s.
        (0..100).for_each(|_| limit.went_out(limit.bytes(), 16 * BATCH_WAIT_MAX));
        assert_eq!(limit.bytes(), BATCH_BYTES_MIN);
    }

    proptest! {
        /// A session with much to send gets about as much as any other such session.
        #[test]
        fn bulk_is_shared_by_bytes(count in 2_u32..40, limit in BATCH_BYTES_MIN..BATCH_BYTES_MAX) {
            let (mut queue, mut left) = (TurnQueue::default(), HashMap::new());
            for session in 1..=count {
                queue.push(session);
                left.insert(session, usize::MAX);
            }
            let mut sums = HashMap::<u32, usize>::new();
            for _ in 0..400 {
                for (session, bytes) in batch(&mut queue, &mut left, limit) {
                    *sums.entry(session).or_default() += bytes;
                }
            }
            let (least, most) = (sums.values().min().copied(), sums.values().max().copied());
            prop_assert_eq!(sums.len(), count as usize);
            // The first have a start of a few turns while the last are still fresh, once.
            prop_assert!(most.unwrap_or(0) - least.unwrap_or(0) <= 12 * TURN_BYTES_MAX, "{:?}", sums);
        }
    }
}
