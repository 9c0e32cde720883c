//! Sessions that survive their connection: the token that a client brings back, and where a session goes on.
//!
//! A token holds all the state there is, so that any instance with the key can take the session over: nothing is kept
//! between connections. It is signed, not encrypted: what is in it is what the client has sent and got, no secret.

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Fatal;
use super::events::EventsState;
use super::output::OutputState;
use super::work::PlannerState;
use crate::media::{AccessUnit, TrackId, demux};
use crate::protocol::{Done, MoveReason, Resume, Start};
use crate::segment::Point;

/// Of the token's form. Another one is refused as expired: it is of another version of the service.
const VERSION: u8 = 2;
/// Bytes of the signature.
const SIGNATURE: usize = 32;
/// Most characters of a token; nothing longer is looked at.
const MAX_TOKEN: usize = 512 << 10;

type Signer = Hmac<Sha256>;

/// What tokens are signed with, and how long they hold.
pub struct Tokens {
    /// The first signs, all verify.
    keys: Vec<Vec<u8>>,
    ttl: Duration,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens {{ {} keys, ttl {:?} }}", self.keys.len(), self.ttl)
    }
}

impl Tokens {
    /// `keys`: the first signs, all verify.
    pub fn new(keys: Vec<Vec<u8>>, ttl: Duration) -> Self {
        Self { keys, ttl }
    }

    /// A key that no one else has: its tokens are of use in this process only.
    pub fn random_key() -> Result<Vec<u8>, getrandom::Error> {
        let mut key = vec![0; 32];
        getrandom::fill(&mut key)?;
        Ok(key)
    }

    /// None where it would be too large to be taken back.
    fn seal(&self, payload: &Payload) -> Option<String> {
        let payload = postcard::to_allocvec(payload).ok()?;
        let mut token = vec![VERSION];
        token.extend(self.sign(self.keys.first()?, VERSION, &payload)?.finalize().into_bytes());
        token.extend(payload);
        Some(URL_SAFE_NO_PAD.encode(token)).filter(|token| token.len() <= MAX_TOKEN)
    }

    /// `resume_forged` where no key has signed it, `resume_expired` where it is too old.
    fn open(&self, token: &str, now: SystemTime) -> Result<Payload, Fatal> {
        let forged = || Fatal::new("resume_forged", "the token was not signed by this service");
        if token.len() > MAX_TOKEN {
            return Err(forged());
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| forged())?;
        let (version, rest) = bytes.split_first().ok_or_else(forged)?;
        let (signature, payload) = rest.split_at_checked(SIGNATURE).ok_or_else(forged)?;
        // The comparison takes the same time whatever is wrong.
        let signed = |key: &Vec<u8>| {
            self.sign(key, *version, payload).is_some_and(|signer| signer.verify_slice(signature).is_ok())
        };
        if !self.keys.iter().any(signed) {
            return Err(forged());
        }
        let expired = || Fatal::new("resume_expired", "the token is too old");
        let payload = Some(payload).filter(|_| *version == VERSION);
        let payload = payload.and_then(|payload| postcard::from_bytes::<Payload>(payload).ok());
        payload.filter(|payload| payload.expires >= seconds(now)).ok_or_else(expired)
    }

    fn sign(&self, key: &[u8], version: u8, payload: &[u8]) -> Option<Signer> {
        let mut signer = Signer::new_from_slice(key).ok()?;
        signer.update(&[version]);
        signer.update(payload);
        Some(signer)
    }
}

/// Since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Payload {
    /// Seconds since 1970.
    expires: u64,
    /// The first session's id.
    session: String,
    /// Of the request: see [`fingerprint`].
    request: [u8; 32],
    /// None: at the beginning.
    progress: Option<Progress>,
}

/// How far a session has come: after one of its segments.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Progress {
    pub place: Place,
    pub outputs: Vec<OutputState>,
    /// `Done`, as JSON.
    done: Vec<u8>,
}

impl Progress {
    pub fn new(place: Place, outputs: Vec<OutputState>, done: &Done) -> Self {
        let done = serde_json::to_vec(done).expect("totals are strings and numbers");
        Self { place, outputs, done }
    }

    /// The totals so far.
    pub fn done(&self) -> Option<Done> {
        serde_json::from_slice(&self.done).ok()
    }
}

/// Where the input goes on after a segment, and how it was being cut.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Place {
    pub next_seq: u64,
    /// Target length of a segment, milliseconds.
    pub target_ms: u32,
    pub planner: PlannerState,
    pub input: InputPlace,
    pub events: EventsState,
}

/// Where in the input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum InputPlace {
    /// In the middle of a set-up.
    Within(demux::State, Point),
    /// Where another set-up begins; these units were given before it.
    Before(demux::State, Given),
    /// All of it has been cut: it has this many bytes.
    End(u64),
}

impl InputPlace {
    fn offset(&self) -> u64 {
        match self {
            Self::Within(state, _) | Self::Before(state, _) => state.offset(),
            Self::End(bytes) => *bytes,
        }
    }

    fn set_up_bytes(&self) -> u64 {
        match self {
            Self::Within(state, _) | Self::Before(state, _) => state.set_up_bytes(),
            Self::End(_) => 0,
        }
    }
}

/// Which units have been given: by track, the last one's offset, and how many there were with it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Given(Vec<(TrackId, u64, u64)>);

impl Given {
    pub fn add(&mut self, unit: &AccessUnit) {
        match self.0.iter_mut().find(|(track, ..)| *track == unit.track) {
            Some((_, offset, count)) if *offset == unit.offset => *count += 1,
            Some((_, offset, count)) => (*offset, *count) = (unit.offset, 1),
            None => self.0.push((unit.track, unit.offset, 1)),
        }
    }

    /// Whether the unit is one of them; each is asked for once, in their order.
    pub fn take(&mut self, unit: &AccessUnit) -> bool {
        match self.0.iter_mut().find(|(track, ..)| *track == unit.track) {
            Some((_, offset, _)) if unit.offset < *offset => true,
            Some((_, offset, count)) if unit.offset == *offset && *count > 0 => {
                *count -= 1;
                true
            }
            _ => false,
        }
    }
}

/// What makes a session one that can be taken up again.
#[derive(Debug, Clone)]
pub(super) struct Survival {
    session: String,
    request: [u8; 32],
    pub progress: Option<Progress>,
}

impl Survival {
    /// Of a session that begins, or goes on where the token says. `resume_forged`, `resume_expired`, `resume_mismatch`.
    pub fn new(start: &Start, session: &str, tokens: &Tokens) -> Result<Self, Fatal> {
        let request = fingerprint(start);
        let Some(resume) = &start.resume else {
            return Ok(Self { session: session.to_owned(), request, progress: None });
        };
        let payload = tokens.open(&resume.token, SystemTime::now())?;
        if payload.request != request {
            let message = "the token is of a session with another input, mode, segment length or other outputs";
            return Err(Fatal::new("resume_mismatch", message));
        }
        tracing::info!(session, resumes = %payload.session, "session resumed");
        Ok(Self { session: payload.session, request, progress: payload.progress })
    }

    /// What a client needs to go on after `progress`, or at the beginning.
    pub fn resume(&self, tokens: &Tokens, progress: Option<Progress>) -> Option<Resume> {
        let place = progress.as_ref().map(|progress| &progress.place.input);
        let (offset, set_up_bytes) = place.map_or((0, 0), |place| (place.offset(), place.set_up_bytes()));
        let expires = seconds(SystemTime::now()).saturating_add(tokens.ttl.as_secs());
        let payload = Payload { expires, session: self.session.clone(), request: self.request, progress };
        Some(Resume { token: tokens.seal(&payload)?, offset, set_up_bytes })
    }
}

/// What must be asked for again in the same way: all of `start` but what says nothing of the result.
fn fingerprint(start: &Start) -> [u8; 32] {
    let asked = Start { resume: None, deadline_ms: None, ..start.clone() };
    let json = serde_json::to_vec(&asked).expect("a request is strings and numbers");
    Sha256::digest(json).into()
}

/// That a session has to go on elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leave {
    pub reason: MoveReason,
    /// No more input is to be taken. Else all of it has come, and the session may be done in time.
    pub stop_reading: bool,
    /// What is in flight by then is left to the next session.
    pub by: Instant,
}

/// Tells a session to leave; None until then.
pub type Leaving = watch::Receiver<Option<Leave>>;

/// A session that is never told to leave.
pub fn stays() -> Leaving {
    watch::channel(None).1
}

/// Waits until no more input is to be taken.
pub(super) async fn stops_reading(leaving: &mut Leaving) {
    if leaving.wait_for(|leave| leave.is_some_and(|leave| leave.stop_reading)).await.is_err() {
        std::future::pending().await
    }
}

/// Waits until it is time to leave, and says why.
pub(super) async fn leaves(leaving: &mut Leaving) -> MoveReason {
    loop {
        let told = match leaving.wait_for(Option::is_some).await {
            Ok(told) => *told,
            Err(_) => None,
        };
        let Some(leave) = told else { std::future::pending().await };
        tokio::select! {
            () = tokio::time::sleep_until(leave.by) => return leave.reason,
            // Another reason may be more pressing.
            changed = leaving.changed() => if changed.is_err() {
                tokio::time::sleep_until(leave.by).await;
                return leave.reason;
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Mode, ResumeFrom};

    const TTL: Duration = Duration::from_secs(60);

    fn tokens(keys: &[u8]) -> Tokens {
        Tokens::new(keys.iter().map(|&byte| vec![byte; 32]).collect(), TTL)
    }

    fn start(token: Option<String>) -> Start {
        Start { segment_ms: Some(500), resume: token.map(|token| ResumeFrom { token }), ..Start::default() }
    }

    fn place(next_seq: u64) -> Place {
        Place {
            next_seq,
            target_ms: 500,
            planner: PlannerState::default(),
            input: InputPlace::End(1234),
            events: EventsState::default(),
        }
    }

    fn done() -> Done {
        Done { segments: 3, frames_in: 7, frames_out: Default::default(), failed: 0, degraded: 0 }
    }

    fn token(tokens: &Tokens) -> Resume {
        let survival = Survival::new(&start(None), "one", tokens).unwrap();
        survival.resume(tokens, Some(Progress::new(place(4), Vec::new(), &done()))).unwrap()
    }

    fn refused(start: &Start, tokens: &Tokens) -> &'static str {
        Survival::new(start, "two", tokens).unwrap_err().code
    }

    #[test]
    fn a_token_brings_back_what_was_put_into_it() {
        let tokens = tokens(&[1]);
        let resume = token(&tokens);
        assert_eq!((resume.offset, resume.set_up_bytes), (1234, 0));
        let survival = Survival::new(&start(Some(resume.token)), "two", &tokens).unwrap();
        assert_eq!(survival.session, "one", "the session keeps its name");
        let progress = survival.progress.unwrap();
        assert_eq!((progress.place.clone(), progress.done()), (place(4), Some(done())));
    }

    #[test]
    fn any_key_verifies_and_the_first_signs() {
        let (old, both, new) = (tokens(&[1]), tokens(&[2, 1]), tokens(&[2]));
        assert!(Survival::new(&start(Some(token(&old).token)), "two", &both).is_ok());
        assert!(Survival::new(&start(Some(token(&both).token)), "two", &new).is_ok());
        assert_eq!(refused(&start(Some(token(&both).token)), &old), "resume_forged");
    }

    #[test]
    fn a_token_that_was_touched_is_forged() {
        let tokens = tokens(&[1]);
        let token = token(&tokens).token;
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let touched = String::from_utf8(bytes).unwrap();
            if URL_SAFE_NO_PAD.decode(&touched) != URL_SAFE_NO_PAD.decode(&token) {
                assert_eq!(refused(&start(Some(touched)), &tokens), "resume_forged", "at {at}");
            }
            assert_eq!(refused(&start(Some(token[..at].to_owned())), &tokens), "resume_forged", "cut at {at}");
        }
        for other in ["", "AA", "é", &"A".repeat(MAX_TOKEN + 1), &format!("{token}AAAA")] {
            assert_eq!(refused(&start(Some(other.to_owned())), &tokens), "resume_forged");
        }
    }

    #[test]
    fn a_token_is_of_one_request_only() {
        let tokens = tokens(&[1]);
        let token = token(&tokens).token;
        let same = Start { deadline_ms: Some(7), ..start(Some(token.clone())) };
        assert!(Survival::new(&same, "two", &tokens).is_ok(), "a deadline changes nothing of the result");
        for other in [
            Start { segment_ms: Some(501), ..start(Some(token.clone())) },
            Start { mode: Mode::Live, ..start(Some(token.clone())) },
            Start { outputs: Some(Vec::new()), ..start(Some(token.clone())) },
        ] {
            assert_eq!(refused(&other, &tokens), "resume_mismatch");
        }
    }

    #[test]
    fn a_token_expires() {
        let tokens = tokens(&[1]);
        let token = token(&tokens).token;
        let now = SystemTime::now();
        assert!(tokens.open(&token, now + TTL / 2).is_ok());
        assert_eq!(tokens.open(&token, now + TTL + Duration::from_secs(2)).unwrap_err().code, "resume_expired");
        let payload = URL_SAFE_NO_PAD.decode(&token).unwrap().split_off(1 + SIGNATURE);
        let signature = tokens.sign(&tokens.keys[0], VERSION + 1, &payload).unwrap().finalize().into_bytes();
        let later = URL_SAFE_NO_PAD.encode([&[VERSION + 1], &signature[..], &payload].concat());
        assert_eq!(tokens.open(&later, now).unwrap_err().code, "resume_expired", "of a later version");
    }

    #[test]
    fn units_that_were_given_are_taken_once_and_in_order() {
        let unit = |track, offset| AccessUnit {
            track: TrackId(track),
            pts: Default::default(),
            dts: Default::default(),
            duration: None,
            sync: crate::media::Sync::No,
            offset,
            data: Default::default(),
        };
        let mut given = Given::default();
        [unit(1, 10), unit(1, 20), unit(1, 20), unit(2, 15)].iter().for_each(|unit| given.add(unit));
        let again = [unit(1, 10), unit(1, 20), unit(2, 15), unit(1, 20), unit(1, 20), unit(2, 30), unit(3, 1)];
        let taken: Vec<bool> = again.iter().map(|unit| given.take(unit)).collect();
        assert_eq!(taken, [true, true, true, true, false, false, false]);
    }

    #[test]
    fn keys_are_not_shown() {
        assert!(!format!("{:?}", tokens(&[77])).contains("77"));
    }
}
