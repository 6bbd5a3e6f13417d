//! How many bytes of a session may be on their way: one account for each direction.
//!
//! The receiver gives back what its session's socket took, so a reader that stops stops its sender, and
//! nobody else. A window grows while it is what holds the sender up: it ran low though the socket took
//! everything at once. All windows of a link grow within one [`WindowBudget`]. No clock and no sockets here.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Credit of a session at its start, in each direction; also the copy that an opener keeps until `opened`.
pub const WINDOW_BYTES: usize = 64 * 1024;
/// What the window of one session may grow to.
pub const WINDOW_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What all windows of a link may grow by.
pub const LINK_BUDGET_BYTES: usize = 16 * 1024 * 1024;

/// What the windows of one link may still grow by.
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

    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }
}

/// What a peer may still send of one session. What it grew by goes back to the budget when it is dropped.
#[derive(Debug)]
pub struct ReceiveWindow {
    window: usize,
    /// What may still come.
    open: usize,
    /// What was taken and not given back yet.
    taken: usize,
    /// The sender has used up most of what it had.
    ran_low: bool,
    budget: Arc<WindowBudget>,
}

/// More bytes came than there was credit for.
#[derive(Debug, PartialEq, Eq)]
pub struct BeyondWindow;

impl ReceiveWindow {
    pub fn new(budget: Arc<WindowBudget>) -> Self {
        Self { window: WINDOW_BYTES, open: WINDOW_BYTES, taken: 0, ran_low: false, budget }
    }

    /// Bytes have come.
    pub fn receive(&mut self, bytes: usize) -> Result<(), BeyondWindow> {
        self.open = self.open.checked_sub(bytes).ok_or(BeyondWindow)?;
        self.ran_low |= self.open <= self.window / 4;
        Ok(())
    }

    /// The session's socket has taken bytes, `waiting` more are held for it; the credit that is due, if any.
    pub fn take(&mut self, bytes: usize, waiting: usize) -> Option<u32> {
        self.taken += bytes;
        if self.taken < self.window / 2 {
            return None;
        }
        let mut credit = std::mem::take(&mut self.taken);
        if std::mem::take(&mut self.ran_low) && waiting == 0 {
            credit += self.grow();
        }
        self.open += credit;
        // At most twice the largest window.
        Some(credit as u32)
    }

    fn grow(&mut self) -> usize {
        let by = self.window.min(WINDOW_BYTES_MAX - self.window);
        if by == 0 || !self.budget.take(by) {
            return 0;
        }
        self.window += by;
        by
    }

    /// What may still come.
    pub fn open(&self) -> usize {
        self.open
    }
}

impl Drop for ReceiveWindow {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.window - WINDOW_BYTES, Ordering::Relaxed);
    }
}

/// What this end may still send of one session.
#[derive(Debug)]
pub struct SendCredit {
    left: u32,
}

/// A peer gave more than a number holds.
#[derive(Debug, PartialEq, Eq)]
pub struct CreditOverflow;

impl Default for SendCredit {
    fn default() -> Self {
        Self { left: WINDOW_BYTES as u32 }
    }
}

impl SendCredit {
    pub fn left(&self) -> usize {
        self.left as usize
    }

    pub fn spend(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.left(), "a turn is bounded by it");
        self.left = self.left.saturating_sub(bytes as u32);
    }

    /// More may be sent; whether there was none before.
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
        assert_eq!(window.take(WINDOW_BYTES / 2 - 1, 1), None);
        assert_eq!(window.take(1, 1), Some(WINDOW_BYTES as u32 / 2), "a slow reader's window does not grow");
        assert_eq!(window.open(), WINDOW_BYTES / 2);
    }

    #[test]
    fn a_window_grows_while_it_is_what_holds_the_sender_up() {
        let (mut window, budget) = window();
        let mut reached = 0;
        for _ in 0..100 {
            let all = window.open();
            window.receive(all).expect("it had that much");
            window.take(all, 0);
            reached = window.open();
        }
        assert_eq!(reached, WINDOW_BYTES_MAX);
        assert_eq!(budget.left(), LINK_BUDGET_BYTES - (WINDOW_BYTES_MAX - WINDOW_BYTES));
        drop(window);
        assert_eq!(budget.left(), LINK_BUDGET_BYTES, "given back with its session");
    }

    #[test]
    fn a_sender_that_never_runs_low_needs_no_larger_window() {
        let (mut window, budget) = window();
        for _ in 0..10_000 {
            window.receive(1000).expect("it has credit");
            window.take(1000, 0);
        }
        assert_eq!(budget.left(), LINK_BUDGET_BYTES);
    }

    #[test]
    fn the_windows_of_a_link_share_its_budget() {
        let budget = WindowBudget::new(LINK_BUDGET_BYTES);
        let mut windows: Vec<_> = (0..256).map(|_| ReceiveWindow::new(budget.clone())).collect();
        for _ in 0..10 {
            for window in &mut windows {
                let all = window.open();
                window.receive(all).expect("it had that much");
                window.take(all, 0);
            }
        }
        let open: usize = windows.iter().map(ReceiveWindow::open).sum();
        assert_eq!(open, 256 * WINDOW_BYTES + LINK_BUDGET_BYTES - budget.left());
        assert!(open <= 32 * 1024 * 1024);
    }

    #[test]
    fn a_peer_can_not_give_more_credit_than_a_number_holds() {
        let mut credit = SendCredit::default();
        assert_eq!(credit.give(u32::MAX), Err(CreditOverflow));
        credit.spend(WINDOW_BYTES);
        assert_eq!(credit.give(u32::MAX), Ok(true));
        assert_eq!(credit.give(1), Err(CreditOverflow));
    }

    proptest! {
        /// Whatever comes and is taken, sender and receiver agree on what may still come.
        #[test]
        fn both_ends_keep_the_same_account(steps in proptest::collection::vec((1_usize..100_000, 1_usize..100_000), 1..200)) {
            let (mut window, _) = window();
            let (mut credit, mut held) = (SendCredit::default(), 0_usize);
            for (send, take) in steps {
                let send = send.min(credit.left());
                credit.spend(send);
                prop_assert_eq!(window.receive(send), Ok(()));
                held += send;
                let take = take.min(held);
                held -= take;
                if let Some(more) = window.take(take, held) {
                    prop_assert!(credit.give(more).is_ok());
                }
                prop_assert_eq!(credit.left(), window.open());
                prop_assert!(held + window.open() <= WINDOW_BYTES_MAX);
            }
        }
    }
}
