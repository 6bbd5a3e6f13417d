//! Bytes that wait for a stream to take them, using about as much memory as there are bytes. How many may wait is the
//! credit that their sender was given.

use std::collections::VecDeque;

/// The longest piece: little is copied as it grows, and its memory is freed as soon as it is taken.
const PIECE_BYTES: usize = 64 * 1024;

#[derive(Debug, Default)]
pub struct HeldBytes {
    pieces: VecDeque<Vec<u8>>,
    /// How much of the first piece was taken.
    taken: usize,
    len: usize,
}

impl HeldBytes {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn push(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            if self.pieces.back().is_none_or(|last| last.len() == PIECE_BYTES) {
                self.pieces.push_back(Vec::new());
            }
            let Some(last) = self.pieces.back_mut() else { return };
            let (fits, rest) = bytes.split_at(bytes.len().min(PIECE_BYTES - last.len()));
            // Left to itself, the vector would grow beyond the size of a piece.
            let capacity = (last.len() + fits.len()).next_power_of_two();
            last.reserve_exact(capacity - last.len());
            last.extend_from_slice(fits);
            bytes = rest;
        }
    }

    /// The bytes, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let from = |at: usize| if at == 0 { self.taken } else { 0 };
        self.pieces.iter().enumerate().map(move |(at, piece)| &piece[from(at)..])
    }

    /// Notes that this many bytes of the first piece have been taken.
    pub fn consume(&mut self, count: usize) {
        self.taken += count;
        self.len -= count;
        if self.pieces.front().is_some_and(|first| first.len() == self.taken) {
            self.pieces.pop_front();
            self.taken = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_held_comes_out_in_order_and_takes_no_more_memory_than_it_has_to(
            steps in proptest::collection::vec((1_usize..150_000, 1_usize..150_000), 1..30),
        ) {
            let (mut held, mut next) = (HeldBytes::default(), 0_u32);
            let (mut expected, mut received) = (Vec::new(), Vec::new());
            for (push, take) in steps {
                let bytes: Vec<u8> = (next..).take(push).map(|at| (at ^ (at >> 8)) as u8).collect();
                next += push as u32;
                expected.extend_from_slice(&bytes);
                held.push(&bytes);
                let first = held.pieces().next().expect("something is held");
                let first = &first[..take.min(first.len())];
                received.extend_from_slice(first);
                let count = first.len();
                held.consume(count);
                prop_assert_eq!(held.len(), expected.len() - received.len());
                let memory: usize = held.pieces.iter().map(Vec::capacity).sum();
                prop_assert!(memory <= held.len() + 3 * PIECE_BYTES, "{} for {}", memory, held.len());
            }
            held.pieces().for_each(|piece| received.extend_from_slice(piece));
            prop_assert!(received == expected);
        }
    }
}
