//! How many bytes a session had moved at each of the last ticks, for its rates. An idle session keeps only its last
//! counts.

use super::TICKS_KEPT;

/// Up and down.
type ByteCounts = [u64; 2];

#[derive(Debug, Default)]
pub(super) struct RecentBytes {
    last: ByteCounts,
    /// By the tick's number; `None` if the counts were the same at all of them.
    ticks: Option<Box<[ByteCounts; TICKS_KEPT]>>,
}

impl RecentBytes {
    /// What had been moved by one of the last ticks.
    pub fn at(&self, tick: u64) -> ByteCounts {
        self.ticks.as_ref().map_or(self.last, |ticks| ticks[index(tick)])
    }

    /// Notes what has been moved by this tick.
    pub fn note(&mut self, tick: u64, bytes: ByteCounts) {
        if self.ticks.is_none() && bytes == self.last {
            return;
        }
        let ticks = self.ticks.get_or_insert_with(|| Box::new([self.last; TICKS_KEPT]));
        ticks[index(tick)] = bytes;
        self.last = bytes;
        if ticks.iter().all(|at| *at == bytes) {
            self.ticks = None;
        }
    }
}

fn index(tick: u64) -> usize {
    (tick % TICKS_KEPT as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_the_last_ticks_is_known_and_a_quiet_session_keeps_none() {
        let (mut recent, mut moved) = (RecentBytes::default(), Vec::new());
        for tick in 0..100_u64 {
            // Bursts of three ticks, and rests of ten.
            let before = moved.last().copied().unwrap_or([0; 2]);
            let more = if tick % 13 < 3 { tick } else { 0 };
            moved.push([before[0] + more, before[1] + 2 * more]);
            recent.note(tick, moved[tick as usize]);
            for back in 0..TICKS_KEPT as u64 {
                let at = tick.saturating_sub(back);
                assert_eq!(recent.at(at), moved[at as usize], "{back} before {tick}");
            }
            let is_quiet =
                tick >= 8 && (tick - 7..=tick).all(|at| moved[at as usize] == moved[tick as usize]);
            assert_eq!(recent.ticks.is_none(), tick == 0 || is_quiet, "at {tick}");
        }
    }
}
