//! What limits the gateway: each finding with its figure, its reason and what to change, the most urgent first. The
//! findings are made by `doctor` from the snapshot and from facts about this machine.

use ratatui::{
    buffer::Buffer,
    layout::{Position, Rect},
    style::Style,
};

use crate::{
    telemetry::snapshot::{DoctorFinding, FindingSeverity},
    tui::{
        app::App,
        view::{
            detail::{DetailLine, fact},
            panel, table,
        },
    },
};

pub fn draw_screen(app: &App, area: Rect, buffer: &mut Buffer) {
    let inside = panel::draw_frame(&app.style, "Doctor", &facts(app), area, buffer);
    draw_list(app, panel::margin(inside), buffer);
}

fn facts(app: &App) -> String {
    let findings = app.findings();
    let must = findings.iter().filter(|finding| finding.severity == FindingSeverity::Must).count();
    let mut facts = format!("{must} must be done, {} should", findings.len() - must);
    if !app.knows_machine() {
        facts.push_str(", kernel limits not known here");
    }
    facts
}

pub fn draw_list(app: &App, area: Rect, buffer: &mut Buffer) {
    let (screen_style, findings) = (&app.style, app.findings());
    if findings.is_empty() {
        let names = if app.is_fleet() { "these gateways" } else { "this gateway" };
        return panel::draw_empty(screen_style, &format!("nothing limits {names}"), area, buffer);
    }
    let blocks = place_blocks(app, &findings, area);
    for block in &blocks {
        for ((text, style), at) in block.lines.iter().zip(panel::lines(block.area)) {
            table::write(text, *style, at, buffer);
        }
        if app.selected_line() == Some(block.index) {
            panel::select(screen_style, table::line(block.area, 0), buffer);
            let mark = Rect { x: area.x.saturating_sub(1), width: 1, height: 1, ..block.area };
            table::write(screen_style.symbols.selected, screen_style.theme.selected, mark, buffer);
        }
    }
    let shown = blocks.len();
    panel::draw_hidden_count(screen_style, findings.len() - shown.min(findings.len()), "", area, buffer);
}

/// The finding at this position.
pub fn finding_at(app: &App, area: Rect, at: Position) -> Option<usize> {
    let findings = app.findings();
    place_blocks(app, &findings, area)
        .into_iter()
        .find(|block| block.area.contains(at))
        .map(|block| block.index)
}

/// A finding, as drawn.
struct FindingBlock {
    index: usize,
    area: Rect,
    lines: Vec<(String, Style)>,
}

/// The findings that fit, always including the selected one; the last line counts the others.
fn place_blocks(app: &App, findings: &[DoctorFinding], area: Rect) -> Vec<FindingBlock> {
    let blocks: Vec<_> = findings.iter().map(|finding| lines_of(app, finding, area.width)).collect();
    let space = |first: usize, last: usize| blocks[first..=last].iter().map(Vec::len).sum::<usize>();
    let selected = app.selected_line().unwrap_or(0).min(blocks.len() - 1);
    let all = space(0, blocks.len() - 1);
    let height = usize::from(area.height);
    let height = if all > height && height > 2 { height - 1 } else { height };
    let mut first = 0;
    while first < selected && space(first, selected) > height {
        first += 1;
    }
    let (mut placed, mut y) = (Vec::new(), 0);
    for (index, lines) in blocks.into_iter().enumerate().skip(first) {
        let is_cut = y + lines.len() > height;
        // If not even one fits, its beginning is better than nothing.
        if y >= height || (is_cut && !placed.is_empty()) {
            break;
        }
        let below = u16::try_from(y).unwrap_or(u16::MAX);
        let lines_count = u16::try_from(lines.len().min(height - y)).unwrap_or(u16::MAX);
        let area = Rect { y: area.y.saturating_add(below), height: lines_count, ..area };
        y += lines.len();
        placed.push(FindingBlock { index, area, lines });
    }
    placed
}

/// What was measured, why it is a limit, and what to do; long texts continue on the next line.
fn lines_of(app: &App, finding: &DoctorFinding, width: u16) -> Vec<(String, Style)> {
    let (screen_style, theme) = (&app.style, app.style.theme);
    let style = severity_style(app, finding.severity);
    let mark = if finding.severity == FindingSeverity::Must { screen_style.symbols.alert } else { " " };
    let gateway = finding.gateway.as_ref().map_or(String::new(), |name| format!("{name}: "));
    let object = finding.object.as_ref().map_or(String::new(), |object| format!("{object}: "));
    let head = format!("{gateway}{object}{}", finding.figure);
    let reported = [
        (format!("{mark} {:<6} ", finding.severity.label()), format!("{head}  [{}]", finding.id), style),
        ("  why    ".into(), finding.reason.clone(), theme.plain),
        ("  do     ".into(), finding.advice.clone(), theme.plain),
    ];
    let mut lines = Vec::new();
    for (before, text, style) in reported {
        let text = screen_style.text(&app.addresses().text(&text), TEXT_CHARS);
        let space = width.saturating_sub(table::width(&before)).max(8);
        for (number, line) in table::wrap(&text, space).into_iter().enumerate() {
            let before = if number == 0 { before.clone() } else { " ".repeat(before.chars().count()) };
            lines.push((format!("{before}{line}"), style));
        }
    }
    // An empty line separates it from the next finding.
    lines.push((String::new(), theme.plain));
    lines
}

fn severity_style(app: &App, severity: FindingSeverity) -> Style {
    match severity {
        FindingSeverity::Must => app.style.theme.bad,
        FindingSeverity::Should => app.style.theme.warn,
    }
}

/// A finding as a page of its own.
pub fn detail_lines(app: &App, finding: &DoctorFinding) -> Vec<DetailLine> {
    let fact = |about, text| fact(app, about, text);
    let masked = |text: &str| app.addresses().text(text);
    let mut lines = vec![
        fact("finding", finding.id.to_string()),
        DetailLine {
            style: severity_style(app, finding.severity),
            ..fact("something", format!("{} be done", finding.severity.label()))
        },
    ];
    lines.extend(finding.gateway.as_ref().map(|name| fact("gateway", name.to_string())));
    lines.extend(finding.object.as_ref().map(|object| fact("about", masked(object))));
    lines.extend([
        fact("figure", masked(&finding.figure)),
        fact("why", masked(&finding.reason)),
        fact("do", masked(&finding.advice)),
    ]);
    lines
}

const TEXT_CHARS: usize = 400;
