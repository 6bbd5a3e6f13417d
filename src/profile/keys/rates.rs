//! Types of values that limit something over time: a number of something, and bytes a second.

use std::{ops::RangeInclusive, time::Duration};

use serde_json::{Value, json};

use super::{KeyMap, ProfileKey, values::ValueKind};
use crate::profile::{
    fields::{MapReader, ValueReader},
    guards::{ByteRate, NewSessionRate},
    problem::{Problem, ValueProblem, quote_for_problem},
    size,
};

/// A whole number, for something that is unlimited by default.
pub(in crate::profile) struct OptionalCountValue {
    pub range: RangeInclusive<usize>,
}

impl ValueKind for OptionalCountValue {
    fn schema(&self) -> Value {
        json!({ "type": "integer", "minimum": self.range.start(), "maximum": self.range.end() })
    }

    fn describe_type(&self) -> String {
        format!("whole number, {} to {}", self.range.start(), self.range.end())
    }
}

impl ProfileKey<OptionalCountValue> {
    pub fn read(&self, fields: &MapReader<'_>, problems: &mut Vec<Problem>) -> Option<usize> {
        fields.take(self)?.number(self.value.range.clone(), problems)
    }
}

/// How many in a second, a minute or an hour.
pub(in crate::profile) struct PerTime;

impl ValueKind for PerTime {
    fn schema(&self) -> Value {
        json!({ "type": "string", "pattern": "^[1-9][0-9]*/(s|m|h)$" })
    }

    fn describe_type(&self) -> String {
        "a number per second, minute or hour: `20/s`, `100/m`, `1000/h`".to_owned()
    }
}

impl ProfileKey<PerTime> {
    pub fn read(&self, fields: &MapReader<'_>, problems: &mut Vec<Problem>) -> Option<NewSessionRate> {
        let field = fields.take(self)?;
        let text = field.text(problems)?;
        let parsed = text.split_once('/').and_then(|(count, unit)| {
            let per = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                _ => return None,
            };
            Some((count.parse::<u32>().ok()?, Duration::from_secs(per)))
        });
        let advice = "write a whole number from 1 to 1000000, and its time: `20/s`, `100/m`, `1000/h`";
        match parsed {
            Some((count @ 1..=1_000_000, per)) => Some(NewSessionRate { count, per }),
            Some((0, _)) => {
                let what = "a rate of zero would refuse everybody";
                field.refuse(ValueProblem::new(what, advice), problems)
            }
            Some(_) | None => {
                let what = format!("`{}` is not a rate", quote_for_problem(text));
                field.refuse(ValueProblem::new(what, advice), problems)
            }
        }
    }
}

/// Bytes a second.
pub(in crate::profile) struct Throughput;

const THROUGHPUT_PATTERN: &str = "^[0-9]+(B|KB|KiB|MB|MiB|GB|GiB)/s$";

impl ValueKind for Throughput {
    fn schema(&self) -> Value {
        json!({ "type": "string", "pattern": THROUGHPUT_PATTERN })
    }

    fn describe_type(&self) -> String {
        "bytes a second: `64KiB/s`, `1MB/s`".to_owned()
    }
}

impl ProfileKey<Throughput> {
    pub fn read(&self, fields: &MapReader<'_>, problems: &mut Vec<Problem>) -> Option<ByteRate> {
        throughput(&fields.take(self)?, problems)
    }
}

/// A throughput, or a map with more options.
pub(in crate::profile) struct ThroughputOrMap(pub &'static KeyMap);

impl ValueKind for ThroughputOrMap {
    fn schema(&self) -> Value {
        json!({ "anyOf": [Throughput.schema(), crate::profile::schema::map(self.0)] })
    }

    fn describe_type(&self) -> String {
        Throughput.describe_type()
    }

    fn map(&self) -> Option<&'static KeyMap> {
        Some(self.0)
    }
}

/// Reads bytes a second.
pub(in crate::profile) fn throughput(
    field: &ValueReader<'_>,
    problems: &mut Vec<Problem>,
) -> Option<ByteRate> {
    let text = field.text(problems)?;
    let advice = "write a size and `/s`: `64KiB/s`, `1MB/s`";
    match text.strip_suffix("/s").and_then(size::parse) {
        Some(0) => field.refuse(ValueProblem::new("a rate of zero carries nothing", advice), problems),
        Some(bytes) if bytes <= ByteRate::MAX.0 as usize => Some(ByteRate(bytes as u64)),
        Some(_) | None => {
            let what = format!("`{}` is not a number of bytes a second", quote_for_problem(text));
            field.refuse(ValueProblem::new(what, advice), problems)
        }
    }
}
