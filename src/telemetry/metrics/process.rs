//! The standard Prometheus metrics about the process, from `/proc` (proc(5)).

use std::{
    fmt::Error,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};
use rustix::time::{ClockId, clock_gettime};

use super::{MetricFamily, NONE};
use crate::telemetry::snapshot::Snapshot;

/// The values from `/proc/self/stat`.
#[derive(Debug, Default, PartialEq)]
struct Usage {
    cpu_seconds: f64,
    threads: f64,
    started_seconds: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

pub fn encode(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let descriptors = &snapshot.descriptors;
    let mut gauges = vec![
        ("process_open_fds", "Open file descriptors.", descriptors.used as f64),
        ("process_max_fds", "The limit of open file descriptors.", descriptors.limit as f64),
    ];
    if let Some(usage) = read() {
        let cpu = ("process_cpu_seconds", "Processor time, of user and system.");
        let mut family = MetricFamily::begin(encoder, cpu, MetricType::Counter)?;
        family.seconds(usage.cpu_seconds)?;
        gauges.extend([
            ("process_resident_memory_bytes", "Resident memory.", usage.resident_bytes),
            ("process_virtual_memory_bytes", "Virtual memory.", usage.virtual_bytes),
            ("process_start_time_seconds", "When it began, in seconds since 1970.", usage.started_seconds),
            ("process_threads", "Threads.", usage.threads),
        ]);
    }
    for (name, help, value) in gauges {
        MetricFamily::begin(encoder, (name, help), MetricType::Gauge)?.gauge(&NONE, value)?;
    }
    Ok(())
}

fn read() -> Option<Usage> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // /proc/stat has it too, but a hardened service cannot read that.
    let up = clock_gettime(ClockId::Boottime);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let booted = now.as_secs_f64() - (up.tv_sec as f64 + up.tv_nsec as f64 / 1e9);
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    of_stat(&stat, ticks, rustix::param::page_size() as f64, booted)
}

/// Fields are counted from the state, the third one, since a program's name may contain anything
/// (proc_pid_stat(5)).
fn of_stat(stat: &str, ticks: f64, page: f64, booted: f64) -> Option<Usage> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<_> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some(Usage {
        cpu_seconds: (field(14)? + field(15)?) / ticks,
        threads: field(20)?,
        started_seconds: booted + field(22)? / ticks,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * page,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read_whatever_the_program_is_called() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 90 0 0 0 250 50 0 0 20 0 5 0 1000 4096000 100 1 2 3";
        let expected = Usage {
            cpu_seconds: 3.0,
            threads: 5.0,
            started_seconds: 1_000_010.0,
            virtual_bytes: 4_096_000.0,
            resident_bytes: 409_600.0,
        };
        assert_eq!(of_stat(stat, 100.0, 4096.0, 1_000_000.0), Some(expected));
        assert!(read().is_some_and(|usage| usage.resident_bytes > 0.0 && usage.threads >= 1.0));
    }
}
