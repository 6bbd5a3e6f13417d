//! Filled columns, in eighths of a cell, for charts of any height.

use ratatui::{buffer::Buffer, layout::Rect, style::Style};

use crate::tui::{style::ScreenStyle, view::table};

/// The data of a chart.
pub struct BarChartData {
    /// Heights with their styles; `None` where nothing was measured.
    pub columns: Vec<Option<(f64, Style)>>,
    /// The height that fills the chart.
    pub scale: f64,
    /// The column at the cursor.
    pub lit: Option<usize>,
}

/// Columns are side by side from the left; those without room are not drawn.
pub fn draw(screen_style: &ScreenStyle, data: &BarChartData, area: Rect, buffer: &mut Buffer) {
    let area = area.intersection(buffer.area);
    if area.is_empty() {
        return;
    }
    let foot = area.y + area.height - 1;
    for (column, x) in data.columns.iter().zip(area.x..area.x + area.width) {
        let is_lit = data.lit == Some(usize::from(x - area.x));
        let (mut left, style) = match column {
            Some((value, style)) => (eighths(*value, data.scale, area.height), *style),
            None => (0, screen_style.theme.faint),
        };
        let style = if is_lit { style.patch(screen_style.theme.selected) } else { style };
        for line in 0..area.height {
            // A gap is marked only at the bottom.
            let sign = match column {
                None if line == 0 => screen_style.symbols.gap,
                _ => screen_style.symbols.eighth(left.min(8)),
            };
            table::write(sign, style, Rect { x, y: foot - line, width: 1, height: 1 }, buffer);
            left = left.saturating_sub(8);
        }
    }
}

/// Anything above zero is visible.
fn eighths(value: f64, scale: f64, lines: u16) -> u16 {
    if value <= 0.0 || scale <= 0.0 {
        return 0;
    }
    let most = f64::from(lines) * 8.0;
    // A float that does not fit saturates.
    ((value / scale * most).round() as u16).clamp(1, lines.saturating_mul(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_as_high_as_its_value_and_never_hidden() {
        let cases = [
            ((0.0, 10.0, 3), 0),
            ((0.01, 10.0, 3), 1),
            ((5.0, 10.0, 3), 12),
            ((10.0, 10.0, 3), 24),
            ((10.0, 0.0, 3), 0),
            ((f64::INFINITY, 10.0, 2), 16),
            ((f64::NAN, 10.0, 2), 1),
        ];
        for ((value, scale, lines), expected) in cases {
            assert_eq!(eighths(value, scale, lines), expected, "{value} of {scale}");
        }
    }
}
