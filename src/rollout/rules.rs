//! The alerts of deploy/alerts/rules.yaml, as far as they decide roll-outs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

/// The rules that the program comes with.
pub const OWN: &str = include_str!("../../deploy/alerts/rules.yaml");

/// What follows when a rule fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The release is taken back.
    Rollback,
    /// Somebody has to look before it goes on.
    Warn,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub name: String,
    /// PromQL: gives a series for each revision that is bad, by `service_name` and `revision_name`.
    pub expression: String,
    /// How long it has to be so without a break.
    pub hold: Duration,
    /// How often it is looked at; at least 1 s.
    pub every: Duration,
    pub action: Action,
    pub summary: String,
}

#[derive(Deserialize)]
struct File {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    interval: Option<String>,
    rules: Vec<Alert>,
}

#[derive(Deserialize)]
struct Alert {
    alert: String,
    expr: String,
    #[serde(default, rename = "for")]
    hold: Option<String>,
    labels: Labels,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Labels {
    action: Action,
}

/// The rules of a file in Prometheus' form; each has a label `action`.
///
/// # Errors
/// A sentence.
pub fn read(text: &str) -> Result<Vec<Rule>, String> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let mut rules = Vec::new();
    for group in file.groups {
        let every = span(group.interval.as_deref().unwrap_or("30s"))?.max(Duration::from_secs(1));
        for mut alert in group.rules {
            let hold =
                span(alert.hold.as_deref().unwrap_or("0s")).map_err(|wrong| format!("{}: {wrong}", alert.alert))?;
            let summary = alert.annotations.remove("summary").unwrap_or_default();
            rules.push(Rule {
                name: alert.alert,
                expression: alert.expr,
                hold,
                every,
                action: alert.labels.action,
                summary,
            });
        }
    }
    if !rules.iter().any(|rule| rule.action == Action::Rollback) {
        return Err("no rule has action: rollback".to_owned());
    }
    Ok(rules)
}

/// A span of time as Prometheus writes it, such as `1h30m`.
fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no span of time");
    let (mut ms, mut rest) = (0u64, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |end| digits + end);
        let factor = match &rest[digits..unit] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        ms = number.checked_mul(factor).and_then(|more| ms.checked_add(more)).ok_or_else(wrong)?;
        rest = &rest[unit..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_millis(ms)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_the_repository_are_read_as_they_stand() {
        let rules = read(OWN).unwrap();
        let named = |name: &str| rules.iter().find(|rule| rule.name == name).unwrap();
        let errors = named("SegmillErrorRateHigh");
        assert_eq!((errors.hold, errors.every), (Duration::from_secs(300), Duration::from_secs(30)));
        assert!(errors.expression.contains("outcome=\"failed\"") && errors.expression.ends_with(">= 100\n"));
        assert_eq!(named("SegmillHealthFailing").hold, Duration::ZERO);
        let of = |action| rules.iter().filter(|rule| rule.action == action).count();
        let written = |action: &str| OWN.matches(&format!(", action: {action}}}")).count();
        assert_eq!((of(Action::Rollback), of(Action::Warn)), (written("rollback"), written("warn")));
        assert!(of(Action::Rollback) > 3);
    }

    #[test]
    fn what_is_no_file_of_rules_is_refused() {
        let one = |hold: &str, action: &str| {
            format!("groups: [{{rules: [{{alert: A, expr: up, for: {hold}, labels: {{action: {action}}}}}]}}]")
        };
        assert_eq!(read(&one("1h30m", "rollback")).unwrap()[0].hold, Duration::from_secs(5400));
        for wrong in [
            "",
            "groups: []",
            "[",
            &one("5", "rollback"),
            &one("5x", "rollback"),
            &one("5m", "page"),
            &one("5m", "warn"),
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
