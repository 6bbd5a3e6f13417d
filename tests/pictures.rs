//! The pictures of the README, drawn from recordings: each must match its file, or is drawn again.
//!
//! ```text
//! PORTCULLIS_BLESS=1      cargo test --test pictures         draws assets/*.svg and walk.cast from the recordings
//! PORTCULLIS_BLESS=record cargo test --test pictures         makes the recordings first: two minutes
//! PORTCULLIS_BLESS=record cargo test --test pictures walk    that of the walk alone: half a minute
//! ```

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "pictures/cast.rs"]
mod cast;
#[path = "process/ports.rs"]
mod ports;
mod process;
#[path = "pictures/shop.rs"]
mod shop;
#[path = "pictures/svg.rs"]
mod svg;
#[path = "pictures/walk.rs"]
mod walk;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use portcullis::{
    gateway::handle::CommandAnswer,
    profile::Mode,
    record::Recording,
    telemetry::{
        history::{HistoryRing, HistorySample},
        snapshot::{PoolState, Snapshot},
    },
    tui::{app::App, style::ScreenStyle, view},
};
use ratatui::{Terminal, backend::TestBackend, buffer::Buffer};

/// A name, the first moment of the recording to draw, and the keys pressed then.
type Wanted = (&'static str, fn(&Snapshot) -> bool, &'static str);

const PICTURES: [Wanted; 10] = [
    ("overview", |snapshot| snapshot.ended.iter().any(|row| row.end == "BC"), ""),
    ("sessions", |snapshot| snapshot.ended.iter().any(|row| row.end == "BC"), "3jjx"),
    ("services", |snapshot| snapshot.ended.iter().any(|row| row.end == "BC"), "4j"),
    ("clients", |snapshot| snapshot.ended.iter().any(|row| row.end == "BC"), "3aj"),
    ("failures", |snapshot| snapshot.pools.iter().any(is_starved), "7j"),
    ("events", |snapshot| snapshot.pools.iter().any(is_starved), "5"),
    ("pool", |snapshot| snapshot.pools.iter().any(is_starved), "2j"),
    ("path", |snapshot| snapshot.pools.iter().any(is_starved), "9"),
    ("doctor", |snapshot| snapshot.pools.iter().any(is_starved), "0"),
    ("history", |snapshot| snapshot.pools.iter().any(is_starved), "H"),
];

fn is_starved(pool: &portcullis::telemetry::snapshot::PoolRow) -> bool {
    pool.state == PoolState::Starved || pool.waiting > 0
}

#[test]
fn the_images_match_the_recording() {
    let recording = asset("shop.jsonl");
    let bless = std::env::var("PORTCULLIS_BLESS").unwrap_or_default();
    if bless == "record" {
        shop::record(&recording);
    }
    for (name, moment, keys) in PICTURES {
        let drawn = svg::of(&draw(&recording, moment, keys));
        let file = asset(&format!("{name}.svg"));
        if !bless.is_empty() {
            fs::write(&file, &drawn).unwrap();
        }
        assert_kept(&file, &drawn);
    }
}

#[track_caller]
fn assert_kept(file: &Path, drawn: &str) {
    let kept = fs::read_to_string(file).unwrap_or_default();
    let line = kept.lines().zip(drawn.lines()).position(|(kept, drawn)| kept != drawn);
    let how = "PORTCULLIS_BLESS=1 cargo test --test pictures draws them again; look at them";
    assert!(kept == drawn, "{} differs, line {:?}; {how}", file.display(), line.map(|line| line + 1));
}

/// Bytes that somebody may have to fetch before the walk is seen.
const WALK_BYTES_MAX: usize = 300_000;

#[test]
fn the_cast_matches_its_recording() {
    let bless = std::env::var("PORTCULLIS_BLESS").unwrap_or_default();
    if bless == "record" {
        walk::record(&asset("walk.jsonl"));
    }
    let mut recording = Recording::open(&asset("walk.jsonl")).unwrap();
    let mut app = App::new(recording.snapshot(0).unwrap(), ScreenStyle::FULL);
    let mut cast = cast::Cast::begin("Portcullis: from forward to reverse under load", (120, 36));
    let (mut reverse_since, mut shown) = (None, None);
    for place in 0..recording.count() {
        let snapshot = recording.snapshot(place).unwrap();
        let at = recording.between(0, place).as_secs_f64();
        if snapshot.mode == Mode::Reverse {
            reverse_since.get_or_insert(at);
        }
        app.receive_snapshot(Arc::clone(&snapshot));
        // The overview until reverse mode has stood for a moment, and then the path.
        if reverse_since.is_some_and(|since| at - since > 4.0) && shown.is_none() {
            shown = Some(buffer(&app));
            app.press(KeyEvent::new(KeyCode::Char('9'), KeyModifiers::NONE));
        }
        assert_eq!(snapshot.ended.len(), 0, "the switch cuts no session");
        cast.draw(at, &app);
    }
    let drawn = [("walk.svg", svg::of(&shown.expect("both modes are seen"))), ("walk.cast", cast.text())];
    for (name, text) in drawn {
        assert!(text.len() <= WALK_BYTES_MAX, "{name}: {} bytes", text.len());
        if !bless.is_empty() {
            fs::write(asset(name), &text).unwrap();
        }
        assert_kept(&asset(name), &text);
    }
}

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").join(name)
}

/// The screen after every picture up to the wanted moment, and the keys.
fn draw(recording: &Path, moment: fn(&Snapshot) -> bool, keys: &str) -> Buffer {
    let mut recording = Recording::open(recording).unwrap();
    let mut app = App::new(recording.snapshot(0).unwrap(), ScreenStyle::FULL);
    let mut history = PictureHistory::default();
    let found = (0..recording.count()).any(|place| {
        let snapshot = recording.snapshot(place).unwrap();
        app.receive_snapshot(Arc::clone(&snapshot));
        history.receive_snapshot(&snapshot);
        moment(&snapshot)
    });
    assert!(found, "the recording has no such moment");
    for key in keys.chars() {
        app.press(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE));
    }
    for (name, requested) in app.history_requests() {
        let report = history.ring.report(requested, history.now);
        app.take_history(name, requested, CommandAnswer::History(Box::new(report)));
    }
    buffer(&app)
}

fn buffer(app: &App) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(120, 36)).unwrap();
    terminal.draw(|frame| view::draw(frame, app)).unwrap();
    terminal.backend().buffer().clone()
}

/// When the recording began: its pictures have no time of their own.
const BEGAN: u64 = 1_795_559_384;

/// What the gateway of the recording would tell of its last minutes.
#[derive(Default)]
struct PictureHistory {
    ring: HistoryRing,
    now: u64,
    refused: u64,
}

impl PictureHistory {
    fn receive_snapshot(&mut self, snapshot: &Snapshot) {
        self.now = BEGAN + snapshot.uptime_seconds as u64;
        let rate = snapshot.traffic.last().copied().unwrap_or_default();
        let half = snapshot.halves[0];
        let pools = || snapshot.pools.iter().filter(|pool| pool.half == half);
        let refused = snapshot.totals.refused - self.refused;
        self.refused = snapshot.totals.refused;
        self.ring.take_second(HistorySample {
            at: self.now,
            seconds: 1,
            up: rate.up,
            down: rate.down,
            up_max: rate.up,
            down_max: rate.down,
            open: snapshot.totals.sessions_open,
            waiting: snapshot.totals.sessions_waiting,
            links: pools().map(|pool| pool.ready as u64).sum(),
            links_wanted: pools().map(|pool| pool.target as u64).sum(),
            refused,
            wait_ms: pools().filter_map(|pool| pool.wait_p99_ms).reduce(f64::max),
        });
    }
}
