//! The command line: reads it, builds what it asks for, runs that. Exit codes are each command's own; a wrong command
//! line or environment is always [`USAGE`](crate::config::USAGE).

mod doctor;
mod health;
mod push;
mod rollout;
mod serve;
mod worker;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::allocator;
use crate::config::{Config, ServeArgs, USAGE};

/// Live video in over a WebSocket, exact transcoded segments out, in order, each with a receipt.
#[derive(Debug, Parser)]
#[command(name = "segmill", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service
    Serve(Box<ServeArgs>),
    /// Stream a file through a service and keep what comes back as HLS
    Push(push::PushArgs),
    /// Look after the releases of a service on Cloud Run
    Rollout(Box<rollout::RolloutArgs>),
    /// Examine this machine: versions, codecs, sandbox, limits
    Doctor(Box<doctor::DoctorArgs>),
    /// Ask a running service whether it is alive
    Health(health::HealthArgs),
    /// One worker process; started by the service
    #[command(hide = true)]
    Worker(worker::WorkerArgs),
}

/// The whole program.
pub fn run() -> ExitCode {
    let command = match CommandLine::try_parse() {
        Ok(line) => line.command,
        Err(error) => {
            // Nothing is left to tell it to if stderr is gone.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    match command {
        Command::Serve(args) => match Config::new(*args, &environment) {
            Ok(config) => {
                allocator::give_back_soon();
                block_on(serve::serve(config, environment))
            }
            Err(error) => usage(&error),
        },
        Command::Push(args) => match args.check(environment) {
            Ok(plan) => block_on(push::push(plan)),
            Err(error) => usage(&error),
        },
        Command::Rollout(args) => match args.check(&environment) {
            Ok(plan) => block_on(rollout::rollout(plan)),
            Err(error) => usage(&error),
        },
        Command::Doctor(args) => match args.check(environment) {
            Ok(examination) => block_on(doctor::doctor(examination)),
            Err(error) => usage(&error),
        },
        Command::Health(args) => health::run(args),
        Command::Worker(args) => worker::run(args),
    }
}

fn usage(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("segmill: {error}");
    ExitCode::from(USAGE)
}

fn block_on(command: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(command);
            // A read of stdin can't be cancelled; it must not hold the process.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("segmill: the runtime can't be started: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
