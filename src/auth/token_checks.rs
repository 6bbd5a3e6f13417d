//! Makes wrong tokens cost their sender. A signature is quick to check, so a token is checked at once, beside
//! what carries sessions. A client that has sent many wrong ones waits for each further token instead, and a
//! flood of them computes a few signatures a second, whatever it sends.

use std::{net::IpAddr, time::Duration};

use tokio::time::timeout;

use super::login_clients::{LoginClients, WrongLogins};
use crate::admission::clients::LoginRefusal;

/// A page that is still open when its token expires sends many requests with it at once.
const WRONG_TOKENS: WrongLogins = WrongLogins { burst: 64.0, per_second: 8.0 };
/// The longest wait of a token for its turn.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct TokenChecks {
    clients: LoginClients,
}

/// Whether this token was right a moment ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenMemory {
    Right,
    Unknown,
}

impl Default for TokenChecks {
    fn default() -> Self {
        Self { clients: LoginClients::new(WRONG_TOKENS) }
    }
}

impl TokenChecks {
    /// Checks a token as soon as its client may send one. One that was right a moment ago does not wait: others
    /// may share its address.
    pub async fn run<T>(
        &self,
        client: IpAddr,
        memory: TokenMemory,
        check: impl FnOnce() -> Result<T, LoginRefusal>,
    ) -> Result<T, LoginRefusal> {
        // Most clients have sent no wrong one, and nothing is kept of them.
        let known = self.clients.find(client).filter(|known| known.has_to_wait());
        let turn = match known.filter(|_| memory == TokenMemory::Unknown) {
            Some(known) => {
                let permit = known.take_permit().ok_or(LoginRefusal::TooManyTokens)?;
                let turn = timeout(QUEUE_TIMEOUT, known.wait_for_turn()).await;
                Some((permit, turn.map_err(|_| LoginRefusal::TooManyTokens)?))
            }
            None => None,
        };
        let checked = check();
        if checked.is_err() {
            self.clients.remember(client).count_wrong_login();
        }
        drop(turn);
        checked
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use futures_util::future::join_all;
    use tokio::time::Instant;

    use super::*;
    use crate::{auth::login_clients::PER_CLIENT_MAX, tests::happens_after};

    const WRONG: Result<(), LoginRefusal> = Err(LoginRefusal::WrongToken);
    const REFUSED: Result<(), LoginRefusal> = Err(LoginRefusal::TooManyTokens);

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    /// One that has used up what it may send.
    async fn spent(client: u8) -> TokenChecks {
        let checks = TokenChecks::default();
        for _ in 0..WRONG_TOKENS.burst as usize {
            assert_eq!(checks.run(address(client), TokenMemory::Unknown, || WRONG).await, WRONG);
        }
        checks
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_wrong_tokens_computes_few_and_costs_its_sender_alone() {
        let (checks, computed) = (spent(1).await, AtomicUsize::new(0));
        let began = Instant::now();
        let one = || {
            computed.fetch_add(1, Ordering::Relaxed);
            WRONG
        };
        let flood = async {
            let mut refused = 0;
            // A flood that is not slowed down ends by its number.
            for _ in 0..1000 {
                if began.elapsed() >= Duration::from_secs(10) {
                    break;
                }
                let sent = (0..50).map(|_| checks.run(address(1), TokenMemory::Unknown, one));
                refused += join_all(sent).await.iter().filter(|answer| **answer == REFUSED).count();
            }
            refused
        };
        let other = async {
            let asked = Instant::now();
            assert_eq!(checks.run(address(2), TokenMemory::Unknown, || Ok(())).await, Ok(()));
            assert_eq!(checks.run(address(1), TokenMemory::Right, || Ok(())).await, Ok(()));
            asked.elapsed()
        };
        let (refused, waited) = tokio::join!(flood, other);
        assert_eq!(waited, Duration::ZERO, "neither another client nor a token that was right waits");
        let most = (WRONG_TOKENS.per_second * began.elapsed().as_secs_f64()) as usize + 1;
        let computed = computed.into_inner();
        assert!((most / 2..=most).contains(&computed), "{computed} of {most}");
        assert!(refused > computed, "{refused} were refused, {computed} computed");
    }

    #[tokio::test(start_paused = true)]
    async fn right_tokens_cost_nothing_and_earn_nothing() {
        let checks = TokenChecks::default();
        let began = Instant::now();
        for _ in 0..1000 {
            assert_eq!(checks.run(address(1), TokenMemory::Unknown, || Ok(())).await, Ok(()));
        }
        assert!(checks.clients.find(address(1)).is_none(), "nothing is kept of it");
        let checks = spent(1).await;
        assert_eq!(checks.run(address(1), TokenMemory::Unknown, || Ok(())).await, Ok(()));
        let waited = began.elapsed().as_secs_f64() * WRONG_TOKENS.per_second;
        assert!((0.9..1.1).contains(&waited), "it waits until it has earned one: {waited}");
        assert!(!checks.clients.find(address(1)).is_some_and(|known| known.has_to_wait()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_waits_no_longer_for_its_turn() {
        let checks = spent(1).await;
        let known = checks.clients.remember(address(1));
        let earlier = known.wait_for_turn().await;
        // Its next one waits behind this.
        known.count_wrong_login();
        let waited =
            happens_after(QUEUE_TIMEOUT, checks.run(address(1), TokenMemory::Unknown, || Ok(()))).await;
        assert_eq!(waited, REFUSED);
        let waiting = (0..=PER_CLIENT_MAX).map(|_| known.take_permit()).collect::<Vec<_>>();
        known.count_wrong_login();
        while !known.has_to_wait() {
            known.count_wrong_login();
        }
        assert_eq!(checks.run(address(1), TokenMemory::Unknown, || Ok(())).await, REFUSED, "{waiting:?}");
        drop(earlier);
    }
}
