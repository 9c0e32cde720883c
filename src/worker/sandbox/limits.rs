//! What a worker may use of the machine, by setrlimit(2). All but the CPU's are final: hard limit and soft limit are one.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Pipes, sockets of pipelines' own and the three that are inherited; a job of four rungs has 24 open at most.
const FILES: u64 = 128;

/// The limits that are not the same for every service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of address space: memory, libraries and the stacks of threads.
    pub address_space: u64,
    /// CPU time that one job may take, all threads together.
    pub cpu: Duration,
}

impl Limits {
    pub(super) fn set(&self) -> Result<(), String> {
        set(Resource::Core, 0)?;
        set(Resource::Fsize, 0)?;
        set(Resource::Nofile, FILES)?;
        set(Resource::As, self.address_space)?;
        self.begin_job()
    }

    /// Gives the next job its time: past it comes SIGXCPU. The clocks of the pool are what holds a worker that has fallen
    /// to a stranger, and could give itself more; this one ends a job whose pool does not look any more.
    pub fn begin_job(&self) -> Result<(), String> {
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime).tv_sec;
        let end = u64::try_from(used).unwrap_or(0).saturating_add(self.cpu.as_secs().max(1)).saturating_add(1);
        let maximum = getrlimit(Resource::Cpu).maximum;
        let current = Some(maximum.map_or(end, |maximum| end.min(maximum)));
        setrlimit(Resource::Cpu, Rlimit { current, maximum }).map_err(|error| format!("CPU time: {error}"))
    }
}

/// Sets both limits, lower than asked for where this process may have no more.
fn set(resource: Resource, limit: u64) -> Result<(), String> {
    let limit = getrlimit(resource).maximum.map_or(limit, |maximum| limit.min(maximum));
    setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })
        .map_err(|error| format!("{resource:?}: {error}"))
}
