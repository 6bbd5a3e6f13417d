//! The port that links come in by.
//!
//! Each newcomer is greeted in a task of its own under a deadline, so a silent one stalls nobody.
//! The number of greetings at once is bounded; past it the oldest gives way, since an honest
//! greeting takes milliseconds and a silent one would sit there until its deadline.

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::greet::{self, Greeted, Terms};
use crate::{
    net::{listen::Listener, tls::Identity},
    tasks::Tasks,
    telemetry::notices::Notices,
};

/// Greetings at once. Each holds a descriptor and a TLS state for at most the greeting's deadline.
pub const GREETINGS_MAX: usize = 512;

/// What a link listener needs to greet.
#[derive(Debug, Clone)]
pub struct Greeter {
    pub identity: Arc<ArcSwap<Option<Identity>>>,
    pub terms: Terms,
    pub tasks: Tasks,
    pub notices: Arc<Notices>,
}

/// Accepts links until the port is closed, and hands each to `greeted`.
pub async fn run<F>(
    listener: Arc<Listener>,
    greeter: Greeter,
    greeted: impl Fn(Greeted) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send,
{
    let greetings = Arc::new(Greetings::default());
    let notices = greeter.notices.clone();
    let accepted = |stream: TcpStream, from: SocketAddr| {
        let (greeter, greeted, greetings) = (greeter.clone(), greeted.clone(), greetings.clone());
        let (key, evicted) = greetings.begin();
        greeter.tasks.clone().spawn("link", async move {
            let greeting = greet::accept(stream, from, &greeter.identity, &greeter.terms);
            let greeting = evicted.run_until_cancelled(greeting).await;
            greetings.end(key);
            match greeting {
                Some(Ok(link)) => greeted(link).await,
                Some(Err(error)) => greeter.notices.warn(format!("link from {from}: {error}")),
                None => greeter.notices.warn(format!(
                    "link from {from}: {GREETINGS_MAX} greetings at once, this was the oldest"
                )),
            }
        });
    };
    let trouble = |error: &std::io::Error| {
        notices.error(format!("link port: {error}; accepting pauses until descriptors are free"));
    };
    listener.accept(accepted, trouble).await;
}

/// The greetings under way, oldest first; one too many, and the oldest gives way.
#[derive(Debug, Default)]
pub struct Greetings {
    under_way: Mutex<(u64, BTreeMap<u64, CancellationToken>)>,
}

impl Greetings {
    pub fn begin(&self) -> (u64, CancellationToken) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, tokens) = &mut *under_way;
        *next += 1;
        if tokens.len() >= GREETINGS_MAX
            && let Some((_, oldest)) = tokens.pop_first()
        {
            oldest.cancel();
        }
        let token = CancellationToken::new();
        tokens.insert(*next, token.clone());
        (*next, token)
    }

    pub fn end(&self, key: u64) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&key);
    }
}
