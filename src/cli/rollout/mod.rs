//! `segmill rollout`: looks after the releases of a service on Cloud Run.

mod args;
mod report;
mod serve;

use std::process::ExitCode;

pub use self::args::RolloutArgs;
use self::args::{Command, Plan};
use super::serve::log_json;
use crate::rollout::decide::Rollback;
use crate::rollout::steward::{Asked, Done, Error, Steward, now};
use crate::rollout::watch::End;
use crate::telemetry;

/// Exit codes.
const REFUSED: u8 = 3;
const TAKEN_BACK: u8 = 4;
const UNDECIDED: u8 = 5;

/// Does what is asked for. 0: done, or so already.
pub async fn rollout(plan: Plan) -> ExitCode {
    let _telemetry = match telemetry::init(log_json(plan.log_format), "info", None) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("segmill: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Command::Serve(args) = plan.command {
        return serve::serve(plan.steward, args).await;
    }
    match run(plan.steward, plan.command).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("segmill: {error}");
            ExitCode::from(match &error {
                Error::Refused(refusal) if refusal.is_undecided() => UNDECIDED,
                Error::Refused(_) => REFUSED,
                Error::Prometheus(_) => UNDECIDED,
                Error::Run(_) | Error::Contended(_) => 1,
            })
        }
    }
}

async fn run(steward: Steward, command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Status { json } => {
            let status = report::status(&steward, now()).await?;
            print!("{}", if json { format!("{:#}\n", status.json()) } else { status.text() });
        }
        Command::Promote { revision, percent, early, thaw } => {
            let asked = Asked { revision: revision.revision, percent, early, thaw };
            tell(&steward.promote(&asked).await?);
        }
        Command::Rollback { revision, to, reason } => {
            tell(&steward.roll_back(&Rollback { revision: revision.revision, to, reason }).await?);
        }
        // Has its own end.
        Command::Serve(_) => {}
        Command::Watch { revision, lasts, every } => {
            return Ok(match steward.watch(revision.revision.as_deref(), lasts, every).await? {
                End::Well { segments } => {
                    println!("it does well: {segments} segments");
                    ExitCode::SUCCESS
                }
                End::TakenBack(reason) => {
                    println!("taken back: {reason}");
                    ExitCode::from(TAKEN_BACK)
                }
                End::Undecided(why) => {
                    println!("undecided: {why}");
                    ExitCode::from(UNDECIDED)
                }
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(done: &Done) {
    let shares: Vec<_> = done.shares.iter().map(|(revision, percent)| format!("{revision} {percent} %")).collect();
    println!("{}: {}", if done.changed { "changed" } else { "nothing to change" }, shares.join(", "));
}
