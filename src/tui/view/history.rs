//! The last hours in charts, one above the other over the same time: rates, sessions, links, waits and
//! refusals.
//!
//! Each column always covers the same whole number of steps, counted from 1970: charts move left and never
//! change their shape.

use std::time::{Duration, SystemTime};

use ratatui::{
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::Style,
};

use crate::{
    telemetry::history::{HistoryReport, HistorySample},
    tui::{
        app::App,
        format,
        theme::Theme,
        trends::SummedGateways,
        view::{
            bars::{self, BarChartData},
            panel, past_rows, table,
        },
    },
};

/// A thing that is charted.
struct HistoryChart {
    title: &'static str,
    value: fn(&HistorySample) -> Option<f64>,
    /// The scale of its columns, if that is larger than the highest of them.
    scale: fn(&HistorySample) -> f64,
    text: fn(&HistorySample) -> String,
    /// Which of two samples is the more telling one.
    is_worse: fn(&HistorySample, &HistorySample) -> bool,
    worst: &'static str,
    style: fn(&Theme, &HistorySample) -> Style,
}

const CHARTS: [HistoryChart; 6] = [
    HistoryChart {
        title: "up",
        value: |sample| Some(sample.up as f64),
        scale: |_| 0.0,
        text: |sample| format::rate(sample.up),
        is_worse: |a, b| a.up > b.up,
        worst: "most",
        style: |theme, _| theme.up,
    },
    HistoryChart {
        title: "down",
        value: |sample| Some(sample.down as f64),
        scale: |_| 0.0,
        text: |sample| format::rate(sample.down),
        is_worse: |a, b| a.down > b.down,
        worst: "most",
        style: |theme, _| theme.down,
    },
    HistoryChart {
        title: "sessions",
        value: |sample| Some(sample.open as f64),
        scale: |_| 0.0,
        text: |sample| format!("{} open", format::amount(sample.open)),
        is_worse: |a, b| a.open > b.open,
        worst: "most",
        style: |theme, _| theme.good,
    },
    HistoryChart {
        title: "links",
        value: |sample| Some(sample.links as f64),
        scale: |sample| sample.links_wanted as f64,
        text: |sample| format!("{}/{}", format::amount(sample.links), format::amount(sample.links_wanted)),
        is_worse: |a, b| a.links < b.links,
        worst: "least",
        style: |theme, sample| if sample.links < sample.links_wanted { theme.warn } else { theme.good },
    },
    HistoryChart {
        title: "wait99",
        value: |sample| sample.wait_ms,
        scale: |_| 0.0,
        text: |sample| match (sample.wait_ms, sample.waiting) {
            (Some(ms), 0) => format::wait(ms),
            (Some(ms), waiting) => format!("{}, {} wait", format::wait(ms), format::amount(waiting)),
            (None, 0) => "-".into(),
            (None, waiting) => format!("{} wait", format::amount(waiting)),
        },
        is_worse: |a, b| a.wait_ms > b.wait_ms,
        worst: "most",
        style: |theme, sample| if sample.waiting > 0 { theme.warn } else { theme.plain },
    },
    HistoryChart {
        title: "refused",
        value: |sample| Some(sample.refused as f64),
        scale: |_| 0.0,
        text: |sample| format::count(sample.refused, "client"),
        is_worse: |a, b| a.refused > b.refused,
        worst: "most",
        style: |theme, _| theme.bad,
    },
];

/// The columns of all charts: the measurements in each, and the time a column covers.
struct HistoryColumns {
    samples: Vec<Option<HistorySample>>,
    seconds: u64,
    /// When the first of them begins.
    begins: u64,
    cursor: Option<usize>,
}

pub fn draw_screen(app: &App, area: Rect, buffer: &mut Buffer) {
    let mut facts = format!("{}, + and - change it", app.trends().span.words());
    let summed = app.trends().summed_gateways(app.snapshot(), app.scope());
    if let Some(SummedGateways { reported, counted }) = summed.filter(|_| app.is_fleet() && !app.is_replay())
    {
        facts.push_str(&format!(", now {reported} of {counted} gateways"));
    }
    let inside = panel::draw_frame(&app.style, "History", &facts, area, buffer);
    draw_list(app, panel::margin(inside), buffer);
}

pub fn draw_list(app: &App, area: Rect, buffer: &mut Buffer) {
    let Some(report) = app.trends().report(app.snapshot()) else {
        let why = app.trends().refusal().map_or_else(
            || {
                if app.is_replay() { "the recording is read" } else { "the gateway is asked for its history" }
                    .into()
            },
            |why| format!("no history: {}", app.style.text(&app.addresses().text(why), TEXT_CHARS)),
        );
        return panel::draw_empty(&app.style, &why, area, buffer);
    };
    let label = LABEL_CELLS.min(area.width / 3);
    let columns = columns(app, &report, area.width - label);
    let (gateways, rows) = (gateways_then(app, &columns), app.past_rows());
    let lines = rows.map_or(gateways.len(), past_rows::count);
    let [area, below] =
        Layout::vertical([Constraint::Min(0), Constraint::Length(lines_below(lines, area.height))])
            .areas(area);
    match rows {
        Some(rows) => past_rows::draw(app, rows, below, buffer),
        None => draw_gateways(app, &gateways, below, buffer),
    }
    let plot = Rect { x: area.x + label, width: area.width - label, ..area };
    let axis = area.height.saturating_sub(1);
    let charts = u16::try_from(CHARTS.len()).unwrap_or(1).min(axis);
    let mut y = area.y;
    for (chart, number) in CHARTS.iter().zip(0..charts) {
        // A remainder makes the first charts taller.
        let height = axis / charts + u16::from(number < axis % charts);
        let rect = Rect { y, height, ..area };
        y += height;
        draw_label(app, chart, &columns, Rect { width: label, ..rect }, buffer);
        draw_chart(app, chart, &columns, Rect { x: plot.x, width: plot.width, ..rect }, buffer);
    }
    draw_axis(app, &report, &columns, label, table::line(area, axis), buffer);
}

/// The sample of a gateway of a fleet at the cursor.
type GatewayThen<'a> = (&'a str, Result<Option<HistorySample>, &'a str>);

fn gateways_then<'a>(app: &'a App, columns: &HistoryColumns) -> Vec<GatewayThen<'a>> {
    let Some(index) = columns.cursor else { return Vec::new() };
    let begins = columns.begins.saturating_add(columns.seconds.saturating_mul(index as u64));
    app.trends().of_gateways(begins..begins.saturating_add(columns.seconds))
}

/// Heads, the rows and a line before them, where the charts leave that much.
fn lines_below(rows: usize, lines: u16) -> u16 {
    match (rows, lines) {
        (0, _) | (_, ..GATEWAYS_LINES_MIN) => 0,
        (rows, lines) => u16::try_from(rows.saturating_add(2)).unwrap_or(u16::MAX).min(lines / 3),
    }
}

/// A line for each gateway, with what the charts tell of all.
fn draw_gateways(app: &App, gateways: &[GatewayThen<'_>], area: Rect, buffer: &mut Buffer) {
    let theme = app.style.theme;
    let Some(rows) = usize::from(area.height).checked_sub(2) else { return };
    let titles = CHARTS.iter().map(|chart| (chart.title.to_uppercase(), theme.title));
    let label = LABEL_CELLS.min(area.width / 3);
    draw_cells(app, ("GATEWAY", theme.title, label), titles, table::line(area, 1), buffer);
    let is_cut = gateways.len() > rows;
    let shown = if is_cut { rows.saturating_sub(1) } else { gateways.len() };
    for ((name, then), at) in gateways.iter().take(shown).zip(panel::lines(area).skip(2)) {
        let name = app.style.text(name, TEXT_CHARS);
        match then {
            Ok(Some(sample)) => {
                let cells = CHARTS.iter().map(|chart| ((chart.text)(sample), (chart.style)(&theme, sample)));
                draw_cells(app, (&name, theme.accent, label), cells, at, buffer);
            }
            Ok(None) => {
                let cells = [("not measured".into(), theme.faint)];
                draw_cells(app, (&name, theme.faint, label), cells, at, buffer)
            }
            Err(why) => {
                let why = app.style.text(&app.addresses().text(why), TEXT_CHARS);
                table::write(
                    &table::cut(&app.style, &format!("{name} {why}"), at.width),
                    theme.faint,
                    at,
                    buffer,
                );
            }
        }
    }
    if is_cut {
        let last = table::line(area, area.height.saturating_sub(1));
        table::write(&format!("+{} more", gateways.len() - shown), theme.faint, last, buffer);
    }
}

/// A name, and the other cells, which share what is left.
pub fn draw_cells(
    app: &App,
    (name, style, label): (&str, Style, u16),
    cells: impl IntoIterator<Item = (String, Style)>,
    area: Rect,
    buffer: &mut Buffer,
) {
    table::write(&table::cut(&app.style, name, label.saturating_sub(1)), style, area, buffer);
    let width = (area.width - label) / CHARTS.len() as u16;
    for ((text, style), number) in cells.into_iter().zip(0..) {
        let at = Rect { x: area.x + label + number * width, width, ..area };
        table::write(&table::cut(&app.style, &text, width.saturating_sub(1)), style, at, buffer);
    }
}

fn columns(app: &App, report: &HistoryReport, width: u16) -> HistoryColumns {
    let (span, width) = (app.trends().span.seconds(), u64::from(width.max(1)));
    let step = report.step_seconds.max(1);
    let seconds = span.div_ceil(width).div_ceil(step) * step;
    let count = span.div_ceil(seconds).min(width);
    let newest = report.now / seconds;
    let oldest = newest.saturating_sub(count - 1);
    let mut samples = vec![None; usize::try_from(count).unwrap_or(0)];
    let index_of = |at: u64| (at / seconds).checked_sub(oldest).and_then(|index| usize::try_from(index).ok());
    for sample in &report.samples {
        if let Some(there) = index_of(sample.at).and_then(|index| samples.get_mut(index)) {
            *there = Some(there.map_or(*sample, |before: HistorySample| before.followed_by(sample)));
        }
    }
    let last = samples.len().saturating_sub(1);
    let cursor = app.history_cursor().map(|at| {
        let index = (at / seconds).saturating_sub(oldest);
        usize::try_from(index).unwrap_or(last).min(last)
    });
    HistoryColumns { samples, seconds, begins: oldest * seconds, cursor }
}

/// The label, the newest value or the one at the cursor, and the worst of the time shown.
fn draw_label(app: &App, chart: &HistoryChart, columns: &HistoryColumns, area: Rect, buffer: &mut Buffer) {
    let theme = app.style.theme;
    let reported = match columns.cursor {
        Some(index) => columns.samples.get(index).copied().flatten(),
        None => columns.samples.iter().rev().copied().flatten().next(),
    };
    let now = reported.map_or("-".into(), |sample| (chart.text)(&sample));
    let known = columns.samples.iter().flatten();
    let worst =
        known.copied().reduce(|worst, sample| if (chart.is_worse)(&sample, &worst) { sample } else { worst });
    let worst = worst.map_or("-".into(), |sample| (chart.text)(&sample));
    let style = reported.map_or(theme.faint, |sample| (chart.style)(&theme, &sample));
    let space = area.width.saturating_sub(1);
    let mut put = |text: String, style, line: u16| {
        let at = Rect { width: space, ..table::line(area, line) };
        table::write(&table::cut(&app.style, &text, space), style, at, buffer);
    };
    match area.height {
        0 => {}
        1 | 2 => {
            put(format!("{:<9}{now}", chart.title), style, 0);
            put(format!("{:<9}{worst}", chart.worst), theme.faint, 1);
        }
        _ => {
            put(chart.title.into(), theme.title, 0);
            put(format!("  {now}"), style, 1);
            put(format!("  {} {worst}", chart.worst), theme.faint, 2);
        }
    }
}

/// Filled columns in eighths of a cell, from the bottom.
fn draw_chart(app: &App, chart: &HistoryChart, columns: &HistoryColumns, area: Rect, buffer: &mut Buffer) {
    let theme = app.style.theme;
    let known = || columns.samples.iter().flatten();
    let highest = known().filter_map(|sample| (chart.value)(sample)).fold(0.0, f64::max);
    let scale = known().map(|sample| (chart.scale)(sample)).fold(highest, f64::max);
    let columns_of = |sample: &Option<HistorySample>| {
        let sample = sample.as_ref()?;
        Some(((chart.value)(sample)?, (chart.style)(&theme, sample)))
    };
    let drawn = columns.samples.iter().map(columns_of).collect();
    // The next chart begins where one ends; if there is room, a line is left free between them.
    let area = Rect { height: if area.height > 2 { area.height - 1 } else { area.height }, ..area };
    bars::draw(&app.style, &BarChartData { columns: drawn, scale, lit: columns.cursor }, area, buffer);
}

/// The times at both ends, and at the cursor.
fn draw_axis(
    app: &App,
    report: &HistoryReport,
    columns: &HistoryColumns,
    label: u16,
    area: Rect,
    buffer: &mut Buffer,
) {
    let theme = app.style.theme;
    let each = format!("{} a column", format::span(columns.seconds as f64));
    let at_cursor = columns.cursor.map(|index| columns.begins + index as u64 * columns.seconds);
    let (text, style) = match at_cursor {
        Some(at) => (format!("at {}", time(at)), theme.attention),
        None => (each, theme.faint),
    };
    table::write(&table::cut(&app.style, &text, label.saturating_sub(1)), style, area, buffer);
    let plot = Rect { x: area.x + label, width: area.width - label, ..area };
    table::write(&time(columns.begins), theme.faint, plot, buffer);
    let now = format!("{} {}", if app.is_replay() { "ends" } else { "now" }, time(report.now));
    let right = u16::try_from(columns.samples.len()).unwrap_or(plot.width).min(plot.width);
    let indent = right.saturating_sub(table::width(&now));
    if indent > TIME_CELLS {
        table::write(
            &now,
            theme.faint,
            Rect { x: plot.x + indent, width: plot.width - indent, ..plot },
            buffer,
        );
    }
}

/// `14:02:00Z`.
pub fn time(at: u64) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at.min(LATEST_SECONDS)));
    let text = time.map(|time| humantime::format_rfc3339_seconds(time).to_string()).unwrap_or_default();
    text.get(11..).unwrap_or("-").to_owned()
}

/// The width of the charts' labels, if there is that much.
pub const LABEL_CELLS: u16 = 20;
/// Fewer lines are for the charts alone.
const GATEWAYS_LINES_MIN: u16 = 18;
const TIME_CELLS: u16 = 10;
/// The end of the year 9999, the latest time that can be written.
const LATEST_SECONDS: u64 = 253_402_300_799;
const TEXT_CHARS: usize = 200;
