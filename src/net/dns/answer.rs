//! Reads a name server's message: records, or another name to ask for.

use std::time::Duration;

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, Record},
};

use super::{ALIASES_MAX, DnsError};

/// Records of one type.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FoundRecords<T> {
    pub records: Vec<T>,
    /// The shortest time to live on the way to them; if there are none, the longest possible.
    pub ttl: Duration,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer<T> {
    Records(FoundRecords<T>),
    /// The name is an alias of another name, whose records the message does not contain.
    Alias(Name, Duration),
}

/// Reads the answer to a query, following aliases as far as the message contains them.
pub(super) fn read_answer<T>(
    message: &Message,
    query: &Query,
    pick: impl Fn(&RData) -> Option<T>,
) -> Result<Answer<T>, DnsError> {
    if message.metadata.response_code == ResponseCode::NXDomain {
        return Err(DnsError::NoName);
    }
    let (mut name, mut ttl) = (&query.name, Duration::MAX);
    for step in 0..ALIASES_MAX {
        let of_name = || message.answers.iter().filter(|record| record.name == *name);
        let records: Vec<_> =
            of_name().filter_map(|record| Some((pick(&record.data)?, time_to_live(record)))).collect();
        if !records.is_empty() {
            let least = records.iter().map(|(_, ttl)| *ttl).min().unwrap_or(ttl);
            let records = records.into_iter().map(|(record, _)| record).collect();
            return Ok(Answer::Records(FoundRecords { records, ttl: ttl.min(least) }));
        }
        let alias = of_name().find_map(|record| match &record.data {
            RData::CNAME(other) => Some((&other.0, time_to_live(record))),
            _ => None,
        });
        match alias {
            Some((other, holds)) => (name, ttl) = (other, ttl.min(holds)),
            None if step == 0 => {
                return Ok(Answer::Records(FoundRecords { records: Vec::new(), ttl: Duration::MAX }));
            }
            None => return Ok(Answer::Alias(name.clone(), ttl)),
        }
    }
    Err(DnsError::LongChain)
}

/// A time to live with its first bit set counts as zero (RFC 2181, section 8).
fn time_to_live(record: &Record) -> Duration {
    Duration::from_secs(i32::try_from(record.ttl).map_or(0, i32::unsigned_abs).into())
}
