//! Every key of a profile, each in one place: its name, purpose, type, range and default. Reading, the JSON
//! Schema and the manual's reference page are all made from these tables. What a value means together with
//! others is decided elsewhere (`cross_checks`, `resolve`).

mod accepts;
mod auth;
mod backends;
mod gateway;
mod guards;
mod links;
mod rates;
mod reach;
mod revoked;
mod values;

use super::{
    problem::{ValueProblem, quote_for_problem},
    spelling::{listed, nearest},
};

pub(super) use accepts::*;
pub(super) use auth::*;
pub(super) use backends::*;
pub(super) use gateway::*;
pub(super) use guards::*;
pub(super) use links::*;
pub(super) use rates::throughput;
pub(super) use reach::*;
pub(super) use revoked::*;
pub(super) use values::ValueKind;

/// A key of a profile; `V` defines its values and how they are read.
pub(super) struct ProfileKey<V> {
    pub name: &'static str,
    /// Its purpose, in one or two sentences.
    pub about: &'static str,
    /// A value for the manual; empty if the default says enough.
    pub example: &'static str,
    pub value: V,
}

/// A key of any type, as used by the schema and the manual.
pub(super) trait AnyKey: Sync {
    fn name(&self) -> &'static str;
    fn about(&self) -> &'static str;
    fn example(&self) -> &'static str;
    fn value(&self) -> &dyn ValueKind;
}

impl<V: ValueKind + Sync> AnyKey for ProfileKey<V> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn example(&self) -> &'static str {
        self.example
    }

    fn value(&self) -> &dyn ValueKind {
        &self.value
    }
}

/// Keys that are used together in more than one map.
pub(super) type KeyGroup = &'static [&'static dyn AnyKey];

/// The keys of one kind of map.
pub(super) struct KeyMap {
    pub about: &'static str,
    pub groups: &'static [KeyGroup],
}

impl KeyMap {
    pub fn keys(&self) -> impl Iterator<Item = &'static dyn AnyKey> {
        self.groups.iter().flat_map(|group| group.iter().copied())
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.keys().map(AnyKey::name).collect()
    }

    /// Why `key` is refused, if it is.
    pub fn fault(&self, key: &str) -> Option<ValueProblem> {
        let known = self.names();
        if known.contains(&key) {
            return None;
        }
        let what = format!("there is no key `{}` here", quote_for_problem(key));
        Some(match nearest(key, &known) {
            Some(meant) => ValueProblem::new(what, format!("did you mean `{meant}`?")),
            None => ValueProblem::new(what, format!("known are {}", listed(&known))),
        })
    }

    /// The known key that an unknown one probably means.
    pub fn meant(&self, key: &str) -> Option<&'static str> {
        let known = self.names();
        if known.contains(&key) { None } else { nearest(key, &known) }
    }
}
