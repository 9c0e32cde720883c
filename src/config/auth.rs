//! Who may come in: tokens, pages, and what each token may take. Knobs and their checks.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use axum::http::Uri;
use clap::Args;

use super::keys::VerifyingKeys;
use super::{ConfigError, bytes, duration};

/// Tokens and pages that are let in.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = "Access")]
pub struct Auth {
    /// Keys that tokens are verified with, as a JWKS or PEM public keys; @FILE, or several with commas between, reads
    /// them from there. Without keys or --auth-jwks-url no token is asked for
    #[arg(id = "auth_keys", long = "auth-keys", env = "SEGMILL_AUTH_KEYS", value_name = "KEYS|@FILE", default_value = "",
          hide_default_value = true, hide_env_values = true, value_parser = static_keys)]
    pub keys: StaticKeys,

    /// Where such keys are published as a JWKS; fetched at start and again, and when a token names an unknown one
    #[arg(long = "auth-jwks-url", env = "SEGMILL_AUTH_JWKS_URL", value_name = "URL", value_parser = url)]
    pub jwks_url: Option<String>,

    /// Fetch it also over http from another machine: whoever is on the way can let anyone in
    #[arg(long = "auth-jwks-allow-http", env = "SEGMILL_AUTH_JWKS_ALLOW_HTTP")]
    pub jwks_allow_http: bool,

    /// How often it is fetched again
    #[arg(long = "auth-jwks-refresh", env = "SEGMILL_AUTH_JWKS_REFRESH", value_name = "DURATION", default_value = "5m",
          value_parser = duration::<1_000, 86_400_000>)]
    pub jwks_refresh: Duration,

    /// Whom a token must be for (aud): one of these
    #[arg(long = "auth-audience", env = "SEGMILL_AUTH_AUDIENCE", value_name = "NAME", value_delimiter = ',')]
    pub audience: Vec<String>,

    /// Whom a token must be from (iss): one of these
    #[arg(long = "auth-issuer", env = "SEGMILL_AUTH_ISSUER", value_name = "NAME", value_delimiter = ',')]
    pub issuer: Vec<String>,

    /// How far the clocks of issuer and service may differ
    #[arg(long = "auth-leeway", env = "SEGMILL_AUTH_LEEWAY", value_name = "DURATION", default_value = "10s",
          value_parser = duration::<0, 300_000>)]
    pub leeway: Duration,

    /// Origins whose pages may use the service, https://HOST[:PORT], or * for all [default: all where a token is asked
    /// for, else those of this machine]
    #[arg(long = "allow-origin", env = "SEGMILL_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',',
          value_parser = origin)]
    pub allow_origin: Vec<String>,

    #[command(flatten)]
    pub quotas: Quotas,
}

/// What the owner of a token (its sub) may take, all its sessions together; without them as much as there is.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = "Quotas")]
pub struct Quotas {
    /// Most sessions at once of one token's owner; past it new ones get 429
    #[arg(id = "quota_sessions", long = "quota-sessions", env = "SEGMILL_QUOTA_SESSIONS", value_name = "N",
          value_parser = count::<NonZeroU32, 10_000>)]
    pub sessions: Option<NonZeroU32>,

    /// Bytes of media a second; past it the service reads no faster
    #[arg(id = "quota_bytes", long = "quota-bytes", env = "SEGMILL_QUOTA_BYTES", value_name = "BYTES",
          value_parser = bytes_a_second)]
    pub bytes: Option<NonZeroU64>,

    /// Pixels made a second: those of each picture, in each output that is transcoded
    #[arg(id = "quota_pixels", long = "quota-pixels", env = "SEGMILL_QUOTA_PIXELS", value_name = "N",
          value_parser = count::<NonZeroU64, 1_000_000_000_000>)]
    pub pixels: Option<NonZeroU64>,

    /// For how long what was not taken may be taken later, at once
    #[arg(id = "quota_burst", long = "quota-burst", env = "SEGMILL_QUOTA_BURST", value_name = "DURATION",
          default_value = "5s", value_parser = duration::<100, 60_000>)]
    pub burst: Duration,
}

impl Quotas {
    fn any(&self) -> bool {
        self.sessions.is_some() || self.bytes.is_some() || self.pixels.is_some()
    }
}

/// Reads a number from 1 to `MAX`.
fn count<T: TryFrom<NonZeroU64>, const MAX: u64>(text: &str) -> Result<T, String> {
    let number = text.parse::<NonZeroU64>().ok().filter(|number| number.get() <= MAX);
    number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| format!("must be from 1 to {MAX}"))
}

fn bytes_a_second(text: &str) -> Result<NonZeroU64, String> {
    bytes::<1024, { 64 << 30 }>(text).and_then(|bytes| NonZeroU64::new(bytes).ok_or("must be above 0".to_owned()))
}

impl Auth {
    /// Tokens of one issuer, who publishes its keys, for one audience; and nothing else.
    pub fn published(jwks_url: String, issuer: String, audience: String) -> Self {
        Self {
            keys: StaticKeys(Ok(VerifyingKeys::default())),
            jwks_url: Some(jwks_url),
            jwks_allow_http: false,
            jwks_refresh: Duration::from_secs(300),
            audience: vec![audience],
            issuer: vec![issuer],
            leeway: Duration::from_secs(10),
            allow_origin: Vec::new(),
            quotas: Quotas { sessions: None, bytes: None, pixels: None, burst: Duration::from_secs(5) },
        }
    }

    /// Whether a token is asked for.
    pub fn required(&self) -> bool {
        !self.keys.get().is_empty() || self.jwks_url.is_some()
    }

    /// # Errors
    /// Settings that contradict each other.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |wrong: String| Err(ConfigError::Value(wrong));
        if let Err(error) = &self.keys.0 {
            return wrong(format!("--auth-keys: {error}"));
        }
        if let Some(url) = &self.jwks_url {
            let uri: Uri = url.parse().unwrap_or_default();
            if uri.scheme_str() != Some("https")
                && !self.jwks_allow_http
                && !is_loopback(uri.host().unwrap_or_default())
            {
                return wrong(
                    "--auth-jwks-url is http, to another machine: use https, or --auth-jwks-allow-http".into(),
                );
            }
        }
        if self.jwks_url.is_some() && !self.keys.get().is_empty() {
            return wrong("set one of --auth-keys and --auth-jwks-url".into());
        }
        if self.quotas.any() && !self.required() {
            return wrong(
                "quotas are of a token's owner: they are of no use without --auth-keys or --auth-jwks-url".into(),
            );
        }
        let named = |names: &[String]| !names.is_empty() && names.iter().all(|name| !name.is_empty());
        if self.required() && !(named(&self.audience) && named(&self.issuer)) {
            return wrong("tokens are asked for: --auth-audience and --auth-issuer must be set".into());
        }
        let told = !self.audience.is_empty() || !self.issuer.is_empty();
        if told && !self.required() {
            return wrong(
                "--auth-audience and --auth-issuer are of no use without --auth-keys or --auth-jwks-url".into(),
            );
        }
        Ok(())
    }
}

/// Keys from the configuration.
#[derive(Clone, PartialEq)]
pub struct StaticKeys(Result<VerifyingKeys, String>);

impl StaticKeys {
    pub fn get(&self) -> VerifyingKeys {
        self.0.clone().unwrap_or_default()
    }
}

impl fmt::Debug for StaticKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// Never fails: what is wrong is said by [`Auth::check`], and without showing the keys.
fn static_keys(text: &str) -> Result<StaticKeys, String> {
    let files = || {
        let mut paths = text.split(',').map(|path| path.strip_prefix('@').ok_or("each must be @FILE".to_owned()));
        paths.try_fold(VerifyingKeys::default(), |keys, path| {
            let path = path?;
            let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
            keys.and(VerifyingKeys::read(&text).map_err(|wrong| format!("{path}: {wrong}"))?)
        })
    };
    Ok(StaticKeys(match text {
        "" => Ok(VerifyingKeys::default()),
        _ if text.starts_with('@') => files(),
        _ => VerifyingKeys::read(text),
    }))
}

fn url(text: &str) -> Result<String, String> {
    match text.parse::<Uri>() {
        Ok(uri)
            if matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty()) =>
        {
            Ok(text.to_owned())
        }
        _ => Err("must be an https:// URL".to_owned()),
    }
}

/// An origin as browsers write it (RFC 6454 6.2): lower case, without the scheme's own port.
fn origin(text: &str) -> Result<String, String> {
    if text == "*" {
        return Ok(text.to_owned());
    }
    let text = text.to_ascii_lowercase();
    let wrong = "must be *, or https://HOST[:PORT] and nothing more";
    let uri: Uri = text.parse().map_err(|_| wrong)?;
    let (Some(scheme @ ("http" | "https")), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err(wrong.to_owned());
    };
    let port = match (scheme, uri.port_u16()) {
        (_, None) | ("http", Some(80)) | ("https", Some(443)) => String::new(),
        (_, Some(port)) => format!(":{port}"),
    };
    let plain = format!("{scheme}://{host}{port}");
    let given = text.strip_suffix(&format!(":{}", if scheme == "http" { 80 } else { 443 })).unwrap_or(&text);
    if host.is_empty() || given != plain { Err(wrong.to_owned()) } else { Ok(plain) }
}

/// Whether a URL's host is this machine's own loopback interface.
pub fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_as_browsers_write_them() {
        for (text, read) in [
            ("*", "*"),
            ("https://Example.com", "https://example.com"),
            ("https://example.com:443", "https://example.com"),
            ("http://localhost:5173", "http://localhost:5173"),
            ("http://[::1]:80", "http://[::1]"),
        ] {
            assert_eq!(origin(text).as_deref(), Ok(read));
        }
        for text in [
            "",
            "null",
            "example.com",
            "https://example.com/",
            "https://a@b",
            "https://a:443:443",
            "ftp://a",
            "https://",
        ] {
            assert!(origin(text).is_err(), "{text}");
        }
    }
}
