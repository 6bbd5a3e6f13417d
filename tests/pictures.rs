//! The pictures of the README, drawn from a recording: each is as it was, or is drawn anew.
//!
//! ```text
//! PORTCULLIS_BLESS=1      cargo test --test pictures     draws assets/*.svg from the recording
//! PORTCULLIS_BLESS=record cargo test --test pictures     makes the recording first: two minutes
//! ```

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod process;
#[path = "pictures/shop.rs"]
mod shop;
#[path = "pictures/svg.rs"]
mod svg;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use portcullis::{
    record::Recording,
    telemetry::snapshot::{PoolState, Snapshot},
    tui::{app::App, style::ScreenStyle, view},
};
use ratatui::{Terminal, backend::TestBackend, buffer::Buffer};

/// A name, the first moment of the recording to draw, and the keys pressed then.
type Wanted = (&'static str, fn(&Snapshot) -> bool, &'static str);

const PICTURES: [Wanted; 3] = [
    ("overview", |snapshot| snapshot.ended.iter().any(|row| row.end == "BC"), ""),
    ("sessions", |snapshot| snapshot.ended.iter().any(|row| row.end == "BC"), "3jjx"),
    ("pool", |snapshot| snapshot.pools.iter().any(is_starved), "2j"),
];

fn is_starved(pool: &portcullis::telemetry::snapshot::PoolRow) -> bool {
    pool.state == PoolState::Starved || pool.waiting > 0
}

#[test]
fn the_pictures_are_what_the_recording_shows() {
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
        let kept = fs::read_to_string(&file).unwrap_or_default();
        let line = kept.lines().zip(drawn.lines()).position(|(kept, drawn)| kept != drawn);
        let how = "PORTCULLIS_BLESS=1 cargo test --test pictures draws them anew; look at them";
        assert!(kept == drawn, "{} differs, line {:?}; {how}", file.display(), line.map(|line| line + 1));
    }
}

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").join(name)
}

/// The screen after every picture up to the wanted moment, and the keys.
fn draw(recording: &Path, moment: fn(&Snapshot) -> bool, keys: &str) -> Buffer {
    let mut recording = Recording::open(recording).unwrap();
    let mut app = App::new(recording.snapshot(0).unwrap(), ScreenStyle::FULL);
    let found = (0..recording.count()).any(|place| {
        let snapshot = recording.snapshot(place).unwrap();
        app.take_snapshot(Arc::clone(&snapshot));
        moment(&snapshot)
    });
    assert!(found, "the recording has no such moment");
    for key in keys.chars() {
        app.press(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE));
    }
    let mut terminal = Terminal::new(TestBackend::new(120, 36)).unwrap();
    terminal.draw(|frame| view::draw(frame, &app)).unwrap();
    terminal.backend().buffer().clone()
}
