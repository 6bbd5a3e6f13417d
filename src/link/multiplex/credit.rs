//! How many bytes of a session may be on their way: one account for each direction.
//!
//! The receiver gives back what its session's socket has taken, so a reader that stops also stops its sender,
//! and nobody else. A window grows while the socket takes half of it within [`GROWTH_WINDOW`] and leaves nothing
//! waiting, so it does not slow down a single stream over any distance. All windows of a link grow within one
//! [`WindowBudget`]. There are no sockets here, and the time is passed in.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// A session's credit at its start, in each direction; also the size of the copy that an opener keeps until
/// `opened`.
pub const WINDOW_BYTES: usize = 64 * 1024;
/// The largest window of one session.
pub const WINDOW_BYTES_MAX: usize = 2 * 1024 * 1024;
/// A window should hold what arrives in twice this time; a round trip is shorter.
const GROWTH_WINDOW: Duration = Duration::from_millis(500);
/// How much all windows of a link may grow together.
pub const LINK_BUDGET_BYTES: usize = 16 * 1024 * 1024;

/// How much the windows of one link may still grow.
#[derive(Debug)]
pub struct WindowBudget {
    left: AtomicUsize,
}

impl WindowBudget {
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes) })
    }

    fn take(&self, bytes: usize) -> bool {
        let less = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }
}

/// What a peer may still send for one session. When dropped, it returns its growth to the budget.
#[derive(Debug)]
pub struct ReceiveWindow {
    // Narrow numbers, because each session has these.
    window: u32,
    /// Bytes that may still come.
    open: u32,
    /// The window that it had before it moved, until it has that again.
    before_move: u32,
    /// Bytes taken and not given back yet.
    taken: u32,
    /// Bytes that have come in all.
    received: u64,
    /// When credit was last given, or the first bytes were taken.
    since: Option<Instant>,
    budget: Arc<WindowBudget>,
}

/// The error for more bytes than there was credit for.
#[derive(Debug, PartialEq, Eq)]
pub struct BeyondWindow;

impl ReceiveWindow {
    pub fn new(budget: Arc<WindowBudget>) -> Self {
        let window = WINDOW_BYTES as u32;
        Self { window, open: window, before_move: 0, taken: 0, received: 0, since: None, budget }
    }

    /// Counts bytes that have come.
    pub fn receive(&mut self, bytes: usize) -> Result<(), BeyondWindow> {
        let bytes_left = self.open().checked_sub(bytes).ok_or(BeyondWindow)?;
        self.open = bytes_left as u32;
        self.received += bytes as u64;
        Ok(())
    }

    /// Counts bytes that the session's socket has taken, while `waiting` more are held for it. Returns the
    /// credit that is due, if any. The clock is read for the first bytes and when credit is due, not for each
    /// chunk.
    pub fn take(&mut self, bytes: usize, waiting: usize, clock: impl Fn() -> Instant) -> Option<u32> {
        self.taken += bytes as u32;
        let since = *self.since.get_or_insert_with(&clock);
        if self.taken < self.window / 2 {
            return None;
        }
        let now = clock();
        let mut credit = std::mem::take(&mut self.taken);
        if waiting == 0 && now.saturating_duration_since(since) <= GROWTH_WINDOW {
            credit += self.grow();
        }
        self.since = Some(now);
        self.open += credit;
        Some(credit)
    }

    fn grow(&mut self) -> u32 {
        let by = self.window.min(WINDOW_BYTES_MAX as u32 - self.window);
        if by == 0 || !self.budget.take(by as usize) {
            return 0;
        }
        self.window += by;
        by
    }

    /// Bytes that may still come.
    pub fn open(&self) -> usize {
        self.open as usize
    }

    /// Bytes that have come in all.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Begins again with the credit of a session's start, less what still waits for its socket; the growth that
    /// this does not need goes back. All credit that was given before is void.
    pub fn restart(&mut self, waiting: usize) {
        // What waits has come within the window.
        let window = WINDOW_BYTES.max(waiting);
        self.budget.give_back(self.window as usize - window);
        self.before_move = self.window;
        (self.window, self.open) = (window as u32, (window - waiting) as u32);
        (self.taken, self.since) = (0, None);
    }

    /// Takes back the growth that it had before it moved, if the budget of its link has room; returns the credit that
    /// is due for it.
    pub fn regrow(&mut self) -> u32 {
        let by = std::mem::take(&mut self.before_move).saturating_sub(self.window);
        if by == 0 || !self.budget.take(by as usize) {
            return 0;
        }
        (self.window, self.open) = (self.window + by, self.open + by);
        by
    }

    /// Charges its growth to another link's budget, if there is room.
    pub fn change_budget(&mut self, to: &Arc<WindowBudget>) -> bool {
        let growth = self.growth();
        if Arc::ptr_eq(&self.budget, to) {
            return true;
        }
        if growth > 0 && !to.take(growth) {
            return false;
        }
        self.budget.give_back(growth);
        self.budget = to.clone();
        true
    }

    fn growth(&self) -> usize {
        self.window as usize - WINDOW_BYTES
    }
}

impl Drop for ReceiveWindow {
    fn drop(&mut self) {
        self.budget.give_back(self.growth());
    }
}

/// What this end may still send for one session.
#[derive(Debug)]
pub struct SendCredit {
    left: u32,
    /// Bytes that were sent in all. Not aligned, because each session has one.
    sent: [u8; 8],
}

/// The error for credit that exceeds what the counter can hold.
#[derive(Debug, PartialEq, Eq)]
pub struct CreditOverflow;

impl Default for SendCredit {
    fn default() -> Self {
        Self { left: WINDOW_BYTES as u32, sent: [0; 8] }
    }
}

impl SendCredit {
    pub fn left(&self) -> usize {
        self.left as usize
    }

    pub fn spend(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.left(), "a turn is bounded by it");
        self.left = self.left.saturating_sub(bytes as u32);
        self.sent = (self.sent() + bytes as u64).to_ne_bytes();
    }

    /// Bytes that were sent in all.
    pub fn sent(&self) -> u64 {
        u64::from_ne_bytes(self.sent)
    }

    /// Begins again with this much; what was left is void.
    pub fn restart(&mut self, credit: u32) {
        self.left = credit;
    }

    /// Adds credit; returns whether there was none before.
    pub fn give(&mut self, bytes: u32) -> Result<bool, CreditOverflow> {
        let was_used_up = self.left == 0;
        self.left = self.left.checked_add(bytes).ok_or(CreditOverflow)?;
        Ok(was_used_up)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window() -> (ReceiveWindow, Arc<WindowBudget>) {
        let budget = WindowBudget::new(LINK_BUDGET_BYTES);
        (ReceiveWindow::new(budget.clone()), budget)
    }

    #[test]
    fn what_a_reader_has_not_taken_is_not_given_back() {
        let (mut window, _) = window();
        window.receive(WINDOW_BYTES).expect("it had that much");
        assert_eq!(window.receive(1), Err(BeyondWindow));
        let now = Instant::now();
        assert_eq!(window.take(WINDOW_BYTES / 2 - 1, 1, || now), None);
        assert_eq!(
            window.take(1, 1, || now),
            Some(WINDOW_BYTES as u32 / 2),
            "a slow reader's window does not grow"
        );
        assert_eq!(window.open(), WINDOW_BYTES / 2);
    }

    #[test]
    fn a_window_grows_while_its_reader_is_quick() {
        let ((mut window, budget), now) = (window(), Instant::now());
        // In pieces, as they come: each is taken before the next one arrives, so most of the window stays open.
        for _ in 0..10_000 {
            window.receive(16_000).expect("it has credit");
            window.take(16_000, 0, || now);
        }
        assert!(window.open() > WINDOW_BYTES_MAX / 2);
        assert_eq!(budget.left(), LINK_BUDGET_BYTES - (WINDOW_BYTES_MAX - WINDOW_BYTES));
        drop(window);
        assert_eq!(budget.left(), LINK_BUDGET_BYTES, "given back with its session");
    }

    #[test]
    fn a_window_is_twice_what_comes_in_the_time_that_it_grows_within() {
        let ((mut window, budget), began) = (window(), Instant::now());
        // 100,000 bytes a second.
        for second in 0..1_000 {
            window.receive(100_000.min(window.open())).expect("it has credit");
            window.take(50_000, 0, || began + Duration::from_millis(1000 * second));
            window.take(50_000, 0, || began + Duration::from_millis(1000 * second + 500));
        }
        assert!(budget.left() >= LINK_BUDGET_BYTES - WINDOW_BYTES, "{}", budget.left());
    }

    #[test]
    fn the_windows_of_a_link_share_its_budget() {
        let budget = WindowBudget::new(LINK_BUDGET_BYTES);
        let now = Instant::now();
        let mut windows: Vec<_> = (0..256).map(|_| ReceiveWindow::new(budget.clone())).collect();
        for _ in 0..10 {
            for window in &mut windows {
                let all = window.open();
                window.receive(all).expect("it had that much");
                window.take(all, 0, || now);
            }
        }
        let open: usize = windows.iter().map(ReceiveWindow::open).sum();
        assert_eq!(open, 256 * WINDOW_BYTES + LINK_BUDGET_BYTES - budget.left());
        assert!(open <= 32 * 1024 * 1024);
    }

    #[test]
    fn a_window_that_moves_takes_only_what_waits_along() {
        let ((mut window, budget), now) = (window(), Instant::now());
        for _ in 0..100 {
            window.receive(30_000).expect("it has credit");
            window.take(30_000, 0, || now);
        }
        window.receive(300_000).expect("it has grown");
        assert!(budget.left() < LINK_BUDGET_BYTES - 300_000);
        window.restart(300_000);
        assert_eq!((window.open(), window.received()), (0, 3_300_000));
        assert_eq!(budget.left(), LINK_BUDGET_BYTES - (300_000 - WINDOW_BYTES));
        let full = WindowBudget::new(300_000 - WINDOW_BYTES - 1);
        assert!(!window.change_budget(&full), "it has no room");
        let other = WindowBudget::new(LINK_BUDGET_BYTES);
        assert!(window.change_budget(&other) && window.change_budget(&other));
        assert_eq!(budget.left(), LINK_BUDGET_BYTES);
        assert_eq!(other.left(), LINK_BUDGET_BYTES - (300_000 - WINDOW_BYTES));
        assert_eq!(window.take(300_000, 0, || now), Some(300_000 + 300_000), "it grows again");
        window.restart(100);
        assert_eq!((window.open(), other.left()), (WINDOW_BYTES - 100, LINK_BUDGET_BYTES));
    }

    #[test]
    fn a_window_that_has_moved_is_as_wide_as_before_where_there_is_room() {
        for (budget_bytes, fits) in [(LINK_BUDGET_BYTES, true), (WINDOW_BYTES, false)] {
            let ((mut window, budget), now) = (window(), Instant::now());
            for _ in 0..6 {
                window.receive(window.open()).expect("it has credit");
                window.take(window.window as usize, 0, || now);
            }
            let wide = window.open();
            window.receive(1000).expect("it has credit");
            window.restart(1000);
            let other = WindowBudget::new(budget_bytes);
            assert!(window.change_budget(&other));
            let expected = if fits { wide - WINDOW_BYTES } else { 0 };
            assert_eq!(window.regrow() as usize, expected, "{budget_bytes}");
            assert_eq!(window.open(), WINDOW_BYTES + expected - 1000);
            assert_eq!((budget.left(), other.left()), (LINK_BUDGET_BYTES, budget_bytes - expected));
            assert_eq!(window.regrow(), 0, "once");
        }
    }

    #[test]
    fn a_peer_cannot_give_more_credit_than_a_number_holds() {
        let mut credit = SendCredit::default();
        assert_eq!(credit.give(u32::MAX), Err(CreditOverflow));
        credit.spend(WINDOW_BYTES);
        assert_eq!(credit.give(u32::MAX), Ok(true));
        assert_eq!(credit.give(1), Err(CreditOverflow));
    }

    proptest! {
        /// Whatever arrives and is taken, sender and receiver agree on what may still come.
        #[test]
        fn both_ends_keep_the_same_account(steps in proptest::collection::vec((1_usize..100_000, 1_usize..100_000), 1..200)) {
            let ((mut window, _), now) = (window(), Instant::now());
            let (mut credit, mut held) = (SendCredit::default(), 0_usize);
            for (send, take) in steps {
                let send = send.min(credit.left());
                credit.spend(send);
                prop_assert_eq!(window.receive(send), Ok(()));
                held += send;
                let take = take.min(held);
                held -= take;
                if let Some(more) = window.take(take, held, || now) {
                    prop_assert!(credit.give(more).is_ok());
                }
                prop_assert_eq!(credit.left(), window.open());
                prop_assert!(held + window.open() <= WINDOW_BYTES_MAX);
            }
        }
    }
}
