//! The types of values: how each is read, and how the schema and the manual describe it. So none of the three can
//! say what the others do not.

use std::{ops::RangeInclusive, time::Duration};

use serde_json::{Value, json};

use super::{KeyMap, ProfileKey};
use crate::profile::{
    defaults, duration,
    fields::{MapReader, ValueReader, ZeroDuration},
    problem::{Problem, ValueProblem, quote_for_problem},
    size,
    spelling::{nearest, one_of},
};

/// How the schema and the manual describe a type of values.
pub(in crate::profile) trait ValueKind {
    /// The JSON Schema of a value; maps below it are added from their own tables.
    fn schema(&self) -> Value;
    /// The type, its unit and its range, in words.
    fn describe_type(&self) -> String;
    /// The value of a key that is left out; `None` if it has none.
    fn default(&self) -> Option<String> {
        None
    }
    /// The map that a value is or may be.
    fn map(&self) -> Option<&'static KeyMap> {
        None
    }
    /// Whether that map is below a name that the operator chooses.
    fn is_named(&self) -> bool {
        false
    }
}

/// A whole number.
pub(in crate::profile) struct CountValue {
    pub range: RangeInclusive<usize>,
    pub default: usize,
}

impl ValueKind for CountValue {
    fn schema(&self) -> Value {
        let (least, most) = (self.range.start(), self.range.end());
        json!({ "type": "integer", "minimum": least, "maximum": most, "default": self.default })
    }

    fn describe_type(&self) -> String {
        format!("whole number, {} to {}", self.range.start(), self.range.end())
    }

    fn default(&self) -> Option<String> {
        Some(self.default.to_string())
    }
}

impl ProfileKey<CountValue> {
    pub fn written(&self, fields: &MapReader<'_>, problems: &mut Vec<Problem>) -> Option<usize> {
        self.read_field(&fields.take(self)?, problems)
    }

    pub fn read(&self, fields: &MapReader<'_>, problems: &mut Vec<Problem>) -> usize {
        self.written(fields, problems).unwrap_or(self.value.default)
    }

    pub fn read_field(&self, field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<usize> {
        field.number(self.value.range.clone(), problems)
    }
}

/// A whole number with its unit of time.
pub(in crate::profile) struct DurationValue {
    /// Whether zero has a meaning.
    pub zero: ZeroDuration,
    pub default: Duration,
}

impl ValueKind for DurationValue {
    fn schema(&self) -> Value {
        let mut schema = OptionalDurationValue.schema();
        schema["default"] = json!(duration::format_duration(self.default));
        schema
    }

    fn describe_type(&self) -> String {
        OptionalDurationValue.describe_type()
    }

    fn default(&self) -> Option<String> {
        Some(duration::format_duration(self.default))
    }
}

impl ProfileKey<DurationValue> {
    pub fn written(&self, fields: &MapReader<'_>, problems: &mut Vec<Problem>) -> Option<Duration> {
        self.read_field(&fields.take(self)?, problems)
    }

    pub fn read(&self, fields: &MapReader<'_>, problems: &mut Vec<Problem>) -> Duration {
        self.written(fields, problems).unwrap_or(self.value.default)
    }

    pub fn read_field(&self, field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<Duration> {
        field.duration(self.value.zero, problems)
    }
}

/// A duration of something that is off by default.
pub(in crate::profile) struct OptionalDurationValue;

impl ValueKind for OptionalDurationValue {
    fn schema(&self) -> Value {
        json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" })
    }

    fn describe_type(&self) -> String {
        "duration: `500ms`, `30s`, `5m`, `2h`".to_owned()
    }

    fn default(&self) -> Option<String> {
        Some("off".to_owned())
    }
}

impl ProfileKey<OptionalDurationValue> {
    pub fn read(&self, fields: &MapReader<'_>, problems: &mut Vec<Problem>) -> Option<Duration> {
        fields.take(self)?.duration(ZeroDuration::Refused, problems)
    }
}

/// A number of bytes with its unit.
pub(in crate::profile) struct SizeValue {
    pub range: RangeInclusive<usize>,
    pub default: usize,
}

impl ValueKind for SizeValue {
    fn schema(&self) -> Value {
        let default = size::written(self.default);
        json!({ "type": "string", "pattern": "^[0-9]+(B|KB|KiB|MB|MiB)$", "default": default })
    }

    fn describe_type(&self) -> String {
        format!("size, {} to {}", size::written(*self.range.start()), size::written(*self.range.end()))
    }

    fn default(&self) -> Option<String> {
        Some(size::written(self.default))
    }
}

impl ProfileKey<SizeValue> {
    pub fn written(&self, fields: &MapReader<'_>, problems: &mut Vec<Problem>) -> Option<usize> {
        let field = fields.take(self)?;
        let text = field.text(problems)?;
        match size::parse(text).filter(|bytes| self.value.range.contains(bytes)) {
            Some(bytes) => Some(bytes),
            None => {
                let range = &self.value.range;
                let (least, most) = (size::written(*range.start()), size::written(*range.end()));
                let advice = format!("write {least} to {most}, with the unit: KB, KiB, MB, MiB");
                field.refuse(
                    ValueProblem::new(format!("`{}` is not a size", quote_for_problem(text)), advice),
                    problems,
                )
            }
        }
    }
}

/// True or false; false by default.
pub(in crate::profile) struct FlagValue;

impl ValueKind for FlagValue {
    fn schema(&self) -> Value {
        json!({ "type": "boolean", "default": false })
    }

    fn describe_type(&self) -> String {
        "`true` or `false`".to_owned()
    }

    fn default(&self) -> Option<String> {
        Some("false".to_owned())
    }
}

impl ProfileKey<FlagValue> {
    pub fn read(&self, fields: &MapReader<'_>, problems: &mut Vec<Problem>) -> bool {
        fields.take(self).is_some_and(|field| field.flag(problems) == Some(true))
    }
}

/// One of a few words.
pub(in crate::profile) struct ChoiceValue<T: 'static> {
    pub options: &'static [(&'static str, T)],
    pub default: Option<&'static str>,
    /// The end of the sentence that refuses another word: "`…` is " and this.
    pub is_not: &'static str,
}

impl<T> ChoiceValue<T> {
    fn words_alone(&self) -> Vec<&'static str> {
        self.options.iter().map(|(word, _)| *word).collect()
    }
}

impl<T> ValueKind for ChoiceValue<T> {
    fn schema(&self) -> Value {
        let mut schema = json!({ "enum": self.words_alone() });
        if let Some(default) = self.default {
            schema["default"] = json!(default);
        }
        schema
    }

    fn describe_type(&self) -> String {
        one_of(&self.words_alone())
    }

    fn default(&self) -> Option<String> {
        self.default.map(str::to_owned)
    }
}

impl<T: Copy + Sync> ProfileKey<ChoiceValue<T>> {
    pub fn written(&self, fields: &MapReader<'_>, problems: &mut Vec<Problem>) -> Option<T> {
        self.read_field(&fields.take(self)?, problems)
    }

    pub fn read_field(&self, field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<T> {
        let text = field.text(problems)?;
        if let Some((_, value)) = self.value.options.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let what = format!("`{}` is {}", quote_for_problem(text), self.value.is_not);
        // A misspelled word of two letters could mean any of them.
        let meant = nearest(text, &self.value.words_alone()).filter(|meant| meant.len() > 3);
        let advice = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("write {}", self.value.describe_type()),
        };
        field.refuse(ValueProblem::new(what, advice), problems)
    }
}

/// A status of an HTTP answer, or several.
pub(in crate::profile) struct StatusList {
    pub default: u16,
}

/// Final statuses only.
const STATUS_RANGE: RangeInclusive<usize> = 200..=599;
const STATUSES_MAX: usize = 16;

impl ValueKind for StatusList {
    fn schema(&self) -> Value {
        let one =
            json!({ "type": "integer", "minimum": STATUS_RANGE.start(), "maximum": STATUS_RANGE.end() });
        let many = json!({ "type": "array", "items": one, "minItems": 1, "maxItems": STATUSES_MAX });
        json!({ "anyOf": [one, many], "default": self.default })
    }

    fn describe_type(&self) -> String {
        let (least, most) = (STATUS_RANGE.start(), STATUS_RANGE.end());
        format!("one or a list of at most {STATUSES_MAX}: whole number, {least} to {most}")
    }

    fn default(&self) -> Option<String> {
        Some(self.default.to_string())
    }
}

impl ProfileKey<StatusList> {
    pub fn read_field(&self, field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<Vec<u16>> {
        let items = field.one_or_many(STATUSES_MAX, problems)?;
        let numbers: Vec<_> = items.iter().map(|item| item.number(STATUS_RANGE, problems)).collect();
        numbers.into_iter().map(|number| u16::try_from(number?).ok()).collect()
    }
}

/// Any other text; its reader checks the rest.
pub(in crate::profile) struct TextValue {
    /// A regular expression for editors; empty for any text.
    pub pattern: &'static str,
    pub words: &'static str,
}

impl TextValue {
    pub const fn of(words: &'static str) -> Self {
        Self { pattern: "", words }
    }

    fn schema_of_one(&self) -> Value {
        match self.pattern {
            "" => json!({ "type": "string", "minLength": 1 }),
            pattern => json!({ "type": "string", "pattern": pattern }),
        }
    }
}

impl ValueKind for TextValue {
    fn schema(&self) -> Value {
        self.schema_of_one()
    }

    fn describe_type(&self) -> String {
        self.words.to_owned()
    }
}

/// Names that TLS agrees on (RFC 7301).
pub(super) const ALPN_NAMES: TextListValue = TextListValue {
    each: TextValue { pattern: "", words: "a protocol's name, at most 255 bytes" },
    max: defaults::ALPN_NAMES_MAX,
    single: SingleText::Allowed,
};

/// The name of a PEM file.
pub(in crate::profile) const PEM_FILE: TextValue = TextValue::of("file, PEM");
pub(in crate::profile) const PEM_OR_DER_FILE: TextValue = TextValue::of("file, PEM or DER");

/// A name that a certificate can carry.
pub(in crate::profile) const NAME_IN_CERTIFICATE: TextValue =
    TextValue { pattern: "^[!-~]{1,253}$", words: "a name as the certificate has it" };

/// Several texts.
pub(in crate::profile) struct TextListValue {
    pub each: TextValue,
    pub max: usize,
    /// Whether a single text counts as a list of one.
    pub single: SingleText,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::profile) enum SingleText {
    Allowed,
    Refused,
}

impl ValueKind for TextListValue {
    fn schema(&self) -> Value {
        let one = self.each.schema_of_one();
        let many = json!({ "type": "array", "items": one, "minItems": 1, "maxItems": self.max });
        match self.single {
            SingleText::Allowed => json!({ "anyOf": [one, many] }),
            SingleText::Refused => many,
        }
    }

    fn describe_type(&self) -> String {
        let count = if self.single == SingleText::Allowed { "one or a list" } else { "a list" };
        format!("{count} of at most {}: {}", self.max, self.each.words)
    }
}

/// An address, or a map with an address and the options of its scheme.
pub(in crate::profile) struct AddressValue {
    pub pattern: &'static str,
    pub words: &'static str,
    pub options: &'static KeyMap,
    /// How many, if a list of addresses is allowed.
    pub max: Option<usize>,
}

impl AddressValue {
    /// Only the address, as under `address` of the map.
    pub const fn plain(&self) -> TextValue {
        TextValue { pattern: self.pattern, words: self.words }
    }
}

impl ValueKind for AddressValue {
    fn schema(&self) -> Value {
        let one = json!({ "anyOf": [self.plain().schema(), crate::profile::schema::map(self.options)] });
        match self.max {
            None => one,
            Some(max) => {
                let many = json!({ "type": "array", "items": one, "minItems": 1, "maxItems": max });
                json!({ "anyOf": [one, many] })
            }
        }
    }

    fn describe_type(&self) -> String {
        match self.max {
            None => self.words.to_owned(),
            Some(max) => format!("one or a list of at most {max}: {}", self.words),
        }
    }

    fn map(&self) -> Option<&'static KeyMap> {
        Some(self.options)
    }
}

/// A file, or a map with the file and more options.
pub(in crate::profile) struct FileOrMap {
    pub file: TextValue,
    pub options: &'static KeyMap,
}

impl ValueKind for FileOrMap {
    fn schema(&self) -> Value {
        json!({ "anyOf": [self.file.schema(), crate::profile::schema::map(self.options)] })
    }

    fn describe_type(&self) -> String {
        self.file.describe_type()
    }

    fn map(&self) -> Option<&'static KeyMap> {
        Some(self.options)
    }
}

/// A map of keys of its own.
pub(in crate::profile) struct SubMap(pub &'static KeyMap);

impl ValueKind for SubMap {
    fn schema(&self) -> Value {
        crate::profile::schema::map(self.0)
    }

    fn describe_type(&self) -> String {
        "map".to_owned()
    }

    fn map(&self) -> Option<&'static KeyMap> {
        Some(self.0)
    }
}

/// A map from the operator's own names to services.
pub(in crate::profile) struct ServiceMap(pub &'static KeyMap);

impl ValueKind for ServiceMap {
    fn schema(&self) -> Value {
        json!({
            "type": "object",
            "minProperties": 1,
            "maxProperties": defaults::SERVICES_MAX,
            "propertyNames": { "pattern": "^[A-Za-z0-9._-]{1,255}$" },
            "additionalProperties": crate::profile::schema::or_null(crate::profile::schema::map(self.0)),
        })
    }

    fn describe_type(&self) -> String {
        "map: a service's name, 1 to 255 of `A-Za-z0-9._-`, and its keys".to_owned()
    }

    fn map(&self) -> Option<&'static KeyMap> {
        Some(self.0)
    }

    fn is_named(&self) -> bool {
        true
    }
}
