//! What this process and its workers use of the machine, as the kernel counts it for their cgroup.
//!
//! cgroup v2 or v1, whichever is there; without either (gVisor, a host without limits) what /proc says.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Reads the counters. Every answer is None where the kernel doesn't tell.
pub struct Probe {
    proc: PathBuf,
    /// The process's cgroup (v2), or the directory that holds the v1 controllers.
    cgroup: PathBuf,
    last: Mutex<Option<Sample>>,
}

#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    cpu: Duration,
    ratio: f64,
}

/// Two looks at the CPU counter that are closer than this would say little.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(500);

impl Probe {
    /// Of this process.
    pub fn new() -> Self {
        let proc = PathBuf::from("/proc");
        let root = Path::new("/sys/fs/cgroup");
        let own = fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).map(|path| root.join(path));
        let cgroup = own.filter(|path| path.join("memory.current").exists()).unwrap_or_else(|| root.to_owned());
        Self::at(proc, cgroup)
    }

    fn at(proc: PathBuf, cgroup: PathBuf) -> Self {
        let probe = Self { proc, cgroup, last: Mutex::new(None) };
        probe.cpu_utilization(Instant::now());
        probe
    }

    /// Bytes that are in use and can't be given back at once: the working set, by which Kubernetes evicts.
    pub fn memory(&self) -> Option<u64> {
        let v2 = self.number("memory.current").map(|used| (used, "memory.stat", "inactive_file"));
        let v1 = || {
            let used = self.number("memory/memory.usage_in_bytes")?;
            Some((used, "memory/memory.stat", "total_inactive_file"))
        };
        if let Some((used, stat, key)) = v2.or_else(v1) {
            return Some(used.saturating_sub(self.keyed(stat, key).unwrap_or(0)));
        }
        self.proc_kib("self/status", "VmRSS:")
    }

    /// Bytes past which the process is killed: the cgroup's limit, else the machine's memory.
    pub fn memory_limit(&self) -> Option<u64> {
        let machine = self.proc_kib("meminfo", "MemTotal:");
        let limit = self.number("memory.max").or_else(|| self.number("memory/memory.limit_in_bytes"));
        match (limit, machine) {
            (Some(limit), Some(machine)) => Some(limit.min(machine)),
            (limit, machine) => limit.or(machine),
        }
    }

    /// Share of the CPUs that may be used which was used since the look before, 0 to 1.
    pub fn cpu_utilization(&self, now: Instant) -> Option<f64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sample) = *last
            && now.saturating_duration_since(sample.at) < SHORTEST_INTERVAL
        {
            return Some(sample.ratio);
        }
        let cpu = self.cpu_time()?;
        let ratio = last.map_or(0.0, |sample| {
            let used = cpu.saturating_sub(sample.cpu).as_secs_f64();
            let elapsed = now.saturating_duration_since(sample.at).as_secs_f64();
            (used / (elapsed * self.cpus())).clamp(0.0, 1.0)
        });
        *last = Some(Sample { at: now, cpu, ratio });
        Some(ratio)
    }

    fn cpu_time(&self) -> Option<Duration> {
        let v2 = self.keyed("cpu.stat", "usage_usec").map(Duration::from_micros);
        let v1 = || self.number("cpuacct/cpuacct.usage").map(Duration::from_nanos);
        v2.or_else(v1).or_else(|| self.process_cpu_time())
    }

    /// utime, stime, and those of children that have ended (proc(5)), in ticks of 10 ms.
    fn process_cpu_time(&self) -> Option<Duration> {
        let stat = fs::read_to_string(self.proc.join("self/stat")).ok()?;
        let (_, after_name) = stat.rsplit_once(')')?;
        let ticks = after_name.split_whitespace().skip(11).take(4).map(|field| field.parse::<u64>().unwrap_or(0));
        Some(Duration::from_millis(ticks.fold(0_u64, u64::saturating_add).saturating_mul(10)))
    }

    /// The quota in CPUs, else the CPUs that the process may run on.
    fn cpus(&self) -> f64 {
        let v2 = fs::read_to_string(self.cgroup.join("cpu.max")).ok();
        let quota = v2.as_deref().and_then(|text| text.trim().split_once(' ')).and_then(|(quota, period)| {
            let (quota, period) = (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?);
            (quota > 0.0 && period > 0.0).then_some(quota / period)
        });
        quota.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from) as f64)
    }

    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.cgroup.join(file)).ok()?.trim().parse().ok()
    }

    fn keyed(&self, file: &str, key: &str) -> Option<u64> {
        let text = fs::read_to_string(self.cgroup.join(file)).ok()?;
        text.lines().filter_map(|line| line.split_once(' ')).find(|(name, _)| *name == key)?.1.trim().parse().ok()
    }

    fn proc_kib(&self, file: &str, key: &str) -> Option<u64> {
        let text = fs::read_to_string(self.proc.join(file)).ok()?;
        let value = text.lines().find_map(|line| line.strip_prefix(key))?;
        value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(files: &[(&str, &str)]) -> (tempfile::TempDir, Probe) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let probe = Probe::at(dir.path().join("proc"), dir.path().join("cgroup"));
        (dir, probe)
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:        1000 kB\n");

    #[test]
    fn cgroup_v2_gives_the_working_set_and_its_limit() {
        let stat = ("cgroup/memory.stat", "anon 1\ninactive_file 4096\n");
        let current = ("cgroup/memory.current", "65536\n");
        let (_dir, limited) = probe(&[MEMINFO, stat, current, ("cgroup/memory.max", "131072\n")]);
        assert_eq!((limited.memory(), limited.memory_limit()), (Some(61_440), Some(131_072)));
        let (_dir, open) = probe(&[MEMINFO, stat, current, ("cgroup/memory.max", "max\n")]);
        assert_eq!(open.memory_limit(), Some(1_024_000));
    }

    #[test]
    fn cgroup_v1_and_a_bare_proc_are_read_too() {
        let (_dir, v1) = probe(&[
            MEMINFO,
            ("cgroup/memory/memory.usage_in_bytes", "65536\n"),
            ("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        assert_eq!((v1.memory(), v1.memory_limit()), (Some(65_536), Some(1_024_000)));
        let (_dir, bare) = probe(&[("proc/self/status", "Name:\tsegmill\nVmRSS:\t   64 kB\n")]);
        assert_eq!((bare.memory(), bare.memory_limit()), (Some(65_536), None));
        let (_dir, nothing) = probe(&[]);
        assert_eq!((nothing.memory(), nothing.cpu_utilization(Instant::now())), (None, None));
    }

    #[test]
    fn cpu_time_is_measured_against_the_quota() {
        let (dir, probe) = probe(&[("cgroup/cpu.stat", "usage_usec 0\n"), ("cgroup/cpu.max", "150000 100000\n")]);
        let start = probe.last.lock().unwrap().unwrap().at;
        fs::write(dir.path().join("cgroup/cpu.stat"), "usage_usec 1500000\n").unwrap();
        assert_eq!(probe.cpu_utilization(start + Duration::from_millis(100)), Some(0.0), "too soon: the last answer");
        assert_eq!(probe.cpu_utilization(start + Duration::from_secs(2)), Some(0.5));
    }

    #[test]
    fn a_process_without_a_cgroup_counts_its_own_ticks_and_its_childrens() {
        let (_dir, probe) = probe(&[("proc/self/stat", "7 (a) b) S 1 7 7 0 -1 4 1 2 3 4 100 50 25 25 20 0\n")]);
        assert_eq!(probe.cpu_time(), Some(Duration::from_secs(2)));
    }
}
