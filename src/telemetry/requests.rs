//! How many requests each service has answered, by the class of the answer.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::profile::ServiceName;

/// Answers of one service, by the first digit of their status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestCounts([u64; CLASSES.len()]);

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl RequestCounts {
    /// The classes for which there were answers.
    pub fn by_class(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CLASSES.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }
}

/// The counts of all services. Requests that belong to no service are not counted.
#[derive(Debug, Default)]
pub struct RequestCounters(Mutex<HashMap<ServiceName, RequestCounts>>);

impl RequestCounters {
    pub fn add(&self, service: &ServiceName, status: u16) {
        let Some(class) = usize::from(status / 100).checked_sub(1).filter(|class| *class < CLASSES.len())
        else {
            return;
        };
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.get_mut(service) {
            Some(counts) => counts.0[class] += 1,
            None => state.entry(service.clone()).or_default().0[class] += 1,
        }
    }

    pub fn of(&self, service: &ServiceName) -> RequestCounts {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.get(service).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_their_first_digit() {
        let (state, orders) = (RequestCounters::default(), ServiceName::parse("orders").expect("a name"));
        [101, 200, 204, 404, 599, 600, 99].iter().for_each(|status| state.add(&orders, *status));
        let counts: Vec<_> = state.of(&orders).by_class().collect();
        assert_eq!(counts, [("1xx", 1), ("2xx", 2), ("4xx", 1), ("5xx", 1)]);
    }
}
