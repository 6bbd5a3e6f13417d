//! Tells whoever uses a connection that the certificate shown by the other side was revoked meanwhile. The
//! lists of revoked certificates are not here, but in `tls`.

use std::{future::pending, sync::Arc};

use tokio_util::sync::CancellationToken;

/// The watch of one connection, which holds it for as long as it is open.
#[derive(Debug, Default)]
pub struct CertificateWatch(CancellationToken);

impl CertificateWatch {
    pub fn note_revoked(&self) {
        self.0.cancel();
    }

    pub fn signal(self: &Arc<Self>) -> RevocationSignal {
        RevocationSignal(Some(self.0.clone()))
    }
}

/// Resolves when the certificate is revoked; never, if none was shown.
#[derive(Debug, Clone, Default)]
pub struct RevocationSignal(Option<CancellationToken>);

impl RevocationSignal {
    /// Whether there is a certificate that could be revoked.
    pub fn can_come(&self) -> bool {
        self.0.is_some()
    }

    pub fn is_given(&self) -> bool {
        self.0.as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    pub async fn given(&self) {
        match &self.0 {
            // Boxed, so that sessions without a certificate hold no memory for it.
            Some(token) => Box::pin(token.cancelled()).await,
            None => pending().await,
        }
    }
}
