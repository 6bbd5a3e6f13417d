//! The numbers as text: made off the threads that carry bytes, and once for each snapshot, however many ask.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use hyper::body::Bytes;
use tokio::sync::{Mutex, watch};

use crate::{
    tasks::{self, BlockedWork},
    telemetry::{
        metrics::{self, MetricsFormat},
        snapshot::Snapshot,
    },
};

/// How long a monitor's exchange may take in all, so nobody wants the text later.
const RENDER_TIMEOUT: Duration = Duration::from_secs(10);

/// The last text that was made in each format.
#[derive(Debug, Clone, Default)]
pub struct RenderedMetrics(Arc<Mutex<LastTexts>>);

#[derive(Debug, Default)]
struct LastTexts {
    open_metrics: Option<RenderedText>,
    text: Option<RenderedText>,
}

#[derive(Debug)]
struct RenderedText {
    /// This does not keep the snapshot's rows.
    of: Weak<Snapshot>,
    text: Bytes,
}

impl LastTexts {
    fn last(&mut self, format: MetricsFormat) -> &mut Option<RenderedText> {
        match format {
            MetricsFormat::OpenMetrics => &mut self.open_metrics,
            MetricsFormat::Text => &mut self.text,
        }
    }
}

impl RenderedMetrics {
    /// The numbers of the newest snapshot. One text is made at a time. If its client leaves, it is still
    /// made, since the next one may want it too.
    pub async fn newest(
        &self,
        snapshots: &watch::Receiver<Arc<Snapshot>>,
        format: MetricsFormat,
    ) -> Result<Bytes, BlockedWork> {
        let mut texts = self.0.clone().lock_owned().await;
        let snapshot = snapshots.borrow().clone();
        let is_its_own = |last: &&RenderedText| last.of.as_ptr() == Arc::as_ptr(&snapshot);
        if let Some(last) = texts.last(format).as_ref().filter(is_its_own) {
            return Ok(last.text.clone());
        }
        let render = move || {
            let of = Arc::downgrade(&snapshot);
            let text = Bytes::from(metrics::render(snapshot, format));
            *texts.last(format) = Some(RenderedText { of, text: text.clone() });
            text
        };
        tasks::run_blocking("metrics", RENDER_TIMEOUT, render).await
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::future::{Future, poll_fn};

    use super::*;
    use crate::profile::Mode;

    #[tokio::test]
    async fn a_text_is_made_once_for_each_snapshot_and_to_its_end() {
        let (publish, snapshots) = watch::channel(Arc::new(Snapshot::new("one", Mode::Direct)));
        let rendered = RenderedMetrics::default();
        let newest = async || rendered.newest(&snapshots, MetricsFormat::Text).await.unwrap();
        // The first client leaves as soon as its text is begun.
        let mut leaves = Box::pin(rendered.newest(&snapshots, MetricsFormat::Text));
        assert!(poll_fn(|cx| std::task::Poll::Ready(leaves.as_mut().poll(cx))).await.is_pending());
        drop(leaves);
        let made = rendered.0.lock().await.text.as_ref().unwrap().text.clone();
        let (first, second) = (newest().await, newest().await);
        assert_eq!((first.as_ptr(), second.as_ptr()), (made.as_ptr(), made.as_ptr()));
        assert!(rendered.0.lock().await.open_metrics.is_none());
        publish.send_replace(Arc::new(Snapshot { log_lines_lost: 7, ..Snapshot::new("one", Mode::Direct) }));
        let third = String::from_utf8(newest().await.to_vec()).unwrap();
        assert!(third.contains("portcullis_log_lines_lost_total 7\n"), "{third}");
        let open = rendered.newest(&snapshots, MetricsFormat::OpenMetrics).await.unwrap();
        assert!(open.ends_with(b"# EOF\n"));
    }
}
