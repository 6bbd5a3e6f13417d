//! Questions: what would happen, and the keys that answer. None of them is Enter.

use ratatui::{buffer::Buffer, layout::Rect};

use crate::tui::{
    app::{App, Overlay},
    confirmation::PLAN_WORD_CHARS,
    keys::{self, KeyBinding},
    view::{panel, table},
};

/// If not all lines fit, those of the question's beginning and of the keys stay, and the others move between them.
pub fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let (screen_style, theme) = (&app.style, app.style.theme);
    let (mut head, plan) = text_lines(app, area);
    let answers = answers(app);
    let lines = u16::try_from(head.len() + plan.len() + 1 + answers.len()).unwrap_or(u16::MAX);
    let widest = head.iter().chain(&plan).map(|line| table::width(line)).max().unwrap_or(0);
    let inside = panel::draw_centered(screen_style, "Question", widest.max(WIDTH_MIN), lines, area, buffer);
    let space = usize::from(inside.height).saturating_sub(1 + answers.len());
    let is_tight = head.len() + plan.len() > space && head.len() >= space;
    let mut moving = if is_tight { head.split_off(1.min(head.len())) } else { Vec::new() };
    moving.extend(plan);
    let space = space.saturating_sub(head.len());
    let hidden = moving.len().saturating_sub(space);
    let above = scroll(app).min(hidden);
    let shown = head.iter().chain(moving.iter().skip(above).take(space));
    let mut lines_left = panel::lines(inside);
    for (line, at) in shown.zip(&mut lines_left) {
        table::write(line, theme.title, at, buffer);
    }
    if let Some(at) = lines_left.next().filter(|_| hidden > 0) {
        let text = table::cut(screen_style, &describe_hidden(above, hidden - above), at.width);
        table::write(&text, theme.attention, at, buffer);
    }
    for (binding, at) in answers.iter().zip(lines_left) {
        let name = binding.keys.first().map(|key| key.name(&screen_style.symbols)).unwrap_or_default();
        table::write(&name, theme.accent, at, buffer);
        let indent = KEY_CELLS.min(at.width);
        let label = Rect { x: at.x + indent, width: at.width - indent, ..at };
        table::write(binding.label, theme.plain, label, buffer);
    }
}

fn describe_hidden(above: usize, below: usize) -> String {
    let counts = match (above, below) {
        (above, 0) => format!("{above} lines above"),
        (0, below) => format!("{below} lines below"),
        (above, below) => format!("{above} lines above, {below} below"),
    };
    format!("{counts}; j k move them")
}

/// Whether its first line, another one and the keys fit into a frame.
pub fn has_room(app: &App, area: Rect) -> bool {
    let (head, plan) = text_lines(app, area);
    (head.len() + plan.len()).min(2) + 1 + answers(app).len() + 2 <= usize::from(area.height)
}

/// The keys that answer; others only move the text.
fn answers(app: &App) -> Vec<&'static KeyBinding> {
    keys::bindings_in(app.context()).filter(|binding| binding.hint.is_some()).collect()
}

/// The first line that is shown of those that move.
pub fn scroll(app: &App) -> usize {
    match app.overlay() {
        Overlay::Ask { scroll, .. } => *scroll,
        Overlay::Nothing | Overlay::Help { .. } | Overlay::Typing(_) | Overlay::AskQuit => 0,
    }
}

/// The question, and what would change.
fn text_lines(app: &App, area: Rect) -> (Vec<String>, Vec<String>) {
    let space = area.width.saturating_sub(4).clamp(1, WIDTH_MAX);
    (table::wrap(&text(app), space), plan_lines(app, space))
}

/// Each line of the plan in full, its continuation below its text.
fn plan_lines(app: &App, space: u16) -> Vec<String> {
    let Overlay::Ask { question, .. } = app.overlay() else { return Vec::new() };
    let mut lines = Vec::new();
    for line in question.plan() {
        let line = app.style.text(&line, PLAN_CHARS);
        let indent = u16::try_from(PLAN_WORD_CHARS).unwrap_or(0);
        match line.split_at_checked(PLAN_WORD_CHARS).filter(|_| space >= indent * 3) {
            Some((word, text)) => {
                let mut word = word.to_owned();
                for text in table::wrap(text, space - indent) {
                    lines.push(format!("{word}{text}"));
                    word = " ".repeat(PLAN_WORD_CHARS);
                }
            }
            None => lines.extend(table::wrap(&line, space)),
        }
    }
    lines
}

/// All of it, for a place of one line.
pub fn all_lines(app: &App, space: u16) -> Vec<String> {
    let mut lines = table::wrap(&text(app), space);
    lines.extend(plan_lines(app, space));
    lines
}

/// The question itself; empty if there is none.
pub fn text(app: &App) -> String {
    match app.overlay() {
        Overlay::Nothing | Overlay::Help { .. } | Overlay::Typing(_) => String::new(),
        Overlay::AskQuit => match app.latest().totals.open_and_waiting() {
            0 => "Quit, and stop the gateway? No session is open.".into(),
            1 => "Quit? 1 session is open in this gateway.".into(),
            open => format!("Quit? {open} sessions are open in this gateway."),
        },
        Overlay::Ask { question, .. } => {
            let of = match app.addressees() {
                [] => String::new(),
                names => format!("{}: ", names.iter().map(|name| &**name).collect::<Vec<_>>().join(", ")),
            };
            app.style.text(&format!("{of}{}", question.text(app.addresses())), TEXT_CHARS)
        }
    }
}

const KEY_CELLS: u16 = 5;
const WIDTH_MIN: u16 = 40;
const WIDTH_MAX: u16 = 76;
/// The longest text of a question, which may contain a typed filter.
const TEXT_CHARS: usize = 400;
/// A refusal in a plan contains paths.
const PLAN_CHARS: usize = 2000;
