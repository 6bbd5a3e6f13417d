//! The generation of terms that links were opened under. It ends when certificates, services or peers change.

use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// The time in which the same is agreed with every link.
#[derive(Debug, Default)]
pub struct TermsGeneration(Mutex<CancellationToken>);

impl TermsGeneration {
    /// Cancelled when it ends. Asked for before a greeting begins, so that a link which is greeted
    /// while something changes does not outlive it.
    pub fn token(&self) -> CancellationToken {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Something has changed, and is in force already: another one begins.
    pub fn advance(&self) {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).cancel();
    }
}
