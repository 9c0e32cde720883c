//! Looks at a canary again and again for as long as it has to do well, and takes it back when it doesn't.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::decide::{Refusal, Rollback};
use super::judge::Verdict;
use super::release::{Canary, Release};
use super::steward::{Error, Steward, View, now};
use crate::cloud::jittered;

/// For how long nothing may be told of a canary before its watch is over.
const BLIND: Duration = Duration::from_secs(600);
/// How much longer it is watched where its time is over and it may be bad.
const LONGER: Duration = Duration::from_secs(900);

/// How it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It has done well, and has made so many segments in its step.
    Well { segments: u64 },
    /// It has no traffic any more, and why.
    TakenBack(String),
    /// Nobody can say.
    Undecided(String),
}

/// What one look at a release has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing is tried, or its last step is over.
    Nothing,
    TakenBack {
        revision: String,
        reason: String,
    },
    /// It goes on as it is.
    Goes(Canary, Verdict),
}

impl Steward {
    /// Looks once, and takes a bad canary back.
    pub async fn look(&self, view: View) -> Result<Look, Error> {
        let release: Release = view.release?;
        let now = now();
        let canary = match &release.canary {
            Some(canary) if self.schedule.is_on_trial(&release, now) => canary.clone(),
            _ => return Ok(Look::Nothing),
        };
        let verdict = self.verdict(Some(&canary.revision), &release.stable, now).await?;
        if verdict.bad.is_empty() {
            return Ok(Look::Goes(canary, verdict));
        }
        let reason = verdict.bad.join(", ");
        tracing::warn!(revision = canary.revision, reason, "the canary is bad; it is taken back");
        let revision = canary.revision;
        let want = Rollback { revision: Some(revision.clone()), to: Some(release.stable), reason: reason.clone() };
        self.roll_back(&want).await?;
        tracing::warn!(revision, reason, "taken back");
        Ok(Look::TakenBack { revision, reason })
    }

    /// Watches the canary for `lasts`, looking every `every`.
    ///
    /// # Errors
    /// Nothing is tried, or the answers are such that later ones won't be better.
    pub async fn watch(&self, named: Option<&str>, lasts: Duration, every: Duration) -> Result<End, Error> {
        let end = Instant::now() + lasts;
        let mut seen = Instant::now();
        let mut watched = named.map(str::to_owned);
        let mut said = None;
        loop {
            let next = Instant::now() + jittered(every);
            match self.look_at(&mut watched).await {
                Ok(Watched::Over(over)) => return Ok(over),
                Ok(Watched::Goes(canary, verdict)) => {
                    seen = Instant::now();
                    if said.as_ref() != Some(&verdict) {
                        tell(&canary, &verdict);
                        said = Some(verdict.clone());
                    }
                    let late = seen >= end + LONGER;
                    if seen >= end && (verdict.pending.is_empty() || late) {
                        match self.sum_up(&canary, &verdict).await {
                            Err(error) if later(&error) => {
                                tracing::warn!(%error, "the canary's segments are not known")
                            }
                            end => return end,
                        }
                    }
                }
                Err(error) if later(&error) => tracing::warn!(%error, "the canary is not seen"),
                Err(error) => return Err(error),
            }
            if seen.elapsed() >= BLIND {
                return Ok(End::Undecided(format!("nothing is told of it for {} s", BLIND.as_secs())));
            }
            sleep_until(if Instant::now() < end { next.min(end) } else { next }).await;
        }
    }

    async fn look_at(&self, watched: &mut Option<String>) -> Result<Watched, Error> {
        let view = self.view(watched.as_deref()).await?;
        let canary = view.release.as_ref().ok().and_then(|release| release.canary.clone());
        if let Some(revision) =
            watched.as_deref().filter(|name| canary.as_ref().is_none_or(|canary| canary.revision != *name))
        {
            return match view.note.frozen(revision, None) {
                Some(frozen) => Ok(Watched::Over(End::TakenBack(frozen.reason.clone()))),
                None => {
                    let _: Release = view.release?;
                    Ok(Watched::Over(End::Undecided(format!("{revision} is not the canary"))))
                }
            };
        }
        match self.look(view).await? {
            Look::TakenBack { reason, .. } => Ok(Watched::Over(End::TakenBack(reason))),
            Look::Goes(canary, verdict) => {
                *watched = Some(canary.revision.clone());
                Ok(Watched::Goes(canary, verdict))
            }
            Look::Nothing => Ok(Watched::Over(End::Undecided("nothing is being tried".to_owned()))),
        }
    }

    /// At the end of the time.
    async fn sum_up(&self, canary: &Canary, verdict: &Verdict) -> Result<End, Error> {
        let why = [
            (&verdict.as_bad, "canary and stable revision are both bad"),
            (&verdict.pending, "it may be bad"),
            (&verdict.warned, "it fires warnings"),
        ];
        if let Some((rules, why)) = why.into_iter().find(|(rules, _)| !rules.is_empty()) {
            return Ok(End::Undecided(format!("{why}: {}", rules.join(", "))));
        }
        let now = now();
        let segments = self.segments(&canary.revision, canary.since.unwrap_or(now), now).await?;
        if segments < self.least {
            let few = Refusal::TooFew { made: segments, least: self.least };
            return Ok(End::Undecided(few.to_string()));
        }
        Ok(End::Well { segments })
    }
}

enum Watched {
    Over(End),
    Goes(Canary, Verdict),
}

/// Whether the next look may see more.
fn later(error: &Error) -> bool {
    match error {
        Error::Run(error) | Error::Prometheus(error) => {
            error.leaves_open() || matches!(error, crate::cloud::Error::Token(_))
        }
        Error::Contended(_) => true,
        Error::Refused(_) => false,
    }
}

fn tell(canary: &Canary, verdict: &Verdict) {
    let (revision, percent) = (&canary.revision, canary.percent);
    let Verdict { as_bad, pending, warned, stable_bad, .. } = verdict;
    if as_bad.is_empty() && pending.is_empty() && warned.is_empty() {
        tracing::info!(revision, percent, "the canary does well");
    } else {
        tracing::warn!(revision, percent, ?pending, ?warned, both_bad = ?as_bad, ?stable_bad, "the canary is watched closely");
    }
}
