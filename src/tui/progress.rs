//! The position of a replay, in words.

use crate::{
    record::{PlayerState, ReplayProgress},
    tui::format,
};

/// `REPLAY 21:50:18Z 00:41/05:00 x4`.
pub fn describe_progress(progress: &ReplayProgress) -> String {
    let word = match progress.state {
        PlayerState::Playing => "REPLAY",
        PlayerState::Paused => "PAUSED",
        PlayerState::Ended => "END",
    };
    let at = humantime::format_rfc3339_seconds(progress.at).to_string();
    // Day and time are separated by a T.
    let time = at.split_once('T').map_or(at.as_str(), |(_, time)| time);
    let passed = format::age(progress.passed.as_secs_f64());
    let mut words = format!("{word} {time} {passed}/{}", format::age(progress.whole.as_secs_f64()));
    if progress.speed != 1.0 {
        words += &format!(" x{}", progress.speed);
    }
    words
}

/// What is missing after this snapshot.
pub fn describe_gap(progress: &ReplayProgress) -> Option<String> {
    let gap = format::whole_span(progress.gap?.as_secs_f64());
    Some(format!("after this snapshot nothing was recorded for {gap}"))
}
