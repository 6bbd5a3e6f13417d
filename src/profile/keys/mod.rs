//! Every key that a profile takes, each in one place: its name, what it is for, its type, range and
//! default. Reading, the JSON Schema and the reference page of the manual are all made from these
//! tables. What a value means beside others is decided elsewhere (`cross`, `resolve`).

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

/// One key of a profile; `V` says what its value may be and how it is read.
pub(super) struct ProfileKey<V> {
    pub name: &'static str,
    /// What it is for, in one or two sentences.
    pub about: &'static str,
    /// A value for the manual; empty where the default says enough.
    pub example: &'static str,
    pub value: V,
}

/// A key of any type, as the schema and the manual see it.
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

/// Keys that stand together in more than one map.
pub(super) type KeyGroup = &'static [&'static dyn AnyKey];

/// The keys that one kind of map takes.
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

    /// Why `key` is not taken, if it is not.
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

    /// The known key that an unknown one probably stands for.
    pub fn meant(&self, key: &str) -> Option<&'static str> {
        let known = self.names();
        if known.contains(&key) { None } else { nearest(key, &known) }
    }
}
