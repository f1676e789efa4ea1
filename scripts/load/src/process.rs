//! What a process of this machine uses, from `/proc`.

use std::{fs, time::Duration};

use anyhow::Context;

/// Names a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId(pub u32);

/// The memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All that is in memory, programs and files that it maps included.
    pub resident: u64,
    /// What it allocated itself.
    pub anonymous: u64,
    /// The most that was ever resident.
    pub peak: u64,
}

impl ProcessId {
    /// The process that asks.
    pub fn own() -> Self {
        Self(std::process::id())
    }

    /// Its memory now.
    pub fn memory(self) -> anyhow::Result<Memory> {
        memory_in(&self.read("status")?)
    }

    /// The time that processors have spent on it so far, the kernel's on its behalf included.
    pub fn processor_time(self) -> anyhow::Result<Duration> {
        processor_time_in(&self.read("stat")?)
    }

    /// How many files and sockets it has open.
    pub fn open_files(self) -> anyhow::Result<usize> {
        let folder = format!("/proc/{}/fd", self.0);
        Ok(fs::read_dir(&folder).context(folder)?.count())
    }

    /// Makes the most that was ever resident what is resident now.
    pub fn forget_peak(self) -> anyhow::Result<()> {
        // See proc_pid_clear_refs(5).
        fs::write(format!("/proc/{}/clear_refs", self.0), "5").context("can't reset the peak")
    }

    fn read(self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.0);
        fs::read_to_string(&path).with_context(|| format!("can't read {path}"))
    }
}

/// The time that the machine's processors were busy with anything since it was switched on. Time that
/// the host gave to others counts as busy.
pub fn busy_time() -> anyhow::Result<Duration> {
    busy_time_in(&fs::read_to_string("/proc/stat").context("can't read /proc/stat")?)
}

fn memory_in(status: &str) -> anyhow::Result<Memory> {
    let kibibytes = |name: &str| -> anyhow::Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
        let number = number.with_context(|| format!("no {name} among a process's figures"))?;
        Ok(number.trim().parse::<u64>()? * 1_024)
    };
    Ok(Memory {
        resident: kibibytes("VmRSS:")?,
        anonymous: kibibytes("RssAnon:")?,
        peak: kibibytes("VmHWM:")?,
    })
}

fn processor_time_in(stat: &str) -> anyhow::Result<Duration> {
    // The program's name is in brackets and may hold anything.
    let (_, rest) = stat.rsplit_once(") ").context("no name of a process")?;
    let mut fields = rest.split(' ').skip(11);
    let mut ticks = || -> anyhow::Result<u64> {
        let field = fields.next().context("no times of a process")?;
        Ok(field.parse()?)
    };
    let (user, system) = (ticks()?, ticks()?);
    Ok(from_ticks(user + system))
}

fn busy_time_in(stat: &str) -> anyhow::Result<Duration> {
    let line = stat.strip_prefix("cpu ").and_then(|it| it.lines().next());
    let fields = line.context("no times of the processors")?;
    let fields: Result<Vec<u64>, _> = fields.split_whitespace().map(str::parse).collect();
    let [
        user,
        nice,
        system,
        _idle,
        _waiting,
        irq,
        soft_irq,
        steal,
        ..,
    ] = fields?[..]
    else {
        anyhow::bail!("too few times of the processors");
    };
    Ok(from_ticks(user + nice + system + irq + soft_irq + steal))
}

fn from_ticks(ticks: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_process_are_read() {
        let status = "Name:\tx\nVmHWM:\t   20 kB\nVmRSS:\t   10 kB\nRssAnon:\t    7 kB\n";
        let memory = memory_in(status).unwrap();
        let expected = Memory {
            resident: 10_240,
            anonymous: 7_168,
            peak: 20_480,
        };
        assert_eq!(memory, expected);
        assert!(memory_in("VmRSS:\t10 kB\n").is_err());

        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0";
        assert_eq!(processor_time_in(stat).unwrap(), from_ticks(200));
        assert_eq!(
            busy_time_in("cpu  1 2 4 800 1600 8 16 32 0 0\ncpu0 9\n").unwrap(),
            from_ticks(63)
        );
    }

    #[test]
    fn this_process_has_figures() {
        let own = ProcessId::own();
        let memory = own.memory().unwrap();
        assert!(memory.anonymous > 0 && memory.anonymous <= memory.resident);
        assert!(memory.resident <= memory.peak);
        assert!(own.open_files().unwrap() > 0);
        own.processor_time().unwrap();
        busy_time().unwrap();
    }
}
