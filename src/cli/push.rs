//! `segmill push`: streams a file, or stdin, through a service and keeps what comes back as HLS.

mod client;
mod faststart;
mod hls;
mod order;
mod output;
mod progress;
mod report;
mod source;
mod store;
mod token;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use axum::http::Uri;
use clap::Args;

use self::token::Token;
use super::serve::serve_embedded;
use crate::config::{Config, ConfigError};
use crate::protocol::{Done, Mode, Output as OutputRequest, Start};
use crate::telemetry;

/// The wait after the first connection that failed.
const FIRST_WAIT: Duration = Duration::from_millis(500);

const EXIT_CODES: &str = "\
Exit codes:
  0   all segments are there
  1   the service failed or broke the protocol, or a file could not be read or written
  3   the service refused the input (close codes 1008, and 4400 to 4499)
  4   no connection, or it was lost and could not be made again
  5   done, but some segments failed
  6   the service does not let this client in: its token, or where it comes from
  64  wrong command line or environment";

/// `segmill push`'s flags.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct PushArgs {
    /// MP4, WebM/Matroska or MPEG-TS; - is stdin. An MP4 with its index last is sent index first
    file: PathBuf,

    /// The service, ws://HOST[:PORT][/v1/stream]; of several (again, or separated by commas) the next is taken when a
    /// connection ends early. Without it one runs inside this process, set by SEGMILL_* variables
    #[arg(long, value_name = "URL", value_delimiter = ',', value_parser = service_url)]
    to: Vec<String>,

    /// What the service asks for; @FILE is read again for each connection. It is sent in the clear, as all is over ws
    #[arg(long, env = "SEGMILL_TOKEN", value_name = "TOKEN|@FILE", hide_env_values = true, value_parser = token)]
    token: Option<Token>,

    /// Connections in a row that may fail without a segment before it is given up; 0: the first that ends early
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1000))]
    retries: u32,

    /// Where to keep what comes back: DIR/master.m3u8 and a folder an output; without it it is checked and dropped
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// What to make, as in the start message's outputs: JSON, or @FILE that holds it; without it, the auto ladder
    #[arg(long, value_name = "JSON|@FILE")]
    outputs: Option<String>,

    /// Target length of a segment [default: the service's]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(200..=30_000))]
    segment_ms: Option<u32>,

    /// A live stream: each segment has a deadline, and a track that lags behind another is waited for only 3 s of media
    #[arg(long)]
    live: bool,

    /// With --live: how long after it is complete a segment is wanted; one that would come later is made of less, as its
    /// receipt says [default: twice the segment's length]
    #[arg(long, value_name = "MS", requires = "live", value_parser = clap::value_parser!(u32).range(1..=600_000))]
    deadline_ms: Option<u32>,

    /// Send as fast as it plays: an MP4 at its average rate, anything else never ahead of the media time that came back
    #[arg(long)]
    real_time: bool,

    /// One JSON object a line on stdout: each message of the service, each header, and a summary
    #[arg(long)]
    json: bool,
}

/// What to push, where to, checked.
pub struct Plan {
    file: PathBuf,
    service: Target,
    out: Option<PathBuf>,
    token: Option<Token>,
    start: Start,
    patience: client::Patience,
    real_time: bool,
    json: bool,
}

enum Target {
    Urls(Vec<String>),
    /// With what its workers may see of the environment.
    Embedded(Box<Config>, Vec<(OsString, OsString)>),
}

impl PushArgs {
    /// Checks all that can be wrong before anything is opened.
    pub fn check(self, mut environment: Vec<(OsString, OsString)>) -> Result<Plan, ConfigError> {
        // The service's settings are all others.
        environment.retain(|(name, _)| name != "SEGMILL_TOKEN");
        let outputs = self.outputs.as_deref().map(requested).transpose().map_err(ConfigError::Value)?;
        let service = match self.to {
            urls if !urls.is_empty() => Target::Urls(urls),
            _ => {
                let mut config = Config::embedded(&environment)?;
                if !environment.iter().any(|(name, _)| name == "SEGMILL_LOG") {
                    // The receipts tell the rest.
                    config.log.filter = "error".to_owned();
                }
                Target::Embedded(Box::new(config), environment)
            }
        };
        let mode = if self.live { Mode::Live } else { Mode::File };
        let (segment_ms, deadline_ms) = (self.segment_ms, self.deadline_ms);
        let start = Start { mode, segment_ms, deadline_ms, outputs, ..Start::default() };
        let patience = client::Patience { tries: self.retries, first: FIRST_WAIT };
        Ok(Plan {
            file: self.file,
            service,
            out: self.out,
            token: self.token,
            start,
            patience,
            real_time: self.real_time,
            json: self.json,
        })
    }
}

fn token(text: &str) -> Result<Token, std::convert::Infallible> {
    Ok(Token::of(text))
}

fn requested(outputs: &str) -> Result<Vec<OutputRequest>, String> {
    let text = match outputs.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(|error| format!("--outputs: {path}: {error}"))?,
        None => outputs.to_owned(),
    };
    serde_json::from_str(&text).map_err(|error| format!("--outputs: {error}"))
}

/// The address with its path, where that was left out.
fn service_url(text: &str) -> Result<String, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
    match uri.scheme_str() {
        Some("ws") if uri.host().is_some_and(|host| !host.is_empty()) => {}
        Some("wss") => return Err("wss is not built in: use a proxy that speaks TLS".to_owned()),
        _ => return Err("must be ws://HOST[:PORT][/PATH]".to_owned()),
    }
    let bare = uri.path() == "/" && uri.query().is_none();
    Ok(if bare { format!("{}/v1/stream", text.trim_end_matches('/')) } else { text.to_owned() })
}

/// Why a push ended early.
#[derive(Debug, thiserror::Error)]
enum PushError {
    #[error("{file}: {source}", file = .file.display())]
    Input { file: PathBuf, source: std::io::Error },
    #[error("{directory}: {source}", directory = .directory.display())]
    Directory { directory: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Telemetry(#[from] telemetry::Error),
    #[error(transparent)]
    Service(#[from] crate::server::service::StartError),
    #[error(transparent)]
    Session(#[from] client::Error),
}

/// Runs the session; the exit code is as `--help` says.
pub async fn push(plan: Plan) -> ExitCode {
    match run(plan).await {
        Ok(done) if done.failed > 0 => ExitCode::from(5),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("segmill: {error}");
            exit_code(&error)
        }
    }
}

async fn run(plan: Plan) -> Result<Done, PushError> {
    let source = source::Source::open(&plan.file)
        .await
        .map_err(|source| PushError::Input { file: plan.file.clone(), source })?;
    let store = match plan.out {
        Some(directory) => {
            let store = store::Store::new(directory.clone()).await;
            Some(store.map_err(|source| PushError::Directory { directory, source })?)
        }
        None => None,
    };
    let (urls, service) = match plan.service {
        Target::Urls(urls) => (urls, None),
        Target::Embedded(mut config, environment) => {
            let logs = telemetry::init(false, &config.log.filter, None)?;
            // After `done` nothing is in flight; after anything else it is not wanted.
            config.sessions.drain = config.sessions.drain.min(Duration::from_secs(2));
            let (address, service) = serve_embedded(*config, environment).await?;
            (vec![format!("ws://{address}/v1/stream")], Some((service, logs)))
        }
    };
    let mut output = output::Output::new(store, source.length(), plan.json);
    let services = client::Services { urls: &urls, token: plan.token.as_ref() };
    let result = client::run(services, plan.start, source, plan.real_time, plan.patience, &mut output).await;
    let finished = output.finish(result.as_ref().ok()).await.map_err(client::Error::Output);
    if let Some((service, logs)) = service {
        service.stop().await;
        logs.shutdown();
    }
    let done = result?;
    finished?;
    Ok(done)
}

fn exit_code(error: &PushError) -> ExitCode {
    let code = match error {
        PushError::Session(client::Error::Refused { close: 1008 | 4400..=4499, .. }) => 3,
        PushError::Session(client::Error::Denied { .. }) => 6,
        PushError::Session(
            client::Error::Connect { .. }
            | client::Error::Lost(_)
            | client::Error::Full { .. }
            | client::Error::Moved(_),
        ) => 4,
        _ => 1,
    };
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_the_path_that_was_left_out() {
        for (text, url) in [
            ("ws://localhost:8080", "ws://localhost:8080/v1/stream"),
            ("ws://localhost/", "ws://localhost/v1/stream"),
            ("ws://[::1]:9/v1/stream", "ws://[::1]:9/v1/stream"),
            ("ws://host/other?x=1", "ws://host/other?x=1"),
        ] {
            assert_eq!(service_url(text).as_deref(), Ok(url));
        }
        for text in ["localhost:8080", "http://localhost", "wss://localhost", "ws://", ""] {
            assert!(service_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn outputs_are_checked_before_anything_is_opened() {
        let outputs = requested(r#"[{"name":"a","video":{"codec":"h264","height":360}}]"#).unwrap();
        assert_eq!(outputs.len(), 1);
        assert!(requested(r#"[{"name":"a","vidoe":{}}]"#).unwrap_err().contains("vidoe"));
        assert!(requested("@/there/is/none").unwrap_err().starts_with("--outputs: /there/is/none"));
    }
}
