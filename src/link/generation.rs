//! The generation of terms that links were opened under. It ends when certificates, services or peers change.
//!
//! Whoever opens a link takes a token here first; a link whose token is cancelled is replaced.

use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// The current generation: all links opened in it were opened under the same terms.
#[derive(Debug, Default)]
pub struct TermsGeneration(Mutex<CancellationToken>);

impl TermsGeneration {
    /// A token that is cancelled when the generation ends. Take it before a handshake begins, so that a link
    /// whose handshake runs while something changes does not outlive the change.
    pub fn token(&self) -> CancellationToken {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends this generation and begins the next one, after a change is in force.
    pub fn advance(&self) {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).cancel();
    }
}
