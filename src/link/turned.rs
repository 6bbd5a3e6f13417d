//! What is told of newcomers that are turned away: a few a second in full, the rest as a count, so
//! that a flood of them floods no log.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::tasks::Tasks;

/// Told in full within a [`SECOND`].
const TOLD_MAX: u32 = 8;
const SECOND: Duration = Duration::from_secs(1);

/// Writes one line: how many it stands for beside the one it names, who that is, and why.
pub type Write = Arc<dyn Fn(u64, SocketAddr, &str) + Send + Sync>;

/// Those turned away at one port.
#[derive(Clone)]
pub struct Turned {
    tasks: Tasks,
    write: Write,
    second: Arc<Mutex<Option<Second>>>,
}

/// A second that has begun with the first of them.
struct Second {
    ends: Instant,
    told: u32,
    /// Those that were not told, and the last of them.
    more: u64,
    last: Option<(SocketAddr, String)>,
}

impl Turned {
    pub fn new(tasks: Tasks, write: Write) -> Self {
        Self { tasks, write, second: Arc::default() }
    }

    pub fn tell(&self, from: SocketAddr, why: String) {
        let mut held = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let second = held.take_if(|second| now < second.ends || second.last.is_some());
        let mut second = second.unwrap_or(Second { ends: now + SECOND, told: 0, more: 0, last: None });
        let is_told = second.told < TOLD_MAX;
        let is_first_untold = !is_told && second.last.is_none();
        let ends = second.ends;
        if is_told {
            second.told += 1;
        } else {
            second.more += u64::from(second.last.is_some());
            second.last = Some((from, why.clone()));
        }
        *held = Some(second);
        drop(held);
        if is_told {
            (self.write)(0, from, &why);
        }
        if is_first_untold {
            let (held, write) = (self.second.clone(), self.write.clone());
            self.tasks.spawn("turned away", async move {
                tokio::time::sleep_until(ends).await;
                let second = held.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(Second { more, last: Some((from, why)), .. }) = second {
                    write(more, from, &why);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Told = Arc<Mutex<Vec<(u64, u16, String)>>>;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_a_few_lines_and_a_count() {
        let told = Told::default();
        let into = told.clone();
        let write: Write = Arc::new(move |more, from, why| {
            into.lock().expect("no panic").push((more, from.port(), why.into()));
        });
        let turned = Turned::new(Tasks::default(), write);
        let lines = || std::mem::take(&mut *told.lock().expect("no panic"));
        let tell = |ports: std::ops::Range<u16>| {
            for port in ports {
                turned.tell(SocketAddr::from(([192, 0, 2, 7], port)), format!("reason {port}"));
            }
        };
        tell(0..1000);
        assert_eq!(lines().len(), TOLD_MAX as usize);
        tokio::time::sleep(SECOND * 2).await;
        assert_eq!(lines(), [(991, 999, "reason 999".into())], "the rest, once");
        // Nothing is left of it.
        tell(0..3);
        assert_eq!(lines().len(), 3);
        tokio::time::sleep(SECOND * 2).await;
        assert_eq!(lines(), []);
        tell(0..8);
        assert_eq!(lines().len(), 8, "a second is over");
    }
}
