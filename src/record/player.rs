//! Plays a recording: pause, steps, speed. It decides which snapshot is due; the screen shows it like one of a
//! running gateway.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{RecordError, Recording};
use crate::{
    tasks,
    telemetry::{
        history::{HistoryReport, HistoryRequest, HistoryRing, unix_seconds},
        snapshot::Snapshot,
    },
};

/// How long a screen waits for the history of a whole recording, every line of which is read.
const HISTORY_READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A recording being played.
#[derive(Debug)]
pub struct RecordingPlayer {
    recording: Recording,
    index: usize,
    state: PlayerState,
    /// An index into [`SPEEDS`].
    speed: usize,
    /// Since when the snapshot at `index` is shown.
    since: Instant,
    /// Read once, when it is first requested.
    history: Arc<OnceLock<HistoryRing>>,
}

/// playing ⇄ paused; at the last snapshot it is at the end, until it is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlayerState {
    Playing,
    Paused,
    Ended,
}

/// An action that an operator may request of a player.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PlayerAction {
    /// Or continue; from the end, continue from the start.
    Pause,
    /// One snapshot back, and pause there.
    StepBack,
    StepOn,
    MinuteBack,
    MinuteOn,
    /// To the last snapshot that is not after this time, in seconds since 1970, and pause there.
    To(u64),
    Slower,
    Faster,
}

/// The position of a player.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayProgress {
    pub state: PlayerState,
    /// When the current snapshot was made.
    pub at: SystemTime,
    /// Time since the first snapshot.
    pub passed: Duration,
    pub whole: Duration,
    pub speed: f64,
    /// There is no snapshot for this long after the current one; such a wait is shortened.
    pub gap: Option<Duration>,
}

impl RecordingPlayer {
    /// Plays from the first snapshot on.
    pub fn new(recording: Recording) -> Self {
        let state = if recording.count() > 1 { PlayerState::Playing } else { PlayerState::Ended };
        Self { recording, index: 0, state, speed: NORMAL, since: Instant::now(), history: Arc::default() }
    }

    /// The current snapshot.
    pub fn current_snapshot(&mut self) -> Result<Arc<Snapshot>, RecordError> {
        self.recording.snapshot(self.index)
    }

    pub fn progress(&self) -> ReplayProgress {
        let gap = self.until_next().filter(|until| *until > GAP_MAX);
        ReplayProgress {
            state: self.state,
            at: self.recording.at(self.index),
            passed: self.recording.between(0, self.index),
            whole: self.recording.between(0, self.last()),
            speed: SPEEDS[self.speed],
            gap,
        }
    }

    /// Waits until the next snapshot is due; forever while it does not play. May be dropped at any point,
    /// since nothing moves before the wait is over.
    pub async fn next(&mut self) -> Result<Arc<Snapshot>, RecordError> {
        let until = self.until_next().filter(|_| self.state == PlayerState::Playing);
        let Some(until) = until else { return std::future::pending().await };
        let shown = until.min(GAP_MAX).div_f64(SPEEDS[self.speed]);
        tokio::time::sleep_until(self.since + shown).await;
        self.move_to(self.index + 1);
        self.read()
    }

    /// Performs an action, and returns the snapshot that is then current.
    pub fn perform(&mut self, requested: PlayerAction) -> Result<Arc<Snapshot>, RecordError> {
        match requested {
            PlayerAction::Pause => self.pause(),
            PlayerAction::StepBack => self.step_to(self.index.saturating_sub(1)),
            PlayerAction::StepOn => self.step_to(self.index + 1),
            PlayerAction::MinuteBack => self.move_to(self.minute_back()),
            PlayerAction::MinuteOn => self.move_to(self.minute_on()),
            PlayerAction::To(at) => self.step_to(self.place_at(at)),
            PlayerAction::Slower => self.speed = self.speed.saturating_sub(1),
            PlayerAction::Faster => self.speed = (self.speed + 1).min(SPEEDS.len() - 1),
        }
        self.read()
    }

    /// If a snapshot cannot be read, there is nothing to continue from.
    fn read(&mut self) -> Result<Arc<Snapshot>, RecordError> {
        self.current_snapshot().inspect_err(|_| self.state = PlayerState::Paused)
    }

    fn pause(&mut self) {
        match self.state {
            PlayerState::Playing => self.state = PlayerState::Paused,
            PlayerState::Paused => {
                self.state = PlayerState::Playing;
                self.since = Instant::now();
            }
            PlayerState::Ended => {
                self.state = PlayerState::Playing;
                self.move_to(0);
            }
        }
    }

    fn step_to(&mut self, index: usize) {
        self.state = PlayerState::Paused;
        self.move_to(index);
    }

    fn move_to(&mut self, index: usize) {
        self.index = index.min(self.last());
        self.since = Instant::now();
        self.state = match self.state {
            _ if self.index == self.last() => PlayerState::Ended,
            PlayerState::Ended => PlayerState::Paused,
            other @ (PlayerState::Playing | PlayerState::Paused) => other,
        };
    }

    fn minute_back(&self) -> usize {
        let far = |&index: &usize| self.recording.between(index, self.index) >= MINUTE;
        (0..self.index).rev().find(far).unwrap_or(0)
    }

    fn minute_on(&self) -> usize {
        let far = |&index: &usize| self.recording.between(self.index, index) >= MINUTE;
        (self.index..self.recording.count()).find(far).unwrap_or(self.last())
    }

    fn place_at(&self, at: u64) -> usize {
        let seconds = |index: usize| unix_seconds(self.recording.at(index));
        let found = (0..self.recording.count()).rev().find(|&index| seconds(index) <= at).unwrap_or(0);
        // A step on that ends in a gap goes over it.
        if found == self.index && at > seconds(found) { found + 1 } else { found }
    }

    /// The history of the recording's whole time, by its end. It is read in a thread of its own.
    pub fn history(
        &self,
        requested: HistoryRequest,
    ) -> impl Future<Output = Result<HistoryReport, RecordError>> + Send + use<> {
        let (path, history) = (self.recording.path().to_owned(), Arc::clone(&self.history));
        let whole = path.clone();
        let end = unix_seconds(self.recording.at(self.last()));
        let reading = move || -> Result<HistoryReport, RecordError> {
            if history.get().is_none() {
                // If another request has been faster, both have read the same.
                let _ = history.set(Recording::open(&path)?.history()?);
            }
            Ok(history.get().map(|ring| ring.report(requested, end)).unwrap_or_default())
        };
        async move {
            let read = tasks::run_blocking("recorded history", HISTORY_READ_TIMEOUT, reading).await;
            read.unwrap_or_else(|source| Err(RecordError::History { path: whole, source }))
        }
    }

    fn until_next(&self) -> Option<Duration> {
        (self.index < self.last()).then(|| self.recording.between(self.index, self.index + 1))
    }

    fn last(&self) -> usize {
        self.recording.count() - 1
    }
}

const SPEEDS: [f64; 9] = [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
const NORMAL: usize = 3;
const MINUTE: Duration = Duration::from_secs(60);
/// Snapshots come every second; after a longer pause than this, the gateway was away.
const GAP_MAX: Duration = Duration::from_secs(3);

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;
    use crate::{
        gateway::handle,
        profile::Mode,
        record::{RecordError, Recorder},
        tasks::Tasks,
        telemetry::{
            health::Health,
            snapshot::{GatewayPhase, Snapshot},
        },
    };

    fn snapshot(uptime_seconds: f64, phase: GatewayPhase) -> Arc<Snapshot> {
        let health = Some(Health::Healthy);
        Arc::new(Snapshot { phase, health, uptime_seconds, ..Snapshot::new("demo", Mode::Direct) })
    }

    #[test]
    fn snapshots_without_a_health_word_are_judged() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder, &[0], "");
        let text = fs::read_to_string(&path).unwrap().replace("\"health\":\"healthy\",", "");
        fs::write(&path, text.replace("\"running\"", "\"stopped\"")).unwrap();
        let snapshot = Recording::open(&path).unwrap().snapshot(0).unwrap();
        assert_eq!(snapshot.health, Some(Health::Down));
    }

    /// A file with one snapshot for each second of `seconds`, whose uptime is that second.
    fn file(folder: &tempfile::TempDir, seconds: &[u64], rest: &str) -> PathBuf {
        let mut text =
            format!("{}\n", serde_json::to_string(&super::super::RecordingHeader::current()).unwrap());
        for &second in seconds {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            let snapshot = super::super::RecordedSnapshot {
                at: humantime::format_rfc3339_millis(at).to_string(),
                snapshot: std::borrow::Cow::Owned((*snapshot(second as f64, GatewayPhase::Running)).clone()),
            };
            text += &format!("{}\n", serde_json::to_string(&snapshot).unwrap());
        }
        let path = folder.path().join("recording");
        fs::write(&path, text + rest).unwrap();
        path
    }

    fn player(seconds: &[u64]) -> RecordingPlayer {
        let folder = tempfile::tempdir().unwrap();
        RecordingPlayer::new(Recording::open(&file(&folder, seconds, "")).unwrap())
    }

    fn shown(read: Result<Arc<Snapshot>, RecordError>) -> u64 {
        read.unwrap().uptime_seconds as u64
    }

    #[tokio::test(start_paused = true)]
    async fn snapshots_are_replayed_at_their_original_pace() {
        let mut player = player(&[0, 1, 3, 100, 101]);
        let began = Instant::now();
        let mut arrived = vec![];
        for _ in 0..4 {
            let snapshot = shown(player.next().await);
            arrived.push((snapshot, began.elapsed().as_secs()));
        }
        // The wait of 97 s is shown and shortened.
        assert_eq!(arrived, [(1, 1), (3, 3), (100, 6), (101, 7)]);
        assert_eq!(player.progress().state, PlayerState::Ended);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gap_is_shown_while_it_lasts() {
        let mut player = player(&[0, 1, 100]);
        assert_eq!(player.progress().gap, None);
        player.next().await.unwrap();
        assert_eq!(player.progress().gap, Some(Duration::from_secs(99)));
    }

    #[tokio::test(start_paused = true)]
    async fn speed_divides_the_waits() {
        let mut player = player(&[0, 2, 4]);
        for (requested, millis) in [(PlayerAction::Faster, 1000), (PlayerAction::Slower, 2000)] {
            player.perform(requested).unwrap();
            let began = Instant::now();
            player.next().await.unwrap();
            assert_eq!(began.elapsed().as_millis(), millis, "{requested:?}");
        }
        for _ in 0..20 {
            player.perform(PlayerAction::Slower).unwrap();
        }
        assert_eq!(player.progress().speed, 0.125);
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_player_steps_and_jumps() {
        let seconds: Vec<_> = (0..200).collect();
        let mut player = player(&seconds);
        let steps = [
            (PlayerAction::Pause, 0, PlayerState::Paused),
            (PlayerAction::StepBack, 0, PlayerState::Paused),
            (PlayerAction::StepOn, 1, PlayerState::Paused),
            (PlayerAction::MinuteOn, 61, PlayerState::Paused),
            (PlayerAction::StepBack, 60, PlayerState::Paused),
            (PlayerAction::Pause, 60, PlayerState::Playing),
            (PlayerAction::MinuteBack, 0, PlayerState::Playing),
            (PlayerAction::MinuteOn, 60, PlayerState::Playing),
            (PlayerAction::MinuteOn, 120, PlayerState::Playing),
            (PlayerAction::MinuteOn, 180, PlayerState::Playing),
            (PlayerAction::MinuteOn, 199, PlayerState::Ended),
            (PlayerAction::StepOn, 199, PlayerState::Ended),
            (PlayerAction::StepBack, 198, PlayerState::Paused),
            (PlayerAction::StepOn, 199, PlayerState::Ended),
            (PlayerAction::Pause, 0, PlayerState::Playing),
        ];
        for (requested, snapshot, state) in steps {
            assert_eq!(shown(player.perform(requested)), snapshot, "{requested:?}");
            assert_eq!(player.progress().state, state, "{requested:?} at {snapshot}");
        }
        player.perform(PlayerAction::Pause).unwrap();
        let waits = tokio::time::timeout(MINUTE, player.next()).await;
        assert!(waits.is_err(), "it moved while paused");
    }

    #[tokio::test]
    async fn it_goes_to_a_time_and_over_a_gap() {
        let mut player = player(&[10, 11, 13, 100, 101]);
        for (at, snapshot, state) in [
            (12, 11, PlayerState::Paused),
            (0, 10, PlayerState::Paused),
            (99, 13, PlayerState::Paused),
            // From there a little on.
            (19, 100, PlayerState::Paused),
            (94, 13, PlayerState::Paused),
            (u64::MAX, 101, PlayerState::Ended),
        ] {
            assert_eq!(shown(player.perform(PlayerAction::To(at))), snapshot, "{at}");
            assert_eq!(player.progress().state, state, "{at}");
        }
    }

    #[tokio::test]
    async fn the_history_of_a_recording_has_all_its_seconds() {
        let folder = tempfile::tempdir().unwrap();
        let recording = Recording::open(&file(&folder, &[10, 11, 13, 100, 101], "")).unwrap();
        let player = RecordingPlayer::new(recording);
        let requested = HistoryRequest { step_seconds: 1, steps: 600, rows_at: None };
        for _ in 0..2 {
            let report = player.history(requested).await.unwrap();
            let at: Vec<_> = report.samples.iter().map(|sample| sample.at).collect();
            assert_eq!((report.now, at), (101, vec![10, 11, 13, 100, 101]));
        }
    }

    #[test]
    fn an_invalid_recording_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recording");
        let reported = |text: &str| {
            fs::write(&path, text).unwrap();
            Recording::open(&path).unwrap_err().to_string()
        };
        let header = serde_json::to_string(&super::super::RecordingHeader::current()).unwrap();
        assert!(reported("").contains("line 1: not a recording"));
        assert!(reported("{\"at\":1}\n").contains("line 1: not a recording"));
        assert!(reported(&header.replace(":1}", ":999}")).contains("version"));
        assert!(reported(&format!("{header}\n")).contains("no snapshot"));
        assert!(reported(&format!("{header}\nnonsense\n")).contains("line 2: "));
        let good = fs::read_to_string(file(&folder, &[7], "")).unwrap();
        assert!(reported(&format!("{good}{{\"at\":\"yesterday\"}}\n")).contains("line 3: at: "));
    }

    #[test]
    fn an_incomplete_last_line_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let recording = Recording::open(&file(&folder, &[0, 1], r#"{"at":"19"#)).unwrap();
        assert_eq!(recording.count(), 2);
    }

    #[tokio::test]
    async fn a_recording_reads_back_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        let (handle, feed) = handle::channel(snapshot(0.0, GatewayPhase::Starting), "test");
        let recorder = Recorder::open(&path).await.unwrap();
        let recorded = recorder.start(handle.watch(), &Tasks::default(), Arc::default());
        // The second snapshot is within the same second; the last one is recorded whenever it comes.
        let (first, last) = (snapshot(1.5, GatewayPhase::Running), snapshot(1.7, GatewayPhase::Stopped));
        feed.snapshots.send_replace(first.clone());
        while fs::read_to_string(&path).unwrap().lines().count() < 2 {
            tokio::task::yield_now().await;
        }
        feed.snapshots.send_replace(last.clone());
        drop(feed);
        recorded.wait(Duration::from_secs(20)).await.unwrap();
        let mut recording = Recording::open(&path).unwrap();
        let read: Vec<_> = (0..recording.count()).map(|index| recording.snapshot(index).unwrap()).collect();
        assert_eq!(read, [first, last]);
    }
}
