//! `segmill rollout serve`: binds the port where alerts are pushed to, and ends on SIGTERM or SIGINT.

use std::io;
use std::process::ExitCode;

use super::args::ServeArgs;
use crate::cli::serve::Signals;
use crate::rollout::steward::Steward;
use crate::server::alerts::{Alerts, Terms};

/// Serves until a signal, and exits with 0; 1 where it could not start. What is being taken back then is finished.
pub async fn serve(steward: Steward, args: ServeArgs) -> ExitCode {
    match run(steward, args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "start failed");
            ExitCode::FAILURE
        }
    }
}

async fn run(steward: Steward, args: ServeArgs) -> io::Result<()> {
    let mut signals = Signals::new()?;
    let auth = args.auth();
    let listen = args.listen.ok_or_else(|| io::Error::other("there is no address to listen on"))?;
    let terms = Terms { account: args.account, every: args.every, advance: args.advance };
    let alerts = Alerts::start(listen, steward, &auth, terms).await?;
    tracing::info!(listen = %alerts.address, "ready");
    let signal = signals.next().await;
    tracing::info!(signal, "draining");
    alerts.stop().await;
    Ok(())
}
