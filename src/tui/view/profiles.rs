//! The profiles that the gateway can switch to, and what is wrong with the selected one. They were checked when they
//! were listed; a switch checks the chosen one again.

use ratatui::{
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
};

use crate::{
    telemetry::{
        checklist::{CheckStep, StepReport, StepResult},
        snapshot::{ProfileRow, VerifyRow},
    },
    tui::{
        app::App,
        format,
        source::Attachment,
        view::{
            header::{half_label, mode_word},
            panel,
            table::{self, CellAlign, TableCell, TableColumn, column},
        },
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProfileColumn {
    Profile,
    Mode,
    Halves,
    Valid,
    Checked,
    Note,
}

pub const COLUMNS: [TableColumn<ProfileColumn>; 6] = [
    column(ProfileColumn::Profile, "PROFILE", (12, 28, 1), CellAlign::Left, 0),
    column(ProfileColumn::Mode, "MODE", (7, 7, 1), CellAlign::Left, 1),
    column(ProfileColumn::Halves, "HALVES", (12, 12, 1), CellAlign::Left, 3),
    column(ProfileColumn::Valid, "VALID", (10, 12, 1), CellAlign::Left, 0),
    column(ProfileColumn::Checked, "FORWARD", (9, 16, 1), CellAlign::Left, 4),
    column(ProfileColumn::Note, "NOTE", (16, 90, 4), CellAlign::Left, 2),
];

/// The list, and below it the problems of the selected profile.
pub fn draw_panel(app: &App, area: Rect, buffer: &mut Buffer) {
    let [list, problems] = areas(app, area);
    let inside = panel::draw_frame(&app.style, "Profiles", "read and checked just now", list, buffer);
    draw_list(app, panel::margin(inside), buffer);
    draw_problems(app, problems, buffer);
}

/// The frame of the list, and the problems below it.
pub fn areas(app: &App, area: Rect) -> [Rect; 2] {
    let rows = u16::try_from(app.profiles().len()).unwrap_or(u16::MAX).max(1);
    let height = rows.saturating_add(panel::FRAME_AND_HEADS).min(area.height.saturating_sub(8)).max(5);
    Layout::vertical([Constraint::Length(height), Constraint::Min(0)]).areas(area)
}

pub fn draw_list(app: &App, area: Rect, buffer: &mut Buffer) {
    if app.profiles().is_empty() {
        let text = match app.attachment() {
            Attachment::Replay(_) => "a recording holds no profiles",
            Attachment::Own | Attachment::Attached(..) => "the gateway is asked for its profiles",
            Attachment::Fleet(_) if app.profiles_of().is_none() => {
                "no gateway is chosen; select a row of one, then press p"
            }
            Attachment::Fleet(_) => "the gateway is asked for its profiles",
        };
        return panel::draw_empty(&app.style, text, area, buffer);
    }
    let cell = |row: &&ProfileRow, kind| cell(app, row, kind);
    let rows: Vec<_> = app.profiles().iter().collect();
    table::draw_list(&app.style, &COLUMNS, &rows, app.selected_line(), area, buffer, cell);
}

fn draw_problems(app: &App, area: Rect, buffer: &mut Buffer) {
    let screen_style = &app.style;
    if let Some((title, lines)) = under_way(app) {
        let inside = panel::margin(panel::draw_frame(screen_style, &title, "", area, buffer));
        for (at, line) in panel::lines(inside).zip(lines) {
            table::write(
                &table::cut(screen_style, &screen_style.text(&line, LINE_CHARS), inside.width),
                screen_style.theme.plain,
                at,
                buffer,
            );
        }
        return;
    }
    let row = app.selected_line().and_then(|line| app.profiles().get(line));
    let title = row
        .map_or("Problems".into(), |row| format!("Problems of {}", screen_style.text(&row.name, NAME_CHARS)));
    let inside = panel::margin(panel::draw_frame(screen_style, &title, "", area, buffer));
    let lines = match row {
        None => vec!["the arrows select a profile, p shows what switching to it would change".to_owned()],
        Some(ProfileRow { refused: Some(why), .. }) => {
            let text =
                screen_style.text(&format!("the gateway would refuse a switch to it: {why}"), REFUSAL_CHARS);
            table::wrap(&text, inside.width)
        }
        Some(row) if row.problems.is_empty() => {
            let none = "none: the gateway can be switched to it".to_owned();
            std::iter::once(none).chain(last_checklist(app)).collect()
        }
        Some(row) => problem_lines(row),
    };
    for (at, line) in panel::lines(inside).zip(lines) {
        let style = if line.starts_with(' ') { screen_style.theme.plain } else { screen_style.theme.warn };
        let style = if row.is_none_or(|row| row.problems.is_empty() && row.refused.is_none()) {
            screen_style.theme.faint
        } else {
            style
        };
        table::write(
            &table::cut(screen_style, &screen_style.text(&line, LINE_CHARS), inside.width),
            style,
            at,
            buffer,
        );
    }
}

/// The switch or else the run of the checklist that is under way: its steps, as they are completed.
fn under_way(app: &App) -> Option<(String, Vec<String>)> {
    if let Some(switching) = app.switching() {
        let missing = switching.missing.as_deref().unwrap_or("ready");
        let left = switching.seconds_left.ceil();
        return Some((
            format!("Switch to {}", app.style.text(&switching.profile, NAME_CHARS)),
            vec![
                "done  the profile and its certificates are read and checked".into(),
                "done  what is new is open; the old way serves".into(),
                format!("now   the new way gets ready: {missing} ({left:.0} s left, then it goes back)"),
                "then  new sessions go the new way, and what is old closes".into(),
            ],
        ));
    }
    let verify_run = app.verify_row().filter(|verify_run| verify_run.walking.is_some())?;
    let done = step_lines(app, verify_run);
    let now = verify_run.walking.map(|step| format!("{:<8} ...", step.label()));
    Some((
        format!("Checklist of {}", app.style.text(&verify_run.profile, NAME_CHARS)),
        done.chain(now).collect(),
    ))
}

/// What the checklist has found when it was run last, whichever profile is selected.
fn last_checklist(app: &App) -> Vec<String> {
    let Some(verify_run) = app.verify_row().filter(|verify_run| verify_run.walking.is_none()) else {
        return Vec::new();
    };
    let steps = &verify_run.steps;
    let has_failed = steps.iter().any(|step_report| step_report.result == StepResult::Fail);
    // A run that was refused after its beginning, or dropped midway, has not all of them.
    let is_whole = CheckStep::ALL.iter().all(|step| steps.iter().any(|report| report.step == *step));
    let word = match (has_failed, is_whole) {
        (true, _) => "failed",
        (false, true) => "passed",
        (false, false) => "was not finished",
    };
    let age = format::age(verify_run.age_seconds);
    let colon = if steps.is_empty() { "" } else { ":" };
    let head = [String::new(), format!("the checklist of {} {word} {age} ago{colon}", verify_run.profile)];
    head.into_iter().chain(step_lines(app, verify_run)).collect()
}

/// What was seen at a step may be an address.
fn step_lines(app: &App, verify_run: &VerifyRow) -> impl Iterator<Item = String> {
    let lines = verify_run.steps.iter().flat_map(StepReport::lines);
    lines.map(move |line| app.addresses().text(&line))
}

/// Each problem, followed by the lines it is about.
pub fn problem_lines(row: &ProfileRow) -> Vec<String> {
    row.problems
        .iter()
        .flat_map(|problem| std::iter::once(problem.text.clone()).chain(problem.excerpt.clone()))
        .collect()
}

fn cell(app: &App, row: &ProfileRow, kind: ProfileColumn) -> TableCell {
    let (screen_style, theme) = (&app.style, app.style.theme);
    match kind {
        ProfileColumn::Profile => TableCell::new(screen_style.text(&row.name, NAME_CHARS), theme.accent),
        ProfileColumn::Mode => TableCell::new(row.mode.map_or("-", mode_word), theme.plain),
        ProfileColumn::Halves => {
            let halves: Vec<_> = row.halves.iter().map(|&half| half_label(half)).collect();
            TableCell::new(if halves.is_empty() { "-".into() } else { halves.join("+") }, theme.plain)
        }
        ProfileColumn::Valid => match row.problems.len() {
            0 => TableCell::new("ok", theme.good),
            1 => TableCell::new("1 problem", theme.bad),
            count => TableCell::new(format!("{count} problems"), theme.bad),
        },
        ProfileColumn::Checked => match app.listed_checks().iter().find(|check| check.profile == row.name) {
            None => TableCell::new("-", theme.faint),
            Some(check) => {
                let (word, style) = if check.passed { ("ok", theme.good) } else { ("failed", theme.bad) };
                TableCell::new(format!("{word} {}", format::age(check.age_seconds)), style)
            }
        },
        ProfileColumn::Note => {
            let note = match row.problems.first() {
                Some(problem) => problem.text.clone(),
                None if row.refused.is_some() => "cannot be switched to now".to_owned(),
                None => format!("services {}", row.services.join(", ")),
            };
            let now = if row.is_current { "RUNS NOW; " } else { "" };
            TableCell::new(screen_style.text(&format!("{now}{note}"), LINE_CHARS), theme.plain)
        }
    }
}

const NAME_CHARS: usize = 40;
const LINE_CHARS: usize = 200;
const REFUSAL_CHARS: usize = 1000;
