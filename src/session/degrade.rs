//! How a live session's segments are made of less than was asked for, so that they come in time: the levels of a plan,
//! and which of them the next segment is made at ([ADR 021](../../docs/adr/021-a-late-segment-says-what-it-lacks.md)).
//!
//! Sans-IO: what a level would take, and how much time there is, are arguments. What a level means for the jobs is
//! `work`'s, what for the outputs is `output`'s.

use std::time::Duration;

use crate::job::{Preset, VideoSpec};
use crate::ladder::{Plan, PlannedOutput, PlannedVideo, Source, players_take};
use crate::protocol::{DegradedWhat, OutputContainer};
use crate::segment::Cut;

/// Media, of segments in a row that would have had ample time at a better level, before it is gone back to. Of 2 s each
/// that is the third segment after the load, and all is as asked again within 10 s.
const PATIENCE: Duration = Duration::from_secs(6);
/// The most of it, where going back was soon regretted again and again.
const MOST_PATIENCE: Duration = Duration::from_secs(96);
/// Ample: this part of the time that there is would do.
const AMPLE: u32 = 2;
/// Media after a way back by which it was right, and what was regretted before is forgotten.
const SETTLED: Duration = Duration::from_secs(60);

/// What becomes of one video rendition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    AsAsked,
    /// Made by a faster preset.
    Preset(Preset),
    /// Nothing is made of it.
    LeftOut,
    /// The source's pictures are taken as they are.
    Copied,
}

impl Fate {
    /// As the receipt says it.
    pub fn what(self) -> Option<DegradedWhat> {
        match self {
            Self::AsAsked => None,
            Self::Preset(_) => Some(DegradedWhat::Preset),
            Self::LeftOut => Some(DegradedWhat::RungLeftOut),
            Self::Copied => Some(DegradedWhat::SourceCopied),
        }
    }

    /// Whether a worker makes it.
    pub fn is_made(self) -> bool {
        matches!(self, Self::AsAsked | Self::Preset(_))
    }
}

/// One way to make a segment: what becomes of each video rendition of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Level(Vec<Fate>);

impl Level {
    pub fn is_as_asked(&self) -> bool {
        self.0.iter().all(|fate| matches!(fate, Fate::AsAsked))
    }

    /// Of the plan's rendition at `index`. Where nothing is degraded, all are as asked.
    pub fn fate(&self, index: usize) -> Fate {
        self.0.get(index).copied().unwrap_or(Fate::AsAsked)
    }

    /// The specification that the rendition is made by; None where it is not made.
    pub fn spec(&self, index: usize, asked: &VideoSpec) -> Option<VideoSpec> {
        match self.fate(index) {
            Fate::AsAsked => Some(asked.clone()),
            Fate::Preset(preset) => Some(VideoSpec { preset, ..asked.clone() }),
            Fate::LeftOut | Fate::Copied => None,
        }
    }

    /// Where in the outcome of the video's job a rendition of the plan is; None where it is not made.
    pub fn place(&self, index: usize) -> Option<usize> {
        self.fate(index).is_made().then(|| (0..index).filter(|&before| self.fate(before).is_made()).count())
    }

    /// Whether no worker makes any picture of it.
    pub fn is_free(&self) -> bool {
        !self.0.is_empty() && !self.0.iter().any(|fate| fate.is_made())
    }

    /// Whether it can be had of this segment.
    pub fn can_be_of(&self, cut: &Cut) -> bool {
        !self.0.contains(&Fate::Copied) || stands_alone(cut)
    }
}

/// Whether the segment's own units are just what is presented in it, from a closed sync sample on: then a copy of them
/// goes in between segments that were made.
fn stands_alone(cut: &Cut) -> bool {
    let closed = cut.units.first().is_some_and(|unit| unit.sync == crate::media::Sync::Idr);
    let inside = cut.units.iter().all(|unit| cut.window.contains(unit.pts) && unit.pts.0 >= 0);
    closed && inside && cut.window == cut.span && cut.presented() == cut.units.len() as u64
}

/// The levels of a plan: first all as asked, last the least that the session can do with. `cost` ranks the renditions:
/// what it takes to make one.
pub(super) fn levels(plan: &Plan, cost: impl Fn(&VideoSpec) -> Duration) -> Vec<Level> {
    let Some(video) = plan.video.as_ref().filter(|video| !video.renditions.is_empty()) else {
        return vec![Level::default()];
    };
    let asked = Level(vec![Fate::AsAsked; video.renditions.len()]);
    let mut levels = vec![asked];
    let last = |levels: &Vec<Level>| levels.last().cloned().unwrap_or_default();
    // Faster presets, all renditions step by step.
    loop {
        let mut next = last(&levels);
        for (fate, spec) in next.0.iter_mut().zip(&video.renditions) {
            let now = if let Fate::Preset(preset) = *fate { preset } else { spec.preset };
            *fate = faster(now).map_or(*fate, Fate::Preset);
        }
        if levels.last() == Some(&next) {
            break;
        }
        levels.push(next);
    }
    // Fewer rungs, the most expensive first.
    let mut order: Vec<usize> = (0..video.renditions.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(cost(&video.renditions[index])));
    for &index in &order {
        let mut next = last(&levels);
        if can_leave_out(plan, &next, index) {
            next.0[index] = Fate::LeftOut;
            levels.push(next);
        }
    }
    // The source in place of the top rung, and of the others only what carries a sound that nothing else does.
    if last(&levels).0.iter().any(|fate| fate.is_made())
        && let Some(&top) = order.iter().find(|&&index| can_copy(plan, video, index))
    {
        let mut next = last(&levels);
        next.0[top] = Fate::Copied;
        for &index in order.iter().filter(|&&index| index != top && next.0[index].is_made()).collect::<Vec<_>>() {
            if can_leave_out(plan, &next, index) {
                next.0[index] = Fate::LeftOut;
            } else if can_copy(plan, video, index) {
                next.0[index] = Fate::Copied;
            }
        }
        levels.push(next);
    }
    levels
}

/// The next faster preset that is worth a step. From `veryfast` to `superfast` the set-up stays the same (H.264), or
/// does so all the way down (VP9, AV1); what is slower goes to `veryfast` at once, so that players begin anew only once.
fn faster(preset: Preset) -> Option<Preset> {
    match preset {
        Preset::Ultrafast => None,
        Preset::Superfast => Some(Preset::Ultrafast),
        Preset::Veryfast => Some(Preset::Superfast),
        Preset::Faster | Preset::Fast | Preset::Medium | Preset::Slow => Some(Preset::Veryfast),
    }
}

/// Whether there are pictures without it, and all the sound that there was.
fn can_leave_out(plan: &Plan, level: &Level, index: usize) -> bool {
    let mut without = level.clone();
    without.0[index] = Fate::LeftOut;
    let there = |output: &&PlannedOutput| match output.video {
        Some(Source::Rendition(index)) => without.fate(index) != Fate::LeftOut,
        _ => true,
    };
    let left = || plan.outputs.iter().filter(there);
    let pictures = left().any(|output| output.video.is_some());
    let sound = |track: usize| left().any(|output| output.audio.is_some_and(|(other, _)| other == track));
    pictures && (0..plan.audio.len()).all(sound)
}

/// Whether all outputs of a rendition can hold the source's pictures as they are: at its times, playable everywhere.
fn can_copy(plan: &Plan, video: &PlannedVideo, index: usize) -> bool {
    let own_times = video.renditions.get(index).is_some_and(|spec| spec.fps.is_some() || spec.by_field(&video.source));
    let of_it = |output: &&PlannedOutput| output.video == Some(Source::Rendition(index));
    // MPEG-TS does not say that pictures are to be turned.
    let held = |output: &PlannedOutput| output.container == OutputContainer::Cmaf || video.source.rotation == 0;
    players_take(&video.source) && !own_times && plan.outputs.iter().filter(of_it).all(held)
}

/// What the next segment is made at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    Level(usize),
    /// Nothing would even be begun in time: what takes work at this level is not to be.
    Late(usize),
}

/// How much time there is for the next segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time {
    /// Until it is to be there.
    pub left: Duration,
    /// Until its work would be begun.
    pub waits: Duration,
    /// Its media.
    pub lasts: Duration,
}

/// Which level segments are made at: down at once as far as it takes, back only after a while, to the best level that
/// had ample time all the while.
#[derive(Debug)]
pub(super) struct Degrader {
    level: usize,
    /// By level: the media of how many segments in a row would have had ample time at it.
    ample: Vec<Duration>,
    patience: Duration,
    /// Media since the level changed, and whether that was a way back.
    since: Duration,
    went_back: bool,
}

impl Degrader {
    /// For so many levels; at least one.
    pub fn new(levels: usize) -> Self {
        let ample = vec![Duration::ZERO; levels.max(1)];
        Self { level: 0, ample, patience: PATIENCE, since: Duration::ZERO, went_back: false }
    }

    /// The level of the next segment. `projected`: how long it would take at a level; None where that level can't be had
    /// of it. `has_room`: whether there are processors for a better level, besides what all sessions are made at.
    ///
    /// Where no level is in time but the last can be begun in time, it is: what comes late is better than nothing, and
    /// tells what it took. The projection may be wrong.
    pub fn next(
        &mut self,
        time: Time,
        projected: impl Fn(usize) -> Option<Duration>,
        has_room: impl Fn(usize) -> bool,
    ) -> Choice {
        let Time { left, waits, lasts } = time;
        // A long segment is one observation all the same.
        let lasts = lasts.min(PATIENCE);
        let takes: Vec<Option<Duration>> = (0..self.ample.len()).map(projected).collect();
        let fits = |level: &usize| takes.get(*level).copied().flatten().is_some_and(|takes| takes <= left);
        for (level, (ample, takes)) in self.ample.iter_mut().zip(&takes).enumerate() {
            let has = takes.is_some_and(|takes| takes <= left / AMPLE) && (level >= self.level || has_room(level));
            *ample = if has { ample.saturating_add(lasts) } else { Duration::ZERO };
        }
        self.since = self.since.saturating_add(lasts);
        if self.went_back && self.since >= SETTLED {
            self.patience = PATIENCE;
        }
        if fits(&self.level) {
            return Choice::Level(self.go_back());
        }
        if let Some(level) = (self.level + 1..takes.len()).find(fits) {
            self.go_down(level);
            return Choice::Level(level);
        }
        // Where the level can't be had of this segment, a better one may be in time all the same.
        if let Some(level) = (0..self.level).rev().find(fits) {
            return Choice::Level(level);
        }
        self.go_down(takes.len() - 1);
        let least = takes.iter().rposition(Option::is_some).unwrap_or(0);
        if waits < left { Choice::Level(least) } else { Choice::Late(least) }
    }

    pub fn is_at_best(&self) -> bool {
        self.level == 0
    }

    fn go_back(&mut self) -> usize {
        if let Some(better) = (0..self.level).find(|&better| self.ample[better] >= self.patience) {
            (self.level, self.since, self.went_back) = (better, Duration::ZERO, true);
        }
        self.level
    }

    fn go_down(&mut self, level: usize) {
        if level == self.level {
            return;
        }
        if self.went_back && self.since < SETTLED {
            self.patience = (2 * self.patience).min(MOST_PATIENCE);
        }
        (self.level, self.since, self.went_back) = (level, Duration::ZERO, false);
        self.ample.fill(Duration::ZERO);
    }
}

#[cfg(test)]
#[path = "degrade_tests.rs"]
mod tests;
