//! Cloud Run as a service sees itself there, and how the platform's APIs are reached.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use axum::http::Uri;
use clap::Args;

use super::{ConfigError, duration, is_loopback};

/// Whether the release that this instance is of has been taken back, as Cloud Run's Admin API tells it.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = "Cloud Run")]
pub struct Retirement {
    /// Ask whether this revision of the service projects/PROJECT/locations/REGION/services/SERVICE was taken back by
    /// `segmill rollout`, and hand its sessions over then; without it nobody is asked
    #[arg(id = "run_service", long = "run-service", env = "SEGMILL_RUN_SERVICE", value_name = "NAME", value_parser = service_name)]
    pub service: Option<ServiceName>,

    /// This revision [default: K_REVISION, which Cloud Run sets]
    #[arg(id = "run_revision", long = "run-revision", env = "SEGMILL_RUN_REVISION", value_name = "NAME", value_parser = revision_name)]
    pub revision: Option<String>,

    /// How often it is asked
    #[arg(id = "run_every", long = "run-every", env = "SEGMILL_RUN_EVERY", value_name = "DURATION", default_value = "15s",
          value_parser = duration::<200, 600_000>)]
    pub every: Duration,

    /// The Admin API
    #[arg(id = "run_url", long = "run-url", env = "SEGMILL_RUN_URL", value_name = "URL",
          default_value = "https://run.googleapis.com", value_parser = http_url)]
    pub url: Uri,

    /// Where the token for it comes from: metadata, none, or @FILE, read each time
    #[arg(id = "run_credentials", long = "run-credentials", env = "SEGMILL_RUN_CREDENTIALS", value_name = "SOURCE",
          default_value = "metadata", value_parser = source)]
    pub credentials: Source,

    /// The platform's metadata server
    #[arg(id = "run_metadata_url", long = "run-metadata-url", env = "SEGMILL_RUN_METADATA_URL", value_name = "URL",
          default_value = "http://metadata.google.internal", value_parser = http_url)]
    pub metadata_url: Uri,
}

impl Retirement {
    pub(super) fn check(mut self, environment: &[(OsString, OsString)]) -> Result<Self, ConfigError> {
        if self.service.is_none() {
            return Ok(self);
        }
        if self.revision.is_none() {
            let set =
                environment.iter().find(|(name, _)| name == "K_REVISION").map(|(_, value)| value.to_string_lossy());
            let wrong =
                || ConfigError::Value("--run-service: which revision this is is not known: --run-revision".to_owned());
            self.revision = Some(set.and_then(|name| revision_name(&name).ok()).ok_or_else(wrong)?);
        }
        let wrong = |wrong: String| ConfigError::Value(format!("--run-url: {wrong}"));
        self.credentials.may_go_to(&self.url).map_err(wrong)?;
        Ok(self)
    }
}

/// `projects/…/locations/…/services/…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceName(String);

impl ServiceName {
    /// The last part: what metrics call it.
    pub fn short(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    pub fn project(&self) -> &str {
        self.0.split('/').nth(1).unwrap_or_default()
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServiceName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<_> = text.split('/').collect();
        match parts.as_slice() {
            ["projects", project, "locations", location, "services", service]
                if [project, location, service].iter().all(|part| is_name(part)) =>
            {
                Ok(Self(text.to_owned()))
            }
            _ => Err("must be projects/PROJECT/locations/REGION/services/SERVICE"),
        }
    }
}

/// Whether it can be the name of a project, place, service or revision, and nothing else in a URL. Old projects have a
/// domain before a colon.
pub fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:".contains(&byte);
    !text.is_empty() && text.len() <= 128 && text.bytes().all(plain) && !text.contains("..")
}

/// Where the tokens for the platform's APIs come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Metadata,
    None,
    File(PathBuf),
}

impl Source {
    /// # Errors
    /// A sentence: the token would go to another machine unencrypted.
    pub fn may_go_to(&self, url: &Uri) -> Result<(), String> {
        let safe = url.scheme_str() == Some("https") || is_loopback(url.host().unwrap_or_default());
        if safe || *self == Self::None {
            return Ok(());
        }
        Err(format!("{url} is http, to another machine: tokens are sent over https only"))
    }
}

/// Reads `metadata`, `none` or `@FILE`.
pub fn source(text: &str) -> Result<Source, String> {
    match text {
        "metadata" => Ok(Source::Metadata),
        "none" => Ok(Source::None),
        _ => match text.strip_prefix('@') {
            Some(path) if !path.is_empty() => Ok(Source::File(path.into())),
            _ => Err("must be metadata, none or @FILE".to_owned()),
        },
    }
}

/// An http or https URL without a query.
pub fn http_url(text: &str) -> Result<Uri, String> {
    match text.parse::<Uri>() {
        Ok(uri)
            if matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
                && uri.query().is_none() =>
        {
            Ok(uri)
        }
        _ => Err("must be an https:// URL".to_owned()),
    }
}

pub fn service_name(text: &str) -> Result<ServiceName, String> {
    text.parse().map_err(str::to_owned)
}

pub fn revision_name(text: &str) -> Result<String, String> {
    if is_name(text) { Ok(text.to_owned()) } else { Err("is no revision's name".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_services_and_nothing_else() {
        let name: ServiceName = "projects/p-1/locations/europe-west1/services/segmill".parse().unwrap();
        assert_eq!((name.short(), name.project()), ("segmill", "p-1"));
        for wrong in [
            "segmill",
            "projects/p/locations/l/services/",
            "projects/p/locations/l/services/a/b",
            "projects/p/locations/l/services/a?x=1",
            "projects/../locations/l/services/a",
            "projects/p/locations/l/revisions/a",
        ] {
            assert!(wrong.parse::<ServiceName>().is_err(), "{wrong}");
        }
    }
}
