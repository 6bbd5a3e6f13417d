//! Bytes a second over the last two minutes, both ways.
//!
//! Each column of the curve covers the same whole number of seconds at every frame, and its
//! seconds are counted from the gateway's start: curves move left and never change their shape.

use ratatui::{
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::Style,
    widgets::{Sparkline, Widget},
};

use crate::{
    telemetry::snapshot::{Snapshot, TrafficSample},
    tui::{
        app::App,
        format,
        look::Look,
        view::{panel, table},
    },
};

/// One direction of the traffic.
struct Way {
    word: &'static str,
    rate: fn(&TrafficSample) -> u64,
    style: Style,
}

pub fn draw_panel(app: &App, area: Rect, buffer: &mut Buffer) {
    let (look, snapshot) = (&app.look, app.snapshot());
    let inside = panel::margin(panel::frame(look, "Traffic", "last 2 min", area, buffer));
    for (way, top) in ways(look).iter().zip([0, 2]) {
        let head = table::line(inside, top);
        let now = snapshot.traffic.last().map_or("-".into(), |sample| format::rate((way.rate)(sample)));
        table::write(&format!("{:<4} {now}", way.word), way.style, head, buffer);
        let peak = format!("peak {}", format::rate(peak(snapshot, way)));
        let indent = head.width.saturating_sub(table::width(&peak));
        let right = Rect { x: head.x + indent, width: head.width - indent, ..head };
        table::write(&peak, look.theme.faint, right, buffer);
        draw_curve(look, snapshot, way, table::line(inside, top + 1), buffer);
    }
    let totals = &snapshot.totals;
    let (up, down) = (format::bytes(totals.bytes_up), format::bytes(totals.bytes_down));
    let text = format!("total {up} up, {down} down");
    table::write(&table::cut(look, &text, inside.width), look.theme.plain, table::line(inside, 4), buffer);
}

/// Both ways on one line, for small screens.
pub fn draw_line(app: &App, area: Rect, buffer: &mut Buffer) {
    let (look, snapshot) = (&app.look, app.snapshot());
    let halves: [Rect; 2] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(area);
    for (way, half) in ways(look).iter().zip(halves) {
        let half = panel::margin(half);
        let now = snapshot.traffic.last().map_or("-".into(), |sample| format::rate((way.rate)(sample)));
        let label = format!("{:<4} {now:>9} ", way.word);
        table::write(&label, way.style, half, buffer);
        let indent = table::width(&label).min(half.width);
        let curve = Rect { x: half.x + indent, width: half.width - indent, ..half };
        draw_curve(look, snapshot, way, curve, buffer);
    }
}

fn ways(look: &Look) -> [Way; 2] {
    [
        Way { word: "up", rate: |sample| sample.up, style: look.theme.up },
        Way { word: "down", rate: |sample| sample.down, style: look.theme.down },
    ]
}

fn peak(snapshot: &Snapshot, way: &Way) -> u64 {
    window(&snapshot.traffic).iter().map(way.rate).max().unwrap_or(0)
}

fn draw_curve(look: &Look, snapshot: &Snapshot, way: &Way, area: Rect, buffer: &mut Buffer) {
    let area = area.intersection(buffer.area);
    if area.is_empty() {
        return;
    }
    let rates: Vec<u64> = window(&snapshot.traffic).iter().map(way.rate).collect();
    let columns = columns(&rates, snapshot.uptime_seconds as u64, area.width);
    Sparkline::default()
        .data(columns)
        .max(peak(snapshot, way).max(1))
        .bar_set(look.symbols.spark.clone())
        .style(way.style)
        .absent_value_symbol(look.symbols.gap)
        .absent_value_style(look.theme.faint)
        .render(area, buffer);
}

/// The samples of the last two minutes.
fn window(samples: &[TrafficSample]) -> &[TrafficSample] {
    &samples[samples.len().saturating_sub(WINDOW_SECONDS as usize)..]
}

/// The highest rate in each column, newest last; `None` where no second has a sample.
fn columns(rates: &[u64], now_seconds: u64, width: u16) -> Vec<Option<u64>> {
    let seconds_each = WINDOW_SECONDS.div_ceil(u64::from(width.max(1)));
    let count = WINDOW_SECONDS.div_ceil(seconds_each);
    let mut columns = vec![None; usize::try_from(count).unwrap_or(0)];
    let newest = now_seconds / seconds_each;
    for (back, &rate) in (0..).zip(rates.iter().rev()) {
        let Some(second) = now_seconds.checked_sub(back) else { break };
        let columns_back = usize::try_from(newest - second / seconds_each).unwrap_or(usize::MAX);
        if let Some(place) = columns.len().checked_sub(columns_back.saturating_add(1)) {
            columns[place] = columns[place].max(Some(rate));
        }
    }
    columns
}

const WINDOW_SECONDS: u64 = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_cover_two_minutes_and_keep_peaks() {
        let rates: Vec<u64> = (1..=120).collect();
        let all = columns(&rates, 1200, 200);
        assert_eq!((all.len(), all[0], all[119]), (120, Some(1), Some(120)));
        // Forty columns of three seconds; the last has begun one second ago.
        let packed = columns(&rates, 1200, 44);
        assert_eq!((packed.len(), packed[39], packed[38], packed[37]), (40, Some(120), Some(119), Some(116)));
    }

    #[test]
    fn what_was_not_sampled_is_a_gap_and_not_zero() {
        let some = columns(&[0, 7], 1200, 120);
        assert_eq!((some[117], some[118], some[119]), (None, Some(0), Some(7)));
        assert!(columns(&[], 0, 0).iter().all(Option::is_none));
    }

    #[test]
    fn a_second_later_only_the_newest_column_has_changed() {
        let before: Vec<u64> = (1..=100).collect();
        let after: Vec<u64> = (1..=101).collect();
        let (before, after) = (columns(&before, 1000, 40), columns(&after, 1001, 40));
        assert_eq!(before[..39], after[..39]);
    }
}
