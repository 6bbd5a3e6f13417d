//! Formats numbers for operators: few digits, bounded width, one unit letter.

pub use crate::text::count;

/// The widest result of [`amount`], [`age`] and [`span`].
pub const WIDTH: u16 = 6;

const UNITS: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Bytes, or bytes a second, by thousands: `0`, `999`, `1.2k`, `84.2M`, `301M`.
pub fn amount(bytes: u64) -> String {
    let (mut unit, mut scale) = (0, 1_u128);
    let bytes = u128::from(bytes);
    // 999.5 of one unit would be shown as 1000, so use the next unit from there.
    while bytes * 2 >= scale * 1999 && unit + 1 < UNITS.len() {
        unit += 1;
        scale *= 1000;
    }
    if unit == 0 {
        return bytes.to_string();
    }
    let tenths = (bytes * 10 + scale / 2) / scale;
    if tenths < 1000 {
        format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{}{}", (bytes + scale / 2) / scale, UNITS[unit])
    }
}

/// `1 session`, `1.2k sessions`.
pub fn amount_of(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", amount(number), if number == 1 { "" } else { "s" })
}

/// Bytes for text: `0 B`, `1.2 kB`.
pub fn bytes(bytes: u64) -> String {
    let short = amount(bytes);
    match short.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => format!("{} {}B", &short[..at], &short[at..]),
        None => format!("{short} B"),
    }
}

/// Bytes a second for text: `84.2 MB/s`.
pub fn rate(bytes_a_second: u64) -> String {
    format!("{}/s", bytes(bytes_a_second))
}

/// How old something is: `00:41`, `59:59`, `3h12m`, `3d04h`, `123d`.
pub fn age(seconds: f64) -> String {
    let whole = whole_seconds(seconds);
    if whole < HOUR {
        return format!("{:02}:{:02}", whole / MINUTE, whole % MINUTE);
    }
    format_long(whole)
}

/// A wait or a length: `0.4s`, `44s`, `12m`, `3h12m`.
pub fn span(seconds: f64) -> String {
    let tenths = whole_seconds(seconds * 10.0);
    let whole = whole_seconds(seconds);
    match whole {
        0..10 if !tenths.is_multiple_of(10) => format!("{}.{}s", tenths / 10, tenths % 10),
        0..MINUTE => format!("{whole}s"),
        MINUTE..HOUR => format!("{}m", whole / MINUTE),
        HOUR.. => format_long(whole),
    }
}

/// How long something has run, to the second: `44s`, `6m 36s`, `3h 12m 07s`, `3d 04h 12m`.
pub fn uptime(seconds: f64) -> String {
    let whole = whole_seconds(seconds);
    let (days, hours, minutes) = (whole / DAY, whole % DAY / HOUR, whole % HOUR / MINUTE);
    let seconds = whole % MINUTE;
    match whole {
        0..MINUTE => format!("{seconds}s"),
        MINUTE..HOUR => format!("{minutes}m {seconds:02}s"),
        HOUR..DAY => format!("{hours}h {minutes:02}m {seconds:02}s"),
        DAY.. => format!("{days}d {hours:02}h {minutes:02}m"),
    }
}

/// A wait in its own unit: `12us`, `0.4ms`, `212ms`, `3.1s`.
pub fn wait(ms: f64) -> String {
    match ms {
        ..0.1 => format!("{:.0}us", ms * 1e3),
        ..10.0 => format!("{ms:.1}ms"),
        ..1000.0 => format!("{ms:.0}ms"),
        _ => span(ms / 1e3),
    }
}

/// A wait that counts down: tenths would only flicker.
pub fn whole_span(seconds: f64) -> String {
    span(seconds.trunc())
}

fn format_long(whole: u64) -> String {
    let (days, hours, minutes) = (whole / DAY, whole % DAY / HOUR, whole % HOUR / MINUTE);
    match days {
        0 => format!("{hours}h{minutes:02}m"),
        1..100 => format!("{days}d{hours:02}h"),
        100..100_000 => format!("{days}d"),
        100_000.. => ">9999d".into(),
    }
}

/// Whole seconds; negative values and NaN count as none.
fn whole_seconds(seconds: f64) -> u64 {
    // A float that does not fit saturates, and NaN becomes 0, as wanted here.
    seconds as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uptime_is_shown_to_the_second() {
        let cases = [
            (0.4, "0s"),
            (59.9, "59s"),
            (396.0, "6m 36s"),
            (11_527.0, "3h 12m 07s"),
            (274_320.0, "3d 04h 12m"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(uptime(seconds), expected);
        }
    }

    #[test]
    fn amounts_keep_three_digits() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1000, "1.0k"),
            (1249, "1.2k"),
            (12_345, "12.3k"),
            (99_949, "99.9k"),
            (99_950, "100k"),
            (123_456, "123k"),
            (999_499, "999k"),
            (999_500, "1.0M"),
            (84_200_000, "84.2M"),
            (3_400_000_000, "3.4G"),
            (u64::MAX, "18.4E"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(amount(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn prose_names_the_unit() {
        for (count, expected) in [(0, "0 B"), (999, "999 B"), (1200, "1.2 kB"), (84_200_000, "84.2 MB")] {
            assert_eq!(bytes(count), expected);
        }
        assert_eq!(rate(1200), "1.2 kB/s");
    }

    #[test]
    fn ages_go_from_seconds_to_days() {
        let cases = [
            (0.0, "00:00"),
            (41.9, "00:41"),
            (3599.9, "59:59"),
            (3600.0, "1h00m"),
            (86_399.0, "23h59m"),
            (86_400.0, "1d00h"),
            (273_600.0, "3d04h"),
            (99.0 * 86_400.0, "99d00h"),
            (123.0 * 86_400.0, "123d"),
            (f64::NAN, "00:00"),
            (-5.0, "00:00"),
            (f64::INFINITY, ">9999d"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(age(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn spans_show_tenths_only_while_short() {
        let cases = [
            (0.0, "0s"),
            (0.42, "0.4s"),
            (3.0, "3s"),
            (9.99, "9.9s"),
            (44.2, "44s"),
            (60.0, "1m"),
            (3599.0, "59m"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(span(seconds), expected, "{seconds}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_wider_than_its_column(count: u64, seconds: f64) {
            for text in [amount(count), age(seconds), span(seconds)] {
                proptest::prop_assert!(text.len() <= usize::from(WIDTH), "{}", text);
            }
        }
    }
}
