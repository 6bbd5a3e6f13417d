//! The lines between two columns of the path: lines with the same ends share a lane.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use ratatui::{
    buffer::Buffer,
    layout::{Position, Rect},
};

use crate::tui::{style::ScreenStyle, view::table};

/// One line from a part to the next.
#[derive(Debug, Clone)]
pub struct PathWire {
    pub source: usize,
    pub target: usize,
    /// After the name of the source.
    pub begin: Position,
    /// The mark of the target.
    pub end: Position,
    pub is_source_lost: bool,
    pub is_target_lost: bool,
    /// It leads from or to the selected part.
    pub is_lit: bool,
}

/// How a cell is drawn; where lines meet, the later one wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum WireTone {
    Faint,
    Lit,
    Lost,
}

/// Directions in which a line leaves a cell.
const NORTH: usize = 1;
const EAST: usize = 2;
const SOUTH: usize = 4;
const WEST: usize = 8;

type WireCells = BTreeMap<(u16, u16), (usize, WireTone)>;

/// Draws the lines; `gap` is the space between the columns: lanes, an arrow, and a free cell.
pub fn draw(screen_style: &ScreenStyle, wires: &[PathWire], gap: Range<u16>, buffer: &mut Buffer) {
    let arrow = gap.end.saturating_sub(2);
    let queues = usize::from(arrow.saturating_sub(gap.start)).max(1);
    let mut cells = WireCells::new();
    let mut taken: Vec<Vec<Range<u16>>> = vec![Vec::new(); queues];
    for bundle in bundles(wires) {
        let ys = bundle.iter().flat_map(|wire| [wire.begin.y, wire.end.y]);
        let (top, bottom) = ys.fold((u16::MAX, 0), |(top, bottom), y| (top.min(y), bottom.max(y)));
        let is_free =
            |queue: &Vec<Range<u16>>| queue.iter().all(|taken| bottom < taken.start || taken.end <= top);
        let queue = taken.iter().position(is_free).unwrap_or(queues - 1);
        taken[queue].push(top..bottom.saturating_add(1));
        let x = gap.start + u16::try_from(queue).unwrap_or(0);
        bundle.iter().for_each(|wire| add_wire(&mut cells, wire, x, arrow));
    }
    let mut put = |(x, y): (u16, u16), sign: &str, tone| {
        let style = match tone {
            WireTone::Faint => screen_style.theme.faint,
            WireTone::Lit => screen_style.theme.accent,
            WireTone::Lost => screen_style.theme.bad,
        };
        table::write(sign, style, Rect { x, y, width: 1, height: 1 }.intersection(buffer.area), buffer);
    };
    for (&at, &(sides, tone)) in &cells {
        put(at, screen_style.symbols.wires[sides], tone);
    }
    for wire in wires {
        let (sign, tone) = match (wire.is_target_lost, wire.is_lit) {
            (true, _) => (screen_style.symbols.broken, WireTone::Lost),
            (false, true) => (screen_style.symbols.arrow_right, WireTone::Lit),
            (false, false) => (screen_style.symbols.arrow_right, WireTone::Faint),
        };
        put((arrow, wire.end.y), sign, tone);
    }
}

/// Sources that lead to the same parts share a lane; others must not seem to.
fn bundles(wires: &[PathWire]) -> Vec<Vec<&PathWire>> {
    let mut targets: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for wire in wires {
        targets.entry(wire.source).or_default().insert(wire.target);
    }
    let mut bundles: BTreeMap<&BTreeSet<usize>, Vec<&PathWire>> = BTreeMap::new();
    for wire in wires {
        bundles.entry(&targets[&wire.source]).or_default().push(wire);
    }
    bundles.into_values().collect()
}

/// From its source to the lane, along it, and to the arrow.
fn add_wire(cells: &mut WireCells, wire: &PathWire, queue: u16, arrow: u16) {
    let tone = if wire.is_lit { WireTone::Lit } else { WireTone::Faint };
    let mut add = |x, y, sides, tone: WireTone| {
        let cell = cells.entry((x, y)).or_insert((0, tone));
        *cell = (cell.0 | sides, cell.1.max(tone));
    };
    // The part is broken, not the lane that others use too.
    let at_source = if wire.is_source_lost { WireTone::Lost } else { tone };
    let at_target = if wire.is_target_lost { WireTone::Lost } else { tone };
    (wire.begin.x..queue).for_each(|x| add(x, wire.begin.y, EAST | WEST, at_source));
    (queue + 1..arrow).for_each(|x| add(x, wire.end.y, EAST | WEST, at_target));
    let (top, bottom) = (wire.begin.y.min(wire.end.y), wire.begin.y.max(wire.end.y));
    for y in top..=bottom {
        let begin = if y == wire.begin.y { WEST } else { 0 };
        let end = if y == wire.end.y { EAST } else { 0 };
        let above = if y > top { NORTH } else { 0 };
        let below = if y < bottom { SOUTH } else { 0 };
        add(queue, y, begin | end | above | below, tone);
    }
}
