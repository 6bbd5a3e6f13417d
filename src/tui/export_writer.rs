//! Writes exported tables to files, on threads of their own: a disk that hangs costs the export, but never a
//! frame.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};

use crate::{disk::FileWork, tui::app::TableExport};

/// The result for the operator: the file's name, or the error.
pub type ExportResult = Result<String, String>;

/// How many exports may run at once. One that hangs keeps its thread, and so its permit.
const AT_ONCE: usize = 2;
/// Longer than any working disk takes.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

pub struct ExportWriter {
    files: FileWork,
    write: fn(&TableExport) -> ExportResult,
    under_way: FuturesUnordered<BoxFuture<'static, ExportResult>>,
}

impl Default for ExportWriter {
    fn default() -> Self {
        Self::new(write_export, WRITE_TIMEOUT)
    }
}

impl ExportWriter {
    fn new(write: fn(&TableExport) -> ExportResult, within: Duration) -> Self {
        Self { files: FileWork::new(AT_ONCE, within), write, under_way: FuturesUnordered::new() }
    }

    /// Begins to write; an error if too many exports are under way.
    pub fn begin(&mut self, export: TableExport) -> Result<(), String> {
        if self.under_way.len() >= AT_ONCE {
            return Err("the tables before it are not written yet".into());
        }
        let (files, write) = (self.files.clone(), self.write);
        self.under_way.push(Box::pin(async move {
            let written = files.run(move || write(&export)).await;
            written.unwrap_or_else(|error| Err(format!("the table is not written: {error}")))
        }));
        Ok(())
    }

    /// Waits for the next result; forever, if nothing is being written.
    pub async fn next(&mut self) -> ExportResult {
        match self.under_way.next().await {
            Some(result) => result,
            None => std::future::pending().await,
        }
    }
}

/// Writes a table to a new file in the folder where the screen was started.
fn write_export(export: &TableExport) -> ExportResult {
    let at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let name = format!("{}-{}.json", export.stem, at.replace(':', ""));
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&name);
    let written = file.and_then(|mut file| writeln!(file, "{}", export.json));
    written.map(|()| format!("written to {name}")).map_err(|error| format!("{name}: {error}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(super) mod tests {
    use std::sync::{Condvar, Mutex, mpsc as threads};

    use super::*;
    use crate::{disk::FileWorkError, tests::happens_after_beside_a_thread};

    /// A disk that does not respond until it is released.
    #[derive(Debug, Default)]
    struct HangingDisk {
        is_released: Mutex<bool>,
        released: Condvar,
    }

    static DISK: HangingDisk = HangingDisk { is_released: Mutex::new(false), released: Condvar::new() };

    fn hang(_: &TableExport) -> ExportResult {
        let held = DISK.is_released.lock().unwrap();
        drop(DISK.released.wait_while(held, |is_released| !*is_released).unwrap());
        Ok("written at last".into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_that_is_not_written_is_given_up_at_its_deadline() {
        let (release, held) = threads::channel::<()>();
        let writer = ExportWriter::default();
        let written = writer.files.run(move || held.recv().is_ok());
        assert_eq!(
            happens_after_beside_a_thread(WRITE_TIMEOUT, written).await,
            Err(FileWorkError::Late(WRITE_TIMEOUT))
        );
        drop(release);
    }

    /// A writer whose disk hangs, until [`release`].
    pub fn hanging(within: Duration) -> ExportWriter {
        ExportWriter::new(hang, within)
    }

    /// A test that leaves its thread behind would never end.
    pub fn release() {
        *DISK.is_released.lock().unwrap() = true;
        DISK.released.notify_all();
    }
}
