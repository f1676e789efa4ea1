//! The process as the system sees it, under the names that every Prometheus client library uses.

use procfs::process::{LimitValue, Process};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// Reads `/proc` when it is asked.
#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        // Where /proc can't be read these are missing, and all others are there.
        let Ok(process) = Process::myself() else {
            return Ok(());
        };
        let mut write =
            |name: &str, help: &str, metric: &dyn Written| metric.write(&mut encoder, name, help);
        if let Ok(stat) = process.stat() {
            let ticks = stat.utime + stat.stime;
            write(
                "process_cpu_seconds",
                "CPU time that the process has used",
                &ConstCounter::new(seconds(ticks)),
            )?;
            let resident = i64::try_from(stat.rss * procfs::page_size()).unwrap_or(i64::MAX);
            write(
                "process_resident_memory_bytes",
                "Memory of the process that is in RAM",
                &ConstGauge::new(resident),
            )?;
            if let Ok(booted_at) = procfs::boot_time_secs() {
                let started_at = f64::from(u32::try_from(booted_at).unwrap_or(u32::MAX));
                write(
                    "process_start_time_seconds",
                    "When the process started, in seconds since 1970",
                    &ConstGauge::new(started_at + seconds(stat.starttime)),
                )?;
            }
        }
        if let Ok(open) = process.fd_count() {
            let open = i64::try_from(open).unwrap_or(i64::MAX);
            write(
                "process_open_fds",
                "Open files, with sockets",
                &ConstGauge::new(open),
            )?;
        }
        if let Ok(limits) = process.limits()
            && let LimitValue::Value(max) = limits.max_open_files.soft_limit
        {
            let max = i64::try_from(max).unwrap_or(i64::MAX);
            write(
                "process_max_fds",
                "How many files may be open",
                &ConstGauge::new(max),
            )?;
        }
        Ok(())
    }
}

/// The system's ticks as seconds.
fn seconds(ticks: u64) -> f64 {
    let per_second = procfs::ticks_per_second().max(1);
    let whole = u32::try_from(ticks / per_second).unwrap_or(u32::MAX);
    let rest = u32::try_from(ticks % per_second).unwrap_or_default();
    f64::from(whole) + f64::from(rest) / f64::from(u32::try_from(per_second).unwrap_or(1))
}

/// A metric that can be written under a name.
trait Written {
    fn write(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        help: &str,
    ) -> Result<(), std::fmt::Error>;
}

impl<M: EncodeMetric> Written for M {
    fn write(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        help: &str,
    ) -> Result<(), std::fmt::Error> {
        self.encode(encoder.encode_descriptor(name, help, None, self.metric_type())?)
    }
}
