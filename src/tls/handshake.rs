//! Runs a handshake, and finds out why one failed.

use std::{cell::RefCell, io};

use super::{chain::ChainFault, error::TlsError, party::TlsParty};
use crate::net::{read_ahead::ReadAhead, tcp};

tokio::task_local! {
    /// What a verifier has found in the handshake that runs. The errors of rustls that become the right alerts
    /// have no room for it, and a verifier is one for all handshakes.
    static FAULT: RefCell<Option<ChainFault>>;
}

/// Keeps what a verifier has found for [`shake`].
pub(super) fn keep_fault(fault: ChainFault) {
    // Outside of a handshake there is nobody to tell.
    let _ = FAULT.try_with(|slot| slot.replace(Some(fault)));
}

/// Runs a handshake. One that fails lets its alert reach the other side, whose log then names the reason too.
pub(super) async fn shake<T>(
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
