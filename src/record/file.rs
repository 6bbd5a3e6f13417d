//! The file of a recording: it is appended to, kept below a size, and never left with an incomplete line. Another
//! process may have been killed in the middle of a line, which is cut off when the file is opened again.

use std::{
    ffi::OsString,
    io::{self, ErrorKind, SeekFrom},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use tokio::{
    fs::{self, File, OpenOptions},
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
};

use super::{RecordError, RecordingHeader};

/// A file that would grow beyond this is set aside as `FILE.1`, and a new one begins.
const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How many files are set aside; the oldest is deleted.
const ROTATED_FILES_MAX: u32 = 4;
/// How much is read at once while looking for the end of the last complete line.
const BLOCK_BYTES: u64 = 64 * 1024;

/// A recording open for writing.
#[derive(Debug)]
pub struct RecordingFile {
    pub path: PathBuf,
    file: File,
    /// The number of bytes in complete lines.
    length: u64,
    bytes_max: u64,
}

impl RecordingFile {
    /// Creates the file, or continues an existing recording. Only its owner can read it, because it contains
    /// clients' addresses.
    pub async fn open(path: &Path) -> Result<Self, RecordError> {
        Self::open_within(path, BYTES_MAX).await
    }

    pub(super) async fn open_within(path: &Path, bytes_max: u64) -> Result<Self, RecordError> {
        let io = |source| RecordError::Io { path: path.to_path_buf(), source };
        let mut file = open_private(path).await.map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => RecordError::Taken(path.into()),
            _ => io(error),
        })?;
        if !file.metadata().await.map_err(io)?.is_file() {
            return Err(io(io::Error::new(ErrorKind::InvalidInput, "it is not a plain file")));
        }
        let length = whole_lines(&mut file).await.map_err(io)?;
        let mut recording = Self { path: path.to_path_buf(), file, length, bytes_max };
        if length == 0 {
            recording.begin().await.map_err(io)?;
        } else if !recording.is_ours().await.map_err(io)? {
            return Err(RecordError::Other(path.into()));
        } else {
            // A killed process may have left an incomplete line.
            recording.truncate_half_line().await.map_err(io)?;
        }
        Ok(recording)
    }

    /// Writes one line; if it does not fit as a whole, it is removed again.
    pub async fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.length > 0 && self.length + line.len() as u64 > self.bytes_max {
            self.rotate().await?;
        }
        if self.length == 0 {
            self.begin().await?;
        }
        self.append(line).await
    }

    async fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let written = async {
            self.file.write_all(line).await?;
            self.file.flush().await
        };
        if let Err(error) = written.await {
            // Truncating always works, even on a full disk.
            self.truncate_half_line().await?;
            return Err(error);
        }
        self.length += line.len() as u64;
        Ok(())
    }

    /// The first line of a file.
    async fn begin(&mut self) -> io::Result<()> {
        let mut header = serde_json::to_vec(&RecordingHeader::current())?;
        header.push(b'\n');
        self.append(&header).await
    }

    async fn truncate_half_line(&mut self) -> io::Result<()> {
        self.file.set_len(self.length).await?;
        self.file.seek(SeekFrom::Start(self.length)).await.map(|_| ())
    }

    /// `FILE.3` becomes `FILE.4`, and so on up to the file itself, which begins again.
    async fn rotate(&mut self) -> io::Result<()> {
        for number in (1..ROTATED_FILES_MAX).rev() {
            rename(&numbered_path(&self.path, number), &numbered_path(&self.path, number + 1)).await?;
        }
        rename(&self.path, &numbered_path(&self.path, 1)).await?;
        self.file = open_private(&self.path).await?;
        self.length = 0;
        Ok(())
    }

    async fn is_ours(&mut self) -> io::Result<bool> {
        self.file.seek(SeekFrom::Start(0)).await?;
        let mut first = Vec::new();
        (&mut self.file).take(BLOCK_BYTES).read_to_end(&mut first).await?;
        let line = first.split(|&byte| byte == b'\n').next().unwrap_or_default();
        Ok(serde_json::from_slice::<RecordingHeader>(line).is_ok_and(|header| header.is_ours()))
    }
}

/// Locked as well: two that write to one file would cut each other's lines.
async fn open_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    // A pipe in place of the file must not block the start.
    let file = options.custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path).await?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// Where the last complete line ends; 0 if there is none.
async fn whole_lines(file: &mut File) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0)).await?;
    while end > 0 {
        let begin = end.saturating_sub(BLOCK_BYTES);
        file.seek(SeekFrom::Start(begin)).await?;
        let mut block = Vec::new();
        (&mut *file).take(end - begin).read_to_end(&mut block).await?;
        if let Some(at) = block.iter().rposition(|&byte| byte == b'\n') {
            return Ok(begin + at as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

fn numbered_path(path: &Path, number: u32) -> PathBuf {
    let mut name: OsString = path.into();
    name.push(format!(".{number}"));
    name.into()
}

async fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn text(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap_or_default()
    }

    #[tokio::test]
    async fn a_recording_goes_on_behind_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept.jsonl");
        RecordingFile::open(&path).await.unwrap().write(b"{\"at\":1}\n").await.unwrap();
        let before = text(&path);
        std::fs::write(&path, format!("{before}{{\"at\":2,\"cut")).unwrap();
        RecordingFile::open(&path).await.unwrap().write(b"{\"at\":3}\n").await.unwrap();
        assert_eq!(text(&path), format!("{before}{{\"at\":3}}\n"));

        std::fs::write(&path, "something else\n").unwrap();
        assert!(matches!(RecordingFile::open(&path).await, Err(RecordError::Other(_))));
        assert_eq!(text(&path), "something else\n", "it is left as it was");
    }

    #[tokio::test]
    async fn a_recording_has_one_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept.jsonl");
        let mut first = RecordingFile::open_within(&path, 200).await.unwrap();
        first.write(b"{\"at\":1}\n").await.unwrap();
        // As it is in the middle of a line.
        std::fs::write(&path, format!("{}{{\"at\":2,", text(&path))).unwrap();
        let before = text(&path);
        let taken = || async { matches!(RecordingFile::open(&path).await, Err(RecordError::Taken(_))) };
        assert!(taken().await);
        assert_eq!(text(&path), before, "it is left as it was");
        // The next file as well.
        first.write(&[b'x'; 200]).await.unwrap();
        assert!(taken().await);
        drop(first);
        assert!(!taken().await);
    }

    #[tokio::test]
    async fn files_are_set_aside_by_size_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept.jsonl");
        let mut recording = RecordingFile::open_within(&path, 200).await.unwrap();
        for number in 0..20 {
            recording
                .write(format!("{{\"at\":{number},\"pad\":\"{}\"}}\n", "x".repeat(120)).as_bytes())
                .await
                .unwrap();
        }
        let kept = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(kept, 1 + ROTATED_FILES_MAX as usize);
        for number in 1..=ROTATED_FILES_MAX {
            let text = text(&numbered_path(&path, number));
            assert!(text.starts_with("{\"recording\":\"portcullis\""), "each can be replayed: {text}");
            assert!(text.contains(&format!("\"at\":{}", 19 - number)), "{number}: {text}");
        }
    }
}
