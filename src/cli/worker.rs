//! `segmill worker`: the hidden command by which the pool starts its children.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

/// `segmill worker`'s flags.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// Does the poison job in this file, in place of the pool's: for a debugger
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
}

/// One worker, until its pool closes the socket, or one job.
pub fn run(args: WorkerArgs) -> ExitCode {
    match args.replay {
        Some(file) => crate::worker::replay(&file),
        None => crate::worker::run(),
    }
}
