//! `segmill rollout`'s flags. Each is also an environment variable; a flag wins over it.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Uri;
use clap::{Args, Subcommand};

use crate::cloud::prometheus::Prometheus;
use crate::cloud::run::Run;
use crate::cloud::{Api, Tokens};
use crate::config::{
    Auth, ConfigError, LogFormat, ServiceName, Source, duration, http_url, listen, revision_name, service_name, source,
};
use crate::rollout::decide::Schedule;
use crate::rollout::rules;
use crate::rollout::steward::Steward;

const EXIT_CODES: &str = "\
Exit codes:
  0   done, or so already; watch: the canary does well
  1   Cloud Run does not answer, or not as it should
  3   refused: frozen, too early, bad, or not clear what the release is at
  4   watch: the canary was taken back
  5   it can't be judged: too few segments, both revisions bad, warnings, or Prometheus does not answer
  64  wrong command line or environment";

/// `segmill rollout`'s flags.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct RolloutArgs {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    common: Common,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// What the release is at, how it does, and what is frozen
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Give the canary the traffic of the next step, if it may have it
    Promote {
        #[command(flatten)]
        revision: Named,

        /// Its share of the traffic: that of a step [default: the next step's]
        #[arg(long, env = "SEGMILL_ROLLOUT_PERCENT", value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=100))]
        percent: Option<u32>,

        /// Before the step is over, or past one
        #[arg(long)]
        early: bool,

        /// Although it was taken back: forget that
        #[arg(long)]
        thaw: bool,
    },
    /// Watch the canary for some time, and take it back if it is bad
    Watch {
        #[command(flatten)]
        revision: Named,

        /// For how long
        #[arg(id = "for", long = "for", env = "SEGMILL_ROLLOUT_FOR", value_name = "DURATION", default_value = "2h",
              value_parser = duration::<1_000, 604_800_000>)]
        lasts: Duration,

        /// How often it is looked at
        #[arg(long, env = "SEGMILL_ROLLOUT_EVERY", value_name = "DURATION", default_value = "30s",
              value_parser = duration::<500, 600_000>)]
        every: Duration,
    },
    /// Give all of the traffic back, and freeze the image that was bad
    Rollback {
        #[command(flatten)]
        revision: Named,

        /// The revision that has the traffic then [default: the stable one]
        #[arg(long, env = "SEGMILL_ROLLOUT_TO", value_name = "REVISION", value_parser = revision_name)]
        to: Option<String>,

        /// What is noted of it
        #[arg(long, env = "SEGMILL_ROLLOUT_REASON", value_name = "TEXT", default_value = "by hand")]
        reason: String,
    },
    /// Take a bad canary back whenever an alert is pushed here
    Serve(ServeArgs),
}

/// Where alerts are pushed to, and whose are taken.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where it listens [default: 127.0.0.1:8080, or 0.0.0.0:$PORT where PORT is set]
    #[arg(long, env = "SEGMILL_ROLLOUT_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,

    /// Whom tokens must be for (aud): what the push subscription names
    #[arg(long, env = "SEGMILL_ROLLOUT_AUDIENCE", value_name = "NAME")]
    pub audience: String,

    /// The account that may push (email)
    #[arg(long, env = "SEGMILL_ROLLOUT_ACCOUNT", value_name = "EMAIL")]
    pub account: String,

    /// Whom tokens must be from (iss)
    #[arg(long, env = "SEGMILL_ROLLOUT_ISSUER", value_name = "NAME", default_value = "https://accounts.google.com")]
    pub issuer: String,

    /// Where that one publishes its keys
    #[arg(long, env = "SEGMILL_ROLLOUT_JWKS_URL", value_name = "URL",
          default_value = "https://www.googleapis.com/oauth2/v3/certs", value_parser = http_url)]
    pub jwks_url: Uri,

    /// How often the canary is looked at without being asked to. 0: never
    #[arg(long, env = "SEGMILL_ROLLOUT_EVERY", value_name = "DURATION", default_value = "0",
          value_parser = duration::<0, 600_000>)]
    pub every: Duration,

    /// Give the canary the next step's traffic once it has done well for the time of its step; needs --every
    #[arg(long, env = "SEGMILL_ROLLOUT_ADVANCE", requires = "every")]
    pub advance: bool,
}

impl ServeArgs {
    pub fn auth(&self) -> Auth {
        Auth::published(self.jwks_url.to_string(), self.issuer.clone(), self.audience.clone())
    }
}

/// The revision that is meant.
#[derive(Debug, Args)]
pub struct Named {
    /// The revision that is meant [default: the canary; of promote, where there is none, the latest]
    #[arg(long, env = "SEGMILL_ROLLOUT_REVISION", value_name = "REVISION", value_parser = revision_name)]
    pub revision: Option<String>,
}

#[derive(Debug, Args)]
struct Common {
    /// The service: projects/PROJECT/locations/REGION/services/SERVICE
    #[arg(long, global = true, env = "SEGMILL_ROLLOUT_SERVICE", value_name = "NAME", value_parser = service_name)]
    service: Option<ServiceName>,

    /// Cloud Run's Admin API
    #[arg(long, global = true, env = "SEGMILL_ROLLOUT_RUN_URL", value_name = "URL", default_value = "https://run.googleapis.com",
          value_parser = http_url)]
    run_url: Uri,

    /// Prometheus, without /api/v1 [default: the Managed Service for Prometheus of the service's project]
    #[arg(long, global = true, env = "SEGMILL_ROLLOUT_PROMETHEUS_URL", value_name = "URL", value_parser = http_url)]
    prometheus_url: Option<Uri>,

    /// Where the token for both comes from: metadata, none, or @FILE, read each time
    #[arg(long, global = true, env = "SEGMILL_ROLLOUT_CREDENTIALS", value_name = "SOURCE", default_value = "metadata",
          value_parser = source)]
    credentials: Source,

    /// The platform's metadata server
    #[arg(long, global = true, env = "SEGMILL_ROLLOUT_METADATA_URL", value_name = "URL",
          default_value = "http://metadata.google.internal", value_parser = http_url)]
    metadata_url: Uri,

    /// Rules in Prometheus' form, with a label action: rollback or warn [default: those of deploy/alerts/rules.yaml]
    #[arg(long, global = true, env = "SEGMILL_ROLLOUT_RULES", value_name = "FILE")]
    rules: Option<PathBuf>,

    /// The steps of a roll-out: share of the traffic, and how long each lasts at least
    #[arg(long, global = true, env = "SEGMILL_ROLLOUT_STEPS", value_name = "PERCENT:DURATION,…",
          default_value = "10:2h,50:24h,100:48h", value_parser = schedule)]
    steps: Schedule,

    /// Segments that a canary has to have made in its step before it goes on
    #[arg(long, global = true, env = "SEGMILL_ROLLOUT_MIN_SEGMENTS", value_name = "N", default_value_t = 1000)]
    min_segments: u64,

    /// Form of the log on stderr; auto: text on a terminal, else JSON
    #[arg(long, global = true, env = "SEGMILL_ROLLOUT_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    log_format: LogFormat,
}

/// What is to be done, and with what.
pub struct Plan {
    pub command: Command,
    pub steward: Steward,
    pub log_format: LogFormat,
}

impl RolloutArgs {
    pub fn check(self, environment: &[(OsString, OsString)]) -> Result<Plan, ConfigError> {
        let wrong = ConfigError::Value;
        let common = self.common;
        let service = common.service.ok_or_else(|| wrong("--service is missing".to_owned()))?;
        let prometheus = match common.prometheus_url {
            Some(url) => url,
            None => {
                let of = format!(
                    "https://monitoring.googleapis.com/v1/projects/{}/location/global/prometheus",
                    service.project()
                );
                of.parse().map_err(|_| wrong("--service: its project is in no URL".to_owned()))?
            }
        };
        let text = match &common.rules {
            Some(path) => {
                std::fs::read_to_string(path).map_err(|error| wrong(format!("{}: {error}", path.display())))?
            }
            None => rules::OWN.to_owned(),
        };
        let rules = rules::read(&text).map_err(|error| wrong(format!("--rules: {error}")))?;
        let roots = |error| wrong(format!("the system's certificates can't be read: {error}"));
        let tokens = Arc::new(Tokens::new(common.credentials.clone(), &common.metadata_url).map_err(roots)?);
        let api = |url: &Uri, flag: &str| {
            common.credentials.may_go_to(url).map_err(|error| wrong(format!("{flag}: {error}")))?;
            Api::new(url, Arc::clone(&tokens)).map_err(roots)
        };
        let steward = Steward {
            run: Run::new(api(&common.run_url, "--run-url")?, service),
            prometheus: Prometheus::new(api(&prometheus, "--prometheus-url")?),
            rules,
            schedule: common.steps,
            least: common.min_segments,
        };
        let mut command = self.command;
        if let Command::Serve(serve) = &mut command {
            serve.listen = Some(listen(serve.listen, environment)?);
            serve.auth().check().map_err(|_| wrong("--jwks-url is http, to another machine: use https".to_owned()))?;
        }
        Ok(Plan { command, steward, log_format: common.log_format })
    }
}

fn schedule(text: &str) -> Result<Schedule, String> {
    let step = |text: &str| {
        let (percent, lasts) = text.split_once(':')?;
        Some((percent.parse().ok()?, duration::<0, 2_592_000_000>(lasts).ok()?))
    };
    let steps: Option<Vec<_>> = text.split(',').map(step).collect();
    steps.and_then(Schedule::new).ok_or_else(|| "must rise to 100, as 10:2h,50:24h,100:48h".to_owned())
}
