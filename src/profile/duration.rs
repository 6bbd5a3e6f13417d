//! Durations as the profile writes them: a whole number and its unit, `500ms`.

use std::time::Duration;

use super::problem::{ValueProblem, quote_for_problem};

/// Reads `500ms`, `30s`, `5m` or `2h`.
pub(super) fn parse(text: &str) -> Result<Duration, ValueProblem> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(fault(format!("`{}` is not a duration", quote_for_problem(text))));
    }
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => return Err(fault(format!("`{}` has no unit", quote_for_problem(text)))),
        _ => {
            return Err(fault(format!(
                "`{}` is not a whole number of ms, s, m or h",
                quote_for_problem(text)
            )));
        }
    };
    let duration_ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    match duration_ms {
        Some(duration_ms) if duration_ms <= DURATION_MAX_MS => Ok(Duration::from_millis(duration_ms)),
        _ => Err(fault(format!("`{}` is longer than a year", quote_for_problem(text)))),
    }
}

fn fault(what: String) -> ValueProblem {
    ValueProblem::new(what, "write a whole number and its unit: `500ms`, `30s`, `5m`, `2h`")
}

/// The duration as a profile would write it, in the largest unit that fits.
pub(super) fn format_duration(duration: Duration) -> String {
    let duration_ms = duration.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let fits = |(unit_ms, _): &(u128, &str)| duration_ms > 0 && duration_ms.is_multiple_of(*unit_ms);
    match units.into_iter().find(fits) {
        Some((unit_ms, unit)) => format!("{}{unit}", duration_ms / unit_ms),
        None => format!("{duration_ms}ms"),
    }
}

/// Timers go further than this, but nobody means it.
const DURATION_MAX_MS: u64 = 365 * 24 * 3_600_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_with_a_unit_are_durations() {
        let table = [("0s", 0), ("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000)];
        for (text, duration_ms) in table {
            assert_eq!(parse(text), Ok(Duration::from_millis(duration_ms)), "{text}");
        }
        assert_eq!(parse("8760h"), Ok(Duration::from_millis(DURATION_MAX_MS)));
    }

    #[test]
    fn other_texts_have_their_own_errors() {
        let table = [
            ("", "`` is not a duration"),
            ("s", "`s` is not a duration"),
            ("-3s", "`-3s` is not a duration"),
            ("30", "`30` has no unit"),
            ("30 s", "`30 s` is not a whole number of ms, s, m or h"),
            ("1.5s", "`1.5s` is not a whole number of ms, s, m or h"),
            ("1m30s", "`1m30s` is not a whole number of ms, s, m or h"),
            ("5S", "`5S` is not a whole number of ms, s, m or h"),
            ("8761h", "`8761h` is longer than a year"),
            ("99999999999999999999s", "`99999999999999999999s` is longer than a year"),
        ];
        for (text, what) in table {
            assert_eq!(parse(text).map_err(|fault| fault.what), Err(what.to_owned()), "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["0ms", "500ms", "30s", "5m", "2h", "90s"] {
            assert_eq!(parse(text).map(format_duration), Ok(text.to_owned()));
        }
    }
}
