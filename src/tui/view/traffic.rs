//! Bytes a second over the last minutes, in both directions.
//!
//! Each column of the chart always covers the same whole number of seconds, counted from the gateway's start:
//! charts move left and never change their shape.

use ratatui::{
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::Style,
};

use crate::{
    telemetry::snapshot::{ServiceRow, TrafficSample},
    tui::{
        app::App,
        format,
        style::ScreenStyle,
        view::{
            bars::{self, BarChartData},
            panel, table,
        },
    },
};

/// A direction of the traffic.
struct TrafficDirection {
    word: &'static str,
    rate: fn(&TrafficSample) -> u64,
    style: Style,
}

/// Bytes a second, by the second of the gateway's uptime, oldest first.
pub type RateSamples = Vec<(u64, TrafficSample)>;

/// For the whole gateway.
pub fn draw_panel(app: &App, area: Rect, buffer: &mut Buffer) {
    let snapshot = app.snapshot();
    let totals = (snapshot.totals.bytes_up, snapshot.totals.bytes_down);
    draw_framed(app, "Traffic", &in_window(app, app.history().all()), totals, area, buffer);
}

/// For one service, for as long as the screen has watched it.
pub fn draw_service(app: &App, row: &ServiceRow, area: Rect, buffer: &mut Buffer) {
    let title = format!("Traffic of {}", app.style.text(&row.name, NAME_CHARS));
    let samples = of_service(app, row);
    let totals = (row.totals.bytes_up, row.totals.bytes_down);
    draw_framed(app, &title, &samples, totals, area, buffer);
}

pub fn of_service(app: &App, row: &ServiceRow) -> RateSamples {
    in_window(app, app.history().of(row))
}

/// Without samples after a frozen snapshot, or older than the window.
fn in_window(app: &App, samples: &[(u64, TrafficSample)]) -> RateSamples {
    let now = app.snapshot().uptime_seconds as u64;
    let oldest = now.saturating_sub(app.window().seconds());
    samples.iter().filter(|(second, _)| (oldest..=now).contains(second)).copied().collect()
}

fn draw_framed(
    app: &App,
    title: &str,
    samples: &RateSamples,
    (up, down): (u64, u64),
    area: Rect,
    buffer: &mut Buffer,
) {
    let screen_style = &app.style;
    let inside = panel::margin(panel::draw_frame(screen_style, title, app.window().words(), area, buffer));
    // A head above each chart, and the totals below both.
    let curve_lines = (inside.height.saturating_sub(3) / 2).max(1);
    for (direction, top) in traffic_directions(screen_style).iter().zip([0, curve_lines + 1]) {
        let head = table::line(inside, top);
        table::write(
            &format!("{:<4} {}", direction.word, now(samples, direction)),
            direction.style,
            head,
            buffer,
        );
        let peak = if samples.is_empty() { "-".into() } else { format::rate(peak(samples, direction)) };
        let peak = format!("peak {peak}");
        let indent = head.width.saturating_sub(table::width(&peak));
        let right = Rect { x: head.x + indent, width: head.width - indent, ..head };
        table::write(&peak, screen_style.theme.faint, right, buffer);
        let curve = Rect { y: inside.y + top + 1, height: curve_lines, ..inside };
        draw_curve(app, samples, direction, curve.intersection(inside), buffer);
    }
    let text = format!("total {} up, {} down", format::bytes(up), format::bytes(down));
    table::write(
        &table::cut(screen_style, &text, inside.width),
        screen_style.theme.plain,
        table::line(inside, 2 * curve_lines + 2),
        buffer,
    );
}

/// Both directions on one line, for small screens.
pub fn draw_line(app: &App, area: Rect, buffer: &mut Buffer) {
    let samples = in_window(app, app.history().all());
    let halves: [Rect; 2] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(area);
    for (direction, half) in traffic_directions(&app.style).iter().zip(halves) {
        let half = panel::margin(half);
        let label = format!("{:<4} {:>9} ", direction.word, now(&samples, direction));
        table::write(&label, direction.style, half, buffer);
        let indent = table::width(&label).min(half.width);
        let curve = Rect { x: half.x + indent, width: half.width - indent, ..half };
        draw_curve(app, &samples, direction, curve, buffer);
    }
}

fn traffic_directions(screen_style: &ScreenStyle) -> [TrafficDirection; 2] {
    [
        TrafficDirection { word: "up", rate: |sample| sample.up, style: screen_style.theme.up },
        TrafficDirection { word: "down", rate: |sample| sample.down, style: screen_style.theme.down },
    ]
}

fn now(samples: &RateSamples, direction: &TrafficDirection) -> String {
    samples.last().map_or("-".into(), |(_, sample)| format::rate((direction.rate)(sample)))
}

fn peak(samples: &RateSamples, direction: &TrafficDirection) -> u64 {
    samples.iter().map(|(_, sample)| (direction.rate)(sample)).max().unwrap_or(0)
}

fn draw_curve(
    app: &App,
    samples: &RateSamples,
    direction: &TrafficDirection,
    area: Rect,
    buffer: &mut Buffer,
) {
    let area = area.intersection(buffer.area);
    if area.is_empty() {
        return;
    }
    let rates: Vec<_> = samples.iter().map(|(second, sample)| (*second, (direction.rate)(sample))).collect();
    let window = app.window().seconds();
    let columns = columns(&rates, app.snapshot().uptime_seconds as u64, area.width, window);
    // For a short time, a second takes several cells.
    let cells_each = (usize::from(area.width) / columns.len().max(1)).max(1);
    let drawn = columns.into_iter().flat_map(|column| std::iter::repeat_n(column, cells_each));
    let columns = drawn.map(|rate| rate.map(|rate| (rate as f64, direction.style))).collect();
    let scale = peak(samples, direction).max(1) as f64;
    bars::draw(&app.style, &BarChartData { columns, scale, lit: None }, area, buffer);
}

/// The highest rate in each column, newest last; `None` if no second has a sample.
fn columns(rates: &[(u64, u64)], now_seconds: u64, width: u16, window_seconds: u64) -> Vec<Option<u64>> {
    let seconds_each = window_seconds.div_ceil(u64::from(width.max(1)));
    let count = window_seconds.div_ceil(seconds_each);
    let mut columns = vec![None; usize::try_from(count).unwrap_or(0)];
    let newest = now_seconds / seconds_each;
    for &(second, rate) in rates {
        let back = newest.checked_sub(second / seconds_each).and_then(|back| usize::try_from(back).ok());
        if let Some(index) = back.and_then(|back| columns.len().checked_sub(back.saturating_add(1))) {
            columns[index] = columns[index].max(Some(rate));
        }
    }
    columns
}

/// Lines of a framed chart with two curves of the same height, in at most this many lines, if these are enough
/// for any.
pub fn framed_lines(lines_max: u16) -> u16 {
    FRAMED + lines_max.saturating_sub(FRAMED) / 2 * 2
}

/// How many of `lines` a chart gets below a list, which gets the rest.
pub fn lines_below_list(lines: u16) -> u16 {
    match lines >= 2 * FRAMED_HIGH {
        true => framed_lines((lines * 2 / 5).max(FRAMED_HIGH)),
        false => FRAMED,
    }
}

/// Two ways of two lines, and the totals.
pub const FRAMED: u16 = 7;
/// The lines of a frame with curves of three lines, which are enough to read.
pub const FRAMED_HIGH: u16 = 11;
const NAME_CHARS: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds up to `now`, each with its rate.
    fn up_to(now: u64, rates: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
        let rates: Vec<_> = rates.into_iter().collect();
        (now + 1 - rates.len() as u64..).zip(rates).collect()
    }

    #[test]
    fn columns_cover_the_window_and_keep_peaks() {
        let rates = up_to(1200, 1..=120);
        let all = columns(&rates, 1200, 200, 120);
        assert_eq!((all.len(), all[0], all[119]), (120, Some(1), Some(120)));
        // Forty columns of three seconds; the last one has begun a second ago.
        let packed = columns(&rates, 1200, 44, 120);
        assert_eq!((packed.len(), packed[39], packed[38], packed[37]), (40, Some(120), Some(119), Some(116)));
    }

    #[test]
    fn what_was_not_sampled_is_a_gap_and_not_zero() {
        let some = columns(&[(1196, 3), (1199, 0), (1200, 7)], 1200, 120, 120);
        assert_eq!(some[115..], [Some(3), None, None, Some(0), Some(7)]);
        assert!(columns(&[], 0, 0, 120).iter().all(Option::is_none));
    }

    #[test]
    fn a_second_later_only_the_newest_column_has_changed() {
        let (before, after) = (up_to(1000, 1..=100), up_to(1001, 1..=101));
        let (before, after) = (columns(&before, 1000, 40, 120), columns(&after, 1001, 40, 120));
        assert_eq!(before[..39], after[..39]);
    }
}
