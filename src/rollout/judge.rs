//! Whether a canary does well: what the rules gave over their time, and what it is beside the stable revision's.
//!
//! Nothing is kept from one look to the next. That a rule has held is read from the past, so that whoever looks sees the
//! same, also who has only just begun.

use std::collections::BTreeMap;
use std::time::Duration;

use super::rules::{Action, Rule};
use crate::cloud::prometheus::Series;

/// What a rule says of a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It is so now, and has not been for long enough.
    Pending,
    Firing,
}

/// The seconds since 1970 from which to which a rule is looked at, and every how many.
pub fn span(rule: &Rule, now: u64) -> ((u64, u64), Duration) {
    let every = rule.every.as_secs().max(1);
    let steps = rule.hold.as_secs().div_ceil(every);
    ((now.saturating_sub(steps * every), now), Duration::from_secs(every))
}

/// What a rule says of the revisions of a service, by what its expression gave over [`span`].
pub fn states(rule: &Rule, service: &str, now: u64, series: &[Series]) -> BTreeMap<String, State> {
    let ((start, end), step) = span(rule, now);
    let looks = (end - start) / step.as_secs();
    let mut states = BTreeMap::new();
    for series in series.iter().filter(|series| series.labels.get("service_name").is_some_and(|name| name == service)) {
        let Some(revision) = series.labels.get("revision_name") else { continue };
        let at = |look: u64| {
            let time = (start + look * step.as_secs()) as f64;
            series.values.iter().any(|(at, _)| (at - time).abs() < 0.5)
        };
        if !at(looks) {
            continue;
        }
        let state = if (0..=looks).all(at) { State::Firing } else { State::Pending };
        let known = states.entry(revision.clone()).or_insert(state);
        *known = state.max(*known);
    }
    states
}

/// What all rules say of the canary. Rules by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Reasons to take it back: they fire, and not of the stable revision.
    pub bad: Vec<String>,
    /// They would be, but the stable revision is as bad: the release is not the cause.
    pub as_bad: Vec<String>,
    /// Those of either that may become one.
    pub pending: Vec<String>,
    /// Reasons to look before going on.
    pub warned: Vec<String>,
    /// Reasons to take releases back that fire of the stable revision.
    pub stable_bad: Vec<String>,
}

/// `canary`: None where there is none yet.
pub fn judge(said: &[(&Rule, BTreeMap<String, State>)], canary: Option<&str>, stable: &str) -> Verdict {
    let mut verdict = Verdict::default();
    for (rule, states) in said {
        let name = || rule.name.clone();
        let of_canary = canary.and_then(|canary| states.get(canary));
        let of_stable = states.get(stable).filter(|_| canary != Some(stable));
        match (rule.action, of_canary, of_stable) {
            (Action::Rollback, Some(State::Firing), None) => verdict.bad.push(name()),
            (Action::Rollback, Some(State::Firing), Some(_)) => verdict.as_bad.push(name()),
            (Action::Rollback, Some(State::Pending), _) => verdict.pending.push(name()),
            (Action::Warn, Some(State::Firing), None) => verdict.warned.push(name()),
            _ => {}
        }
        if rule.action == Action::Rollback && of_stable == Some(&State::Firing) {
            verdict.stable_bad.push(name());
        }
    }
    verdict
}
