//! The path from clients to backends: if there is room, a picture with a column for each stage; otherwise a
//! line for each. Which parts there are, and which leads to which, is decided in `tui::path`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ratatui::{
    buffer::Buffer,
    layout::{Position, Rect},
    style::Style,
};

use crate::{
    profile::Half,
    telemetry::{
        health::Severity,
        snapshot::{GatewayReach, Snapshot, TrafficSample},
    },
    tui::{
        app::{App, Freshness},
        format,
        path::{DrawnPath, LinkSessions, PartRows, PathPart, PathStage},
        view::{
            alert, panel, table,
            wires::{self, PathWire},
        },
    },
};

pub fn draw_screen(app: &App, area: Rect, buffer: &mut Buffer) {
    let facts = match app.freshness() {
        Freshness::Lost { seconds } => format!("as it was {} ago", format::span(seconds as f64)),
        Freshness::Live | Freshness::Replay(_) | Freshness::Frozen { .. } | Freshness::Stale { .. } => {
            "Enter opens the rows of a part, bytes a second".to_owned()
        }
    };
    let inside = panel::draw_frame(&app.style, "Path", &facts, area, buffer);
    draw_list(app, panel::margin(inside), buffer);
}

pub fn draw_list(app: &App, area: Rect, buffer: &mut Buffer) {
    let path = DrawnPath::of(app.snapshot());
    if path.parts.is_empty() {
        return panel::draw_empty(&app.style, "no part of the path is known yet", area, buffer);
    }
    let area = panel::draw_selected_text(&app.style, detail_text(app, &path, area), area, buffer);
    let rates = PathRates::of(app, &path);
    if fits_drawing(area) {
        draw_path(app, &path, &rates, area, buffer);
    } else {
        draw_stages(app, &path, &rates, area, buffer);
    }
}

/// The problem of the selected part, or else of the worst one, if the stages leave enough lines.
fn detail_text(app: &App, path: &DrawnPath, area: Rect) -> Option<(String, Style)> {
    if area.height < DESCRIBED_LINES_MIN {
        return None;
    }
    let selected = app.selected_line().and_then(|line| path.parts.get(line));
    let part = selected.or_else(|| path.worst())?;
    let facts = part.why.clone().unwrap_or_else(|| part.facts.join(", "));
    let state = if part.state.is_empty() { String::new() } else { format!("{}, ", part.state) };
    let name = match part.stage {
        PathStage::Clients => part.name.clone(),
        stage @ (PathStage::Services
        | PathStage::DmzGateways
        | PathStage::Links
        | PathStage::InternalGateways
        | PathStage::Backends) => format!("{} {}", stage.title(), part.name),
    };
    let text = format!("{name}: {state}{facts}");
    Some((app.addresses().text(&text), alert::style(&app.style, part.severity)))
}

fn fits_drawing(area: Rect) -> bool {
    area.width >= DRAWING_CELLS_MIN && area.height >= DRAWING_LINES_MIN
}

/// The part drawn at this position, in the whole area of the list.
pub fn part_at(app: &App, area: Rect, at: Position) -> Option<usize> {
    let path = DrawnPath::of(app.snapshot());
    let (area, ..) = panel::split_selected_text(&app.style, detail_text(app, &path, area), area);
    let placed = match fits_drawing(area) {
        true => place_columns(&path, app.selected_line(), area)
            .into_iter()
            .flat_map(|stage| stage.parts)
            .collect(),
        false => place_lines(&path, app.selected_line(), area).parts,
    };
    placed.into_iter().find(|part| part.area.contains(at)).map(|part| part.index)
}

/// A stage of the picture.
struct PlacedStage {
    stage: PathStage,
    area: Rect,
    parts: Vec<PlacedPart>,
    hidden: usize,
}

/// The area of a part; its name is on the first line.
struct PlacedPart {
    index: usize,
    area: Rect,
}

fn place_columns(path: &DrawnPath, selected: Option<usize>, area: Rect) -> Vec<PlacedStage> {
    let stages = path.stages();
    let count = u16::try_from(stages.len()).unwrap_or(1).max(1);
    let gap = GAP_CELLS_MIN + (area.width - DRAWING_CELLS_MIN.min(area.width)) / (2 * count);
    let cells = (area.width - gap * (count - 1)) / count;
    let body = Rect { y: area.y + HEAD_LINES, height: area.height.saturating_sub(HEAD_LINES), ..area };
    let place_stage = |(number, stage): (usize, PathStage)| {
        let x = area.x + u16::try_from(number).unwrap_or(0) * (cells + gap);
        let column = Rect { x, width: cells, ..body };
        let (indexes, hidden) = shown_parts(path, stage, selected, usize::from(body.height));
        let lines = match indexes.len() {
            0 => PART_LINES_MAX,
            shown if hidden == 0 => {
                (body.height / u16::try_from(shown).unwrap_or(1)).clamp(1, PART_LINES_MAX)
            }
            _ => 1,
        };
        let parts = indexes.into_iter().zip(0_u16..).map(|(index, row)| {
            let area = Rect { y: column.y + row * lines, height: lines, ..column };
            PlacedPart { index, area }
        });
        PlacedStage { stage, area: column, parts: parts.collect(), hidden }
    };
    stages.into_iter().enumerate().map(place_stage).collect()
}

/// The parts of a stage that fit: if not all, the worst and the selected one.
fn shown_parts(
    path: &DrawnPath,
    stage: PathStage,
    selected: Option<usize>,
    space: usize,
) -> (Vec<usize>, usize) {
    let mut indexes: Vec<_> = path.of_stage(stage).map(|(index, _)| index).collect();
    let count = indexes.len();
    if count <= space {
        return (indexes, 0);
    }
    let rank = |&index: &usize| (selected == Some(index), path.parts[index].severity);
    indexes.sort_by_key(|index| std::cmp::Reverse(rank(index)));
    indexes.truncate(space.saturating_sub(1));
    let hidden = count - indexes.len();
    (indexes, hidden)
}

fn draw_path(app: &App, path: &DrawnPath, rates: &PathRates<'_>, area: Rect, buffer: &mut Buffer) {
    let (screen_style, theme) = (&app.style, app.style.theme);
    let stages = place_columns(path, app.selected_line(), area);
    for pair in stages.windows(2) {
        if let [from, to] = pair {
            draw_wires(app, path, from, to, buffer);
        }
    }
    for stage in &stages {
        let head = Rect { y: area.y, height: 1, width: stage.area.width + GAP_CELLS_MIN - 1, ..stage.area };
        table::write(&stage.stage.title().to_uppercase(), theme.title, head, buffer);
        for part in &stage.parts {
            draw_part(app, path, rates, part, buffer);
        }
        let last = table::line(stage.area, u16::try_from(stage.parts.len()).unwrap_or(u16::MAX));
        if stage.hidden > 0 {
            table::write(
                &table::cut(screen_style, &format!("  +{} more", stage.hidden), last.width),
                theme.faint,
                last,
                buffer,
            );
        } else if stage.parts.is_empty() {
            table::write("  none", theme.faint, last, buffer);
        }
    }
}

/// The connections from one stage to the next, between their columns.
fn draw_wires(app: &App, path: &DrawnPath, from: &PlacedStage, to: &PlacedStage, buffer: &mut Buffer) {
    let selected = app.selected_line();
    let placed =
        |parts: &[PlacedPart], index| parts.iter().find(|part| part.index == index).map(|part| part.area);
    let wires = path.leads.iter().filter_map(|&(source, target)| {
        let (begin, end) = (placed(&from.parts, source)?, placed(&to.parts, target)?);
        let name =
            table::width(&name(app, &path.parts[source])).min(begin.width.saturating_sub(SYMBOL_CELLS));
        Some(PathWire {
            source,
            target,
            begin: Position { x: begin.x + SYMBOL_CELLS + name + 1, y: begin.y },
            end: Position { x: end.x, y: end.y },
            is_source_lost: path.parts[source].severity == Severity::Lost,
            is_target_lost: path.parts[target].severity == Severity::Lost,
            is_lit: selected.is_some_and(|index| index == source || index == target),
        })
    });
    let gap = from.area.x + from.area.width..to.area.x;
    wires::draw(&app.style, &wires.collect::<Vec<_>>(), gap, buffer);
}

fn draw_part(app: &App, path: &DrawnPath, rates: &PathRates<'_>, placed: &PlacedPart, buffer: &mut Buffer) {
    let (screen_style, part) = (&app.style, &path.parts[placed.index]);
    let line = table::line(placed.area, 0);
    draw_symbol(app, part, line, buffer);
    let beside = indented(line);
    table::write(
        &table::cut_address(screen_style, &name(app, part), beside.width),
        screen_style.theme.accent,
        beside,
        buffer,
    );
    if app.selected_line() == Some(placed.index) {
        let cells = SYMBOL_CELLS + table::width(&name(app, part));
        panel::select(screen_style, Rect { width: cells.min(line.width), ..line }, buffer);
        table::write(screen_style.symbols.selected, screen_style.theme.selected, line, buffer);
    }
    // The last line separates it from the next part, if there is one to spare.
    let spare = u16::from(placed.area.height > 2);
    let below = Rect { y: line.y + 1, height: placed.area.height - 1 - spare, ..placed.area };
    for ((text, style), at) in facts(app, part, rates, below.height).into_iter().zip(panel::lines(below)) {
        let at = indented(at);
        table::write(&table::cut_address(screen_style, &text, at.width), style, at, buffer);
    }
}

/// The facts about a part below its name, in at most this many lines.
fn facts(app: &App, part: &PathPart, rates: &PathRates<'_>, lines: u16) -> Vec<(String, Style)> {
    let (screen_style, plain) = (&app.style, app.style.theme.plain);
    let state = (!part.state.is_empty()).then(|| (part.state.clone(), state_style(app, part)));
    let known =
        part.facts.iter().map(|fact| (screen_style.text(&app.addresses().text(fact), TEXT_CHARS), plain));
    let mut known = known.collect::<Vec<_>>().into_iter();
    if lines == 1 {
        let first = known.next();
        let Some((state, style)) = state else { return first.into_iter().collect() };
        let fact = first.filter(|_| part.state_severity == Severity::Fine);
        return vec![(fact.map_or(state.clone(), |(fact, _)| format!("{state}, {fact}")), style)];
    }
    let rate = rates.of_part(app, part).map(|rate| (rate_text(app, rate), plain));
    state.into_iter().chain(known.next()).chain(rate).chain(known).take(usize::from(lines)).collect()
}

fn draw_symbol(app: &App, part: &PathPart, line: Rect, buffer: &mut Buffer) {
    let signs = &app.style.symbols;
    let sign = if part.severity == Severity::Fine { signs.health } else { signs.alert };
    let style = severity_style(app, part.severity);
    table::write(sign, style, Rect { width: line.width.min(1), ..line }, buffer);
}

fn state_style(app: &App, part: &PathPart) -> Style {
    severity_style(app, part.state_severity)
}

fn severity_style(app: &App, severity: Severity) -> Style {
    match severity {
        Severity::Fine => app.style.theme.good,
        worse @ (Severity::Short | Severity::Starved | Severity::Lost) => alert::style(&app.style, worse),
    }
}

fn name(app: &App, part: &PathPart) -> String {
    app.style.text(&app.addresses().text(&part.name), TEXT_CHARS)
}

fn indented(line: Rect) -> Rect {
    let cells = SYMBOL_CELLS.min(line.width);
    Rect { x: line.x + cells, width: line.width - cells, ..line }
}

/// `up 41.0M down 1.2M`, with arrows.
fn rate_text(app: &App, rate: TrafficSample) -> String {
    let signs = &app.style.symbols;
    format!("{}{} {}{}", signs.up, format::amount(rate.up), signs.down, format::amount(rate.down))
}

/// A line for each stage, and below them the parts of one.
struct PlacedLines {
    stages: Vec<(PathStage, Rect)>,
    /// The stage whose parts are listed.
    stage: PathStage,
    parts: Vec<PlacedPart>,
    hidden: usize,
}

fn place_lines(path: &DrawnPath, selected: Option<usize>, area: Rect) -> PlacedLines {
    let selected_part = selected.and_then(|line| path.parts.get(line));
    let stage = selected_part.or_else(|| path.worst()).map_or(PathStage::Services, |part| part.stage);
    let stages: Vec<_> = path.stages().into_iter().zip(panel::lines(area)).collect();
    let above = u16::try_from(stages.len()).unwrap_or(u16::MAX).saturating_add(1);
    let list = Rect { y: area.y.saturating_add(above), height: area.height.saturating_sub(above), ..area };
    let (indexes, hidden) = shown_parts(path, stage, selected, usize::from(list.height));
    let parts =
        indexes.into_iter().zip(panel::lines(list)).map(|(index, area)| PlacedPart { index, area }).collect();
    PlacedLines { stages, stage, parts, hidden }
}

fn draw_stages(app: &App, path: &DrawnPath, rates: &PathRates<'_>, area: Rect, buffer: &mut Buffer) {
    let (screen_style, theme) = (&app.style, app.style.theme);
    let lines = place_lines(path, app.selected_line(), area);
    for &(stage, at) in &lines.stages {
        draw_stage_line(app, path, rates, stage, at, buffer);
        if stage == lines.stage && !lines.parts.is_empty() {
            let mark = Rect { x: at.x.saturating_sub(1), width: 1, ..at };
            table::write(screen_style.symbols.selected, theme.plain, mark, buffer);
        }
    }
    for placed in &lines.parts {
        let part = &path.parts[placed.index];
        let at = indented(placed.area);
        draw_symbol(app, part, at, buffer);
        let text = format!("{} {}", name(app, part), one_line(app, part, rates));
        let beside = indented(at);
        table::write(&table::cut(screen_style, &text, beside.width), theme.plain, beside, buffer);
        if app.selected_line() == Some(placed.index) {
            panel::select(screen_style, placed.area, buffer);
            table::write(screen_style.symbols.selected, theme.selected, placed.area, buffer);
        }
    }
    if lines.hidden > 0 {
        let shown = u16::try_from(lines.stages.len() + 1 + lines.parts.len()).unwrap_or(u16::MAX);
        let at = indented(table::line(area, shown));
        table::write(&format!("+{} more", lines.hidden), theme.faint, at, buffer);
    }
}

/// The worst part of a stage with its problem, or how many there are and what they carry.
fn draw_stage_line(
    app: &App,
    path: &DrawnPath,
    rates: &PathRates<'_>,
    stage: PathStage,
    at: Rect,
    buffer: &mut Buffer,
) {
    let (screen_style, theme) = (&app.style, app.style.theme);
    let parts: Vec<_> = path.of_stage(stage).map(|(_, part)| part).collect();
    let worst = parts.iter().copied().rev().max_by_key(|part| part.severity);
    let beside = indented(at);
    table::write(stage.title(), theme.title, beside, buffer);
    let indent = TITLE_CELLS.min(beside.width);
    let rest = Rect { x: beside.x + indent, width: beside.width - indent, ..beside };
    let Some(worst) = worst else { return table::write("none", theme.faint, rest, buffer) };
    draw_symbol(app, worst, at, buffer);
    let failing = parts.iter().filter(|part| part.severity > Severity::Fine).count();
    let (text, style) = match (parts.as_slice(), failing) {
        ([part], _) if stage == PathStage::Clients => (one_line(app, part, rates), state_style(app, part)),
        ([part], _) => {
            (format!("{} {}", name(app, part), one_line(app, part, rates)), state_style(app, part))
        }
        (parts, 0) => {
            let names: Vec<_> = parts.iter().map(|part| name(app, part)).collect();
            (format!("{} well: {}", parts.len(), names.join(", ")), theme.plain)
        }
        (parts, failing) => {
            let text = format!(
                "{failing} of {} not well: {} {}",
                parts.len(),
                name(app, worst),
                one_line(app, worst, rates)
            );
            (text, state_style(app, worst))
        }
    };
    table::write(&table::cut(screen_style, &text, rest.width), style, rest, buffer);
}

fn one_line(app: &App, part: &PathPart, rates: &PathRates<'_>) -> String {
    let facts = facts(app, part, rates, u16::MAX);
    facts.into_iter().map(|(text, _)| text).collect::<Vec<_>>().join(", ")
}

/// Bytes a second by link and by backend; those of gateways and services are known elsewhere.
struct PathRates<'a> {
    /// By gateway, half and peer.
    links: HashMap<(Option<&'a Arc<str>>, Half, &'a str), TrafficSample>,
    /// Of gateways that only their links tell of, by stage and key: what all of these move.
    linked: BTreeMap<(PathStage, &'a str), TrafficSample>,
    backends: HashMap<&'a str, TrafficSample>,
}

impl<'a> PathRates<'a> {
    fn of(app: &'a App, path: &'a DrawnPath) -> Self {
        let (mut links, mut backends) = (HashMap::new(), HashMap::new());
        for row in &app.snapshot().sessions {
            let rate = TrafficSample { up: row.rate_up, down: row.rate_down };
            if let Some(peer) = row.peer.as_deref() {
                add_rate(links.entry((row.gateway.as_ref(), row.half, peer)).or_default(), rate);
            }
            // Only the half that dialled it knows it, so none is counted twice.
            if let Some(backend) = row.backend.as_deref() {
                add_rate(backends.entry(backend).or_default(), rate);
            }
        }
        let mut rates = Self { links, linked: BTreeMap::new(), backends };
        for &(source, target) in &path.leads {
            for (gateway, link) in [(source, target), (target, source)] {
                rates.add_link(&path.parts[gateway], &path.parts[link]);
            }
        }
        rates
    }

    fn add_link(&mut self, gateway: &'a PathPart, link: &PathPart) {
        if let (PartRows::Pools { .. }, PathStage::Links, PartRows::Pools { sessions, .. }) =
            (&gateway.rows, link.stage, &link.rows)
            && let Some(rate) = self.of_link(sessions)
        {
            add_rate(self.linked.entry((gateway.stage, &gateway.key)).or_default(), rate);
        }
    }

    fn of_link(&self, sessions: &LinkSessions) -> Option<TrafficSample> {
        self.links.get(&(sessions.gateway.as_ref(), sessions.half, sessions.peer.as_str())).copied()
    }

    fn of_part(&self, app: &App, part: &PathPart) -> Option<TrafficSample> {
        let (snapshot, history) = (app.snapshot(), app.history());
        match (&part.rows, part.stage) {
            (PartRows::Sessions | PartRows::Own, _) => history.all().last().map(|(_, rate)| *rate),
            (PartRows::Gateway(name), _) => gateway_rate(snapshot, name),
            (PartRows::Services(name), PathStage::Services) => service_rate(app, name),
            (PartRows::Pools { sessions, .. }, PathStage::Links) => self.of_link(sessions),
            (PartRows::Pools { .. }, PathStage::DmzGateways | PathStage::InternalGateways) => {
                self.linked.get(&(part.stage, part.key.as_str())).copied()
            }
            (_, PathStage::Backends) => self.backends.get(part.key.as_str()).copied(),
            (PartRows::Services(_) | PartRows::Pools { .. } | PartRows::Nowhere, _) => None,
        }
    }
}

fn gateway_rate(snapshot: &Snapshot, name: &str) -> Option<TrafficSample> {
    let row = snapshot.gateways.iter().find(|row| &*row.name == name)?;
    let facts = row.heard.as_ref().filter(|_| row.reach == GatewayReach::Reached)?;
    Some(TrafficSample { up: facts.rate_up, down: facts.rate_down })
}

/// A pair's session is counted where its client comes in.
fn service_rate(app: &App, name: &str) -> Option<TrafficSample> {
    let rows = || app.snapshot().services.iter().filter(|row| row.name == name);
    let has_outer = rows().any(|row| row.half == Half::Dmz);
    let counted = rows().filter(|row| (row.half == Half::Dmz) == has_outer);
    let rates = counted.filter_map(|row| app.history().of(row).last().map(|(_, rate)| *rate));
    rates.reduce(|mut sum, rate| {
        add_rate(&mut sum, rate);
        sum
    })
}

fn add_rate(sum: &mut TrafficSample, rate: TrafficSample) {
    sum.up = sum.up.saturating_add(rate.up);
    sum.down = sum.down.saturating_add(rate.down);
}

/// A narrower screen has no room for six columns and their contents.
const DRAWING_CELLS_MIN: u16 = 110;
const DRAWING_LINES_MIN: u16 = 18;
/// The titles, and a line below them.
const HEAD_LINES: u16 = 2;
/// Between two columns: two lanes, the arrow and a gap.
const GAP_CELLS_MIN: u16 = 4;
/// A name, four facts and a gap.
const PART_LINES_MAX: u16 = 6;
/// Six stages, and the text about one.
const DESCRIBED_LINES_MIN: u16 = 9;
const SYMBOL_CELLS: u16 = 2;
const TITLE_CELLS: u16 = 19;
const TEXT_CHARS: usize = 120;
