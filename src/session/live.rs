//! What a session needs of the processors, and what the segments of a live one are made at so that they come in time.

use std::time::Duration;

use tokio::time::Instant;

use super::degrade::{Choice, Degrader, Level, Time};
use super::work::{self, Jobs};
use crate::ladder::Plan;
use crate::media::Ticks;
use crate::pool::{Claim, Full, HeadStart, Pool, Reservation, SessionId};
use crate::protocol::Mode;
use crate::segment::Segment;

/// What is kept for a session that is in no hurry, cores.
const FILE_CORES: f64 = 0.02;
/// How much the newest segment counts in what a session needs.
const NEWEST: f64 = 0.3;
/// Of the time until the deadline, what is kept for handing on what stands in for work that was never begun; and the
/// most of it.
const KEPT: u32 = 8;
const MOST_KEPT: Duration = Duration::from_millis(250);

/// A session's claims on the pool.
pub(super) struct Live<'a> {
    pool: Pool,
    reservation: &'a Reservation,
    /// In the pool's queue.
    session: SessionId,
    mode: Mode,
    /// From a segment's last byte on.
    deadline: Duration,
    /// Processors that it needs for all that it asked for, as far as is known.
    demand: f64,
    /// In `live` mode, from the plan's first segment on.
    levels: Option<(Vec<Level>, Degrader)>,
}

/// What a segment is made at.
#[derive(Debug, Default)]
pub(super) struct Decision {
    pub level: Level,
    /// Not even that would be begun in time.
    pub late: bool,
    /// What is made of it where no worker has begun by then. It takes none.
    pub instead: Option<(Level, Instant)>,
}

impl<'a> Live<'a> {
    pub fn new(pool: Pool, reservation: &'a Reservation, mode: Mode, deadline: Duration) -> Self {
        let session = pool.session();
        Self { pool, reservation, session, mode, deadline, demand: 0.0, levels: None }
    }

    /// The session needs what its plan costs at the pace of its media, if it is live; if not, it has time. Copies cost
    /// next to nothing.
    pub fn settle(&mut self, plan: &Plan) -> Result<(), Full> {
        self.levels = None;
        let second = work::second(plan);
        self.demand = match (second.is_empty(), self.mode) {
            (true, _) => 0.0,
            (false, Mode::File) => FILE_CORES,
            (false, Mode::Live) => {
                let cost = second.iter().map(|job| self.pool.costs().of(job)).sum();
                self.pool.demand(cost, Duration::from_secs(1))
            }
        };
        self.reservation.settle(self.demand, Instant::now())
    }

    /// Whether the processors have much to do nothing in.
    pub fn is_at_ease(&self) -> bool {
        self.reservation.is_at_ease()
    }

    /// Whether it is live, and was last made as asked.
    pub fn has_all_asked_for(&self) -> bool {
        let best = self.levels.as_ref().is_none_or(|(_, degrader)| degrader.is_at_best());
        self.mode == Mode::Live && best
    }

    /// In `live` mode a segment is wanted by a deadline.
    pub fn claim(&self, complete_at: Instant) -> Claim {
        let deadline = (self.mode == Mode::Live).then(|| complete_at + self.deadline);
        Claim { session: self.session, deadline }
    }

    /// What the segment is made at: all as asked, save in `live` mode. Takes note of what the session needs for it. `early`:
    /// what has been begun of it.
    pub fn decide(
        &mut self,
        plan: &Plan,
        segment: &Segment,
        jobs: &Jobs,
        claim: Claim,
        early: Option<&HeadStart>,
    ) -> Decision {
        let Some(deadline) = claim.deadline else { return Decision::default() };
        let lasts = media(segment);
        let decision = if jobs.video.is_some() {
            let left = jobs.video.as_ref().zip(early).filter(|(job, early)| early.is_of(job));
            let left = left.map(|(job, early)| early.left(job));
            self.choose(plan, segment, jobs, (claim, deadline), left)
        } else {
            Decision::default()
        };
        self.follow(jobs, &decision.level, lasts);
        decision
    }

    /// `left`: the part of the work that is still to be done, where a worker has begun with all that was asked for.
    fn choose(
        &mut self,
        plan: &Plan,
        segment: &Segment,
        jobs: &Jobs,
        (claim, deadline): (Claim, Instant),
        left: Option<f64>,
    ) -> Decision {
        let (pool, lasts) = (&self.pool, media(segment));
        let (levels, degrader) = self.levels.get_or_insert_with(|| {
            let levels = jobs.levels(plan, |job| pool.costs().of(job));
            let degrader = Degrader::new(levels.len());
            (levels, degrader)
        });
        let costs = |level: &Level| jobs.cost_at(level, |job| pool.costs().of(job));
        let possible = |level: &&Level| segment.video.as_ref().is_none_or(|cut| level.can_be_of(cut));
        let takes = |level: &Level| match (costs(level), left.filter(|_| level.is_as_asked())) {
            (None, _) => Duration::ZERO,
            (Some(cost), Some(left)) => pool.takes(cost.mul_f64(left)),
            (Some(cost), None) => pool.projected(claim, cost),
        };
        let has_room = |level: &Level| self.reservation.has_room(pool.demand(costs(level).unwrap_or_default(), lasts));
        let time_left = deadline.saturating_duration_since(Instant::now());
        let choice = degrader.next(
            Time { left: time_left, waits: pool.projected(claim, Duration::ZERO), lasts },
            |index| levels.get(index).filter(possible).map(takes),
            |index| levels.get(index).is_some_and(has_room),
        );
        let (Choice::Level(index) | Choice::Late(index)) = choice;
        let level = levels.get(index).cloned().unwrap_or_default();
        let free = levels.iter().skip(index + 1).filter(|level| level.is_free()).find(possible);
        let instead = free.map(|free| (free.clone(), deadline - (time_left / KEPT).min(MOST_KEPT)));
        Decision { level, late: matches!(choice, Choice::Late(_)), instead }
    }

    /// What the session needs follows what its segments cost: in all, and as they are made.
    fn follow(&mut self, jobs: &Jobs, level: &Level, lasts: Duration) {
        if self.demand == 0.0 || lasts.is_zero() {
            return;
        }
        let cost = |level: &Level| jobs.cost_at(level, |job| self.pool.costs().of(job)).unwrap_or_default();
        let (asked, made) = (cost(&Level::default()), cost(level));
        self.demand += NEWEST * (self.pool.demand(asked, lasts) - self.demand);
        self.reservation.update(self.demand, self.pool.demand(made, lasts), Instant::now());
    }
}

/// How long the segment is.
fn media(segment: &Segment) -> Duration {
    let Ticks(ticks) = segment.end - segment.start;
    Duration::try_from_secs_f64(ticks as f64 / f64::from(segment.timescale.get())).unwrap_or_default()
}
