//! `segmill worker`: the hidden command by which the pool starts its children.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::worker::sandbox::Limits;

/// `segmill worker`'s flags.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// Does the poison job in this file, in place of the pool's: for a debugger
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,

    /// Goes into the sandbox, with this many bytes of address space
    #[arg(long, value_name = "BYTES", requires = "cpu")]
    memory: Option<u64>,

    /// And this much CPU time for each job
    #[arg(long, value_name = "SECONDS", requires = "memory")]
    cpu: Option<u64>,
}

/// One worker, until its pool closes the socket, or one job.
pub fn run(args: WorkerArgs) -> ExitCode {
    let limits = args.memory.zip(args.cpu);
    let limits = limits.map(|(address_space, cpu)| Limits { address_space, cpu: Duration::from_secs(cpu) });
    match args.replay {
        Some(file) => crate::worker::replay(&file),
        None => crate::worker::run(limits),
    }
}
