//! `hours` of a service: when it takes new sessions, by the wall clock of its time zone.
//!
//! Only the weekday and the minute that such a clock shows count. An hour that the clock repeats in autumn is
//! open twice, and one that it skips in spring does not exist. No times are calculated in advance, so after a
//! clock was set, or a machine slept, the next check is right.

use std::{fmt, time::SystemTime};

use jiff::{Timestamp, tz::TimeZone};

use super::{
    defaults,
    fields::{MapReader, ValueReader},
    keys,
    problem::{Problem, ValueProblem, quote_for_problem},
};

/// The hours of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpeningHours {
    spans: Vec<WeeklySpan>,
    zone: TimeZone,
    /// As written, with the zone.
    written: String,
}

/// On these days, from one minute to another; the end may be on the next day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct WeeklySpan {
    /// Monday first.
    days: [bool; 7],
    from_minute: u16,
    to_minute: u16,
}

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY_MINUTES: u16 = 24 * 60;

impl OpeningHours {
    /// Whether new sessions are taken at this time.
    pub fn is_open_at(&self, time: SystemTime) -> bool {
        // A clock without a valid date has no hour either.
        let Ok(time) = Timestamp::try_from(time) else { return false };
        let shown = self.zone.to_datetime(time);
        let day = usize::from(shown.weekday().to_monday_zero_offset().unsigned_abs()) % DAYS.len();
        let minute = u16::from(shown.hour().unsigned_abs()) * 60 + u16::from(shown.minute().unsigned_abs());
        self.spans.iter().any(|span| span.holds(day, minute))
    }
}

impl fmt::Display for OpeningHours {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.written)
    }
}

impl WeeklySpan {
    fn holds(&self, day: usize, minute: u16) -> bool {
        let day_before = (day + DAYS.len() - 1) % DAYS.len();
        if self.from_minute < self.to_minute {
            return self.days[day] && (self.from_minute..self.to_minute).contains(&minute);
        }
        self.days[day] && minute >= self.from_minute || self.days[day_before] && minute < self.to_minute
    }
}

/// `hours` with the `timezone` beside it.
pub(super) fn read(fields: &MapReader<'_>, problems: &mut Vec<Problem>) -> Option<OpeningHours> {
    let zone = fields.take(&keys::TIMEZONE);
    let Some(hours) = fields.take(&keys::HOURS) else {
        if let Some(zone) = zone {
            let what = "without `hours` this means nothing";
            let fault = ValueProblem::new(what, "write `hours: [\"Mon-Fri 07:00-19:00\"]`, or remove it");
            problems.push(fault.at(zone.location()));
        }
        return None;
    };
    let before = problems.len();
    let (zone, zone_name) = match zone {
        Some(zone) => named_zone(&zone, problems).unzip(),
        None => (Some(local_zone()), Some("local time")),
    };
    let items = hours.one_or_many(defaults::HOURS_MAX, problems).unwrap_or_default();
    let mut texts = Vec::new();
    let mut spans = Vec::new();
    for item in &items {
        let Some(text) = item.text(problems) else { continue };
        match span(text) {
            Ok(span) => spans.push(span),
            Err(fault) => problems.push(fault.at(item.location())),
        }
        texts.push(text);
    }
    let written = format!("{} ({})", texts.join(", "), zone_name?);
    (problems.len() == before).then_some(OpeningHours { spans, zone: zone?, written })
}

fn named_zone<'a>(field: &ValueReader<'a>, problems: &mut Vec<Problem>) -> Option<(TimeZone, &'a str)> {
    let name = field.text(problems)?;
    match TimeZone::get(name) {
        Ok(zone) => Some((zone, name)),
        Err(_) => {
            let what = format!("`{}` is not a time zone", quote_for_problem(name));
            let advice = "write a name of the IANA database: `Europe/Berlin`, `UTC`";
            field.refuse(ValueProblem::new(what, advice), problems)
        }
    }
}

/// A system without a time zone uses UTC, for everything else as well.
fn local_zone() -> TimeZone {
    TimeZone::try_system().unwrap_or(TimeZone::UTC)
}

const FORM: &str = "write days and times: `Mon-Fri 07:00-19:00`, `Sat 22:00-06:00`, `Mon,Wed 08:00-24:00`";

fn span(text: &str) -> Result<WeeklySpan, ValueProblem> {
    let (days, times) = match text.split_once(' ') {
        Some((days, times)) => (weekdays(days)?, times),
        None => ([true; 7], text),
    };
    let Some((from, to)) = times.split_once('-').filter(|_| times.contains(':')) else {
        return Err(ValueProblem::new(format!("`{}` is not a span of hours", quote_for_problem(text)), FORM));
    };
    let (from_minute, to_minute) = (minute_of_day(from)?, minute_of_day(to)?);
    if from_minute == to_minute {
        let what = format!("`{}` begins when it ends", quote_for_problem(times));
        return Err(ValueProblem::new(what, "write `00:00-24:00` for the whole day, or another time"));
    }
    if from_minute == DAY_MINUTES {
        return Err(ValueProblem::new("a day has ended at 24:00", "begin at `00:00` of the next day"));
    }
    Ok(WeeklySpan { days, from_minute, to_minute })
}

/// `Mon`, `Mon-Fri`, `Mon,Wed-Fri`; also across the end of the week.
fn weekdays(text: &str) -> Result<[bool; 7], ValueProblem> {
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut day, last) = (weekday(first)?, weekday(last)?);
        days[day] = true;
        while day != last {
            day = (day + 1) % DAYS.len();
            days[day] = true;
        }
    }
    Ok(days)
}

fn weekday(text: &str) -> Result<usize, ValueProblem> {
    DAYS.iter().position(|day| *day == text).ok_or_else(|| {
        let what = format!("`{}` is not a day of the week", quote_for_problem(text));
        ValueProblem::new(what, format!("write one of {}", DAYS.map(|day| format!("`{day}`")).join(", ")))
    })
}

/// `HH:MM`, up to `24:00`.
fn minute_of_day(text: &str) -> Result<u16, ValueProblem> {
    let two_digits = |text: &str| -> Option<u16> {
        (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
    };
    let parsed = text.split_once(':').and_then(|(hour, minute)| {
        let (hour, minute) = (two_digits(hour)?, two_digits(minute)?);
        (minute < 60 && hour * 60 + minute <= DAY_MINUTES).then_some(hour * 60 + minute)
    });
    parsed.ok_or_else(|| {
        let what = format!("`{}` is not a time of day", quote_for_problem(text));
        ValueProblem::new(what, "write hours and minutes, from `00:00` to `24:00`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(spans: &[&str], zone: &str) -> OpeningHours {
        OpeningHours {
            spans: spans.iter().map(|text| span(text).expect("a span")).collect(),
            zone: TimeZone::get(zone).expect("a zone"),
            written: String::new(),
        }
    }

    fn instant(time: &str) -> SystemTime {
        humantime::parse_rfc3339(time).expect("an instant")
    }

    fn check(hours: &OpeningHours, table: &[(&str, bool)]) {
        for (time, expected) in table {
            assert_eq!(hours.is_open_at(instant(time)), *expected, "{time}");
        }
    }

    #[test]
    fn days_and_times_are_those_of_the_zone() {
        // The 23rd of November 2026 is a Monday.
        let weekdays = hours(&["Mon-Fri 07:00-19:00"], "Europe/Berlin");
        check(
            &weekdays,
            &[
                ("2026-11-23T05:59:59Z", false),
                ("2026-11-23T06:00:00Z", true),
                ("2026-11-23T17:59:59Z", true),
                ("2026-11-23T18:00:00Z", false),
                ("2026-11-28T11:00:00Z", false),
                ("2026-07-01T05:00:00Z", true),
            ],
        );
        // Further east it is already another day.
        check(&hours(&["Tue 00:00-24:00"], "Pacific/Auckland"), &[("2026-11-23T12:00:00Z", true)]);
    }

    #[test]
    fn hours_go_past_midnight_and_past_the_end_of_the_week() {
        let night = hours(&["Sat 22:00-06:00", "Sun-Mon 23:30-00:30"], "UTC");
        check(
            &night,
            &[
                ("2026-11-28T21:59:00Z", false),
                ("2026-11-28T22:00:00Z", true),
                ("2026-11-29T05:59:00Z", true),
                ("2026-11-29T06:00:00Z", false),
                ("2026-11-29T23:30:00Z", true),
                ("2026-11-30T00:29:00Z", true),
                ("2026-11-30T00:30:00Z", false),
                ("2026-12-01T00:15:00Z", true),
                ("2026-12-02T00:15:00Z", false),
            ],
        );
        let to_midnight = hours(&["Sat 18:00-24:00", "Sun 18:00-00:00"], "UTC");
        check(
            &to_midnight,
            &[
                ("2026-11-28T23:59:59Z", true),
                ("2026-11-29T00:00:00Z", false),
                ("2026-11-29T23:59:59Z", true),
                ("2026-11-30T00:00:00Z", false),
            ],
        );
        let around = hours(&["Sat-Mon 12:00-13:00", "12:30-14:00"], "UTC");
        let open = |day: &str| around.is_open_at(instant(&format!("{day}T12:15:00Z")));
        assert_eq!(
            ["2026-11-28", "2026-11-29", "2026-11-30", "2026-12-01"].map(open),
            [true, true, true, false]
        );
        check(&around, &[("2026-12-01T13:00:00Z", true)]);
    }

    #[test]
    fn an_hour_that_the_clock_repeats_is_open_twice_and_one_that_it_skips_is_not_there() {
        let zone = "Europe/Berlin";
        // At 03:00 the clock goes back to 02:00, so both are 02:15.
        check(
            &hours(&["02:00-02:30"], zone),
            &[
                ("2026-10-25T00:15:00Z", true),
                ("2026-10-25T00:45:00Z", false),
                ("2026-10-25T01:15:00Z", true),
                ("2026-10-25T01:45:00Z", false),
                // In spring it goes from 02:00 to 03:00.
                ("2026-03-29T00:59:59Z", false),
                ("2026-03-29T01:00:00Z", false),
            ],
        );
        check(
            &hours(&["01:30-03:30"], zone),
            &[
                ("2026-03-29T00:30:00Z", true),
                ("2026-03-29T01:29:00Z", true),
                ("2026-03-29T01:30:00Z", false),
            ],
        );
    }

    #[test]
    fn a_clock_without_a_date_is_no_open_hour() {
        let always = hours(&["00:00-24:00"], "UTC");
        assert!(always.is_open_at(SystemTime::UNIX_EPOCH));
        let far = SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(1 << 45));
        assert!(far.is_none_or(|far| !always.is_open_at(far)));
    }

    #[test]
    fn an_invalid_span_has_its_reason() {
        let table = [
            ("Mon-Fri", "`Mon-Fri` is not a span"),
            ("Mon 07:00", "`Mon 07:00` is not a span"),
            ("Mon-Fri 07:00-07:00", "`07:00-07:00` begins when it ends"),
            ("Mo 07:00-08:00", "`Mo` is not a day"),
            ("Mon-Xxx 07:00-08:00", "`Xxx` is not a day"),
            ("mon 07:00-08:00", "`mon` is not a day"),
            ("Mon 7:00-08:00", "`7:00` is not a time"),
            ("Mon 07:60-08:00", "`07:60` is not a time"),
            ("Mon 07:00-24:01", "`24:01` is not a time"),
            ("Mon 24:00-06:00", "a day has ended at 24:00"),
            ("Mon 07:00-08:00-09:00", "`08:00-09:00` is not a time"),
            ("Mon +7:00-08:00", "`+7:00` is not a time"),
            ("Mon,,Tue 07:00-08:00", "`` is not a day"),
        ];
        for (text, expected) in table {
            let fault = span(text).expect_err(text);
            assert!(fault.what.contains(expected), "{text}: {fault:?}");
        }
    }
}
