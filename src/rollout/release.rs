//! What a service's release is at: read from its traffic, and from what was noted of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cloud::run::{self, Service, Target};

/// The annotation in which the note is kept.
pub const ANNOTATION: &str = "segmill.dev/rollout";
/// Most images that are kept frozen; the oldest are let go.
const MOST_FROZEN: usize = 100;
/// Most characters of a reason that is noted.
const MAX_REASON: usize = 200;

/// Which revision everybody had before, and which is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    pub stable: String,
    pub canary: Option<Canary>,
}

/// The revision that is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    pub revision: String,
    /// 1 to 100; at 100 the stable one is only kept.
    pub percent: u32,
    /// Since when it has this much, seconds since 1970; None where somebody else gave it.
    pub since: Option<u64>,
}

/// What is remembered between two looks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable: Option<String>,
    /// Of the canary's traffic.
    pub percent: u32,
    /// Since when it has that, seconds since 1970.
    pub since: u64,
    /// What was taken back, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frozen: Vec<Frozen>,
}

/// An image that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// None where it was not known; then the revision alone is frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    pub revision: String,
    /// Seconds since 1970.
    pub at: u64,
    #[serde(default)]
    pub reason: String,
}

/// Why it can't be told what the release is at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    #[error("the annotation {ANNOTATION} can't be read: {0}")]
    Note(String),
    #[error("{0} revisions share the traffic; it must be one or two")]
    Several(usize),
    #[error("{0} and {1} share the traffic, and which of them is the canary is not noted: name it (--revision)")]
    Which(String, String),
    #[error("the service has no revision that serves")]
    None,
}

impl Note {
    pub fn read(annotations: &BTreeMap<String, String>) -> Result<Self, Unclear> {
        let Some(text) = annotations.get(ANNOTATION) else { return Ok(Self::default()) };
        serde_json::from_str(text).map_err(|error| Unclear::Note(error.to_string()))
    }

    /// The service's annotations with this one in its place.
    pub fn write(&self, annotations: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut annotations = annotations.clone();
        // Strings and numbers are JSON.
        annotations.insert(ANNOTATION.to_owned(), serde_json::to_string(self).unwrap_or_default());
        annotations
    }

    /// What was said when this image or revision was taken back.
    pub fn frozen(&self, revision: &str, digest: Option<&str>) -> Option<&Frozen> {
        self.frozen
            .iter()
            .find(|frozen| frozen.revision == revision || digest.is_some() && frozen.digest.as_deref() == digest)
    }

    /// The same is frozen once.
    pub fn freeze(&mut self, revision: &str, digest: Option<&str>, reason: &str, at: u64) {
        let (revision, digest) = (revision.to_owned(), digest.map(str::to_owned));
        if self.frozen.iter().any(|frozen| frozen.revision == revision && (frozen.digest == digest || digest.is_none()))
        {
            return;
        }
        self.frozen.retain(|frozen| frozen.revision != revision);
        self.frozen.push(Frozen { digest, revision, at, reason: reason.chars().take(MAX_REASON).collect() });
        let over = self.frozen.len().saturating_sub(MOST_FROZEN);
        self.frozen.drain(..over);
    }

    /// Forgets that this was taken back.
    pub fn thaw(&mut self, revision: &str, digest: Option<&str>) {
        self.frozen
            .retain(|frozen| frozen.revision != revision && (digest.is_none() || frozen.digest.as_deref() != digest));
    }
}

/// Each revision's share of the traffic, in percent; none has 0.
pub fn shares(service: &Service) -> BTreeMap<String, u32> {
    let mut shares = BTreeMap::new();
    if service.traffic.is_empty() && !service.latest().is_empty() {
        shares.insert(service.latest().to_owned(), 100);
    }
    for target in service.traffic.iter().filter(|target| target.percent > 0) {
        let share: &mut u32 = shares.entry(target.leads_to(service.latest()).to_owned()).or_default();
        *share = share.saturating_add(target.percent);
    }
    shares
}

/// The service's traffic by these shares. Revisions keep the tags that they have.
pub fn targets(service: &Service, shares: &[(String, u32)]) -> Vec<Target> {
    let split = shares.iter().filter(|(_, percent)| *percent > 0);
    let split = split.map(|(revision, percent)| Target::share(revision, *percent));
    split.chain(service.traffic.iter().filter_map(Target::tag_alone)).collect()
}

impl Release {
    /// `named`: who is the canary where two share the traffic and nothing is noted.
    pub fn read(service: &Service, note: &Note, named: Option<&str>) -> Result<Self, Unclear> {
        let shares = shares(service);
        let noted = |canary: &str, stable: &str| {
            note.canary.as_deref() == Some(canary) && note.stable.as_deref() == Some(stable)
        };
        let tried = |revision: &String, percent: u32| {
            let since = (note.canary.as_ref() == Some(revision) && note.percent == percent).then_some(note.since);
            Some(Canary { revision: revision.clone(), percent, since })
        };
        match shares.iter().collect::<Vec<_>>().as_slice() {
            [] => Err(Unclear::None),
            [(one, _)] => match &note.stable {
                Some(stable) if note.canary.as_ref() == Some(one) && stable != *one => {
                    Ok(Self { stable: stable.clone(), canary: tried(one, 100) })
                }
                _ => Ok(Self { stable: (*one).clone(), canary: None }),
            },
            [(a, a_has), (b, b_has)] => {
                let (canary, percent, stable) = if noted(a, b) {
                    (a, **a_has, b)
                } else if noted(b, a) {
                    (b, **b_has, a)
                } else if named == Some(a.as_str()) {
                    (a, **a_has, b)
                } else if named == Some(b.as_str()) {
                    (b, **b_has, a)
                } else {
                    return Err(Unclear::Which((*a).clone(), (*b).clone()));
                };
                Ok(Self { stable: (*stable).clone(), canary: tried(canary, percent) })
            }
            several => Err(Unclear::Several(several.len())),
        }
    }
}

/// Whether a revision was taken back and has no traffic: its sessions are better elsewhere.
pub fn is_retired(service: &Service, revision: &str) -> bool {
    let frozen = Note::read(&service.annotations).is_ok_and(|note| note.frozen(revision, None).is_some());
    // An answer without any traffic tells nothing.
    let shares = shares(service);
    frozen && !shares.is_empty() && !shares.contains_key(revision) && run::is_name(revision)
}
