//! Runs a handshake, and finds out why one failed. rustls gives the right alerts but has no room for our finding, so a
//! verifier leaves it in the task for the caller.

use std::{cell::RefCell, io};

use super::{chain::ChainError, error::TlsError, party::TlsParty};
use crate::net::{read_ahead::ReadAhead, tcp};

tokio::task_local! {
    /// The finding of a verifier in the current handshake. The rustls errors that produce the right alerts have
    /// no room for it, and one verifier serves all handshakes.
    static FAULT: RefCell<Option<ChainError>>;
}

/// Keeps a verifier's finding for [`run_handshake`].
pub(super) fn keep_fault(fault: ChainError) {
    // Outside a handshake there is nobody to report it to.
    let _ = FAULT.try_with(|slot| slot.replace(Some(fault)));
}

/// Runs a handshake. If it fails, the alert still reaches the other side, so that its log also names the
/// reason.
pub(super) async fn run_handshake<T>(
    shaking: impl Future<Output = Result<T, (io::Error, ReadAhead)>>,
    with: TlsParty,
) -> Result<T, TlsError> {
    let watched = async {
        shaking.await.map_err(|(error, stream)| {
            stream.tcp().into_iter().for_each(tcp::let_close_cleanly);
            match FAULT.with(RefCell::take) {
                Some(fault) => TlsError::Chain(Box::new(fault)),
                None => TlsError::of_io(error, with),
            }
        })
    };
    FAULT.scope(RefCell::default(), watched).await
}
