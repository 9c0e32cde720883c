//! Reads what a release is at, asks how it does, and changes it. A change names the version that it was decided by; where
//! somebody else was faster, all is read and decided again.

use std::time::{Duration, SystemTime};

use futures_util::future::try_join_all;
use tokio::time::timeout;

use super::decide::{self, Change, Facts, Promotion, Refusal, Rollback, Schedule};
use super::judge::{self, Verdict};
use super::release::{self, Note, Release, Unclear};
use super::rules::Rule;
use crate::cloud::prometheus::Prometheus;
use crate::cloud::run::{Patch, Run, Service};
use crate::cloud::{self, jittered};

/// How often it is read and decided before it is given up.
const ROUNDS: u32 = 6;
/// The wait after a round that came to nothing; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// How long a rollback waits for the name of an image.
const DIGEST: Duration = Duration::from_secs(10);

/// Why it could not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Run(cloud::Error),
    /// Of the canary nothing can be told.
    #[error("it can't be judged: {0}")]
    Prometheus(cloud::Error),
    #[error("others change the service again and again; the last answer: {0}")]
    Contended(cloud::Error),
}

impl From<Unclear> for Error {
    fn from(unclear: Unclear) -> Self {
        Self::Refused(unclear.into())
    }
}

/// What was asked for, and has been done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// False: it was so already.
    pub changed: bool,
    /// Each revision's share of the traffic now, in percent.
    pub shares: Vec<(String, u32)>,
}

/// One look at a service.
#[derive(Debug, Clone)]
pub struct View {
    pub service: Service,
    pub note: Note,
    pub release: Result<Release, Unclear>,
}

/// What is asked of a promotion; what is not said follows from the release.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    pub revision: Option<String>,
    pub percent: Option<u32>,
    pub early: bool,
    pub thaw: bool,
}

/// Looks after the releases of one service.
pub struct Steward {
    pub run: Run,
    pub prometheus: Prometheus,
    pub rules: Vec<Rule>,
    pub schedule: Schedule,
    /// Segments that a canary has to have made before it goes on.
    pub least: u64,
}

impl Steward {
    /// `named`: see [`Release::read`].
    pub async fn view(&self, named: Option<&str>) -> Result<View, Error> {
        let service = self.run.service().await.map_err(Error::Run)?;
        // Where it can't be read, a rollback that says of whom it is goes on without it.
        let (note, release) = match Note::read(&service.annotations) {
            Ok(note) => {
                let release = Release::read(&service, &note, named);
                (note, release)
            }
            Err(unclear) => (Note::default(), Err(unclear)),
        };
        Ok(View { service, note, release })
    }

    /// What all rules say.
    pub async fn verdict(&self, canary: Option<&str>, stable: &str, now: u64) -> Result<Verdict, Error> {
        let said = try_join_all(self.rules.iter().map(async |rule| {
            let (span, step) = judge::span(rule, now);
            let series = self.prometheus.range(&rule.expression, span, step).await?;
            Ok((rule, judge::states(rule, self.run.service_name().short(), now, &series)))
        }));
        Ok(judge::judge(&said.await.map_err(Error::Prometheus)?, canary, stable))
    }

    /// Segments that a revision has made for clients since then.
    pub async fn segments(&self, revision: &str, since: u64, now: u64) -> Result<u64, Error> {
        let window = now.saturating_sub(since).max(60);
        let service = self.run.service_name().short();
        let query = format!(
            "sum(increase(segmill_segments_total{{origin=\"client\", service_name=\"{service}\", \
             revision_name=\"{revision}\"}}[{window}s]))"
        );
        let answer =
            self.prometheus.range(&query, (now, now), Duration::from_secs(1)).await.map_err(Error::Prometheus)?;
        let value = answer.first().and_then(|series| series.values.last()).map_or(0.0, |(_, value)| *value);
        // What is no number is none.
        Ok(value.max(0.0) as u64)
    }

    pub async fn promote(&self, asked: &Asked) -> Result<Done, Error> {
        let view = self.view(asked.revision.as_deref()).await?;
        let release = view.release?;
        let (revision, percent) =
            decide::complete(&view.service, &release, &self.schedule, asked.revision.as_deref(), asked.percent)?;
        let digest = self.run.revision(&revision).await.map_err(Error::Run)?.digest();
        let now = now();
        let canary = release.canary.as_ref().filter(|canary| canary.revision == revision);
        let facts = Facts {
            digest,
            verdict: self.verdict(canary.map(|_| revision.as_str()), &release.stable, now).await?,
            segments: match canary.and_then(|canary| canary.since) {
                Some(since) => self.segments(&revision, since, now).await?,
                None if canary.is_some() => self.segments(&revision, now - 3600, now).await?,
                None => 0,
            },
            least: self.least,
            now,
        };
        let want = Promotion { revision, percent, early: asked.early, thaw: asked.thaw };
        self.carry_out(Some(&want.revision), |view| {
            decide::promote(view.release.as_ref().map_err(Clone::clone)?, &view.note, &self.schedule, &want, &facts)
        })
        .await
    }

    pub async fn roll_back(&self, want: &Rollback) -> Result<Done, Error> {
        let view = self.view(want.revision.as_deref()).await?;
        let Some((bad, to)) = decide::aim(&view.service, &view.note, want)? else {
            return Ok(Done { changed: false, shares: release::shares(&view.service).into_iter().collect() });
        };
        // Whoever it is of from now on, it is of that one.
        let want = Rollback { revision: Some(bad.clone()), ..want.clone() };
        let digests = tokio::join!(self.digest(&bad), self.digest(&to));
        self.carry_out(Some(&bad), |view| {
            let digests = (digests.0.as_deref(), digests.1.as_deref());
            decide::roll_back(&view.service, &view.note, &want, digests, now())
        })
        .await
    }

    /// Of a rollback nothing depends on it but what is frozen: it is not waited for.
    async fn digest(&self, revision: &str) -> Option<String> {
        match timeout(DIGEST, self.run.revision(revision)).await {
            Ok(Ok(revision)) => revision.digest(),
            Ok(Err(error)) => {
                tracing::warn!(revision, %error, "the image is not known");
                None
            }
            Err(_) => {
                tracing::warn!(revision, "the image is not known in time");
                None
            }
        }
    }

    /// Decides and changes until there is nothing to change.
    async fn carry_out(
        &self,
        named: Option<&str>,
        decide: impl Fn(&View) -> Result<Option<Change>, Refusal>,
    ) -> Result<Done, Error> {
        let mut changed = false;
        let mut wait = FIRST_WAIT;
        let mut last = None;
        for _ in 0..ROUNDS {
            let view = self.view(named).await?;
            let Some(change) = decide(&view)? else {
                return Ok(Done { changed, shares: release::shares(&view.service).into_iter().collect() });
            };
            match self.apply(&view.service, &change).await {
                Ok(()) => changed = true,
                // It may have been taken all the same: the next look tells.
                Err(error) if error.leaves_open() => {
                    tracing::info!(%error, "read and decided again");
                    last = Some(error);
                    tokio::time::sleep(jittered(wait)).await;
                    wait *= 2;
                }
                Err(error) => return Err(Error::Run(error)),
            }
        }
        let nobody = || cloud::Error::Failed("the traffic is never as it was asked for".to_owned());
        Err(Error::Contended(last.unwrap_or_else(nobody)))
    }

    async fn apply(&self, service: &Service, change: &Change) -> Result<(), cloud::Error> {
        let annotations = change.note.write(&service.annotations);
        let traffic = release::targets(service, &change.shares);
        let patch = Patch { etag: &service.etag, annotations: &annotations, traffic: &traffic };
        let operation = self.run.patch(&patch).await?;
        self.run.wait(operation).await
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
