//! What is to be changed, or why nothing is: from what a release is at, what is noted of it, and how it does. No I/O: the
//! same facts give the same decision, and a decision that was carried out gives none.

use std::collections::BTreeMap;
use std::time::Duration;

use super::judge::Verdict;
use super::release::{Note, Release, Unclear, shares};
use crate::cloud::run::Service;

/// What the service is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Of one or two revisions; 100 in all.
    pub shares: Vec<(String, u32)>,
    pub note: Note,
}

/// The steps of a roll-out: rising shares of the traffic, the last of them 100 %, and how long each lasts at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(Vec<(u32, Duration)>);

impl Schedule {
    /// None where the shares do not rise to 100.
    pub fn new(steps: Vec<(u32, Duration)>) -> Option<Self> {
        let rises = steps.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let whole = steps.first().is_some_and(|first| first.0 > 0) && steps.last().is_some_and(|last| last.0 == 100);
        (rises && whole).then_some(Self(steps))
    }

    /// The share of the step after the one that a canary with so much is at; None after the last.
    pub fn after(&self, percent: u32) -> Option<u32> {
        self.0.iter().map(|(step, _)| *step).find(|step| *step > percent)
    }

    /// How long a canary has to have so much. A share that is no step's is as the step below it.
    pub fn lasts(&self, percent: u32) -> Duration {
        self.0.iter().rev().find(|(step, _)| *step <= percent).map_or(self.0[0].1, |(_, lasts)| *lasts)
    }

    /// How much of the step is left; None where it is not known when it began.
    fn left(&self, percent: u32, since: Option<u64>, now: u64) -> Option<Duration> {
        since.map(|since| self.lasts(percent).saturating_sub(Duration::from_secs(now.saturating_sub(since))))
    }

    /// Whether somebody still has to look after the canary: its last step is not over.
    pub fn is_on_trial(&self, release: &Release, now: u64) -> bool {
        release.canary.as_ref().is_some_and(|canary| {
            canary.percent < 100 || self.left(100, canary.since, now).is_none_or(|left| !left.is_zero())
        })
    }
}

/// Why nothing is changed, although somebody asked for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Unclear(#[from] Unclear),
    #[error("there is no revision to promote: the latest, {0}, has all of the traffic")]
    NothingNew(String),
    #[error("the image of {0} is not told by its digest: deploy by digest")]
    NoDigest(String),
    #[error("{revision} was taken back ({reason}): deploy another image, or say --thaw")]
    Frozen { revision: String, reason: String },
    #[error("{0} is being tried: end that first")]
    Another(String),
    #[error("the canary has {has} %; going back to less is a rollback")]
    Backwards { has: u32 },
    #[error("the next step is {0} %")]
    NotNext(u32),
    #[error("{0} % is no step of the schedule")]
    NoStep(u32),
    #[error("the step of {percent} % lasts {} s more (--early goes on all the same)", left.as_secs())]
    TooEarly { percent: u32, left: Duration },
    #[error("since when the canary has {0} % is not noted (--early goes on all the same)")]
    UnknownAge(u32),
    #[error("the canary is bad: {0}")]
    Bad(String),
    #[error("the stable revision is bad: {0}")]
    StableBad(String),
    #[error("canary and stable revision are both bad: {0}")]
    BothBad(String),
    #[error("it is not clear yet whether the canary is bad: {0}")]
    Pending(String),
    #[error("the canary fires warnings: {0}")]
    Warned(String),
    #[error("{made} segments are too few to judge by; {least} are needed")]
    TooFew { made: u64, least: u64 },
    #[error("{0} is the stable revision: say what to go back to (--to)")]
    NowhereTo(String),
    #[error("{0} can't be taken back in favour of itself")]
    ToItself(String),
    #[error("{0} was taken back itself")]
    ToFrozen(String),
}

impl Refusal {
    /// Whether later there may be enough to judge by.
    pub fn is_undecided(&self) -> bool {
        matches!(self, Self::TooFew { .. } | Self::BothBad(_) | Self::Pending(_))
    }
}

/// More traffic for a canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promotion {
    pub revision: String,
    pub percent: u32,
    /// Before the step is over, or past a step.
    pub early: bool,
    /// Although it was taken back.
    pub thaw: bool,
}

/// What is known beside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Of the image.
    pub digest: Option<String>,
    pub verdict: Verdict,
    /// What the canary has made in its step.
    pub segments: u64,
    /// How many it must be.
    pub least: u64,
    /// Seconds since 1970.
    pub now: u64,
}

/// What a promotion is of, where not all is said: the canary, else the latest revision; the next step.
pub fn complete(
    service: &Service,
    release: &Release,
    schedule: &Schedule,
    revision: Option<&str>,
    percent: Option<u32>,
) -> Result<(String, u32), Refusal> {
    let canary = release.canary.as_ref();
    let latest = Some(service.latest()).filter(|latest| !latest.is_empty() && *latest != release.stable);
    let tried = canary.filter(|canary| canary.percent < 100).map(|canary| canary.revision.as_str());
    let revision = revision.or(tried).or(latest).ok_or_else(|| Refusal::NothingNew(release.stable.clone()))?;
    let has = canary.filter(|canary| canary.revision == revision).map_or(0, |canary| canary.percent);
    Ok((revision.to_owned(), percent.or(schedule.after(has)).unwrap_or(100)))
}

/// None where it has that already.
pub fn promote(
    release: &Release,
    note: &Note,
    schedule: &Schedule,
    want: &Promotion,
    facts: &Facts,
) -> Result<Option<Change>, Refusal> {
    let on_time = |percent, since| match schedule.left(percent, since, facts.now) {
        _ if want.early => Ok(()),
        Some(left) if left.is_zero() => Ok(()),
        Some(left) => Err(Refusal::TooEarly { percent, left }),
        None => Err(Refusal::UnknownAge(percent)),
    };
    let (stable, has, since) = match &release.canary {
        Some(canary) if canary.revision == want.revision => (&release.stable, canary.percent, canary.since),
        Some(canary) if canary.percent < 100 => return Err(Refusal::Another(canary.revision.clone())),
        Some(_) if release.stable == want.revision => return Err(Refusal::Backwards { has: 100 }),
        // What all have had for its time is the stable one from now on.
        Some(canary) => {
            on_time(100, canary.since)?;
            (&canary.revision, 0, None)
        }
        None if release.stable == want.revision => return Ok(None),
        None => (&release.stable, 0, None),
    };
    if has == want.percent {
        return Ok(None);
    }
    let digest = facts.digest.as_deref().ok_or_else(|| Refusal::NoDigest(want.revision.clone()))?;
    if let Some(frozen) = note.frozen(&want.revision, Some(digest)).filter(|_| !want.thaw) {
        return Err(Refusal::Frozen { revision: frozen.revision.clone(), reason: frozen.reason.clone() });
    }
    if want.percent < has {
        return Err(Refusal::Backwards { has });
    }
    match schedule.after(has) {
        Some(next) if next == want.percent => {}
        _ if !schedule.0.iter().any(|(step, _)| *step == want.percent) => return Err(Refusal::NoStep(want.percent)),
        Some(_) if want.early => {}
        next => return Err(Refusal::NotNext(next.unwrap_or(100))),
    }
    if has > 0 {
        on_time(has, since)?;
    }
    let none = |rules: &[String], refusal: fn(String) -> Refusal| {
        if rules.is_empty() { Ok(()) } else { Err(refusal(rules.join(", "))) }
    };
    let verdict = &facts.verdict;
    none(&verdict.bad, Refusal::Bad)?;
    none(&verdict.as_bad, Refusal::BothBad)?;
    none(&verdict.stable_bad, Refusal::StableBad)?;
    none(&verdict.pending, Refusal::Pending)?;
    none(&verdict.warned, Refusal::Warned)?;
    if has > 0 && facts.segments < facts.least {
        return Err(Refusal::TooFew { made: facts.segments, least: facts.least });
    }
    let mut note = note.clone();
    note.thaw(&want.revision, Some(digest));
    note.canary = Some(want.revision.clone());
    note.stable = Some(stable.clone());
    (note.percent, note.since) = (want.percent, facts.now);
    let shares = [(want.revision.clone(), want.percent), (stable.clone(), 100 - want.percent)];
    Ok(Some(Change { shares: shares.into_iter().filter(|(_, percent)| *percent > 0).collect(), note }))
}

/// A revision is bad.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rollback {
    /// None: the canary.
    pub revision: Option<String>,
    /// None: the stable one.
    pub to: Option<String>,
    pub reason: String,
}

/// Which revision a rollback is of, and which has the traffic then. None: nothing is tried.
pub fn aim(service: &Service, note: &Note, want: &Rollback) -> Result<Option<(String, String)>, Refusal> {
    let release = Release::read(service, note, want.revision.as_deref());
    let bad = match (&want.revision, &release) {
        (Some(named), _) => named.clone(),
        (None, Ok(release)) => match &release.canary {
            Some(canary) => canary.revision.clone(),
            None => return Ok(None),
        },
        (None, Err(unclear)) => return Err(unclear.clone().into()),
    };
    let to = match (&want.to, release) {
        (Some(to), _) => to.clone(),
        (None, Ok(release)) if release.stable != bad => release.stable,
        (None, Ok(_)) => return Err(Refusal::NowhereTo(bad)),
        (None, Err(unclear)) => return Err(unclear.into()),
    };
    if to == bad {
        return Err(Refusal::ToItself(bad));
    }
    if note.frozen(&to, None).is_some() {
        return Err(Refusal::ToFrozen(to));
    }
    Ok(Some((bad, to)))
}

/// None where all of that is so already. A revision without traffic is only frozen: what is tried meanwhile goes on.
/// `digests`: of the two that [`aim`] names. An image that the other has as well is
/// not at fault: then what is around it is, and the revision alone is frozen.
pub fn roll_back(
    service: &Service,
    note: &Note,
    want: &Rollback,
    digests: (Option<&str>, Option<&str>),
    now: u64,
) -> Result<Option<Change>, Refusal> {
    let Some((bad, to)) = aim(service, note, want)? else { return Ok(None) };
    let before: BTreeMap<String, u32> = shares(service);
    let mut after = note.clone();
    after.freeze(&bad, digests.0.filter(|_| digests.0 != digests.1), &want.reason, now);
    let has_traffic = before.contains_key(&bad);
    let shares: Vec<_> = if has_traffic { vec![(to.clone(), 100)] } else { before.clone().into_iter().collect() };
    if has_traffic {
        (after.canary, after.stable) = (None, Some(to));
        (after.percent, after.since) = (0, now);
    }
    let same_note = after.frozen == note.frozen && (!has_traffic || note.canary.is_none());
    if same_note && before == shares.iter().cloned().collect() {
        return Ok(None);
    }
    if shares.len() > 2 {
        return Err(Unclear::Several(shares.len()).into());
    }
    Ok(Some(Change { shares, note: after }))
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
