//! `segmill doctor`: whether what is installed here does what the service needs of it.
//!
//! It starts a worker as the service would, with the same flags, and has it decode and encode a clip of a few pictures
//! or sounds through each codec.

mod codecs;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Uri;
use clap::Args;
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use crate::cloud::http::Client;
use crate::config::{Config, ConfigError, ServeArgs};
use crate::job::Inventory;
use crate::pool::Pool;
use crate::server::service;
use crate::telemetry;

/// `segmill doctor`'s flags.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// What GStreamer and its plugins have to be: lines of a name and a version, as the report has them
    #[arg(long, value_name = "FILE")]
    versions: Option<PathBuf>,

    /// One JSON object on stdout
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    serve: ServeArgs,
}

/// What is asked for, checked.
#[derive(Debug)]
pub struct Examination {
    config: Config,
    environment: Vec<(OsString, OsString)>,
    /// By name.
    versions: Option<BTreeMap<String, String>>,
    json: bool,
}

impl DoctorArgs {
    /// The configuration is the service's.
    pub fn check(self, environment: Vec<(OsString, OsString)>) -> Result<Examination, String> {
        let config = Config::new(self.serve, &environment).map_err(|error: ConfigError| error.to_string())?;
        let versions = self.versions.as_deref().map(read_versions).transpose()?;
        Ok(Examination { config, environment, versions, json: self.json })
    }
}

fn read_versions(file: &Path) -> Result<BTreeMap<String, String>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let pair = |line: &str| {
        let (name, version) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), version.trim().to_owned()))
    };
    lines.map(|line| pair(line).ok_or_else(|| format!("{}: no name and version: {line}", file.display()))).collect()
}

/// How something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Well,
    /// The service works without it.
    Lacking,
    Fault,
}

#[derive(Debug, Serialize)]
struct Finding {
    of: &'static str,
    name: String,
    state: State,
    detail: String,
}

impl Finding {
    fn new(of: &'static str, name: impl Into<String>, state: State, detail: impl Into<String>) -> Self {
        Self { of, name: name.into(), state, detail: detail.into() }
    }
}

/// Prints what was found. Exit code 0 where nothing is at fault, else 1.
pub async fn doctor(examination: Examination) -> ExitCode {
    let findings = examine(&examination).await;
    let well = findings.iter().all(|finding| finding.state != State::Fault);
    if examination.json {
        let report = serde_json::json!({"segmill": env!("CARGO_PKG_VERSION"), "well": well, "findings": findings});
        println!("{report}");
    } else {
        print!("{}", text(&findings));
        println!("{}", if well { "all is well" } else { "something is at fault" });
    }
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn text(findings: &[Finding]) -> String {
    let (mut text, mut of) = (String::new(), "");
    for finding in findings {
        if finding.of != of {
            of = finding.of;
            let _ = writeln!(text, "{of}");
        }
        let mark = match finding.state {
            State::Well => "  ",
            State::Lacking => "- ",
            State::Fault => "! ",
        };
        let _ = writeln!(text, "  {mark}{} {}", finding.name, finding.detail);
    }
    text
}

async fn examine(examination: &Examination) -> Vec<Finding> {
    let config = &examination.config;
    let mut findings = limits(config);
    findings.push(certificates(config));
    // One is enough, and it has all processors.
    let workers = service::workers(config, examination.environment.clone());
    let started = match workers {
        Ok(workers) => Pool::start(crate::pool::Config { workers: 1, ..workers }, Arc::new(()))
            .await
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let pool = match started {
        Ok(pool) => pool,
        Err(error) => {
            findings.push(Finding::new("worker", "start", State::Fault, error));
            return findings;
        }
    };
    let inventory = pool.inventory().clone();
    findings.extend(sandbox(&inventory));
    findings.extend(versions(&inventory, examination.versions.as_ref()));
    findings.extend(codecs::all(&pool, config).await);
    pool.close().await;
    findings
}

/// What the service would have of the machine.
fn limits(config: &Config) -> Vec<Finding> {
    let of = "limits";
    let mut findings = vec![Finding::new(of, "processors", State::Well, config.cpus.to_string())];
    let memory = telemetry::memory_limit().map_or("not known".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
    findings.push(Finding::new(of, "memory", State::Well, memory));
    let files = getrlimit(Resource::Nofile).maximum;
    let wanted = config.connections.max_connections as u64;
    let state = if files.is_none_or(|files| files >= wanted) { State::Well } else { State::Lacking };
    let told = files.map_or("without a limit".to_owned(), |files| format!("{files}, for {wanted} connections"));
    findings.push(Finding::new(of, "open files", state, told));
    let dir = &config.scratch.dir;
    findings.push(match tempfile::tempfile_in(dir) {
        Ok(_) => Finding::new(of, "scratch", State::Well, dir.display().to_string()),
        // Only files with their index last need it.
        Err(error) => Finding::new(of, "scratch", State::Lacking, format!("{}: {error}", dir.display())),
    });
    findings
}

/// What vouches for the servers that are asked over https.
fn certificates(config: &Config) -> Finding {
    let keys = config.auth.jwks_url.as_deref().and_then(|url| url.parse().ok());
    let platform = config.retirement.service.as_ref().map(|_| config.retirement.url.clone());
    let asked = keys.into_iter().chain(platform).any(|url: Uri| url.scheme_str() == Some("https"));
    let (state, detail) = match Client::new(&Uri::from_static("https://localhost")) {
        Ok(_) => (State::Well, "are there".to_owned()),
        Err(error) if asked => (State::Fault, error.to_string()),
        Err(error) => (State::Lacking, error.to_string()),
    };
    Finding::new("certificates", "roots", state, detail)
}

/// A worker that lacks a layer that is required has not started.
fn sandbox(inventory: &Inventory) -> Vec<Finding> {
    let of = "sandbox";
    let confinement = &inventory.confinement;
    let on = confinement.on.iter().map(|layer| Finding::new(of, layer.name(), State::Well, "on"));
    let lacking = confinement.lacking.iter().map(|(layer, why)| Finding::new(of, layer.name(), State::Lacking, why));
    let mut findings: Vec<Finding> = on.chain(lacking).collect();
    if findings.is_empty() {
        findings.push(Finding::new(of, "off", State::Lacking, ""));
    }
    findings
}

/// GStreamer's and its plugins', against those that they have to be.
fn versions(inventory: &Inventory, pinned: Option<&BTreeMap<String, String>>) -> Vec<Finding> {
    let of = "versions";
    let core = ("gstreamer".to_owned(), inventory.version.trim_start_matches("GStreamer ").to_owned());
    let found: BTreeMap<String, String> = inventory.plugins.iter().cloned().chain([core]).collect();
    let mut findings = Vec::new();
    for (name, version) in &found {
        let wanted = pinned.map(|pinned| pinned.get(name));
        findings.push(match wanted {
            None => Finding::new(of, name, State::Well, version),
            Some(Some(wanted)) if wanted == version => Finding::new(of, name, State::Well, version),
            Some(Some(wanted)) => Finding::new(of, name, State::Fault, format!("{version}, and has to be {wanted}")),
            Some(None) => Finding::new(of, name, State::Fault, format!("{version}, and no version is named for it")),
        });
    }
    for (name, wanted) in pinned.into_iter().flatten().filter(|(name, _)| !found.contains_key(*name)) {
        findings.push(Finding::new(of, name, State::Fault, format!("is not used here, and has to be {wanted}")));
    }
    findings
}

/// How long one clip may take.
const PATIENCE: Duration = Duration::from_secs(60);
